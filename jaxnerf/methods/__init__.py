"""The methods: from a configuration and a scene to a `Trainer` and the state before its first step.

One file a method. `jaxnerf.methods.fit` trains a field of the user's own.
"""

from typing import Any

from jaxnerf.config import Config, ConfigError
from jaxnerf.methods import hash_grid, nerf, voxels
from jaxnerf.runs.structure import structure_of
from jaxnerf.scenes import Scene
from jaxnerf.training.state import TrainState, with_optimizer
from jaxnerf.training.trainer import Trainer

_METHODS: dict[str, Any] = {"voxels": voxels, "nerf": nerf, "hash_grid": hash_grid}


def trainer_of(config: Config, scene: Scene) -> Trainer:
    """The `Trainer` of a configuration's method, on a scene's photographs.

    Args:
      config: adapted to the scene (`jaxnerf.config.adaptation.adapt_to_scene`).
      scene: the scene, with photographs.

    Raises:
      ConfigError: the method is that of `jaxnerf.fit`.
    """
    return _method(config).trainer(config, scene)


def first_state(config: Config, scene: Scene) -> TrainState:
    """The state before the first step.

    Args:
      config: adapted to the scene.
      scene: the scene, with photographs.

    Raises:
      ConfigError: the method is that of `jaxnerf.fit`.
    """
    return _method(config).first_state(config, scene)


def state_like(config: Config) -> TrainState:
    """The shapes and types of a state of training, of which the fast field's change from stage to stage.

    Raises:
      ConfigError: the method is that of `jaxnerf.fit`.
    """
    optimizer = _method(config).optimizer(config)
    return with_optimizer(structure_of(config), optimizer)


def _method(config: Config) -> Any:
    if config.method not in _METHODS:
        raise ConfigError(
            f"method: {config.method} is that of jaxnerf.fit, which is given the field"
        )
    return _METHODS[config.method]

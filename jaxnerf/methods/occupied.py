"""Training of any field with `KeepOccupancy`, for the hash grid and for fields given to `jaxnerf.fit`."""

import dataclasses

import jax
import optax

from jaxnerf.config import Config
from jaxnerf.config.adaptation import bounds_of, space_of
from jaxnerf.config.sections import HashGridConfig, OwnConfig
from jaxnerf.contraction import BoxSpace
from jaxnerf.fields import Field, as_pytree
from jaxnerf.fields.warped import WarpedField
from jaxnerf.scenes import Scene
from jaxnerf.training import TrainState, begin
from jaxnerf.training.keep_occupancy import KeepOccupancy, full_occupancy
from jaxnerf.training.losses import Loss
from jaxnerf.training.sharding import broadcast_from_process_0
from jaxnerf.training.step import Step
from jaxnerf.training.trainer import Trainer


def trainer(
    config: Config,
    scene: Scene,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    by_rows: bool,
    divergence_hint: str = "Lower the learning rate",
) -> Trainer:
    """The trainer of a field with an occupancy.

    Args:
      config: adapted to the scene.
      scene: the scene, with photographs.
      loss, optimizer, by_rows: see `jaxnerf.training.step.Step`.
      divergence_hint: see `jaxnerf.training.trainer.Trainer`.
    """
    split, (near, far) = scene.splits["train"], bounds_of(config, scene)
    rays_per_pass = config.training.rays_per_pass
    return Trainer(
        split,
        config=config.training,
        step=Step(loss, optimizer, near, far, rays_per_pass, by_rows=by_rows),
        strategy=KeepOccupancy(split, _section(config).occupancy, config.training),
        divergence_hint=divergence_hint,
    )


def first_state(
    config: Config, scene: Scene, field: Field, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step of a field with an occupancy.

    An own field of a bounded scene is evaluated in the scene's frame; a hash grid in the cube that holds
    the scene.

    Args:
      config: adapted to the scene.
      scene: the scene, with photographs.
      field: the one that is trained.
      optimizer: the optimizer of its parameters.
    """
    training, settings = config.training, _section(config).occupancy
    space = space_of(config, scene)
    occupancy, depths = full_occupancy(scene.splits["train"], settings, training.background, space)
    if space is None and config.method == "hash_grid":
        space = BoxSpace(occupancy.origin, occupancy.cell * occupancy.cells.shape[0])
    params = jax.jit(field.init)(jax.random.key(training.seed))
    # Hosts' floats can differ in a last bit.
    params, occupancy, depths, space = broadcast_from_process_0((params, occupancy, depths, space))
    field = as_pytree(field)
    placed = field if space is None else WarpedField(field, space)
    state = begin(placed, params, settings.sampler(occupancy), optimizer, training.steps)
    return dataclasses.replace(state, strategy=depths)


def _section(config: Config) -> HashGridConfig | OwnConfig:
    assert isinstance(config.section, HashGridConfig | OwnConfig)
    return config.section

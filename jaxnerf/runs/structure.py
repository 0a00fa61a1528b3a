"""The structure of a run's checkpoints: shapes and types of a state, from the configuration alone."""

from typing import Any

import jax
import numpy as np

from jaxnerf.config import Config
from jaxnerf.contraction import BoxSpace, NdcSpace, SphereContraction
from jaxnerf.fields import Field, as_pytree
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.sampling import Occupancy
from jaxnerf.training.calibration import blank_calibration
from jaxnerf.training.coarse_to_fine import StageState
from jaxnerf.training.keep_occupancy import CellDepths, OccupancyConfig
from jaxnerf.training.state import TrainState


def structure_of(config: Config, field: Field | None = None) -> TrainState:
    """Shapes and types of a training state without an optimizer's state.

    Arrays of the fast field have other shapes in each stage; only their number of dimensions is meant.

    Args:
      config: configuration of the run.
      field: the user's own field, for a run of `jaxnerf.fit`.
    """
    return jax.eval_shape(lambda: _example(config, field))


def _example(config: Config, field: Field | None) -> TrainState:
    zeros, one = np.zeros(3, np.float32), np.float32(1.0)
    spaces: dict[str, Any] = {
        "unbounded": SphereContraction(_any(zeros), _any(one)),
        "forward": NdcSpace(_any(zeros[:2]), _any(zeros[:2]), _any(one), _any(one)),
    }
    space = spaces.get(config.scene.space)
    parts = {
        "voxels": lambda: _of_voxels(config, space),
        "nerf": lambda: _of_networks(config, space),
        "hash_grid": lambda: _of_hash_grid(config, space),
        "own": lambda: _of_occupied(config.own.occupancy, field, space),
    }
    steps: dict[str, Any] = {"step": np.int32(0), "total_steps": np.int32(0)}
    return TrainState(**steps, optimizer=None, **parts[config.method]())


def _of_voxels(config: Config, space: Any) -> dict[str, Any]:
    occupancy, voxels = _occupancy(1, space), VoxelField.in_unit_cube(config.voxels.field)
    return {
        "params": voxels.init(jax.random.key(0)),
        "field": voxels if space is None else WarpedField(voxels, space),
        "sampler": config.voxels.stages.sampler(occupancy),
        "strategy": StageState(
            _any(np.int32(0)), _any(np.ones((1, 1, 1), bool)), _any(np.int32(0))
        ),
        "calibration": blank_calibration(config.voxels.calibration),
    }


def _of_networks(config: Config, space: Any) -> dict[str, Any]:
    return {
        "params": tuple(field.init(jax.random.key(0)) for field in config.nerf.fields()),
        "field": as_pytree(config.nerf.placed_fields(space)),
        "sampler": config.nerf.sampler(),
    }


def _of_hash_grid(config: Config, space: Any) -> dict[str, Any]:
    origin: Any = np.zeros(3, np.float32)
    box = BoxSpace(origin, _any(np.float32(1.0)))
    settings = config.hash_grid
    return _of_occupied(settings.occupancy, settings.field, space, inside=space or box)


def _of_occupied(
    settings: OccupancyConfig, field: Any, space: Any, inside: Any = None
) -> dict[str, Any]:
    params, inside = field.init(jax.random.key(0)), inside or space
    field, cells = as_pytree(field), settings.cells
    return {
        "params": params,
        "field": field if inside is None else WarpedField(field, inside),
        "sampler": settings.sampler(_occupancy(cells, space)),
        "strategy": CellDepths(_any(np.zeros((cells,) * 3, np.float32))),
    }


def _occupancy(cells: int, space: Any) -> Occupancy:
    one: Any = np.float32(1.0)
    codes, origin = np.zeros((cells,) * 3, np.uint8), np.zeros(3, np.float32)
    return Occupancy(_any(codes), _any(origin), one, one, space)


def _any(array: Any) -> Any:
    """An array of NumPy, typed as any, where annotations require an array of JAX."""
    return array

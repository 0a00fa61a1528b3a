"""Density and colour of a run's field at points of the user's frame."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from jaxnerf.fields import Params, join_field, split_field
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.runs.run import Run
from jaxnerf.sampling import Occupancy
from jaxnerf.sampling.occupancy import OCCUPIED

# Points asked for at once: one compiled program serves any number of them.
CHUNK = 1 << 16


def density_at(
    field: Any, params: Params, occupancy: Occupancy | None, positions: Float[Array, "*batch 3"]
) -> tuple[Float[Array, "*batch"], Any]:
    """What pictures show of a field at points: its density, none where no cell is occupied; its features.

    Pure. Everything is in the field's own frame.

    Args:
      field, params: see `jaxnerf.fields.Field`.
      occupancy: of the cells that pictures sample; None if they sample all of space.
      positions: of the points.
    """
    density, features = field.density(params, positions)
    if occupancy is not None:
        density = jnp.where(is_occupied(occupancy, positions), density, 0.0)
    return density, features


def is_occupied(occupancy: Occupancy, positions: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
    """Whether points of the world lie in an occupied cell. Pure."""
    origin, cell = (jnp.asarray(x, positions.dtype) for x in (occupancy.origin, occupancy.cell))
    place = occupancy.place(positions)
    index = jnp.floor((place - jnp.broadcast_to(origin, place.shape)) / cell).astype(jnp.int32)
    count = occupancy.cells.shape[0]
    inside = jnp.all((index >= 0) & (index < count), axis=-1)
    x, y, z = jnp.moveaxis(jnp.clip(index, 0, count - 1), -1, 0)
    return inside & (jnp.asarray(occupancy.cells)[x, y, z] >= OCCUPIED)


class Probe:
    """Asks a run's field at points given as offsets from an origin in the user's frame and unit."""

    def __init__(self, run: Run, origin: Float[np.ndarray, "3"]):
        """Args: run, of whose field the last level is asked; origin, in the user's frame."""
        to_scene = run.scene.to_user.inverse()
        self._matrix = to_scene.scale * to_scene.rotation
        self._shift = to_scene.points(np.asarray(origin, np.float64))
        self._turn, self._scale = to_scene.rotation, to_scene.scale
        field, params = run.field, run.params
        if isinstance(field, tuple):
            field, params = field[-1], params[-1]
        arrays, self._kind = split_field(field)
        self._constant = replicated((arrays, params, run.occupancy))

    def density(self, offsets: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        """Density in 1/length of the user's unit."""
        ask = functools.partial(_densities, self._kind, *self._constant)
        return in_chunks(ask, self._places(offsets)) * np.float32(self._scale)

    def colour(
        self, offsets: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> Float[np.ndarray, "N 3"]:
        """The colour of points alone, seen along unit directions of the user's frame."""
        turned = (directions @ self._turn.T).astype(np.float32)
        ask = functools.partial(_colours, self._kind, *self._constant)
        return in_chunks(ask, self._places(offsets), turned)

    def _places(self, offsets: np.ndarray) -> np.ndarray:
        return (offsets @ self._matrix.T + self._shift).astype(np.float32)


def finest_voxel(run: Run) -> float | None:
    """The side of a lattice's voxel in the user's unit, where the field has a lattice; else None.

    In a contraction that of the ball that keeps its shape.
    """
    field, scale = run.field, run.scene.to_user.scale
    if isinstance(field, WarpedField):
        scale *= float(np.asarray(getattr(field.space, "radius", np.nan)))
        field = field.field
    if not isinstance(field, VoxelField) or not np.isfinite(scale):
        return None
    return float(np.asarray(field.spacing)) * scale


def in_chunks(function: Any, *arrays: np.ndarray, on_one: bool = False) -> Any:
    """A compiled function of arrays with one leading dimension, called on some rows at a time.

    The devices share the rows of a call. What else the function is given should be `replicated`.

    Args:
      function: of as many arrays.
      arrays: with as many rows.
      on_one: whether the first device does it all. For what holds a linear solver, since XLA does not
        divide those: it gathers all rows on each device, and on a CPU that can wait for ever.
    """
    count, parts = len(arrays[0]), []
    shared = None if on_one else NamedSharding(_devices(), PartitionSpec("rows"))
    for begin in range(0, max(count, 1), CHUNK):
        rows = [array[begin : begin + CHUNK] for array in arrays]
        short = CHUNK - len(rows[0])
        padded = [np.pad(row, [(0, short), *[(0, 0)] * (row.ndim - 1)]) for row in rows]
        found = function(*jax.device_put(padded, shared))
        parts.append(jax.tree.map(lambda x, n=len(rows[0]): np.asarray(x)[:n], found))
    return jax.tree.map(lambda *found: np.concatenate(found), *parts)


def replicated(tree: Any) -> Any:
    """Arrays on each of the devices that `in_chunks` uses."""
    return jax.device_put(tree, NamedSharding(_devices(), PartitionSpec()))


def _devices() -> Mesh:
    """As many local devices as divide `CHUNK`."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices[: 1 << (len(devices).bit_length() - 1)]), ("rows",))


@functools.partial(jax.jit, static_argnums=0)
def _densities(kind: Any, arrays: Any, params: Any, occupancy: Any, places: Array) -> Array:
    return density_at(join_field(arrays, kind), params, occupancy, places)[0]


@functools.partial(jax.jit, static_argnums=0)
def _colours(
    kind: Any, arrays: Any, params: Any, occupancy: Any, places: Array, directions: Array
) -> Array:
    field = join_field(arrays, kind)
    _, features = density_at(field, params, occupancy, places)
    return field.colour(params, features, directions)

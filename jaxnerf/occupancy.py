"""Empty space and occlusion: a grid of cells that says where samples are worth taking.

The grid is a cube of cells in the world. One byte a cell: below 128 the cell is empty, and the value
is its distance in cells (the largest of the three axes' differences) to the nearest that is not, by
which a ray may jump; from 128 on the cell holds something, and the value is the logarithm of the
density expected in it, by which a ray that can see nothing any more is ended. `march` needs one lookup
for a jump or a sample, and its shapes are static.
"""

import dataclasses
import functools
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxnerf.cameras import Camera, Rays, project
from jaxnerf.lenses import FLAT

_OCCUPIED = 128
_FARTHEST = 16  # cells that a ray can jump at once; more costs more when the grid is made
# Densities from 2^-10 a cell are told apart, in steps of 2^(1/8).
_OCTAVES, _SMALLEST = 8.0, -10.0
# A ray ends where an expected exp(-7) = 0.1% of its light is left. The grid's step takes exp(-1) at most:
# what a cell holds is known too coarsely to end a ray at once, and what lies behind must be found to be
# mended.
_END, _MOST_A_STEP = -7.0, 1.0


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Occupancy:
    """Which cells of a cube hold something. A pytree.

    Attributes:
      cells: the module's code, by x, y, z.
      origin: the corner of the cube with the smallest coordinates.
      cell: the side of a cell.
      step: the distance between samples along a ray, unless they are taken finer.
    """

    cells: UInt8[Array, "M M M"]
    origin: Float[Array, "3"]
    cell: Float[Array, ""]
    step: Float[Array, ""]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class March:
    """Where rays take samples. The samples come first in the shape, front to back.

    Attributes:
      t: of each sample, in the middle of an interval of one step; 0 in slots that are not used.
      count: samples of each ray, which fill its first slots.
      step: the length of an interval in units of the ray's t.
      cut: whether the ray was given up (slots or lookups ran out) before its end.
    """

    t: Float[Array, "K R"]
    count: Int[Array, " R"]
    step: Float[Array, " R"]
    cut: Bool[Array, " R"]


@jax.jit
def encode(occupied: Bool[Array, "M M M"], density: Float[Array, "M M M"]) -> UInt8[Array, "M M M"]:
    """The cells' code.

    Args:
      occupied: which cells hold something.
      density: expected in each, per side of a cell; matters where occupied.
    """

    def spread(step, carry):
        reached, distance = carry
        grown = _dilate(reached)
        return grown, jnp.where(grown & ~reached, step.astype(jnp.uint8), distance)

    unreached = jnp.full(occupied.shape, _FARTHEST, jnp.uint8)
    _, distance = jax.lax.fori_loop(1, _FARTHEST, spread, (occupied, unreached))
    level = _OCTAVES * (jnp.log2(jnp.maximum(density, 1e-9)) - _SMALLEST)
    code = jnp.clip(jnp.round(level), 0.0, 127.0).astype(jnp.uint8) + jnp.uint8(_OCCUPIED)
    return jnp.where(occupied, code, distance)


def occupied(occupancy: Occupancy) -> Bool[Array, "M M M"]:
    """Which cells hold something."""
    return jnp.asarray(occupancy.cells) >= _OCCUPIED


def dilate(cells: Bool[Array, "M M M"]) -> Bool[Array, "M M M"]:
    """The cells and all their neighbours, also across edges and corners."""
    return _dilate(cells)


def _dilate(cells: Array) -> Array:
    for axis in range(3):
        padded = jnp.pad(cells, [(1, 1) if i == axis else (0, 0) for i in range(3)])
        size = cells.shape[axis]
        before, after = (jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in (0, 2))
        cells = cells | before | after
    return cells


def march(
    occupancy: Occupancy,
    rays: Rays,
    jitter: Float[Array, " R"] | float = 0.5,
    *,
    samples: int = 40,
    lookups: int = 64,
    finer: int = 1,
) -> March:
    """Walk along rays from occupied cell to occupied cell.

    Samples lie on a lattice of steps that begins where the ray enters the cube (or at its near), so
    that they are spaced evenly whatever is jumped over.

    Args:
      occupancy: the grid.
      rays: in one leading dimension; near and far bound the walk as the cube does.
      jitter: where in its interval each ray's samples lie, in [0, 1].
      samples: slots for each ray.
      lookups: jumps and samples together, at most so many for each ray.
      finer: samples in each of the grid's steps.
    """
    # Where samples lie is not differentiated, only what they find there.
    occupancy, rays = jax.lax.stop_gradient((occupancy, rays))
    size = occupancy.cells.shape[0]
    cells = occupancy.cells.reshape(-1)
    count = rays.near.shape[0]
    origin = (rays.origins - occupancy.origin[None, :]) / occupancy.cell
    direction = rays.directions / occupancy.cell
    length = occupancy.step / finer
    step = length / jnp.linalg.norm(rays.directions, axis=-1)
    start, direction = origin.T, direction.T
    inverse = 1.0 / jnp.where(jnp.abs(direction) < 1e-9, 1e-9, direction)
    walls = jnp.stack([-start * inverse, (size - start) * inverse])
    near = jnp.maximum(jnp.max(jnp.min(walls, axis=0), axis=0), rays.near)
    far = jnp.minimum(jnp.min(jnp.max(walls, axis=0), axis=0), rays.far)
    lane = jnp.arange(count)

    def state_of(number, light, taken):
        t = near + (number + jitter) * step
        return t, (t < far) & (light > _END) & (taken < samples)

    def look(carry):
        looked, taken, number, light, slots = carry
        t, live = state_of(number, light, taken)
        place = start + t[None, :] * direction
        corner = jnp.floor(place)
        index = jnp.clip(corner, 0.0, size - 1.0).astype(jnp.int32)
        code = cells[(index[0] * size + index[1]) * size + index[2]].astype(jnp.float32)
        # Out of the cube of cells that are known to be empty, by its nearest wall.
        wall = jnp.where(inverse > 0.0, corner + code[None, :], corner + 1.0 - code[None, :])
        jump = jnp.min((wall - place) * inverse, axis=0) / step
        hit = live & (code >= _OCCUPIED)
        slot = jnp.where(hit, taken * count + lane, samples * count)
        slots = slots.at[slot].set(t, mode="drop", unique_indices=True)
        expected = jnp.exp2((code - _OCCUPIED) / _OCTAVES + _SMALLEST)
        depth = jnp.minimum(expected * (length / occupancy.cell), _MOST_A_STEP / finer)
        ahead = jnp.where(hit, 1.0, jnp.maximum(jnp.ceil(jump), 1.0))
        return (
            looked + 1,
            taken + hit.astype(jnp.int32),
            jnp.where(live, number + ahead, number),
            light - jnp.where(hit, depth, 0.0),
            slots,
        )

    def unfinished(carry):
        looked, taken, number, light, _ = carry
        return (looked < lookups) & jnp.any(state_of(number, light, taken)[1])

    nothing = jnp.zeros(count)
    start_of_walk = (0, jnp.zeros(count, jnp.int32), nothing, nothing, jnp.zeros(samples * count))
    _, taken, number, light, slots = jax.lax.while_loop(unfinished, look, start_of_walk)
    cut = (near + (number + jitter) * step < far) & (light > _END)
    return March(slots.reshape(samples, count), taken, step, cut)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packing:
    """Samples of many rays in one row, ray after ray, within a fixed budget.

    Attributes:
      ray, slot: of each packed sample.
      used: whether there is a sample at this place of the row.
      first: the place of each ray's first sample.
      kept: whether all of the ray's samples are in the row. Rays that overflow it have none there.
    """

    ray: Int[Array, " B"]
    slot: Int[Array, " B"]
    used: Bool[Array, " B"]
    first: Int[Array, " R"]
    kept: Bool[Array, " R"]


def pack(count: Int[Array, " R"], budget: int) -> Packing:
    """Lay out samples in a row: the rays in their order, as many as fit whole.

    Args:
      count: samples of each ray.
      budget: length of the row, static.

    >>> packing = pack(jnp.array([2, 1, 3]), budget=5)
    >>> packing.ray.tolist(), packing.slot.tolist(), packing.kept.tolist()
    ([0, 0, 1, 2, 2], [0, 1, 0, 0, 1], [True, True, False])
    """
    end = jnp.cumsum(count)
    first = end - count
    kept = end <= budget
    place = jnp.arange(budget)
    begun = jnp.zeros(budget + 1, jnp.int32).at[jnp.minimum(end, budget)].add(1)
    ray = jnp.minimum(jnp.cumsum(begun[:budget]), count.shape[0] - 1)
    used = place < jnp.sum(jnp.where(kept, count, 0))
    return Packing(ray, place - first[ray], used, first, kept)


def carve(
    centres: Float[np.ndarray, "N 3"],
    radius: float,
    cameras: Camera,
    tiles: Bool[np.ndarray, "cameras rows columns"],
    tile: int,
    witnesses: int = 1,
) -> Bool[np.ndarray, " N"]:
    """The visual hull: which balls no camera sees entirely outside of the silhouettes.

    Args:
      centres, radius: of the balls.
      cameras: a batch.
      tiles: which squares of each picture hold something.
      tile: side of a square in pixels.
      witnesses: how many cameras must see a ball outside before it is believed to be.

    Returns:
      Whether each ball may hold something; True where no camera sees it, and of lenses that are not
      flat, whose pictures stretch too unevenly to say.
    """
    if cameras.lens not in FLAT:
        return np.ones(len(centres), bool)
    depth = np.linalg.norm(
        centres.mean(axis=0) - np.asarray(cameras.camera_to_world)[:, :, 3], axis=-1
    )
    nearest = max(float(depth.min()) - float(np.ptp(centres, axis=0).max()) / 2, 4.0 * radius)
    pixels = radius * float(np.max(cameras.focal)) / nearest
    grown = _dilate_tiles(tiles, int(np.ceil(pixels / tile)))
    outside = _outside(jnp.asarray(centres, jnp.float32), cameras, jnp.asarray(grown), tile)
    return np.asarray(outside) < witnesses


@functools.partial(jax.jit, static_argnames=("tile",))
def _outside(centres, cameras, tiles, tile):
    """By how many cameras each ball is seen outside of the silhouettes."""

    def look(count, seen_by):
        camera, picture = seen_by
        pixel, depth = project(camera, centres)
        column, row = (jnp.floor(pixel[:, i] / tile).astype(jnp.int32) for i in (0, 1))
        height, width = picture.shape
        inside = (depth > 0.0) & (pixel[:, 0] >= 0.0) & (pixel[:, 1] >= 0.0)
        inside &= (column < width) & (row < height)
        full = picture[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
        return count + (inside & ~full).astype(jnp.int32), None

    return jax.lax.scan(look, jnp.zeros(centres.shape[0], jnp.int32), (cameras, tiles))[0]


def footprint(
    centres: Float[np.ndarray, "N 3"],
    radius: float,
    cameras: Camera,
    shape: tuple[int, int],
    tile: int,
) -> Bool[np.ndarray, "cameras rows columns"]:
    """Which squares of each picture may show one of some balls.

    Args:
      centres, radius: of the balls.
      cameras: a batch.
      shape: (rows, columns) of squares that cover a picture.
      tile: side of a square in pixels.

    Returns:
      False where none is seen; of lenses that are not flat, True everywhere.
    """
    if cameras.lens not in FLAT:
        return np.ones((len(cameras), *shape), bool)
    distance = np.linalg.norm(
        centres.mean(axis=0) - np.asarray(cameras.camera_to_world)[:, :, 3], axis=-1
    )
    extent = float(np.linalg.norm(np.ptp(centres, axis=0))) / 2 + radius
    nearest = distance - extent
    focal = np.asarray(cameras.focal)
    # A ball aside of the axis is less deep than it is far, and is seen stretched.
    stretch = 1.0 + np.sum((0.5 * np.asarray(cameras.size) / focal) ** 2, axis=-1)
    pixels = stretch * radius * np.max(focal, axis=-1) / np.maximum(nearest, radius)
    grow = np.ceil(pixels / tile).astype(np.int32)
    marked = np.array(
        _footprint(jnp.asarray(centres, jnp.float32), cameras, jnp.asarray(grow), shape, tile)
    )
    for index in range(len(marked)):
        # A camera among the balls: what is close to it may be anywhere in its picture.
        inside = nearest[index] <= 2.0 * radius
        marked[index] = (
            True if inside else _dilate_tiles(marked[index : index + 1], int(grow[index]))[0]
        )
    return marked


@functools.partial(jax.jit, static_argnames=("shape", "tile"))
def _footprint(centres, cameras, margins, shape, tile):
    rows, columns = shape

    def look(_, seen_by):
        camera, margin = seen_by
        pixel, depth = project(camera, centres)
        column, row = (jnp.floor(pixel[:, i] / tile).astype(jnp.int32) for i in (0, 1))
        inside = (depth > 0.0) & (column >= -margin) & (column < columns + margin)
        inside &= (row >= -margin) & (row < rows + margin)
        row, column = jnp.clip(row, 0, rows - 1), jnp.clip(column, 0, columns - 1)
        place = jnp.where(inside, row * columns + column, rows * columns)
        flat = jnp.zeros(rows * columns, bool).at[place].set(True, mode="drop")
        return None, flat.reshape(rows, columns)

    return jax.lax.scan(look, None, (cameras, margins))[1]


def _dilate_tiles(tiles: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        padded = np.pad(tiles, ((0, 0), (1, 1), (1, 1)))
        columns = padded[:, :, :-2] | padded[:, :, 1:-1] | padded[:, :, 2:]
        tiles = columns[:, :-2] | columns[:, 1:-1] | columns[:, 2:]
    return tiles


def tiles_that_show(
    occupancy: Occupancy, cameras: Camera, size: tuple[int, int], tile: int
) -> Bool[np.ndarray, "cameras rows columns"]:
    """Which squares of each camera's picture can show an occupied cell.

    Args:
      occupancy: the grid.
      cameras: a batch.
      size: (width, height) of the pictures in pixels.
      tile: side of a square in pixels.
    """
    shape = (-(-size[1] // tile), -(-size[0] // tile))
    full = np.asarray(occupancy.cells) >= _OCCUPIED
    full = np.pad(full, [(0, full.shape[0] % 2)] * 3)
    half = full.shape[0] // 2
    coarse = np.argwhere(full.reshape(half, 2, half, 2, half, 2).any(axis=(1, 3, 5)))
    if not len(coarse):
        return np.zeros((len(cameras), *shape), bool)
    cell = 2.0 * float(occupancy.cell)
    centres = (np.asarray(occupancy.origin) + (coarse + 0.5) * cell).astype(np.float32)
    # Padded to few sizes, so that few programs are compiled.
    padded = np.pad(centres, ((0, -len(centres) % (1 << 14)), (0, 0)), mode="edge")
    return footprint(padded, 0.87 * cell, cameras, shape, tile)

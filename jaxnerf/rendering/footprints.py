"""What balls and cells look like in pictures: which squares of pixels can show them.

Pictures are cut into square tiles. Everything here errs on one side: a tile that could show something is
marked, a ball that some camera does not see entirely outside of a silhouette stays.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxnerf.cameras import Camera, project
from jaxnerf.cameras.lenses import FLAT
from jaxnerf.fields.composed import ComposedField, PlacedField
from jaxnerf.geometry import parts_of
from jaxnerf.sampling import ComposedSampler, OccupancySampler
from jaxnerf.sampling.occupancy import Occupancy, occupied

# Balls at a time, so that one program serves for any number.
_AT_ONCE = 1 << 14
# The radius of the ball around a cell, in sides of the cell, rounded up: half a cube's diagonal.
HALF_DIAGONAL = 0.87
_TILE = 8  # pixels


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
      centres, radius: centres of the balls, and their common radius.
      cameras: a batch.
      tiles: the squares of each picture that the silhouette covers, at least in part.
      tile: side of a square in pixels.
      witnesses: number of cameras that must see a ball outside of the silhouette for it to be excluded.

    Returns:
      A mask of the balls that may be occupied. It is True where no camera sees the ball, and for lenses
      that are not flat, whose pictures stretch too unevenly to tell.
    """
    if cameras.lens not in FLAT or not len(centres):
        return np.ones(len(centres), bool)
    away = np.stack([_tiles_away(each) for each in np.asarray(tiles)])
    size = np.float32(radius)
    outside = [np.asarray(_outside(part, size, cameras, away, tile)) for part in _parts(centres)]
    return np.concatenate(outside)[: len(centres)] < witnesses


def _parts(centres: np.ndarray) -> list[np.ndarray]:
    """The centres, `_AT_ONCE` at a time; the last comes again until it has as many."""
    padded = np.pad(centres, ((0, -len(centres) % _AT_ONCE), (0, 0)), mode="edge")
    return np.split(padded.astype(np.float32), len(padded) // _AT_ONCE)


@functools.partial(jax.jit, static_argnames=("tile",))
def _outside(centres, radius, cameras, away, tile):
    """By how many cameras each ball is seen outside of the silhouettes.

    Args:
      centres, radius: the balls.
      cameras: a batch.
      away: how many tiles each tile of each picture is away from the silhouette.
      tile: side of a tile in pixels.
    """

    def look(count, seen_by):
        camera, picture = seen_by
        pixel, depth = project(camera, centres)
        # A ball aside of the axis is less deep than it is far, and is seen stretched.
        distance = jnp.linalg.norm(centres - camera.camera_to_world[None, :, 3], axis=-1)
        stretched = jnp.max(camera.focal) * (distance / depth) ** 2 * radius
        margin = stretched / (distance - radius) / tile
        column, row = (jnp.floor(pixel[:, i] / tile).astype(jnp.int32) for i in (0, 1))
        height, width = picture.shape
        inside = (depth > 0.0) & (pixel[:, 0] >= 0.0) & (pixel[:, 1] >= 0.0)
        inside &= (column < width) & (row < height)
        steps = picture[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
        # What is close to a camera may be anywhere in its picture.
        outside = inside & (distance > 3.0 * radius) & (steps > jnp.ceil(margin))
        return count + outside.astype(jnp.int32), None

    return jax.lax.scan(look, jnp.zeros(centres.shape[0], jnp.int32), (cameras, away))[0]


def _tiles_away(tiles: Bool[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """How many steps, also aslant, each tile is away from the nearest one that is marked."""
    from scipy.ndimage import distance_transform_cdt

    if not tiles.any():
        return np.full(tiles.shape, np.inf, np.float32)
    return np.asarray(distance_transform_cdt(~tiles, "chessboard"), np.float32)


def footprint(
    centres: Float[np.ndarray, "N 3"],
    radius: float,
    cameras: Camera,
    shape: tuple[int, int],
    tile: int,
) -> Bool[np.ndarray, "cameras rows columns"]:
    """Which squares of each picture may show one of some balls.

    Args:
      centres, radius: centres of the balls, and their common radius.
      cameras: a batch.
      shape: (rows, columns) of squares that cover a picture.
      tile: side of a square in pixels.

    Returns:
      False where none is seen; of lenses that are not flat, True everywhere.
    """
    if cameras.lens not in FLAT:
        return np.ones((len(cameras), *shape), bool)
    position = np.asarray(cameras.camera_to_world)[:, :3, 3]
    aside = np.maximum(centres.min(axis=0) - position, position - centres.max(axis=0))
    nearest = np.linalg.norm(np.maximum(aside, 0.0), axis=-1) - radius
    focal = np.asarray(cameras.focal)
    # A ball aside of the axis is less deep than it is far, and is seen stretched.
    size, centre = np.asarray(cameras.size), np.asarray(cameras.centre)
    stretch = 1.0 + np.sum((np.maximum(centre, size - centre) / focal) ** 2, axis=-1)
    pixels = stretch * radius * np.max(focal, axis=-1) / np.maximum(nearest, radius)
    grow = np.ceil(pixels / tile).astype(np.int32)
    marked, sides = np.zeros((len(cameras), *shape), bool), np.array(shape, np.int32)
    for part in _parts(centres):
        for each, places in zip(
            marked, np.asarray(_footprint(part, cameras, grow, sides, tile)), strict=True
        ):
            each.reshape(-1)[places[places >= 0]] = True
    for each, more, close in zip(marked, grow, nearest, strict=True):
        # A camera among the balls: what is close to it may be anywhere in its picture.
        each[...] = close <= 2.0 * radius or _dilate_tiles(each, int(more))
    return marked


@functools.partial(jax.jit, static_argnames=("tile",))
def _footprint(centres, cameras, margins, sides, tile):
    """The square in which each ball's centre is seen, or the nearest to it; -1 far outside.

    As numbers, and not as a picture of squares, of whose shape there would be a program each.
    """
    rows, columns = sides

    def look(_, seen_by):
        camera, margin = seen_by
        pixel, depth = project(camera, centres)
        column, row = (jnp.floor(pixel[:, i] / tile).astype(jnp.int32) for i in (0, 1))
        inside = (depth > 0.0) & (column >= -margin) & (column < columns + margin)
        inside &= (row >= -margin) & (row < rows + margin)
        row, column = jnp.clip(row, 0, rows - 1), jnp.clip(column, 0, columns - 1)
        return None, jnp.where(inside, row * columns + column, -1)

    return jax.lax.scan(look, None, (cameras, margins))[1]


def _dilate_tiles(tiles: np.ndarray, steps: int) -> np.ndarray:
    from scipy.ndimage import maximum_filter

    return maximum_filter(tiles, 2 * steps + 1, mode="constant")


def tiles_that_show(
    occupancy: Occupancy, cameras: Camera, size: tuple[int, int], tile: int
) -> Bool[np.ndarray, "cameras rows columns"]:
    """Which squares of each camera's picture can show an occupied cell.

    Args:
      occupancy: the grid.
      cameras: a batch.
      size: (width, height) of the pictures in pixels.
      tile: side of a square in pixels.

    Returns:
      The squares; all of them in an unbounded scene, which fills its pictures.
    """
    shape = (-(-size[1] // tile), -(-size[0] // tile))
    if occupancy.space is not None:
        return np.ones((len(cameras), *shape), bool)
    full = np.asarray(occupied(occupancy))
    full = np.pad(full, [(0, full.shape[0] % 2)] * 3)
    half = full.shape[0] // 2
    coarse = np.argwhere(full.reshape(half, 2, half, 2, half, 2).any(axis=(1, 3, 5)))
    if not len(coarse):
        return np.zeros((len(cameras), *shape), bool)
    cell = 2.0 * float(occupancy.cell)
    centres = (np.asarray(occupancy.origin) + (coarse + 0.5) * cell).astype(np.float32)
    return footprint(centres, HALF_DIAGONAL * cell, cameras, shape, tile)


def pixels_that_show(
    field: Any, sampler: Any, camera: Camera, width: int, height: int
) -> Bool[np.ndarray, "height width"]:
    """Which pixels of a picture a field may be seen in, by squares; all where a sampler does not say.

    Args:
      field: a field of any kind; of a `ComposedField` the parts' placements are used.
      sampler: an `OccupancySampler`, or a `ComposedSampler` of such, says.
      camera: a single one, or a batch of one for each column, which sees everything.
      width, height: size of the picture in pixels.
    """
    everything = np.ones((height, width), bool)
    if isinstance(sampler, ComposedSampler) and isinstance(field, ComposedField):
        pairs = zip(field.fields, sampler.samplers, strict=True)
        parts = [
            pixels_that_show(part, one, _seen_from(camera, part), width, height)
            for part, one in pairs
        ]
        return np.any(parts, axis=0)
    if not isinstance(sampler, OccupancySampler) or camera.focal.ndim == 2:
        return everything
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], camera)
    (tiles,) = tiles_that_show(sampler.occupancy, batch, (width, height), _TILE)
    return tiles.repeat(_TILE, axis=0)[:height].repeat(_TILE, axis=1)[:, :width]


def _seen_from(camera: Camera, part: Any) -> Camera:
    """A camera in the frame of a placed field."""
    if not isinstance(part, PlacedField):
        return camera
    rotation, scale, shift = parts_of(part.placement)
    pose = np.array(camera.camera_to_world, np.float64)[..., :3, :]
    pose[..., 3] = (pose[..., 3] - shift) @ rotation / scale
    pose[..., :3] = rotation.T @ pose[..., :3]
    return dataclasses.replace(camera, camera_to_world=pose.astype(np.float32))

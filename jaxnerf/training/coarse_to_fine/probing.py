"""Measurements between steps, on the host: densities of cells, visible cells, and samples per ray."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.fields import Field, join_field, split_field
from jaxnerf.kernels.memory import returning_freed
from jaxnerf.rendering import render_rays
from jaxnerf.sampling.occupancy import Occupancy, code_of, occupied
from jaxnerf.sampling.samplers import OccupancySampler
from jaxnerf.sampling.traversal import march
from jaxnerf.scenes import Split
from jaxnerf.scenes.silhouettes import TILE
from jaxnerf.training.coarse_to_fine.settings import StageInputs
from jaxnerf.training.state import TrainState

# Batches of this many rays, from all cameras, decide which cells can be seen.
_VIEWING_RAYS, _VIEWING_BATCHES = 1 << 13, 16
_CELLS_AT_ONCE = 1 << 16


def indices_of(cells: Bool[np.ndarray, "M M M"]) -> Int[np.ndarray, "N 3"]:
    """The indices (x, y, z) of cells that are set, in order: `np.argwhere` in a quarter of its memory."""
    slabs = (np.argwhere(slab).astype(np.int16) for slab in cells)
    return np.concatenate([np.insert(slab, 0, x, axis=1) for x, slab in enumerate(slabs)])


def cell_densities(
    field: Field, params: Any, occupancy: Occupancy
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The occupied cells, the greatest density at eight points in each, and the code of their mean."""
    cells = indices_of(np.asarray(occupied(occupancy)))
    arrays, kind = split_field(field)
    here = jax.tree.map(np.asarray, (arrays, params, occupancy.origin, occupancy.cell))
    most, codes = [np.zeros(0, np.float32)], [np.zeros(0, np.uint8)]
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        part = cells[start : start + _CELLS_AT_ONCE]
        padded = np.pad(part, ((0, _CELLS_AT_ONCE - len(part)), (0, 0)), mode="edge")
        found = _densities_in(kind, *here, padded.astype(np.float32))
        most.append(np.asarray(found[0])[: len(part)])
        codes.append(np.asarray(found[1])[: len(part)])
    return cells, np.concatenate(most), np.concatenate(codes)


@functools.partial(jax.jit, static_argnames=("kind",))
def _densities_in(kind, arrays, params, origin, cell, cells):
    field = join_field(arrays, kind)

    def at(carry, offset):
        most, total = carry
        density, _ = field.density(params, origin[None, :] + (cells + offset[None, :]) * cell)
        return (jnp.maximum(most, density), total + density), None

    offsets = jnp.asarray(np.array(list(np.ndindex(2, 2, 2))) * 0.5 + 0.25, jnp.float32)
    zeros = jnp.zeros(cells.shape[0])
    (most, total), _ = jax.lax.scan(at, (zeros, zeros), offsets)
    return most, code_of(total / 8.0 * cell)


@returning_freed()
def seen_cells(state: TrainState, stages: StageInputs) -> Bool[np.ndarray, "M M M"]:
    """Which cells have weight in some picture, by rays from all cameras, that begin at near."""
    config, training, split = stages.config, stages.training, stages.split
    occupancy = jax.tree.map(np.asarray, state.sampler.occupancy)
    known = jax.tree.map(np.asarray, (state.field, state.params))
    tiles = np.argwhere(np.asarray(state.strategy.tiles))
    seen = np.zeros(occupancy.cells.shape, bool)
    sampler = config.sampler(occupancy, 0.5 * int(state.strategy.rays) / training.rays_per_batch)
    # It looks for less time than a second loop takes to compile.
    sampler = dataclasses.replace(sampler, compaction=(1,))
    for index in range(_VIEWING_BATCHES):
        camera, middle = random_rays(split, tiles, [training.seed, int(state.step), index, 1])
        view = _view(sampler, *known, split.cameras[camera], middle, np.float32(stages.near))
        weights, positions = (np.asarray(part) for part in view)
        shown = positions[weights > config.unseen_below]
        cells = np.floor((shown - occupancy.origin) / occupancy.cell).astype(int)
        cells = np.clip(cells, 0, seen.shape[0] - 1)
        seen[tuple(cells.T)] = True
    return seen


def random_rays(
    split: Split, tiles: Int[np.ndarray, "N 3"], seed: list[int]
) -> tuple[Int[np.ndarray, " R"], Float[np.ndarray, "R 2"]]:
    """A camera and a place in its picture for each of some rays through the tiles."""
    random = np.random.default_rng(seed)
    camera, row, column = tiles[random.integers(len(tiles), size=_VIEWING_RAYS)].T
    inside = random.uniform(0.0, TILE, (_VIEWING_RAYS, 2))
    middle = np.stack([column, row], axis=-1) * TILE + inside
    return camera.astype(np.int32), middle.astype(np.float32)


@jax.jit
def _view(sampler, field, params, cameras, middle, near):
    """The weights of packed samples, and where they lie in the space of the grid."""
    rays, occupancy = cast_rays(cameras, middle, near), sampler.occupancy
    seen = render_rays(field, params, rays, sampler)
    packing = seen.samples.packing
    weights = jnp.where(packing.used, packing.to_buffer(seen.weights), 0.0)
    return weights, occupancy.place(seen.samples.positions(rays))


def count_samples(
    sampler: OccupancySampler,
    cameras: Camera,
    camera: Int[np.ndarray, " R"],
    middle: Float[np.ndarray, "R 2"],
    largest: int = 0,
    near: float = 0.0,
) -> Int[np.ndarray, " R"]:
    """How many samples rays of given cameras, through given places in their pictures, take.

    Args:
      sampler: the sampler of the rays.
      cameras, camera, middle: as in `jaxnerf.training.state.Batch`.
      largest: the cells along each side of the largest grid that is expected: what counts for it serves
        all smaller ones, and is compiled once.
      near: t at which rays begin.
    """
    occupancy = sampler.occupancy
    size = occupancy.cells.shape[0]
    filled = np.pad(np.asarray(occupancy.cells), [(0, max(largest - size, 0))] * 3, mode="edge")
    whole = dataclasses.replace(sampler, occupancy=dataclasses.replace(occupancy, cells=filled))
    return np.asarray(_count(whole, jnp.asarray(size), cameras[camera], middle, np.float32(near)))


@jax.jit
def _count(sampler, size, cameras, middle, near):
    rays = cast_rays(cameras, middle, near)
    walk = march(
        sampler.occupancy, rays, samples=sampler.samples, max_steps=sampler.max_steps,
        samples_per_voxel=sampler.samples_per_voxel, compaction=(1,), size=size,
    )  # fmt: skip
    return walk.count

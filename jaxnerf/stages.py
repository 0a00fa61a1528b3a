"""How a field grows: from coarse to fine, in the space that is found to hold something.

A run has stages. Each has a finer lattice than the one before, on the cells of which the last one has
found that they hold something and that some camera sees them. Within a stage the occupancy is brought
up to date now and then. When each of this happens is a function of the step and the total of steps
alone, so that a resumed run is the same run.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf import occupancy as grid
from jaxnerf.cameras import cast_rays
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.growing import (
    TILE,
    GrowingConfig,
    GrowingState,
    adam,
    growing_step,
    learned,
    sample_blocks,
)
from jaxnerf.marching import MarchSettings, march_rays
from jaxnerf.occupancy import Occupancy
from jaxnerf.paths import focus_point
from jaxnerf.scenes import Split
from jaxnerf.training import TrainingConfig, local_share, parallel, replicate

# Batches of this many rays, from all cameras, decide which cells can be seen.
_VIEWING_RAYS, _VIEWING_BATCHES = 1 << 13, 16
_CELLS_AT_ONCE = 1 << 16
# What a step costs at a resolution, in units of one of a tiny table: 1 + 0.015 (resolution / 64)^3.
# Measured on lego, in units of a step at 64: 1.4 at 200, 2.1 at 256. Most of it is Adam's.
_GROWTH = 0.015


class GrowingTrainer:
    """Takes steps of `growing_step`, and grows between them; see `jaxnerf.fitting.Trainer`."""

    def __init__(
        self, split: Split, *, field: VoxelField, growing: GrowingConfig, config: TrainingConfig
    ):
        """Prepare.

        Args:
          split: with photographs.
          field, growing, config: static.
        """
        self.config, self._split, self._field, self._growing = config, split, field, growing
        begins = (0.0, *growing.shares)
        lengths = np.diff([*begins, 1.0])
        cost = 1.0 + _GROWTH * (np.asarray(growing.resolutions) / 64.0) ** 3
        self.effort = float(np.sum(lengths * cost / cost[0]))
        # Each compiles the step again, and the programs that look for what can be seen.
        self.pauses = 2 * len(growing.shares)
        self.remedy = (
            f"Lower voxels.density_rate (now {field.density_rate}) or voxels.feature_rate "
            f"(now {field.feature_rate})"
        )
        static = {
            "field": field, "growing": growing, "config": config, "transparent": has_alpha(split)
        }  # fmt: skip
        self._step = parallel(lambda *arguments: growing_step(*arguments, **static))
        self._key = jax.random.key(config.seed)
        self._cameras = replicate(split.cameras)
        self._nothing = replicate(np.float32(0.0))
        self._tiles: tuple[int, np.ndarray, int] | None = None
        self._next, self._stage = -1, 0

    def advance(self, state: GrowingState, number: int, total: int) -> tuple[GrowingState, dict]:
        """Take a step, after what is due before it."""
        growing, stage = self._growing, self._growing.stage(number, total)
        if number != self._next:
            # Read once, and not at every step, which would wait for the device.
            self._stage, self._tiles = int(state.stage), None
        self._next = number + 1
        if stage > self._stage:
            self._stage = stage
            grown = grow(local(state), stage, self._split, self._field, growing, self.config)
            state = replicate(grown)
        elif number and number % growing.refresh_every == 0:
            state = replicate(refresh(local(state), self._field, 0.3 * growing.empty_below))
        if self._tiles is None or self._tiles[0] != stage:
            tiles = np.argwhere(np.asarray(state.tiles)).astype(np.int32)
            self._tiles = stage, tiles, block_size(state.occupancy, self._split)
        _, tiles, block = self._tiles
        config = self.config
        batch = sample_blocks(self._split, tiles, block, config.rays_per_batch, config.seed, number)
        return self._step(state, local_share(batch), self._key, self._cameras, self._nothing)


def local(state: Any) -> Any:
    """A replicated state on this host, as NumPy arrays."""
    return jax.tree.map(np.asarray, state)


def create_growing_state(
    field: VoxelField, split: Split, growing: GrowingConfig, config: TrainingConfig
) -> GrowingState:
    """The state before the first step: voxels wherever the photographs allow something to be.

    With alpha that is the visual hull; without, a cube around the point that the cameras look at, as
    large as all of them see it whole.
    """
    origin, side = scene_cube(split)
    transparent = has_alpha(split)
    if transparent:
        shown = _silhouettes(split)
        coarse = _hull(split, shown, origin, side / 64, np.argwhere(np.ones((64,) * 3, bool)))
        if not len(coarse):
            coarse = np.argwhere(np.ones((64,) * 3, bool))
        origin, side = _tight(origin, side / 64, coarse)
    cell = side / growing.cells
    mask = np.ones((growing.cells,) * 3, bool)
    if transparent:
        # Coarse cells first: there are many in a cube that a few cameras show to be empty.
        rough = np.zeros((64,) * 3, bool)
        found = _hull(split, shown, origin, side / 64, np.argwhere(np.ones((64,) * 3, bool)))
        rough[tuple(found.T)] = True
        scaled = np.arange(growing.cells) * 64 // growing.cells
        candidates = np.argwhere(rough[np.ix_(scaled, scaled, scaled)])
        found = _hull(split, shown, origin, cell, candidates)
        mask[:] = not len(found)
        mask[tuple(found.T)] = True
    voxel = side / growing.resolutions[0]
    key = jax.random.key(config.seed)
    params = field.from_cells(key, mask, origin.astype(np.float32), cell, voxel)
    density = np.full(mask.shape, field.initial_opacity * cell / voxel, np.float32)
    occupancy = Occupancy(
        grid.encode(jnp.asarray(mask), jnp.asarray(density)),
        jnp.asarray(origin, jnp.float32),
        jnp.float32(cell),
        jnp.float32(voxel),
    )
    return GrowingState(
        step=jnp.zeros((), jnp.int32),
        total_steps=jnp.asarray(config.steps, jnp.int32),
        stage=jnp.zeros((), jnp.int32),
        params=(params,),
        optimizer=adam(config).init(learned(params)),
        occupancy=occupancy,
        tiles=jnp.asarray(_tiles_that_show(occupancy, split)),
    )


def scene_cube(split: Split) -> tuple[np.ndarray, float]:
    """The cube that a scene without given bounds is looked for in: (corner, side).

    Around the point nearest to all the cameras' axes; as large as the ball there that the narrowest
    of the cameras sees whole.
    """
    poses = np.asarray(split.cameras.camera_to_world, np.float64)
    centre = focus_point(poses.astype(np.float32)).astype(np.float64)
    distance = np.linalg.norm(poses[:, :, 3] - centre, axis=-1)
    half = 0.5 * np.min(np.asarray(split.cameras.size), axis=-1)
    tangent = half / np.max(np.asarray(split.cameras.focal), axis=-1)
    radius = float(np.median(distance * tangent))
    return centre - radius, 2.0 * radius


def has_alpha(split: Split) -> bool:
    """Whether the photographs' alpha tells the scene from what is behind it."""
    assert split.images is not None
    return bool(np.mean(split.images[:, ::4, ::4, 3] < 128) > 0.01)


def block_size(occupancy: Occupancy, split: Split) -> int:
    """How many pixels to average along each side: as many as the voxels can tell apart, up to 4.

    A block is half as wide as a voxel in the middle of the scene, seen from the median distance.
    """
    size = float(occupancy.cell) * occupancy.cells.shape[0]
    middle = np.asarray(occupancy.origin) + 0.5 * size
    distance = np.linalg.norm(np.asarray(split.cameras.camera_to_world)[:, :, 3] - middle, axis=-1)
    pixels = (
        float(occupancy.step) * np.median(np.asarray(split.cameras.focal)) / np.median(distance)
    )
    return int(np.clip(2 ** np.floor(np.log2(max(0.5 * pixels, 1.0))), 1, 4))


def refresh(state: GrowingState, field: VoxelField, empty_below: float) -> GrowingState:
    """Bring the occupancy up to date: drop cells that have become empty, and note densities."""
    (params,) = state.params
    cells, most, mean = _cell_densities(field, params, state.occupancy)
    full = most * float(params.voxel) > empty_below
    if not full.any():  # rather everywhere than nowhere, from where nothing could come back
        full[:] = True
    occupancy = _with_cells(state.occupancy, cells[full], mean[full])
    return dataclasses.replace(state, occupancy=occupancy)


def grow(
    state: GrowingState,
    stage: int,
    split: Split,
    field: VoxelField,
    growing: GrowingConfig,
    config: TrainingConfig,
) -> GrowingState:
    """Begin a stage: a finer lattice, on the cells that hold something that some camera sees."""
    state = refresh(state, field, growing.empty_below)
    (params,) = state.params
    seen = _seen_cells(state, split, field, growing, config)
    cells = np.argwhere(
        np.asarray(grid.occupied(state.occupancy)) & np.asarray(grid.dilate(jnp.asarray(seen)))
    )
    old = state.occupancy
    if not len(cells):  # nothing was learned yet; go on everywhere
        cells = np.argwhere(np.asarray(grid.occupied(old)))
    origin, side = _tight(np.asarray(old.origin, np.float64), float(old.cell), cells)
    if side < 0.9 * float(old.cell) * growing.cells:
        mask = _moved(old, cells, origin, side, growing.cells)
    else:
        origin, side = np.asarray(old.origin), float(old.cell) * growing.cells
        mask = np.zeros((growing.cells,) * 3, bool)
        mask[tuple(cells.T)] = True
    cell, voxel = side / growing.cells, side / growing.resolutions[stage]
    params = field.refine(params, mask, origin, cell, voxel)
    params = dataclasses.replace(params, directional=jnp.ones(()))
    occupancy = Occupancy(
        grid.encode(jnp.asarray(mask), jnp.zeros(mask.shape)),
        jnp.asarray(origin, jnp.float32),
        jnp.float32(cell),
        jnp.float32(voxel),
    )
    indices, _, mean = _cell_densities(field, params, occupancy)
    occupancy = _with_cells(occupancy, indices, mean)
    return dataclasses.replace(
        state,
        stage=jnp.asarray(stage, jnp.int32),
        params=(params,),
        optimizer=adam(config).init(learned(params)),
        occupancy=occupancy,
        tiles=jnp.asarray(_tiles_that_show(occupancy, split)),
    )


def _hull(
    split: Split, silhouettes: np.ndarray, origin: np.ndarray, cell: float, cells: np.ndarray
) -> np.ndarray:
    """Of some cells, those within every silhouette that they are seen in."""
    centres = (origin + (cells + 0.5) * cell).astype(np.float32)
    radius = 0.87 * cell
    return cells[grid.carve(centres, radius, split.cameras, silhouettes, TILE)]


def _silhouettes(split: Split) -> np.ndarray:
    assert split.images is not None
    alpha = split.images[..., 3]
    count, height, width = alpha.shape
    padded = np.pad(alpha, ((0, 0), (0, -height % TILE), (0, -width % TILE)))
    return padded.reshape(count, -(-height // TILE), TILE, -1, TILE).max(axis=(2, 4)) > 0


def _tight(origin: np.ndarray, cell: float, cells: np.ndarray) -> tuple[np.ndarray, float]:
    """The smallest cube around cells, with one cell of margin: (corner, side)."""
    low, high = cells.min(axis=0) - 1.0, cells.max(axis=0) + 2.0
    side = float((high - low).max()) * cell
    middle = origin + 0.5 * (low + high) * cell
    return middle - 0.5 * side, side


def _moved(
    old: Occupancy, cells: np.ndarray, origin: np.ndarray, side: float, size: int
) -> np.ndarray:
    """The cells of another, smaller cube that lie in given cells of an old one."""
    mask = np.zeros((old.cells.shape[0] + 2,) * 3, bool)
    mask[tuple((cells + 1).T)] = True
    fine = side / size
    edges = [
        (origin[None, :] + (np.arange(size)[:, None] + at) * fine - np.asarray(old.origin)[None, :])
        / float(old.cell)
        for at in (1e-3, 1.0 - 1e-3)
    ]
    found = np.zeros((size,) * 3, bool)
    for corner in np.ndindex(2, 2, 2):
        index = [
            np.clip(np.floor(edges[which][:, axis]).astype(int) + 1, 0, mask.shape[0] - 1)
            for axis, which in enumerate(corner)
        ]
        found |= mask[np.ix_(*index)]
    return found


def _tiles_that_show(occupancy: Occupancy, split: Split) -> np.ndarray:
    assert split.images is not None
    height, width = split.images.shape[1:3]
    return grid.tiles_that_show(occupancy, split.cameras, (width, height), TILE)


def _with_cells(occupancy: Occupancy, cells: np.ndarray, density: np.ndarray) -> Occupancy:
    mask = np.zeros(occupancy.cells.shape, bool)
    mask[tuple(cells.T)] = True
    dense = np.zeros(occupancy.cells.shape, np.float32)
    dense[tuple(cells.T)] = density * float(occupancy.cell)
    return dataclasses.replace(occupancy, cells=grid.encode(jnp.asarray(mask), jnp.asarray(dense)))


def _cell_densities(
    field: VoxelField, params: Any, occupancy: Occupancy
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The occupied cells, and the greatest and the mean density at eight points in each."""
    cells = np.argwhere(np.asarray(grid.occupied(occupancy)))
    here = jax.tree.map(np.asarray, (params, occupancy.origin, occupancy.cell))
    most, mean = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        part = cells[start : start + _CELLS_AT_ONCE]
        padded = np.pad(part, ((0, _CELLS_AT_ONCE - len(part)), (0, 0)), mode="edge")
        found = _densities_in(field, *here, padded.astype(np.float32))
        most.append(np.asarray(found[0])[: len(part)])
        mean.append(np.asarray(found[1])[: len(part)])
    return cells, np.concatenate(most), np.concatenate(mean)


@functools.partial(jax.jit, static_argnames=("field",))
def _densities_in(field, params, origin, cell, cells):
    def at(carry, offset):
        most, total = carry
        density, _ = field.density(params, origin[None, :] + (cells + offset[None, :]) * cell)
        return (jnp.maximum(most, density), total + density), None

    offsets = jnp.asarray(np.array(list(np.ndindex(2, 2, 2))) * 0.5 + 0.25, jnp.float32)
    zeros = jnp.zeros(cells.shape[0])
    (most, total), _ = jax.lax.scan(at, (zeros, zeros), offsets)
    return most, total / 8.0


def _seen_cells(
    state: GrowingState,
    split: Split,
    field: VoxelField,
    growing: GrowingConfig,
    config: TrainingConfig,
) -> np.ndarray:
    """Which cells have weight in some picture, by rays from all cameras."""
    occupancy = jax.tree.map(np.asarray, state.occupancy)
    params, cameras = jax.tree.map(np.asarray, (state.params[0], split.cameras))
    tiles = np.argwhere(np.asarray(state.tiles))
    seen = np.zeros(occupancy.cells.shape, bool)
    for index in range(_VIEWING_BATCHES):
        seed = [config.seed, int(state.step), index, 1]
        random = np.random.default_rng(seed)
        camera, row, column = tiles[random.integers(len(tiles), size=_VIEWING_RAYS)].T
        inside = random.uniform(0.0, TILE, (_VIEWING_RAYS, 2))
        middle = (np.stack([column, row], axis=-1) * TILE + inside).astype(np.float32)
        view = _view(field, growing, params, occupancy, cameras, camera.astype(np.int32), middle)
        weights, positions = (np.asarray(part) for part in view)
        shown = positions[weights > growing.unseen_below]
        cells = np.floor((shown - occupancy.origin) / occupancy.cell).astype(int)
        cells = np.clip(cells, 0, seen.shape[0] - 1)
        seen[tuple(cells.T)] = True
    return seen


@functools.partial(jax.jit, static_argnames=("field", "growing"))
def _view(field, growing, params, occupancy, cameras, camera, middle):
    rays = cast_rays(cameras[camera], middle)
    settings = MarchSettings(growing.samples, growing.lookups, 2.0 * growing.budget)
    seen = march_rays(field, params, occupancy, rays, settings)
    return seen.weights, seen.positions

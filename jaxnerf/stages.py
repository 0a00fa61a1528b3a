"""How a field grows: from coarse to fine, in the space that is found to hold something.

A run has stages. Each has a finer lattice than the one before, on the cells of which the last one has
found that they hold something and that some camera sees them. Within a stage the occupancy is brought
up to date now and then. When each of this happens is a function of the step and the total of steps
alone, so that a resumed run is the same run.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf import occupancy as grid
from jaxnerf import shares
from jaxnerf.adjustments import first_adjustments
from jaxnerf.blocks import sample_blocks, usable_tiles
from jaxnerf.footprints import tiles_that_show
from jaxnerf.growing import (
    AXES,
    GrowingConfig,
    GrowingField,
    GrowingState,
    adam,
    blank_state,
    gradients_of,
    growing_step,
    learned,
)
from jaxnerf.memory import delete, hand_back
from jaxnerf.occupancy import Occupancy
from jaxnerf.probing import cell_densities, count_samples, random_rays, seen_cells
from jaxnerf.scenes import Split
from jaxnerf.silhouettes import TILE, has_alpha, possible_cells, tight_cube, tiles_of
from jaxnerf.spaces import Ball, Frustum
from jaxnerf.training import (
    TrainingConfig,
    agreed,
    local_share,
    memory_like,
    parallel,
    replicate,
)

# What a step costs at a resolution: 1 + 0.022 (resolution / 64)^3, measured on lego and fox, in units of
# a step at 64: 1.2 at 128, 1.7 at 200, 2.4 at 256. Most of it is Adam's. A step with one more sample a
# voxel is 15% longer at 64, and its share the smaller. 2% more for what is done between steps.
_GROWTH, _SAMPLING, _BETWEEN = 0.022, 0.15, 1.02
# Of a step's time what does not depend on how many rays share the budget of samples.
_OF_ANY_BATCH = 0.5
# Shares of a full batch that a batch may have: few, since each is compiled. Up to 25% more rays than fit
# on average are drawn: while a stage goes on, its rays need fewer samples. Within a stage another share
# must be this many times the old one.
_SHARES, _OVERDRAWN = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125), 1.25
_WORTH_COMPILING = 1.6
# How far things may be from where poses that are to be refined put them, in distances from the scene.
_ASTRAY = 0.05


class GrowingTrainer:
    """Takes steps of `growing_step`, and grows between them; see `jaxnerf.fitting.Trainer`."""

    def __init__(
        self, split: Split, *, field: GrowingField, growing: GrowingConfig, config: TrainingConfig
    ):
        """Prepare.

        Args:
          split: with photographs.
          field, growing, config: static.
        """
        self.config, self._split, self._field, self._growing = config, split, field, growing
        # Each stage compiles the step again, and the programs that look for what can be seen; the first
        # refresh compiles its own.
        self.pauses = 3 * len(growing.shares)
        self.remedy = (
            f"Lower voxels.density_rate (now {field.density_rate}) or voxels.feature_rate "
            f"(now {field.feature_rate})"
        )
        self.transparent = has_alpha(split)
        static = {
            "field": field, "growing": growing, "config": config, "transparent": self.transparent
        }  # fmt: skip
        self._step = parallel(
            lambda *arguments: growing_step(*arguments, **static), axes=AXES, scratch=True
        )
        self._key = jax.random.key(config.seed)
        self._cameras = replicate(split.cameras)
        self._scratch: Any = None
        self._tiles: tuple[int, np.ndarray, int] | None = None
        self._next, self._stage, self._rays = -1, 0, config.rays_per_batch

    @property
    def effort(self) -> float:
        """See `jaxnerf.fitting.Trainer`; batches of fewer rays now are counted as full ones later."""
        lengths = np.diff([0.0, *self._growing.shares, 1.0])
        growth = _GROWTH / (1.0 + _SAMPLING * (self._growing.finer - 1))
        cost = 1.0 + growth * (np.asarray(self._growing.resolutions) / 64.0) ** 3
        now = _OF_ANY_BATCH + (1.0 - _OF_ANY_BATCH) * self._rays / self.config.rays_per_batch
        later = float(np.sum(lengths[1:] * cost[1:] / cost[0]))
        return _BETWEEN * (float(lengths[0]) + later / now)

    def place(self, state: GrowingState) -> GrowingState:
        """See `jaxnerf.fitting.Trainer`."""
        placed = replicate(dataclasses.replace(state, optimizer=None))
        return dataclasses.replace(placed, optimizer=shares.divided(self.whole(state).optimizer))

    def whole(self, state: GrowingState) -> GrowingState:
        """See `jaxnerf.fitting.Trainer`."""
        like = _shapes_of_moments(state.params[0], self.config)
        return dataclasses.replace(state, optimizer=shares.whole(state.optimizer, like))

    def advance(self, state: GrowingState, number: int, total: int) -> tuple[GrowingState, dict]:
        """Take a step, after what is due before it."""
        stage = self._growing.stage(number, total)
        if number != self._next:
            # Read once, and not at every step, which would wait for the device.
            self._stage, self._tiles, self._scratch = int(state.stage), None, None
            # Saved on other devices, perhaps.
            self._rays = _divisible(int(state.rays), jax.device_count())
        self._next = number + 1
        state, changed = self._brought_up_to_date(state, number, stage)
        begins = changed or self._scratch is None
        if self._tiles is None or self._tiles[0] != stage:
            tiles = np.argwhere(np.asarray(state.tiles)).astype(np.int32)
            block = block_size(state.occupancy, self._split)
            self._tiles = stage, *usable_tiles(self._split, tiles, block)
        _, tiles, block = self._tiles
        batch = sample_blocks(self._split, tiles, block, self._rays, self.config.seed, number)
        if self._scratch is None:
            self._scratch = memory_like(gradients_of(state, jax.device_count()))
        state, metrics, self._scratch = self._step(
            state, local_share(batch), self._key, self._cameras, self._scratch
        )
        if begins:  # what compilation has left
            jax.block_until_ready(metrics)
            hand_back()
        return state, metrics

    def _brought_up_to_date(
        self, state: GrowingState, number: int, stage: int
    ) -> tuple[GrowingState, bool]:
        """The state after what is due before a step, and whether that was anything."""
        growing, moments = self._growing, state.optimizer
        bare = dataclasses.replace(state, optimizer=None)
        if stage > self._stage:
            self._stage, self._scratch, moments = stage, None, None
            delete(state.optimizer)  # there will be new ones, and their room is needed
            changed = grow(local(bare), stage, self._split, self._field, growing, self.config)
        elif number and number % growing.refresh_every == 0:
            changed = refresh(local(bare), self._field, 0.3 * growing.empty_below)
            changed = size_batch(changed, self._split, growing, self.config, _WORTH_COMPILING)
        else:
            return state, False
        self._rays = _divisible(int(changed.rays), jax.device_count())
        if moments is None:
            state = self.place(changed)
        else:
            state = dataclasses.replace(replicate(changed), optimizer=moments)
        jax.block_until_ready(state)
        del changed
        hand_back()
        return state, True


def local(state: Any) -> Any:
    """What is the same on all devices, as NumPy arrays."""
    return jax.tree.map(np.asarray, state)


def create_growing_state(
    field: GrowingField,
    split: Split,
    growing: GrowingConfig,
    config: TrainingConfig,
    space: Ball | Frustum | None = None,
) -> GrowingState:
    """The state before the first step: voxels wherever the photographs allow something to be.

    That is all of a space, if one is given. Else it is the visual hull of what differs from the
    background, by alpha or by colour; where nothing does, a cube around the point that the cameras look
    at, as large as all of them see it whole.
    """
    adjustments = first_adjustments(
        split.cameras, config, space, colours=growing.affine_colour, motions=growing.refine_poses
    )
    if space is None:
        astray = 0.0
        if growing.refine_poses and adjustments is not None:
            astray = _ASTRAY * float(adjustments.unit)
        origin, side, mask = possible_cells(split, growing.cells, config.background, astray)
    else:
        origin, side, mask = space.cells(growing.cells)
    cell = side / growing.cells
    voxel = side / growing.resolutions[0]
    key = jax.random.key(config.seed)
    params = field.from_cells(key, mask, origin.astype(np.float32), cell, voxel)
    density = np.full(mask.shape, field.initial_opacity * cell / voxel, np.float32)
    occupancy = Occupancy(
        grid.encode(jnp.asarray(mask), jnp.asarray(density)),
        jnp.asarray(origin, jnp.float32),
        jnp.float32(cell),
        jnp.float32(voxel),
        space,
    )
    state = dataclasses.replace(
        blank_state(field, config, space, adjustments),
        params=(params,),
        optimizer=adam(config).init(learned(params)),
        occupancy=occupancy,
        tiles=jnp.asarray(_tiles_that_show(occupancy, split)),
    )
    return size_batch(state, split, growing, config)


def block_size(occupancy: Occupancy, split: Split) -> int:
    """How many pixels to average along each side: as many as the voxels can tell apart, up to 4.

    A block is half as wide as a voxel in the middle of the scene, seen from the median distance.
    """
    poses, focal = (np.asarray(x) for x in (split.cameras.camera_to_world, split.cameras.focal))
    voxel, space = float(occupancy.step), occupancy.space
    if isinstance(space, Frustum):
        # Voxels are there as wide in all pictures, whatever the distance.
        pixels = 0.5 * voxel * float(np.median(split.cameras.size))
    else:
        size = float(occupancy.cell) * occupancy.cells.shape[0]
        middle = np.asarray(occupancy.origin) + 0.5 * size
        if space is not None:
            middle, voxel = np.asarray(space.centre), voxel * float(space.radius)
        distance = np.linalg.norm(poses[:, :, 3] - middle, axis=-1)
        pixels = voxel * np.median(focal) / np.median(distance)
    return int(np.clip(2 ** np.floor(np.log2(max(0.5 * pixels, 1.0))), 1, 4))


def refresh(state: GrowingState, field: GrowingField, empty_below: float) -> GrowingState:
    """Bring the occupancy up to date: drop and clear cells that are empty, and note densities."""
    (params,) = state.params
    cells, most, mean = cell_densities(field, params, state.occupancy)
    full = most * float(params.voxel) > empty_below
    if not full.any():  # rather everywhere than nowhere, from where nothing could come back
        full[:] = True
    occupancy = _with_cells(state.occupancy, cells[full], mean[full])
    kept = np.asarray(grid.occupied(occupancy))
    params = field.clear(params, kept, np.asarray(occupancy.origin), float(occupancy.cell))
    return dataclasses.replace(state, params=(params,), occupancy=occupancy)


def grow(
    state: GrowingState,
    stage: int,
    split: Split,
    field: GrowingField,
    growing: GrowingConfig,
    config: TrainingConfig,
) -> GrowingState:
    """Begin a stage: a finer lattice, on the cells that hold something that some camera sees."""
    size = growing.cells_of(stage)
    found = _as_found(split, state)
    state = refresh(_with_size(state, size), field, growing.empty_below)
    hand_back()
    (params,) = state.params
    old = state.occupancy
    kept = np.asarray(grid.occupied(old))
    if growing.unseen_below > 0.0:
        seen = seen_cells(state, found, field, growing, config)
        kept = kept & np.asarray(grid.dilate(jnp.asarray(seen)))
        hand_back()
    cells = np.argwhere(kept)
    if not len(cells):  # nothing was learned yet; go on everywhere
        cells = np.argwhere(np.asarray(grid.occupied(old)))
    origin, side = tight_cube(np.asarray(old.origin, np.float64), float(old.cell), cells)
    if side < 0.9 * float(old.cell) * size:
        mask = _moved(old, cells, origin, side, size)
    else:
        origin, side = np.asarray(old.origin), float(old.cell) * size
        mask = np.zeros((size,) * 3, bool)
        mask[tuple(cells.T)] = True
    cell, voxel = side / size, side / growing.resolutions[stage]
    params = field.refine(params, mask, origin, cell, voxel)
    hand_back()
    occupancy = dataclasses.replace(
        old,
        cells=grid.encode(jnp.asarray(mask)),
        origin=jnp.asarray(origin, jnp.float32),
        cell=jnp.float32(cell),
        step=jnp.float32(voxel),
    )
    indices, _, mean = cell_densities(field, params, occupancy)
    occupancy = _with_cells(occupancy, indices, mean)
    state = dataclasses.replace(
        state,
        stage=jnp.asarray(stage, jnp.int32),
        params=(params,),
        optimizer=_first_moments(params, config),
        occupancy=occupancy,
        tiles=jnp.asarray(_tiles_that_show(occupancy, found)),
    )
    return size_batch(state, split, growing, config)


def _first_moments(params: Any, config: TrainingConfig) -> Any:
    """Adam's moments before a step: zeros of NumPy, which take no memory until they are copied."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _shapes_of_moments(params, config))


def _shapes_of_moments(params: Any, config: TrainingConfig) -> Any:
    return jax.eval_shape(adam(config).init, learned(params))


def size_batch(
    state: GrowingState,
    split: Split,
    growing: GrowingConfig,
    config: TrainingConfig,
    least_factor: float = 1.0,
) -> GrowingState:
    """As many rays in a batch as their samples leave room for, and not more than a full one has.

    The number stays as it is unless it changes by the least factor: for another, the step is compiled
    anew.
    """
    split = _as_found(split, state)
    full, devices = config.rays_per_batch, jax.device_count()
    seed = [config.seed, int(state.step), 2]
    rays = random_rays(split, np.argwhere(np.asarray(state.tiles)), seed)
    limits = growing.march(_SHARES[-1])
    counts = count_samples(limits, state.occupancy, split.cameras, *rays)
    fits = (
        _OVERDRAWN * growing.budget * growing.finer / max(float(np.mean(np.asarray(counts))), 1e-3)
    )
    share = max([each for each in _SHARES if each <= fits], default=_SHARES[-1])
    number = int(agreed(float(_divisible(int(full * share), devices))))
    now = int(state.rays)
    if max(number / now, now / number) < least_factor:
        return state
    return dataclasses.replace(state, rays=jnp.asarray(number, jnp.int32))


def _as_found(split: Split, state: GrowingState) -> Split:
    """The photographs, with the cameras where they are found to stand."""
    if state.adjustments is None:
        return split
    cameras = jax.tree.map(np.asarray, state.adjustments.cameras(split.cameras))
    return dataclasses.replace(split, cameras=cameras)


def _with_size(state: GrowingState, size: int) -> GrowingState:
    """The same cells of the same cube, cut into so many along each side."""
    old = state.occupancy
    if old.cells.shape[0] == size:
        return state
    side = float(old.cell) * old.cells.shape[0]
    cells = np.argwhere(np.asarray(grid.occupied(old)))
    mask = _moved(old, cells, np.asarray(old.origin), side, size)
    occupancy = dataclasses.replace(
        old,
        cells=grid.encode(jnp.asarray(mask)),
        cell=jnp.float32(side / size),
    )
    return dataclasses.replace(state, occupancy=occupancy)


def _moved(
    old: Occupancy, cells: np.ndarray, origin: np.ndarray, side: float, size: int
) -> np.ndarray:
    """The cells of another cube, within the old one, that lie in given cells of that."""
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
    tiles = tiles_that_show(occupancy, split.cameras, (width, height), TILE)
    if split.masks is None:
        return tiles
    counted = tiles_of(split.masks)
    return tiles & counted if (tiles & counted).any() else counted


def _with_cells(occupancy: Occupancy, cells: np.ndarray, density: np.ndarray) -> Occupancy:
    mask = np.zeros(occupancy.cells.shape, bool)
    mask[tuple(cells.T)] = True
    # Not all densities of a cube, of which there are many times more than cells that hold something.
    code = np.array(grid.encode(jnp.asarray(mask)))
    expected = jnp.asarray(density * float(occupancy.cell), jnp.float32)
    code[tuple(cells.T)] = np.asarray(grid.code_of(expected))
    return dataclasses.replace(occupancy, cells=jnp.asarray(code))


def _divisible(rays: int, devices: int) -> int:
    """The most rays, at most so many, that the devices share evenly; one each at least."""
    return max(rays // devices, 1) * devices

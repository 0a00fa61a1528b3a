"""Changes of the training state in stages: the first state, updates of the occupancy, finer lattices.

A stage begins in `grow`, with a state on the old lattice:

    _with_size          the old occupancy is cut into as many cells as the new stage wants
    refresh             densities are evaluated in its cells; empty ones are dropped and pruned
    seen_cells          of the last stage: cells that no training ray sees are dropped too
    _lattice_of_stage   a tight cube around the cells, and how fine its lattice is
    resample            the field's values on that lattice; in the last stage the detail begins
    _with_cells         the new occupancy, with the new lattice's densities
    size_batch          how many rays fill a batch now
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields.bricks import num_vertices
from jaxnerf.fields.voxels import VoxelField, VoxelSettings
from jaxnerf.fields.warped import WarpedField
from jaxnerf.kernels.memory import returning_freed
from jaxnerf.rendering.footprints import tiles_that_show
from jaxnerf.sampling import Occupancy
from jaxnerf.sampling import occupancy as grid
from jaxnerf.scenes import Split
from jaxnerf.scenes.silhouettes import TILE, possible_cells, tight_cube, tiles_of
from jaxnerf.training.calibration import Calibration
from jaxnerf.training.coarse_to_fine.probing import (
    cell_densities,
    count_samples,
    indices_of,
    random_rays,
    seen_cells,
)
from jaxnerf.training.coarse_to_fine.settings import (
    FINER_OR_COARSER,
    MOST_VOXELS,
    CoarseToFineConfig,
    StageInputs,
    StageState,
    rounded,
)
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.sharding import divisible
from jaxnerf.training.state import TrainState

# Fractions of a full batch that a batch may have: few, since each is compiled. Up to 25% more rays than
# fit on average are drawn: while a stage goes on, its rays need fewer samples.
_FRACTIONS, _OVERDRAWN = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125), 1.25
# Margin of the visual hull if poses are to be refined, in distances of the cameras from the scene.
_ASTRAY = 0.05
# The cube is replaced by the tight one around the occupied cells if that has less than this fraction of
# its side: voxels become smaller, and 10% were worth 0.6 dB (experiments/time_to_quality). With a
# fraction nearer to 1 rounding could decide. (Where `target_vertices` chooses the number of voxels, the
# cube is always the tight one.)
_WORTH_SHRINKING = 0.97


def first_state(
    stages: StageInputs,
    settings: VoxelSettings,
    *,
    calibration: Calibration | None = None,
    space: SphereContraction | NdcSpace | None = None,
) -> TrainState:
    """The state before the first step, without the optimizer's state.

    The first lattice covers all of `space`, if one is given. Otherwise it covers the visual hull of the
    photographs' foreground, which is known from alpha or from a plain background; without such a
    foreground, a cube around the point that the cameras look at, about as large as they see whole.

    Args:
      stages: the stages; the photographs are needed.
      settings: sizes of the field.
      calibration: the initial corrections of photographs and cameras; None for none.
      space: the scene's space; None for the world.
    """
    split, config, training = stages.split, stages.config, stages.training
    if space is None:
        astray = 0.0
        if calibration is not None and calibration.motions is not None:
            astray = _ASTRAY * float(calibration.unit)
        origin, side, mask = possible_cells(split, config.cells, training.background, astray)
    else:
        origin, side, mask = space.cells(config.cells)
    cell, spacing = side / config.cells, side / config.resolutions[0]
    origin = origin.astype(np.float32)
    voxels = VoxelField.on_lattice(mask, origin, cell, spacing, settings, view_dependence=0.0)
    occupancy = Occupancy(
        grid.encode(jnp.asarray(mask), jnp.float32(settings.initial_opacity * cell / spacing)),
        jnp.asarray(origin, jnp.float32),
        jnp.float32(cell),
        jnp.float32(spacing),
        space,
    )
    state = state_of(voxels, occupancy, config, training, calibration)
    stage = dataclasses.replace(
        state.strategy, tiles=jnp.asarray(_tiles_that_show(occupancy, split))
    )
    return size_batch(dataclasses.replace(state, strategy=stage), stages)


def state_of(
    voxels: VoxelField,
    occupancy: Occupancy,
    config: CoarseToFineConfig,
    training: TrainingConfig,
    calibration: Calibration | None = None,
) -> TrainState:
    """The state before a step of a new field, all of whose photographs' tiles show something.

    The detail has begun only if there is a single stage.
    """
    # Of NumPy, since XLA compiles each of these little arrays for itself.
    arrays: dict[str, Any] = {
        "stage": np.int32(0),
        "tiles": np.ones((1, 1, 1), bool),
        "rays": np.int32(training.rays_per_batch),
    }
    steps: dict[str, Any] = {"step": np.int32(0), "total_steps": np.int32(training.steps)}
    params = voxels.init(jax.random.key(training.seed))
    return TrainState(
        **steps,
        params=params if config.fractions else voxels.begin_detail(params),
        optimizer=None,
        field=voxels if occupancy.space is None else WarpedField(voxels, occupancy.space),
        sampler=config.sampler(occupancy),
        strategy=StageState(**arrays),
        calibration=calibration,
    )


def voxels_of(field: VoxelField | WarpedField) -> VoxelField:
    """The voxels of a field of the world."""
    return field.field if isinstance(field, WarpedField) else field


def with_voxels(field: VoxelField | WarpedField, voxels: VoxelField) -> VoxelField | WarpedField:
    """The field of the world that has other voxels."""
    return dataclasses.replace(field, field=voxels) if isinstance(field, WarpedField) else voxels


@returning_freed()
def refresh(state: TrainState, empty_below: float) -> TrainState:
    """Update the occupancy: drop and prune cells that are empty now, and store the others' densities."""
    voxels, params, old = voxels_of(state.field), state.params, state.sampler.occupancy
    cells, most, codes = cell_densities(voxels, params, old)
    full = most * float(voxels.spacing) > empty_below
    if not full.any():  # with no occupied cell there would be no samples, and no gradients any more
        full[:] = True
    occupancy = _with_cells(old, cells[full], codes[full])
    kept = np.asarray(grid.occupied(occupancy))
    params = voxels.prune(params, kept, np.asarray(occupancy.origin), float(occupancy.cell))
    return _with_occupancy(dataclasses.replace(state, params=params), occupancy)


def grow(state: TrainState, stage: int, stages: StageInputs) -> TrainState:
    """Begin a stage: a finer lattice on occupied cells, in the last stage on those that rays see."""
    config, total = stages.config, int(state.total_steps)
    is_last = stage == len(config.resolutions) - 1
    posed = _with_learned_poses(stages, state)
    state = refresh(_with_size(state, config.cells_of(stage, total)), config.empty_below)
    old = state.sampler.occupancy
    kept = np.asarray(grid.occupied(old))
    # Only where the table is at its largest: to look takes as long as a hundred steps.
    if config.unseen_below > 0.0 and is_last:
        kept = kept & np.asarray(grid.dilate(seen_cells(state, posed)))
    cells = indices_of(kept)
    if not len(cells):  # nothing was learned yet; go on everywhere
        cells = indices_of(np.asarray(grid.occupied(old)))
    mask, origin, cell, voxel = _lattice_of_stage(old, cells, stage, total, config)
    voxels, params = voxels_of(state.field).resample(state.params, mask, origin, cell, voxel)
    if is_last:
        params = voxels.begin_detail(params)
    occupancy = dataclasses.replace(
        old,
        cells=grid.marked(mask),
        origin=jnp.asarray(origin, jnp.float32),
        cell=jnp.float32(cell),
        step=jnp.float32(voxel),
    )
    indices, _, codes = cell_densities(voxels, params, occupancy)
    occupancy = _with_cells(occupancy, indices, codes)
    stage_state = dataclasses.replace(
        state.strategy,
        stage=jnp.asarray(stage, jnp.int32),
        tiles=jnp.asarray(_tiles_that_show(occupancy, posed.split)),
    )
    state = dataclasses.replace(
        state,
        field=with_voxels(state.field, voxels),
        params=params,
        strategy=stage_state,
    )
    return size_batch(_with_occupancy(state, occupancy), stages)


def _with_occupancy(state: TrainState, occupancy: Occupancy) -> TrainState:
    return dataclasses.replace(
        state, sampler=dataclasses.replace(state.sampler, occupancy=occupancy)
    )


def _lattice_of_stage(
    old: Occupancy,
    cells: np.ndarray,
    stage: int,
    total: int,
    config: CoarseToFineConfig,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The cells of a stage's cube, its corner, and the sides of a cell and of a voxel.

    Args:
      old: the occupancy, with as many cells along a side as `config.cells_of` says, and the voxels of the
        stage before.
      cells: indices (x, y, z) of its occupied cells.
      stage, total: index of the stage, and the total of steps of the run.
    """
    size = old.cells.shape[0]
    mask, whole = _mask(cells, size), float(old.cell) * size
    origin, side = tight_cube(np.asarray(old.origin, np.float64), float(old.cell), cells)
    shrinks = side < _WORTH_SHRINKING * whole
    voxels, vertices = config.voxels(stage, total), config.vertices_of(stage, total)
    is_last = stage == len(config.fractions)
    by_vertices = vertices > 0
    if by_vertices and not is_last:  # there they are a limit only
        cube = side if shrinks else whole
        by_vertices = num_vertices(mask, voxels * float(old.cell) / cube) > vertices
    if by_vertices:
        least = max(voxels / FINER_OR_COARSER, math.ceil(side / float(old.step) - 1e-3))
        finest = voxels * FINER_OR_COARSER if is_last else voxels
        most = max(min(finest, MOST_VOXELS), least)
        limits = float(least), float(voxels), float(most)
        voxels = _voxels_for_vertices(mask, float(old.cell) / side, vertices, limits)
        size = config.cells_for(voxels)
    elif not shrinks:
        return mask, np.asarray(old.origin), whole / size, whole / voxels
    return _moved(old, cells, origin, side, size), origin, side / size, side / voxels


def _voxels_for_vertices(
    cells: Bool[np.ndarray, "M M M"],
    cell: float,
    vertices: int,
    voxels: tuple[float, float, float],
) -> int:
    """The number of voxels along a cube's side with which the lattice has a number of vertices.

    Args:
      cells: a mask of the occupied cells.
      cell: side of a cell, as a fraction of the cube's side.
      vertices: number of lattice vertices.
      voxels: the smallest, the expected and the largest number of voxels.
    """
    least, found, most = voxels
    # Vertices grow with the square or somewhat faster, since what is there is surfaces.
    for _ in range(3):
        found *= math.sqrt(vertices / num_vertices(cells, found * cell))
        found = min(max(found, least), most)
    return min(max(rounded(found), math.ceil(least)), math.floor(most))


def size_batch(state: TrainState, stages: StageInputs, least_factor: float = 1.0) -> TrainState:
    """Choose the number of rays in a batch so that their samples about fill the packed buffer.

    It is one of a few fractions of a full batch, and is changed only by `least_factor` or more, since the
    step is compiled for each number of rays.
    """
    config, training = stages.config, stages.training
    split = _with_learned_poses(stages, state).split
    seed = [training.seed, int(state.step), 2]
    rays = random_rays(split, np.argwhere(np.asarray(state.strategy.tiles)), seed)
    limits = config.sampler(state.sampler.occupancy, _FRACTIONS[-1])
    largest = config.cells_for(max(config.resolutions))
    counts = count_samples(limits, split.cameras, *rays, largest, stages.near)
    slots = config.mean_samples * config.samples_per_voxel
    fits = _OVERDRAWN * slots / max(float(np.mean(counts)), 1e-3)
    fraction = max([each for each in _FRACTIONS if each <= fits], default=_FRACTIONS[-1])
    number = divisible(int(training.rays_per_batch * fraction), jax.device_count())
    now = int(state.strategy.rays)
    if max(number / now, now / number) >= least_factor:
        changed = dataclasses.replace(state.strategy, rays=jnp.asarray(number, jnp.int32))
        state = dataclasses.replace(state, strategy=changed)
    return with_limits(state, stages)


def with_limits(state: TrainState, stages: StageInputs) -> TrainState:
    """The state whose sampler has the limits of a batch of its number of rays."""
    fraction = int(state.strategy.rays) / stages.training.rays_per_batch
    sampler = stages.config.sampler(state.sampler.occupancy, fraction)
    return dataclasses.replace(state, sampler=sampler)


def _with_learned_poses(stages: StageInputs, state: TrainState) -> StageInputs:
    """The stages, whose photographs' cameras have the learned poses if poses are learned."""
    if state.calibration is None:
        return stages
    cameras = jax.tree.map(np.asarray, state.calibration.cameras(stages.split.cameras))
    return dataclasses.replace(stages, split=dataclasses.replace(stages.split, cameras=cameras))


def _with_size(state: TrainState, size: int) -> TrainState:
    """The same cells of the same cube, cut into so many along each side."""
    old = state.sampler.occupancy
    if old.cells.shape[0] == size:
        return state
    side = float(old.cell) * old.cells.shape[0]
    cells = indices_of(np.asarray(grid.occupied(old)))
    mask = _moved(old, cells, np.asarray(old.origin), side, size)
    occupancy = dataclasses.replace(
        old,
        cells=grid.marked(mask),
        cell=jnp.float32(side / size),
    )
    return _with_occupancy(state, occupancy)


def _moved(
    old: Occupancy, cells: np.ndarray, origin: np.ndarray, side: float, size: int
) -> np.ndarray:
    """The cells of another cube that reach into given cells of the old one."""
    mask = np.zeros((old.cells.shape[0] + 2,) * 3, bool)
    mask[tuple((cells + 1).T)] = True
    new = side / size
    # Places in each new cell, so near to one another that no old cell fits between two.
    count = max(math.ceil(new / float(old.cell)), 1) + 1
    places = [
        (origin[None, :] + (np.arange(size)[:, None] + at) * new - np.asarray(old.origin)[None, :])
        / float(old.cell)
        for at in np.linspace(1e-3, 1.0 - 1e-3, count)
    ]
    found = np.zeros((size,) * 3, bool)
    for which in np.ndindex(count, count, count):
        index = [
            np.clip(np.floor(places[at][:, axis]).astype(int) + 1, 0, mask.shape[0] - 1)
            for axis, at in enumerate(which)
        ]
        found |= mask[np.ix_(*index)]
    return found


def _mask(cells: np.ndarray, size: int) -> np.ndarray:
    """A cube, so many cells along each side, that has the cells of these indices."""
    mask = np.zeros((size,) * 3, bool)
    mask[tuple(cells.T)] = True
    return mask


def _tiles_that_show(occupancy: Occupancy, split: Split) -> np.ndarray:
    assert split.images is not None
    height, width = split.images.shape[1:3]
    tiles = tiles_that_show(occupancy, split.cameras, (width, height), TILE)
    if split.masks is None:
        return tiles
    counted = tiles_of(split.masks)
    return tiles & counted if (tiles & counted).any() else counted


def _with_cells(occupancy: Occupancy, cells: np.ndarray, codes: np.ndarray) -> Occupancy:
    """An occupancy that has these cells and no others."""
    mask = _mask(cells, occupancy.cells.shape[0])
    code = np.array(grid.encode(jnp.asarray(mask), jnp.float32(0.0)))
    code[tuple(cells.T)] = codes
    return dataclasses.replace(occupancy, cells=jnp.asarray(code))

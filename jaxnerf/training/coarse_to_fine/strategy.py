"""Coarse-to-fine training of the fast field.

A run has stages. Each stage has a finer lattice than the one before, on the cells that are occupied by
then; at the beginning of the last stage, cells that no camera sees are dropped too. Within a stage the
occupancy is updated at regular intervals. When this happens is a function of the step and the total of
steps alone, so that a resumed run is the same run. If the total of steps is changed later, the current
stage goes on: it does not end because it would now begin later, and its resolution does not change.
"""

import jax
import numpy as np

from jaxnerf.contraction import NdcSpace
from jaxnerf.fields.voxels import has_detail
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Split
from jaxnerf.scenes.sightings import Sightings
from jaxnerf.training.batches import sample_batch, usable_sightings, usable_tiles
from jaxnerf.training.budget import Stage
from jaxnerf.training.coarse_to_fine.settings import VERTICES_OF_A_SCENE, StageInputs
from jaxnerf.training.coarse_to_fine.stages import grow, refresh, size_batch, voxels_of, with_limits
from jaxnerf.training.sharding import broadcast_from_process_0, divisible
from jaxnerf.training.state import Batch, TrainState

# What a step costs: 1 + 0.65 for each million of lattice vertices, and 0.2 more in later stages of
# bounded scenes. Measured on lego (1.3 to 1.5 of a step at 64 voxels at 128, 1.5 to 1.9 at 200, 2.0 to
# 2.1 at 256, on two machines, of which one is half as fast) and on garden (38, 95 and 73 ms with 0.7, 3.8
# and 2.5 million, where the first stage's 0.2 million cost 33). A row of detail costs as much as a
# vertex. Each stage is measured when it has begun, which corrects this.
_LATER, _A_MILLION = 0.2, 0.65
# Early in training an unbounded scene has more vertices than a surface has: about so many times
# (garden at 101 voxels along a side 3 times, at 158 7 times; fern at 115 voxels 3 times).
_NOT_YET_EMPTY = 4.0
# The fraction of a step's time that does not depend on the number of rays that share the sample buffer.
_OF_ANY_BATCH = 0.85
# Compilation time of a stage, as a multiple of the first step's time; the search for hidden cells takes
# as much.
_COMPILATION = 1.7
# The fraction of the steps after which the weight of known depths has fallen to 0.
_CERTAIN_FOR = 0.5
# Within a stage a cell is dropped below this fraction of `empty_below`: it may become dense again.
_STILL_OCCUPIED = 0.3
# Within a stage the number of rays changes by at least this factor: the step is compiled for each number.
_WORTH_COMPILING = 1.6


class CoarseToFine:
    """The strategy of the fast field; see `jaxnerf.training.strategy.Strategy`."""

    def __init__(
        self,
        stages: StageInputs,
        *,
        unbounded: bool = False,
        log2_detail: int = 0,
        sightings: Sightings | None = None,
    ):
        """Prepare.

        Args:
          stages: the stages; the photographs are needed.
          unbounded: whether the scene is unbounded or forward-facing.
          log2_detail: see `jaxnerf.fields.voxels.VoxelSettings`.
          sightings: points of known depth in the photographs; the weight of their depths falls to 0.
        """
        self._sightings, self._shown = sightings, sightings
        self._unbounded = unbounded
        self._detail_rows = 2**log2_detail if log2_detail else 0
        self._stages, self._split = stages, stages.split
        self._config, self._training = stages.config, stages.training
        self.stage, self._rays, self._rows = 0, stages.training.rays_per_batch, 0
        self._tiles: tuple[np.ndarray, int] | None = None  # of the stage

    def stages(self, total: int) -> list[Stage]:
        """See `jaxnerf.training.budget.Paced`."""
        # Each later stage compiles the step anew, and what moves the field to its lattice; the last also
        # what looks for hidden cells.
        pauses = [_COMPILATION] * (1 + len(self._config.fractions))
        pauses[-1] *= 1 + (self._config.unseen_below > 0.0)
        begins = [0, *(round(fraction * total) for fraction in self._config.fractions)]
        costs = [self._cost(stage, total) for stage in range(len(begins))]
        return list(map(Stage, begins, costs, pauses))

    def _cost(self, stage: int, total: int) -> float:
        """The relative cost of a step of a stage, from the table's rows: counted now, later estimated."""
        rows, is_last = self._rows, stage == len(self._config.fractions)
        if stage != self.stage:
            rows = VERTICES_OF_A_SCENE * self._config.voxels(stage, total) ** 2
            rows *= _NOT_YET_EMPTY if self._unbounded else 1.0
            if vertices := self._config.vertices_of(stage, total):
                rows = vertices if is_last else min(rows, vertices)
            rows += self._detail_rows if is_last else 0
        return 1.0 + _A_MILLION * 1e-6 * rows + (_LATER if stage and not self._unbounded else 0.0)

    @property
    def step_cost(self) -> float:
        """See `jaxnerf.training.budget.Paced`."""
        return _OF_ANY_BATCH + (1.0 - _OF_ANY_BATCH) * self._rays / self._training.rays_per_batch

    def resumed(self, state: TrainState) -> TrainState:
        """The state from which training goes on, with the limits of its batch."""
        # Read once, and not at every step, which would wait for the device.
        self.stage, self._tiles = int(state.strategy.stage), None
        self.changed(state)
        return with_limits(state, self._stages)

    def is_due(self, number: int, total: int) -> bool:
        """Whether the occupancy is to be brought up to date, or a stage begins, before a step."""
        refreshes = number > 0 and number % self._config.refresh_every == 0
        return refreshes or self.resets_optimizer(number, total)

    def resets_optimizer(self, number: int, total: int) -> bool:
        """Whether a stage begins before a step, with parameters of other shapes."""
        return self._config.stage(number, total) > self.stage

    def change(self, state: TrainState, number: int, total: int) -> TrainState:
        """See `jaxnerf.training.strategy.Strategy.change`."""
        if self.resets_optimizer(number, total):
            self.stage, self._tiles = self._config.stage(number, total), None
            return grow(state, self.stage, self._stages)
        state = refresh(state, _STILL_OCCUPIED * self._config.empty_below)
        return size_batch(state, self._stages, _WORTH_COMPILING)

    def changed(self, state: TrainState) -> None:
        """Take note of a state after a change, which may have been saved on other devices."""
        self._rays = divisible(int(state.strategy.rays), jax.device_count())
        rows = jax.tree.leaves((state.params.table, state.params.detail))
        self._rows = sum(each.shape[0] for each in rows)

    def batch(self, state: TrainState, number: int, total: int) -> Batch:
        """The global batch of a step: blocks of half the finest voxel, in tiles with occupied cells."""
        if self._tiles is None:
            tiles = np.argwhere(np.asarray(state.strategy.tiles)).astype(np.int32)
            finer = voxels_of(state.field).settings.detail_finer if has_detail(state.params) else 1
            block = block_size(state.sampler.occupancy, self._split, finer)
            tiles, block = broadcast_from_process_0(usable_tiles(self._split, tiles, block))
            self._tiles = tiles, int(block)
            if self._sightings is not None:
                self._shown = usable_sightings(self._split, self._sightings, int(block))
        tiles, block = self._tiles
        return sample_batch(
            self._split, self._rays, self._training.seed, number, tiles=tiles, block=block,
            background=self._training.background,
            sightings=self._shown, certainty=_certainty(number / total),
        )  # fmt: skip


def _certainty(progress: float) -> float:
    """How much depths of known points count after a fraction of the steps."""
    return max(1.0 - progress / _CERTAIN_FOR, 0.0)


def block_size(occupancy: Occupancy, split: Split, finer: int = 1) -> int:
    """The side of a block of pixels, which is averaged for one ray: 1, 2 or 4.

    A block is at most half as wide as the projection of a voxel in the middle of the scene, seen from the
    cameras' median distance.

    Args:
      occupancy: the occupancy, with the side of a voxel.
      split: the photographs.
      finer: number of the detail's voxels along the side of a voxel; 1 without detail.
    """
    poses, focal = (np.asarray(x) for x in (split.cameras.camera_to_world, split.cameras.focal))
    voxel, space = float(occupancy.step) / finer, occupancy.space
    if isinstance(space, NdcSpace):
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

"""How a field grows: from coarse to fine, in the space that is found to hold something.

A run has stages. Each has a finer lattice than the one before, on the cells of which that has found
that they hold something, and in the last stage that some camera sees them. Within a stage the
occupancy is brought up to date now and then. When each of this happens is a function of the step and
the total of steps alone, so that a resumed run is the same run. Where the total is changed later, what
has begun stays: a stage does not end because it would now begin later, nor change how fine it is.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jaxnerf import shares
from jaxnerf.blocks import sample_blocks, usable_tiles
from jaxnerf.contraction import NdcSpace
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.growing import (
    AXES,
    GrowingConfig,
    GrowingState,
    shapes_of_moments,
)
from jaxnerf.growing_step import gradients_of, growing_step
from jaxnerf.growth import divisible, grow, of_first_process, refresh, size_batch
from jaxnerf.memory import delete, hand_back
from jaxnerf.placement import (
    devices_for,
    from_first_process,
    local_share,
    memory_like,
    replicate,
)
from jaxnerf.sampling.occupancy import Occupancy
from jaxnerf.scenes import Split
from jaxnerf.silhouettes import has_alpha
from jaxnerf.training import TrainingConfig, parallel

# What a step of a later stage costs, in units of one at 64 voxels: 1.2 + 0.022 (resolution / 64)^3, or
# 0.0147 of it with two samples a voxel. Measured on two machines, of which one is half as fast: lego 1.3
# and 1.5 at 128, 1.5 and 1.9 at 200, 2.0 and 2.1 at 256. Scenes without an end (fox) come nearer to 1 +
# 0.022 (resolution / 64)^3. Where the number of lattice points is chosen, 1.2 + 0.65 for each million of
# them (lego, 1.4 to 2.5 million of seven features, two samples a voxel; scenes that end up with many more
# or fewer, and fields of fewer features, are misjudged). 2% more for what is done between steps.
_LATER, _GROWTH, _SAMPLING, _A_MILLION, _BETWEEN = 0.2, 0.022, 0.5, 0.65, 1.02
# Of a step's time what does not depend on how many rays share the budget of samples; and the load of the
# batches of later stages, which have half of a full one's rays to all of them (five bounded scenes; of
# three, in a quiet hour, steps of 4,096 to 8,192 rays took 13 to 16 ms at 64 voxels, 29 or 30 at 200).
_OF_ANY_BATCH, _LATER_LOAD = 0.85, 0.95
# How many times the rays, or what part of them, it pays to compile a step for within a stage.
_WORTH_COMPILING = 1.6


class GrowingTrainer:
    """Takes steps of `growing_step`, and grows between them; see `jaxnerf.fitting.Trainer`."""

    def __init__(
        self,
        split: Split,
        near: float = 0.0,
        *,
        voxels: VoxelSettings,
        growing: GrowingConfig,
        config: TrainingConfig,
    ):
        """Prepare.

        Args:
          split: with photographs.
          near: where rays begin.
          voxels, growing, config: static.
        """
        self.config, self._split, self._growing = config, split, growing
        self._near = near
        # Each later stage compiles the step anew, and what moves the field to its lattice; the last also
        # what looks for hidden cells.
        self.pauses = 1.7 * len(growing.shares) + 1.6 * (growing.unseen_below > 0.0)
        self.remedy = (
            f"Lower voxels.density_rate (now {voxels.density_rate}) or voxels.feature_rate "
            f"(now {voxels.feature_rate})"
        )
        self.transparent = has_alpha(split)
        static = {
            "growing": growing, "config": config,
            "transparent": self.transparent, "near": near,
        }  # fmt: skip
        self._one_step = functools.partial(growing_step, **static)
        self._devices: tuple[Any, ...] = ()
        self._scratch: Any = None
        self._tiles: tuple[int, np.ndarray, int] | None = None
        self._next, self._stage, self._rays = -1, 0, config.rays_per_batch

    def effort(self, total: int) -> float:
        """See `jaxnerf.fitting.Trainer`."""
        lengths = np.diff([0.0, *self._growing.shares, 1.0])
        growth = _GROWTH / (1.0 + _SAMPLING * (self._growing.finer - 1))
        voxels = [self._growing.voxels(stage, total) for stage in range(len(lengths))]
        cost = 1.0 + growth * (np.asarray(voxels) / 64.0) ** 3
        points = self._growing.points_of(len(lengths) - 1, total)
        if points:
            cost[-1] = 1.0 + _A_MILLION * points * 1e-6
        cost[1:] += 0.0 if self.config.adam_beta1 else _LATER
        later = _LATER_LOAD * float(np.sum(lengths[1:] * cost[1:] / cost[0]))
        return _BETWEEN * (float(lengths[0]) * self.load + later)

    @property
    def load(self) -> float:
        """See `jaxnerf.fitting.Trainer`; it is asked for before the second stage begins."""
        return _OF_ANY_BATCH + (1.0 - _OF_ANY_BATCH) * self._rays / self.config.rays_per_batch

    def last_stage(self, total: int) -> int:
        """See `jaxnerf.fitting.Trainer`."""
        return round(self._growing.shares[-1] * total) if self._growing.shares else 0

    def place(self, state: GrowingState) -> GrowingState:
        """See `jaxnerf.fitting.Trainer`."""
        chosen = devices_for(max(x.nbytes for x in jax.tree.leaves(state.params)))
        if chosen != self._devices:
            self._devices, self._scratch = chosen, None
            self._step = parallel(self._one_step, chosen, constants=1, axes=AXES, scratch=True)
            self._cameras = replicate(self._split.cameras, chosen)
        moments = shares.divided(self.whole(state).optimizer, chosen)
        placed = replicate(dataclasses.replace(state, optimizer=None), chosen)
        return dataclasses.replace(placed, optimizer=moments)

    def whole(self, state: GrowingState) -> GrowingState:
        """See `jaxnerf.fitting.Trainer`."""
        like = shapes_of_moments(state.params, self.config)
        return dataclasses.replace(state, optimizer=shares.whole(state.optimizer, like))

    def advance(self, state: GrowingState, number: int, total: int) -> tuple[GrowingState, dict]:
        """Take a step, after what is due before it."""
        if number != self._next:
            # Read once, and not at every step, which would wait for the device.
            self._stage, self._tiles, self._scratch = int(state.stage), None, None
            # Saved on other devices, perhaps.
            self._rays = divisible(int(state.rays), jax.device_count())
        self._next = number + 1
        stage = max(self._growing.stage(number, total), self._stage)
        state, changed = self._brought_up_to_date(state, number, stage)
        begins = changed or self._scratch is None
        if self._tiles is None or self._tiles[0] != stage:
            tiles = np.argwhere(np.asarray(state.tiles)).astype(np.int32)
            block = block_size(state.occupancy, self._split)
            tiles, block = from_first_process(usable_tiles(self._split, tiles, block))
            self._tiles = stage, tiles, int(block)
        _, tiles, block = self._tiles
        config = self.config
        batch = sample_blocks(
            self._split, tiles, block, self._rays, config.seed, number, config.background
        )
        if self._scratch is None:
            count = len(self._devices)
            self._scratch = memory_like(gradients_of(state, count), self._devices)
        share = local_share(batch, self._devices)
        state, metrics, self._scratch = self._step(state, share, self._cameras, self._scratch)
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
            given = self._split, growing, self.config, self._near
            changed = grow(local(bare), stage, *given)
        elif number and number % growing.refresh_every == 0:
            changed = refresh(local(bare), 0.3 * growing.empty_below)
            given = self._split, growing, self.config, _WORTH_COMPILING, self._near
            changed = size_batch(changed, *given)
        else:
            return state, False
        changed = of_first_process(changed, self.config)
        self._rays = divisible(int(changed.rays), jax.device_count())
        if moments is None:
            state = self.place(changed)
        else:
            state = dataclasses.replace(replicate(changed, self._devices), optimizer=moments)
        jax.block_until_ready(state)
        del changed
        hand_back()
        return state, True


def local(state: Any) -> Any:
    """What is the same on all devices, as NumPy arrays."""
    return jax.tree.map(np.asarray, state)


def block_size(occupancy: Occupancy, split: Split) -> int:
    """How many pixels to average along each side: as many as the voxels can tell apart, up to 4.

    A block is half as wide as a voxel in the middle of the scene, seen from the median distance.
    """
    poses, focal = (np.asarray(x) for x in (split.cameras.camera_to_world, split.cameras.focal))
    voxel, space = float(occupancy.step), occupancy.space
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

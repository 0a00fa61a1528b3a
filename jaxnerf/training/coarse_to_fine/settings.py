"""The settings of stages: when the fast field becomes finer, and how fine."""

import dataclasses
import math
from typing import no_type_check

import jax
from jaxtyping import Array, Bool, Int

from jaxnerf.errors import in_range, positive
from jaxnerf.sampling import Occupancy, OccupancySampler
from jaxnerf.scenes import Split
from jaxnerf.training.settings import TrainingConfig

# The most voxels along a side, since cells are numbered by int32; and the factor by which the number of
# voxels may differ from `resolutions` where `target_vertices` chooses it.
MOST_VOXELS, FINER_OR_COARSER = 1024, 1.5
# Lattice vertices of a typical scene, divided by the square of its voxels along a side: 16 to 35 in five
# scenes.
VERTICES_OF_A_SCENE = 21


@dataclasses.dataclass(frozen=True)
class CoarseToFineConfig:
    """The stages of the fast field, and how its rays are sampled in them.

    Attributes:
      resolutions: for each stage, the number of voxels along the side of the cube that holds the scene.
      fractions: the fractions of the total steps at which the second stage begins, the third, ...
      voxels_for_steps: limits resolutions in short runs: if this number times the cube root of the total
        steps is less than the last resolution, the resolutions of all stages after the first are reduced
        in that proportion. 0 for no limit, as when the user sets resolutions.
      target_vertices: the approximate number of lattice vertices in the last of several stages. The
        resolution is changed to reach it, by a factor of 1.5 at most (and voxels never become larger than
        in the stage before), so that memory does not depend on how much surface a scene has. A stage
        between the first and the last becomes coarser, within the same limits, if it would have more. In
        short runs the number is reduced too (`voxels_for_steps`). 0 keeps the resolution, as when the
        user sets resolutions alone.
      cells: number of occupancy cells along the side of the cube in the first stage; in later stages as
        many as voxels, if that is more.
      most_cells: the most occupancy cells along the side in any stage. A cell takes a byte of memory, and
        many more while the occupancy is updated.
      samples: maximum number of samples per ray, in a full batch with one sample per voxel.
      max_steps: maximum number of samples plus jumps per ray, in such a batch.
      mean_samples: length of the packed sample buffer of such a batch, divided by its number of rays. If
        rays need more samples, the batch has fewer rays; rays that overflow nevertheless are dropped.
      samples_per_voxel: number of samples per voxel along a ray. Two improve bounded scenes if there are
        minutes to train.
      refresh_every: number of steps between updates of the occupancy.
      empty_below: a cell counts as empty if the opacity of a voxel in it is less than this.
      unseen_below: a cell counts as hidden if its samples have less than this weight in every view;
        hidden cells are dropped when the last stage begins. 0 keeps them.
    """

    resolutions: tuple[int, ...] = (64, 128, 160)
    fractions: tuple[float, ...] = (0.1, 0.4)
    voxels_for_steps: float = 20.0
    target_vertices: int = 0
    cells: int = 96
    most_cells: int = 512
    samples: int = 40
    max_steps: int = 80
    mean_samples: float = 8.0
    samples_per_voxel: int = 2
    refresh_every: int = 250
    empty_below: float = 0.01
    unseen_below: float = 0.01

    def __post_init__(self) -> None:
        positive(self, "samples", "max_steps", "mean_samples", "samples_per_voxel", "refresh_every")
        in_range(self, resolutions=(8, MOST_VOXELS), cells=(8, 512), most_cells=(8, 512))
        if len(self.fractions) != len(self.resolutions) - 1:
            raise ValueError(
                f"fractions: {len(self.fractions)} for {len(self.resolutions)} resolutions; "
                "give one for each but the first"
            )
        if list(self.fractions) != sorted(self.fractions) or not all(
            0.0 < fraction < 1.0 for fraction in self.fractions
        ):
            raise ValueError(f"fractions: {self.fractions} do not increase between 0 and 1")

    def sampler(self, occupancy: Occupancy, fraction: float = 1.0) -> OccupancySampler:
        """How training's rays are sampled, in a batch of a fraction of the rays of a full one."""
        times = self.samples_per_voxel / fraction
        samples, max_steps = (math.ceil(limit * times) for limit in (self.samples, self.max_steps))
        return OccupancySampler(
            occupancy,
            samples=samples,
            max_steps=max_steps,
            mean_samples=self.mean_samples * times,
            samples_per_voxel=self.samples_per_voxel,
        )

    def sampler_for_pictures(self, occupancy: Occupancy) -> OccupancySampler:
        """The sampler of pictures: two samples per voxel, or as many as in training if that is more.

        In unbounded scenes as many as in training: rays take many more samples there, and two per voxel
        cost twice the time for 0.02 dB.
        """
        unbounded = occupancy.space is not None
        finer = self.samples_per_voxel if unbounded else max(2, self.samples_per_voxel)
        # Rays take 13 to 32 samples in captures, 11 to 14 by two per voxel in objects: a longer buffer is
        # empty for a part, and what overflows a shorter one is marched again (experiments/render_speed).
        samples, max_steps, mean = (96, 160, 24.0) if unbounded else (48, 80, 8.5)
        return OccupancySampler(
            occupancy,
            samples=samples * finer,
            max_steps=max_steps * finer,
            mean_samples=mean * finer,
            samples_per_voxel=finer,
        )

    def voxels(self, stage: int, total_steps: int) -> int:
        """How many voxels a stage has along the longest side, if `target_vertices` changes nothing.

        >>> CoarseToFineConfig(resolutions=(64, 128, 200)).voxels(2, 512)
        160
        """
        first, last = self.resolutions[0], self.resolutions[-1]
        fraction, resolution = self._filled(total_steps) / last, self.resolutions[stage]
        if not stage or fraction >= 1.0:
            return resolution
        filled = fraction * resolution
        even = rounded(filled, 8)
        closest = min(even, resolution, key=lambda voxels: abs(voxels - filled))
        return max(first, min(closest, resolution))

    def vertices_of(self, stage: int, total_steps: int) -> int:
        """How many lattice vertices a stage of a run of so many steps should keep; 0 is any number.

        Not more than a scene of usual surfaces has with as many voxels along a side as the steps fill.
        A stage between the first and the last has no other resolution than its own unless it would have
        more vertices: what is not yet known to be empty is not worth more than what stays in the end.

        >>> CoarseToFineConfig(resolutions=(64, 128, 200), target_vertices=1_000_000).vertices_of(2, 512)
        537600
        """
        if not self.target_vertices or not stage:
            return 0
        return max(
            1,
            round(min(self.target_vertices, VERTICES_OF_A_SCENE * self._filled(total_steps) ** 2)),
        )

    def _filled(self, total_steps: int) -> float:
        """How many voxels along a side so many steps fill."""
        return self.voxels_for_steps * total_steps ** (1 / 3) if self.voxels_for_steps else math.inf

    def cells_of(self, stage: int, total_steps: int) -> int:
        """How many occupancy cells a stage has along a side, if `target_vertices` changes nothing."""
        return self.cells_for(self.voxels(stage, total_steps)) if stage else self.cells

    def cells_for(self, voxels: int) -> int:
        """How many cells of the occupancy a later stage of so many voxels has along each side."""
        return min(max(self.cells, voxels), max(self.cells, self.most_cells))

    def stage(self, step: int, total_steps: int) -> int:
        """Which stage a step belongs to."""
        return sum(step >= round(fraction * total_steps) for fraction in self.fractions)


def rounded(voxels: float, parts: int = 16) -> int:
    """A computed number of voxels along a side, rounded to one of `parts` even steps of its octave.

    So runs whose steps or surfaces differ a little have arrays of the same shapes, for which programs are
    compiled once.

    >>> rounded(203.4), rounded(102.1), rounded(11.2), rounded(203.4, 8)
    (200, 104, 11, 208)
    """
    unit = max((1 << int(voxels).bit_length() - 1) // parts, 1) if voxels >= 1.0 else 1
    return unit * round(voxels / unit)


@dataclasses.dataclass(frozen=True)
class StageInputs:
    """All that the changes between steps depend on, besides the state.

    Attributes:
      split: the training photographs.
      config: when the lattice is refined, and how rays are sampled.
      training: the settings that all methods share.
      near: t at which rays begin.
    """

    split: Split
    config: CoarseToFineConfig
    training: TrainingConfig
    near: float = 0.0


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StageState:
    """The state of `CoarseToFine`. A pytree.

    Attributes:
      stage: index of the current stage.
      tiles: a mask of the tiles that showed an occupied cell when the stage began.
      rays: number of rays in a batch.
    """

    stage: Int[Array, ""]
    tiles: Bool[Array, "cameras rows columns"]
    rays: Int[Array, ""]

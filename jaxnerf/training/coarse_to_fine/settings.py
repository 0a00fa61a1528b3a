"""The settings of stages: when the fast field becomes finer, and how fine."""

import dataclasses
import math
from typing import no_type_check

import jax
from jaxtyping import Array, Bool, Int

from jaxnerf.checks import in_range, positive
from jaxnerf.sampling import Occupancy, OccupancySampler

# Voxels along a side: at most so many, since the number of a cell is an int32; and up to so many times
# more or fewer than a resolution says where the number of lattice points is chosen.
MOST_VOXELS, FINER_OR_COARSER = 1024, 1.5
# Lattice points of a scene, in squares of its voxels along a side: 16 to 35 in five scenes.
POINTS_OF_A_SCENE = 21


@dataclasses.dataclass(frozen=True)
class CoarseToFineConfig:
    """The stages of the fast field, and how its rays are sampled in them.

    Attributes:
      resolutions: of the stages: voxels along the longest side of what is known to hold the scene.
      fractions: of the steps, at which the second stage begins, the third, ...
      voxels_for_steps: where so many times the cube root of the steps is less than the last resolution,
        those of all stages after the first are smaller in that proportion: few steps do not fill many
        voxels. 0 keeps them whatever the steps, as a resolution that a user names is kept.
      points: of the lattice, that the last of several stages keeps where something is, about. For that
        it has up to 1.5 times more or fewer voxels along a side than its resolution says (but not larger
        ones than before it), so that a scene of much surface takes no more memory, and one of little has
        finer voxels. There are fewer where few steps do not fill them (`voxels_for_steps`). 0 for as many
        as the resolution says; also where a user names resolutions, but no points.
      cells: of the occupancy, along the same side, in the first stage; in a later one as many as
        voxels, if those are more.
      most_cells: of the occupancy, along that side, in any stage. A cell is a byte of memory, and many
        more while it is brought up to date.
      samples: of a ray, at most, in a full batch of one sample a voxel.
      max_steps: of a ray in the occupancy, at most, in such a batch.
      mean_samples: the room for samples of all rays of such a batch together, as a mean for each ray.
        While rays need more, a batch has fewer of them; those that overflow it nevertheless wait for
        another batch.
      samples_per_voxel: samples in each of the lattice's steps. Two pay where there are minutes, in
        bounded scenes.
      refresh_every: steps between updates of the occupancy.
      empty_below: opacity of a voxel below which its cell counts as empty.
      unseen_below: weight in every picture below which a cell counts as hidden, and is dropped when the
        last stage begins; 0 keeps hidden cells.
    """

    resolutions: tuple[int, ...] = (64, 128, 160)
    fractions: tuple[float, ...] = (0.1, 0.4)
    voxels_for_steps: float = 20.0
    points: int = 0
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
        """How pictures' rays are sampled: twice a step, or as often as in training if that is more.

        In a scene without an end rays take many more samples, and two a step cost twice the time for
        0.02 dB.
        """
        unbounded = occupancy.space is not None
        finer = self.samples_per_voxel if unbounded else max(2, self.samples_per_voxel)
        samples, max_steps, mean = (96, 160, 32.0) if unbounded else (48, 80, 6.0)
        return OccupancySampler(
            occupancy,
            samples=samples * finer,
            max_steps=max_steps * finer,
            mean_samples=mean * finer,
            samples_per_voxel=finer,
        )

    def voxels(self, stage: int, total_steps: int) -> int:
        """How many voxels a stage of a run of so many steps has along the longest side, but for `points`.

        >>> CoarseToFineConfig(resolutions=(64, 128, 200)).voxels(2, 512)
        160
        """
        first, last = self.resolutions[0], self.resolutions[-1]
        fraction = min(self._filled(total_steps) / last, 1.0)
        return max(first, round(fraction * self.resolutions[stage])) if stage else first

    def points_of(self, stage: int, total_steps: int) -> int:
        """How many lattice points a stage of a run of so many steps should keep; 0 is any number.

        Not more than a scene of usual surfaces has with as many voxels along a side as the steps fill.

        >>> CoarseToFineConfig(resolutions=(64, 128, 200), points=1_000_000).points_of(2, 512)
        537600
        """
        if not self.points or not 0 < stage == len(self.resolutions) - 1:
            return 0
        return max(1, round(min(self.points, POINTS_OF_A_SCENE * self._filled(total_steps) ** 2)))

    def _filled(self, total_steps: int) -> float:
        """How many voxels along a side so many steps fill."""
        return self.voxels_for_steps * total_steps ** (1 / 3) if self.voxels_for_steps else math.inf

    def cells_of(self, stage: int, total_steps: int) -> int:
        """How many cells of the occupancy a stage has along each side, but for `points`."""
        return self.cells_for(self.voxels(stage, total_steps)) if stage else self.cells

    def cells_for(self, voxels: int) -> int:
        """How many cells of the occupancy a later stage of so many voxels has along each side."""
        return min(max(self.cells, voxels), max(self.cells, self.most_cells))

    def stage(self, step: int, total_steps: int) -> int:
        """Which stage a step belongs to."""
        return sum(step >= round(fraction * total_steps) for fraction in self.fractions)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StageState:
    """What `CoarseToFine` remembers. A pytree.

    Attributes:
      stage: of which resolution the field is.
      tiles: which squares of the photographs can show something, at the stage's beginning.
      rays: how many a batch has.
    """

    stage: Int[Array, ""]
    tiles: Bool[Array, "cameras rows columns"]
    rays: Int[Array, ""]

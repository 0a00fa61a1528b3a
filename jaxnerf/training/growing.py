"""How the fast field grows from coarse to fine: its settings, and what is remembered of it."""

import dataclasses
import math
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnerf.sampling import Occupancy, OccupancySampler

# Poses move when there is something to be seen, and their rate decays to this share.
_FIRST_POSE_STEP, _FINAL_POSE_RATE = 0.02, 0.1
# Voxels along a side: at most so many, since the number of a cell is an int32; and up to so many times
# more or fewer than a resolution says where the number of lattice points is chosen.
MOST_VOXELS, FINER_OR_COARSER = 1024, 1.5
# Lattice points of a scene, in squares of its voxels along a side: 16 to 35 in five scenes.
POINTS_OF_A_SCENE = 21


@dataclasses.dataclass(frozen=True)
class GrowingConfig:
    """How a field grows.

    Attributes:
      resolutions: of the stages: voxels along the longest side of what is known to hold the scene.
      shares: of the steps, at which the second stage begins, the third, ...
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
      samples: steps of a ray where something is, at most, in a full batch.
      lookups: of a ray in the occupancy, at most, in a full batch of one sample a step.
      budget: steps of a ray where something is, in the mean of a full batch. While rays need more, a
        batch has fewer of them; those that overflow it nevertheless wait for another batch.
      finer: samples in each of the lattice's steps. Two pay where there are minutes, in bounded scenes.
      refresh_every: steps between updates of the occupancy.
      empty_below: opacity of a voxel below which its cell counts as empty.
      unseen_below: weight in every picture below which a cell counts as hidden, and is dropped when the
        last stage begins; 0 keeps hidden cells.
      sinking: how far all density falls in each step, as a share of its learning rate: empty
        stays what no photograph holds up. Of bounded scenes; 0 leaves density to the photographs.
      opacity_loss: weight of the squared error of opacity, where photographs have alpha.
      distortion_loss: weight of how far what a ray sees is spread out (mip-NeRF 360), in scenes without
        an end: it keeps fog from hanging before the cameras.
      final_rate: learning rates decay exponentially to this share of themselves.
      affine_colour: learn for each training photograph a matrix and an offset that make its colours of
        the scene's, where exposures and white balances differ. Pictures of the field are without them.
      refine_poses: learn for each training camera how far its pose is off; see
        `jaxnerf.training.calibration`.
      colour_rate, pose_rate: learning rates of these two. Poses are still for a fiftieth of the
        steps, and their rate decays to a tenth.
    """

    resolutions: tuple[int, ...] = (64, 128, 160)
    shares: tuple[float, ...] = (0.1, 0.4)
    voxels_for_steps: float = 20.0
    points: int = 0
    cells: int = 96
    samples: int = 40
    lookups: int = 80
    budget: float = 8.0
    finer: int = 2
    refresh_every: int = 250
    empty_below: float = 0.01
    unseen_below: float = 0.01
    sinking: float = 0.02
    opacity_loss: float = 0.1
    distortion_loss: float = 0.01
    final_rate: float = 0.05
    affine_colour: bool = False
    refine_poses: bool = False
    colour_rate: float = 5e-3
    pose_rate: float = 1e-3

    def sampler(self, occupancy: Occupancy, fraction: float = 1.0) -> OccupancySampler:
        """How training's rays are sampled, in a batch of a fraction of the rays of a full one."""
        times = self.finer / fraction
        samples, max_steps = (math.ceil(limit * times) for limit in (self.samples, self.lookups))
        return OccupancySampler(
            occupancy,
            samples=samples,
            max_steps=max_steps,
            mean_samples=self.budget * times,
            samples_per_voxel=self.finer,
        )

    def sampler_for_pictures(self, occupancy: Occupancy) -> OccupancySampler:
        """How pictures' rays are sampled: twice a step, or as often as in training if that is more.

        In a scene without an end rays take many more samples, and two a step cost twice the time for
        0.02 dB.
        """
        unbounded = occupancy.space is not None
        finer = self.finer if unbounded else max(2, self.finer)
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

        >>> GrowingConfig(resolutions=(64, 128, 200)).voxels(2, 512)
        160
        """
        first, last = self.resolutions[0], self.resolutions[-1]
        share = min(self._filled(total_steps) / last, 1.0)
        return max(first, round(share * self.resolutions[stage])) if stage else first

    def points_of(self, stage: int, total_steps: int) -> int:
        """How many lattice points a stage of a run of so many steps should keep; 0 is any number.

        Not more than a scene of usual surfaces has with as many voxels along a side as the steps fill.

        >>> GrowingConfig(resolutions=(64, 128, 200), points=1_000_000).points_of(2, 512)
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
        return max(self.cells, self.voxels(stage, total_steps)) if stage else self.cells

    def pose_share(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """What share of their learning rate poses have after a share of the steps."""
        since = (progress - _FIRST_POSE_STEP) / (1.0 - _FIRST_POSE_STEP)
        return jnp.where(since < 0.0, 0.0, jnp.float32(_FINAL_POSE_RATE) ** since)

    def stage(self, step: int, total_steps: int) -> int:
        """Which stage a step belongs to."""
        return sum(step >= round(share * total_steps) for share in self.shares)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Growth:
    """What `CoarseToFine` remembers. A pytree.

    Attributes:
      stage: of which resolution the field is.
      tiles: which squares of the photographs can show something, at the stage's beginning.
      rays: how many a batch has.
    """

    stage: Int[Array, ""]
    tiles: Bool[Array, "cameras rows columns"]
    rays: Int[Array, ""]

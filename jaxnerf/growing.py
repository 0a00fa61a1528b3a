"""Training of fields that grow from coarse to fine: what is asked of a field, how it grows, its state.

The step is `jaxnerf.growing_step`, growth `jaxnerf.growth`, the schedule of both `jaxnerf.stages`.
"""

import dataclasses
import math
from typing import Any, Protocol, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxnerf.adjustments import Adjustments
from jaxnerf.fields import Field, Params
from jaxnerf.marching import MarchSettings
from jaxnerf.occupancy import Occupancy
from jaxnerf.spaces import Ball, Frustum
from jaxnerf.training import TrainingConfig

# Poses move when there is something to be seen, and their rate decays to this share.
_FIRST_POSE_STEP, _FINAL_POSE_RATE = 0.02, 0.1
# Voxels along a side: at most so many, since the number of a cell is an int32; and up to so many times
# more or fewer than a resolution says where the number of lattice points is chosen.
MOST_VOXELS, FINER_OR_COARSER = 1024, 1.5
# Lattice points of a scene, in squares of its voxels along a side: 16 to 35 in five scenes.
POINTS_OF_A_SCENE = 21


class GrowingField(Field, Protocol):
    """What growth asks of a field: `jaxnerf.fields.voxels.VoxelField`, or your own.

    Its parameters have an attribute `voxel`, the size of the smallest thing that they can hold.
    """

    @property
    def initial_opacity(self) -> float:
        """Of a voxel, before training."""
        ...

    @property
    def density_rate(self) -> float:
        """Learning rate of what makes density."""
        ...

    @property
    def feature_rate(self) -> float:
        """Learning rate of what makes colour."""
        ...

    def from_cells(
        self,
        key: PRNGKeyArray,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
        voxel: float,
    ) -> Params:
        """Parameters before training; see `VoxelField.from_cells`."""
        ...

    def rates(self, params: Params) -> Params:
        """Learning rates, each broadcastable to its leaf; None for what has no gradient."""
        ...

    def points(self, cells: Bool[np.ndarray, "M M M"], voxels_a_cell: float) -> int:
        """How many lattice points `from_cells` or `refine` would keep for these cells.

        Asked for where `GrowingConfig.points` is set: the more voxels a cell, the more points.
        """
        ...

    def refine(
        self,
        params: Params,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
        voxel: float,
    ) -> Params:
        """The same field with smaller voxels, which may look at directions from now on."""
        ...

    def clear(
        self,
        params: Params,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
    ) -> Params:
        """The same field with nothing where no cell is."""
        ...

    def sink(self, params: Params, share: Float[Array, ""]) -> Params:
        """The same field with less density everywhere, by a share of its learning rate.

        Several devices each ask this of their own rows of long arrays; see `jaxnerf.shares`.
        """
        ...


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
      refine_poses: learn for each training camera how far its pose is off; see `jaxnerf.adjustments`.
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

    def march(self, share: float = 1.0) -> MarchSettings:
        """How training's rays walk, in a batch of a share of the rays of a full one."""
        times = self.finer / share
        samples, lookups = (math.ceil(limit * times) for limit in (self.samples, self.lookups))
        return MarchSettings(samples, lookups, self.budget * times, self.finer)

    def march_for_pictures(self, endless: bool = False) -> MarchSettings:
        """How pictures' rays walk: with two samples a step, or as many as in training if more.

        Args:
          endless: whether the scene has no end. Rays then take many more samples, and two a step cost
            twice the time for 0.02 dB.
        """
        if endless:
            finer = self.finer
            return MarchSettings(96 * finer, 160 * finer, 32.0 * finer, finer)
        finer = max(2, self.finer)
        return MarchSettings(48 * finer, 80 * finer, 6.0 * finer, finer)

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
class GrowingState:
    """All that changes in training. A pytree, replicated on every device.

    Attributes:
      step: how many steps were taken.
      total_steps: where the schedule ends.
      stage: of which resolution the field is.
      params: a tuple of the field's.
      optimizer: moments of what learns (`adam`); between steps what each device keeps of them (`AXES`).
      occupancy: where something is.
      tiles: which squares of the photographs can show something, at the stage's beginning.
      rays: how many a batch has.
      adjustments: what photographs and poses are found to be off by, if that is learned.
    """

    step: Int[Array, ""]
    total_steps: Int[Array, ""]
    stage: Int[Array, ""]
    params: tuple[Any, ...]
    optimizer: Any
    occupancy: Occupancy
    tiles: Bool[Array, "cameras rows columns"]
    rays: Int[Array, ""]
    adjustments: Adjustments | None = None


# For `jaxnerf.training.parallel`: all but the moments is the same on every device.
_AXES: dict[str, Any] = dict.fromkeys(part.name for part in dataclasses.fields(GrowingState))
_AXES["optimizer"] = 0
AXES = GrowingState(**_AXES)


def blank_state(
    field: GrowingField,
    config: TrainingConfig,
    space: Ball | Frustum | None = None,
    adjustments: Adjustments | None = None,
    params: Params | None = None,
) -> GrowingState:
    """A state of the right structure, for a scene of one cell; of given parameters, if there are any."""
    if params is None:
        params = field.init(jax.random.key(config.seed))
    # Of NumPy, since XLA compiles each of these little arrays for itself.
    arrays: dict[str, Any] = {
        "step": np.int32(0),
        "total_steps": np.int32(config.steps),
        "stage": np.int32(0),
        "tiles": np.ones((1, 1, 1), bool),
        "rays": np.int32(config.rays_per_batch),
    }
    cells, origin, one = np.full((1, 1, 1), 128, np.uint8), np.zeros(3, np.float32), np.float32(1.0)
    grid: dict[str, Any] = {"cells": cells, "origin": origin, "cell": one, "step": one}
    return GrowingState(
        **arrays,
        params=(params,),
        optimizer=first_moments(params, config),
        occupancy=Occupancy(**grid, space=space),
        adjustments=adjustments,
    )


def first_moments(params: Any, config: TrainingConfig) -> Any:
    """Moments before a step: zeros of NumPy, which take no memory until they are copied."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes_of_moments(params, config))


def shapes_of_moments(params: Any, config: TrainingConfig) -> Any:
    return jax.eval_shape(adam(config).init, learned(params))


def learned(params: Any) -> Any:
    """What gradients are for: the leaves of real numbers; None for the others."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None, params
    )


def merge(learning: Any, params: Any) -> Any:
    """The inverse of `learned`, which takes the other leaves from params."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, learning, params, is_leaf=lambda x: x is None
    )


def adam(config: TrainingConfig) -> optax.GradientTransformation:
    """Adam's direction; the rates are the field's.

    Without momentum, as in the presets, it keeps no first moment: less to move in memory, and rows that
    few rays meet do not drift on after what one of them said.
    """
    if config.adam_beta1 == 0.0:
        return optax.scale_by_rms(
            config.adam_beta2, config.adam_epsilon, eps_in_sqrt=False, bias_correction=True
        )
    return optax.scale_by_adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon)

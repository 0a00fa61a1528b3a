"""Training of fields that grow from coarse to fine: what a step is. (`jaxnerf.stages` is the growth.)

As in `jaxnerf.training`, the step is written for one device with an explicit mean over the named axis,
and the batch of step n is a function of (seed, n), of what the stage began with, and of the state's
number of rays.
"""

import dataclasses
import math
from typing import Any, Protocol, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxnerf import shares
from jaxnerf.adjustments import Adjustments, step_adjustments
from jaxnerf.blocks import Blocks
from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.compositing import over
from jaxnerf.fields import Field, Params
from jaxnerf.marching import MarchSettings, march_rays
from jaxnerf.occupancy import Occupancy
from jaxnerf.spaces import Ball, Frustum
from jaxnerf.training import AXIS, TrainingConfig

# Poses move when there is something to be seen, and their rate decays to this share.
_FIRST_POSE_STEP, _FINAL_POSE_RATE = 0.02, 0.1


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
        """The same field with less density everywhere, by a share of what a step may change.

        Several devices each ask this of their own rows of long arrays; see `jaxnerf.shares`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class GrowingConfig:
    """How a field grows.

    Attributes:
      resolutions: of the stages: voxels along the longest side of what is known to hold the scene.
      shares: of the steps, at which the second stage begins, the third, ...
      cells: of the occupancy, along the same side, in the first stage; in a later one as many as
        voxels, if those are more.
      samples: steps of a ray where something is, at most, in a full batch.
      lookups: of a ray in the occupancy, at most, in a full batch of one sample a step.
      budget: steps of a ray where something is, in the mean of a full batch. While rays need more, a
        batch has fewer of them; those that overflow it nevertheless wait for another batch.
      finer: samples in each of the lattice's steps. Two pay where there are minutes, in bounded scenes.
      refresh_every: steps between updates of the occupancy.
      empty_below: opacity of a voxel below which its cell counts as empty.
      unseen_below: weight in every picture below which a cell counts as hidden; 0 keeps hidden cells.
      sinking: how far all density falls in each step, as a share of what the step may move it: empty
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

    def cells_of(self, stage: int) -> int:
        """How many cells of the occupancy a stage has along each side."""
        return max(self.cells, self.resolutions[stage]) if stage else self.cells

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
      optimizer: Adam's moments of what learns; between steps what each device keeps of them (`AXES`).
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
) -> GrowingState:
    """A state of the right structure, for a scene of one cell."""
    params = field.init(jax.random.key(config.seed))
    one = jnp.ones((), jnp.float32)
    return GrowingState(
        step=jnp.zeros((), jnp.int32),
        total_steps=jnp.asarray(config.steps, jnp.int32),
        stage=jnp.zeros((), jnp.int32),
        params=(params,),
        optimizer=adam(config).init(learned(params)),
        occupancy=Occupancy(jnp.full((1, 1, 1), 128, jnp.uint8), jnp.zeros(3), one, one, space),
        tiles=jnp.ones((1, 1, 1), bool),
        rays=jnp.asarray(config.rays_per_batch, jnp.int32),
        adjustments=adjustments,
    )


def growing_step(
    state: GrowingState,
    batch: Blocks,
    key: PRNGKeyArray,
    cameras: Camera,
    scratch: Any = None,
    axis_name: str = AXIS,
    *,
    field: GrowingField,
    growing: GrowingConfig,
    config: TrainingConfig,
    transparent: bool,
) -> tuple[GrowingState, dict[str, Float[Array, ""]], Any]:
    """One step on one device of the named axis; see `jaxnerf.training.train_step`.

    Args:
      state, batch, key, cameras: as there.
      scratch: `gradients_of` in `jaxnerf.training.memory_like`, to be overwritten; or None.
      axis_name: of the devices.
      field, growing, config: static.
      transparent: whether the photographs have alpha.

    Returns:
      The next state; metrics: "loss", "mse", "learning_rate" (as a share), "gradient_norm",
      "rays" (drawn), "samples" (a ray), "dropped" and "cut" (shares of the rays that overflowed the
      budget and had to wait for another batch, and that ran out of samples or lookups); and the scratch.
    """
    (params,) = state.params
    jitter_key, background_key = jax.random.split(jax.random.fold_in(key, state.step))
    count = batch.camera.shape[0]
    whole = count * jax.lax.axis_size(axis_name)

    def drawn(numbers: Array) -> Array:
        """This device's part of what is drawn for the whole batch: the same on any devices."""
        return jax.lax.dynamic_slice_in_dim(numbers, jax.lax.axis_index(axis_name) * count, count)

    jitter = drawn(jax.random.uniform(jitter_key, (whole,)))
    given = cast_rays(cameras[batch.camera], jnp.asarray(batch.middle))
    background = {
        "white": lambda: jnp.ones((count, 3)),
        "black": lambda: jnp.zeros((count, 3)),
        "random": lambda: drawn(jax.random.uniform(background_key, (whole, 3))),
    }[config.background]()
    colour = batch.colour()
    alpha = colour[:, 3]
    target = over(colour[:, :3], alpha, background)

    def loss_of(learning):
        learning, adjusting = learning
        rays, adjustments = given, state.adjustments
        if adjustments is not None:
            adjustments = adjustments.with_learned(adjusting)
            rays = cast_rays(adjustments.cameras(cameras)[batch.camera], jnp.asarray(batch.middle))
        seen = march_rays(
            field, merge(learning, params), state.occupancy, rays,
            growing.march(whole / config.rays_per_batch), None, background, jitter,
        )  # fmt: skip
        shown, opacity = seen.rendering.colour, seen.rendering.opacity
        if adjustments is not None:
            # Behind what alpha has cut out the background is ours, and not the photograph's.
            covered = opacity if transparent else jnp.ones_like(opacity)
            behind = (1.0 - covered)[:, None] * background
            shown = adjustments.colour(jnp.asarray(batch.camera), shown, covered, behind)
        weight = seen.kept.astype(jnp.float32)
        total = jnp.maximum(jnp.sum(weight), 1.0)
        mse = jnp.sum(weight * jnp.mean((shown - target) ** 2, axis=-1)) / total
        loss = mse
        if transparent:
            error = (opacity - alpha) ** 2
            loss = loss + growing.opacity_loss * jnp.sum(weight * error) / total
        if state.occupancy.space is not None and growing.distortion_loss > 0.0:
            spread = jnp.sum(weight * seen.distortion) / total
            loss = loss + growing.distortion_loss * spread
        counts = {
            "mse": mse,
            "rays": jnp.float32(whole),
            "samples": seen.samples.astype(jnp.float32) / total,
            "dropped": 1.0 - jnp.mean(weight),
            "cut": jnp.mean(seen.cut.astype(jnp.float32)),
        }
        return loss, counts

    adjustments = state.adjustments
    start = learned(params), None if adjustments is None else adjustments.learned
    (loss, counts), gradients = jax.value_and_grad(loss_of, has_aux=True)(start)
    devices = jax.lax.axis_size(axis_name)
    if devices > 1:  # XLA:CPU would copy them for one device
        loss, counts = jax.lax.pmean((loss, counts), axis_name)
    share = shares.summed(gradients[0], axis_name), jax.lax.psum(gradients[1], axis_name)
    loss, scratch = _written_over(scratch, loss, (gradients, share if devices > 1 else None))
    # Of the sum, which is there: the mean is made where it is used, and never stored.
    norm = shares.norm(share[0], gradients[0], axis_name) / devices
    gradients, of_adjustments = jax.tree.map(lambda part: part / devices, share)
    progress = state.step.astype(jnp.float32) / jnp.maximum(state.total_steps, 1).astype(
        jnp.float32
    )
    decay = jnp.float32(growing.final_rate) ** progress
    updates, optimizer = _adam_step(gradients, state.optimizer, config)
    moved = jax.tree.map(
        lambda value, update, rate: value - decay * rate * update,
        shares.own(learned(params), axis_name), updates, shares.own(field.rates(params), axis_name),
    )  # fmt: skip
    if growing.sinking > 0.0:
        moved = learned(field.sink(merge(moved, params), decay * growing.sinking))
    moved = merge(shares.gathered(moved, learned(params), axis_name), params)
    if adjustments is not None:
        rates = growing.colour_rate * decay, growing.pose_rate * growing.pose_share(progress)
        adjustments = step_adjustments(adjustments, of_adjustments, cameras, rates, config)
    metrics = {
        "loss": loss,
        "learning_rate": decay,
        "gradient_norm": norm,
        **counts,
    }
    following = dataclasses.replace(
        state, step=state.step + 1, params=(moved,), optimizer=optimizer,
        adjustments=adjustments,
    )  # fmt: skip
    return following, metrics, scratch


def gradients_of(state: GrowingState, devices: int) -> Any:
    """What a step's gradients look like: those of one device, and its share of several devices' sum."""
    adjustments = state.adjustments
    others = None if adjustments is None else adjustments.learned
    table = jax.eval_shape(lambda: learned(state.params[0]))
    share = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(shares.share_of(x.shape, devices), x.dtype), table
    )
    return (table, others), (share, others) if devices > 1 else None


def _written_over(scratch: Any, loss: Array, gradients: Any) -> tuple[Array, Any]:
    """Have the compiler keep gradients where the scratch was, which it may since that is donated.

    For that the scratch must be an argument that is used, here for nothing.
    """
    first = [part.reshape(-1)[0] for part in jax.tree.leaves(scratch)]
    loss, _ = jax.lax.optimization_barrier((loss, first))
    return loss, gradients


def _adam_step(gradients: Any, moments: Any, config: TrainingConfig) -> tuple[Any, Any]:
    """Adam's directions and new moments.

    With the leading dimension that the moments have outside of the mapped step: from those without it
    XLA:CPU makes the directions and the new moments apart, and copies the old ones for that.
    """
    # Optax raises a float to the power of an integer, which strict users' settings refuse.
    with jax.numpy_dtype_promotion("standard"):
        results = adam(config).update(*_one_more((gradients, moments)))
    return jax.tree.map(lambda x, like: x.reshape(like.shape), results, (gradients, moments))


def _one_more(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None] if x.ndim else x, tree)


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
    """Adam's direction; the rates are the field's."""
    return optax.scale_by_adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon)

"""The state of training, and the batch and target of a step."""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from jaxnerf.compositing import over
from jaxnerf.fields import as_pytree


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training. A pytree, the same on every device but for the optimizer's state.

    Attributes:
      step: number of steps taken.
      total_steps: the step at which the schedules end. In a checkpoint it is 0 if a run with a time
        budget ended before it was fixed.
      params: the field's parameters; with a field per level of sampling, a tuple.
      optimizer: the optimizer's state. With several devices each holds a part of it
        (`jaxnerf.training.sharding`).
      field: the field in its current structure (such as its lattice), or a tuple of one per level.
      sampler: the current sampler.
      strategy: the strategy's own state; () if it has none.
      calibration: the learned colour corrections and camera poses; None if these are not learned.
    """

    step: Int[Array, ""]
    total_steps: Int[Array, ""]
    params: Any
    optimizer: Any
    field: Any
    sampler: Any
    strategy: Any = ()
    calibration: Any = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Square blocks of P pixels, each rendered by one ray through its middle. A pytree.

    Attributes:
      camera: index of each block's camera.
      middle: (x, y) of the middle of the block, in pixels.
      pixels: RGBA of the block's pixels, with straight alpha.
      background: colour behind the scene.
      jitter: position of the ray's samples in their intervals, in [0, 1), for `OccupancySampler`.
      depth: [*batch], t of a known point on the ray; None if no points are known.
      certainty: [*batch], weight of `depth` in the loss; 0 for rays without a known point.
      transparent: whether the photographs have alpha; static.
    """

    camera: Int[np.ndarray, "*batch"]
    middle: Float[np.ndarray, "*batch 2"]
    pixels: UInt8[np.ndarray, "*batch P 4"]
    background: Float[np.ndarray, "*batch 3"]
    jitter: Float[np.ndarray, "*batch"]
    depth: Any = None
    certainty: Any = None
    transparent: bool = dataclasses.field(default=True, metadata={"static": True})

    def premultiplied(self) -> Float[Array, "*batch 4"]:
        """The mean of RGB times alpha, and of alpha, in [0, 1]."""
        pixels = jnp.asarray(self.pixels).astype(jnp.float32) * (1.0 / 255.0)
        alpha = pixels[..., 3:]
        return jnp.mean(jnp.concatenate([pixels[..., :3] * alpha, alpha], axis=-1), axis=-2)

    def target(self) -> "Target":
        """The ground truth of the batch's rays: the mean of each block, over the background."""
        colour, background = self.premultiplied(), jnp.asarray(self.background)
        alpha = colour[..., 3]
        return Target(
            colour=over(colour[..., :3], alpha, background),
            alpha=alpha if self.transparent else None,
            background=background,
            camera=jnp.asarray(self.camera),
            depth=None if self.depth is None else jnp.asarray(self.depth),
            certainty=None if self.depth is None else jnp.asarray(self.certainty),
        )


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Target:
    """The ground truth of rays: the photographs' colour, alpha and known depth. A pytree.

    Attributes:
      colour: mean sRGB of the ray's block of pixels, in [0, 1], over the background.
      alpha: mean alpha of the block, in [0, 1]; None if the photographs have no alpha.
      background: colour behind the scene.
      camera: index of each ray's photograph.
      depth: t of a known point on the ray; None if no points are known.
      certainty: weight of `depth` in the loss; 0 for rays without a known point.
    """

    colour: Float[Array, "*batch 3"]
    alpha: Float[Array, "*batch"] | None
    background: Float[Array, "*batch 3"]
    camera: Int[Array, "*batch"]
    depth: Float[Array, "*batch"] | None = None
    certainty: Float[Array, "*batch"] | None = None


def begin(
    field: Any,
    params: Any,
    sampler: Any,
    optimizer: optax.GradientTransformation,
    total_steps: int,
) -> TrainState:
    """The state before the first step.

    Args:
      field: a field, or a tuple of one for each level of the sampler.
      params: the field's parameters.
      sampler: places samples.
      optimizer: that will take the steps.
      total_steps: number of steps of the schedules.
    """
    steps: dict[str, Any] = {"step": np.int32(0), "total_steps": np.int32(total_steps)}
    return TrainState(
        **steps,
        params=params,
        optimizer=optimizer.init(params),
        field=as_pytree(field),
        sampler=sampler,
    )


def with_optimizer(state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
    """A state with the optimizer's state before its first step, which is all zeros, as Adam's is.

    The zeros are NumPy's, which take no memory until they are copied. If the parameters are shapes and
    types alone (`jax.ShapeDtypeStruct`), so is the optimizer's state.
    """
    shapes = jax.eval_shape(optimizer.init, state.params)
    if not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state.params)):
        shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return dataclasses.replace(state, optimizer=shapes)

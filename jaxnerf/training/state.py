"""What training changes, and what it learns from: the state and the batch of a step."""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from jaxnerf.compositing import over
from jaxnerf.fields import as_pytree
from jaxnerf.training.sharding import broadcast_from_process_0


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training. A pytree, the same on every device but for the optimizer's state.

    Attributes:
      step: how many steps were taken.
      total_steps: where the schedules end.
      params: of the field; of several levels' fields, a tuple.
      optimizer: the optimizer's state. Between steps of several devices each has a part of it
        (`jaxnerf.training.sharding`).
      field: that is trained, with the structure that it has now; or a tuple of one for each level.
      sampler: that places samples now.
      strategy: what the strategy remembers; () of those that remember nothing.
      calibration: what photographs and cameras are found to be off by; None if that is not learned.
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
    """Squares of pixels to learn from, each seen by one ray through its middle. A pytree.

    Attributes:
      camera: of each square, by its number.
      middle: (x, y) of the square, in pixels.
      pixels: of the square, with straight alpha.
      background: behind the scene there.
      jitter: where in their intervals the ray's samples lie, in [0, 1), for samplers that take one
        number a ray.
      depth: [*batch], where a point is known that the square shows, in units of the ray's direction;
        None if none is known.
      certainty: [*batch], how much that counts; 0 where no point is known.
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
        """What the rays should show."""
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
    """What photographs show where rays look. A pytree.

    Attributes:
      colour: sRGB in [0, 1], over the background.
      alpha: in [0, 1]; None where photographs have none.
      background: behind the scene.
      camera: the number of each ray's photograph.
      depth: of a known point on the ray, in units of its direction; None if none is known.
      certainty: how much that counts; 0 on rays of which no point is known.
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
      params: of the field.
      sampler: places samples.
      optimizer: that will take the steps.
      total_steps: of the schedules.
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
    """A state with the optimizer's before its first step.

    Those are NumPy's zeros, which take no memory until they are copied, as Adam's state begins; where the
    state is one of shapes and types alone, so is the optimizer's.
    """
    shapes = jax.eval_shape(optimizer.init, state.params)
    if not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state.params)):
        shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return dataclasses.replace(state, optimizer=shapes)


def from_process_0(
    state: TrainState, optimizer: optax.GradientTransformation | None = None
) -> TrainState:
    """The state before a step that process 0 has made, on all of them.

    All processes make one, so that none waits for long, and their shapes can differ; see
    `jaxnerf.training.sharding.broadcast_from_process_0`.

    Args:
      state: without the optimizer's.
      optimizer: whose state before its first step is added; None adds none.
    """
    state = broadcast_from_process_0(state)
    if optimizer is None:
        return state
    return with_optimizer(state, optimizer)

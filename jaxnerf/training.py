"""Training: what a step is, and how it is spread over devices. (The loop is `jaxnerf.fitting`.)

`train_step` is written for one device, with an explicit mean over the named axis. `parallel` maps it
over all devices of all hosts, in one line. The batch of step n is a function of (seed, n) alone, and
the randomness of a ray one of (key, n, the ray's place in the global batch): neither the number of
devices nor an interruption changes what is computed, but for rounding.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt8

from jaxnerf.backgrounds import Background, colour_of
from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.compositing import Compositing, over
from jaxnerf.fields import Field
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.placement import AXIS, local_share, replicate
from jaxnerf.rendering import rays_that_fit, render_rays
from jaxnerf.sampling import Hierarchical
from jaxnerf.sampling.intervals import Spacing
from jaxnerf.scenes import Split

# Evaluations of the field in one pass; see `rays_that_fit`.
_EVALUATIONS_ON_CPU = 1 << 11


@dataclasses.dataclass(frozen=True)
class RenderSettings:
    """How the paper's network is sampled and composited. Static under jit.

    Attributes:
      samples, spacing, sample_at: see `jaxnerf.sampling.Hierarchical`.
      compositing: see `jaxnerf.render_rays`.
      density_noise: in training, the standard deviation of noise on the field's density before its
        activation.
    """

    samples: tuple[int, ...] = (64, 128)
    spacing: Spacing = "depth"
    sample_at: Literal["middle", "start"] = "middle"
    compositing: Compositing = "volume"
    density_noise: float = 0.0

    def sampler(self) -> Hierarchical:
        """What places the samples."""
        return Hierarchical(self.samples, self.spacing, self.sample_at)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a field is trained.

    Attributes:
      steps: how many; with a time budget the number that fits, at most this.
      max_seconds: time budget, from the start of the process; 0 for none. The number of steps is
        fixed early on to what fits, and mended in the last stage; the learning rate decays over those.
      rays_per_batch: in each step, over all devices.
      rays_per_pass: of those, at most so many on one device in one forward and backward pass; the
        passes' gradients are averaged. Memory grows with it, the result does not depend on it. 0
        is all at once.
      one_image_per_batch: draw each batch from one photograph, as in the paper, or from all.
      background: what lies behind the scene, and what photographs with alpha are blended on: "white",
        "black", a colour in sRGB like "#8090a0", or "random", a new colour for each ray, which keeps a
        field from painting empty space; "auto", what suits the scene: where photographs have no alpha,
        the plain colour along their borders.
      learning_rate, final_learning_rate: of Adam; decays log-linearly from one to the other.
      delay_steps, delay_factor: the rate starts at this factor of itself and reaches its full value
        after so many steps (at most a tenth of the run).
      adam_beta1, adam_beta2, adam_epsilon: of Adam.
      coarse_loss: weight of the loss of every level but the last.
      seed: of everything random.
    """

    steps: int = 1_000_000
    max_seconds: float = 0.0
    rays_per_batch: int = 4096
    rays_per_pass: int = 0
    one_image_per_batch: bool = False
    background: Background = "auto"
    learning_rate: float = 5e-4
    final_learning_rate: float = 5e-6
    delay_steps: int = 2500
    delay_factor: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-7
    coarse_loss: float = 1.0
    seed: int = 0


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training. A pytree, replicated on every device.

    Attributes:
      step: how many steps were taken.
      total_steps: where the learning rate's schedule ends.
      params: a tuple, of each level's field.
      optimizer: Adam's moments.
    """

    step: Int[Array, ""]
    total_steps: Int[Array, ""]
    params: tuple[Any, ...]
    optimizer: Any


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Pixels to learn from: which camera, where, and what colour it saw."""

    camera: Int[np.ndarray, "*batch"]
    pixel: Int[np.ndarray, "*batch 2"]
    colour: UInt8[np.ndarray, "*batch 4"]


@functools.partial(jax.jit, static_argnames=("fields", "config"))
def create_state(fields: tuple[Field, ...], config: TrainingConfig) -> TrainState:
    """The state before the first step."""
    keys = jax.random.split(jax.random.key(config.seed), len(fields))
    params = tuple(field.init(key) for field, key in zip(fields, keys, strict=True))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        total_steps=jnp.asarray(config.steps, jnp.int32),
        params=params,
        optimizer=_adam(config).init(params),
    )


def learning_rate(
    config: TrainingConfig, step: Int[Array, ""], total_steps: Int[Array, ""]
) -> Float[Array, ""]:
    """Log-linear decay with a delayed start (JaxNeRF's schedule); constant after the last step.

    The delay multiplies by delay_factor + (1 - delay_factor) sin(pi/2 step/delay_steps).
    """
    taken, total = step.astype(jnp.float32), total_steps.astype(jnp.float32)
    decay = optax.exponential_decay(
        config.learning_rate, 1, config.final_learning_rate / config.learning_rate
    )
    delay_steps = jnp.minimum(float(config.delay_steps), 0.1 * total)
    ramp = jnp.sin(0.5 * jnp.pi * jnp.minimum((taken + 1e-9) / (delay_steps + 1e-9), 1.0))
    rate = jnp.asarray(decay(jnp.minimum(taken / jnp.maximum(total, 1.0), 1.0)))
    return rate * (config.delay_factor + (1.0 - config.delay_factor) * ramp)


def sample_batch(split: Split, config: TrainingConfig, step: int) -> Batch:
    """The global batch of a step: pixels drawn evenly, with replacement, from those that count."""
    assert split.images is not None
    count, height, width = split.images.shape[:3]
    random = np.random.Generator(np.random.Philox(key=[config.seed, step]))
    size = config.rays_per_batch
    camera = random.integers(count, size=1 if config.one_image_per_batch else size, dtype=np.int32)
    camera = np.broadcast_to(camera, (size,))
    x = random.integers(width, size=size, dtype=np.int32)
    y = random.integers(height, size=size, dtype=np.int32)
    if split.masks is not None and config.one_image_per_batch:
        chosen = random.choice(np.flatnonzero(split.masks[camera[0]]), size=size)
        y, x = np.divmod(chosen.astype(np.int32), np.int32(width))
    elif split.masks is not None:
        camera = camera.copy()
        while (again := np.flatnonzero(~split.masks[camera, y, x])).size:
            camera[again] = random.integers(count, size=again.size, dtype=np.int32)
            x[again] = random.integers(width, size=again.size, dtype=np.int32)
            y[again] = random.integers(height, size=again.size, dtype=np.int32)
    return Batch(camera, np.stack([x, y], axis=-1), split.images[camera, y, x])


def batch_loss(
    params: tuple[Any, ...],
    batch: Batch,
    keys: Key[Array, " batch"],
    cameras: Camera,
    bounds: Float[Array, "2"],
    *,
    fields: Sequence[Field],
    settings: RenderSettings,
    config: TrainingConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean squared error of a batch, over all levels, and that of the last level alone.

    Args:
      params: of each level's field.
      batch: of one device, or a part of it.
      keys: one for each ray.
      cameras: all that the batch refers to.
      bounds: near and far.
      fields, settings, config: static.
    """

    def ray_errors(camera, pixel, colour, key):
        render_key, background_key = jax.random.split(key)
        if config.background == "random":
            background = jax.random.uniform(background_key, (3,))
        else:
            background = jnp.asarray(colour_of(config.background), jnp.float32)
        rgba = colour.astype(jnp.float32) / 255.0
        target = over(rgba[:3] * rgba[3], rgba[3], background)
        rays = cast_rays(cameras[camera], pixel.astype(jnp.float32) + 0.5, bounds[0], bounds[1])
        asked = tuple(fields)
        if settings.density_noise:
            keys = jax.random.split(jax.random.fold_in(render_key, 1), len(asked))
            asked = tuple(
                NoisyField(field, keys[level], settings.density_noise)
                for level, field in enumerate(asked)
            )
        seen = render_rays(
            asked, params, rays, settings.sampler(), render_key, background,
            compositing=settings.compositing, proposals=True,
        )  # fmt: skip
        levels = (*seen.proposals, seen)
        return jnp.stack([jnp.mean((level.colour - target) ** 2) for level in levels])

    errors = jax.vmap(ray_errors)(batch.camera, batch.pixel, batch.colour, keys).mean(axis=0)
    return errors[-1] + config.coarse_loss * jnp.sum(errors[:-1]), errors[-1]


def train_step(
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    cameras: Camera,
    bounds: Float[Array, "2"],
    axis_name: str = AXIS,
    *,
    fields: Sequence[Field],
    settings: RenderSettings,
    config: TrainingConfig,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step on one device of the named axis.

    Args:
      state: the same on every device.
      batch: this device's share of the global batch; equal shares in the order of the devices.
      key: the run's; the same in every step and on every device.
      cameras, bounds, fields, settings, config: see `batch_loss`.

    Returns:
      The next state, and metrics: "loss", "mse" (of the last level), "learning_rate",
      "gradient_norm".
    """
    count = batch.camera.shape[0]
    first = jax.lax.axis_index(axis_name) * count
    step_key = jax.random.fold_in(key, state.step)
    keys = jax.vmap(lambda ray: jax.random.fold_in(step_key, ray))(first + jnp.arange(count))

    most = config.rays_per_pass or rays_that_fit(settings.sampler(), _EVALUATIONS_ON_CPU)
    size = next(divisor for divisor in range(min(most, count), 0, -1) if count % divisor == 0)
    gradient = jax.value_and_grad(batch_loss, has_aux=True)

    def one_pass(part):
        (loss, mse), gradients = gradient(
            state.params, *part, cameras, bounds, fields=fields, settings=settings, config=config
        )
        return loss, mse, gradients

    if count == size:
        mean = one_pass((batch, keys))
    else:
        parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (batch, keys))
        zeros = jax.tree.map(jnp.zeros_like, (jnp.float32(0.0), jnp.float32(0.0), state.params))
        summed, _ = jax.lax.scan(
            lambda total, part: (jax.tree.map(jnp.add, total, one_pass(part)), None), zeros, parts
        )
        mean = jax.tree.map(lambda x: x * (size / count), summed)
    loss, mse, gradients = jax.lax.pmean(mean, axis_name)

    rate = learning_rate(config, state.step, state.total_steps)
    # Optax raises a float to the power of an integer, which strict users' settings refuse.
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer = _adam(config).update(gradients, state.optimizer, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    metrics = {
        "loss": loss,
        "mse": mse,
        "learning_rate": rate,
        "gradient_norm": optax.tree.norm(gradients),
    }
    return TrainState(state.step + 1, state.total_steps, params, optimizer), metrics


class NerfTrainer:
    """Takes steps of `train_step`; see `jaxnerf.fitting.Trainer`."""

    pauses, load = 0.0, 1.0

    def __init__(
        self,
        split: Split,
        near: float,
        far: float,
        *,
        fields: Sequence[Field],
        settings: RenderSettings,
        config: TrainingConfig,
    ):
        """Prepare; the arguments are those of `batch_loss`, and a split with photographs."""
        static = {"fields": tuple(fields), "settings": settings, "config": config}
        self.config, self._split = config, split
        self.remedy = (
            f"Lower training.learning_rate (now {config.learning_rate}), or lengthen "
            "training.delay_steps"
        )
        self._step = parallel(lambda *arguments: train_step(*arguments, **static))
        self._key = jax.random.key(config.seed)
        self._constant = replicate((split.cameras, np.asarray([near, far], np.float32)))

    def effort(self, total: int) -> float:
        """See `jaxnerf.fitting.Trainer`."""
        return 1.0

    def last_stage(self, total: int) -> int:
        """See `jaxnerf.fitting.Trainer`."""
        return 0

    def place(self, state: TrainState) -> TrainState:
        """See `jaxnerf.fitting.Trainer`."""
        return replicate(state)

    def whole(self, state: TrainState) -> TrainState:
        """See `jaxnerf.fitting.Trainer`."""
        return state

    def advance(self, state: TrainState, number: int, total: int) -> tuple[TrainState, dict]:
        """Take a step."""
        batch = local_share(sample_batch(self._split, self.config, number))
        return self._step(state, batch, self._key, *self._constant)


def parallel(
    step: Callable,
    devices: Sequence[Any] | None = None,
    *,
    constants: int = 3,
    axes: Any = None,
    scratch: bool = False,
) -> Callable:
    """Map a per-device step over all devices; the one place that knows how.

    The state and what is constant are replicated (given and returned whole), batches are given with
    a leading dimension of this host's devices. (`jax.shard_map` over a mesh of the same devices with
    specs P(), P(AXIS), P(), P(), P() is the twin of this line.)

    Args:
      step: of a state, a batch and what is constant, which returns the state and metrics.
      devices: all by default.
      constants: how many arguments are constant: of `train_step` its key, its cameras and its bounds.
      axes: a prefix of the state: 0 where each device has its own (see `jaxnerf.placement.spread`), None
        elsewhere.
      scratch: whether there is one more argument, each device's own memory, for the step to overwrite
        and to return as its third result (see `jaxnerf.placement.memory_like`).
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(axes, 0, *(None,) * constants, *(0,) * scratch),
        out_axes=(axes, None, *(0,) * scratch),
        devices=devices,
        donate_argnums=(0, 2 + constants) if scratch else 0,
    )


def agreed(value: float) -> float:
    """The first process's number, on all: clocks differ, and decisions must not."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def _adam(config: TrainingConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon)

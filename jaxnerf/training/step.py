"""The training step, for every field, sampler, loss and optimizer.

The step is written for one device, with an explicit sum over the named axis; `sharding.parallel` maps it
over all devices of all hosts, in one place. The batch of step n is a function of (seed, n) alone and the
randomness of a ray one of (key, n, the ray's place in the global batch): an interruption changes nothing
of what is computed, and the number of devices nothing but roundings and, of packed samples, which rays
are dropped: each device has its own buffer, and its loss is the mean over the rays that fit into it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.compositing import Compositing
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.rendering import Rendering, render_rays
from jaxnerf.sampling import ComposedSamples, OccupancySampler
from jaxnerf.training import sharding
from jaxnerf.training.losses import Loss
from jaxnerf.training.optimizers import Schedule
from jaxnerf.training.state import Batch, TrainState

# (field, params, step, total_steps) -> params, of one structure and shape.
Constrain = Callable[..., Any]
# (calibration, gradients of what it learns, cameras, step, total_steps) -> the calibration after a step.
Calibrate = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a training step does, on one device of the named axis or on a single one.

    Attributes:
      loss: (rendering, target) -> a number, or a number and a dict of metrics; see
        `jaxnerf.training.losses`.
      optimizer: any of optax. It is given `step` and `total_steps` as extra arguments if it takes some.
      near, far: the range of rays.
      rays_per_pass: at most so many rays in one forward and backward pass, whose gradients are
        averaged; memory grows with it. 0 is all at once; not negative.
      compositing: see `jaxnerf.render_rays`.
      constrain: applied to the parameters after the optimizer's step, such as a projection or a smoothing
        that is not part of the loss.
      calibrate: the update of the state's calibration, if it has one.
      learning_rate: the schedule of the optimizer's rate, or of one of its rates, to be reported as
        "learning_rate"; or None.
      by_rows: whether each of several devices takes the optimizer's step for a part of the rows of long
        arrays only (`sharding.update`): for an optimizer that treats every row by itself, as Adam does,
        and looks at no norm of all of them.
      axis_name: name of the axis of devices; None for a single device.
    """

    loss: Loss
    optimizer: optax.GradientTransformation
    near: Float[Array, ""] | float = 0.0
    far: Float[Array, ""] | float = np.inf
    rays_per_pass: int = 0
    compositing: Compositing = "volume"
    constrain: Constrain | None = None
    calibrate: Calibrate | None = None
    learning_rate: Schedule | None = None
    by_rows: bool = False
    axis_name: str | None = None

    def __post_init__(self) -> None:
        if self.rays_per_pass < 0:
            raise ValueError(f"rays_per_pass: must not be negative, got {self.rays_per_pass}")

    def __call__(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray, cameras: Camera
    ) -> tuple[TrainState, dict[str, Float[Array, ""]], Any]:
        """As `train_step`, which says what its arguments are.

        Returns:
          The next state, the metrics, and the arrays of gradients, whose memory the next step can reuse
          (`jaxnerf.training.trainer.gradients_of`).
        """
        axis, cameras = self.axis_name, jax.tree.map(jnp.asarray, cameras)
        count, devices = batch.camera.shape[0], sharding.device_count(axis)
        keys = _keys_of_rays(key, state, count, axis)
        (value, metrics), gradients = self._gradients(state, batch, keys, cameras)
        value, metrics = sharding.mean((value, metrics), axis)
        summed, of_learned, kept = _over_devices(gradients, axis, self.by_rows)
        split_axis = axis if self.by_rows and devices > 1 else None
        norm = sharding.norm(summed, gradients[0], split_axis) / devices
        # The norm is taken of the sum, which is stored; the mean is fused into what uses it.
        mean = jax.tree.map(lambda x: x / devices, summed)
        progress = state.step, state.total_steps
        params, opt_state = sharding.update(
            self.optimizer, mean, state.optimizer, state.params, split_axis,
            step=state.step, total_steps=state.total_steps,
        )  # fmt: skip
        if self.constrain is not None:
            params = self.constrain(state.field, params, *progress)
        calibration = state.calibration
        if calibration is not None and self.calibrate is not None:
            calibration = self.calibrate(calibration, of_learned, cameras, *progress)
        following = dataclasses.replace(
            state, step=state.step + 1, params=params, optimizer=opt_state, calibration=calibration
        )
        rays = jnp.float32(count * devices)
        metrics = metrics | {"loss": value, "gradient_norm": norm, "rays": rays}
        if self.learning_rate is not None:
            metrics["learning_rate"] = self.learning_rate(*progress)
        return following, metrics, kept

    def _gradients(
        self, state: TrainState, batch: Batch, keys: Key[Array, " rays"] | None, cameras: Camera
    ) -> Any:
        """(loss, metrics), and gradients to the parameters and to what the calibration learns."""
        learned = None if state.calibration is None else state.calibration.learned
        bounds = self.near, self.far

        def one_pass(batch: Batch, keys: Key[Array, " rays"] | None):
            def total(trainable):
                seen = _rendered(state, trainable, batch, keys, cameras, bounds, self.compositing)
                found = self.loss(seen, batch.target())
                value, reported = found if isinstance(found, tuple) else (found, {})
                reported = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), reported)
                return value, reported | _counts(seen)

            return jax.value_and_grad(total, has_aux=True)((state.params, learned))

        return _in_passes(one_pass, batch, keys, self.rays_per_pass)


def train_step(
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    cameras: Camera,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    near: Float[Array, ""] | float = 0.0,
    far: Float[Array, ""] | float = np.inf,
    rays_per_pass: int = 0,
    compositing: Compositing = "volume",
    constrain: Constrain | None = None,
    calibrate: Calibrate | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step, on one device of the named axis or on a single one.

    Args:
      state: the same on every device, but for the optimizer's.
      batch: this device's part of the global batch; equal parts in the order of the devices.
      key: the run's; the same in every step and on every device.
      cameras: all that the batch refers to.
      loss, optimizer, near, far, rays_per_pass, compositing, constrain, calibrate, axis_name: the
        attributes of `jaxnerf.training.step.Step`.

    Returns:
      The next state, and metrics: "loss", "gradient_norm", "rays" (number in the global batch), "samples"
      (per ray), "dropped" (fraction of rays that overflowed the packed buffer), "truncated" (fraction of
      rays that reached the limit of samples or steps), and the metrics of the loss.
    """
    step = Step(
        loss, optimizer, near, far, rays_per_pass, compositing, constrain, calibrate,
        axis_name=axis_name,
    )  # fmt: skip
    after, metrics, _ = step(state, batch, key, cameras)
    return after, metrics


def _over_devices(gradients: Any, axis_name: str | None, by_rows: bool) -> tuple[Any, Any, Any]:
    """Reduce the gradients of all devices.

    Returns:
      The sum of the parameters' gradients (with `by_rows`, of this device's rows alone), the mean of the
      calibration's, and all arrays of gradients, whose memory the next step can reuse.
    """
    of_params, of_learned = gradients
    devices = sharding.device_count(axis_name)
    if by_rows:
        summed = sharding.summed(of_params, axis_name)
    else:
        summed = jax.tree.map(lambda x: devices * sharding.mean(x, axis_name), of_params)
    of_learned = jax.tree.map(lambda x: sharding.mean(x, axis_name), of_learned)
    kept = (gradients, (summed, of_learned)) if devices > 1 else gradients
    return summed, of_learned, kept


def _keys_of_rays(
    key: PRNGKeyArray, state: TrainState, count: int, axis_name: str | None
) -> Array | None:
    """A random key for each ray, by its index in the global batch; None if no key is needed.

    An `OccupancySampler` uses the batch's jitter instead, so that no generator is compiled.
    """
    fields = state.field if isinstance(state.field, tuple) else (state.field,)
    noisy = any(isinstance(field, NoisyField) for field in fields)
    if isinstance(state.sampler, OccupancySampler) and not noisy:
        return None
    first = count * sharding.device_index(axis_name)
    step_key = jax.random.fold_in(key, state.step)
    places = first + jnp.arange(count, dtype=jnp.int32)
    return jax.vmap(lambda ray: jax.random.fold_in(step_key, ray))(places)


def _rendered(
    state: TrainState,
    trainable: tuple[Any, Any],
    batch: Batch,
    keys: Array | None,
    cameras: Camera,
    bounds: tuple[Any, Any],
    compositing: Compositing,
) -> Rendering:
    """Render a batch's rays, with the calibration's poses and colours if there is one."""
    params, learned = trainable
    calibration, middle = state.calibration, jnp.asarray(batch.middle)
    if calibration is not None:
        calibration = calibration.with_learned(learned)
        cameras = calibration.cameras(cameras)
    rays = cast_rays(cameras[batch.camera], middle, *bounds)
    field, sampler = _disturbed(state.field, keys), state.sampler
    if isinstance(sampler, OccupancySampler):
        sampler, keys = dataclasses.replace(sampler, jitter=jnp.asarray(batch.jitter)), None
    background = jnp.asarray(batch.background)
    seen = render_rays(
        field, params, rays, sampler, keys, background,
        compositing=compositing, proposals=True,
    )  # fmt: skip
    if calibration is None:
        return seen
    # Where alpha is 0 the background was added by blending: the photograph's correction does not apply.
    covered = seen.opacity if batch.transparent else jnp.ones_like(seen.opacity)
    behind = (1.0 - covered)[:, None] * background
    shown = calibration.colour(jnp.asarray(batch.camera), seen.colour, covered, behind)
    return dataclasses.replace(seen, colour=shown)


def _disturbed(field: Any, keys: Array | None) -> Any:
    """The field, with this step's keys of density noise if it is a `NoisyField`; one per level."""

    def of_level(each: Any, level: int) -> Any:
        if not isinstance(each, NoisyField):
            return each
        assert keys is not None
        own = jax.vmap(lambda key: jax.random.fold_in(key, 1 + level))(keys)
        return dataclasses.replace(each, key=own)

    if isinstance(field, tuple):
        return tuple(of_level(each, level) for level, each in enumerate(field))
    return of_level(field, 0)


def _counts(rendering: Rendering) -> dict[str, Array]:
    samples = rendering.samples
    fits = samples.fits.astype(jnp.float32)
    parts = samples.parts if isinstance(samples, ComposedSamples) else (samples,)
    used = jnp.sum(jnp.stack([jnp.sum(part.used.astype(jnp.float32)) for part in parts]))
    return {
        "samples": used / jnp.maximum(jnp.sum(fits), 1.0),
        "dropped": jnp.mean(1.0 - fits),
        "truncated": jnp.mean(samples.truncated.astype(jnp.float32)),
    }


def _in_passes(one_pass: Callable, batch: Batch, keys: Array | None, most: int) -> Any:
    """The mean over a batch, in passes over parts of it, of at most so many rays each; 0 is all at once.

    The parts are equal if a divisor allows it. Else what is left over is a last pass, to be compiled too.
    """
    count = batch.camera.shape[0]
    if not most or count <= most:
        return one_pass(batch, keys)
    size = next(divisor for divisor in range(most, 0, -1) if count % divisor == 0)
    size = size if 2 * size > most else most
    equal = count - count % size
    parts = jax.tree.map(lambda x: x[:equal].reshape(-1, size, *x.shape[1:]), (batch, keys))
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one_pass, *first))
    summed, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, one_pass(*part)), None), zeros, parts
    )
    mean = jax.tree.map(lambda x: x * (size / count), summed)
    if equal == count:
        return mean
    last = one_pass(*jax.tree.map(lambda x: x[equal:], (batch, keys)))
    return jax.tree.map(lambda x, y: x + y * (1.0 - equal / count), mean, last)

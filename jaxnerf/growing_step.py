"""What a step is in the training of fields that grow. (`jaxnerf.stages` is the growth.)

As in `jaxnerf.training`, the step is written for one device with an explicit mean over the named axis,
and the batch of step n is a function of (seed, n), of what the stage began with, and of the state's
number of rays.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf import shares
from jaxnerf.adjustments import step_adjustments
from jaxnerf.blocks import Blocks
from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.compositing import distortion_of, over
from jaxnerf.fields.voxels import decay_density
from jaxnerf.fields.warped import WarpedField
from jaxnerf.growing import GrowingConfig, GrowingState, adam
from jaxnerf.placement import AXIS
from jaxnerf.rendering import render_rays
from jaxnerf.training import TrainingConfig


def growing_step(
    state: GrowingState,
    batch: Blocks,
    cameras: Camera,
    scratch: Any = None,
    axis_name: str = AXIS,
    *,
    near: float = 0.0,
    growing: GrowingConfig,
    config: TrainingConfig,
    transparent: bool,
) -> tuple[GrowingState, dict[str, Float[Array, ""]], Any]:
    """One step on one device of the named axis; see `jaxnerf.training.train_step`.

    Args:
      state, batch, cameras: as there; all that is random comes with the batch.
      scratch: `gradients_of` in `jaxnerf.placement.memory_like`, to be overwritten; or None.
      axis_name: of the devices.
      near: where rays begin; static, as the following are.
      growing, config: as for `GrowingTrainer`.
      transparent: whether the photographs have alpha.

    Returns:
      The next state; metrics: "loss", "mse", "learning_rate" (as a share), "gradient_norm",
      "rays" (drawn), "samples" (a ray), "dropped" and "cut" (shares of the rays that overflowed the
      budget, and that ran out of samples or lookups: neither is learned from, but for those of the
      latter that let no light through any more); and the scratch.
    """
    whole = batch.camera.shape[0] * jax.lax.axis_size(axis_name)
    middle = jnp.asarray(batch.middle)
    given = cast_rays(cameras[batch.camera], middle, near)
    background = jnp.asarray(batch.background)
    colour = batch.colour()
    alpha = colour[:, 3]
    target = over(colour[:, :3], alpha, background)
    space = state.occupancy.space
    field = state.field if space is None else WarpedField(state.field, space)
    sampler = growing.sampler(state.occupancy, whole / config.rays_per_batch)
    sampler = dataclasses.replace(sampler, jitter=jnp.asarray(batch.jitter))

    def loss_of(learning):
        params, adjusting = learning
        rays, adjustments = given, state.adjustments
        if adjustments is not None:
            adjustments = adjustments.with_learned(adjusting)
            rays = cast_rays(adjustments.cameras(cameras)[batch.camera], middle, near)
        seen = render_rays(field, params, rays, sampler, None, background)
        samples, shown, opacity = seen.samples, seen.colour, seen.opacity
        if adjustments is not None:
            # Behind what alpha has cut out the background is ours, and not the photograph's.
            covered = opacity if transparent else jnp.ones_like(opacity)
            behind = (1.0 - covered)[:, None] * background
            shown = adjustments.colour(jnp.asarray(batch.camera), shown, covered, behind)
        # A ray that was given up has not seen what it would be told to show.
        weight = (samples.fits & (seen.is_dark | ~samples.truncated)).astype(jnp.float32)
        total = jnp.maximum(jnp.sum(weight), 1.0)
        mse = jnp.sum(weight * jnp.mean((shown - target) ** 2, axis=-1)) / total
        loss = mse
        if transparent:
            error = (opacity - alpha) ** 2
            loss = loss + growing.opacity_loss * jnp.sum(weight * error) / total
        if space is not None and growing.distortion_loss > 0.0:
            spread = jnp.sum(weight * distortion_of(samples, seen.weights)) / total
            loss = loss + growing.distortion_loss * spread
        counts = {
            "mse": mse,
            "rays": jnp.float32(whole),
            "samples": jnp.sum(samples.packing.used.astype(jnp.float32)) / total,
            "dropped": 1.0 - jnp.mean(samples.fits.astype(jnp.float32)),
            "cut": jnp.mean(samples.truncated.astype(jnp.float32)),
        }
        return loss, counts

    adjustments = state.adjustments
    start = state.params, None if adjustments is None else adjustments.learned
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
    params = shares.own(state.params, axis_name)
    rates = shares.own(state.field.learning_rates(state.params), axis_name)
    moved = jax.tree.map(
        lambda value, update, rate: value - decay * rate * update, params, updates, rates
    )
    if growing.sinking > 0.0:
        moved = decay_density(moved, decay * growing.sinking * state.field.settings.density_rate)
    moved = shares.gathered(moved, state.params, axis_name)
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
        state, step=state.step + 1, params=moved, optimizer=optimizer,
        adjustments=adjustments,
    )  # fmt: skip
    return following, metrics, scratch


def gradients_of(state: GrowingState, devices: int) -> Any:
    """What a step's gradients look like: those of one device, and its share of several devices' sum."""
    adjustments = state.adjustments
    others = None if adjustments is None else adjustments.learned
    table = jax.eval_shape(lambda: state.params)
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
    """The optimizer's directions and new moments.

    With the leading dimension that the moments have outside of the mapped step: from those without it
    XLA:CPU makes the directions and the new moments apart, and copies the old ones for that.
    """
    # Optax raises a float to the power of an integer, which strict users' settings refuse.
    with jax.numpy_dtype_promotion("standard"):
        results = adam(config).update(*_one_more((gradients, moments)))
    return jax.tree.map(lambda x, like: x.reshape(like.shape), results, (gradients, moments))


def _one_more(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None] if x.ndim else x, tree)

"""Optimizers: chains of optax, with schedules of the progress of a run.

A run's total of steps can move while it trains (`jaxnerf.training.budget`), so schedules here are
functions of step and total, which `train_step` hands to an optimizer as extra arguments. All of optax
works beside them; it is not told.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxnerf.fields.voxels import VoxelParams, VoxelSettings, decay_density
from jaxnerf.training.growing import GrowingConfig
from jaxnerf.training.settings import TrainingConfig

# Of any field: the learning rate of a hash grid by its authors, and what it decays to.
_FIELD_RATE, _FINAL_RATE = 1e-2, 0.1
# (step, total_steps) -> a factor.
Schedule = Callable[[Int[Array, ""], Int[Array, ""]], Float[Array, ""]]


def scale_by_progress(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by a schedule of step and total."""

    def update(updates, state, params=None, **extra):
        factor = schedule(extra["step"], extra["total_steps"])
        return jax.tree.map(lambda x: factor * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def scale_by_rates(rates: Callable[[Any], Any]) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by minus the learning rate of each parameter.

    Args:
      rates: params -> a tree of rates, each broadcastable to its leaf.
    """

    def update(updates, state, params=None, **_):
        return jax.tree.map(lambda x, rate: -rate * x, updates, rates(params)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def add_density_decay(rate: float, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Lower the logits of a `VoxelField`'s density at each step; see `decay_density`.

    Args:
      rate: by how much at a step, at first.
      schedule: of a factor.
    """

    def update(updates, state, params=None, **extra):
        assert params is not None
        moved = jax.tree.map(jnp.add, params, updates)
        lower = decay_density(moved, rate * schedule(extra["step"], extra["total_steps"]))
        return jax.tree.map(jnp.subtract, lower, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def exponential_to(final: float) -> Schedule:
    """Exponential decay from 1 to a fraction of it at the last step."""

    def schedule(step: Array, total_steps: Array) -> Array:
        taken = step.astype(jnp.float32) / jnp.maximum(total_steps, 1).astype(jnp.float32)
        return jnp.float32(final) ** taken

    return schedule


def adam(config: TrainingConfig) -> optax.GradientTransformation:
    """Adam's direction.

    Without momentum, as in the fast field's presets, it keeps no first moment: less to move in memory,
    and rows that few rays meet do not drift on after what one of them said.
    """
    if config.adam_beta1 == 0.0:
        return optax.scale_by_rms(
            config.adam_beta2, config.adam_epsilon, eps_in_sqrt=False, bias_correction=True
        )
    return optax.scale_by_adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon)


def voxel_optimizer(
    settings: VoxelSettings, growing: GrowingConfig, config: TrainingConfig
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of the fast field: Adam at the rates of its parts, and decay of its density."""
    table = [settings.density_rate, *[settings.feature_rate] * settings.features]

    def rates(params: VoxelParams) -> VoxelParams:
        rate = jnp.float32(settings.network_rate)
        network = jax.tree.map(lambda _: rate, params.network)
        return VoxelParams(jnp.asarray(table, jnp.float32)[None, :], network)

    decay = exponential_to(growing.final_rate)
    parts = [adam(config), scale_by_rates(rates), scale_by_progress(decay)]
    if growing.sinking > 0.0:
        parts.append(add_density_decay(growing.sinking * settings.density_rate, decay))
    return optax.with_extra_args_support(optax.chain(*parts))


def field_optimizer() -> optax.GradientTransformationExtraArgs:
    """The optimizer of a hash grid, and of any field: Adam at 1e-2, which decays to a tenth of it.

    For a hash grid with the moments of its authors' code: 0.9, 0.99, epsilon 1e-15.
    """
    decay = exponential_to(_FINAL_RATE)
    return optax.with_extra_args_support(
        optax.chain(
            optax.scale_by_adam(0.9, 0.99, 1e-15),
            scale_by_progress(lambda step, total: -_FIELD_RATE * decay(step, total)),
        )
    )


def network_optimizer(config: TrainingConfig) -> optax.GradientTransformationExtraArgs:
    """The optimizer of the paper's network: Adam with `learning_rate`."""
    return optax.with_extra_args_support(
        optax.chain(
            optax.scale_by_adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon),
            scale_by_progress(lambda step, total: -learning_rate(config, step, total)),
        )
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

"""Optimizers: chains of optax, with schedules of the progress of a run.

A run's total of steps can move while it trains (`jaxnerf.training.budget`), so schedules here are
functions of step and total, which `train_step` hands to an optimizer as extra arguments. Any optax
transformation can be chained with them; those that take no extra arguments are not given step and total.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxnerf.errors import in_range, positive
from jaxnerf.fields.voxels import VoxelParams, decay_density

# (step, total_steps) -> a factor.
Schedule = Callable[[Int[Array, ""], Int[Array, ""]], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class FieldOptimizerConfig:
    """Adam for any field. The values are those of a hash grid's authors.

    Attributes:
      learning_rate: initial learning rate.
      final_fraction: the learning rate at the last step, as a fraction of the initial one; the decay is
        exponential.
      beta1, beta2, epsilon: Adam's parameters.
    """

    learning_rate: float = 1e-2
    final_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-15

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "final_fraction")
        _check_moments(self)


@dataclasses.dataclass(frozen=True)
class VoxelOptimizerConfig:
    """Adam for the fast field.

    With beta1 = 0 no first moment is stored. That saves memory traffic, and table rows that are sampled
    rarely are not moved further by the momentum of a single old gradient.

    Attributes:
      density_rate, feature_rate, network_rate: initial learning rates of the table's density column, of
        its feature columns, and of the network.
      detail_fraction: the learning rates of the detail's columns, as a fraction of those of the table's.
        Decay and smoothing are for the table alone.
      final_fraction: the learning rates at the last step, as a fraction of the initial ones; the decay is
        exponential.
      density_decay: decoupled decay of the density logits in each step, as a fraction of their learning
        rate. It removes density that no photograph supports. For bounded scenes; 0 disables it.
      smoothing: initial weight of a diffusion step on the lattice: every 20 steps each lattice vertex is
        moved by this fraction towards the mean of its six neighbours. The weight decays with the learning
        rates, falls to 0 in the first half of the steps, and is reduced in proportion when there are more
        than 40 photographs. For unbounded scenes, parts of which few photographs show; 0 disables it.
      beta1, beta2, epsilon: Adam's parameters.
    """

    density_rate: float = 0.7
    feature_rate: float = 0.1
    network_rate: float = 1e-2
    detail_fraction: float = 0.3
    final_fraction: float = 0.05
    density_decay: float = 0.02
    smoothing: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.99
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        positive(self, "final_fraction")
        in_range(self, smoothing=(0.0, 1.0), detail_fraction=(0.0, math.inf))
        _check_moments(self)


@dataclasses.dataclass(frozen=True)
class NetworkOptimizerConfig:
    """Adam for the paper's network.

    Attributes:
      learning_rate, final_learning_rate: learning rates at the first and at the last step; log-linear
        decay between them.
      delay_steps, delay_factor: warm-up: the learning rate is multiplied by a factor that rises from
        delay_factor to 1 in the first delay_steps steps (at most a tenth of the run).
      beta1, beta2, epsilon: Adam's parameters.
    """

    learning_rate: float = 5e-4
    final_learning_rate: float = 5e-6
    delay_steps: int = 2500
    delay_factor: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "final_learning_rate")
        _check_moments(self)


def _check_moments(config: Any) -> None:
    # With beta = 1 Adam's bias correction is 0 / 0.
    in_range(config, beta1=(0.0, 0.9999999), beta2=(0.0, 0.9999999))


def progress_of(step: Int[Array, ""], total_steps: Int[Array, ""]) -> Float[Array, ""]:
    """The fraction of the steps that is taken, in float32; of a total of 0 as of 1."""
    return step.astype(jnp.float32) / jnp.maximum(total_steps, 1).astype(jnp.float32)


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
      rate: the initial decrease of the logits per step.
      schedule: factor by which `rate` is multiplied at each step.
    """

    def update(updates, state, params=None, **extra):
        assert params is not None
        moved = jax.tree.map(jnp.add, params, updates)
        lower = decay_density(moved, rate * schedule(extra["step"], extra["total_steps"]))
        return jax.tree.map(jnp.subtract, lower, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def exponential_to(final: float) -> Schedule:
    """Exponential decay from 1 to a fraction of it at the last step."""

    return lambda step, total_steps: jnp.float32(final) ** progress_of(step, total_steps)


def adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam's direction, which keeps no first moment where beta1 is 0."""
    if beta1 == 0.0:
        return optax.scale_by_rms(beta2, epsilon, eps_in_sqrt=False, bias_correction=True)
    return optax.scale_by_adam(beta1, beta2, epsilon)


def voxel_optimizer(config: VoxelOptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """The optimizer of the fast field: Adam at the rates of its parts, and decay of its density."""

    def rates(params: VoxelParams) -> VoxelParams:
        features = params.table.shape[-1] - 1
        table = np.array([[config.density_rate, *[config.feature_rate] * features]], np.float32)
        rate = jnp.float32(config.network_rate)
        network = jax.tree.map(lambda _: rate, params.network)
        return VoxelParams(
            table, network, None if params.detail is None else config.detail_fraction * table
        )

    decay = exponential_to(config.final_fraction)
    parts = [
        adam(config.beta1, config.beta2, config.epsilon),
        scale_by_rates(rates),
        scale_by_progress(decay),
    ]
    if config.density_decay > 0.0:
        parts.append(add_density_decay(config.density_decay * config.density_rate, decay))
    return optax.with_extra_args_support(optax.chain(*parts))


def field_optimizer(
    config: FieldOptimizerConfig = FieldOptimizerConfig(),
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a hash grid, and of any field: Adam with a rate that decays exponentially."""
    decay = exponential_to(config.final_fraction)
    return _adam_at(lambda step, total: config.learning_rate * decay(step, total), config)


def network_optimizer(config: NetworkOptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """The optimizer of the paper's network: Adam with `learning_rate`."""
    return _adam_at(functools.partial(learning_rate, config), config)


def _adam_at(
    rate: Schedule, config: FieldOptimizerConfig | NetworkOptimizerConfig
) -> optax.GradientTransformationExtraArgs:
    direction = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    downhill = scale_by_progress(lambda step, total: -rate(step, total))
    return optax.with_extra_args_support(optax.chain(direction, downhill))


def learning_rate(
    config: NetworkOptimizerConfig, step: Int[Array, ""], total_steps: Int[Array, ""]
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
    rate = jnp.asarray(decay(jnp.minimum(progress_of(step, total_steps), 1.0)))
    return rate * (config.delay_factor + (1.0 - config.delay_factor) * ramp)

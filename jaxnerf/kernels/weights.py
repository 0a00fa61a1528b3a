"""Weights of samples for each compositing mode, along either axis.

Those of "volume" for arrays with samples along the first axis are in `jaxnerf.kernels.compositing`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The least opacity of a sample that "surface" compositing takes for the surface.
SURFACE = 0.5
# Up to this length, cumulative sums are faster as products with a triangular matrix of ones.
_FEW = 256
# The largest optical depth: exp(-1e30) is 0, and sums of it are finite.
_GREATEST = 1e30


@functools.partial(jax.jit, static_argnames="axis")
def sums_before(values: Float[Array, "*layout"], axis: int = -1) -> Float[Array, "*layout"]:
    """The sum of the entries before each entry along an axis; 0 for the first.

    It is not the sum up to an entry less the entry, which cancels to nothing before an interval without
    end.

    Args:
      values: finite.
      axis: the axis of the sum.

    >>> sums_before(jnp.array([1.0, 2.0, 1e30])).tolist()
    [0.0, 1.0, 3.0]
    """
    values, count = jnp.moveaxis(values, axis, -1), values.shape[axis]
    if count <= _FEW:
        # By a triangle of ones: XLA:CPU fuses nothing with a cumulative sum that is shifted: a
        # picture of 64 samples a ray takes a third of the time (experiments/render_cost).
        earlier = jnp.triu(jnp.ones((count, count), values.dtype), 1)
        sums = jnp.matmul(values, earlier, precision="highest")
    else:
        shifted = jnp.cumsum(values, axis=-1)[..., :-1]
        sums = jnp.concatenate([jnp.zeros_like(values[..., :1]), shifted], axis=-1)
    return jnp.moveaxis(sums, -1, axis)


@jax.custom_jvp
@jax.jit
def emission_absorption(depth: Float[Array, "*rays S"]) -> Float[Array, "*rays S"]:
    """T_i (1 - exp(-tau_i)) with T_i = exp(-sum of tau_j for j < i), along the last axis (NeRF, eq. 3).

    The derivative is dw_i = T_{i+1} dtau_i - w_i times the sum of dtau_j for j < i, which is defined
    everywhere, and of which JAX makes derivatives of any order and either mode. Written by hand because
    through the limit on tau XLA:CPU would compute the densities again (experiments/render_cost).

    Args:
      depth: optical depths tau, 0 to infinity.
    """
    return _through_and_weights(jnp.minimum(depth, _GREATEST))[1]


@emission_absorption.defjvp
def _of_emission_absorption(primals, tangents):
    (depth,), (change,) = jax.tree.map(jnp.asarray, (primals, tangents))  # some may be NumPy's
    depth = jnp.minimum(depth, _GREATEST)
    through, weights = _through_and_weights(depth)
    return weights, through * jnp.exp(-depth) * change - weights * sums_before(change)


def _through_and_weights(depth: Array) -> tuple[Array, Array]:
    """Transmittances and weights, of finite optical depths: sums by a triangle multiply by 0."""
    through = jnp.exp(-sums_before(depth))
    return through, through * -jnp.expm1(-depth)


@functools.partial(jax.jit, static_argnames=("axis", "threshold"))
def first_opaque(
    depth: Float[Array, "*layout"], axis: int, threshold: float = SURFACE
) -> Float[Array, "*layout"]:
    """1 for the first sample whose opacity 1 - exp(-tau) reaches a threshold, 0 for the others."""
    return _only_greatest(-jnp.expm1(-depth) >= threshold, axis).astype(depth.dtype)


@functools.partial(jax.jit, static_argnames="axis")
def densest(density: Float[Array, "*layout"], axis: int) -> Float[Array, "*layout"]:
    """1 for the densest sample, the first of equals, if it has any density; 0 for the others."""
    return _only_greatest(density, axis).astype(density.dtype)


def _only_greatest(values: Array, axis: int) -> Array:
    """True for the greatest value along an axis, the first of equals, if it is greater than 0."""
    if not values.shape[axis]:
        return jnp.zeros(values.shape, bool)
    place = jnp.expand_dims(jnp.argmax(values, axis=axis), axis)
    number = jax.lax.broadcasted_iota(place.dtype, values.shape, axis % values.ndim)
    return (number == place) & (values > jnp.zeros((), values.dtype))


@functools.partial(jax.jit, static_argnames="axis")
def mixed(depth: Float[Array, "*layout"], axis: int) -> Float[Array, "*layout"]:
    """(1 - exp(-tau)) tau_i / tau, where tau is the sum of all tau_i, each of which is finite."""
    return depth * mean_transmittance(jnp.sum(depth, axis=axis, keepdims=True))


@jax.jit
def mean_transmittance(depth: Float[Array, "*layout"]) -> Float[Array, "*layout"]:
    """(1 - exp(-tau)) / tau, 1 where tau is 0: the mean of exp(-x) for x from 0 to tau."""
    # The quotient's derivative cancels where little is in the way; the series' error there is 1e-10.
    is_thin = depth < 1e-2
    thick = jnp.where(is_thin, 1.0, depth)
    thin = jnp.where(is_thin, depth, 0.0)
    series = 1.0 - thin * (1.0 / 2.0 - thin * (1.0 / 6.0 - thin / 24.0))
    return jnp.where(is_thin, series, -jnp.expm1(-thick) / thick)

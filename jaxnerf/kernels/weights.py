"""What samples weigh in their rays' pixels: one formula a function, along either axis.

The volume's weights of samples that come first are in `jaxnerf.kernels.compositing`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The opacity from which on the surface renderer takes a sample for the surface.
SURFACE = 0.5


@jax.jit
def emission_absorption(depth: Float[Array, "*rays S"]) -> Float[Array, "*rays S"]:
    """exp(-sum of tau_j for j < i) (1 - exp(-tau_i)) along the last axis (NeRF, eq. 3)."""
    before = jnp.cumsum(depth, axis=-1)[..., :-1]
    before = jnp.concatenate([jnp.zeros_like(depth[..., :1]), before], axis=-1)
    return jnp.exp(-before) * -jnp.expm1(-depth)


@functools.partial(jax.jit, static_argnames="axis")
def first_opaque(depth: Float[Array, "*layout"], axis: int) -> Float[Array, "*layout"]:
    """1 for the first sample whose opacity 1 - exp(-tau) reaches a half, 0 for the others."""
    opaque = -jnp.expm1(-depth) >= SURFACE
    return (opaque & (jnp.cumsum(opaque, axis=axis) == 1)).astype(depth.dtype)


@functools.partial(jax.jit, static_argnames="axis")
def densest(density: Float[Array, "*layout"], axis: int) -> Float[Array, "*layout"]:
    """1 for the densest sample, the first of equals, if it has any density; 0 for the others."""
    place = jnp.expand_dims(jnp.argmax(density, axis=axis), axis)
    number = jax.lax.broadcasted_iota(place.dtype, density.shape, axis % density.ndim)
    return ((number == place) & (density > 0.0)).astype(density.dtype)


@functools.partial(jax.jit, static_argnames="axis")
def mixed(depth: Float[Array, "*layout"], axis: int) -> Float[Array, "*layout"]:
    """(1 - exp(-tau)) tau_i / tau, where tau is the sum of all tau_i, each of which is finite."""
    total = jnp.sum(depth, axis=axis, keepdims=True)
    # The quotient's derivative cancels where little is in the way; the series' error there is 1e-10.
    is_thin = total < 1e-2
    thick = jnp.where(is_thin, 1.0, total)
    thin = jnp.where(is_thin, total, 0.0)
    series = 1.0 - thin * (1.0 / 2.0 - thin * (1.0 / 6.0 - thin / 24.0))
    return depth * jnp.where(is_thin, series, -jnp.expm1(-thick) / thick)

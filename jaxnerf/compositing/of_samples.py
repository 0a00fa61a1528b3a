"""Compositing of samples, dense or packed; see `jaxnerf.compositing`."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf.cameras import Rays
from jaxnerf.compositing.fenceposts import accumulate
from jaxnerf.kernels import march_weights
from jaxnerf.kernels.compositing import march_distortion, march_until
from jaxnerf.kernels.weights import densest, emission_absorption, first_opaque, mixed
from jaxnerf.sampling.samples import LONGEST, Samples

Compositing = Literal["volume", "surface", "maximum", "mean", "attenuation"]
# Compositing modes in which samples behind an opaque one count too: their rays must not be ended early.
TO_THE_END = ("maximum", "mean", "attenuation")


def check_compositing(compositing: str) -> None:
    """Check the name of a compositing mode.

    Raises:
      ValueError: it is none of `Compositing`.
    """
    if compositing not in get_args(Compositing):
        known = ", ".join(map(repr, get_args(Compositing)))
        raise ValueError(f"compositing: must be one of {known}, got {compositing!r}")


def optical_depths_of(
    samples: Samples, density: Float[Array, "*answers"]
) -> Float[Array, "*layout"]:
    """The optical depth of each sample's interval; 0 where there is no sample.

    Args:
      samples: dense or packed.
      density: the density of a field at their positions.
    """
    return to_layout(samples, density) * samples.length


def to_layout(samples: Samples, answers: Float[Array, "*answers"]) -> Float[Array, "*layout"]:
    """A field's values at the samples, in the layout of the samples; 0 in empty slots."""
    if samples.packing is None:
        return answers
    return samples.packing.to_slots(answers, samples.t.shape[0])


def weights_of(
    samples: Samples, density: Float[Array, "*answers"], compositing: Compositing = "volume"
) -> Float[Array, "*layout"]:
    """The weight of each sample in its ray's pixel; 0 where there is no sample.

    With optical depths tau_i (density times length) of a ray's samples, front to back, and tau their sum:

    - "volume": exp(-sum of tau_j for j < i) (1 - exp(-tau_i)) (NeRF, eq. 3).
    - "surface": the first opaque sample has all the weight, see `surface_weights`.
    - "maximum": the densest sample has all the weight, the first of equals; a ray without density has
      none. No gradient goes to the densities (see `greatest_density_of`).
    - "mean": (1 - exp(-tau)) tau_i / tau. The opacity is that of "volume", and the colour is the mean of
      the colours along the ray, weighted by density, without occlusion.
    - "attenuation": as "volume". The weights are those of absorption; there is no emission, and a pixel
      is the background times `transmittance_of`.

    Args:
      samples: dense or packed.
      density: the density of a field at their positions.
      compositing: one of these.

    Raises:
      ValueError: there is no such compositing.
    """
    check_compositing(compositing)
    if compositing == "maximum":
        return densest(to_layout(samples, density), samples.axis)
    depth = optical_depths_of(samples, density)
    if compositing == "mean":
        return mixed(jnp.minimum(depth, LONGEST), samples.axis)
    if compositing == "surface":
        return first_opaque(depth, samples.axis)
    return emission_absorption(depth) if samples.packing is None else march_weights(depth)


def transmittance_of(samples: Samples, density: Float[Array, "*answers"]) -> Float[Array, "*batch"]:
    """The fraction of light that passes along each whole ray: exp of minus its optical depth.

    Args:
      samples: dense or packed.
      density: the density of a field at their positions.
    """
    depth = jnp.minimum(optical_depths_of(samples, density), LONGEST)
    total = jnp.sum(depth, axis=samples.axis)
    return jnp.exp(-total).reshape(samples.complete.shape)


def greatest_density_of(
    samples: Samples, density: Float[Array, "*answers"]
) -> Float[Array, "*batch"]:
    """The greatest density on each ray: what "maximum" looks for, with a gradient to the densities.

    Args:
      samples: dense or packed.
      density: the density of a field at their positions.
    """
    greatest = jnp.max(to_layout(samples, density), axis=samples.axis)
    return greatest.reshape(samples.complete.shape)


def opacity_of(samples: Samples, weights: Float[Array, "*layout"]) -> Float[Array, "*batch"]:
    """The opacity of each ray: the sum of its weights, in [0, 1]."""
    return jnp.sum(weights, axis=samples.axis).reshape(samples.complete.shape)


def accumulated(samples: Samples, weights: Float[Array, "*layout"], values: Any) -> Any:
    """The weighted sum, along each ray, of a field's values at the samples.

    Args:
      samples: dense or packed.
      weights: the samples' weights.
      values: a pytree of arrays [*answers, ...], the field's values at `Samples.positions`.

    Returns:
      The same pytree of arrays [*batch, ...].
    """
    packing, batch = samples.packing, samples.complete.shape
    if packing is not None:
        weights = jnp.where(packing.used, packing.to_buffer(weights), 0.0)

    def one(value: Array) -> Array:
        inner = value.shape[weights.ndim :]
        flat = value.reshape(*weights.shape, math.prod(inner))
        if packing is None:
            return accumulate(weights, flat).reshape(*batch, *inner)
        zeros = jnp.zeros((packing.first.shape[0], flat.shape[-1]), flat.dtype)
        summed = zeros.at[packing.ray].add(weights[:, None] * flat, indices_are_sorted=True)
        return summed.reshape(*batch, *inner)

    return jax.tree.map(one, values)


def depth_of(
    samples: Samples, weights: Float[Array, "*layout"], rays: Rays
) -> Float[Array, "*batch"]:
    """The mean t at which each ray's light was stopped, of the light that was stopped.

    A ray that stopped nothing gets the t where its sampling ends.
    """
    axis, end = samples.axis, samples.end(rays)
    total = jnp.sum(weights, axis=axis)
    # Scaled first: the derivative of a quotient divides by the square, which underflows.
    scale = jax.lax.stop_gradient(jnp.where(total > 0.0, total, 1.0))
    parts = weights / jnp.expand_dims(scale, axis)
    mean = jnp.sum(parts * samples.t, axis=axis)
    mean = (mean / jnp.where(total > 0.0, jnp.sum(parts, axis=axis), 1.0)).reshape(end.shape)
    stopped = (total > 0.0).reshape(end.shape)
    return jnp.where(stopped, jnp.clip(mean, rays.near, end), end)


def median_depth_of(
    samples: Samples, density: Float[Array, "*answers"], rays: Rays
) -> Float[Array, "*batch"]:
    """The t at which half of each ray's light has been stopped: where optical depth reaches ln 2.

    Exact for densities that are constant within intervals. A ray that stops less than half gets the t
    where its sampling ends.
    """
    depth = jnp.minimum(optical_depths_of(samples, density), LONGEST)
    half = jnp.log(2.0).astype(depth.dtype)
    return _where_reached(samples, depth, half, rays)


def median_place_of(
    samples: Samples, weights: Float[Array, "*layout"], rays: Rays
) -> Float[Array, "*batch"]:
    """The t at which half of each ray's weight is reached; where its sampling ends, if it has none."""
    total = jnp.sum(weights, axis=samples.axis)
    return _where_reached(samples, weights, jnp.where(total > 0.0, 0.5 * total, jnp.inf), rays)


def _where_reached(samples: Samples, amounts: Array, wanted: Array, rays: Rays) -> Array:
    """The t where the sum of amounts, spread evenly over their intervals, reaches what is wanted."""
    bounds = samples.t0, samples.t1
    return where_reached(bounds, amounts, wanted, samples.end(rays), samples.axis)


def where_reached(
    bounds: tuple[Float[Array, "*layout"], Float[Array, "*layout"]],
    amounts: Float[Array, "*layout"],
    wanted: Float[Array, "..."],
    end: Float[Array, "*batch"],
    axis: int,
) -> Float[Array, "*batch"]:
    """The t where the sum of amounts that are spread evenly over intervals reaches what is wanted.

    Args:
      bounds: t0 and t1 of the intervals.
      amounts: the amount in each interval.
      wanted: the value of the sum that is looked for; infinite to get `end`.
      end: the answer where less is there.
      axis: the axis of the intervals of a ray.
    """
    dtype = jnp.result_type(*bounds, amounts)
    begin, stop, amount = (jnp.moveaxis(each, axis, 0).astype(dtype) for each in (*bounds, amounts))
    wanted = jnp.broadcast_to(wanted, begin.shape[1:]).astype(dtype)
    place = march_until(begin, jnp.minimum(stop - begin, LONGEST), amount, wanted)
    return jnp.minimum(place.reshape(end.shape), end)


def deviation_of(
    samples: Samples, weights: Float[Array, "*layout"], depth: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The deviation of each ray's termination from a known depth, relative to that depth.

    The expected value of min(|t / depth - 1|, 1) under the samples' weights, in which the transmittance
    that is left counts as 1: it is 0 if the ray is stopped completely at the known depth. The depth loss
    of `PhotometricLoss` is its mean.

    Args:
      samples, weights: as for `accumulated`.
      depth: the known depth, in units of the rays' directions, more than 0.
    """
    axis = samples.axis
    flat = depth if samples.packing is None else depth.reshape(-1)
    away = jnp.minimum(jnp.abs(samples.t / jnp.expand_dims(flat, axis) - 1.0), 1.0)
    stopped_there = jnp.sum(weights * (1.0 - away), axis=axis)
    return 1.0 - stopped_there.reshape(depth.shape)


def distortion_of(samples: Samples, weights: Float[Array, "*layout"]) -> Float[Array, "*batch"]:
    """The distortion loss of each ray: how far its weight is spread along it (mip-NeRF 360, eq. 15).

    The expected distance, in normalised ray distance s, of two points drawn from the weights, times the
    squared opacity.
    """
    parts = weights, 0.5 * (samples.s0 + samples.s1), samples.s1 - samples.s0
    if samples.packing is None:
        shape = (samples.t.shape[-1], samples.complete.size)
        parts = tuple(jnp.moveaxis(x, -1, 0).reshape(shape) for x in parts)
    return march_distortion(*parts).reshape(samples.complete.shape)

"""From densities along a ray to a pixel.

Names and contract. Density (sigma) is constant in each sample's interval, in 1/length. Optical depth is
density times length; transmittance is exp(-optical depth up to here); a sample's opacity (alpha) is the
fraction of light that it alone would stop; its weight is transmittance times opacity (NeRF, eq. 3).

There are two groups of functions. Those of fenceposts (`volume_weights(density, t)` and its kind) are
the formulas: sample i owns the interval between `t_i` and `t_{i+1}`; each is written for one ray,
mapped over any leading shape by `jnp.vectorize` (that is, by vmap), and jit-compiled. Those of
`jaxnerf.sampling.Samples` (`weights_of`, `accumulated`, `depth_of`, ...) are what a renderer calls:
they take dense and packed samples alike.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf.cameras import Rays
from jaxnerf.kernels import march_weights
from jaxnerf.kernels.compositing import march_distortion
from jaxnerf.sampling.samples import LONGEST, Samples

Compositing = Literal["volume", "surface"]
# The opacity from which on the surface renderer takes a sample for the surface.
_SURFACE = 0.5


def _per_ray(signature: str):
    """Write for one ray, map over all leading dimensions, compile."""

    def wrap(function):
        return functools.wraps(function)(jax.jit(jnp.vectorize(function, signature=signature)))

    return wrap


def _lengths(t: Float[Array, " B"]) -> Float[Array, " B-1"]:
    """The intervals' lengths, none infinite: 0 times infinity would be no number."""
    return jnp.minimum(jnp.diff(t), LONGEST)


@_per_ray("(s),(t)->(t)")
def optical_depth(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch S+1"]:
    """Optical depth from the first fencepost to each: 0, s_0 d_0, s_0 d_0 + s_1 d_1, ..."""
    return jnp.concatenate([jnp.zeros_like(density[:1]), jnp.cumsum(density * _lengths(t))])


@_per_ray("(s),(t)->(t)")
def transmittance(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch S+1"]:
    """The share of light that reaches each fencepost: exp(-optical depth), 1 at the first."""
    return jnp.exp(-optical_depth(density, t))


@_per_ray("(s),(t)->(s)")
def opacities(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch S"]:
    """The share of light that each sample stops of what reaches it: alpha = 1 - exp(-s d)."""
    return -jnp.expm1(-density * _lengths(t))


@_per_ray("(s),(t)->(s)")
def volume_weights(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch S"]:
    """How much each sample contributes to the pixel: transmittance times opacity (NeRF, eq. 3).

    The sum is 1 - exp(-total optical depth), so at most 1, and no weight is lost to a floor in a
    product of (1 - alpha). An interval of infinite or huge length (the last one of the paper's code
    has 1e10) takes all that is left wherever its density is not zero.

    >>> print(volume_weights(jnp.array([1.0, 1.0]), jnp.array([0.0, 0.5, 1e10])).round(4))
    [0.3935 0.6065]
    """
    return transmittance(density, t)[:-1] * opacities(density, t)


@_per_ray("(s)->(s)")
def opacity_weights(opacity: Float[Array, "*batch S"]) -> Float[Array, "*batch S"]:
    """`volume_weights` of samples whose opacities are given: w_i = a_i (1 - a_1) ... (1 - a_(i-1)).

    For fields that answer an opacity for each sample, as PyTorch3D's ray marchers and NerfAcc's functions
    "from alpha" take it, and have no length. Opacities of 1, behind which no light is left, are no
    exception, and have the gradient of the formula.

    Args:
      opacity: in [0, 1], front to back.

    >>> opacity_weights(jnp.array([0.5, 0.5, 1.0, 0.3])).tolist()
    [0.5, 0.25, 0.25, 0.0]
    """
    left = jnp.cumprod(1.0 - opacity[:-1])
    return opacity * jnp.concatenate([jnp.ones_like(opacity[:1]), left])


@functools.partial(jax.jit, static_argnames="threshold")
def surface_weights(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"], threshold: float = 0.5
) -> Float[Array, "*batch S"]:
    """The hard renderer that `volume_weights` softens: the first opaque sample decides the pixel.

    Weight 1 at the first sample whose opacity reaches the threshold, 0 elsewhere; all 0 where
    there is none. It is the limit of `volume_weights` as the densities of a surface grow, needs the
    colour of one sample only, and has no useful gradient.

    >>> surface_weights(jnp.array([0.1, 9.0, 9.0]), jnp.arange(4.0)).tolist()
    [0.0, 1.0, 0.0]
    """
    opaque = opacities(density, t) >= threshold
    first = opaque & (jnp.cumsum(opaque, axis=-1) == 1)
    return first.astype(density.dtype)


@_per_ray("(s)->()")
def ray_opacity(weights: Float[Array, "*batch S"]) -> Float[Array, "*batch"]:
    """A ray's opacity: the sum of its weights, in [0, 1]."""
    return jnp.sum(weights)


@_per_ray("(s),(s,c)->(c)")
def accumulate(
    weights: Float[Array, "*batch S"], values: Float[Array, "*batch S C"]
) -> Float[Array, "*batch C"]:
    """The weighted sum of the samples' values: of colours, a colour on black."""
    # A sum of products, which XLA fuses with what makes the values; a product of matrices it does not.
    return jnp.sum(weights[:, None] * values, axis=0)


def over(
    colour: Float[Array, "*batch 3"],
    opacity: Float[Array, "*batch"],
    background: Float[Array, "*batch 3"] | Float[Array, "3"] | Float[Array, ""] | float,
) -> Float[Array, "*batch 3"]:
    """Lay an accumulated (premultiplied) colour over a background.

    Args:
      colour: from `accumulate`.
      opacity: of the ray.
      background: a colour a ray, one colour for all, or one grey (1.0 is white, 0.0 black).
    """
    background = jnp.broadcast_to(jnp.asarray(background, colour.dtype), colour.shape)
    return colour + (1.0 - opacity)[..., None] * background


@_per_ray("(s),(t)->()")
def expected_depth(
    weights: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch"]:
    """The mean distance at which the ray's light was stopped, of the light that was stopped.

    Interval centres stand for their intervals, the start for an interval of more than 1e9. A ray
    that stopped nothing gets the last fencepost before any such interval.

    >>> expected_depth(jnp.array([0.0, 0.25, 0.25]), jnp.array([0.0, 1.0, 2.0, 3.0])).item()
    2.0
    """
    lengths = jnp.diff(t)
    centres = jnp.where(lengths > 1e9, t[:-1], t[:-1] + 0.5 * lengths)
    total = jnp.sum(weights)
    # Scaled first: the derivative of a quotient divides by the square, which underflows.
    shares = weights / jax.lax.stop_gradient(jnp.where(total > 0.0, total, 1.0))
    mean = jnp.dot(shares, centres) / jnp.where(total > 0.0, jnp.sum(shares), 1.0)
    return jnp.where(total > 0.0, jnp.clip(mean, t[0], _end(t)), _end(t))


@_per_ray("(s),(t)->()")
def median_depth(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch"]:
    """The distance at which half of the light has been stopped: where optical depth reaches ln 2.

    Exact for densities constant within intervals. A ray that stops less than half gets the last
    fencepost (before an interval of more than 1e9).

    >>> print(median_depth(jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0, 9.0])).round(4))
    3.6931
    """
    depth = optical_depth(density, t)
    half = jnp.log(2.0).astype(t.dtype)
    crossing = jnp.interp(half, depth, jnp.minimum(t, _end(t)))
    return jnp.where(depth[-1] >= half, crossing, _end(t))


def _end(t: Float[Array, " B"]) -> Float[Array, ""]:
    """Where the last interval of finite length ends."""
    return jnp.where(t[-1] - t[-2] > 1e9, t[-2], t[-1])


def normals(
    weights: Float[Array, "*batch S"], density_gradient: Float[Array, "*batch S 3"]
) -> Float[Array, "*batch 3"]:
    """The surface's unit normal seen along each ray, from the gradient of density.

    Density grows into a surface, so each sample's normal is minus its gradient's direction; their
    weighted sum is normalised again. Where nothing was hit, or the samples cancel, it is zero.
    """
    summed = accumulate(weights, -unit(density_gradient))
    return unit(summed)


def unit(vectors: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Vectors of length 1, zero for zero, with a finite gradient there."""
    norm_squared = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    nonzero = norm_squared > 0.0
    return jnp.where(nonzero, vectors * jax.lax.rsqrt(jnp.where(nonzero, norm_squared, 1.0)), 0.0)


def optical_depths_of(
    samples: Samples, density: Float[Array, "*answers"]
) -> Float[Array, "*layout"]:
    """The optical depth of each sample's interval; 0 where there is no sample.

    Args:
      samples: dense or packed.
      density: what a field answered at their positions.
    """
    if samples.packing is None:
        return density * samples.length
    return samples.packing.by_slot(density, samples.t.shape[0]) * samples.length


def weights_of(
    samples: Samples, density: Float[Array, "*answers"], compositing: Compositing = "volume"
) -> Float[Array, "*layout"]:
    """The weight of each sample in its ray's pixel (NeRF, eq. 3); 0 where there is no sample.

    Args:
      samples: dense or packed.
      density: what a field answered at their positions.
      compositing: "volume", or "surface": the first opaque sample has all the weight, see
        `surface_weights`.

    Raises:
      ValueError: there is no such compositing.
    """
    if compositing not in ("volume", "surface"):
        raise ValueError(f"compositing: must be 'volume' or 'surface', got {compositing!r}")
    depth, is_packed = optical_depths_of(samples, density), samples.packing is not None
    if is_packed and compositing == "volume":
        return march_weights(depth)
    if is_packed:
        return _first_opaque(depth, 0)
    return _dense_weights(depth) if compositing == "volume" else _first_opaque(depth, -1)


@jax.jit
def _dense_weights(depth: Array) -> Array:
    before = jnp.cumsum(depth, axis=-1)[..., :-1]
    before = jnp.concatenate([jnp.zeros_like(depth[..., :1]), before], axis=-1)
    return jnp.exp(-before) * -jnp.expm1(-depth)


@functools.partial(jax.jit, static_argnames="axis")
def _first_opaque(depth: Array, axis: int) -> Array:
    opaque = -jnp.expm1(-depth) >= _SURFACE
    return (opaque & (jnp.cumsum(opaque, axis=axis) == 1)).astype(depth.dtype)


def opacity_of(samples: Samples, weights: Float[Array, "*layout"]) -> Float[Array, "*batch"]:
    """The opacity of each ray: the sum of its weights, in [0, 1]."""
    axis = -1 if samples.packing is None else 0
    return jnp.sum(weights, axis=axis).reshape(samples.complete.shape)


def accumulated(samples: Samples, weights: Float[Array, "*layout"], values: Any) -> Any:
    """The weighted sum, along each ray, of what a field answered at the samples.

    Args:
      samples: dense or packed.
      weights: of the samples.
      values: a pytree of arrays [*answers, ...], as a field answers at `Samples.positions`.

    Returns:
      The same pytree of arrays [*batch, ...].
    """
    packing, batch = samples.packing, samples.complete.shape
    if packing is not None:
        weights = jnp.where(packing.used, packing.row(weights), 0.0)

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
    axis, end = -1 if samples.packing is None else 0, samples.end(rays)
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
    axis, end = -1 if samples.packing is None else 0, samples.end(rays)
    depth = jnp.minimum(optical_depths_of(samples, density), LONGEST)
    half = jnp.log(2.0).astype(depth.dtype)
    reached = jnp.cumsum(depth, axis=axis)
    place = jnp.expand_dims(jnp.argmax(reached >= half, axis=axis), axis)

    def at(values: Array) -> Array:
        return jnp.take_along_axis(values, place, axis=axis).reshape(end.shape)

    own, begin, over_half = at(depth), at(samples.t0), at(reached) - half
    part = jnp.clip(1.0 - over_half / jnp.where(own > 0.0, own, 1.0), 0.0, 1.0)
    crossing = begin + part * jnp.minimum(at(samples.t1) - begin, LONGEST)
    return jnp.where(over_half >= 0.0, jnp.minimum(crossing, end), end)


def deviation_of(
    samples: Samples, weights: Float[Array, "*layout"], depth: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """How far from a known depth the light of each ray is stopped, in fractions of the depth.

    The mean over all light of min(|t / depth - 1|, 1), where light that is not stopped counts as 1: 0
    where all of it is stopped at the depth.

    Args:
      samples, weights: as for `accumulated`.
      depth: in units of the rays' directions, more than 0.
    """
    axis = -1 if samples.packing is None else 0
    flat = depth if samples.packing is None else depth.reshape(-1)
    away = jnp.minimum(jnp.abs(samples.t / jnp.expand_dims(flat, axis) - 1.0), 1.0)
    stopped_there = jnp.sum(weights * (1.0 - away), axis=axis)
    return 1.0 - stopped_there.reshape(depth.shape)


def distortion_of(samples: Samples, weights: Float[Array, "*layout"]) -> Float[Array, "*batch"]:
    """How far the weight of each ray is spread out along it (mip-NeRF 360, eq. 15).

    In the samples' own coordinate s: the mean distance of two points drawn by the weights, times the
    squared opacity.
    """
    parts = weights, 0.5 * (samples.s0 + samples.s1), samples.s1 - samples.s0
    if samples.packing is None:
        shape = (samples.t.shape[-1], samples.complete.size)
        parts = tuple(jnp.moveaxis(x, -1, 0).reshape(shape) for x in parts)
    return march_distortion(*parts).reshape(samples.complete.shape)

"""The formulas of compositing, of densities between fenceposts; see `jaxnerf.compositing`."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf.kernels.weights import SURFACE, emission_absorption, first_opaque
from jaxnerf.sampling.samples import LONGEST, UNBOUNDED


def _per_ray(signature: str):
    """Write for one ray, map over all leading dimensions, compile."""

    def wrap(function):
        return functools.wraps(function)(jax.jit(jnp.vectorize(function, signature=signature)))

    return wrap


def _lengths(t: Float[Array, "*batch B"]) -> Float[Array, "*batch B-1"]:
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
    """The fraction of light that reaches each fencepost: exp(-optical depth), 1 at the first."""
    return jnp.exp(-optical_depth(density, t))


@_per_ray("(s),(t)->(s)")
def opacities(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch S"]:
    """The fraction of light that each sample stops of what reaches it: alpha = 1 - exp(-s d)."""
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
    return emission_absorption(density * _lengths(t))


@_per_ray("(s)->(s)")
def opacity_weights(opacity: Float[Array, "*batch S"]) -> Float[Array, "*batch S"]:
    """`volume_weights` of samples whose opacities are given: w_i = a_i (1 - a_1) ... (1 - a_(i-1)).

    For fields that answer an opacity for each sample, as PyTorch3D's ray marchers and NerfAcc's functions
    "from alpha" take it, and have no length. Opacities of 1, behind which no light is left, are no
    exception, and have the gradient of the formula.

    Args:
      opacity: opacities in [0, 1], front to back.

    >>> opacity_weights(jnp.array([0.5, 0.5, 1.0, 0.3])).tolist()
    [0.5, 0.25, 0.25, 0.0]
    """
    left = jnp.cumprod(1.0 - opacity[:-1])
    return opacity * jnp.concatenate([jnp.ones_like(opacity[:1]), left])


@_per_ray("(s),(t)->(s)")
def _optical_depths(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"]
) -> Float[Array, "*batch S"]:
    return density * _lengths(t)


def surface_weights(
    density: Float[Array, "*batch S"], t: Float[Array, "*batch S+1"], threshold: float = SURFACE
) -> Float[Array, "*batch S"]:
    """The hard renderer that `volume_weights` softens: the first opaque sample decides the pixel.

    Weight 1 at the first sample whose opacity reaches the threshold, 0 elsewhere; all 0 where
    there is none. It is the limit of `volume_weights` as the densities of a surface grow, needs the
    colour of one sample only, and has no useful gradient.

    >>> surface_weights(jnp.array([0.1, 9.0, 9.0]), jnp.arange(4.0)).tolist()
    [0.0, 1.0, 0.0]
    """
    return first_opaque(_optical_depths(density, t), -1, threshold)


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
      colour: a colour from `accumulate`.
      opacity: the ray's opacity.
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
    centres = jnp.where(lengths > UNBOUNDED, t[:-1], t[:-1] + 0.5 * lengths)
    total = jnp.sum(weights)
    # Scaled first: the derivative of a quotient divides by the square, which underflows.
    fractions = weights / jax.lax.stop_gradient(jnp.where(total > 0.0, total, 1.0))
    # A sum of products: accelerators would round a product of vectors to bfloat16.
    mean = jnp.sum(fractions * centres) / jnp.where(total > 0.0, jnp.sum(fractions), 1.0)
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
    return jnp.where(t[-1] - t[-2] > UNBOUNDED, t[-2], t[-1])


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

"""Where along a ray the field is evaluated.

Names and contract. `t [..., B]` are fenceposts: distances along a ray, ascending, in units of the
ray's direction. They bound B - 1 intervals (the S samples of compositing); interval i is
[t_i, t_{i+1}], and `weights [..., B-1]` say how much of the pixel's colour each gave.
Without a key everything here is deterministic.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

Spacing = Literal["depth", "disparity"]
# One for all rays, or one for each.
Keys = PRNGKeyArray | Key[Array, "..."]

# Rays with an infinite far are sampled up to this multiple of near.
_FARTHEST = 1e4
# The near of disparity sampling on rays that begin at 0, as a fraction of far.
_NEAREST = 1e-3


def typed(key: Keys) -> Keys:
    """A key, or keys, of JAX's newer kind: those of `jax.random.PRNGKey` are arrays of numbers."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def uniform(key: Keys, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Random numbers in [0, 1), by one key, or by one for each entry of the shape's first dimensions."""
    key = typed(key)
    draw = functools.partial(jax.random.uniform, shape=shape[key.ndim :], dtype=dtype)
    for _ in range(key.ndim):
        draw = jax.vmap(draw)
    return draw(key)


def midpoints(t: Float[Array, "*batch B"]) -> Float[Array, "*batch B-1"]:
    """The centres of the intervals between fenceposts.

    >>> midpoints(jnp.array([2.0, 4.0, 6.0])).tolist()
    [3.0, 5.0]
    """
    return 0.5 * (t[..., :-1] + t[..., 1:])


def unit_strata(
    batch: tuple[int, ...], count: int, key: Keys | None = None, dtype=jnp.float32
) -> Float[Array, "*batch count"]:
    """Ascending numbers that cover [0, 1] evenly, one drawn from each of `count` strata.

    Stratum i is what lies nearer to i / (count - 1) than to its neighbours, so the first and the
    last are half as wide as the others; these are the strata of NeRF's released code. (Eq. 2 of the
    paper has equal ones.)

    Args:
      batch: the leading shape; each row is drawn independently.
      count: number of values in a row, at least 2.
      key: a PRNG key; None for the even spacing i / (count - 1) itself.

    >>> unit_strata((), 5).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if count < 2:
        raise ValueError(f"unit_strata: count must be at least 2, got {count}")
    even = jnp.linspace(0.0, 1.0, count, dtype=dtype)
    if key is None:
        return jnp.broadcast_to(even, (*batch, count))
    half = 0.5 / (count - 1)
    lower = jnp.broadcast_to(jnp.maximum(even - half, 0.0), (*batch, count))
    upper = jnp.broadcast_to(jnp.minimum(even + half, 1.0), (*batch, count))
    return lower + (upper - lower) * uniform(key, (*batch, count), dtype)


def stratified(
    near: Float[Array, "*batch"],
    far: Float[Array, "*batch"],
    count: int,
    key: Keys | None = None,
    spacing: Spacing = "depth",
) -> Float[Array, "*batch count"]:
    """Distances that cover a ray from near to far, one from each stratum (NeRF, section 4).

    Args:
      near, far: where the ray begins and ends, both finite. A ray that begins at 0, where there is no
        disparity, has that of a thousandth of far there.
      count: number of distances (fenceposts: one more than intervals).
      key: None for even spacing from near to far, both included.
      spacing: even in "depth", or in "disparity" (1/t: dense near the camera).

    >>> print(stratified(jnp.array(1.0), jnp.array(4.0), 4, spacing="disparity").round(3))
    [1.    1.333 2.    4.   ]
    """
    u = _strata_of(near, count, key)
    near, far = near[..., None], far[..., None]
    # Each step below is monotone in u under rounding, where a weighted mean of near and far is not:
    # a descending step of 1e-7 times a density of 1e10 would be a weight of infinity.
    if spacing == "depth":
        return jnp.where(u < 1.0, jnp.minimum(near + u * (far - near), far), far)
    if spacing == "disparity":
        begin = _with_disparity(near, far)
        # Of a ray without a length at the origin, begin and far are 0.
        ratio = begin / jnp.where(far > 0.0, far, 1.0)
        t = jnp.clip(begin / (ratio + (1.0 - u) * (1.0 - ratio)), near, far)
        return jnp.where(u > 0.0, jnp.where(u < 1.0, t, far), near)
    raise ValueError(f"stratified: spacing must be 'depth' or 'disparity', got {spacing!r}")


def _strata_of(near: Array, count: int, key: Keys | None) -> Array:
    """`unit_strata` of rays; without a key one row for all of them, so that less is computed."""
    if key is not None:
        return unit_strata(near.shape, count, key, near.dtype)
    return unit_strata((1,) * near.ndim, count, None, near.dtype)


def unbounded(
    near: Float[Array, "*batch"], count: int, key: Keys | None = None
) -> Float[Array, "*batch count"]:
    """Distances on rays with an infinite far: even in disparity, from near to 10,001 times near.

    Where near is 0, disparity is measured from a point one unit before the ray's origin.

    Args:
      near, count, key: as for `stratified`.

    >>> unbounded(jnp.array(0.0), 5).tolist()
    [0.0, 0.333, 1.00, 3.00, 10000.0]
    """
    u, unit = _strata_of(near, count, key), jnp.where(near > 0.0, near, 1.0)
    # Disparities from 1 to that of the end, in units of 1 / unit.
    end = 1.0 / (1.0 + _FARTHEST)
    ahead = 1.0 / (end + (1.0 - u) * (1.0 - end)) - 1.0
    return near[..., None] + unit[..., None] * ahead


def _with_disparity(near: Array, far: Array) -> Array:
    """Near, where it has a disparity."""
    return jnp.where(near > 0.0, near, _NEAREST * far)


def hierarchical(
    t: Float[Array, "*batch B"],
    weights: Float[Array, "*batch B-1"],
    count: int,
    key: Keys | None = None,
    padding: float = 1e-5,
) -> Float[Array, "*batch count"]:
    """Draw distances where the weights are (NeRF, section 5.2: inverse transform sampling).

    The density drawn from is constant within an interval and proportional to its weight. The
    draws are stratified (one from each of `count` equal parts of the weight), ascending, and carry
    no gradient: what is learned is the field, not the places where it was asked.

    Args:
      t: fenceposts.
      weights: weights of the intervals, not negative, on any scale.
      count: number of distances to draw.
      key: None takes the quantiles 0, 1/(count-1), ..., 1.
      padding: added to every weight, so that a ray that saw nothing is sampled evenly.

    >>> t = jnp.array([0.0, 1.0, 2.0, 3.0])
    >>> hierarchical(t, jnp.array([0.0, 1.0, 0.0]), 3, padding=0.0).tolist()
    [1.0, 1.5, 2.0]
    """
    t, weights = jax.lax.stop_gradient((t, weights))
    weights = weights + padding
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # A row of zeros without padding has no distribution; let it be the even one.
    probability = jnp.where(
        total > 0.0, weights / jnp.where(total > 0.0, total, 1.0), 1.0 / weights.shape[-1]
    )
    inner = jnp.minimum(jnp.cumsum(probability[..., :-1], axis=-1), 1.0)
    zero = jnp.zeros_like(total)
    cdf = jnp.concatenate([zero, inner, zero + 1.0], axis=-1)
    shape = (*t.shape[:-1], count)
    if key is None:
        u = unit_strata(shape[:-1], count, dtype=t.dtype)
    else:
        # Not `unit_strata`: its half-width ends would be drawn from twice as often as they should be.
        index = jnp.broadcast_to(jnp.arange(count, dtype=t.dtype), shape)
        u = (index + uniform(key, shape, t.dtype)) / count
    return invert_cdf(t, cdf, u)


def invert_cdf(
    t: Float[Array, "*batch B"], cdf: Float[Array, "*batch B"], u: Float[Array, "*batch N"]
) -> Float[Array, "*batch N"]:
    """The distances at which a piecewise linear distribution function reaches u.

    Args:
      t: fenceposts.
      cdf: the distribution function there: ascending from 0 to 1. Where it is flat nothing is
        drawn: of the distances that share a value, the one after which it rises again is returned;
        for the last value, the one at which it is first reached.
      u: numbers in [0, 1].
    """
    # Comparing with every fencepost and summing is faster than a binary search at these sizes.
    reached = jnp.expand_dims(u, -1) >= jnp.expand_dims(cdf[..., 1:-1], -2)
    rising = jnp.expand_dims(cdf[..., 1:-1], -2) < cdf[..., -1:, None]
    index = jnp.sum(reached & rising, axis=-1)

    def at(values, i):
        return jnp.take_along_axis(values, i, axis=-1, mode="clip")

    t_low, t_high = at(t, index), at(t, index + 1)
    cdf_low, cdf_high = at(cdf, index), at(cdf, index + 1)
    rise = cdf_high - cdf_low
    fraction = jnp.where(rise > 0.0, (u - cdf_low) / jnp.where(rise > 0.0, rise, 1.0), 0.0)
    return t_low + jnp.clip(fraction, 0.0, 1.0) * (t_high - t_low)


def merge(
    t: Float[Array, "*batch A"], other: Float[Array, "*batch B"]
) -> Float[Array, "*batch A+B"]:
    """Join two ascending rows into one ascending row.

    A bitonic merge (Batcher, 1968): log2 of the length rounds of minima and maxima, which run at
    the speed of memory on every device, where XLA's sort compares one pair at a time on a CPU.

    >>> merge(jnp.array([1.0, 4.0]), jnp.array([2.0, 3.0, 5.0])).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0]
    """
    length = t.shape[-1] + other.shape[-1]
    size = 1 << (length - 1).bit_length()
    ceiling = jnp.full((*t.shape[:-1], size - length), jnp.inf, t.dtype)
    row = jnp.concatenate([t, ceiling, jnp.flip(other, axis=-1)], axis=-1)
    stride = size // 2
    while stride:
        pairs = row.reshape(*t.shape[:-1], size // (2 * stride), 2, stride)
        low = jnp.minimum(pairs[..., 0, :], pairs[..., 1, :])
        high = jnp.maximum(pairs[..., 0, :], pairs[..., 1, :])
        row = jnp.stack([low, high], axis=-2).reshape(row.shape)
        stride //= 2
    return row[..., :length]


def normalised(
    near: Float[Array, "*batch"],
    far: Float[Array, "*batch"],
    t: Float[Array, "*batch B"],
    spacing: Spacing = "depth",
) -> Float[Array, "*batch B"]:
    """Distances normalised to [0, 1], in the coordinate in which `stratified` spaces evenly.

    Rays with an infinite far have the coordinate of `unbounded`, in which 1 is infinitely far.

    >>> print(normalised(jnp.array(1.0), jnp.array(5.0), jnp.array([1.0, 2.0, 5.0])))
    [0.   0.25 1.  ]
    """
    is_unbounded = jnp.isinf(far)[..., None]
    near, far = near[..., None], jnp.where(is_unbounded, near[..., None] + 1.0, far[..., None])
    way = jnp.where(far > near, far - near, 1.0)
    even = (t - near) / way
    if spacing == "disparity":
        begin = _with_disparity(near, far)
        way = jnp.where(far > begin, far - begin, 1.0)
        even = jnp.maximum(t - begin, 0.0) / way * far / jnp.where(t > 0.0, t, 1.0)
    unit = jnp.where(near > 0.0, near, 1.0)
    ahead = jnp.maximum(t - near, 0.0)
    return jnp.where(is_unbounded, ahead / (ahead + unit), even)

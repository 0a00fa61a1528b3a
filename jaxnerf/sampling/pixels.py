"""Which pixels are looked at: whole pictures, random pixels, patches, and pixels drawn by a map.

Names and contract. Sizes are (width, height) in pixels. Coordinates are (x, y) as in `jaxnerf.cast_rays`,
of pixels' centres unless said otherwise, and float32. Where pixels are of several cameras, the number of
each pixel's camera comes with it, so that `cast_rays(cameras[camera], pixels)` casts the rays. All are
pure functions of a key, which work under jit and vmap with a static count; a pixel may be drawn twice.

`jaxnerf.training.sample_batch` draws from photographs that lie on the host, by NumPy, and shares nothing
with these: it is the same on however many devices, and compiles no generator.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped


def grid(width: int, height: int, stride: int = 1) -> Float[Array, "rows columns 2"]:
    """The middles of squares of pixels that cover a picture, row by row from the top.

    Args:
      width, height: size of the picture in pixels.
      stride: side of a square in pixels. What is left over at the right and at the bottom has none.

    Raises:
      ValueError: no square fits.

    >>> grid(4, 3, stride=2).tolist()
    [[[1.0, 1.0], [3.0, 1.0]]]
    """
    if not 1 <= stride <= min(width, height):
        raise ValueError(f"grid: no square of {stride} pixels in {width} x {height}")
    x, y = (jnp.arange(side // stride, dtype=jnp.float32) for side in (width, height))
    return (jnp.stack(jnp.meshgrid(x, y), axis=-1) + 0.5) * stride


def uniform(
    key: PRNGKeyArray,
    count: int,
    size: Int[Array | np.ndarray, "2"] | tuple[int, int],
    *,
    centres: bool = True,
) -> Float[Array, "count 2"]:
    """Random pixels of one picture, each as likely as any other.

    Args:
      key: a PRNG key.
      count: number of pixels.
      size: (width, height) of the picture; may be traced, so that pictures of all sizes share a program.
      centres: whether to take the pixels' centres, and not places anywhere in them.
    """
    pixel_key, place_key = jax.random.split(key)
    sides = jnp.broadcast_to(jnp.asarray(size, jnp.int32), (count, 2))
    corner = jax.random.randint(pixel_key, (count, 2), 0, sides, jnp.int32)
    return _within(corner, None if centres else place_key)


def uniform_of_cameras(
    key: PRNGKeyArray,
    count: int,
    sizes: Int[Array | np.ndarray, "cameras 2"],
    *,
    centres: bool = True,
) -> tuple[Int[Array, " count"], Float[Array, "count 2"]]:
    """Random pixels of many pictures, each as likely as any other: larger pictures have more of them.

    Args:
      key, count, centres: as for `uniform`.
      sizes: (width, height) of each camera's picture; a batch's is `Camera.size`.

    Returns:
      The number of each pixel's camera, and the pixels.
    """
    camera_key, pixel_key = jax.random.split(key)
    sizes = jnp.asarray(sizes, jnp.int32)
    area = jnp.prod(sizes.astype(jnp.float32), axis=-1)
    camera = inverse_cdf(area, jax.random.uniform(camera_key, (count,), jnp.float32))
    pixel_key, place_key = jax.random.split(pixel_key)
    corner = jax.random.randint(pixel_key, (count, 2), 0, sizes[camera], jnp.int32)
    return camera, _within(corner, None if centres else place_key)


def patches(
    key: PRNGKeyArray,
    count: int,
    size: Int[Array | np.ndarray, "2"] | tuple[int, int],
    side: int,
    stride: int = 1,
) -> Float[Array, "count side side 2"]:
    """Random square patches of one picture, for losses that look at structure.

    All places where a patch lies within the picture are as likely.

    Args:
      key: a PRNG key.
      count: number of patches.
      size: (width, height) of the picture.
      side: side of a patch, in pixels of the patch.
      stride: distance of these in the picture; more than 1 for a wider and coarser view.

    Returns:
      The centres of each patch's pixels, row by row from its top.

    Raises:
      ValueError: no patch fits into the picture. (Into one whose size is traced it must fit.)
    """
    reach = (side - 1) * stride + 1
    if side < 1 or stride < 1:
        raise ValueError(f"patches: side and stride are at least 1, got {side} and {stride}")
    if not isinstance(size, Tracer) and reach > int(min(size)):
        raise ValueError(
            f"patches: no patch of {side} pixels, {stride} apart, in {int(size[0])} x {int(size[1])}"
        )
    room = jnp.broadcast_to(jnp.asarray(size, jnp.int32) - (reach - 1), (count, 2))
    corner = jax.random.randint(key, (count, 2), 0, room, jnp.int32)
    steps = stride * jnp.arange(side, dtype=jnp.int32)
    offset = jnp.stack(jnp.meshgrid(steps, steps), axis=-1)
    return _within(corner[:, None, None, :] + offset[None], None)


def weighted(
    key: PRNGKeyArray,
    count: int,
    weights: Float[Array | np.ndarray, "height width"] | Bool[Array | np.ndarray, "height width"],
    *,
    centres: bool = True,
) -> Float[Array, "count 2"]:
    """Pixels of one picture, drawn by a map: a mask, or how wrong each pixel was.

    A pixel's probability is its weight divided by the sum of all; pixels of weight 0 are never drawn.
    With p a pixel's probability and N the number of pixels, the mean of a loss divided by N p is that of
    evenly drawn pixels: drawing by errors finds what is wrong sooner, and the division keeps its weight.

    Args:
      key, count, centres: as for `uniform`.
      weights: not negative, not all 0. A mask of bools, or numbers on any scale.
    """
    _, pixels = weighted_of_cameras(key, count, weights[None], centres=centres)
    return pixels


def weighted_of_cameras(
    key: PRNGKeyArray,
    count: int,
    weights: Float[Array | np.ndarray, "cameras height width"]
    | Bool[Array | np.ndarray, "cameras height width"],
    *,
    centres: bool = True,
) -> tuple[Int[Array, " count"], Float[Array, "count 2"]]:
    """Pixels of many pictures, drawn by a map for each; see `weighted`.

    A camera is drawn first, then a row of it, then a column: no sum is so long that float32 would lose
    the pixels at its end.

    Args:
      key, count, centres: as for `uniform`.
      weights: not negative, not all 0.

    Returns:
      The number of each pixel's camera, and the pixels.
    """
    weights = jnp.asarray(weights)
    # In half precision, as in whole numbers, sums over a picture overflow or lose their last terms.
    weights = weights.astype(jnp.float64 if weights.dtype == jnp.float64 else jnp.float32)
    camera_key, row_key, column_key, place_key = jax.random.split(key, 4)

    def drawn(key: PRNGKeyArray, of: Array) -> Array:
        return inverse_cdf(of, jax.random.uniform(key, (count,), weights.dtype))

    of_rows = jnp.sum(weights, axis=-1)
    camera = drawn(camera_key, jnp.sum(of_rows, axis=-1))
    row = drawn(row_key, of_rows[camera])
    column = drawn(column_key, weights[camera, row])
    corner = jnp.stack([column, row], axis=-1)
    return camera, _within(corner, None if centres else place_key)


def inverse_cdf(
    weights: Float[Array, " n"] | Float[Array, "count n"], u: Float[Array, " count"]
) -> Int[Array, " count"]:
    """Numbers of weights at which their cumulative fraction passes u; never of a weight of 0.

    Args:
      weights: not negative, not all 0; of all draws, or of each.
      u: numbers in [0, 1), or 1 for the last weight that is not 0.

    >>> inverse_cdf(jnp.array([0.0, 1.0, 0.0, 3.0]), jnp.array([0.0, 0.2, 0.25, 1.0])).tolist()
    [1, 1, 3, 3]
    """
    # Sums are rounded, and in parallel: they could rise where a weight is 0, or fall.
    cdf = jnp.where(weights > 0.0, jnp.cumsum(weights, axis=-1), jnp.zeros_like(weights))
    cdf = jax.lax.cummax(cdf, axis=weights.ndim - 1)
    # What rounds up to the whole sum would lie beyond the last weight.
    below = jnp.nextafter(cdf[..., -1], jnp.zeros_like(cdf[..., -1]))
    reach = jnp.minimum(u * cdf[..., -1], below)
    if weights.ndim == 1:
        return jnp.searchsorted(cdf, reach, side="right").astype(jnp.int32)
    return jnp.sum((cdf <= reach[:, None]).astype(jnp.int32), axis=-1)


def values_at(
    picture: Shaped[Array | np.ndarray, "height width ..."], pixels: Float[Array, "*batch 2"]
) -> Shaped[Array, "..."]:
    """What a picture shows in the pixels in which places lie; at its edge, for what is outside.

    >>> values_at(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.5, 0.5])).item()
    2.0
    """
    height, width = picture.shape[:2]
    column, row = (
        jnp.clip(jnp.floor(pixels[..., axis]).astype(jnp.int32), 0, side - 1)
        for axis, side in ((0, width), (1, height))
    )
    return jnp.asarray(picture)[row, column]


def _within(corner: Int[Array, "*batch 2"], key: PRNGKeyArray | None) -> Float[Array, "*batch 2"]:
    """The centres of pixels with these upper left corners, or random places in them."""
    if key is None:
        return corner.astype(jnp.float32) + 0.5
    return corner.astype(jnp.float32) + jax.random.uniform(key, corner.shape, jnp.float32)

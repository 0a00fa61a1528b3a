"""From a point or a direction to what a network sees: encodings and the contraction of space."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Every doubling of the angle doubles the error of sine and cosine, so true ones are taken again
# after this many; four doublings stay within 2e-6 of the truth in float32.
_OCTAVES_BETWEEN_SINES = 4


def positional_encoding(
    x: Float[Array, "*batch D"], degree: int, *, identity: bool = True
) -> Float[Array, "*batch E"]:
    """Encode coordinates by sines and cosines of doubling frequency (NeRF, eq. 4, without the pi).

    The order is that of the paper's released code, so that trained weights carry over:
    ``x, sin(x), cos(x), sin(2x), cos(2x), sin(4x), ...``, each entry D wide.

    Args:
      x: coordinates, in any unit; the highest frequency has a period of 2 pi / 2^(degree - 1).
      degree: the number of octaves L.
      identity: whether x itself comes first.

    Returns:
      The encoding, ``E = D * (2 * degree + identity)`` wide. Sines and cosines are exact to 2e-6
      in float32: all but every fourth octave come from the double-angle formulas, which cost a few
      multiplications where a sine costs twenty; the derivative needs no sine at all.

    >>> print(positional_encoding(jnp.array([0.5]), 2).round(3))
    [0.5   0.479 0.878 0.841 0.54 ]
    """
    if degree < 0:
        raise ValueError(f"positional_encoding: degree must be at least 0, got {degree}")
    parts = [x] if identity else []
    if degree:
        parts.append(_octaves(x, degree))
    return jnp.concatenate(parts, axis=-1) if parts else x[..., :0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _octaves(x: Array, degree: int) -> Array:
    parts = []
    sine = cosine = x
    for octave in range(degree):
        if octave % (_OCTAVES_BETWEEN_SINES + 1) == 0:
            angle = x * 2.0**octave
            sine, cosine = jnp.sin(angle), jnp.cos(angle)
        else:
            # Not 1 - 2 sin^2, where an error of the sine's can grow fourfold.
            sine, cosine = 2.0 * sine * cosine, cosine * cosine - sine * sine
        parts += [sine, cosine]
    return jnp.concatenate(parts, axis=-1)


@_octaves.defjvp
def _octaves_jvp(degree, primals, tangents):
    (x,), (dx,) = primals, tangents
    encoded = _octaves(x, degree)
    waves = encoded.reshape(*x.shape[:-1], degree, 2, x.shape[-1])
    frequencies = (2.0 ** jnp.arange(degree, dtype=x.dtype)).reshape(
        (1,) * (x.ndim - 1) + (degree, 1)
    )
    slope = frequencies * jnp.expand_dims(dx, -2)
    tangent = jnp.stack([slope * waves[..., 1, :], -slope * waves[..., 0, :]], axis=-2)
    return encoded, tangent.reshape(encoded.shape)


def spherical_harmonics(
    directions: Float[Array, "*batch 3"], degree: int
) -> Float[Array, "*batch H"]:
    """Evaluate the real, orthonormal spherical harmonics Y_lm for l = 0 .. degree.

    Without the Condon-Shortley phase, ordered by l, then by m from -l to l, as in graphics
    (Sloan, "Stupid Spherical Harmonics Tricks", 2008, appendix A2); z is the polar axis.

    Args:
      directions: unit vectors.
      degree: the highest l, from 0 to 4.

    Returns:
      ``H = (degree + 1)^2`` values. Over the sphere, the mean of Y_i * Y_j is 1/(4 pi) if i = j, else 0.

    Raises:
      ValueError: degree is not in 0 .. 4.

    >>> print(spherical_harmonics(jnp.array([0.0, 0.0, 1.0]), 1).round(4))
    [0.2821 0.     0.4886 0.    ]
    """
    if not 0 <= degree <= 4:
        raise ValueError(f"spherical_harmonics: degree must be 0 to 4, got {degree}")
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    xx, yy, zz = x * x, y * y, z * z
    xy, yz, xz = x * y, y * z, x * z
    bands = [
        [jnp.full_like(x, 0.28209479177387814)],
        [0.4886025119029199 * y, 0.4886025119029199 * z, 0.4886025119029199 * x],
        [
            1.0925484305920792 * xy,
            1.0925484305920792 * yz,
            0.31539156525252005 * (3.0 * zz - 1.0),
            1.0925484305920792 * xz,
            0.5462742152960396 * (xx - yy),
        ],
        [
            0.5900435899266435 * y * (3.0 * xx - yy),
            2.890611442640554 * xy * z,
            0.4570457994644658 * y * (5.0 * zz - 1.0),
            0.3731763325901154 * z * (5.0 * zz - 3.0),
            0.4570457994644658 * x * (5.0 * zz - 1.0),
            1.445305721320277 * z * (xx - yy),
            0.5900435899266435 * x * (xx - 3.0 * yy),
        ],
        [
            2.5033429417967046 * xy * (xx - yy),
            1.7701307697799304 * yz * (3.0 * xx - yy),
            0.9461746957575601 * xy * (7.0 * zz - 1.0),
            0.6690465435572892 * yz * (7.0 * zz - 3.0),
            0.10578554691520431 * (35.0 * zz * zz - 30.0 * zz + 3.0),
            0.6690465435572892 * xz * (7.0 * zz - 3.0),
            0.47308734787878004 * (xx - yy) * (7.0 * zz - 1.0),
            1.7701307697799304 * xz * (xx - 3.0 * yy),
            0.6258357354491761 * (xx * (xx - 3.0 * yy) - yy * (3.0 * xx - yy)),
        ],
    ]
    return jnp.stack([value for band in bands[: degree + 1] for value in band], axis=-1)


def contract(x: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Map all of space into the ball of radius 2 (mip-NeRF 360, eq. 10).

    Inside the unit ball nothing moves; outside, a point at distance r lands at distance 2 - 1/r in
    the same direction. Smooth to first order, and with finite gradients everywhere.

    >>> contract(jnp.array([4.0, 0.0, 0.0])).tolist()
    [1.75, 0.0, 0.0]
    """
    # The maximum keeps both branches finite inside the ball, where the gradient of a norm is not.
    norm_squared = jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1.0)
    norm = jnp.sqrt(norm_squared)
    return x * ((2.0 * norm - 1.0) / norm_squared)


def uncontract(z: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Undo `contract`: from the open ball of radius 2 back to all of space.

    >>> uncontract(jnp.array([1.75, 0.0, 0.0])).tolist()
    [4.0, 0.0, 0.0]
    """
    norm_squared = jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1.0)
    norm = jnp.sqrt(norm_squared)
    return z / (2.0 * norm - norm_squared)

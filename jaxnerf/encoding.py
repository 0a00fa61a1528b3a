"""Encodings of positions and directions for networks, and the contraction of unbounded space."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
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
    heights, real, imaginary = [jnp.ones_like(z)], [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(degree):
        heights.append(heights[-1] * z)
        next_real = real[-1] * x - imaginary[-1] * y
        imaginary.append(imaginary[-1] * x + real[-1] * y)
        real.append(next_real)
    # As two products of matrices, since XLA:CPU compiles each of 25 formulas for itself.
    exactly = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    polar, azimuthal = (factor.astype(x.dtype) for factor in _harmonic_factors(degree))
    around = jnp.stack([*imaginary[:0:-1], *real], axis=-1)
    return exactly(jnp.stack(heights, axis=-1), polar) * exactly(around, azimuthal)


@functools.cache
def _harmonic_factors(degree: int) -> tuple[Float[np.ndarray, "Z H"], Float[np.ndarray, "A H"]]:
    """What harmonics are products of: polynomials in z, and a part of a power of x + i y.

    Y_lm is sqrt((2l + 1) / (4 pi) (l - |m|)! / (l + |m|)!), times the |m|-th derivative of the Legendre
    polynomial P_l at z, times 1 for m = 0, else sqrt(2) Re (x + i y)^m, or Im (x + i y)^|m| for m < 0.

    Returns:
      Coefficients of z^0 .. z^degree in each harmonic's polynomial; and a 1 where the harmonic has Im
      (x + i y)^degree .. Im (x + i y), 1, Re (x + i y) .. Re (x + i y)^degree.
    """
    polar, azimuthal = (
        np.zeros((rows, (degree + 1) ** 2)) for rows in (degree + 1, 2 * degree + 1)
    )
    pairs = [(band, m) for band in range(degree + 1) for m in range(-band, band + 1)]
    for number, (band, m) in enumerate(pairs):
        order = abs(m)
        scale = (2 * band + 1) / (4.0 * math.pi) * (2.0 if m else 1.0)
        scale *= math.factorial(band - order) / math.factorial(band + order)
        legendre = np.polynomial.legendre.leg2poly(np.eye(band + 1)[band])
        slope = np.polynomial.polynomial.polyder(legendre, order)
        polar[: len(slope), number] = math.sqrt(scale) * slope
        azimuthal[degree + m, number] = 1.0
    return polar, azimuthal


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

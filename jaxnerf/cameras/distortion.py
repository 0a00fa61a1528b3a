"""Distortion of a plane by a polynomial lens, and its inverse.

The coefficients are a vector of any length (those beyond its end are 0), in the order

  k1 k2 k3 k4  p1 p2  k5 k6  q1 q2 q3  s1 s2 s3 s4

Most lenses have no more than six. OpenCV's own k4, k5 and k6 are q1, q2 and q3 here; Project Aria's p0
and p1 are p2 and p1.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The names of the coefficients, in order.
NAMES = (
    *("k1", "k2", "k3", "k4", "p1", "p2", "k5", "k6"),
    *("q1", "q2", "q3"),
    *("s1", "s2", "s3", "s4"),
)
# Newton steps while the target moves to the distorted point, and further steps at the point.
_APPROACH, _POLISH = 4, 10


def distort(
    coefficients: Float[Array, "*batch K"], plane: Float[Array, "*batch 2"]
) -> Float[Array, "*batch 2"]:
    """Radial, tangential (Brown's) and thin prism distortion of a plane.

    A point is multiplied by (1 + k1 r^2 + ... + k6 r^12) / (1 + q1 r^2 + q2 r^4 + q3 r^6); then
    (2 p1 x y + p2 (r^2 + 2 x^2), 2 p2 x y + p1 (r^2 + 2 y^2)) and (s1 r^2 + s2 r^4, s3 r^2 + s4 r^4) are
    added.

    Args:
      coefficients: see the module's text; those beyond the end are 0.
      plane: points (x, y), y down.
    """
    return jnp.stack(_distort(_split(coefficients), *_split(plane)), axis=-1)


def undistort(
    coefficients: Float[Array, "*batch K"], distorted: Float[Array, "*batch 2"]
) -> Float[Array, "*batch 2"]:
    """Invert `distort`, by Newton's method along the line from the origin to the distorted point.

    If the polynomial has several solutions, since it folds over beyond the image, the result is the one
    that is connected with the origin by points at which the map is one-to-one. Exact to rounding for the
    lenses of real cameras within their images; less exact close to a fold, where the inverse is steep. A
    point beyond the fold, which the lens does not reach, gets a finite point before the fold, and
    gradient 0. Derivatives of every order, forward and reverse, are those of the inverse function, not
    of the iterations.
    """
    return _invert(_distort, coefficients, distorted)


def distort_in_turn(
    coefficients: Float[Array, "*batch K"], plane: Float[Array, "*batch 2"]
) -> Float[Array, "*batch 2"]:
    """As `distort`, but the added terms are those of the point after radial distortion."""
    return jnp.stack(_distort_in_turn(_split(coefficients), *_split(plane)), axis=-1)


def undistort_in_turn(
    coefficients: Float[Array, "*batch K"], distorted: Float[Array, "*batch 2"]
) -> Float[Array, "*batch 2"]:
    """Invert `distort_in_turn`, as `undistort` does `distort`."""
    return _invert(_distort_in_turn, coefficients, distorted)


def _split(vectors: Array) -> list[Array]:
    """The components of vectors as separate arrays, with which XLA is several times faster."""
    return [vectors[..., i] for i in range(vectors.shape[-1])]


def _distort(k: list[Array], x: Array, y: Array) -> tuple[Array, Array]:
    """`distort` of components."""
    radial = _radial(k, x * x + y * y)
    across, down = _decentring(k, x, y)
    return x * radial + across, y * radial + down


def _distort_in_turn(k: list[Array], x: Array, y: Array) -> tuple[Array, Array]:
    """`distort_in_turn` of components."""
    radial = _radial(k, x * x + y * y)
    x, y = x * radial, y * radial
    across, down = _decentring(k, x, y)
    return x + across, y + down


def _radial(k: list[Array], r2: Array) -> Array:
    """(1 + k1 r^2 + ...) / (1 + q1 r^2 + ...)."""
    above = _series([*k[:4], *k[6:8]], r2)
    return above / _series(k[8:11], r2) if len(k) > 8 else above


def _series(terms: list[Array], r2: Array) -> Array:
    """1 + a r^2 + b r^4 + ..."""
    total = jnp.zeros_like(r2)
    for term in reversed(terms):
        total = (total + term) * r2
    return 1.0 + total


def _decentring(k: list[Array], x: Array, y: Array) -> tuple[Array, Array]:
    """The added terms of tangential and thin prism distortion."""
    zero, r2 = jnp.zeros_like(x), x * x + y * y
    p1, p2 = (*k[4:6], zero, zero)[:2]
    across = 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    down = 2.0 * p2 * x * y + p1 * (r2 + 2.0 * y * y)
    if len(k) > 11:
        s1, s2, s3, s4 = (*k[11:15], zero, zero, zero)[:4]
        across, down = across + r2 * (s1 + r2 * s2), down + r2 * (s3 + r2 * s4)
    return across, down


def _invert(function: Callable, coefficients: Array, target: Array) -> Array:
    """Solve function(coefficients, x, y) = target, on the branch through 0."""
    x, y, _ = _root(function, _split(coefficients), *_split(target))
    return jnp.stack([x, y], axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _root(function: Callable, k: list[Array], u: Array, v: Array) -> tuple[Array, Array, Array]:
    """The point (x, y) with function(k, x, y) = (u, v), and 1 if there is one, else 0.

    The target moves from 0 to its position in a few steps, with a Newton step of x and y for each. A
    step that leads to a point at which the map does not keep orientation has crossed a fold: it is
    halved until it has not.
    """

    def iterate(index, state):
        x, y, dx, dy = state
        before, step = _newton(function, k, x + dx, y + dy)
        part = jnp.minimum((index + 1) / _APPROACH, 1.0).astype(u.dtype)
        new_dx, new_dy = step(part * u, part * v)
        return (
            jnp.where(before, x + dx, x),
            jnp.where(before, y + dy, y),
            jnp.where(before, new_dx, 0.5 * dx),
            jnp.where(before, new_dy, 0.5 * dy),
        )

    zero = jnp.zeros_like(u)
    x, y, _, _ = jax.lax.fori_loop(0, _APPROACH + _POLISH, iterate, (zero,) * 4)
    before, step = _newton(function, k, x, y)
    dx, dy = step(u, v)
    arrived = before & (dx * dx + dy * dy < 1e-4 * (1.0 + x * x + y * y))
    x, y = x + jnp.where(arrived, dx, 0.0), y + jnp.where(arrived, dy, 0.0)
    return x, y, arrived.astype(u.dtype)


@_root.defjvp
def _root_and_tangent(function: Callable, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """The implicit function theorem: the derivatives of x and y are functions of the root itself.

    Since that root has this rule too, derivatives of every order are those of the inverse function.
    """
    k, u, v = primals
    k_dot, u_dot, v_dot = tangents
    x, y, arrived = _root(function, k, u, v)
    _, (f_dot, g_dot) = jax.jvp(lambda k: function(k, x, y), (k,), (k_dot,))
    (_, _), (a, b, c, d) = _jacobian(function, k, x, y)
    determinant = a * d - b * c
    known = (arrived > 0.0) & (determinant > 0.0)
    scale = jnp.where(known, 1.0, 0.0) / jnp.where(known, determinant, 1.0)
    across, down = u_dot - f_dot, v_dot - g_dot
    x_dot, y_dot = scale * (d * across - b * down), scale * (a * down - c * across)
    return (x, y, arrived), (x_dot, y_dot, jnp.zeros_like(arrived))


def _newton(
    function: Callable, k: list[Array], x: Array, y: Array
) -> tuple[Array, Callable[[Array, Array], tuple[Array, Array]]]:
    """Whether (x, y) is before the fold, and the Newton step from there as a function of the target."""
    (f, g), (a, b, c, d) = _jacobian(function, k, x, y)
    determinant = a * d - b * c
    before = (determinant > 0.0) & (a + d > 0.0)
    scale = 1.0 / jnp.where(before, determinant, 1.0)

    def step(u, v):
        return scale * (d * (u - f) - b * (v - g)), scale * (a * (v - g) - c * (u - f))

    return before, step


def _jacobian(
    function: Callable, k: list[Array], x: Array, y: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array, Array]]:
    """The values f and g of a function, and the derivatives f_x, f_y, g_x, g_y."""
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    (f, g), (a, c) = jax.jvp(lambda x, y: function(k, x, y), (x, y), (one, zero))
    _, (b, d) = jax.jvp(lambda x, y: function(k, x, y), (x, y), (zero, one))
    return (f, g), (a, b, c, d)

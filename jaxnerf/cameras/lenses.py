"""Lenses: the maps between directions and points of the image plane.

A lens maps directions in the camera's own axes (+x right, +y down, +z forward, as OpenCV and COLMAP
have them; of any length) to points on a plane whose unit is the focal length and whose origin is the
principal point. `to_plane` is that map, `from_plane` its inverse; both are pure functions that work under
jit, vmap and grad, for any leading shape. With r the distance from the axis on the plane at depth 1
and theta the angle from the axis:

- "pinhole": the plane at depth 1.
- "opencv": the plane at depth 1, then `distort`. COLMAP's SIMPLE_RADIAL, RADIAL, OPENCV and
  FULL_OPENCV, and OpenCV's thin prism model.
- "fisheye": the plane on which a direction has distance theta, then `distort`. COLMAP's *_FISHEYE
  except the next, OpenCV's fisheye model.
- "fisheye624": as "fisheye", but then `distort_in_turn`. COLMAP's RAD_TAN_THIN_PRISM_FISHEYE, Project
  Aria's Fisheye624.
- "fov": distance atan(2 r tan(omega / 2)) / omega, with one coefficient omega (Devernay and Faugeras,
  2001). An omega below 3e-4 is replaced by 3e-4, which is a pinhole to 3e-8.
- "division": distance s with r = s / (1 + k s^2), with one coefficient k (Fitzgibbon, 2001). COLMAP's
  SIMPLE_DIVISION and DIVISION.
- "eucm": (x, y) / (alpha sqrt(beta (x^2 + y^2) + z^2) + (1 - alpha) z), with coefficients alpha and
  beta: the enhanced unified camera model (Khomutenko, Garcia and Martinet, 2016).
- "equirectangular": longitude (0 ahead, to the right) and latitude (downwards) in radians. Focal
  lengths are pixels per radian: width / 2 pi and height / pi for a whole sphere.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf.cameras.distortion import NAMES, distort, distort_in_turn, undistort, undistort_in_turn

Lens = Literal[
    "pinhole",
    "opencv",
    "fisheye",
    "fisheye624",
    "fov",
    "division",
    "eucm",
    "equirectangular",
]
# The lenses whose rays have directions of depth 1; those of the others, which can have rays at right
# angles to the axis, have length 1.
FLAT: tuple[Lens, ...] = ("pinhole", "opencv")

# The names of a lens's coefficients, in order.
COEFFICIENTS: dict[Lens, tuple[str, ...]] = {
    "pinhole": (),
    "opencv": NAMES,
    "fisheye": NAMES,
    "fisheye624": NAMES,
    "fov": ("omega",),
    "division": ("k",),
    "eucm": ("alpha", "beta"),
    "equirectangular": (),
}

_SMALLEST_OMEGA = 3e-4
# Squares of angles below which four terms of the series of sine and cosine are exact to 1e-17.
_NEAR_THE_AXIS = 1e-3
# Number of angles at which `greatest_angle` searches for a fold.
_ANGLES = 192


def to_plane(
    lens: str, coefficients: Float[Array, "*batch K"], directions: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 2"]:
    """The points on the plane of directions; see the module's text.

    Flat lenses (`FLAT`) have points for directions with z > 0 only. For most lenses the formula is valid
    up to the angle at which it folds over, where the distance from the centre no longer grows with the
    angle (`greatest_angle`): directions beyond would be mapped into the image, in which a real lens does
    not show them.
    """
    return _both(lens)[0](coefficients, directions)


def greatest_angle(lens: str, coefficients: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """The angle from the axis, in radians, up to which a lens does not fold over.

    Computed along one radius, to one or two degrees (rather too large); pi if it never folds over.
    """
    if lens in ("pinhole", "equirectangular"):
        return jnp.full(coefficients.shape[:-1], jnp.pi, coefficients.dtype)
    end = 0.5 * jnp.pi - 0.01 if lens in FLAT else jnp.pi
    angles = jnp.linspace(0.0, end, _ANGLES, dtype=coefficients.dtype)
    along = jnp.stack([jnp.sin(angles), jnp.zeros_like(angles), jnp.cos(angles)], axis=-1)
    shape = (*coefficients.shape[:-1], _ANGLES)
    place = _both(lens)[0](
        jnp.broadcast_to(coefficients[..., None, :], (*shape, coefficients.shape[-1])),
        jnp.broadcast_to(along, (*shape, 3)),
    )[..., 0]
    falls = place[..., 1:] <= place[..., :-1]
    first = angles[1 + jnp.argmax(falls, axis=-1)]
    return jax.lax.stop_gradient(jnp.where(falls.any(axis=-1), first, jnp.pi))


def from_plane(
    lens: str, coefficients: Float[Array, "*batch K"], plane: Float[Array, "*batch 2"]
) -> Float[Array, "*batch 3"]:
    """The directions of points on the plane: of depth 1 for flat lenses, else of length 1.

    Points that the lens cannot reach have no correct direction: they get a finite direction near the last
    that it can reach. For the accuracy of polynomial lenses see `undistort`.
    """
    return _both(lens)[1](coefficients, plane)


def _both(lens: str) -> tuple[Callable, Callable]:
    if lens not in _MAPS:
        kinds = ", ".join(get_args(Lens))
        raise ValueError(f"Camera: lens must be one of {kinds}, got {lens!r}")
    return _MAPS[lens]


def _perspective(directions: Array) -> Array:
    z = directions[..., 2:]
    return directions[..., :2] / jnp.where(jnp.abs(z) > 0.0, z, 1e-20)


def _lift(plane: Array) -> Array:
    return jnp.concatenate([plane, jnp.ones_like(plane[..., :1])], axis=-1)


def _equidistant(directions: Array) -> Array:
    """The point of each direction at a distance of its angle from the axis."""
    z = directions[..., 2]
    radius, safe = _length(directions[..., :2])
    # On the axis the ratio is its limit, the derivative there.
    on_axis = 1.0 / jnp.where(radius > 0.0, 1.0, jnp.where(z > 0.0, z, 1.0))
    ratio = jnp.where(radius > 0.0, jnp.arctan2(radius, z) / safe, on_axis)
    return directions[..., :2] * ratio[..., None]


def _on_sphere(plane: Array) -> Array:
    """The unit directions whose angles from the axis are the points' distances from the origin."""
    square = _squared(plane)
    # Near the axis a series in the square, whose root has no second derivative at 0.
    near = square < _NEAR_THE_AXIS
    angle = jnp.sqrt(jnp.where(near, 1.0, square))
    sine = 1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0))
    cosine = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0))
    ratio = jnp.where(near, sine, jnp.sin(angle) / angle)
    depth = jnp.where(near, cosine, jnp.cos(angle))
    return jnp.concatenate([plane * ratio[..., None], depth[..., None]], axis=-1)


def _omega(coefficients: Array) -> Array:
    return jnp.maximum(jnp.abs(coefficients[..., 0]), _SMALLEST_OMEGA)


def _to_plane_fov(coefficients: Array, directions: Array) -> Array:
    omega, z = _omega(coefficients), directions[..., 2]
    radius, safe = _length(directions[..., :2])
    slope = 2.0 * jnp.tan(0.5 * omega)
    on_axis = slope / (omega * jnp.where(radius > 0.0, 1.0, jnp.where(z > 0.0, z, 1.0)))
    ratio = jnp.where(radius > 0.0, jnp.arctan2(slope * radius, z) / (omega * safe), on_axis)
    return directions[..., :2] * ratio[..., None]


def _from_plane_fov(coefficients: Array, plane: Array) -> Array:
    omega = _omega(coefficients)[..., None]
    turned = _on_sphere(plane * omega)
    across = turned[..., :2] / (2.0 * jnp.tan(0.5 * omega))
    return _unit(jnp.concatenate([across, turned[..., 2:]], axis=-1))


def _to_plane_division(coefficients: Array, directions: Array) -> Array:
    k, z = coefficients[..., 0], directions[..., 2]
    square, term = z * z, 4.0 * k * _squared(directions[..., :2])
    # If there is no real root, a continuation that folds over.
    beyond = 4.0 * z / jnp.where(term > square, square + term, 1.0)
    ratio = jnp.where(term > square, beyond, 2.0 / _away_from_0(z + _root(square - term)))
    return directions[..., :2] * ratio[..., None]


def _from_plane_division(coefficients: Array, plane: Array) -> Array:
    depth = 1.0 + coefficients[..., 0] * _squared(plane)
    return _unit(jnp.concatenate([plane, depth[..., None]], axis=-1))


def _to_plane_eucm(coefficients: Array, directions: Array) -> Array:
    alpha, beta, z = coefficients[..., 0], coefficients[..., 1], directions[..., 2]
    distance = _root(beta * _squared(directions[..., :2]) + z * z)
    return directions[..., :2] / _away_from_0(alpha * distance + (1.0 - alpha) * z)[..., None]


def _from_plane_eucm(coefficients: Array, plane: Array) -> Array:
    alpha, beta = coefficients[..., 0], coefficients[..., 1]
    r2 = _squared(plane)
    root = _root(1.0 - (2.0 * alpha - 1.0) * beta * r2)
    depth = (1.0 - beta * alpha * alpha * r2) / _away_from_0(alpha * root + 1.0 - alpha)
    return _unit(jnp.concatenate([plane, depth[..., None]], axis=-1))


def _to_plane_equirectangular(coefficients: Array, directions: Array) -> Array:
    del coefficients
    x, y, z = (directions[..., i] for i in range(3))
    level, _ = _length(directions[..., ::2])
    # At the poles longitude is arbitrary; 0 has a finite gradient.
    pole = level == 0.0
    longitude = jnp.arctan2(jnp.where(pole, 0.0, x), jnp.where(pole, 1.0, z))
    return jnp.stack([longitude, jnp.arctan2(y, level)], axis=-1)


def _from_plane_equirectangular(coefficients: Array, plane: Array) -> Array:
    del coefficients
    longitude, latitude = plane[..., 0], plane[..., 1]
    level = jnp.cos(latitude)
    return jnp.stack(
        [jnp.sin(longitude) * level, jnp.sin(latitude), jnp.cos(longitude) * level], axis=-1
    )


_MAPS: dict[str, tuple[Callable, Callable]] = {
    "pinhole": (lambda k, d: _perspective(d), lambda k, p: _lift(p)),
    "opencv": (
        lambda k, d: distort(k, _perspective(d)),
        lambda k, p: _lift(undistort(k, p)),
    ),
    "fisheye": (
        lambda k, d: distort(k, _equidistant(d)),
        lambda k, p: _on_sphere(undistort(k, p)),
    ),
    "fisheye624": (
        lambda k, d: distort_in_turn(k, _equidistant(d)),
        lambda k, p: _on_sphere(undistort_in_turn(k, p)),
    ),
    "fov": (_to_plane_fov, _from_plane_fov),
    "division": (_to_plane_division, _from_plane_division),
    "eucm": (_to_plane_eucm, _from_plane_eucm),
    "equirectangular": (_to_plane_equirectangular, _from_plane_equirectangular),
}


def _squared(vectors: Array) -> Array:
    return jnp.sum(vectors * vectors, axis=-1)


def _length(vectors: Array) -> tuple[Array, Array]:
    """The length of vectors, with gradient 0 at 0; and the same with 1 in place of 0, for divisions."""
    squared = _squared(vectors)
    safe = jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0))
    return jnp.where(squared > 0.0, safe, 0.0), safe


def _unit(vectors: Array) -> Array:
    return vectors / _length(vectors)[1][..., None]


def _root(values: Array) -> Array:
    """The square root; 0 with gradient 0 for negative values."""
    return jnp.where(values > 0.0, jnp.sqrt(jnp.where(values > 0.0, values, 1.0)), 0.0)


def _away_from_0(values: Array) -> Array:
    return jnp.where(jnp.abs(values) > 1e-20, values, 1e-20)

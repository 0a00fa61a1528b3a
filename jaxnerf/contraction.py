"""Contractions of unbounded space into a cube that a grid can cover, and even steps along rays there.

A `SphereContraction` is for cameras in and around a scene: a ball is unchanged, and everything beyond is
contracted into a shell around it (`jaxnerf.encoding.contract`). An `NdcSpace` is for forward-facing
cameras: their view frustum becomes a cube (`jaxnerf.cameras.to_ndc`). A `BoxSpace` scales a box. Cameras,
rays and their t stay in the world; only the field is evaluated in the other space
(`jaxnerf.fields.warped`).
"""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnerf.cameras import Rays, to_ndc
from jaxnerf.encoding import contract, uncontract

# Limits that keep float32 finite, in radii of the ball (or distances of the near plane): the least
# distance from the centre at which a ray counts as passing, and the largest distance of a point.
_CLOSEST, _FARTHEST = 1e-3, 1e5


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SphereContraction:
    """All of space in a ball of radius 2, of which the ball of radius 1 keeps its shape. A pytree.

    See `jaxnerf.encoding.contract` (mip-NeRF 360, eq. 10).

    Attributes:
      centre: the ball's centre in the world.
      radius: the ball's radius in the world's unit; lengths in contracted space are multiples of it.
    """

    centre: Float[Array, "3"]
    radius: Float[Array, ""]

    def cells(self, count: int) -> tuple[Float[np.ndarray, "3"], float, Bool[np.ndarray, "M M M"]]:
        """A cube around contracted space: its corner, its side, and which of its cells are in it."""
        middles = (np.arange(count) + 0.5) * (4.0 / count) - 2.0
        squares = np.add.outer(np.add.outer(middles**2, middles**2), middles**2)
        half_diagonal = 0.5 * np.sqrt(3.0) * (4.0 / count)
        return np.full(3, -2.0), 4.0, squares < (2.0 + half_diagonal) ** 2

    def place(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Where points of the world lie in contracted space, the ball of radius 2 around 0."""
        return contract((points - jnp.broadcast_to(self.centre, points.shape)) / self.radius)

    def rate(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        """Length in contracted space per length in the world, in the radial direction."""
        offset = (points - jnp.broadcast_to(self.centre, points.shape)) / self.radius
        return 1.0 / (self.radius * jnp.maximum(jnp.sum(offset * offset, axis=-1), 1.0))

    def world(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """The inverse of `place`."""
        return uncontract(points) * self.radius + jnp.broadcast_to(self.centre, points.shape)

    def squared_distance(self, places: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        """The squared distance from the centre, in radii, of places; at most 10^10; 1 in the ball."""
        contracted = jnp.sqrt(jnp.sum(places * places, axis=-1))
        distance = 1.0 / jnp.maximum(2.0 - contracted, 1.0 / _FARTHEST)
        return jnp.where(contracted > 1.0, distance * distance, 1.0)

    def holds(self, points: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
        """Whether points of the world have a place: all do."""
        return jnp.ones(points.shape[:-1], bool)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BoxSpace:
    """A cube of the world, scaled to the cube [-2, 2]^3, and nothing outside of it. A pytree.

    Attributes:
      origin: the corner of the cube with the smallest coordinates, in the world.
      side: the cube's side, in the world's unit.
    """

    origin: Float[Array, "3"]
    side: Float[Array, ""]

    def place(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Where points of the world lie in the scaled cube."""
        return (points - jnp.broadcast_to(self.origin, points.shape)) * (4.0 / self.side) - 2.0

    def rate(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        """Length in the scaled cube per length in the world."""
        return jnp.broadcast_to(4.0 / self.side, points.shape[:-1])

    def holds(self, points: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
        """Whether points of the world lie in the cube."""
        return jnp.max(jnp.abs(self.place(points)), axis=-1) <= 2.0


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NdcSpace:
    """Normalised device coordinates of a camera at the origin that looks along -z. A pytree.

    NeRF, appendix C.

    Attributes:
      focal: (f_x, f_y) in pixels.
      size: (width, height) in pixels.
      near: the distance of the near plane; nothing lies nearer.
      reach: largest |x| or |y| in the cube's coordinates that any camera sees; 1 is the edge of the image
        of a camera at the origin.
    """

    focal: Float[Array, "2"]
    size: Float[Array, "2"]
    near: Float[Array, ""]
    reach: Float[Array, ""]

    def cells(self, count: int) -> tuple[Float[np.ndarray, "3"], float, Bool[np.ndarray, "M M M"]]:
        """A cube around what is seen: its corner, its side, and which of its cells may be."""
        reach = max(float(self.reach), 1.0)
        edges = np.linspace(-reach, reach, count + 1)
        inside = (edges[1:] > -1.0) & (edges[:-1] < 1.0)
        mask = np.broadcast_to(inside, (count,) * 3).copy()
        return np.full(3, -reach), 2.0 * reach, mask

    def place(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Where points of the world with z < 0 lie in the cube [-1, 1]^3 (NeRF, eq. 16 and 22)."""
        z = jnp.minimum(points[..., 2], -1e-6 * self.near)
        scale = -2.0 * self.focal / self.size
        x, y = (scale[axis] * points[..., axis] / z for axis in (0, 1))
        return jnp.stack([x, y, 1.0 + 2.0 * self.near / z], axis=-1)

    def rate(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        """Length in the cube per length in the world, along the viewing axis (-z)."""
        z = jnp.minimum(points[..., 2], -1e-6 * self.near)
        return 2.0 * self.near / (z * z)

    def world(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """The inverse of `place`."""
        z = -2.0 * self.near / jnp.maximum(1.0 - points[..., 2], 1.0 / _FARTHEST)
        scale = -0.5 * self.size / self.focal
        x, y = (scale[axis] * points[..., axis] * z for axis in (0, 1))
        return jnp.stack([x, y, z], axis=-1)

    def holds(self, points: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
        """Whether points of the world have a place: those beyond the near plane."""
        return points[..., 2] <= -self.near

    def rays(self, rays: Rays) -> Rays:
        """Rays in the cube, from their near to their far or, if those lie outside, from 0 to 1.

        The rays that do not look forward end at once.
        """
        forward = rays.directions[..., 2] < -1e-6 * jnp.linalg.norm(rays.directions, axis=-1)
        level = jnp.where(forward, rays.directions[..., 2], -1.0)
        safe = dataclasses.replace(rays, directions=rays.directions.at[..., 2].set(level))
        cube = to_ndc(safe, self.focal, self.size, self.near)
        near, far = (self.cube(safe, t) for t in (rays.near, rays.far))
        return dataclasses.replace(cube, near=near, far=jnp.where(forward, far, near))

    def t(self, rays: Rays, cube: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """The t of rays in the world from that in the cube."""
        level = jnp.minimum(rays.directions[..., 2], -1e-12)
        begin = -(self.near + rays.origins[..., 2]) / level
        return begin - self.near * cube / (level * jnp.maximum(1.0 - cube, 1.0 / _FARTHEST))

    def cube(self, rays: Rays, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """The inverse of `t`, for a t that may be infinite; 0 for what lies before the near plane."""
        depth = -(rays.origins[..., 2] + t * rays.directions[..., 2])
        return 1.0 - self.near / jnp.maximum(depth, self.near)

    def world_length(
        self, rays: Rays, t: Float[Array, "*batch"], step: Float[Array, ""]
    ) -> Float[Array, "*batch"]:
        """The length in the world of a step along rays whose length in the cube is given.

        To first order: the step divided by the speed, in the cube, of a point that moves along the ray.

        Args:
          rays: rays in the world.
          t: distances along them.
          step: its length in the cube.
        """
        level = jnp.maximum(-rays.directions[..., 2], 1e-12)
        depth = -(rays.origins[..., 2] + t * rays.directions[..., 2])
        depth = jnp.maximum(depth, 1e-6 * self.near)
        speed = jnp.linalg.norm(rays.directions, axis=-1)
        in_cube = jnp.linalg.norm(self.rays(rays).directions, axis=-1)
        return step * speed * depth * depth / (level * in_cube * self.near)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RayArcLength:
    """A coordinate s along each ray in which steps are about even in contracted space. A pytree.

    With u the distance from the ray's point nearest to the centre, and b that point's distance from
    it, both in radii: s is 0 there, and ds/du = min(1, sqrt(1 + 4 b^2) / (u^2 + b^2)). In the middle
    s is u, far away it is linear in disparity. Contracted points move no faster: where r^2 = u^2 + b^2
    is above 1 they move by cos / r^2 outwards and by sin (2 - 1/r) / r around, with cos = u/r and
    sin = b/r, together at most sqrt(1 + 4 b^2) / r^2.

    Attributes:
      middle: t of the point nearest to the centre.
      scale: du/dt, the length of a unit of t in radii.
      passing: b.
      even: the u up to which s is u.
    """

    middle: Float[Array, "*batch"]
    scale: Float[Array, "*batch"]
    passing: Float[Array, "*batch"]
    even: Float[Array, "*batch"]

    def length(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """The s of a t, which may be infinite."""
        u = jnp.clip((t - self.middle) * self.scale, -_FARTHEST, _FARTHEST)
        b, far = self.passing, jnp.abs(u)
        tangent = jnp.maximum(far - self.even, 0.0) / (b * b + far * self.even)
        beyond = self.fastest * jnp.arctan(tangent * b) / b
        return jnp.sign(u) * (jnp.minimum(far, self.even) + beyond)

    def t(self, length: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """The t of an s; of an s beyond infinity that of something far away."""
        b, far = self.passing, jnp.abs(length)
        angle = jnp.maximum(far - self.even, 0.0) / self.fastest * b
        tangent = jnp.tan(jnp.minimum(angle, 0.5 * jnp.pi - 1e-6)) / b
        left = jnp.maximum(1.0 - tangent * self.even, 1.0 / _FARTHEST)
        beyond = jnp.minimum((self.even + tangent * b * b) / left, _FARTHEST)
        u = jnp.sign(length) * jnp.where(far > self.even, beyond, far)
        return self.middle + u / self.scale

    def world_length(
        self, t: Float[Array, "*batch"], step: Float[Array, ""]
    ) -> Float[Array, "*batch"]:
        """The length in the world, in radii, of a step at t whose length s is given, to first order."""
        u = jnp.clip((t - self.middle) * self.scale, -_FARTHEST, _FARTHEST)
        return step * jnp.maximum(1.0, (u * u + self.passing * self.passing) / self.fastest)

    @property
    def fastest(self) -> Float[Array, "*batch"]:
        """sqrt(1 + 4 b^2): by r^2, how fast a contracted point of the ray can move at most."""
        return jnp.sqrt(1.0 + 4.0 * self.passing * self.passing)


def arc_length(ball: SphereContraction, rays: Rays) -> RayArcLength:
    """How to measure along rays; see `RayArcLength`."""
    start = (rays.origins - jnp.broadcast_to(ball.centre, rays.origins.shape)) / ball.radius
    speed = jnp.linalg.norm(rays.directions, axis=-1)
    along = -jnp.sum(start * rays.directions, axis=-1) / (speed * speed)
    nearest = start + along[..., None] * rays.directions
    passing = jnp.maximum(jnp.linalg.norm(nearest, axis=-1), _CLOSEST)
    even = jnp.sqrt(jnp.maximum(jnp.sqrt(1.0 + 4.0 * passing**2) - passing**2, 0.0))
    return RayArcLength(along * ball.radius, speed / ball.radius, passing, even)

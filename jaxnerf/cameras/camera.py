"""`Camera` and `Rays`: casting rays through pixels, and projecting points to pixels.

`jaxnerf.cameras` has the conventions of poses and pixels.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxnerf.cameras.lenses import Lens, from_plane, greatest_angle, to_plane

# Projected position, in focal lengths, of points that the lens cannot show.
_OUT_OF_THE_PICTURE = 1e5
# Replaces smaller components of directions, by which `within_box` divides.
_LEAST = 1e-12


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Camera:
    """One camera, or a batch of cameras with the same kind of lens. A pytree.

    Poses far from the origin (survey coordinates are millions of metres) need double precision: they
    may be NumPy arrays in float64, which JAX's functions round to the precision of focal lengths.

    Attributes:
      camera_to_world: pose; see the module's conventions. With a fourth row, (0, 0, 0, 1), too.
      focal: focal lengths (f_x, f_y) in pixels.
      centre: the principal point (c_x, c_y) in pixels.
      distortion: the lens's coefficients, (k1, k2, k3, k4, p1, p2) for most: see `lenses`. Not used
        by a pinhole.
      size: the image's (width, height) in pixels. Casting and projecting do not need it.
      lens: the kind of all the batch's lenses; `lenses` says what each is.
    """

    camera_to_world: (
        Float[Array | np.ndarray, "*batch 3 4"] | Float[Array | np.ndarray, "*batch 4 4"]
    )
    focal: Float[Array | np.ndarray, "*batch 2"]
    centre: Float[Array | np.ndarray, "*batch 2"]
    distortion: Float[Array | np.ndarray, "*batch K"]
    size: Int[Array | np.ndarray, "*batch 2"]
    lens: Lens = dataclasses.field(default="pinhole", metadata={"static": True})

    @classmethod
    def look_at(
        cls,
        eye: tuple[float, float, float],
        target: tuple[float, float, float] = (0.0, 0.0, 0.0),
        *,
        width: int,
        height: int,
        field_of_view: float = 40.0,
        up: tuple[float, float, float] = (0.0, 0.0, 1.0),
    ) -> "Camera":
        """A pinhole camera at `eye` that has `target` in the middle of its picture; in float64.

        Args:
          eye, target: points in the world.
          width, height: size of the picture in pixels.
          field_of_view: horizontal, in degrees.
          up: the world's direction that is upward in the picture; not the viewing direction.
        """
        focal = 0.5 * width / np.tan(0.5 * np.deg2rad(field_of_view))
        return cls.pinhole(look_at_pose(eye, target, up), focal, width, height)

    @classmethod
    def pinhole(cls, camera_to_world, focal, width: int, height: int, centre=None) -> "Camera":
        """A camera without distortion, or a batch of them.

        Differentiable in its arrays, if any is JAX's; else the pose is kept in float64.

        Args:
          camera_to_world: [*batch, 3, 4], or of four rows.
          focal: focal length in pixels; or (f_x, f_y), of shape [2] or [*batch, 2].
          width, height: size of the picture in pixels.
          centre: principal point (c_x, c_y) in pixels; by default the picture's middle.
        """
        traced = any(isinstance(each, jax.Array) for each in (camera_to_world, focal, centre))
        xp: Any = jnp if traced else np
        pose = xp.asarray(camera_to_world, None if traced else np.float64)[..., :3, :4]
        if not jnp.issubdtype(pose.dtype, jnp.floating):
            pose = pose.astype(np.float32)
        dtype = pose.dtype if traced else np.float32
        middle = (0.5 * width, 0.5 * height) if centre is None else centre

        def whole(values, last: int, dtype):
            return xp.broadcast_to(xp.asarray(values, dtype), (*pose.shape[:-2], last))

        return cls(
            camera_to_world=pose,
            focal=whole(focal, 2, dtype),
            centre=whole(middle, 2, dtype),
            distortion=whole(0.0, 6, dtype),
            size=whole((width, height), 2, np.int32),
        )

    def __getitem__(self, index) -> "Camera":
        """The camera or cameras at an index of the leading dimension.

        Raises:
          TypeError: there is no leading dimension.
        """
        if self.focal.ndim < 2:
            raise TypeError("a single Camera cannot be indexed")
        return jax.tree.map(lambda leaf: leaf[index], self)

    def __len__(self) -> int:
        """How many cameras a batch holds."""
        if self.focal.ndim < 2:
            raise TypeError("a single Camera has no length")
        return self.focal.shape[0]

    def __iter__(self) -> Iterator["Camera"]:
        """Each camera of a batch."""
        # Without this Python counts up to an IndexError, which JAX's arrays do not raise.
        return (self[index] for index in range(len(self)))

    def through_corners(self) -> "Camera":
        """A camera whose ray at a pixel's centre is this one's at the pixel's upper left corner.

        The convention of the paper's released code, which costs about half a dB.
        """
        return dataclasses.replace(self, centre=self.centre + np.float32(0.5))

    def resized(self, width: int, height: int) -> "Camera":
        """The same camera with a picture of another resolution."""
        size = np.broadcast_to(np.asarray([width, height], np.int32), np.shape(self.size))
        scale = size.astype(self.focal.dtype) / self.size.astype(self.focal.dtype)
        return dataclasses.replace(
            self,
            focal=self.focal * scale,
            centre=self.centre * scale,
            size=size,
        )


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rays:
    """Rays with the range of t, from near to far, in which they are rendered. A pytree.

    A point at distance t is `origins + t * directions`. Directions are not unit vectors: for flat
    lenses (pinhole, opencv) they have depth 1, so that t is the depth; for all others length 1.

    Attributes:
      origins: the points at which the rays begin.
      directions: direction vectors, in units of whose length t is measured.
      view_directions: unit vectors, what a field is told of the direction.
      near, far: the range of t.
    """

    origins: Float[Array, "*batch 3"]
    directions: Float[Array, "*batch 3"]
    view_directions: Float[Array, "*batch 3"]
    near: Float[Array, "*batch"]
    far: Float[Array, "*batch"]

    @classmethod
    def of(
        cls,
        origins: Float[Array | np.ndarray, "*batch 3"],
        directions: Float[Array | np.ndarray, "*batch 3"],
        near: Float[Array, "..."] | float = 0.0,
        far: Float[Array, "..."] | float = jnp.inf,
    ) -> "Rays":
        """Rays that begin at origins and go along directions.

        Args:
          origins: one for all rays, or one each.
          directions: vectors of any length but 0; view directions are the same at length 1.
          near, far: the range of t, one for all or one a ray.

        >>> Rays.of(jnp.zeros(3), jnp.array([0.0, 0.0, 2.0]), far=3.0).view_directions.tolist()
        [0.0, 0.0, 1.0]
        """
        directions = jnp.asarray(directions)
        # Whole numbers would cut off the fractions of the rest.
        if not jnp.issubdtype(directions.dtype, jnp.floating):
            directions = directions.astype(jnp.float32)

        def fill(value, *inner: int):
            shape = (*directions.shape[:-1], *inner)
            return jnp.broadcast_to(jnp.asarray(value, directions.dtype), shape)

        return cls(
            origins=fill(origins, 3),
            directions=directions,
            view_directions=directions / jnp.linalg.norm(directions, axis=-1, keepdims=True),
            near=fill(near),
            far=fill(far),
        )

    def at(self, t: Float[Array, "*batch S"]) -> Float[Array, "*batch S 3"]:
        """The points at distances t."""
        return self.origins[..., None, :] + t[..., None] * self.directions[..., None, :]


def within_box(
    rays: Rays,
    low: Float[Array | np.ndarray, "3"],
    high: Float[Array | np.ndarray, "3"],
) -> Rays:
    """Rays with near and far narrowed to their way through a box.

    The slabs of Kay and Kajiya ("Ray Tracing Complex Scenes", SIGGRAPH 1986). A ray that misses the box
    has no way left: its far is its near.

    Args:
      rays: rays of any leading shape.
      low, high: the box's corners with the smallest and the largest coordinates.

    >>> rays = cast_rays(Camera.look_at((0.0, -4.0, 0.0), width=2, height=2), jnp.array([1.0, 1.0]))
    >>> inside = within_box(rays, jnp.full(3, -1.0), jnp.full(3, 0.5))
    >>> print(inside.near, inside.far)
    3.0 4.5
    """
    along = rays.directions
    low, high = (
        jnp.broadcast_to(jnp.asarray(x, along.dtype), along.shape) - rays.origins
        for x in (low, high)
    )
    slope = 1.0 / jnp.where(jnp.abs(along) < _LEAST, _LEAST, along)
    near = jnp.max(jnp.minimum(low * slope, high * slope), axis=-1)
    far = jnp.min(jnp.maximum(low * slope, high * slope), axis=-1)
    near = jnp.maximum(near, rays.near)
    return dataclasses.replace(rays, near=near, far=jnp.maximum(jnp.minimum(far, rays.far), near))


def pixel_centres(width: int, height: int) -> Float[np.ndarray, "height width 2"]:
    """The coordinates (x, y) of every pixel's centre, row by row from the top."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], axis=-1) + np.float32(0.5)


def cast_rays(
    camera: Camera,
    pixels: Float[Array | np.ndarray, "*batch 2"],
    near: Float[Array, "..."] | float = 0.0,
    far: Float[Array, "..."] | float = jnp.inf,
) -> Rays:
    """The rays that a camera sees at given pixels.

    Args:
      camera: one camera, or one a pixel.
      pixels: coordinates (x, y); anywhere, not only at centres.
      near, far: the range of t given to the rays, one for all or one per ray. With an infinite far,
        `Stratified` and `Hierarchical` sample evenly in disparity.

    >>> camera = Camera.look_at((0.0, -4.0, 0.0), width=4, height=2)
    >>> print(cast_rays(camera, jnp.array([2.0, 1.0])).view_directions.round(3) + 0.0)
    [0. 1. 0.]
    """
    pixels = jnp.asarray(pixels)
    plane = (pixels - _lead(camera.centre, pixels)) / _lead(camera.focal, pixels)
    local = _turned(from_plane(camera.lens, _lead(camera.distortion, pixels), plane))
    pose = jnp.asarray(camera.camera_to_world, plane.dtype)
    rotation = pose[..., :3, :3]
    # A sum of products, and not a matmul, which an accelerator would round to bfloat16.
    directions = jnp.sum(local[..., None, :] * _lead(rotation, local, 2), axis=-1)
    return Rays.of(pose[..., :3, 3], directions, near, far)


def project(
    camera: Camera, points: Float[Array | np.ndarray, "*batch 3"]
) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch"]]:
    """Where points of the world appear in the picture, and how deep they lie.

    Args:
      camera: one camera, or one a point.
      points: in the world. Far from the origin, give them and poses as NumPy arrays in float64: they
        are subtracted in that precision.

    Returns:
      Pixel coordinates, and the depth along the viewing axis. Coordinates of flat lenses mean
      something only for depth > 0; of others they may for what is behind. What lies where the lens's
      formula folds over (`lenses.greatest_angle`) is far outside of the picture.
    """
    points = _from_position(camera, points)
    rotation = jnp.asarray(camera.camera_to_world, points.dtype)[..., :3, :3]
    local = jnp.sum(points[..., :, None] * _lead(rotation, points, 2), axis=-2)
    seen = _turned(local)
    plane = to_plane(camera.lens, _lead(camera.distortion, points), seen)
    if camera.lens not in ("pinhole", "equirectangular"):
        x, y, z = jnp.moveaxis(jax.lax.stop_gradient(seen), -1, 0)
        limit = greatest_angle(camera.lens, jnp.asarray(camera.distortion))
        hidden = jnp.arctan2(jnp.hypot(x, y), z) > jnp.broadcast_to(limit, z.shape)
        plane = jnp.where(hidden[..., None], _OUT_OF_THE_PICTURE, plane)
    return _lead(camera.focal, points) * plane + _lead(camera.centre, points), -local[..., 2]


def to_ndc(
    rays: Rays,
    focal: Float[Array, "2"],
    size: Int[Array, "2"] | Float[Array, "2"],
    near: Float[Array, ""] | float = 1.0,
) -> Rays:
    """Rays of a forward-facing scene in normalised device coordinates (NeRF, appendix C).

    The frustum in front of a camera at the world's origin, looking along -z, becomes the cube
    [-1, 1]^3, with t = 0 on the plane z = -near and t = 1 at infinity: even steps in t are even in
    disparity.

    Args:
      rays: rays of cameras that all look roughly along -z; no direction's z may be 0.
      focal: (f_x, f_y) in pixels.
      size: (width, height) in pixels.
      near: the distance of the near plane, in the world's unit; nothing lies nearer.

    Returns:
      Rays with near 0 and far 1, and the view directions they had.
    """
    start = (
        rays.origins
        + (-(near + rays.origins[..., 2]) / rays.directions[..., 2])[..., None] * rays.directions
    )
    scale = 2.0 * jnp.asarray(focal) / jnp.asarray(size, rays.origins.dtype)
    ox, oy, oz = start[..., 0], start[..., 1], start[..., 2]
    dx, dy, dz = rays.directions[..., 0], rays.directions[..., 1], rays.directions[..., 2]
    origins = jnp.stack([-scale[0] * ox / oz, -scale[1] * oy / oz, 1.0 + 2.0 * near / oz], axis=-1)
    directions = jnp.stack(
        [
            -scale[0] * (dx / dz - ox / oz),
            -scale[1] * (dy / dz - oy / oz),
            -2.0 * near / oz,
        ],
        axis=-1,
    )
    return dataclasses.replace(
        rays,
        origins=origins,
        directions=directions,
        near=jnp.zeros_like(rays.near),
        far=jnp.ones_like(rays.far),
    )


def look_at_pose(eye, target, up=(0.0, 0.0, 1.0)) -> Float[np.ndarray, "3 4"]:
    """The pose of a camera at `eye` that looks at `target`, in float64.

    Raises:
      ValueError: eye and target coincide, or `up` is along the line between them.
    """
    eye, target, up = (np.asarray(v, np.float64) for v in (eye, target, up))
    back = eye - target
    right = np.cross(up, back)
    if not np.linalg.norm(right) > 1e-9 * np.linalg.norm(up) * np.linalg.norm(back):
        raise ValueError(
            f"look_at: no direction is upright when looking from {eye.tolist()} at "
            f"{target.tolist()} with up {up.tolist()}"
        )
    back /= np.linalg.norm(back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back, eye], axis=-1)


def _turned(local: Array) -> Array:
    """From the camera's axes to those of its lens, or back: y and z change their signs."""
    return jnp.stack([local[..., 0], -local[..., 1], -local[..., 2]], axis=-1)


def _from_position(camera: Camera, points: Array | np.ndarray) -> Array:
    """Points as offsets from a camera's position, in the precision of its focal lengths."""
    position, dtype = camera.camera_to_world[..., :3, 3], jnp.asarray(camera.focal).dtype
    if isinstance(points, np.ndarray) and isinstance(position, np.ndarray):
        offset = points.astype(np.float64) - position.astype(np.float64)
        return jnp.asarray(offset.astype(dtype))
    points = jnp.asarray(points, dtype)
    return points - jnp.broadcast_to(jnp.asarray(position, dtype), points.shape)


def _lead(values: jax.typing.ArrayLike, like: Array, trailing: int = 1) -> Array:
    """Give a camera's values the leading shape of the pixels or points they are used with."""
    values = jnp.asarray(values)
    return jnp.broadcast_to(values, (*like.shape[:-1], *values.shape[-trailing:]))

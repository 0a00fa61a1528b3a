"""Depths and colours of a run at its training cameras, from which meshes, points and splats are made.

Cameras and points are in the user's frame, but relative to an origin near the scene, so that single
precision is enough for survey coordinates too.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jaxnerf.cameras import Camera, cast_rays, pixel_centres, project
from jaxnerf.cameras.lenses import FLAT
from jaxnerf.exports.files import Report
from jaxnerf.rendering.chunks import in_chunks, replicated
from jaxnerf.runs.run import Run

# Largest number of pixels of all views together, beyond which images are rendered smaller: 0.5 GB with
# their colours and normals.
_MOST_PIXELS = 1 << 25
# A pixel shows a surface if its opacity is above _SURFACE, and no surface if it is below _EMPTY.
_SURFACE, _EMPTY = 0.5, 0.1
# Width of the ignored border, as a fraction of an image's shorter side: few other cameras see it.
_BORDER = 0.01


@dataclasses.dataclass(frozen=True)
class Views:
    """Images of a run. Smaller images are padded at the right and the bottom.

    Attributes:
      cameras: a batch of V cameras, with positions relative to the origin.
      depth: median depth t along each pixel's ray; infinite where the ray meets no surface, NaN where
        neither is certain.
      colour: 8-bit sRGB without the background.
      normals: unit vectors in the user's frame, or None.
      origin: the origin in the user's frame.
    """

    cameras: Camera
    depth: Float[np.ndarray, "V H W"]
    colour: UInt8[np.ndarray, "V H W 3"]
    normals: Float[np.ndarray, "V H W 3"] | None
    origin: Float[np.ndarray, "3"]

    def __len__(self) -> int:
        return len(self.depth)

    def surface(self) -> Iterator[tuple[int, Bool[np.ndarray, "H W"], Float[np.ndarray, "N 3"]]]:
        """For each view its index, a mask of the pixels with a surface, and their points [N, 3]."""
        for number in range(len(self)):
            shown = np.isfinite(self.depth[number])
            height, width = shown.shape
            pixels = pixel_centres(width, height)[shown]
            yield number, shown, self.unproject(number, pixels, self.depth[number][shown])

    def unproject(
        self, number: int, pixels: Float[np.ndarray, "N 2"], depth: Float[np.ndarray, " N"]
    ) -> Float[np.ndarray, "N 3"]:
        """The points at given depths of a view's pixels."""
        camera = replicated(self.cameras[number])
        return in_chunks(lambda *rays: _points(camera, *rays), pixels, depth)

    def footprint(self) -> float:
        """The median width of a pixel on the surfaces; 0 if there are none."""
        focal = np.asarray(self.cameras.focal).mean(axis=-1)
        seen = [depth[np.isfinite(depth)] for depth in self.depth]
        widths = [np.median(d) / f for d, f in zip(seen, focal, strict=True) if len(d)]
        return float(np.median(widths)) if widths else 0.0


def render_views(
    run: Run,
    origin: Float[np.ndarray, "3"],
    *,
    count: int = 0,
    with_normals: bool = False,
    report: Report = Report(),
) -> Views:
    """Render the training cameras, with their refined poses.

    Args:
      run: the run.
      origin: origin of the views in the user's frame: a point near the scene.
      count: number of views, evenly spread over the training cameras; 0 for all.
      with_normals: whether to render normals.
      report: receives the progress, and a message if the views are smaller than the photographs.
    """
    evaluation = dataclasses.replace(run.config.evaluation, edge_supersampling=0.0)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, evaluation=evaluation))
    cameras = run.cameras()
    if count and count < len(cameras):
        cameras = cameras[np.linspace(0, len(cameras) - 1, count).round().astype(int)]
    sizes = np.asarray(cameras.size, np.int64)
    shrink = min(1.0, float(np.sqrt(_MOST_PIXELS / sizes.prod(axis=-1).sum())))
    if shrink < 1.0:
        sizes = np.maximum(np.floor(sizes * shrink), 1).astype(np.int64)
        cameras = _resized(cameras, sizes)
        report.say(f"{len(cameras)} views, rendered at {shrink:.0%} of the photographs' size")
    width, height = sizes.max(axis=0)
    shape = len(cameras), int(height), int(width)
    depth = np.full(shape, np.nan, np.float32)
    colour = np.zeros((*shape, 3), np.uint8)
    normals = np.zeros((*shape, 3), np.float16) if with_normals else None
    for number in range(len(cameras)):
        seen = run.render(cameras[number], background=0.0, normals=with_normals)
        inside = (number, slice(None, sizes[number, 1]), slice(None, sizes[number, 0]))
        depth[inside] = _certain(seen.depth_median, seen.opacity)
        lit = seen.colour / np.maximum(seen.opacity, 0.1)[..., None]
        colour[inside] = np.rint(np.clip(lit, 0.0, 1.0) * 255.0)
        if normals is not None:
            normals[inside] = seen.normals
        report.progress("view", number + 1, len(cameras))
    poses = np.array(cameras.camera_to_world, np.float64)
    poses[..., 3] -= origin
    moved = dataclasses.replace(cameras, camera_to_world=poses.astype(np.float32))
    return Views(moved, depth, colour, normals, np.asarray(origin, np.float64))


def _resized(cameras: Camera, sizes: np.ndarray) -> Camera:
    parts = [cameras[i].resized(*map(int, size)) for i, size in enumerate(sizes)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def _certain(depth: Any, opacity: Any) -> np.ndarray:
    """Depths that are certain: infinite for no surface, NaN at the border and where not certain."""
    known = np.where(opacity > _SURFACE, depth, np.where(opacity < _EMPTY, np.inf, np.nan))
    border = max(1, round(_BORDER * min(depth.shape)))
    framed = np.full_like(known, np.nan)
    inner = (slice(border, -border), slice(border, -border))
    framed[inner] = known[inner]
    return framed.astype(np.float32)


@jax.jit
def fused_distance(
    views: tuple[Camera, Array], truncation: Array, points: Float[Array, "N 3"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The truncated signed distance fused from the depths of many views, as a function of position.

    Curless and Levoy, "A volumetric method for building complex models from range images", SIGGRAPH
    1996: the mean, over the views, of the distance along the view's ray from a point to the surface that
    the view sees; positive before the surface. A view in which the point is deeper behind the surface
    than the truncation is not included.

    Args:
      views: a batch of cameras, and their depths [V, H, W] as in `Views`.
      truncation: the truncation distance.
      points: points relative to the views' origin.

    Returns:
      The distances in units of the truncation, in [-1, 1]; and the number of views in the mean.
    """

    def add(carry, view):
        camera, depth = view
        total, weight = carry
        pixel, t, stretch = _seen_from(camera, points)
        seen, inside = _depth_at(depth, pixel, truncation)
        distance = (seen - t) * stretch / truncation
        counted = inside & (t > 0.0) & (distance > -1.0)
        total = total + jnp.where(counted, jnp.minimum(distance, 1.0), 0.0)
        return (total, weight + counted.astype(points.dtype)), None

    zeros = jnp.zeros(points.shape[:1], points.dtype)
    (total, weight), _ = jax.lax.scan(add, (zeros, zeros), views)
    return total / jnp.maximum(weight, 1.0), weight


@jax.jit
def agreement(
    views: tuple[Camera, Array], reach: Array, points: Float[Array, "N 3"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The number of views that see each point on a surface, and the number that see through it.

    Args:
      views: a batch of cameras, and their depths [V, H, W] as in `Views`.
      reach: largest difference from a view's depth at which a point is on the view's surface.
      points: points relative to the views' origin.
    """

    def add(carry, view):
        pixel, t, stretch = _seen_from(view[0], points)
        seen, inside = _depth_at(view[1], pixel, reach)
        distance = jnp.where(inside & (t > 0.0), (seen - t) * stretch, -jnp.inf)
        here, beyond = jnp.abs(distance) < reach, distance >= reach
        return (carry[0] + here.astype(points.dtype), carry[1] + beyond.astype(points.dtype)), None

    zeros = jnp.zeros(points.shape[:1], points.dtype)
    return jax.lax.scan(add, (zeros, zeros), views)[0]


@jax.jit
def seen_colours(
    views: tuple[Camera, Array, Array],
    reach: Array,
    points: Float[Array, "N 3"],
    normals: Float[Array, "N 3"],
) -> tuple[Float[Array, "N 3"], Float[Array, " N"]]:
    """The mean colour of surface points in the views that see them.

    The weights are the squared cosines between the normal and the direction to the camera.

    Args:
      views: a batch of cameras, their depths [V, H, W] and colours [V, H, W, 3] as in `Views`.
      reach: largest difference from a view's depth at which a point is on the view's surface.
      points, normals: points of the surface, relative to the views' origin, and their unit normals.

    Returns:
      sRGB in [0, 1]; and the sum of the weights, 0 if no view sees the point.
    """

    def add(carry, view):
        camera, depth, colour = view
        shade, visible = seen_by(camera, depth, colour, points, reach)
        weight = jnp.where(visible, _facing(camera, points, normals), 0.0)
        return (carry[0] + weight[:, None] * shade, carry[1] + weight), None

    zeros = jnp.zeros_like(points), jnp.zeros(points.shape[:1], points.dtype)
    (total, weight), _ = jax.lax.scan(add, zeros, views)
    return total / jnp.maximum(weight, 1e-9)[:, None], weight


def seen_by(
    camera: Camera, depth: Array, colour: Array, points: Float[Array, "N 3"], reach: Array
) -> tuple[Float[Array, "N 3"], Bool[Array, " N"]]:
    """The colours in [0, 1] of a view at the projections of points, and whether the view sees the points.

    Args:
      camera, depth, colour: one view, as in `Views`.
      points: points relative to the views' origin.
      reach: largest difference from the view's depth at which a point is on the view's surface.
    """
    pixel, t, stretch = _seen_from(camera, points)
    seen, inside = _depth_at(depth, pixel, reach)
    visible = inside & (t > 0.0) & (jnp.abs((seen - t) * stretch) < reach)
    return _bilinear(colour, pixel).astype(points.dtype) / 255.0, visible


def _facing(camera: Camera, points: Array, normals: Array) -> Array:
    """The squared cosine of a surface's normal and the direction to a camera; at least 0.03 squared."""
    towards = jnp.broadcast_to(camera.camera_to_world[:, 3], points.shape) - points
    cosine = jnp.sum(towards * normals, axis=-1) / jnp.linalg.norm(towards, axis=-1)
    return jnp.maximum(cosine, 0.03) ** 2


def _seen_from(camera: Camera, points: Array) -> tuple[Array, Array, Array]:
    """Pixels of points, their t along the rays there, and the lengths of the rays' directions."""
    pixel, depth = project(camera, points)
    offset = points - jnp.broadcast_to(camera.camera_to_world[:, 3], points.shape)
    distance = jnp.linalg.norm(offset, axis=-1)
    if camera.lens not in FLAT:
        return pixel, distance, jnp.ones_like(distance)
    return pixel, depth, distance / jnp.where(depth > 0.0, depth, 1.0)


def _depth_at(depth: Array, pixel: Array, step: Array) -> tuple[Array, Array]:
    """A view's depth between pixels: interpolated within a surface, the nearest pixel's at edges.

    Args:
      depth: depths [H, W].
      pixel: coordinates [N, 2].
      step: a difference of depth that is an edge.

    Returns:
      Depths [N], and a mask of the known ones.
    """
    corners, weights, inside = _corners(depth.shape, pixel)
    values = depth.reshape(-1)[corners]
    low, high = jnp.min(values, axis=0), jnp.max(values, axis=0)
    smooth = jnp.isfinite(low) & jnp.isfinite(high) & (high - low < step)
    mean = jnp.sum(jnp.where(smooth[None], values, 0.0) * weights, axis=0)
    nearest = jnp.take_along_axis(values, jnp.argmax(weights, axis=0)[None], axis=0)[0]
    found = jnp.where(smooth, mean, nearest)
    return found, inside & ~jnp.isnan(found)


def _bilinear(colour: Array, pixel: Array) -> Array:
    corners, weights, _ = _corners(colour.shape[:2], pixel)
    values = colour.reshape(-1, 3)[corners].astype(weights.dtype)
    return jnp.sum(values * weights[..., None], axis=0)


def _corners(shape: tuple[int, ...], pixel: Array) -> tuple[Array, Array, Array]:
    """The four pixels [4, N] around positions in an image, their weights, and a mask of those inside."""
    height, width = shape
    place = jnp.clip(jnp.nan_to_num(pixel), -1.0, 2.0 * max(height, width)) - 0.5
    lower = jnp.floor(place)
    x, y = (lower[:, axis].astype(jnp.int32) for axis in (0, 1))
    right, down = ((place - lower)[:, axis] for axis in (0, 1))
    inside = (
        (pixel[:, 0] >= 0) & (pixel[:, 0] <= width) & (pixel[:, 1] >= 0) & (pixel[:, 1] <= height)
    )
    corners, weights = [], []
    for below in (0, 1):
        for beside in (0, 1):
            row, column = jnp.clip(y + below, 0, height - 1), jnp.clip(x + beside, 0, width - 1)
            corners.append(row * width + column)
            weights.append((down if below else 1.0 - down) * (right if beside else 1.0 - right))
    return jnp.stack(corners), jnp.stack(weights), inside


@jax.jit
def _points(camera: Camera, pixels: Array, depth: Array) -> Array:
    rays = cast_rays(camera, pixels)
    return rays.origins + depth[:, None] * rays.directions

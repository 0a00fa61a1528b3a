"""Normals of pictures: of the surface that their median depths are."""

import numpy as np
from jaxtyping import Float

from jaxnerf.sampling import OccupancySampler, Sampler

# Of the light, what a pixel that shows a surface stops at least.
_SURFACE = 0.5
# Places are compared so many of a sampler's steps apart, which is two or three voxels, and as many
# pixels at most.
_STEPS, _MOST_PIXELS = 3.0, 8
# A surface that is steeper than this, in depth by distance across the ray, is taken for an edge.
_STEEP = 3.0


def normals_of_depth(
    depth: Float[np.ndarray, "H W"],
    opacity: Float[np.ndarray, "H W"],
    origins: Float[np.ndarray, "H W 3"],
    directions: Float[np.ndarray, "H W 3"],
    gradients: Float[np.ndarray, "H W 3"],
    reach: int = 1,
) -> Float[np.ndarray, "H W 3"]:
    """Unit normals of the surface at the median depths of a picture, which point to the camera.

    A field is free to be rough inside of what it shows, so that gradients of its density say little of
    the surface: on matte things of the demo scene they are 24 degrees off in the median, and these 14
    (experiments/mesh_quality). The surface's slopes are differences of places on both sides of a pixel.

    Args:
      depth: t along each pixel's ray, the median depth.
      opacity: opacity of each pixel; from a half on the pixel shows a surface.
      origins, directions: those of the rays.
      gradients: normals of pixels that show no surface, and of those at its edges.
      reach: distance in pixels within which neighbours are compared.
    """
    shown = (opacity >= _SURFACE) & np.isfinite(depth)
    t = np.where(shown, depth, 0.0).astype(np.float64)
    points = origins + t[..., None] * directions
    across = [_slope(points, directions, t, shown, axis, reach) for axis in (1, 0)]
    normal = np.cross(across[0], across[1])
    normal *= -np.sign((normal * directions).sum(axis=-1, keepdims=True))
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    known = shown[..., None] & (length > 0.0)
    return np.where(known, normal / np.where(known, length, 1.0), gradients).astype(gradients.dtype)


def _slope(
    points: np.ndarray,
    directions: np.ndarray,
    depth: np.ndarray,
    shown: np.ndarray,
    axis: int,
    reach: int,
) -> np.ndarray:
    """How a surface goes on along an axis of the picture; zero where not both sides show it."""
    size = depth.shape[axis]
    parts, far = [], []
    for step in (reach, -reach):
        index = np.clip(np.arange(size) + step, 0, size - 1)
        there = np.take(shown, index, axis) & shown
        away = np.abs(np.take(depth, index, axis) - depth)
        wide = np.linalg.norm(np.take(directions, index, axis) - directions, axis=-1) * depth
        inside = (index == np.arange(size) + step).reshape((-1, 1) if axis == 0 else (1, -1))
        far.append(np.where(there & inside & (away <= _STEEP * wide), away, np.inf))
        parts.append(np.sign(step) * (np.take(points, index, axis) - points))
    both = np.isfinite(np.maximum(*far))
    return np.where(both[..., None], parts[0] + parts[1], 0.0)


def pixels_apart(
    sampler: Sampler, focal: float, depth: Float[np.ndarray, "H W"], opacity: np.ndarray
) -> int:
    """How far apart pixels are compared, so that what lies between is more than the field's voxels.

    Args:
      sampler: an `OccupancySampler` of a space that is not contracted says how fine the field is.
      focal: focal length in pixels.
      depth, opacity: the picture's depth and opacity.
    """
    shown = depth[(opacity >= _SURFACE) & np.isfinite(depth)]
    if not isinstance(sampler, OccupancySampler) or not len(shown):
        return 1
    if sampler.occupancy.space is not None:
        return 1
    pixels = _STEPS * float(sampler.occupancy.step) * focal / float(np.median(shown))
    return int(np.clip(np.ceil(pixels), 1, _MOST_PIXELS)) if np.isfinite(pixels) else 1

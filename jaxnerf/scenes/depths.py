"""near and far of a scene, from the points that cameras see or from the cameras alone."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras.lenses import FLAT
from jaxnerf.scenes.frames import looked_at
from jaxnerf.scenes.views import View

# Depths of points outside of these percentiles are taken as outliers. The margin is for surfaces without
# points, which may be nearer or farther than all points.
_PERCENTILES, MARGIN = (0.1, 99.9), 1.25
# At most about _ENOUGH_POINTS points are projected. A camera whose lens is not flat is assumed to see
# what is within about 45 degrees of its axis: the cosine is _ASIDE.
_ENOUGH_POINTS, _ASIDE = 10_000, 0.7
# If cameras see at most this fraction of the points, these are taken to be of another scene.
_LEAST_SEEN = 0.1
# Without points the scene is assumed to be a ball whose radius is _BALL times the cameras' median
# distance from its centre: this gives the near of 2 and far of 6 of NeRF's synthetic scenes, whose
# cameras have distance 4. Cameras outside of these percentiles of the distance are ignored. near is at
# least _NEAREST times the median distance.
_BALL, _DISTANCES, _NEAREST = 0.5, (2.0, 98.0), 0.05


def bounds_of_depths(depths: Float[np.ndarray, " N"]) -> tuple[float, float] | None:
    """(near, far) from the depths at which cameras see points, without outliers.

    Args:
      depths: depths of points from cameras; points behind a camera, whose depth is not positive, are
        ignored.

    Returns:
      The bounds in the same unit, with a margin; None if no depth is positive.
    """
    ahead = depths[depths > 0.0]
    if not len(ahead):
        return None
    near, far = np.percentile(ahead, _PERCENTILES)
    return float(near) / MARGIN, float(far) * MARGIN


def depths_from(view: View, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """The depths of points from a camera; distances for lenses that are not flat.

    Args:
      view: the view with the camera.
      points: points in the frame of the view's pose.
    """
    offset = points - view.pose[:, 3]
    return -offset @ view.pose[:, 2] if view.lens in FLAT else np.linalg.norm(offset, axis=-1)


def depths_in_view(
    points: Float[np.ndarray, "P 3"], views: Sequence[View]
) -> Float[np.ndarray, " N"] | None:
    """The depths of points in the images of cameras; distances for lenses that are not flat.

    Occlusion is not considered.

    Args:
      points: points in the frame of the views' poses; about 10,000 of them, evenly spread, are used.
      views: the views with the cameras.

    Returns:
      The depths from all cameras; None if no more than a tenth of the points is in any image, since they
      are then not points of the photographs.
    """
    some = points[:: 1 + len(points) // _ENOUGH_POINTS]
    seen, found = np.zeros(len(some), bool), [np.zeros(0)]
    for view in views:
        right, up, back = ((some - view.pose[:, 3]) @ view.pose[:, :3]).T
        distance = np.sqrt(right**2 + up**2 + back**2)
        if view.lens in FLAT:
            depth = np.where(back < -1e-9 * distance, -back, np.inf)
            column = view.centre[0] + view.focal[0] * (right / depth)
            row = view.centre[1] - view.focal[1] * (up / depth)
            inside = (column >= 0.0) & (column < view.picture.size[0])
            inside &= (row >= 0.0) & (row < view.picture.size[1]) & np.isfinite(depth)
        else:
            depth, inside = distance, -back > _ASIDE * distance
        seen |= inside
        found.append(depth[inside])
    return np.concatenate(found) if np.mean(seen) > _LEAST_SEEN else None


def bounds_of_cameras(poses: Float[np.ndarray, "N 3 4"]) -> tuple[float, float] | None:
    """(near, far) of a bounded scene, estimated from its cameras alone.

    For nearly all cameras they enclose a ball around the point looked at, with half the cameras' median
    distance as its radius. Rounded to four digits, since it is an estimate.

    Args:
      poses: camera-to-world, at least one.

    Returns:
      The bounds; None if the cameras have no common point that they look at.
    """
    centre = looked_at(np.asarray(poses, np.float64))
    if centre is None:
        return None
    distances = np.linalg.norm(poses[:, :, 3] - centre, axis=-1)
    distance = float(np.median(distances))
    if distance <= 0.0:
        return None
    least, most = np.percentile(distances, _DISTANCES)
    near = max(float(least) - _BALL * distance, _NEAREST * distance)
    return float(f"{near:.4g}"), float(f"{float(most) + _BALL * distance:.4g}")

"""How near and far things are: from the points that cameras see, or from the cameras alone."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxnerf.lenses import FLAT
from jaxnerf.scenes.frames import looked_at
from jaxnerf.scenes.views import View

# Of the depths at which cameras see points, what is nearer or farther is taken to be wrong; and what
# has no points may be nearer and farther than what has.
_PERCENTILES, MARGIN = (0.1, 99.9), 1.25
# As many points as say it all; and lenses that are not flat look about 45 degrees aside.
_ENOUGH_POINTS, _ASIDE = 10_000, 0.7
# Points are not those of the photographs where cameras see fewer of them than this.
_LEAST_SEEN = 0.1
# What cameras look at is a ball of half their distance from it: 2 and 6 from the cameras at 4 that NeRF's
# synthetic scenes have. Cameras beyond these percentiles of the distance do not count; and no nearer
# than this share of the distance, cameras are among what they look at.
_BALL, _DISTANCES, _NEAREST = 0.5, (2.0, 98.0), 0.05


def bounds_of_depths(depths: Float[np.ndarray, " N"]) -> tuple[float, float] | None:
    """(near, far) around the depths at which cameras see points, but for outliers.

    Args:
      depths: of points from cameras; those behind a camera, which are not positive, are left out.

    Returns:
      The bounds in the same unit, with a margin; None where no depth is positive.
    """
    ahead = depths[depths > 0.0]
    if not len(ahead):
        return None
    near, far = np.percentile(ahead, _PERCENTILES)
    return float(near) / MARGIN, float(far) * MARGIN


def depths_from(view: View, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """The depths of points from a camera; distances for lenses that are not flat.

    Args:
      view: with the camera.
      points: in the frame of its pose.
    """
    offset = points - view.pose[:, 3]
    return -offset @ view.pose[:, 2] if view.lens in FLAT else np.linalg.norm(offset, axis=-1)


def depths_in_view(
    points: Float[np.ndarray, "P 3"], views: Sequence[View]
) -> Float[np.ndarray, " N"] | None:
    """Depths at which cameras have points in their pictures; distances for lenses that are not flat.

    Whether something stands before a point is not known and not asked.

    Args:
      points: in the frame of the views' poses; 10,000 of them, evenly taken, are looked at.
      views: with cameras.

    Returns:
      The depths of all cameras; None where nine of ten points or more are in no picture, which cannot
      be those of the photographs.
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
    """(near, far) of a bounded scene of which nothing is known but its cameras.

    Between them lies, for nearly all cameras, the ball of half the cameras' median distance around
    what they look at. To four digits: it is a guess.

    Args:
      poses: camera-to-world, at least one.

    Returns:
      The bounds; None where cameras look at nothing in common.
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

"""A held-out sector: cameras that all stand on one side, kept out of training.

Test views among the cameras of training measure interpolation. What a field shows from beside them is
another matter: there geometry decides.
"""

import math

import numpy as np
from jaxtyping import Bool

from jaxnerf.scenes.frames import Poses, across, look_outwards, looked_at, mean_axis

# The split's name, the share of the cameras that are in it, and of how many cameras at least.
SECTOR, SHARE, LEAST = "sector", 0.1, 20
# Cameras surround something where no wider angle lies between neighbours.
_OPENING = math.radians(120.0)


def in_sector(poses: Poses) -> Bool[np.ndarray, " N"]:
    """Which cameras are held out: a tenth of them, all from one side.

    Seen from above (along the mean of the cameras' upward axes), each camera stands in some direction
    from what they look at; of cameras that look outwards it is the direction in which they look. Where
    those directions go all around, the nearest to the first camera's are the sector; where they leave
    an opening of 120 degrees or more, the last ones counterclockwise: the outermost on one side. Where
    all axes are parallel, these are the cameras farthest to the right.

    Args:
      poses: camera-to-world, in the order of the photographs' names.
    """
    poses = np.asarray(poses, np.float64)
    count, chosen = round(SHARE * len(poses)), np.zeros(len(poses), bool)
    point = looked_at(poses)
    if point is not None:
        directions = poses[:, :, 3] - point
    elif look_outwards(poses):
        directions = -poses[:, :, 2]
    else:
        chosen[np.argsort(poses[:, :, 3] @ mean_axis(poses, 0), kind="stable")[-count:]] = True
        return chosen
    azimuth = _azimuths(directions, mean_axis(poses, 1), poses[0, :, 0])
    order = np.argsort(azimuth, kind="stable")
    gaps = np.diff(azimuth[order], append=azimuth[order[0]] + 2.0 * math.pi)
    widest = int(np.argmax(gaps))
    if gaps[widest] >= _OPENING:
        chosen[np.roll(order, -widest - 1)[-count:]] = True
    else:
        # Rounded: of two that are as far to the left and to the right, the first is nearer.
        chosen[np.argsort(np.abs(azimuth).round(6), kind="stable")[:count]] = True
    return chosen


def _azimuths(directions: np.ndarray, up: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Angles about an axis, counterclockwise from the first direction (or, if that is up, from right)."""
    east = across(directions[0], up)
    if np.linalg.norm(east) < 1e-6 * np.linalg.norm(directions[0]):
        east = across(right, up)
    return np.arctan2(directions @ np.cross(up, east), directions @ east)

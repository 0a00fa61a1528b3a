"""A held-out sector: cameras that are all on one side, kept out of training.

Test views between training cameras measure interpolation. The views of a sector lie outside of the
range of the training cameras, and depend more on correct geometry.
"""

import math

import numpy as np
from jaxtyping import Bool

from jaxnerf.cameras.stances import mean_axis
from jaxnerf.scenes.frames import Poses, across, look_outwards, looked_at

# The split's name, its fraction of the cameras, and the least number of cameras from which it is taken.
SECTOR, FRACTION, LEAST = "sector", 0.1, 20
# Cameras surround the scene if no angle between neighbouring directions is as large as this.
_OPENING = math.radians(120.0)


def in_sector(poses: Poses) -> Bool[np.ndarray, " N"]:
    """Which cameras are held out: a tenth of them, all from one side.

    Seen from above (along the mean of the cameras' upward axes), each camera has a direction from the
    point that the cameras look at; for cameras that look outwards it is the direction in which they look.
    If the directions go all around, the cameras with the directions nearest to the first camera's are
    held out. If the directions leave a gap of 120 degrees or more, the last ones counterclockwise are
    held out: the outermost on one side. If all viewing axes are parallel, the cameras farthest to the
    right are.

    Args:
      poses: camera-to-world, in the order of the photographs' names.
    """
    poses = np.asarray(poses, np.float64)
    count, chosen = round(FRACTION * len(poses)), np.zeros(len(poses), bool)
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
        # Rounded, so that of two cameras with the same angle to the left and right the first is chosen.
        chosen[np.argsort(np.abs(azimuth).round(6), kind="stable")[:count]] = True
    return chosen


def _azimuths(directions: np.ndarray, up: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Angles about an axis, counterclockwise from the first direction (or from right, if that is up)."""
    east = across(directions[0], up)
    if np.linalg.norm(east) < 1e-6 * np.linalg.norm(directions[0]):
        east = across(right, up)
    return np.arctan2(directions @ np.cross(up, east), directions @ east)

"""Frames that fields are comfortable in, found from where the cameras of a capture stand."""

import numpy as np
from jaxtyping import Float

from jaxnerf.paths import focus_point
from jaxnerf.scenes import Similarity

Poses = Float[np.ndarray, "N 3 4"]

# Depths in a normalised frame where nothing else is known of the scene: nerfacto's (Nerfstudio, 2023).
NEAR, FAR = 0.05, 1000.0
# Viewing axes that spread less than half a degree do not meet in any place that could be told.
_SPREAD = 1e-4


def normalising(poses: Poses) -> Similarity:
    """From the frame of the files to one for captures: what is looked at is in the middle.

    The point that the cameras look at goes to the origin, the mean of their upward axes to +z, and the
    farthest camera to distance 1; seen from above, the first camera's right is +x. So copies of a scene
    that differ by a similarity become the same scene.

    Where viewing axes do not meet in front of the cameras (they are parallel, or look outwards), the
    cameras' mean position takes the place of that point; where all cameras stand at one place, which
    says nothing of the scene's size, nothing is scaled.

    Args:
      poses: camera-to-world, of all the scene's cameras; at least one.
    """
    poses = np.asarray(poses, np.float64)
    point = looked_at(poses)
    centre = poses[:, :, 3].mean(axis=0) if point is None else point
    farthest = float(np.linalg.norm(poses[:, :, 3] - centre, axis=-1).max())
    apart = farthest > 1e-9 * float(np.abs(poses[:, :, 3]).max())
    scale = 1.0 / farthest if apart else 1.0
    up = mean_axis(poses, 1)
    right = across(poses[0, :, 0], up)
    if np.linalg.norm(right) < 0.5:  # then the first camera's back is across
        right = across(poses[0, :, 2], up)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(up, right), up])
    return Similarity(scale, rotation, -scale * rotation @ centre)


def recentring(poses: Poses, scale: float = 1.0) -> Similarity:
    """From the frame of the files to that of the average camera, for forward-facing captures.

    The average camera (mean position, mean back and up axes; LLFF, 2019) goes to the origin and looks
    along -z with +y up, as normalised device coordinates want it.

    Args:
      poses: camera-to-world, looking roughly the same way; at least one.
      scale: of the frame.
    """
    poses = np.asarray(poses, np.float64)
    back = mean_axis(poses, 2)
    up = across(poses[:, :, 1].mean(axis=0), back)
    if np.linalg.norm(up) < 1e-6:
        up = across(poses[0, :, 1], back)
    up /= np.linalg.norm(up)
    rotation = np.stack([np.cross(up, back), up, back])
    return Similarity(scale, rotation, -scale * rotation @ poses[:, :, 3].mean(axis=0))


def is_rigid(rotation: Float[np.ndarray, "3 3"]) -> bool:
    """Whether a matrix is a rotation, to what is lost where files are written with few digits."""
    orthonormal = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    return bool(orthonormal and np.linalg.det(rotation) > 0.0)


def looked_at(poses: Poses) -> Float[np.ndarray, "3"] | None:
    """The point that cameras look at: the nearest to all their viewing axes.

    Args:
      poses: camera-to-world; at least one.

    Returns:
      The point; None where the axes do not meet (they are parallel, or there is one) or where they do
      so behind most of the cameras, which `look_outwards` then says.
    """
    poses = np.asarray(poses, np.float64)
    point, in_front = _meeting(poses)
    return point if in_front >= 0.5 else None


def look_outwards(poses: Poses) -> bool:
    """Whether the viewing axes of most cameras meet behind them.

    Args:
      poses: camera-to-world; at least one.
    """
    point, in_front = _meeting(np.asarray(poses, np.float64))
    return point is not None and in_front < 0.5


def _meeting(poses: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Where viewing axes meet, if they do; and the share of the cameras that have it in front."""
    positions, back = poses[:, :, 3], poses[:, :, 2]
    across = np.eye(3) - np.mean(back[:, :, None] * back[:, None, :], axis=0)
    mean = positions.mean(axis=0)
    if np.linalg.eigvalsh(across)[0] < _SPREAD:
        return None, 0.0
    point = mean + focus_point(np.concatenate([poses[:, :, :3], (positions - mean)[..., None]], -1))
    return point, float(np.mean(np.sum((positions - point) * back, axis=-1) > 0.0))


def mean_axis(poses: np.ndarray, axis: int) -> np.ndarray:
    """The mean of the cameras' axes; the first camera's where they cancel out."""
    mean = poses[:, :, axis].mean(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 1e-6 else poses[0, :, axis] / np.linalg.norm(poses[0, :, axis])


def across(vector: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The part of a vector that is at right angles to an axis of length 1."""
    return vector - (vector @ axis) * axis

"""Coordinate frames that suit fields, computed from the camera poses of a capture."""

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras.stances import focus_point, mean_axis
from jaxnerf.scenes import Similarity

Poses = Float[np.ndarray, "N 3 4"]

# near and far in a normalised frame if nothing else is known of the scene: those of nerfacto
# (Nerfstudio, 2023).
NEAR, FAR = 0.05, 1000.0
# Smallest eigenvalue below which viewing axes are taken as parallel: they spread less than half a degree,
# and the point nearest to all of them is not well defined.
_SPREAD = 1e-4


def normalising(poses: Poses) -> Similarity:
    """From the frame of the files to the normalised frame of captures.

    The point that the cameras look at becomes the origin, the mean of their upward axes +z, and the
    farthest camera has distance 1; seen from above, the first camera's right is +x. Copies of a scene
    that differ by a similarity therefore become the same scene.

    If the viewing axes do not meet in front of the cameras (they are parallel, or the cameras look
    outwards), the cameras' mean position is used in place of that point. If all cameras are at one
    position, the scale is 1.

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
    if np.linalg.norm(right) < 0.5:  # then the first camera's back is nearly perpendicular to up
        right = across(poses[0, :, 2], up)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(up, right), up])
    return Similarity(scale, rotation, -scale * rotation @ centre)


def recentring(poses: Poses, scale: float = 1.0) -> Similarity:
    """From the frame of the files to that of the average camera, for forward-facing captures.

    The average camera (mean position, mean back and up axes; LLFF, 2019) is placed at the origin and
    looks along -z with +y up, as normalised device coordinates require.

    Args:
      poses: camera-to-world, looking roughly the same way; at least one.
      scale: scale of the frame.
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
    """Whether a matrix is a rotation, up to rounding in files with few digits."""
    orthonormal = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    return bool(orthonormal and np.linalg.det(rotation) > 0.0)


def looked_at(poses: Poses) -> Float[np.ndarray, "3"] | None:
    """The point that cameras look at: the nearest to all their viewing axes.

    Args:
      poses: camera-to-world; at least one.

    Returns:
      The point; None if the axes do not meet (they are parallel, or there is only one camera) or if the
      point is behind most cameras (see `look_outwards`).
    """
    poses = np.asarray(poses, np.float64)
    point, in_front = _meeting(poses)
    return point if in_front >= 0.5 else None


def look_outwards(poses: Poses) -> bool:
    """Whether most cameras have the point nearest to all viewing axes behind them.

    Args:
      poses: camera-to-world; at least one.
    """
    point, in_front = _meeting(np.asarray(poses, np.float64))
    return point is not None and in_front < 0.5


def _meeting(poses: np.ndarray) -> tuple[np.ndarray | None, float]:
    """The point nearest to all viewing axes, or None, and the fraction of cameras that face it."""
    positions, back = poses[:, :, 3], poses[:, :, 2]
    across = np.eye(3) - np.mean(back[:, :, None] * back[:, None, :], axis=0)
    mean = positions.mean(axis=0)
    if np.linalg.eigvalsh(across)[0] < _SPREAD:
        return None, 0.0
    point = mean + focus_point(np.concatenate([poses[:, :, :3], (positions - mean)[..., None]], -1))
    return point, float(np.mean(np.sum((positions - point) * back, axis=-1) > 0.0))


def across(vector: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The part of a vector that is perpendicular to an axis of length 1."""
    return vector - (vector @ axis) * axis

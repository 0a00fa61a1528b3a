"""Camera paths: sequences of poses for videos, in float64. Conventions as in `jaxnerf.cameras`."""

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import look_at_pose

# Of 3 rows, or of 4.
Poses = Float[np.ndarray, "N rows 4"]
Path = Float[np.ndarray, "frames 3 4"]

_MOST_GAP = np.deg2rad(120.1)


def orbit(
    centre=(0.0, 0.0, 0.0),
    radius: float = 4.0,
    elevation: float = 30.0,
    frames: int = 120,
    up=(0.0, 0.0, 1.0),
    start=None,
) -> Path:
    """Once around a point, counter-clockwise as seen from above, looking at it.

    Args:
      centre: the point, in the world.
      radius: distance from it.
      elevation: degrees above the plane through the centre, between -90 and 90.
      frames: how many poses; the one after the last would be the first again.
      up: the axis of the circle.
      start: a direction from the centre, towards which the first camera stands; any by default.
    """
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    if start is None:
        start = np.eye(3)[np.argmin(np.abs(up))]
    first = np.asarray(start, np.float64) - np.dot(start, up) * up
    if not np.linalg.norm(first) > 1e-9:
        raise ValueError("orbit: start must not be along up")
    first /= np.linalg.norm(first)
    second = np.cross(up, first)
    tilt = np.deg2rad(elevation)
    azimuths = np.linspace(0.0, 2.0 * np.pi, frames, endpoint=False)
    outward = (
        np.cos(tilt) * (np.cos(azimuths)[:, None] * first + np.sin(azimuths)[:, None] * second)
        + np.sin(tilt) * up
    )
    centre = np.asarray(centre, np.float64)
    return np.stack([look_at_pose(centre + radius * o, centre, up) for o in outward])


def orbit_of(poses: Poses, frames: int = 120) -> Path:
    """The orbit that fits captured poses: around what they look at, at their distance and height.

    The centre is the point nearest to all their viewing axes, up the mean of their upward axes; the
    orbit starts at the first of them. Where a third of the way around was not captured, behind a wall
    perhaps, it is one round of a `spiral` among the captured poses instead.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    positions, backs = poses[:, :, 3], poses[:, :, 2]
    centre = focus_point(poses)
    offsets = positions - centre
    up = _mean_up(poses)
    if _widest_gap(offsets, up) > _MOST_GAP:
        middle = np.linalg.norm(positions.mean(axis=0) - centre)
        return spiral(poses, max(float(middle), 1e-6), frames, rotations=1)
    distances = np.linalg.norm(offsets, axis=-1)
    radius = float(np.mean(distances))
    sines = offsets @ up / np.maximum(distances, 1e-12)
    elevation = float(np.clip(np.rad2deg(np.arcsin(np.clip(np.mean(sines), -1, 1))), -80.0, 80.0))
    start = offsets[0] - (offsets[0] @ up) * up
    if np.linalg.norm(start) < 1e-6 * radius or not np.isfinite(start).all():
        start = backs[0] if abs(backs[0] @ up) < 0.999 else None
    return orbit(centre, radius, elevation, frames, up, start)


def spiral(
    poses: Poses, focus: float, frames: int = 120, rotations: int = 2, zoom: float = 0.5
) -> Path:
    """A small closed spiral about the mean pose, for forward-facing captures (LLFF, 2019).

    Args:
      poses: the captured ones; the spiral stays within the 90th percentile of their offsets.
      focus: the distance in front of the mean pose at which the cameras look.
      frames: how many poses.
      rotations: turns in the picture's plane.
      zoom: turns of the movement back and forth for each in the picture's plane.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    position = poses[:, :, 3].mean(axis=0)
    back = poses[:, :, 2].mean(axis=0)
    mean = look_at_pose(position, position - back, poses[:, :, 1].mean(axis=0))
    axes = mean[:, :3]
    extent = np.percentile(np.abs((poses[:, :, 3] - position) @ axes), 90.0, axis=0)
    target = position - focus * axes[:, 2]
    path = []
    for turn in np.linspace(0.0, 1.0, frames, endpoint=False):
        angle = 2.0 * np.pi * rotations * turn
        offset = extent * np.array([np.cos(angle), -np.sin(angle), -np.sin(angle * zoom)])
        path.append(look_at_pose(position + axes @ offset, target, axes[:, 1]))
    return np.stack(path)


def spline(poses: Poses, frames: int = 120, loop: bool = False) -> Path:
    """A smooth path through key poses, evenly timed from one to the next.

    Positions follow a cubic spline, orientations SciPy's rotation spline (continuous angular
    velocity and acceleration).

    Args:
      poses: two or more key poses.
      frames: how many poses to return. Without a loop the first and last key are among them.
      loop: whether the path returns to the first key pose.
    """
    # Here, since it takes a fifth as long to import as all else together.
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation, RotationSpline

    poses = np.asarray(poses, np.float64)[:, :3]
    if len(poses) < 2:
        raise ValueError("spline: needs at least two key poses")
    if loop:
        poses = np.concatenate([poses, poses[:1]])
    keys = np.arange(len(poses), dtype=np.float64)
    times = np.linspace(0.0, keys[-1], frames, endpoint=not loop)
    rotations = RotationSpline(keys, Rotation.from_matrix(poses[:, :, :3]))(times).as_matrix()
    boundary = "periodic" if loop else "natural"
    positions = CubicSpline(keys, poses[:, :, 3], bc_type=boundary)(times)
    return np.concatenate([rotations, positions[:, :, None]], axis=-1)


def focus_point(poses: Poses) -> Float[np.ndarray, "3"]:
    """The point nearest to the viewing axes of all poses, in the least-squares sense.

    Where the axes are parallel there is no such point; a weak pull towards the cameras' mean keeps
    the answer finite.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    positions, axes = poses[:, :, 3], poses[:, :, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    ridge = 1e-6 * len(poses) * np.eye(3)
    # From the mean: far from the origin the right side would lose what tells the cameras apart.
    mean = positions.mean(axis=0)
    offset = np.einsum("nij,nj->i", across, positions - mean)
    return mean + np.linalg.solve(across.sum(axis=0) + ridge, offset)


def _widest_gap(offsets: np.ndarray, up: np.ndarray) -> float:
    """The widest angle, seen from above, in which no camera stands; in radians."""
    first = np.eye(3)[np.argmin(np.abs(up))]
    first = first - (first @ up) * up
    azimuths = np.sort(np.arctan2(offsets @ np.cross(up, first), offsets @ first))
    return float(np.max(np.diff([*azimuths, azimuths[0] + 2.0 * np.pi])))


def _mean_up(poses: np.ndarray) -> np.ndarray:
    up = poses[:, :, 1].mean(axis=0)
    norm = np.linalg.norm(up)
    return up / norm if norm > 1e-6 else np.array([0.0, 0.0, 1.0])

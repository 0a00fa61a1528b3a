"""Camera paths: sequences of poses for videos, in float64. Conventions as in `jaxnerf.cameras`."""

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import look_at_pose

# Of 3 rows, or of 4.
Poses = Float[np.ndarray, "N rows 4"]
Path = Float[np.ndarray, "frames 3 4"]

_MOST_GAP = np.deg2rad(120.1)
# Mean squares of the cameras' right axes across the direction that most of them share: below, as of
# cameras side by side, they say little of what is upward. (nerfstudio's bound for the same.)
_LEAST_TURN = 0.03
# Points around an ellipse, of which even steps are taken.
_FINE = 4096


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


def orbit_of(poses: Poses, frames: int = 120, up=None) -> Path:
    """The orbit that fits captured poses: around what they look at, at their distance and height.

    The centre is the point nearest to all their viewing axes, the orbit starts at the first of them.
    Where they do not `surround` the centre it is one round of a `spiral` among them instead.

    Args:
      poses: the captured ones.
      frames: how many poses to return.
      up: the axis of the circle; by default `up_of` the poses.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    centre, up = focus_point(poses), _unit(up_of(poses) if up is None else up)
    offsets = poses[:, :, 3] - centre
    if not surround(poses, up):
        middle = np.linalg.norm(poses[:, :, 3].mean(axis=0) - centre)
        return spiral(poses, max(float(middle), 1e-6), frames, rotations=1, up=up)
    distances = np.linalg.norm(offsets, axis=-1)
    radius = float(np.mean(distances))
    sines = offsets @ up / np.maximum(distances, 1e-12)
    elevation = float(np.clip(np.rad2deg(np.arcsin(np.clip(np.mean(sines), -1, 1))), -80.0, 80.0))
    return orbit(centre, radius, elevation, frames, up, _start(poses, offsets, up))


def ellipse_of(poses: Poses, frames: int = 120, up=None) -> Path:
    """The ellipse that fits captured poses, for those whose distances differ: in even steps around.

    It lies across up, at the poses' mean height, around the point nearest to their viewing axes, at
    which it looks (as mip-NeRF 360 shows its scenes; Barron et al., 2022). Its axes are those in which
    the poses spread most and least, and reach to the 90th percentile of their offsets. Where the poses
    do not `surround` the centre it is one round of a `spiral`, as `orbit_of` has it.

    Args:
      poses: the captured ones.
      frames: how many poses to return.
      up: the direction across the ellipse; by default `up_of` the poses.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    centre, up = focus_point(poses), _unit(up_of(poses) if up is None else up)
    if not surround(poses, up):
        return orbit_of(poses, frames, up)
    offsets = poses[:, :, 3] - centre
    level = offsets - (offsets @ up)[:, None] * up
    long = np.linalg.eigh(level.T @ level)[1][:, -1]
    axes = np.stack([long, np.cross(up, long)])
    half = np.percentile(np.abs(level @ axes.T), 90.0, axis=0)
    start = level[0] @ axes.T / half
    angles = np.arctan2(start[1], start[0]) + np.linspace(0.0, 2.0 * np.pi, _FINE + 1)
    around = half * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    lengths = np.cumsum([0.0, *np.linalg.norm(np.diff(around, axis=0), axis=-1)])
    angles = np.interp(np.linspace(0.0, lengths[-1], frames, endpoint=False), lengths, angles)
    around = half * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    eyes = centre + around @ axes + np.mean(offsets @ up) * up
    return np.stack([look_at_pose(eye, centre, up) for eye in eyes])


def spiral(
    poses: Poses,
    focus: float,
    frames: int = 120,
    rotations: int = 2,
    zoom: float = 0.5,
    up=None,
) -> Path:
    """A small closed spiral about the mean pose, for forward-facing captures (LLFF, 2019).

    Args:
      poses: the captured ones; the spiral stays within the 90th percentile of their offsets.
      focus: the distance in front of the mean pose at which the cameras look.
      frames: how many poses.
      rotations: turns in the picture's plane.
      zoom: turns of the movement back and forth for each in the picture's plane.
      up: the direction that is upward in the pictures; by default the mean of the poses' own.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    position = poses[:, :, 3].mean(axis=0)
    back = poses[:, :, 2].mean(axis=0)
    mean = look_at_pose(
        position, position - back, poses[:, :, 1].mean(axis=0) if up is None else up
    )
    axes = mean[:, :3]
    upward = axes[:, 1] if up is None else up
    extent = np.percentile(np.abs((poses[:, :, 3] - position) @ axes), 90.0, axis=0)
    target = position - focus * axes[:, 2]
    path = []
    for turn in np.linspace(0.0, 1.0, frames, endpoint=False):
        angle = 2.0 * np.pi * rotations * turn
        offset = extent * np.array([np.cos(angle), -np.sin(angle), -np.sin(angle * zoom)])
        path.append(look_at_pose(position + axes @ offset, target, upward))
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


def level(poses: Poses, up) -> Path:
    """Poses turned upright where they stand, each with the heading that it had.

    Args:
      poses: of cameras; one that looks straight up or down heads to where the picture's upper or lower
        edge is.
      up: the direction that becomes their upward axis.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    up = _unit(up)
    turned = []
    for pose in poses:
        ahead = -pose[:, 2]
        if np.linalg.norm(np.cross(ahead, up)) < 1e-6:
            ahead = -np.sign(ahead @ up) * pose[:, 1]
        turned.append(look_at_pose(pose[:, 3], pose[:, 3] + ahead - (ahead @ up) * up, up))
    return np.stack(turned)


def up_of(poses: Poses) -> Float[np.ndarray, "3"]:
    """The scene's upward direction, of unit length: people hold cameras level.

    It is the direction that is most nearly across the right axes of all poses, on the side of their
    upward axes. Where the right axes are all alike, as of cameras that look the same way, it is the mean
    of the upward axes, turned to be across them.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    rights, mean = poses[:, :, 0], poses[:, :, 1].mean(axis=0)
    spread, directions = np.linalg.eigh(rights.T @ rights / len(rights))
    if spread[1] > _LEAST_TURN and abs(mean @ directions[:, 0]) > 1e-6:
        return directions[:, 0] * np.sign(mean @ directions[:, 0])
    mean = mean - (mean @ directions[:, 2]) * directions[:, 2]
    length = np.linalg.norm(mean)
    return mean / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])


def surround(poses: Poses, up=None) -> bool:
    """Whether poses stand all around what they look at, without a gap of more than a third.

    Args:
      poses: the captured ones.
      up: from where it is seen; by default `up_of` the poses.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    up = _unit(up_of(poses) if up is None else up)
    return bool(_widest_gap(poses[:, :, 3] - focus_point(poses), up) <= _MOST_GAP)


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


def _start(poses: np.ndarray, offsets: np.ndarray, up: np.ndarray) -> np.ndarray | None:
    """Where the first pose stands, seen from above; where it looks from, if it stands overhead."""
    start = offsets[0] - (offsets[0] @ up) * up
    if np.linalg.norm(start) < 1e-6 * np.linalg.norm(offsets[0]) or not np.isfinite(start).all():
        return poses[0, :, 2] if abs(poses[0, :, 2] @ up) < 0.999 else None
    return start


def _unit(direction) -> np.ndarray:
    direction = np.asarray(direction, np.float64)
    return direction / np.linalg.norm(direction)

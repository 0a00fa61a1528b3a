"""Camera paths: sequences of poses for videos, in float64. Conventions as in `jaxnerf.cameras`."""

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras.camera import look_at_pose
from jaxnerf.cameras.stances import Capture, Poses, focus_point, mean_axis, surround, unit, up_of

__all__ = [
    "ellipse_of",
    "focus_point",
    "home_of",
    "level",
    "orbit",
    "orbit_note",
    "orbit_of",
    "spiral",
    "spline",
    "surround",
    "up_of",
]

Path = Float[np.ndarray, "frames 3 4"]

# Number of points on an ellipse by which its arc length is computed.
_FINE = 4096
# Cosine of the angle between up and the viewing axis above which up is not used.
_ALONG = 0.999


def orbit(
    centre=(0.0, 0.0, 0.0),
    radius: float = 4.0,
    elevation: float = 30.0,
    frames: int = 120,
    up=(0.0, 0.0, 1.0),
    start=None,
) -> Path:
    """A circle around a point, counter-clockwise seen from above; the cameras look at the point.

    Args:
      centre: the point, in the world.
      radius: distance from it.
      elevation: degrees above the plane through the centre, between -90 and 90.
      frames: number of poses; the one after the last would be the first again.
      up: the axis of the circle.
      start: a direction from the centre to the first camera, projected to the plane; arbitrary by
        default.
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
    """A closed orbit that stays within the captured region.

    In every direction its distance from the point that the cameras look at is that of cameras in similar
    directions, and so never less than that of the nearest camera. There are five kinds, which
    `orbit_note` describes:

    - around: once around the point looked at, beginning at the first camera, at the cameras' mean height,
      limited to the range of heights of the cameras on the same side;
    - swing: to and fro, and up and down, within the arc of cameras that do not `surround` the point;
    - outward and fan: the corresponding orbits for cameras that look outwards from a place;
    - spiral: one round of a `spiral` with parallel viewing axes, for cameras whose axes do not meet.

    Args:
      poses: the captured poses.
      frames: number of poses to return; the one after the last would be the first again.
      up: the upward direction; by default `up_of` the poses.

    Raises:
      ValueError: up was given, and the cameras of a spiral look along it.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    capture = Capture.of(poses, up)
    if capture.orbit != "spiral":
        return capture.path(np.linspace(0.0, 1.0, frames, endpoint=False))
    if up is None and abs(mean_axis(poses, 2) @ capture.axes[2]) < _ALONG:
        up = capture.axes[2]
    return spiral(poses, np.inf, frames, rotations=1, zoom=1.0, up=up)


def home_of(poses: Poses) -> Float[np.ndarray, "3 4"]:
    """The pose of a first view: the beginning of `orbit_of`, or its middle for orbits to and fro."""
    capture, path = Capture.of(poses), orbit_of(poses, 2)
    if capture.orbit in ("swing", "fan"):
        return capture.middle
    if capture.orbit == "spiral":
        return np.column_stack([path[0, :, :3], path[:, :, 3].mean(axis=0)])
    return path[0]


def orbit_note(poses: Poses, up=None) -> str:
    """A note on the kind of `orbit_of`, if it does not go around the point looked at; else an empty text.

    Args:
      poses, up: as for `orbit_of`.
    """
    capture = Capture.of(poses, up)
    degrees = round(float(np.rad2deg(capture.arc[1])))
    return {
        "around": "",
        "swing": "the cameras do not stand all around what they look at, but over "
        f"{degrees} degrees: the orbit goes to and fro among them",
        "outward": "the cameras look outwards, and so does the orbit",
        "fan": f"the cameras look outwards, over {degrees} degrees: the orbit turns to and fro",
        "spiral": "the cameras look at no one place: the orbit is one round of a spiral among them",
    }[capture.orbit]


def ellipse_of(poses: Poses, frames: int = 120, up=None) -> Path:
    """An ellipse around the captured poses, in even steps; for cameras with different distances.

    It is perpendicular to up, at the poses' mean height, with its centre at or above the point nearest to
    their viewing axes, at which the cameras look (as in the videos of mip-NeRF 360; Barron et al., 2022).
    Its axes are the principal axes of the poses' offsets, and extend to the 90th percentile of these. If
    `orbit_of` does not go around the point, the result is that of `orbit_of`.

    Args:
      poses: the captured poses.
      frames: number of poses to return.
      up: the direction perpendicular to the ellipse; by default `up_of` the poses.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    capture = Capture.of(poses, up)
    if capture.orbit != "around":
        return orbit_of(poses, frames, up)
    centre, offsets, up = capture.centre, capture.offsets, capture.axes[2]
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
      poses: the captured poses; the spiral stays within the 90th percentile of their offsets.
      focus: distance in front of the mean pose of the point at which the cameras look; may be infinite.
      frames: number of poses.
      rotations: number of turns in the image plane.
      zoom: cycles of the movement along the viewing axis for each turn in the image plane.
      up: the upward direction in the images; by default the mean of the poses' own.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    position = poses[:, :, 3].mean(axis=0)
    back = mean_axis(poses, 2)
    mean = look_at_pose(position, position - back, mean_axis(poses, 1) if up is None else up)
    axes = mean[:, :3]
    upward = axes[:, 1] if up is None else up
    extent = np.percentile(np.abs((poses[:, :, 3] - position) @ axes), 90.0, axis=0)
    path = []
    for turn in np.linspace(0.0, 1.0, frames, endpoint=False):
        angle = 2.0 * np.pi * rotations * turn
        offset = extent * np.array([np.cos(angle), -np.sin(angle), -np.sin(angle * zoom)])
        eye, backward = position + axes @ offset, axes @ (offset / focus + [0.0, 0.0, 1.0])
        path.append(look_at_pose(eye, eye - backward, upward))
    return np.stack(path)


def spline(poses: Poses, frames: int = 120, loop: bool = False) -> Path:
    """A smooth path through key poses, with the same time between any two.

    Positions follow a cubic spline, orientations SciPy's rotation spline (continuous angular
    velocity and acceleration).

    Args:
      poses: two or more key poses.
      frames: number of poses to return. Without a loop the first and last key are among them.
      loop: whether the path returns to the first key pose.
    """
    # Imported here, since this takes a fifth as long as all other imports together.
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
    """Poses rotated upright at the same positions, with the same headings.

    Args:
      poses: poses of cameras. The heading of a camera that looks straight up is the direction of the
        lower edge of its image, and straight down that of the upper edge.
      up: the direction that becomes their upward axis.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    up = unit(up)
    turned = []
    for pose in poses:
        ahead = -pose[:, 2]
        if np.linalg.norm(np.cross(ahead, up)) < 1e-6:
            ahead = -np.sign(ahead @ up) * pose[:, 1]
        turned.append(look_at_pose(pose[:, 3], pose[:, 3] + ahead - (ahead @ up) * up, up))
    return np.stack(turned)

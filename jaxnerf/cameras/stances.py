"""The arrangement of a capture's cameras: the point they look at, the upward direction, and an orbit."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras.camera import look_at_pose

# Poses [R | position], with or without the fourth row 0, 0, 0, 1.
Poses = Float[np.ndarray, "N rows 4"]
Directions = Float[np.ndarray, "N 3"]
Orbit = Literal["around", "swing", "outward", "fan", "spiral"]

# Cameras surround a point if no gap between their azimuths is wider than this.
_MOST_GAP = np.deg2rad(120.1)
# The second smallest eigenvalue of the mean outer product of the cameras' right axes must be above this
# for up to be computed from these: the right axes of cameras side by side are nearly parallel and do
# not determine it. (nerfstudio's bound for the same.)
_LEAST_TURN = 0.03
# Smallest eigenvalue below which viewing axes are taken as parallel: they spread less than half a degree,
# and the point nearest to all of them is not well defined.
_SPREAD = 1e-4
# Cameras look at a point if it is within 45 degrees of the viewing axis for at least this fraction.
_OFF_AXIS, _MOST = np.cos(np.deg2rad(45.0)), 0.75
# Cameras look outwards if the mean of the sines of their viewing axes' elevations (absolute values) is
# below that of 45 degrees, and their azimuths have at least this range.
_STEEP, _LEAST_FAN = np.sin(np.deg2rad(45.0)), np.deg2rad(60.0)
# Length of the mean of unit axes from which on they have a common direction.
_COMMON = 0.5
# Distances of an orbit are averages over cameras in similar directions: the standard deviation of their
# weights is this angle, or half the spread of the cameras' directions if that is less.
_NEIGHBOURHOOD = np.deg2rad(20.0)
# An orbit to and fro stays between these percentiles of azimuths and of elevations. The range of
# elevations is small, since few cameras see the scene from far above or below.
_ACROSS, _UPWARD = (5.0, 95.0), (25.0, 75.0)
# Largest sine of an orbit's elevation.
_STEEPEST = np.sin(np.deg2rad(80.0))
# Azimuths at which the range of the cameras' heights is computed.
_AROUND = np.deg2rad(np.arange(0.0, 360.0, 5.0))


@dataclasses.dataclass(frozen=True)
class Capture:
    """The cameras' positions relative to the point at which their viewing axes meet.

    A direction is an azimuth, counter-clockwise seen from above, and an elevation, in radians. For
    cameras that look at the point it is that of the camera's position, for cameras that look outwards
    that of their viewing axis.

    Attributes:
      orbit: the kind of orbit that stays within the captured region; see
        `jaxnerf.cameras.paths.orbit_of`.
      centre: the point.
      axes: rows: two horizontal directions, and the upward direction.
      offsets: the cameras' positions relative to the centre.
      azimuths, elevations: the directions of the cameras.
    """

    orbit: Orbit
    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    offsets: Directions
    azimuths: Float[np.ndarray, " N"]
    elevations: Float[np.ndarray, " N"]

    @classmethod
    def of(cls, poses: Poses, up=None) -> "Capture":
        """Analyse captured poses.

        Args:
          poses: the captured poses.
          up: the upward direction; by default `up_of` the poses.
        """
        poses = np.asarray(poses, np.float64)[:, :3]
        up = unit(up_of(poses) if up is None else up)
        axes = np.stack([first := _across(up), np.cross(up, first), up])
        centre, backs = focus_point(poses), poses[:, :, 2]
        offsets = poses[:, :, 3] - centre
        orbit = _orbit(offsets, backs, up)
        directions = -backs if orbit in ("outward", "fan") else offsets
        azimuths = np.arctan2(directions @ axes[1], directions @ axes[0])
        lengths = np.maximum(np.linalg.norm(directions, axis=-1), 1e-12)
        elevations = np.arcsin(np.clip(directions @ up / lengths, -1.0, 1.0))
        return cls(orbit, centre, axes, offsets, azimuths, elevations)

    @property
    def arc(self) -> tuple[float, float]:
        """The azimuth of the first camera after the widest gap, and the angle covered from there."""
        ordered = np.sort(self.azimuths)
        gaps = np.diff(ordered, append=ordered[0] + 2.0 * np.pi)
        widest = int(np.argmax(gaps))
        begins = ordered[(widest + 1) % len(ordered)]
        return float(begins), float(2.0 * np.pi - gaps[widest])

    def path(self, turns: Float[np.ndarray, " frames"]) -> Float[np.ndarray, "frames 3 4"]:
        """The orbit's poses at fractions of it from 0 to 1; not for a spiral."""
        azimuths, elevations = self._directions(turns)
        if self.orbit in ("outward", "fan"):
            return self._looking_out(azimuths, elevations)
        distances = self._distances(azimuths, elevations)
        if self.orbit == "around":
            elevations = np.arcsin(
                np.clip(self._heights(azimuths) / distances, -_STEEPEST, _STEEPEST)
            )
        return self._looking_in(azimuths, elevations, distances)

    @property
    def middle(self) -> Float[np.ndarray, "3 4"]:
        """The pose in the middle of an orbit to and fro."""
        azimuths, elevations = self._directions(np.array([0.0, 0.5]))
        here = azimuths[:1], elevations.mean(keepdims=True)
        if self.orbit == "fan":
            return self._looking_out(*here)[0]
        return self._looking_in(*here, self._distances(*here))[0]

    def _directions(self, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Azimuths and elevations of the orbit."""
        if self.orbit in ("around", "outward"):
            mean = np.arcsin(np.mean(np.sin(self.elevations)))
            return self.azimuths[0] + 2.0 * np.pi * turns, np.full(len(turns), mean)
        begins, _ = self.arc
        known = np.mod(self.azimuths - begins, 2.0 * np.pi)
        low, high = np.percentile(known, _ACROSS)
        azimuths = 0.5 * (low + high) + 0.5 * (high - low) * np.sin(2.0 * np.pi * turns)
        # Elevations are relative to a linear fit over azimuth, to follow a photographer who climbs.
        away, heights = known - known.mean(), self.elevations
        slope = (away @ heights) / max(float(away @ away), 1e-12)
        lower, upper = np.percentile(heights - slope * away, _UPWARD)
        elevations = 0.5 * (lower + upper) + slope * (azimuths - known.mean())
        elevations = elevations + 0.5 * (upper - lower) * np.cos(2.0 * np.pi * turns)
        steepest = np.arcsin(_STEEPEST)
        bounds = np.clip([heights.min(), heights.max()], -steepest, steepest)
        return begins + azimuths, np.clip(elevations, *bounds)

    def _distances(self, azimuths: np.ndarray, elevations: np.ndarray) -> np.ndarray:
        """Distances from the centre: averages of those of cameras in similar directions."""
        return self._blended(azimuths, elevations, np.linalg.norm(self.offsets, axis=-1))

    def _heights(self, azimuths: np.ndarray) -> np.ndarray:
        """The mean height, limited to the range of heights of cameras on the same side."""
        heights = self.offsets @ self.axes[2]
        mean = np.mean(np.sin(self.elevations)) * np.mean(np.linalg.norm(self.offsets, axis=-1))
        away = np.abs(np.mod(_AROUND[:, None] - self.azimuths + np.pi, 2.0 * np.pi) - np.pi)
        # Cameras within half of the widest gap of an orbit around; if there are none, the nearest one.
        beside = away <= np.maximum(0.5 * _MOST_GAP, away.min(axis=1, keepdims=True))
        lowest = np.where(beside, heights, np.inf).min(axis=1)
        highest = np.where(beside, heights, -np.inf).max(axis=1)
        apart = np.mod(azimuths[:, None] - _AROUND + np.pi, 2.0 * np.pi) - np.pi
        return _near(apart**2, _NEIGHBOURHOOD) @ np.clip(mean, lowest, highest)

    def _looking_in(
        self, azimuths: np.ndarray, elevations: np.ndarray, distances: np.ndarray
    ) -> np.ndarray:
        eyes = self.centre + distances[:, None] * self._pointing(azimuths, elevations)
        return np.stack([look_at_pose(eye, self.centre, self.axes[2]) for eye in eyes])

    def _looking_out(self, azimuths: np.ndarray, elevations: np.ndarray) -> np.ndarray:
        """Poses that look outwards, at positions of cameras with similar viewing directions."""
        beside = np.einsum("nij,nj->ni", self._turned(self.azimuths), self.offsets)
        places = self._blended(azimuths, elevations, beside)
        eyes = self.centre + np.einsum("nij,ni->nj", self._turned(azimuths), places)
        pairs = zip(eyes, self._pointing(azimuths, elevations), strict=True)
        return np.stack([look_at_pose(eye, eye + ahead, self.axes[2]) for eye, ahead in pairs])

    def _blended(
        self, azimuths: np.ndarray, elevations: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """Values of cameras interpolated to other directions: means with weights of `_near`."""
        cameras = self._pointing(self.azimuths, self.elevations)
        mean = cameras.mean(axis=0)
        spread = np.sqrt(np.mean(_angles(cameras, mean / max(np.linalg.norm(mean), 1e-9)) ** 2))
        wide = np.clip(0.5 * spread, 1e-4, _NEIGHBOURHOOD)
        return _near(_angles(self._pointing(azimuths, elevations), cameras) ** 2, wide) @ known

    def _pointing(self, azimuths: np.ndarray, elevations: np.ndarray) -> np.ndarray:
        """Unit vectors of directions."""
        level, heights = self._turned(azimuths)[:, 0], elevations[:, None]
        return np.cos(heights) * level + np.sin(heights) * self.axes[2]

    def _turned(self, azimuths: np.ndarray) -> np.ndarray:
        """Rows for each azimuth: its horizontal direction, the direction to the left of it, and up."""
        cosine, sine = np.cos(azimuths)[:, None], np.sin(azimuths)[:, None]
        ahead = cosine * self.axes[0] + sine * self.axes[1]
        left = cosine * self.axes[1] - sine * self.axes[0]
        return np.stack([ahead, left, np.broadcast_to(self.axes[2], ahead.shape)], axis=1)


def up_of(poses: Poses) -> Float[np.ndarray, "3"]:
    """The scene's upward direction, of unit length, assuming that cameras were held level.

    It is the direction most nearly perpendicular to the right axes of all poses, on the side of their
    upward axes. If the right axes are all similar, as for cameras that look the same way, it is the mean
    of the upward axes, made perpendicular to them.
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
    """Whether poses are all around the point that they look at, without a gap of more than 120 degrees.

    Args:
      poses: the captured poses.
      up: the axis of the azimuths; by default `up_of` the poses.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    up = unit(up_of(poses) if up is None else up)
    return bool(_widest_gap(poses[:, :, 3] - focus_point(poses), up) <= _MOST_GAP)


def focus_point(poses: Poses) -> Float[np.ndarray, "3"]:
    """The point nearest to the viewing axes of all poses, in the least-squares sense.

    If the axes are parallel there is no such point; a weak regularisation towards the cameras' mean keeps
    the result finite.
    """
    poses = np.asarray(poses, np.float64)[:, :3]
    positions, axes = poses[:, :, 3], poses[:, :, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    ridge = 1e-6 * len(poses) * np.eye(3)
    # Relative to the mean: far from the origin the differences between cameras would be lost in rounding.
    mean = positions.mean(axis=0)
    offset = np.einsum("nij,nj->i", across, positions - mean)
    return mean + np.linalg.solve(across.sum(axis=0) + ridge, offset)


def axes_meet(backs: Directions) -> bool:
    """Whether the directions of viewing axes spread enough to meet at a point.

    Args:
      backs: the cameras' backward axes, of unit length.
    """
    across = np.eye(3) - np.mean(backs[:, :, None] * backs[:, None, :], axis=0)
    return bool(np.linalg.eigvalsh(across)[0] >= _SPREAD)


def mean_axis(poses: np.ndarray, axis: int) -> np.ndarray:
    """The mean of an axis of the poses, of unit length; the first pose's axis if the mean is 0."""
    mean = poses[:, :, axis].mean(axis=0)
    return unit(mean if np.linalg.norm(mean) > 1e-6 else poses[0, :, axis])


def unit(direction) -> np.ndarray:
    """A direction of unit length."""
    direction = np.asarray(direction, np.float64)
    return direction / np.linalg.norm(direction)


def _orbit(offsets: Directions, backs: Directions, up: np.ndarray) -> Orbit:
    """The kind of orbit that stays within the captured region.

    Args:
      offsets: the cameras' positions relative to the point nearest to their axes.
      backs: the cameras' backward axes, of unit length.
      up: the upward direction.
    """
    meet, alike = axes_meet(backs), float(np.linalg.norm(backs.mean(axis=0)))
    lengths = np.maximum(np.linalg.norm(offsets, axis=-1), 1e-12)
    ahead = np.sum(offsets * backs, axis=-1) / lengths  # cosines of the angles off the axes
    is_around = _widest_gap(offsets, up) <= _MOST_GAP
    # The viewing directions agree better with the point than with one common direction.
    if meet and np.mean(ahead > _OFF_AXIS) >= _MOST and ahead.mean() > alike:
        return "around" if is_around else "swing"
    if meet and np.mean(ahead > 0.0) < 0.5 and np.mean(np.abs(backs @ up)) < _STEEP:
        gap = _widest_gap(backs, up)
        if gap <= _MOST_GAP:
            return "outward"
        if 2.0 * np.pi - gap >= _LEAST_FAN:
            return "fan"
    return "around" if is_around and alike < _COMMON else "spiral"


def _angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angles between unit vectors, in radians."""
    return np.arccos(np.clip(one @ other.T, -1.0, 1.0))


def _near(squares: np.ndarray, wide: float) -> np.ndarray:
    """Gaussian weights of squared distances, which sum to 1 along the last axis."""
    # Relative to the smallest distance, so that not all weights underflow.
    weights = np.exp(-0.5 * (squares - squares.min(axis=1, keepdims=True)) / wide**2)
    return weights / weights.sum(axis=1, keepdims=True)


def _across(up: np.ndarray) -> np.ndarray:
    """A direction perpendicular to another."""
    first = np.eye(3)[np.argmin(np.abs(up))]
    return unit(first - (first @ up) * up)


def _widest_gap(offsets: Directions, up: np.ndarray) -> float:
    """The widest angle between neighbouring azimuths of positions or directions, in radians."""
    first = _across(up)
    azimuths = np.sort(np.arctan2(offsets @ np.cross(up, first), offsets @ first))
    return float(np.max(np.diff([*azimuths, azimuths[0] + 2.0 * np.pi])))

"""The arrangement of a capture's cameras: what they look at, which way is up, and an orbit among them."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import look_at_pose

# Of 3 rows, or of 4.
Poses = Float[np.ndarray, "N rows 4"]
Directions = Float[np.ndarray, "N 3"]
Orbit = Literal["around", "swing", "outward", "fan", "spiral"]

_MOST_GAP = np.deg2rad(120.1)
# Mean squares of the cameras' right axes across the direction that most of them share: below, as of
# cameras side by side, they say little of what is upward. (nerfstudio's bound for the same.)
_LEAST_TURN = 0.03
# Viewing axes that spread less than half a degree do not meet in any place that could be told.
_SPREAD = 1e-4
# Cameras look at a place that is less than 45 degrees off the axes of so many of them.
_OFF_AXIS, _MOST = np.cos(np.deg2rad(45.0)), 0.75
# Cameras that look outwards look level in the mean, to 45 degrees, and over so wide a fan.
_STEEP, _LEAST_FAN = np.sin(np.deg2rad(45.0)), np.deg2rad(60.0)
# Length of the mean of unit axes, from which on they have a direction in common.
_COMMON = 0.5
# A place on an orbit is as far away as cameras in directions about so far from its own, or half as far as
# cameras spread.
_NEIGHBOURHOOD = np.deg2rad(20.0)
# An orbit to and fro stays between these percentiles of azimuths, and these of elevations: it rises and
# sinks a little, since what lies above and below was often seen by few.
_ACROSS, _UPWARD = (5.0, 95.0), (25.0, 75.0)
# The sine of the elevation of an orbit at most.
_STEEPEST = np.sin(np.deg2rad(80.0))
# Azimuths at which is asked how low and how high cameras stood.
_AROUND = np.deg2rad(np.arange(0.0, 360.0, 5.0))


@dataclasses.dataclass(frozen=True)
class Capture:
    """Where cameras stand, seen from the place that their viewing axes meet in.

    A direction is an azimuth, counter-clockwise as seen from above, and an elevation, in radians: of
    cameras that look at the place it is where they stand, of those that look outwards where they look.

    Attributes:
      orbit: the kind of orbit that keeps to what the cameras saw; see `jaxnerf.paths.orbit_of`.
      centre: the place.
      axes: rows: two level directions, and the one that is upward.
      offsets: of the cameras from the centre.
      azimuths, elevations: of the cameras.
    """

    orbit: Orbit
    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    offsets: Directions
    azimuths: Float[np.ndarray, " N"]
    elevations: Float[np.ndarray, " N"]

    @classmethod
    def of(cls, poses: Poses, up=None) -> "Capture":
        """Look at captured poses.

        Args:
          poses: the captured ones.
          up: the direction that is upward; by default `up_of` the poses.
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
        """The azimuth at which the cameras begin, after their widest gap, and how far they go on."""
        ordered = np.sort(self.azimuths)
        gaps = np.diff(ordered, append=ordered[0] + 2.0 * np.pi)
        widest = int(np.argmax(gaps))
        begins = ordered[(widest + 1) % len(ordered)]
        return float(begins), float(2.0 * np.pi - gaps[widest])

    def path(self, turns: Float[np.ndarray, " frames"]) -> Float[np.ndarray, "frames 3 4"]:
        """The orbit's poses at parts of it from 0 to 1; of any kind but a spiral."""
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
        # Whoever climbs while going around is followed: beside a line, not within a rectangle.
        away, heights = known - known.mean(), self.elevations
        slope = (away @ heights) / max(float(away @ away), 1e-12)
        lower, upper = np.percentile(heights - slope * away, _UPWARD)
        elevations = 0.5 * (lower + upper) + slope * (azimuths - known.mean())
        elevations = elevations + 0.5 * (upper - lower) * np.cos(2.0 * np.pi * turns)
        steepest = np.arcsin(_STEEPEST)
        bounds = np.clip([heights.min(), heights.max()], -steepest, steepest)
        return begins + azimuths, np.clip(elevations, *bounds)

    def _distances(self, azimuths: np.ndarray, elevations: np.ndarray) -> np.ndarray:
        """As far from the centre as the cameras in such directions."""
        return self._blended(azimuths, elevations, np.linalg.norm(self.offsets, axis=-1))

    def _heights(self, azimuths: np.ndarray) -> np.ndarray:
        """The mean height, where cameras of the same side stood so low and so high."""
        heights = self.offsets @ self.axes[2]
        mean = np.mean(np.sin(self.elevations)) * np.mean(np.linalg.norm(self.offsets, axis=-1))
        away = np.abs(np.mod(_AROUND[:, None] - self.azimuths + np.pi, 2.0 * np.pi) - np.pi)
        # No wider gap has no camera at all; where one is after all, the nearest camera decides.
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
        """From where cameras stood, beside the centre, that looked in such directions."""
        beside = np.einsum("nij,nj->ni", self._turned(self.azimuths), self.offsets)
        places = self._blended(azimuths, elevations, beside)
        eyes = self.centre + np.einsum("nij,ni->nj", self._turned(azimuths), places)
        pairs = zip(eyes, self._pointing(azimuths, elevations), strict=True)
        return np.stack([look_at_pose(eye, eye + ahead, self.axes[2]) for eye, ahead in pairs])

    def _blended(
        self, azimuths: np.ndarray, elevations: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """What is known of cameras, in other directions: the mean of it, mostly of what is near."""
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
        """Rows for each azimuth: its level direction, the one to the left of it, and up."""
        cosine, sine = np.cos(azimuths)[:, None], np.sin(azimuths)[:, None]
        ahead = cosine * self.axes[0] + sine * self.axes[1]
        left = cosine * self.axes[1] - sine * self.axes[0]
        return np.stack([ahead, left, np.broadcast_to(self.axes[2], ahead.shape)], axis=1)


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
    up = unit(up_of(poses) if up is None else up)
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


def axes_meet(backs: Directions) -> bool:
    """Whether viewing axes spread enough to meet in a place.

    Args:
      backs: the cameras' backward axes, of unit length.
    """
    across = np.eye(3) - np.mean(backs[:, :, None] * backs[:, None, :], axis=0)
    return bool(np.linalg.eigvalsh(across)[0] >= _SPREAD)


def unit(direction) -> np.ndarray:
    """A direction of unit length."""
    direction = np.asarray(direction, np.float64)
    return direction / np.linalg.norm(direction)


def _orbit(offsets: Directions, backs: Directions, up: np.ndarray) -> Orbit:
    """The orbit that keeps to what cameras saw, from their offsets from where their axes meet."""
    meet, alike = axes_meet(backs), float(np.linalg.norm(backs.mean(axis=0)))
    lengths = np.maximum(np.linalg.norm(offsets, axis=-1), 1e-12)
    ahead = np.sum(offsets * backs, axis=-1) / lengths  # cosines of the angles off the axes
    is_around = _widest_gap(offsets, up) <= _MOST_GAP
    # The place explains where they look better than one direction for all does.
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
    """Weights, of sum 1 along the last axis, of what is so far away: Gaussians of a width."""
    # From the nearest on, so that there is one, however far it is.
    weights = np.exp(-0.5 * (squares - squares.min(axis=1, keepdims=True)) / wide**2)
    return weights / weights.sum(axis=1, keepdims=True)


def _across(up: np.ndarray) -> np.ndarray:
    """A direction across another."""
    first = np.eye(3)[np.argmin(np.abs(up))]
    return unit(first - (first @ up) * up)


def _widest_gap(offsets: Directions, up: np.ndarray) -> float:
    """The widest angle, seen from above, in which no camera stands; in radians."""
    first = _across(up)
    azimuths = np.sort(np.arctan2(offsets @ np.cross(up, first), offsets @ first))
    return float(np.max(np.diff([*azimuths, azimuths[0] + 2.0 * np.pi])))

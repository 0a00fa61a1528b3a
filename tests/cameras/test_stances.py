"""Orbits of captures of all kinds stay among the places where cameras stood."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import look_at_pose
from jaxnerf.cameras.paths import (
    ellipse_of,
    focus_point,
    home_of,
    orbit,
    orbit_note,
    orbit_of,
    up_of,
)
from jaxnerf.cameras.stances import Capture

FRAMES = 60
UP = np.array([0.0, 0.0, 1.0])
SEEDS = st.integers(0, 2**31)


def pointing(azimuths, elevations) -> np.ndarray:
    """Unit vectors of directions in degrees, counted around +z."""
    azimuths, elevations = np.deg2rad(azimuths), np.deg2rad(elevations)
    level = [np.cos(elevations) * np.cos(azimuths), np.cos(elevations) * np.sin(azimuths)]
    return np.stack([*level, np.sin(elevations)], axis=-1)


def placed(poses: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Poses in another frame: turned, scaled and shifted."""
    turn, scale = Rotation.random(rng=random).as_matrix(), 10.0 ** random.uniform(-3.0, 3.0)
    positions = scale * (poses[:, :, 3] @ turn.T) + scale * random.normal(0.0, 5.0, 3)
    return np.concatenate([turn @ poses[:, :, :3], positions[..., None]], axis=-1)


@dataclasses.dataclass(frozen=True)
class Seen:
    """Where poses stand, seen from a place.

    Attributes:
      distances, azimuths, elevations: in degrees, azimuths from -180 to 180 around `forth`.
    """

    distances: np.ndarray
    azimuths: np.ndarray
    elevations: np.ndarray

    @classmethod
    def of(cls, poses, centre, up, forth) -> "Seen":
        offsets = poses[:, :, 3] - centre
        distances = np.linalg.norm(offsets, axis=-1)
        forth = forth - (forth @ up) * up
        azimuths = np.arctan2(offsets @ np.cross(up, forth), offsets @ forth)
        return cls(distances, np.rad2deg(azimuths), np.rad2deg(np.arcsin(offsets @ up / distances)))


def one_sided(random: np.random.Generator) -> np.ndarray:
    """Cameras over a part of the round, some far and some near, that look about at one place."""
    count, arc = random.integers(4, 50), random.uniform(20.0, 220.0)
    azimuths = random.uniform(-0.5, 0.5, count) * arc
    low, high = np.sort(random.uniform(-40.0, 60.0, 2))
    elevations = random.uniform(low, high, count) + random.uniform(-0.2, 0.2) * azimuths
    distances = random.uniform(1.0, random.uniform(1.01, 3.0), count)
    eyes = distances[:, None] * pointing(azimuths, np.clip(elevations, -75.0, 75.0))
    targets = random.normal(0.0, 0.05, (count, 3))
    return np.stack([look_at_pose(*pair) for pair in zip(eyes, targets, strict=True)])


def assert_closed(path: np.ndarray) -> None:
    """The step from the last pose to the first is one as the others around it are."""
    steps = np.linalg.norm(np.diff(path[:, :, 3], axis=0, append=path[:1, :, 3]), axis=-1)
    turns = Rotation.from_matrix(path[:, :, :3])
    turns = (turns * Rotation.from_matrix(np.roll(path[:, :, :3], -1, axis=0)).inv()).magnitude()
    for moves in (steps, turns):
        beside = np.roll(moves, 1), np.roll(moves, -1)
        assert moves[-1] <= 1.5 * max(beside[0][-1], beside[1][-1]) + 0.02 * moves.max()


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_an_orbit_of_one_side_stays_within_what_its_cameras_saw(seed):
    random = np.random.default_rng(seed)
    poses = placed(one_sided(random), random)
    up, centre = up_of(poses), focus_point(poses)
    forth = poses[:, :, 3].mean(axis=0) - centre
    known, path = Seen.of(poses, centre, up, forth), orbit_of(poses, FRAMES)
    found = Seen.of(path, centre, up, forth)
    assert "to and fro" in orbit_note(poses)
    for name in ("distances", "azimuths", "elevations"):
        bounds, values = getattr(known, name), getattr(found, name)
        slack = 1e-6 * np.abs(bounds).max()
        assert bounds.min() - slack <= values.min()
        assert values.max() <= bounds.max() + slack
    # It looks at the same place, upright, from where it says; and uses what it has.
    towards = (centre - path[:, :, 3]) / found.distances[:, None]
    np.testing.assert_allclose(-path[:, :, 2], towards, atol=1e-6)
    np.testing.assert_allclose(path[:, :, 0] @ up, 0.0, atol=1e-6)
    assert np.ptp(found.azimuths) > 0.5 * np.subtract(*np.percentile(known.azimuths, [75, 25]))
    assert_closed(path)
    home = Seen.of(home_of(poses)[None], centre, up, forth)
    assert found.azimuths.min() - 1e-6 <= home.azimuths[0] <= found.azimuths.max() + 1e-6


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(-50.0, 70.0), st.integers(3, 40))
def test_a_turntable_has_the_full_circle(seed, elevation, count):
    random = np.random.default_rng(seed)
    up, centre = random.normal(size=3), random.normal(0.0, 10.0, 3)
    radius = 10.0 ** random.uniform(-2.0, 2.0)
    captured = orbit(centre, radius, elevation, count, up, start=random.normal(size=3))
    expected = orbit(centre, radius, elevation, FRAMES, up, captured[0, :, 3] - centre)
    np.testing.assert_allclose(orbit_of(captured, FRAMES), expected, atol=1e-4 * (1.0 + radius))
    assert orbit_note(captured) == ""


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_an_orbit_goes_with_its_capture(seed):
    """In whatever frame and unit: what is upward is found, and no number is absolute."""
    random = np.random.default_rng(seed)
    here, state = one_sided(random), random.bit_generator.state
    path = orbit_of(here, 9)
    there = placed(here, random)
    random.bit_generator.state = state
    scale = np.linalg.norm(np.ptp(there[:, :, 3], axis=0))
    np.testing.assert_allclose(orbit_of(there, 9), placed(path, random), atol=1e-5 * (1.0 + scale))


def test_around_an_oblong_thing_the_orbit_is_as_far_as_its_cameras_at_every_side():
    angles = np.linspace(0.0, 2.0 * np.pi, 60, endpoint=False)
    eyes = np.stack([4.0 * np.cos(angles), 2.0 * np.sin(angles), np.full(60, 0.5)], axis=-1)
    poses = np.stack([look_at_pose(eye, (0, 0, 0)) for eye in eyes])
    eyes = orbit_of(poses, 4)[:, :, 3]  # from the first camera on, at the end of the long axis
    distances = np.linalg.norm(eyes, axis=-1)
    np.testing.assert_allclose(distances[[0, 2]], np.hypot(4.0, 0.5), rtol=0.12)
    np.testing.assert_allclose(distances[[1, 3]], np.hypot(2.0, 0.5), rtol=0.12)


def test_on_a_slope_the_orbit_stays_as_high_as_its_cameras():
    azimuths = np.arange(0.0, 360.0, 10.0)
    heights = 20.0 + 30.0 * np.cos(np.deg2rad(azimuths))
    poses = np.stack([look_at_pose(3.0 * eye, (0, 0, 0)) for eye in pointing(azimuths, heights)])
    found = Seen.of(path := orbit_of(poses, 36), np.zeros(3), UP, np.array([1.0, 0.0, 0.0]))
    for azimuth, height in zip(found.azimuths, path[:, 2, 3], strict=True):
        away = np.abs((azimuths - azimuth + 180.0) % 360.0 - 180.0)
        beside = poses[away < 90.0, 2, 3]
        assert beside.min() - 1e-6 <= height <= beside.max() + 1e-6
    assert np.ptp(path[:, 2, 3]) > 0.5


@pytest.mark.parametrize("arc", [360.0, 140.0])
def test_of_cameras_that_look_outwards_the_orbit_looks_outwards(arc):
    random = np.random.default_rng(3)
    azimuths = np.linspace(0.0, arc, 30, endpoint=False)
    directions = pointing(azimuths, np.full(30, -10.0))
    eyes = 0.5 * pointing(azimuths, np.zeros(30)) + random.normal(0.0, 0.02, (30, 3))
    poses = np.stack([look_at_pose(eye, eye + d) for eye, d in zip(eyes, directions, strict=True)])
    path = orbit_of(poses, FRAMES)
    assert_closed(path)
    seen = np.rad2deg(np.arctan2(-path[:, 1, 2], -path[:, 0, 2]))
    np.testing.assert_allclose(-path[:, 2, 2], np.sin(np.deg2rad(-10.0)), atol=1e-2)
    ahead = np.sum(path[:, :2, 3] * -path[:, :2, 2], axis=-1)
    assert (ahead > 0.35).all(), "they stand on the side to which they look"
    assert np.linalg.norm(path[:, :, 3], axis=-1).max() < 0.6
    assert "outwards" in orbit_note(poses)
    if arc < 360.0:
        assert -1e-3 <= seen.min() < 20.0
        assert 115.0 < seen.max() <= azimuths.max() + 1e-3
    else:
        np.testing.assert_allclose(np.diff(np.unwrap(seen, period=360.0)), 6.0, atol=1e-6)


def parallel(eyes: np.ndarray, ahead, up, noise: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(7)
    axes = ahead + noise * random.normal(size=(len(eyes), 3))
    return np.stack([look_at_pose(e, e + a, up) for e, a in zip(eyes, axes, strict=True)])


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_along_a_row_of_cameras_the_orbit_stays_in_the_row_and_looks_ahead(noise):
    eyes = np.linspace(-2.0, 2.0, 15)[:, None] * [1.0, 0.0, 0.0] + [0.0, 5.0, 1.0]
    poses = parallel(eyes, np.array([0.0, 1.0, 0.0]), UP, noise)
    for make in (orbit_of, ellipse_of):
        path = make(poses, FRAMES)
        assert_closed(path)
        assert np.abs(path[:, 0, 3]).max() < 2.0
        assert np.ptp(path[:, 0, 3]) > 3.0
        np.testing.assert_allclose(path[:, 1:, 3], np.broadcast_to([5.0, 1.0], (60, 2)), atol=0.1)
        np.testing.assert_allclose(-path[:, 1, 2], 1.0, atol=0.01)
    assert "one round of a spiral" in orbit_note(poses)
    np.testing.assert_allclose(home_of(poses)[:, 3], [0.0, 5.0, 1.0], atol=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("turns", [False, True])
def test_over_a_map_the_orbit_stays_above_and_looks_down(noise, turns):
    """Cameras of a drone in a grid, all heading north or each somewhere else."""
    eyes = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0), [9.0]), axis=-1).reshape(-1, 3)
    poses = parallel(eyes, np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0]), noise)
    if turns:
        headings = Rotation.from_euler("z", np.random.default_rng(0).uniform(0, 360, (20, 1)), True)
        poses[:, :, :3] = poses[:, :, :3] @ headings.as_matrix()
    path = orbit_of(poses, FRAMES)
    assert_closed(path)
    np.testing.assert_allclose(-path[:, 2, 2], -1.0, atol=0.01)
    np.testing.assert_allclose(path[:, 2, 3], 9.0, atol=0.1)
    assert np.linalg.norm(path[:, :2, 3] - [2.0, 1.5], axis=-1).max() < np.hypot(2.0, 1.5)


@pytest.mark.parametrize("count", [1, 2])
def test_one_camera_or_two_have_an_orbit(count):
    poses = np.stack([look_at_pose((4.0, y, 1.0), (0, 0, 0)) for y in (-0.5, 0.5)])[:count]
    path = orbit_of(poses, 5)
    assert np.abs(path[:, 1, 3]).max() <= 0.5 + 1e-6
    np.testing.assert_allclose(path[:, 0, 3], 4.0, atol=0.05)
    back_to_back = np.stack([look_at_pose((x, 0.0, 0.0), (2.0 * x, 0.0, 0.0)) for x in (-1, 1)])
    assert np.isfinite(orbit_of(back_to_back, 5)).all()


def test_kinds():
    ring = orbit((1, 2, 3), 2.0, 20.0, 36)
    assert Capture.of(ring).orbit == "around"
    assert Capture.of(ring[:20]).orbit == "swing"
    begins, length = Capture.of(ring[:20]).arc
    assert np.rad2deg(length) == pytest.approx(190.0)
    assert begins == pytest.approx(Capture.of(ring[:20]).azimuths[0])

"""Camera paths: rigid poses that stand where they should and look where they claim."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import look_at_pose
from jaxnerf.cameras.paths import (
    ellipse_of,
    focus_point,
    level,
    orbit,
    orbit_of,
    spiral,
    spline,
    surround,
    up_of,
)

UPS = [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.3, -0.5, 0.8)]


def _unit(v):
    v = np.asarray(v, np.float64)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _looking_at(target, positions, up=(0.0, 0.0, 1.0)):
    return np.stack([look_at_pose(p, target, up) for p in positions])


def _forward_facing(rng, count=20):
    """Cameras that hang about the origin and look roughly along +x."""
    positions = rng.uniform(-1.0, 1.0, (count, 3)) * [0.1, 0.5, 0.3]
    targets = positions + [4.0, 0.0, 0.0] + rng.uniform(-0.1, 0.1, (count, 3))
    return np.stack([look_at_pose(p, t) for p, t in zip(positions, targets, strict=True)])


def _assert_rigid(poses, count):
    assert poses.shape == (count, 3, 4)
    assert poses.dtype == np.float64
    rotations = poses[:, :, :3].astype(np.float64)
    products = rotations @ np.swapaxes(rotations, 1, 2)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-6)


def _assert_looks_at(poses, target, atol=3e-6):
    towards = _unit(np.asarray(target) - poses[:, :, 3])
    np.testing.assert_allclose(-poses[:, :, 2], towards, atol=atol)


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("elevation", [-40.0, 0.0, 30.0, 85.0])
def test_orbit_keeps_distance_and_elevation_and_looks_at_its_centre(up, elevation):
    centre = np.array([1.0, -2.0, 0.5])
    poses = orbit(centre, 3.0, elevation, 24, up)
    _assert_rigid(poses, 24)
    _assert_looks_at(poses, centre)
    offsets = poses[:, :, 3].astype(np.float64) - centre
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=-1), 3.0, atol=1e-5)
    np.testing.assert_allclose(offsets @ _unit(up), 3 * np.sin(np.deg2rad(elevation)), atol=1e-5)
    assert (poses[:, :, 1] @ _unit(up) > 0).all()


@pytest.mark.parametrize("up", UPS)
def test_orbit_runs_counter_clockwise_from_above_and_closes_evenly(up):
    offsets = orbit((0, 0, 0), 2.0, 20.0, 24, up)[:, :, 3].astype(np.float64)
    flat = offsets - np.outer(offsets @ _unit(up), _unit(up))
    after = np.roll(flat, -1, axis=0)
    turns = np.arctan2(np.cross(flat, after) @ _unit(up), np.sum(flat * after, axis=-1))
    np.testing.assert_allclose(turns, 2 * np.pi / 24, atol=1e-5)


def test_orbit_starts_where_it_is_told():
    poses = orbit(start=(-3.0, 0.0, 7.0), radius=2.0, elevation=0.0, frames=4)
    expected = [[-2, 0, 0], [0, -2, 0], [2, 0, 0], [0, 2, 0]]
    np.testing.assert_allclose(poses[:, :, 3], expected, atol=1e-6)
    with pytest.raises(ValueError, match="start must not be along up"):
        orbit(start=(0.0, 0.0, 2.0))


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("elevation", [-20.0, 0.0, 50.0])
def test_orbit_of_recovers_an_orbit(up, elevation):
    centre = np.array([0.4, 3.0, -1.0])
    captured = orbit(centre, 2.5, elevation, 18, up, start=(1.0, 2.0, 0.1))
    captured = captured[np.random.default_rng(0).permutation(18)]
    poses = orbit_of(captured, 30)
    _assert_rigid(poses, 30)
    _assert_looks_at(poses, centre)
    np.testing.assert_allclose(poses[0], captured[0], atol=2e-5)
    offsets = poses[:, :, 3] - centre
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=-1), 2.5, atol=2e-5)
    np.testing.assert_allclose(offsets @ _unit(up), 2.5 * np.sin(np.deg2rad(elevation)), atol=1e-4)


def test_orbit_of_stays_where_cameras_stood_if_they_did_not_go_around():
    centre = np.array([0.4, 3.0, -1.0])
    captured = orbit(centre, 2.5, 20.0, 36, start=(1.0, 0.0, 0.0))[:10]  # 90 degrees
    poses = orbit_of(captured, 30)
    _assert_rigid(poses, 30)
    _assert_looks_at(poses, centre, atol=0.2)
    offsets, before = poses[:, :, 3] - centre, captured[:, :, 3] - centre
    assert (offsets[:, 0] > before[:, 0].min()).all()
    assert (offsets[:, 1] > before[:, 1].min()).all()
    assert (np.linalg.norm(offsets, axis=-1) > 1.5).all()


def test_orbit_of_is_defined_where_the_first_camera_looks_straight_down_or_all_look_ahead():
    ring = orbit(radius=3.0, elevation=0.0, frames=8)
    # Two that cancel each other's upward axis leave the ring's.
    above = [_looking_at((0, 0, 0), [(0.0, 0.0, 3.0)], up=(0.0, y, 0.0)) for y in (1.0, -1.0)]
    for captured in (np.concatenate([*above, ring]), _forward_facing(np.random.default_rng(1))):
        _assert_rigid(orbit_of(captured, 7), 7)


@pytest.mark.parametrize(("rotations", "zoom"), [(2, 0.5), (3, 1.0), (1, 0.0)])
def test_spiral_stays_near_the_mean_pose_looks_at_the_focus_and_closes(rotations, zoom):
    captured = _forward_facing(np.random.default_rng(2)).astype(np.float64)
    frames = 240
    poses = spiral(captured, 4.0, frames, rotations, zoom)
    _assert_rigid(poses, frames)
    mean = captured[:, :, 3].mean(axis=0)
    back = _unit(captured[:, :, 2].mean(axis=0))
    _assert_looks_at(poses, mean - 4.0 * back)
    right = _unit(np.cross(captured[:, :, 1].mean(axis=0), back))
    axes = np.stack([right, np.cross(back, right), back], axis=-1)
    extent = np.percentile(np.abs((captured[:, :, 3] - mean) @ axes), 90.0, axis=0)
    offsets = (poses[:, :, 3] - mean) @ axes
    reach = np.abs(offsets).max(axis=0)
    np.testing.assert_allclose(reach[:2], extent[:2], rtol=1e-3)
    assert reach[2] <= extent[2] + 1e-5
    steps = np.linalg.norm(np.diff(offsets, axis=0, append=offsets[:1]), axis=-1)
    assert steps.max() < 2 * np.pi * rotations * np.linalg.norm(extent) / frames
    assert steps[-1] < 1.5 * steps.mean()
    angle = np.unwrap(np.arctan2(offsets[:, 1] / extent[1], offsets[:, 0] / extent[0]))
    assert abs(angle[-1] - angle[0]) == pytest.approx(2 * np.pi * rotations * (1 - 1 / frames))
    crossings = np.sum(np.diff(np.sign(np.roll(offsets[:, 2], 5))) != 0) if zoom else 0
    assert crossings == pytest.approx(2 * rotations * zoom, abs=1)


def _keys(rng, count):
    rotations = Rotation.random(count, rng=rng).as_matrix()
    return np.concatenate([rotations, rng.uniform(-2.0, 2.0, (count, 3, 1))], axis=-1)


@pytest.mark.parametrize(
    ("count", "loop"), [(2, False), (3, False), (6, False), (3, True), (6, True)]
)
def test_spline_passes_through_its_keys(count, loop):
    keys = _keys(np.random.default_rng(3), count)
    spans = count if loop else count - 1
    poses = spline(keys, 10 * spans + (not loop), loop)
    _assert_rigid(poses, 10 * spans + (not loop))
    np.testing.assert_allclose(poses[::10], keys, atol=1e-6)


@pytest.mark.parametrize("loop", [False, True])
def test_spline_is_smooth_and_a_loop_is_smooth_where_it_closes(loop):
    keys = _keys(np.random.default_rng(4), 5)
    positions = spline(keys, 2000, loop)[:, :, 3].astype(np.float64)
    if loop:
        positions = np.concatenate([positions, positions[:2]])
    step = np.linalg.norm(np.diff(positions, axis=0), axis=-1)
    bend = np.linalg.norm(np.diff(positions, 2, axis=0), axis=-1)
    assert step.max() < 0.02
    assert bend.max() < 2e-4
    turns = Rotation.from_matrix(spline(keys, 2000, loop)[:, :, :3])
    if loop:
        turns = Rotation.concatenate([turns, turns[:1]])
    assert (turns[1:] * turns[:-1].inv()).magnitude().max() < 0.03


def test_spline_of_two_keys_is_the_even_movement_between_them():
    start = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=-1)
    turn = Rotation.from_rotvec([0.0, 0.0, 1.2])
    end = np.concatenate([turn.as_matrix(), [[3.0], [0.0], [-6.0]]], axis=-1)
    for share, pose in zip(np.linspace(0, 1, 7), spline(np.stack([start, end]), 7), strict=True):
        expected = Rotation.from_rotvec([0.0, 0.0, 1.2 * share]).as_matrix()
        np.testing.assert_allclose(pose[:, :3], expected, atol=1e-6)
        np.testing.assert_allclose(pose[:, 3], [3 * share, 0, -6 * share], atol=1e-6)
    with pytest.raises(ValueError, match="at least two key poses"):
        spline(start[None])


def test_focus_point_of_intersecting_axes_is_where_they_meet():
    rng = np.random.default_rng(5)
    target = np.array([0.7, -1.2, 2.0])
    positions = target + 4.0 * _unit(rng.normal(size=(15, 3)))
    np.testing.assert_allclose(focus_point(_looking_at(target, positions)), target, atol=1e-5)


def test_focus_point_of_skew_axes_is_nearest_to_them():
    rng = np.random.default_rng(6)
    poses = _looking_at((0, 0, 0), 4.0 * _unit(rng.normal(size=(10, 3)))).astype(np.float64)
    poses[:, :, 3] += rng.normal(0.0, 0.1, (10, 3))
    found = focus_point(poses)

    def squared_distance(point):
        return sum(np.sum(np.cross(point - p[:, 3], p[:, 2]) ** 2) for p in poses)

    for step in 1e-3 * np.concatenate([np.eye(3), -np.eye(3)]):
        assert squared_distance(found) < squared_distance(found + step)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_focus_point_of_parallel_axes_is_finite_and_among_the_cameras(count):
    positions = np.random.default_rng(7).uniform(-1.0, 1.0, (count, 3))
    poses = np.stack([look_at_pose(p, p + [0.0, 5.0, 0.0]) for p in positions])
    np.testing.assert_allclose(focus_point(poses), positions.mean(axis=0), atol=1e-4)


def _stretched(up, axes=(3.0, 2.0), height=0.7, count=40) -> tuple[np.ndarray, np.ndarray]:
    """Captured poses on an ellipse around a point, and that point."""
    up, centre = _unit(up), np.array([0.4, 3.0, -1.0])
    first = np.cross(up, np.roll(up, 1) + 0.1)
    first /= np.linalg.norm(first)
    angles = 2 * np.pi * np.arange(count) / count
    flat = axes[0] * np.cos(angles)[:, None] * first
    flat += axes[1] * np.sin(angles)[:, None] * np.cross(up, first)
    return np.stack([look_at_pose(p, centre, up) for p in centre + flat + height * up]), centre


@pytest.mark.parametrize("up", UPS)
def test_ellipse_of_fits_an_ellipse_in_even_steps_and_looks_at_its_middle(up):
    captured, centre = _stretched(up)
    poses = ellipse_of(captured, 60)
    _assert_rigid(poses, 60)
    _assert_looks_at(poses, centre, atol=1e-5)
    offsets = poses[:, :, 3] - centre
    np.testing.assert_allclose(offsets @ _unit(up), 0.7, atol=1e-6)
    across = offsets - 0.7 * _unit(up)
    # The 90th percentile of |cos| at 40 even angles is a little less than 1, on both axes.
    known = captured[:, :, 3] - centre - 0.7 * _unit(up)
    directions = np.linalg.svd(known)[2][:2]
    half = np.percentile(np.abs(known @ directions.T), 90.0, axis=0)
    assert (half > 0.95 * np.array([3.0, 2.0])).all()
    np.testing.assert_allclose(np.sum((across @ directions.T / half) ** 2, axis=-1), 1.0, atol=1e-6)
    steps = np.linalg.norm(np.roll(across, -1, axis=0) - across, axis=-1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.01)


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("shape", ["ring", "half a ring", "fan"])
def test_up_is_found_from_cameras_that_are_held_level(up, shape):
    """However they are pitched: their mean upward axis leans where they do not stand all around."""
    up = _unit(up)
    if shape == "fan":  # all look the same way, from side to side
        forward = np.cross(up, np.roll(up, 1) + 0.1)
        right = np.cross(forward, up)
        eyes = np.linspace(-0.1, 0.1, 9)[:, None] * right
        poses = np.stack([look_at_pose(eye, eye + forward, up) for eye in eyes])
    else:
        turns = 24 if shape == "ring" else 12
        poses = orbit((1, 2, 3), 2.0, 50.0, 24, up)[:turns]
    np.testing.assert_allclose(up_of(poses), up, atol=1e-6)
    if shape == "half a ring":
        assert _unit(poses[:, :, 1].mean(axis=0)) @ up < 0.95


@pytest.mark.parametrize("make", [orbit_of, ellipse_of])
def test_paths_stand_upright_by_the_direction_that_is_said(make):
    # Cameras stood both low and high at every side, so that no side wants another height.
    (low, centre), (high, _) = (_stretched((0, 0, 1), height=height) for height in (-0.3, 1.7))
    captured = np.concatenate([low, high])
    up = _unit(np.array([0.2, 0.1, 1.0]))
    poses = make(captured, 20, up)
    np.testing.assert_allclose(poses[:, :, 0] @ up, 0.0, atol=1e-9)
    heights = (poses[:, :, 3] - centre) @ up
    np.testing.assert_allclose(heights, heights.mean(), atol=1e-6)
    tilted = spiral(_forward_facing(np.random.default_rng(0)), 4.0, 20, up=up)
    np.testing.assert_allclose(tilted[:, :, 0] @ up, 0.0, atol=1e-9)


def test_level_keeps_places_and_headings_and_turns_what_is_tilted_upright():
    up = _unit(np.array([1.0, 2.0, 3.0]))
    captured = orbit((1, 2, 3), 2.0, 35.0, 12, up)
    poses = level(captured, up)
    _assert_rigid(poses, 12)
    np.testing.assert_allclose(poses[:, :, 3], captured[:, :, 3])
    np.testing.assert_allclose(poses[:, :, 1], np.broadcast_to(up, (12, 3)), atol=1e-9)
    np.testing.assert_allclose(poses[:, :, 0], captured[:, :, 0], atol=1e-9)
    # Straight down and straight up, with +y above and below in the picture: both head for +y.
    down = np.array([[1.0, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7]])
    above = np.array([[1.0, 0, 0, 5], [0, -1, 0, 6], [0, 0, -1, 7]])
    for pose in level(np.stack([down, above]), (0, 0, 1)):
        np.testing.assert_allclose(-pose[:, 2], [0, 1, 0], atol=1e-9)


def test_surround_wants_no_gap_of_more_than_a_third():
    ring = orbit((1, 2, 3), 2.0, 20.0, 36)
    assert surround(ring)
    assert surround(ring[:25])
    assert not surround(ring[:20])

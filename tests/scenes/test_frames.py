"""Frames of captures: what is looked at is in the middle, whatever frame the files are in."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import look_at_pose
from jaxnerf.scenes import Similarity
from jaxnerf.scenes.frames import normalising, recentring


def around(target, count=7, seed=0, up=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Cameras at random places above a point, which look at it."""
    random = np.random.default_rng(seed)
    offsets = random.normal(size=(count, 3)) + [0.0, 0.0, 1.0]
    return np.stack([look_at_pose(target + offset, target, up) for offset in offsets]).astype(float)


def random_similarity(random) -> Similarity:
    return Similarity(
        float(10.0 ** random.uniform(-2.0, 2.0)),
        Rotation.random(rng=random).as_matrix(),
        random.normal(size=3) * 10.0,
    )


def test_the_point_looked_at_goes_to_the_origin_and_the_farthest_camera_to_distance_1():
    target = np.array([3.0, -2.0, 5.0])
    poses = around(target)
    to_scene = normalising(poses)
    np.testing.assert_allclose(to_scene.points(target), 0.0, atol=1e-5)
    distances = np.linalg.norm(to_scene.poses(poses)[:, :, 3], axis=-1)
    assert distances.max() == pytest.approx(1.0, abs=1e-12)
    expected = np.linalg.norm(poses[:, :, 3] - target, axis=-1)
    np.testing.assert_allclose(distances, expected / expected.max(), rtol=1e-5)


def test_the_point_is_the_nearest_to_all_axes():
    """Against a search for it."""
    random = np.random.default_rng(5)
    poses = around(np.zeros(3))
    poses[:, :, 3] += random.normal(size=(7, 3)) * 0.05

    def misses(point):
        offset = point - poses[:, :, 3]
        return np.sum(np.cross(offset, poses[:, :, 2]) ** 2)

    best = minimize(misses, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(normalising(poses).points(best), 0.0, atol=1e-5)


def test_the_mean_up_is_z_and_the_first_camera_has_its_right_along_x():
    poses = normalising(around(np.ones(3), up=(0.3, -1.0, 0.2))).poses(around(np.ones(3)))
    tilted = around(np.ones(3), up=(0.3, -1.0, 0.2))
    poses = normalising(tilted).poses(tilted)
    up = poses[:, :, 1].mean(axis=0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0.0, 0.0, 1.0], atol=1e-12)
    assert abs(poses[0, 1, 0]) < 1e-12
    assert poses[0, 0, 0] > 0.0


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["around", "parallel", "outwards", "one"]))
def test_copies_that_differ_by_a_similarity_become_the_same_scene(seed, kind):
    random = np.random.default_rng(seed)
    poses = around(random.normal(size=3), seed=seed)
    if kind == "parallel":
        poses[:, :, :3] = poses[0, :, :3]
    elif kind == "outwards":
        poses[:, :, [0, 2]] *= -1.0
    elif kind == "one":
        poses = poses[:1]
    similarity = random_similarity(random)
    if kind == "one":  # which says nothing of the scene's size
        similarity = Similarity(1.0, similarity.rotation, similarity.translation)
    copy = similarity.poses(poses)
    one, other = normalising(poses), normalising(copy)
    np.testing.assert_allclose(other.poses(copy), one.poses(poses), atol=1e-8)
    np.testing.assert_allclose(np.linalg.det(one.rotation), 1.0, atol=1e-12)
    back = similarity.points(one.inverse().points(np.eye(3)))
    np.testing.assert_allclose(other.inverse().points(np.eye(3)), back, atol=1e-6)


def test_parallel_and_outward_cameras_stand_around_the_origin():
    poses = around(np.zeros(3))
    for kind in ("parallel", "outwards"):
        odd = poses.copy()
        if kind == "parallel":
            odd[:, :, :3] = odd[0, :, :3]
        else:
            odd[:, :, [0, 2]] *= -1.0
        positions = normalising(odd).poses(odd)[:, :, 3]
        np.testing.assert_allclose(positions.mean(axis=0), 0.0, atol=1e-9)
        assert np.linalg.norm(positions, axis=-1).max() == pytest.approx(1.0)


@pytest.mark.parametrize("place", [0.0, 1.0, 1e9])
def test_cameras_at_one_place_are_not_scaled(place):
    poses = around(np.zeros(3))
    poses[:, :, 3] = place
    to_scene = normalising(poses)
    assert to_scene.scale == 1.0
    np.testing.assert_allclose(to_scene.poses(poses)[:, :, 3], 0.0, atol=1e-5)


def test_upward_axes_that_cancel_out_leave_the_first_cameras():
    poses = around(np.zeros(3))[:1].repeat(2, axis=0)
    poses[1, :, :2] *= -1.0
    moved = normalising(poses).poses(poses)
    np.testing.assert_allclose(moved[0, :, 1], [0.0, 0.0, 1.0], atol=1e-9)


def test_a_first_camera_on_its_side_is_no_trouble():
    """Its right is the mean of what is up."""
    poses = around(np.zeros(3))
    poses[0, :, [0, 1, 2]] = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    to_scene = normalising(poses)
    np.testing.assert_allclose(to_scene.rotation @ to_scene.rotation.T, np.eye(3), atol=1e-12)


def forward_facing(random, count=6) -> np.ndarray:
    """Cameras in a plane that look within 10 degrees along a direction."""
    turns = Rotation.from_rotvec(random.uniform(-0.1, 0.1, (count, 3))).as_matrix()
    places = random.uniform(-1.0, 1.0, (count, 3)) * [1.0, 1.0, 0.1]
    return np.concatenate([turns, places[..., None]], axis=-1)


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_average_camera_becomes_the_origin_looking_along_minus_z(seed):
    random = np.random.default_rng(seed)
    poses = random_similarity(random).poses(forward_facing(random))
    to_scene = recentring(poses, 0.25)
    moved = to_scene.poses(poses)
    tolerance = 1e-9 * np.abs(poses).max()
    np.testing.assert_allclose(moved[:, :, 3].mean(axis=0), 0.0, atol=tolerance)
    back = moved[:, :, 2].mean(axis=0)
    np.testing.assert_allclose(back / np.linalg.norm(back), [0.0, 0.0, 1.0], atol=1e-9)
    up = moved[:, :, 1].mean(axis=0)
    assert abs(up[0]) < 1e-9
    assert up[1] > 0.9
    apart = np.linalg.norm(moved[0, :, 3] - moved[1, :, 3])
    assert math.isclose(apart, 0.25 * np.linalg.norm(poses[0, :, 3] - poses[1, :, 3]), rel_tol=1e-6)


def test_forward_facing_cameras_of_which_half_stand_on_their_heads():
    poses = forward_facing(np.random.default_rng(0), 1).repeat(2, axis=0)
    poses[1, :, :2] *= -1.0
    moved = recentring(poses).poses(poses)
    np.testing.assert_allclose(moved[0, :, :3], np.eye(3), atol=1e-9)

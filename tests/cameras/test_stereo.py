"""Cameras for headsets: against Google's formulas, projective geometry, and a field of closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxnerf import Camera, Stratified, cast_rays, project, render_image
from jaxnerf.cameras import pixel_centres
from jaxnerf.cameras.stereo import eyes, omnidirectional_eye, panorama

WIDTH, HEIGHT = 24, 12


def pose_of(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix()
    return np.concatenate([rotation, random.normal(size=(3, 1))], axis=-1)


def rays_of_columns(cameras: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions [height, width, 3] of a picture of which each camera sees a column."""
    rays = cast_rays(cameras, pixel_centres(WIDTH, HEIGHT))
    return np.asarray(rays.origins, np.float64), np.asarray(rays.directions, np.float64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [-0.3, 0.3])
def test_rays_of_an_eye_are_those_of_googles_formulas(seed, offset):
    """Their pseudocode, with its axes: x to the right, y up, z backwards."""
    pose = pose_of(seed)
    origins, directions = rays_of_columns(
        omnidirectional_eye(panorama(pose, WIDTH, HEIGHT), offset)
    )
    x, y = (pixel_centres(WIDTH, HEIGHT).astype(np.float64) / [WIDTH, HEIGHT]).transpose(2, 0, 1)
    theta, phi = 2.0 * np.pi * x - np.pi, 0.5 * np.pi - np.pi * y
    there = offset * np.stack([np.cos(theta), 0.0 * theta, np.sin(theta)], axis=-1)
    ahead = np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(phi), -np.cos(theta) * np.cos(phi)], axis=-1
    )
    np.testing.assert_allclose(origins, there @ pose[:, :3].T + pose[:, 3], atol=2e-6)
    np.testing.assert_allclose(directions, ahead @ pose[:, :3].T, atol=2e-6)
    from_middle = origins - pose[:, 3]
    np.testing.assert_allclose(np.linalg.norm(from_middle, axis=-1), abs(offset), atol=2e-6)
    np.testing.assert_allclose(np.sum(from_middle * directions, axis=-1), 0.0, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_disparity_is_focal_length_times_distance_over_depth(seed):
    random = np.random.default_rng(seed)
    pose, distance, focal = pose_of(seed), 0.2, 70.0
    left, right = eyes(Camera.pinhole(pose, focal, 64, 48), distance)
    inside = np.stack(
        [random.uniform(-1, 1, 50), random.uniform(-1, 1, 50), -random.uniform(2, 9, 50)]
    )
    points = inside.T @ pose[:, :3].T + pose[:, 3]
    (seen_left, depth), (seen_right, _) = (project(camera, points) for camera in (left, right))
    disparity = np.asarray(seen_left - seen_right)
    np.testing.assert_allclose(depth, -inside[2], rtol=1e-5)
    np.testing.assert_allclose(disparity[:, 0], focal * distance / -inside[2], atol=1e-3)
    np.testing.assert_allclose(disparity[:, 1], 0.0, atol=1e-3)


def test_a_batch_of_cameras_has_a_batch_of_eyes():
    poses = np.stack([pose_of(seed) for seed in range(4)])
    cameras = Camera.pinhole(poses, 30.0, 8, 8)
    for which, side in zip(eyes(cameras, 0.5), (-0.25, 0.25), strict=True):
        expected = poses[:, :, 3] + side * poses[:, :, 0]
        np.testing.assert_allclose(which.camera_to_world[:, :, 3], expected)
        np.testing.assert_array_equal(which.camera_to_world[:, :, :3], poses[:, :, :3])


@pytest.mark.parametrize("degrees", [360.0, 180.0])
def test_a_panorama_has_ahead_in_the_middle_and_the_zenith_above(degrees):
    camera = panorama(np.eye(4)[:3], 360, 180, degrees)
    places = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, -1e-6], [-1.0, 0.0, -1e-6], [0.0, 1.0, -1.0]])
    pixels, _ = project(camera, places)
    quarter = 360 * 90.0 / degrees
    expected = [[180, 90], [180 + quarter, 90], [180 - quarter, 90], [180, 45]]
    np.testing.assert_allclose(pixels, expected, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class Outside:
    """All that is beyond a distance from the origin, coloured by place."""

    radius: float = 1.0

    def init(self, key):
        return {}

    def density(self, params, positions):
        is_solid = jnp.linalg.norm(positions, axis=-1) > self.radius
        return jnp.where(is_solid, 1e4, 0.0), positions

    def colour(self, params, features, view_directions):
        return 0.5 + 0.4 * features


def test_a_picture_whose_columns_have_cameras_shows_what_each_of_them_sees():
    """From a circle of radius r, along its tangents, a sphere of radius R is sqrt(R^2 - r^2) away."""
    offset, steps = 0.4, 1024
    pose = np.concatenate([pose_of(5)[:, :3], np.zeros((3, 1))], axis=-1)
    cameras = omnidirectional_eye(panorama(pose, WIDTH, HEIGHT), offset)
    seen = render_image(
        Outside(), {}, cameras, Stratified(steps), near=0.5, far=1.5, edge_supersampling=0.3
    )
    far = np.sqrt(1.0 - offset**2)
    np.testing.assert_allclose(seen.depth_median, far, atol=2.0 / steps)
    origins, directions = rays_of_columns(cameras)
    np.testing.assert_allclose(seen.colour, 0.5 + 0.4 * (origins + far * directions), atol=2e-3)


def test_as_many_cameras_as_columns_are_wanted():
    cameras = omnidirectional_eye(panorama(np.eye(4)[:3], 8, 4), 0.1)
    few = jax.tree.map(lambda leaf: leaf[:5], cameras)
    with pytest.raises(ValueError, match="5 cameras for 8 columns"):
        render_image(Outside(), {}, few, Stratified(8), far=2.0)
    with pytest.raises(ValueError, match="equirectangular"):
        omnidirectional_eye(Camera.pinhole(np.eye(4)[:3], 5.0, 8, 4), 0.1)

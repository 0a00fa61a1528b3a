"""Cameras and rays as programs make them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import Camera, Rays, cast_rays


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_a_batch_of_cameras_is_gone_through_and_a_single_one_is_not(array):
    poses = [Camera.look_at((x, -4.0, 0.0), width=8, height=6) for x in (0.0, 1.0)]
    batch = jax.tree.map(lambda *leaves: array(np.stack(leaves)), *poses)
    each = list(batch)
    assert len(each) == 2
    for found, expected in zip(each, poses, strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(array, expected))
    with pytest.raises(TypeError, match="single Camera cannot be indexed"):
        each[0][0]


def test_a_pinhole_has_two_focal_lengths_and_a_centre_and_can_be_differentiated():
    pose = np.eye(4)
    camera = Camera.pinhole(pose, (10.0, 20.0), 8, 6, centre=(3.0, 1.0))
    assert camera.camera_to_world.dtype == np.float64
    pixel = jnp.array([5.0, 2.0])
    np.testing.assert_allclose(cast_rays(camera, pixel).directions, [0.2, -0.05, -1.0], rtol=1e-6)

    def x_and_y(focal, centre):
        return cast_rays(Camera.pinhole(pose, focal, 8, 6, centre), pixel).directions[:2]

    of_focal, of_centre = jax.jacrev(x_and_y, argnums=(0, 1))(
        jnp.float32(10.0), jnp.array([3.0, 1])
    )
    np.testing.assert_allclose(of_focal, [-0.02, 0.01], rtol=1e-5)
    np.testing.assert_allclose(of_centre, [[-0.1, 0.0], [0.0, 0.1]], atol=1e-7)
    square = Camera.pinhole(np.stack([pose, pose]), 9.0, 8, 6)
    assert square.focal.tolist() == [[9.0, 9.0]] * 2
    assert square.centre.tolist() == [[4.0, 3.0]] * 2


def test_rays_of_origins_and_directions_have_unit_view_directions():
    directions = jnp.array([[0.0, 3.0, 4.0], [2.0, 0.0, 0.0]])
    rays = Rays.of(jnp.ones(3), directions, near=jnp.array([0.5, 1.0]), far=7.0)
    np.testing.assert_allclose(rays.view_directions, [[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(rays.origins, np.ones((2, 3)))
    np.testing.assert_array_equal(rays.directions, directions)
    assert (rays.near.tolist(), rays.far.tolist()) == ([0.5, 1.0], [7.0, 7.0])


def test_whole_numbers_in_directions_cut_nothing_off():
    rays = Rays.of(np.array([0.5, 0.5, -4.0]), np.array([0, 0, 1]), 0.5)
    assert rays.origins.tolist() == [0.5, 0.5, -4.0]
    assert (float(rays.near), float(rays.far)) == (0.5, float("inf"))

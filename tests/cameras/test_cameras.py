"""Rays, projection and NDC against scalar formulas, inverses and finite differences."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation

from jaxnerf import cameras
from jaxnerf.cameras import Camera, Rays, cast_rays, project, to_ndc, within_box

LENSES = ("pinhole", "opencv", "fisheye")

# With these the lenses are one-to-one: the radial derivative stays positive, for opencv to radius 1
# on the plane, for a fisheye to 2 radians.
_LIMITS = {
    "pinhole": (0.0,) * 6,
    "opencv": (0.15, 0.05, 0.01, 0.01, 0.01, 0.01),
    "fisheye": (0.03, 0.003, 3e-4, 3e-5, 0.0, 0.0),
}

_cast = jax.jit(cast_rays)
_project = jax.jit(project)

several = settings(
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)


def _random_camera(rng, lens, dtype=np.float32, batch=()) -> Camera:
    rotation = Rotation.random(math.prod(batch), rng=rng).as_matrix().reshape(*batch, 3, 3)
    position = rng.uniform(-5.0, 5.0, (*batch, 3))
    size = np.broadcast_to(np.array([640, 480], np.int32), (*batch, 2))
    return Camera(
        camera_to_world=np.concatenate([rotation, position[..., None]], -1).astype(dtype),
        focal=rng.uniform(200.0, 1500.0, (*batch, 2)).astype(dtype),
        centre=(rng.uniform(0.3, 0.7, (*batch, 2)) * size).astype(dtype),
        distortion=(rng.uniform(-1.0, 1.0, (*batch, 6)) * _LIMITS[lens]).astype(dtype),
        size=size,
        lens=lens,
    )


def _opencv_formula(k, x, y):
    """calib3d's documentation, for numbers: k1 k2 p1 p2 k3, and k4 as r^8."""
    k1, k2, k3, k4, p1, p2 = (float(c) for c in k)
    r = math.hypot(x, y)
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6 + k4 * r**8
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


def _picture_of(camera, point):
    """The pixel of one point, in plain Python, from the documentation's formulas."""
    pose = np.asarray(camera.camera_to_world, np.float64)
    right, up, back, position = pose.T
    offset = np.asarray(point, np.float64) - position
    x, y, z = float(offset @ right), float(-(offset @ up)), float(-(offset @ back))
    if camera.lens == "fisheye":
        k1, k2, k3, k4 = (float(k) for k in camera.distortion[:4])
        r = math.hypot(x, y)
        theta = math.atan2(r, z)
        bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
        u, v = bent * x / r, bent * y / r
    else:
        u, v = _opencv_formula(camera.distortion, x / z, y / z)
    focal, centre = np.asarray(camera.focal, np.float64), np.asarray(camera.centre, np.float64)
    return focal * [u, v] + centre


def _points_in_view(rng, camera, count, angle=0.65):
    """World points within `angle` radians of the axis, at distances from 0.5 to 20."""
    turn, tilt = rng.uniform(0, 2 * np.pi, count), angle * np.sqrt(rng.uniform(0, 1, count))
    local = np.stack(
        [np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), -np.cos(tilt)], axis=-1
    ) * rng.uniform(0.5, 20.0, (count, 1))
    pose = np.asarray(camera.camera_to_world, np.float64)
    return local @ pose[:, :3].T + pose[:, 3]


def _nearest(rays: Rays, points):
    """Distance from each point to its ray, which must run towards it."""
    offset = np.asarray(points, np.float64) - np.asarray(rays.origins, np.float64)
    along = np.sum(offset * np.asarray(rays.view_directions, np.float64), axis=-1, keepdims=True)
    assert (along > 0).all()
    return np.linalg.norm(offset - along * np.asarray(rays.view_directions), axis=-1)


def test_pixel_centres_lie_at_half_row_by_row():
    grid = cameras.pixel_centres(3, 2)
    assert grid.tolist() == [
        [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]],
        [[0.5, 1.5], [1.5, 1.5], [2.5, 1.5]],
    ]


@pytest.mark.parametrize("lens", LENSES)
def test_project_follows_the_scalar_formulas(float64, lens):
    rng = np.random.default_rng(1)
    camera = _random_camera(rng, lens, np.float64)
    points = _points_in_view(rng, camera, 20, 2.0 if lens == "fisheye" else 0.65)
    pixels, depth = _project(camera, jnp.asarray(points))
    expected = [_picture_of(camera, point) for point in points]
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-9)
    pose = np.asarray(camera.camera_to_world)
    np.testing.assert_allclose(depth, -(points - pose[:, 3]) @ pose[:, 2], atol=1e-12)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@several
@given(seed=seeds)
def test_casting_and_projecting_are_inverse(float64, lens, dtype, seed):
    rng = np.random.default_rng(seed)
    camera = _random_camera(rng, lens, dtype)
    points = _points_in_view(rng, camera, 6, 2.0 if lens == "fisheye" else 0.65)
    position = np.asarray(camera.camera_to_world, np.float64)[:, 3]
    distance = np.linalg.norm(points - position, axis=-1)
    # The rounding of a world coordinate, as an angle and in pixels: what float32 cannot do better.
    angle = np.finfo(dtype).eps * (1.0 + np.abs(points).max(-1) / distance)

    pixels, _ = _project(camera, jnp.asarray(points, dtype))
    rays = _cast(camera, pixels)
    assert (_nearest(rays, points) < 30 * angle * distance).all()

    t = jnp.asarray(distance, dtype) / jnp.linalg.norm(rays.directions, axis=-1)
    again, _ = _project(camera, rays.at(t[:, None])[:, 0])
    assert (np.abs(again - pixels).max(-1) < 60 * angle * float(camera.focal.max())).all()


def test_pinhole_rays_match_a_slow_loop():
    rng = np.random.default_rng(3)
    camera = _random_camera(rng, "pinhole")
    pixels = cameras.pixel_centres(4, 3)
    rays = jax.tree.map(np.asarray, _cast(camera, jnp.asarray(pixels), near=0.5, far=9.0))
    pose = np.asarray(camera.camera_to_world, np.float64)
    for row, column in np.ndindex(3, 4):
        x = (column + 0.5 - float(camera.centre[0])) / float(camera.focal[0])
        y = (row + 0.5 - float(camera.centre[1])) / float(camera.focal[1])
        expected = pose[:, 0] * x - pose[:, 1] * y - pose[:, 2]
        np.testing.assert_allclose(rays.directions[row, column], expected, atol=2e-6)
        np.testing.assert_allclose(
            rays.view_directions[row, column], expected / np.linalg.norm(expected), atol=2e-6
        )
        np.testing.assert_array_equal(rays.origins[row, column], camera.camera_to_world[:, 3])
    assert rays.near.shape == rays.far.shape == (3, 4)
    assert (rays.near == 0.5).all()
    assert (rays.far == 9.0).all()


def test_near_and_far_may_differ_between_rays_and_points_lie_along_them():
    camera = Camera.look_at((0.0, -4.0, 0.0), width=4, height=2)
    near = jnp.array([1.0, 2.0])
    rays = _cast(camera, jnp.array([[2.0, 1.0], [1.0, 0.5]]), near=near)
    np.testing.assert_array_equal(rays.near, near)
    assert jnp.isinf(rays.far).all()
    t = np.array([[0.0, 1.0, 3.0], [1.0, 2.0, 4.0]], np.float32)
    points, rays = jax.tree.map(np.asarray, (rays.at(jnp.asarray(t)), rays))
    for ray, sample in np.ndindex(2, 3):
        expected = rays.origins[ray] + float(t[ray, sample]) * rays.directions[ray]
        np.testing.assert_allclose(points[ray, sample], expected, rtol=1e-6)


@pytest.mark.parametrize("lens", LENSES)
def test_t_is_depth_for_flat_lenses_and_length_for_a_fisheye(lens):
    rng = np.random.default_rng(4)
    camera = _random_camera(rng, lens)
    rays = _cast(camera, jnp.asarray(rng.uniform(0.3, 0.7, (9, 2)) * [640, 480], jnp.float32))
    back = np.asarray(camera.camera_to_world)[:, 2]
    measure = (
        np.linalg.norm(rays.directions, axis=-1) if lens == "fisheye" else -rays.directions @ back
    )
    np.testing.assert_allclose(measure, 1.0, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(rays.view_directions, axis=-1), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("eye", "right", "up"),
    [
        ((0.0, -4.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
        ((5.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        ((0.0, 3.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
        ((0.0, 0.0, 2.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    ],
)
def test_look_at_puts_the_target_in_the_middle_and_what_is_up_above_it(eye, right, up):
    target = np.array([0.25, -0.5, 0.75], np.float32)
    camera = Camera.look_at(tuple(target + eye), tuple(target), width=200, height=100, up=up)
    points = np.stack([target, target + 0.1 * np.array(right), target + 0.1 * np.array(up)])
    pixels, depth = project(camera, jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(pixels[0], [100.0, 50.0], atol=1e-3)
    np.testing.assert_allclose(depth, np.linalg.norm(eye), rtol=1e-6)
    step = 0.1 * float(camera.focal[0]) / np.linalg.norm(eye)
    np.testing.assert_allclose(pixels[1], [100.0 + step, 50.0], atol=1e-3)
    np.testing.assert_allclose(pixels[2], [100.0, 50.0 - step], atol=1e-3)


def test_field_of_view_is_horizontal():
    camera = Camera.look_at((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), width=30, height=10, field_of_view=90)
    edge, _ = project(camera, jnp.array([[-1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(edge, [[0.0, 5.0], [30.0, 5.0]], atol=1e-4)


@pytest.mark.parametrize(
    ("eye", "target", "up"),
    [((1, 2, 3), (1, 2, 3), (0, 0, 1)), ((0, 0, 3), (0, 0, 0), (0, 0, 2)), ((1, 0, 0),) * 3],
)
def test_look_at_refuses_what_has_no_upright(eye, target, up):
    with pytest.raises(ValueError, match="look_at: no direction is upright"):
        cameras.look_at_pose(eye, target, up)


def test_a_pose_of_whole_numbers_leaves_the_focal_length_as_it_is():
    pose = np.eye(4, dtype=np.int32)[:3]
    for whole in (pose, jnp.asarray(pose)):
        camera = Camera.pinhole(whole, 10.5, 8, 6)
        np.testing.assert_array_equal(camera.focal, [10.5, 10.5])
        assert jnp.issubdtype(camera.camera_to_world.dtype, jnp.floating)


def test_unknown_lens_is_refused():
    camera = dataclasses.replace(Camera.pinhole(np.eye(4), 1.0, 2, 2), lens="orthographic")
    with pytest.raises(ValueError, match="orthographic"):
        cast_rays(camera, jnp.zeros((2,)))


@pytest.mark.parametrize("degrees", [30.0, 90.0, 120.0, 170.0])
def test_a_fisheye_sees_behind_itself_at_radius_focal_times_angle(degrees):
    angle = np.deg2rad(degrees)
    camera = dataclasses.replace(Camera.pinhole(np.eye(4), 100.0, 640, 480), lens="fisheye")
    direction = np.array([0.6 * np.sin(angle), 0.8 * np.sin(angle), -np.cos(angle)], np.float32)
    pixel, depth = _project(camera, jnp.asarray(3.0 * direction))
    np.testing.assert_allclose(pixel, [320 + 60 * angle, 240 - 80 * angle], rtol=1e-5)
    np.testing.assert_allclose(depth, 3.0 * np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(_cast(camera, pixel).view_directions, direction, atol=2e-6)


@pytest.mark.parametrize("lens", LENSES)
def test_the_middle_of_the_picture_has_the_derivatives_of_a_pinhole(float64, lens):
    # A pose without rounding, so that the point is on the axis and not near it.
    pose = np.array([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 3.0]])
    camera = dataclasses.replace(
        _random_camera(np.random.default_rng(7), lens, np.float64),
        camera_to_world=pose,
        distortion=np.zeros(6),
    )
    fx, fy = camera.focal
    point = jnp.asarray(pose[:, 3] - 4.0 * pose[:, 2])
    slope = jax.jit(jax.jacobian(lambda p: project(camera, p)[0]))(point)
    np.testing.assert_allclose(slope, [fx * pose[:, 0] / 4, -fy * pose[:, 1] / 4], atol=1e-12)
    slope = jax.jit(jax.jacobian(lambda p: cast_rays(camera, p).directions))(camera.centre)
    np.testing.assert_allclose(np.transpose(slope), [pose[:, 0] / fx, -pose[:, 1] / fy], atol=1e-12)


@pytest.mark.parametrize("lens", ["opencv", "fisheye"])
def test_gradients_reach_pose_intrinsics_and_pixels(float64, lens):
    rng = np.random.default_rng(9)
    camera = _random_camera(rng, lens, np.float64)
    points = jnp.asarray(_points_in_view(rng, camera, 3))
    pixels, _ = project(camera, points)

    @jax.jit
    def both_ways(pose, focal, centre, distortion, pixels, points):
        moved = dataclasses.replace(
            camera, camera_to_world=pose, focal=100 * focal, centre=centre, distortion=distortion
        )
        rays = cast_rays(moved, pixels)
        return rays.origins, rays.directions, rays.view_directions, project(moved, points)

    leaves = (camera.camera_to_world, camera.focal / 100, camera.centre, camera.distortion)
    at = (*leaves, pixels, points)
    check_grads(both_ways, at, 1, modes=("rev",), atol=1e-4, rtol=1e-6, eps=1e-5)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_resized_keeps_rays_and_through_corners_shifts_them_by_half_a_pixel(batch):
    rng = np.random.default_rng(10)
    camera = _random_camera(rng, "opencv", batch=batch)
    smaller = camera.resized(160, 240)
    assert smaller.size.tolist() == np.broadcast_to([160, 240], (*batch, 2)).tolist()
    pixels = jnp.asarray(rng.uniform(0, 1, (5, 2)) * [640, 480], jnp.float32)
    scaled = jnp.asarray(np.asarray(pixels) * np.float32([0.25, 0.5]))
    corners = _cast(camera.through_corners(), pixels)
    np.testing.assert_allclose(
        corners.directions, _cast(camera, pixels - 0.5).directions, atol=1e-6
    )
    for resized in (smaller, jax.jit(lambda c: c.resized(160, 240))(camera)):
        np.testing.assert_allclose(
            _cast(resized, scaled).directions, _cast(camera, pixels).directions, atol=1e-5
        )


@pytest.mark.parametrize("lens", ["opencv", "fisheye"])
def test_a_camera_a_pixel_equals_single_cameras(lens):
    rng = np.random.default_rng(11)
    batch = _random_camera(rng, lens, batch=(4,))
    assert len(batch) == 4
    pixels = jnp.asarray(rng.uniform(0.2, 0.8, (4, 2)) * [640, 480], jnp.float32)
    grid = jnp.asarray(rng.uniform(0.2, 0.8, (2, 3, 2)) * [640, 480], jnp.float32)
    corner = grid[1, 2]
    together = _cast(batch, pixels)
    mapped = jax.jit(jax.vmap(cast_rays))(batch, pixels)
    points = together.at(jnp.full((4, 1), 3.0))[:, 0]
    found, depth = _project(batch, points)
    for i in range(4):
        alone = _cast(batch[i], pixels[i])
        for one, many, vmapped in zip(
            *map(jax.tree.leaves, (alone, together, mapped)), strict=True
        ):
            np.testing.assert_allclose(many[i], one, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(vmapped[i], one, rtol=1e-5, atol=1e-6)
        pixel, alone_depth = _project(batch[i], points[i])
        np.testing.assert_allclose(found[i], pixel, atol=1e-3)
        np.testing.assert_allclose(depth[i], alone_depth, atol=1e-5)
        shaped = _cast(batch[i], grid).directions
        assert shaped.shape == (2, 3, 3)
        np.testing.assert_allclose(shaped[1, 2], _cast(batch[i], corner).directions, atol=1e-6)
    with pytest.raises(TypeError, match="no length"):
        len(batch[0])


@pytest.mark.parametrize("near", [1.0, 0.3])
def test_ndc_is_the_papers_projective_map(float64, near):
    rng = np.random.default_rng(12)
    width, height, focal = 400, 300, 350.0
    origins = rng.uniform(-0.5, 0.5, (50, 3))
    directions = np.concatenate([rng.uniform(-0.5, 0.5, (50, 2)), -np.ones((50, 1))], axis=-1)
    directions *= rng.uniform(0.5, 2.0, (50, 1))
    rays = Rays(*map(jnp.asarray, (origins, directions, directions, np.ones(50), np.ones(50))))

    def convert(rays):
        return to_ndc(rays, jnp.array([focal, focal]), jnp.array([width, height]), near)

    ndc = jax.tree.map(np.asarray, jax.jit(convert)(rays))
    assert (ndc.near == 0).all()
    assert (ndc.far == 1).all()
    np.testing.assert_array_equal(ndc.view_directions, directions)
    # Appendix C's matrix with its far plane at infinity; the frustum's edges are the picture's.
    matrix = np.array(
        [
            [focal / (width / 2), 0, 0, 0],
            [0, focal / (height / 2), 0, 0],
            [0, 0, -1, -2 * near],
            [0, 0, -1, 0],
        ]
    )
    for t in (0.0, 0.7, 5.0, 1e3):
        for i in range(50):
            o, d = origins[i], directions[i]
            start = o + d * (-near - o[2]) / d[2]
            clip = matrix @ [*(start + t * d), 1.0]
            t_ndc = 1.0 - start[2] / (start[2] + t * d[2])
            np.testing.assert_allclose(
                ndc.origins[i] + t_ndc * ndc.directions[i], clip[:3] / clip[3], atol=1e-12
            )
    infinity = (matrix @ np.concatenate([directions, np.zeros((50, 1))], -1).T).T
    np.testing.assert_allclose(
        ndc.origins + ndc.directions, infinity[:, :3] / infinity[:, 3:], atol=1e-12
    )
    np.testing.assert_allclose(ndc.origins[:, 2], -1.0, atol=1e-12)
    for a, b in zip(*map(jax.tree.leaves, (jax.jit(jax.vmap(convert))(rays), ndc)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_way_through_a_box_is_that_of_a_walk(float64, seed):
    random = np.random.default_rng(seed)
    low, high = np.array([-1.0, -0.5, 0.2]), np.array([0.3, 0.9, 1.0])
    origins = random.normal(size=(200, 3)) * 1.5
    directions = random.uniform(low, high, (200, 3)) + 0.7 * random.normal(size=(200, 3)) - origins
    directions[:20] *= [0.0, 1.0, 1.0]  # along walls
    view = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    near, far = random.uniform(0.0, 0.5, 200), random.uniform(0.6, 2.0, 200)
    rays = Rays(*(jnp.asarray(x) for x in (origins, directions, view, near, far)))
    found = within_box(rays, low, high)
    t = np.linspace(0.0, 1.0, 4001)[:, None] * (far - near) + near
    points = origins + t[..., None] * directions
    inside = ((points >= low) & (points <= high)).all(axis=-1)
    hit = inside.any(axis=0)
    assert 40 < hit.sum() < 180
    step = (far - near) / 4000
    first, last = (np.where(inside, t, fill) for fill in (np.inf, -np.inf))
    np.testing.assert_array_less(np.abs(found.near - first.min(axis=0))[hit], 1.01 * step[hit])
    np.testing.assert_array_less(np.abs(found.far - last.max(axis=0))[hit], 1.01 * step[hit])
    short = (np.asarray(found.far - found.near) < step)[~hit]
    assert short.all()

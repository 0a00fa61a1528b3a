"""Lenses against COLMAP's camera models, OpenCV's and nerfstudio's formulas, and finite differences."""

import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from lens_factory import RANGES, ahead, coefficients_of, disk

from jaxnerf.cameras import Camera, cast_rays, project
from jaxnerf.cameras.lenses import (
    FLAT,
    Lens,
    from_plane,
    greatest_angle,
    to_plane,
)
from jaxnerf.scenes.colmap_cameras import MODELS, Intrinsics, intrinsics, model_of

LENSES = get_args(Lens)
ROUND = [lens for lens in LENSES if lens not in FLAT]
_to_plane = jax.jit(to_plane, static_argnums=0)
_from_plane = jax.jit(from_plane, static_argnums=0)
_cast, _project = jax.jit(cast_rays), jax.jit(project)


def random_parameters(rng, model, width, height):
    special = {
        "f": (300.0, 900.0),
        "cx": (0.4 * width, 0.6 * width),
        "cy": (0.4 * height, 0.6 * height),
        "w": (width, width),
        "h": (height, height),
    }
    special |= {"fx": special["f"], "fy": special["f"]} | RANGES
    return np.array([rng.uniform(*special[name]) for name in MODELS[model].parameters])


@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_colmap_is_cast_and_projected_as_colmap_does(float64, model):
    pycolmap = pytest.importorskip("pycolmap")
    rng = np.random.default_rng(sum(map(ord, model)))
    axes = np.diag([1.0, -1.0, -1.0])  # its camera has y down and z forward
    for _ in range(8):
        parameters = random_parameters(rng, model, 640, 320)
        theirs = pycolmap.Camera(model=model, params=parameters, width=640, height=320)
        assert int(theirs.model) == MODELS[model].number
        found = intrinsics(model, parameters)
        ours = Camera(
            camera_to_world=np.concatenate([axes, np.zeros((3, 1))], axis=1),
            focal=found.focal,
            centre=found.centre,
            distortion=found.distortion,
            size=np.array([640, 320], np.int32),
            lens=found.lens,
        )
        points = ahead(rng, 30, 0.75) * rng.uniform(0.5, 20.0, (30, 1))
        pixels = theirs.img_from_cam(points)
        np.testing.assert_allclose(_project(ours, jnp.asarray(points))[0], pixels, atol=1e-9)
        rays = np.stack([theirs.cam_ray_from_img(pixel) for pixel in pixels])
        # Its own iterations stop at 1e-10.
        cast = _cast(ours, jnp.asarray(pixels))
        np.testing.assert_allclose(cast.view_directions, rays, rtol=0, atol=1e-9)
        expected = points / np.linalg.norm(points, axis=-1, keepdims=True)
        np.testing.assert_allclose(cast.view_directions, expected, rtol=0, atol=1e-12)
        assert model_of(found, (640, 320))[0] == model
        np.testing.assert_allclose(model_of(found, (640, 320))[1], parameters, rtol=1e-12)


def test_all_models_that_colmap_has_are_known():
    pycolmap = pytest.importorskip("pycolmap")
    names = {name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"}
    assert names <= set(MODELS)


@pytest.mark.parametrize("lens", LENSES)
def test_gradients_match_finite_differences(float64, lens):
    rng = np.random.default_rng(1)
    k = jnp.asarray(coefficients_of(rng, lens, (4,)))
    directions = jnp.asarray(ahead(rng, 4, 0.7) * rng.uniform(0.5, 3.0, (4, 1)))
    exact = {"order": 1, "atol": 1e-7, "rtol": 1e-7, "eps": 1e-5}
    check_grads(lambda k, d: _to_plane(lens, k, d), (k, directions), modes=("rev",), **exact)
    plane = _to_plane(lens, k, directions)
    check_grads(lambda k, p: _from_plane(lens, k, p), (k, plane), modes=("rev",), **exact)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 4e-6), (np.float64, 1e-13)])
def test_straighten_inverts_bend(float64, lens, dtype, tolerance):
    rng = np.random.default_rng(2)
    directions = ahead(rng, 2000, 0.78)
    k = coefficients_of(rng, lens, (2000,))
    k, directions = jnp.asarray(k.astype(dtype)), jnp.asarray(directions.astype(dtype))
    back = _from_plane(lens, k, _to_plane(lens, k, directions))
    assert back.dtype == dtype
    measure = back[:, 2] if lens in FLAT else jnp.linalg.norm(back, axis=-1)
    np.testing.assert_allclose(measure, 1.0, atol=2e-7 if dtype == np.float32 else 1e-15)
    back = back / jnp.linalg.norm(back, axis=-1, keepdims=True)
    np.testing.assert_allclose(back, directions, rtol=0, atol=tolerance)


@pytest.mark.parametrize("lens", ROUND)
def test_round_lenses_see_sideways_and_behind_themselves(float64, lens):
    rng = np.random.default_rng(3)
    k = {"fov": [0.8], "division": [-0.3], "eucm": [0.7, 1.2]}.get(lens, [0.01, -0.002])
    k = jnp.asarray(np.broadcast_to(k, (500, len(k))))
    # To where alpha sqrt(...) + (1 - alpha) z, which divides, is still above 0: 111 degrees.
    directions = ahead(rng, 500, 1.9 if lens == "eucm" else 2.6)
    assert (directions[:, 2] < -0.2).sum() > 50
    back = _from_plane(lens, k, _to_plane(lens, k, jnp.asarray(directions)))
    np.testing.assert_allclose(back, directions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lens", LENSES)
def test_the_axis_has_the_derivatives_of_a_pinhole(float64, lens):
    k = {"fov": [0.7], "division": [0.1], "eucm": [0.6, 1.3]}.get(lens, [0.1, 0.02, 0.0, 0.0])
    # The magnification in the middle: the others' is 1.
    scale = 2.0 * math.tan(0.35) / 0.7 if lens == "fov" else 1.0
    axis, k = jnp.array([0.0, 0.0, 4.0]), jnp.asarray(k)
    slope = jax.jit(jax.jacobian(lambda d: to_plane(lens, k, d)))(axis)
    np.testing.assert_allclose(slope, scale * np.eye(2, 3) / 4.0, atol=1e-12)
    slope = jax.jit(jax.jacobian(lambda p: from_plane(lens, k, p)))(jnp.zeros(2))
    np.testing.assert_allclose(slope, np.eye(3, 2) / scale, atol=1e-12)


@pytest.mark.parametrize("pole", [-1.0, 1.0])
def test_the_poles_of_the_sphere_are_finite(pole):
    up = jnp.array([0.0, pole, 0.0])
    none = jnp.zeros(0)
    np.testing.assert_allclose(
        to_plane("equirectangular", none, up), [0.0, pole * math.pi / 2], atol=1e-6
    )
    assert jnp.isfinite(jax.jacobian(lambda d: to_plane("equirectangular", none, d))(up)).all()


def test_an_equirectangular_picture_is_that_of_nerfstudio():
    width, height = 200, 100
    camera = Camera(
        camera_to_world=np.eye(4, dtype=np.float32)[:3],
        focal=np.float32([width / (2 * math.pi), height / math.pi]),
        centre=np.float32([100, 50]),
        distortion=np.zeros(6, np.float32),
        size=np.array([width, height], np.int32),
        lens="equirectangular",
    )
    for column, row in np.random.default_rng(4).uniform(0, 1, (20, 2)) * [width, height]:
        # Its cameras.py: x from -1 to 1, y from 1/2 to -1/2; +y is up, and z < 0 is ahead.
        theta = -math.pi * (2.0 * column / width - 1.0)
        phi = math.pi * (0.5 - (0.5 - row / height))
        expected = [
            -math.sin(theta) * math.sin(phi),
            math.cos(phi),
            -math.cos(theta) * math.sin(phi),
        ]
        rays = _cast(camera, jnp.array([column, row], jnp.float32))
        np.testing.assert_allclose(rays.directions, expected, atol=1e-6)
        pixel, _ = _project(camera, 3.0 * rays.directions)
        np.testing.assert_allclose(pixel, [column, row], atol=1e-3)
    smaller, ray = camera.resized(50, 50), _cast(camera, jnp.array([160.0, 30.0]))
    np.testing.assert_allclose(
        _cast(smaller, jnp.array([40.0, 15.0])).directions, ray.directions, atol=1e-6
    )


@pytest.mark.parametrize(
    ("lens", "count"),
    [("opencv", 1), ("opencv", 5), ("opencv", 9), ("fisheye", 7), ("fisheye624", 13)],
)
def test_coefficients_beyond_the_end_are_0(float64, lens, count):
    rng = np.random.default_rng(6)
    k = coefficients_of(rng, lens, (9,))
    k[:, count:] = 0.0
    directions = jnp.asarray(ahead(rng, 9, 0.7))
    whole = _to_plane(lens, jnp.asarray(k), directions)
    short = _to_plane(lens, jnp.asarray(k[:, :count]), directions)
    np.testing.assert_allclose(short, whole, rtol=0, atol=1e-15)
    back = _from_plane(lens, jnp.asarray(k[:, :count]), short)
    np.testing.assert_allclose(back, _from_plane(lens, jnp.asarray(k), whole), atol=1e-14)


FOLDS = {
    "opencv": ((-0.3,), math.atan(math.sqrt(1 / 0.9))),
    "fisheye": ((-0.1,), math.sqrt(1 / 0.3)),
    "fisheye624": ((0.0, -0.05), 4.0**0.25),
    "division": ((0.5,), math.atan(1 / math.sqrt(2.0))),
    "eucm": ((0.8, 1.0), math.acos(-0.25)),
}


@pytest.mark.parametrize("lens", FOLDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_lies_beyond_the_fold_is_not_in_the_picture(float64, lens, dtype):
    k, fold = FOLDS[lens]
    found = float(greatest_angle(lens, jnp.asarray(k, dtype)))
    assert 0.0 <= found - fold + 1e-6 < 0.04
    camera = Camera(
        camera_to_world=np.eye(4, dtype=dtype)[:3],
        focal=np.array([100, 100], dtype),
        centre=np.array([50, 50], dtype),
        distortion=np.array(k, dtype),
        size=np.array([100, 100], np.int32),
        lens=lens,
    )
    angles = np.append(np.linspace(0.0, 0.99 * fold, 20), np.linspace(fold + 0.04, 3.1, 20))
    points = np.stack([0.6 * np.sin(angles), 0.8 * np.sin(angles), -np.cos(angles)], -1)
    pixels = np.asarray(_project(camera, jnp.asarray(points, dtype))[0])
    shown = jnp.asarray(points[:20] * [1, -1, -1], dtype)
    plane = to_plane(lens, jnp.broadcast_to(jnp.asarray(k, dtype), (20, len(k))), shown)
    np.testing.assert_allclose(pixels[:20], 100 * plane + 50, rtol=1e-5, atol=1e-4)
    assert (np.abs(pixels[20:]) > 1e6).all()


def test_lenses_that_do_not_fold_reach_all_round():
    plain = {"fov": [0.9], "division": [-0.2], "eucm": [0.3, 1.0], "fisheye": [0.1]}
    for lens in LENSES:
        k = jnp.asarray(plain.get(lens, [0.1, 0.02]), jnp.float32)
        assert float(greatest_angle(lens, k)) > (math.pi / 2 if lens == "eucm" else 3.14)


@pytest.mark.parametrize("lens", LENSES)
def test_any_place_has_a_finite_direction_and_gradient(lens):
    rng = np.random.default_rng(8)
    k = {"fov": [1.5], "division": [-3.0], "eucm": [0.95, 3.0]}.get(
        lens, [-0.5, -0.3, 0.0, 0.0, 0.02, 0.02]
    )
    k = jnp.asarray(np.broadcast_to(k, (400, len(k))), jnp.float32)
    plane = jnp.asarray(disk(rng, 400, 5.0), jnp.float32)

    def total(k, plane):
        found = from_plane(lens, k, plane)
        return jnp.sum(found), found

    (_, found), slopes = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(k, plane)
    assert jnp.isfinite(found).all()
    assert all(jnp.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("lens", LENSES)
def test_any_shape_is_mapped_as_its_elements(lens):
    rng = np.random.default_rng(9)
    k = jnp.asarray(coefficients_of(rng, lens, (2, 3)), jnp.float32)
    directions = jnp.asarray(ahead(rng, 6, 0.6).reshape(2, 3, 3), jnp.float32)
    plane = _to_plane(lens, k, directions)
    found = _from_plane(lens, k, plane)
    mapped = jax.jit(jax.vmap(jax.vmap(lambda k, p: from_plane(lens, k, p))))(k, plane)
    np.testing.assert_allclose(mapped, found, atol=1e-6)
    for place in np.ndindex(2, 3):
        alone = _to_plane(lens, k[place], directions[place])
        np.testing.assert_allclose(plane[place], alone, atol=1e-6)
        np.testing.assert_allclose(found[place], _from_plane(lens, k[place], alone), atol=2e-6)


def test_an_fov_lens_with_no_omega_is_a_pinhole(float64):
    directions = jnp.asarray(ahead(np.random.default_rng(10), 20, 0.8))
    none = jnp.zeros((20, 1))
    plane = _to_plane("fov", none, directions)
    np.testing.assert_allclose(plane, directions[:, :2] / directions[:, 2:], rtol=0, atol=1e-7)
    np.testing.assert_allclose(_from_plane("fov", none, plane), directions, rtol=0, atol=1e-12)


def test_cameras_that_colmap_has_no_model_for_are_refused():
    focal, centre = np.array([500.0, 500.0]), np.array([320.0, 240.0])
    eighth = np.array([0.1, 0.0, 0.0, 0.01, 0.0, 0.0])
    with pytest.raises(ValueError, match="no model"):
        model_of(Intrinsics("opencv", focal, centre, eighth), (640, 480))
    with pytest.raises(ValueError, match="no model"):
        model_of(Intrinsics("equirectangular", focal, centre, np.zeros(0)), (640, 480))
    plain = Intrinsics("opencv", focal, centre, np.zeros(6))
    assert model_of(plain, (640, 480))[0] == "SIMPLE_PINHOLE"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [([500.0, 320.0], "3 parameters"), ([0.0, 1.0, 1.0], "focal"), ([math.nan] * 3, "finite")],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        intrinsics("SIMPLE_PINHOLE", np.array(parameters))

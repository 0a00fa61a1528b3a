"""Distortion against OpenCV's formula, slow searches for roots, and its own inverse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lens_factory import coefficients_of, disk
from scipy.optimize import brentq

from jaxnerf.cameras.distortion import distort, undistort

_distort, _undistort = jax.jit(distort), jax.jit(undistort)


def opencv_formula(k, x, y):
    """calib3d's documentation, in its own order of coefficients, for numbers; and k4 as r^8."""
    k1, k2, k3, r8, p1, p2, r10, r12, k4, k5, k6, s1, s2, s3, s4 = map(float, k)
    r = math.hypot(x, y)
    above = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6 + r8 * r**8 + r10 * r**10 + r12 * r**12
    radial = above / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2) + s1 * r**2 + s2 * r**4,
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y + s3 * r**2 + s4 * r**4,
    )


def test_distort_matches_opencv_formula_and_undistort_inverts_it(float64):
    rng = np.random.default_rng(5)
    plane = disk(rng, 200, 0.9)
    k = coefficients_of(rng, "opencv", (200,))
    bent = _distort(jnp.asarray(k), jnp.asarray(plane))
    expected = [opencv_formula(k, *point) for k, point in zip(k, plane, strict=True)]
    np.testing.assert_allclose(bent, expected, rtol=0, atol=1e-14)
    back = _undistort(jnp.asarray(k), bent)
    np.testing.assert_allclose(back, plane, rtol=0, atol=1e-12)


# Radial coefficients, with the radius on the distorted plane of the pictures' corners.
REAL = {
    "EuRoC MAV, camera 0": ((-0.28340811, 0.07395907, 0.0, 0.0), 0.97),
    "KITTI 2011_09_26, camera 2": ((-0.3691481, 0.1968681, -0.06770705, 0.0), 0.76),
    "instant-ngp's fox": ((0.0578421, -0.0805099, 0.0, 0.0), 0.82),
    "a wide action camera": ((-0.27, 0.118, -0.029, 0.0), 0.93),
    "strong pincushion": ((0.3, 0.1, 0.0, 0.0), 1.0),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-6), (np.float64, 1e-12)])
def test_the_lenses_of_real_cameras_are_undistorted_to_the_corners(float64, name, dtype, tolerance):
    k, corner = REAL[name]
    radii = np.linspace(0.0, corner, 60)

    def bent(r):
        return r * (1 + sum(c * r ** (2 * i + 2) for i, c in enumerate(k)))

    # The first crossing, by slow search and bisection.
    grid = np.linspace(0.0, 2.0, 4001)
    expected = np.zeros(60)
    for i, radius in enumerate(radii[1:], 1):
        above = np.argmax(bent(grid) >= radius)
        assert above > 0
        expected[i] = brentq(lambda r, at=radius: bent(r) - at, *grid[above - 1 : above + 1])
    place = np.stack([radii * 0.8, radii * 0.6], -1).astype(dtype)
    found = _undistort(jnp.asarray(np.broadcast_to(k, (60, 4)).astype(dtype)), jnp.asarray(place))
    np.testing.assert_allclose(found[:, 0], 0.8 * expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found[:, 1], 0.6 * expected, rtol=0, atol=tolerance)


def test_lenses_that_fold_are_undistorted_before_the_fold_and_finite_beyond(float64):
    rng = np.random.default_rng(7)
    grid = np.linspace(1e-3, 1.2, 1200)
    powers = grid[:, None] ** [2, 4, 6, 8] * [3, 5, 7, 9]
    k = rng.uniform(-1, 1, (20000, 4)) * [0.5, 0.3, 0.15, 0.05]
    flat = (1.0 + k @ powers.T) < 0.1
    fold = np.where(flat.any(axis=1), grid[flat.argmax(axis=1)], 1.2)
    assert (fold < 1.2).mean() > 0.2
    radius = 0.97 * fold * np.sqrt(rng.uniform(0, 1, 20000))
    turn = rng.uniform(0, 2 * np.pi, 20000)
    plane = radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    back = _undistort(jnp.asarray(k), _distort(jnp.asarray(k), jnp.asarray(plane)))
    # Some fold so near that rounding shows: 1 in 10,000 may be off.
    wrong = np.abs(back - plane).max(axis=-1) > 1e-9
    assert wrong.mean() <= 1e-4

    beyond = jnp.asarray(plane / radius[:, None] * rng.uniform(1.5, 10.0, (20000, 1)))
    values, slopes = jax.jit(jax.value_and_grad(lambda k, p: jnp.sum(undistort(k, p)), (0, 1)))(
        jnp.asarray(k), beyond
    )
    assert jnp.isfinite(values)
    assert all(jnp.isfinite(slope).all() for slope in slopes)

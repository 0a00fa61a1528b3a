"""Second derivatives of lenses against the implicit function theorem and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lens_factory import coefficients_of, disk

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.cameras.distortion import distort, distort_in_turn, undistort, undistort_in_turn

PAIRS = {
    "distort": (distort, undistort),
    "distort_in_turn": (distort_in_turn, undistort_in_turn),
}


def implicit_second_derivatives(function, coefficients, root):
    """Of the root x of function(k, x) - u = 0, by p = (k, u): the theorem, differentiated once more.

    With J the derivative by x: x_p = -J^-1 F_p, and
    x_pq = -J^-1 (F_pq + F_px x_q + F_qx x_p + F_xx x_p x_q).
    """
    count = len(coefficients)

    def residual(p, x):
        return function(p[:count], x) - p[count:]

    p = jnp.concatenate([coefficients, function(coefficients, root)])
    by_p, by_x = jax.jit(jax.jacfwd(residual, (0, 1)))(p, root)
    (pp, px), (_, xx) = jax.jit(jax.hessian(residual, (0, 1)))(p, root)
    slope = -np.linalg.solve(by_x, by_p)
    mixed = np.einsum("ipx,xq->ipq", px, slope)
    bent = pp + mixed + mixed.swapaxes(1, 2) + np.einsum("ixy,xp,yq->ipq", xx, slope, slope)
    return slope, -np.einsum("ij,jpq->ipq", np.linalg.inv(by_x), bent)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("inner", "outer"), [(jax.jacrev, jax.jacfwd), (jax.jacfwd, jax.jacrev)])
def test_undistort_has_the_derivatives_of_the_inverse_function(float64, name, inner, outer):
    function, inverse = PAIRS[name]
    random = np.random.default_rng(3)
    roots = jnp.asarray(disk(random, 3, 0.8))
    k = jnp.asarray(coefficients_of(random, "opencv", (3,)))

    def undistorted(p):
        return inverse(p[:-2], p[-2:])

    p = jnp.concatenate([k, function(k, roots)], axis=-1)
    slopes = jax.jit(jax.vmap(inner(undistorted)))(p)
    curvatures = jax.jit(jax.vmap(outer(inner(undistorted))))(p)
    for one, root, slope, curvature in zip(k, roots, slopes, curvatures, strict=True):
        expected = implicit_second_derivatives(function, one, root)
        assert np.abs(expected[1]).max() > 0.5
        np.testing.assert_allclose(slope, expected[0], rtol=0, atol=1e-11)
        np.testing.assert_allclose(curvature, expected[1], rtol=0, atol=1e-10)


def test_the_curvature_by_k1_is_that_of_the_series(float64):
    # x = u - k1 u^3 + 3 k1^2 u^5 - ...
    def undistorted(k1):
        return undistort(jnp.stack([k1]), jnp.array([0.6, 0.0]))[0]

    second, third = jax.jit(
        lambda k1: (jax.hessian(undistorted)(k1), jax.jacfwd(jax.hessian(undistorted))(k1))
    )(jnp.array(0.0))
    assert second == pytest.approx(6.0 * 0.6**5, abs=1e-12)
    assert third == pytest.approx(-72.0 * 0.6**7, abs=1e-10)


@pytest.mark.parametrize("lens", ["opencv", "fisheye", "fisheye624", "fov"])
def test_rays_have_the_second_derivatives_of_finite_differences(float64, lens):
    random = np.random.default_rng(4)
    k = coefficients_of(random, lens)[:8]
    # The middle of the picture is among the pixels.
    pixels = [32.0, 24.0, 5.0, 40.0, 60.0, 3.0]
    pose = np.asarray(Camera.look_at((1.0, -3.0, 2.0), width=64, height=48).camera_to_world)
    centre, size = jnp.array([32.0, 24.0]), jnp.array([64, 48])
    mixed = jnp.asarray(random.normal(size=(3, 3)))

    def directions(p):
        focal, pixels = 100.0 * p[:2], p[2:8].reshape(3, 2)
        camera = Camera(pose.astype(np.float64), focal, centre, p[8:], size, lens)
        return jnp.sum(mixed * cast_rays(camera, pixels).directions)

    p = jnp.asarray(np.concatenate([[0.9, 1.0], pixels, k]))
    slope = jax.jit(jax.grad(directions))
    expected = [
        (slope(p + step) - slope(p - step)) / 2e-5 for step in 1e-5 * np.eye(len(p), dtype=p.dtype)
    ]
    curvature = jax.jit(jax.hessian(directions))(p)
    np.testing.assert_allclose(curvature, expected, rtol=0, atol=1e-7)

"""Encodings against NumPy's sines, SciPy's harmonics and the contraction's closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from jaxnerf.encoding import contract, positional_encoding, spherical_harmonics, uncontract

several = settings(deadline=None, max_examples=60, derandomize=True)
encode = jax.jit(positional_encoding, static_argnames=("degree", "identity"))
harmonics = jax.jit(spherical_harmonics, static_argnames="degree")


def _encoding_formula(x, degree, identity=True):
    """Eq. 4 in the released code's order, one entry after the other, in float64."""
    row = list(x) if identity else []
    for octave in range(degree):
        row += [np.sin(2.0**octave * v) for v in x]
        row += [np.cos(2.0**octave * v) for v in x]
    return row


def _directions(rng, count):
    v = rng.normal(size=(count, 3))
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("degree", "identity"), [(1, False), (5, True), (6, True), (10, True), (12, True), (12, False)]
)
def test_positional_encoding_is_exact_to_2e_6(degree, identity):
    x = np.random.default_rng(0).uniform(-4.0, 4.0, (20_000, 3)).astype(np.float32)
    x[:3] = [[0.0, -0.0, 4.0], [-4.0, 1e-30, 1e-7], [np.pi, np.pi / 2, -np.pi / 4]]
    found = encode(jnp.asarray(x), degree=degree, identity=identity)
    expected = np.stack(_encoding_formula(x.T.astype(np.float64), degree, identity), axis=-1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_positional_encoding_of_degree_0_is_the_identity_or_nothing():
    x = jnp.ones((4, 3))
    np.testing.assert_array_equal(positional_encoding(x, 0), x)
    assert positional_encoding(x, 0, identity=False).shape == (4, 0)
    with pytest.raises(ValueError, match="degree must be at least 0"):
        positional_encoding(x, -1)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 5, 2), (0, 3)])
def test_positional_encoding_takes_any_leading_shape(shape):
    x = np.random.default_rng(1).uniform(-1.0, 1.0, shape).astype(np.float32)
    found = encode(jnp.asarray(x), degree=3)
    assert found.shape == (*shape[:-1], 7 * shape[-1])
    for index in np.ndindex(shape[:-1]):
        expected = _encoding_formula(x[index].astype(np.float64), 3)
        np.testing.assert_allclose(found[index], expected, atol=2e-6)
    mapped = jax.vmap(lambda v: encode(v, degree=3))(jnp.asarray(x)) if len(shape) > 1 else found
    np.testing.assert_allclose(mapped, found, atol=1e-6)


def _slope_formula(x, degree, order):
    """The order-th derivative of each entry by its own coordinate."""
    rows = [x if order == 0 else np.full_like(x, float(order == 1))]
    for octave in range(degree):
        f = 2.0**octave
        quarter = order * np.pi / 2
        rows += [f**order * np.sin(f * x + quarter), f**order * np.cos(f * x + quarter)]
    return np.stack(rows, axis=-1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_derivatives_of_positional_encoding_are_the_closed_forms(float64, mode, order):
    x = np.random.default_rng(2).uniform(-4.0, 4.0, 20)

    def one(v):
        return positional_encoding(v[None], 10)

    for _ in range(order):
        one = mode(one)
    found = jax.jit(jax.vmap(one))(jnp.asarray(x))
    expected = _slope_formula(x, 10, order)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * 512.0**order)


def test_gradients_of_positional_encoding_do_not_mix_coordinates(float64):
    x = np.random.default_rng(3).uniform(-1.0, 1.0, (2, 3))
    jacobian = jax.jit(jax.jacrev(lambda v: positional_encoding(v, 2)))(jnp.asarray(x))
    expected = np.zeros((2, 5, 3, 2, 3))
    for row, axis in np.ndindex(2, 3):
        expected[row, :, axis, row, axis] = _slope_formula(x[row, axis], 2, 1)
    np.testing.assert_allclose(jacobian, expected.reshape(2, 15, 2, 3), rtol=0, atol=1e-14)


def test_single_precision_gradients_keep_the_relative_accuracy():
    x = np.random.default_rng(4).uniform(-4.0, 4.0, 500).astype(np.float32)
    slopes = np.asarray(jax.vmap(jax.jacfwd(lambda v: encode(v[None], degree=12)))(x))
    scale = np.repeat([1.0, *2.0 ** np.arange(12)], [1, *[2] * 12])
    expected = _slope_formula(x.astype(np.float64), 12, 1)
    np.testing.assert_allclose(slopes / scale, expected / scale, rtol=0, atol=2e-6)


def test_spherical_harmonics_match_scipy():
    v = _directions(np.random.default_rng(5), 300)
    v[:4] = [[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0]]
    polar, azimuth = np.arccos(v[:, 2]), np.arctan2(v[:, 1], v[:, 0])
    expected = []
    for band in range(5):
        for m in range(-band, band + 1):
            # (-1)^m takes SciPy's Condon-Shortley phase out.
            y = (-1.0) ** m * sph_harm_y(band, abs(m), polar, azimuth)
            part = y.real if m >= 0 else y.imag
            expected.append(part * (np.sqrt(2.0) if m else 1.0))
    for degree in (0, 1, 3, 4):
        found = harmonics(jnp.asarray(v, jnp.float32), degree=degree)
        assert found.shape == (300, (degree + 1) ** 2)
        np.testing.assert_allclose(found, np.stack(expected[: (degree + 1) ** 2], -1), atol=3e-6)


def test_spherical_harmonics_are_orthonormal_by_quadrature(float64):
    z, weight = np.polynomial.legendre.leggauss(8)
    azimuth = 2.0 * np.pi * np.arange(12) / 12
    z, azimuth = np.meshgrid(z, azimuth, indexing="ij")
    ring = np.sqrt(1.0 - z * z)
    v = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), z], axis=-1)
    y = np.asarray(harmonics(jnp.asarray(v), degree=4))
    gram = np.einsum("i,ijm,ijn->mn", weight * 2.0 * np.pi / 12, y, y)
    np.testing.assert_allclose(gram, np.eye(25), atol=1e-12)


def test_spherical_harmonics_batch_map_and_differentiate(float64):
    v = _directions(np.random.default_rng(6), 6).reshape(2, 3, 3)
    whole = harmonics(v, degree=4)
    mapped = jax.vmap(jax.vmap(lambda d: harmonics(d, degree=4)))(v)
    np.testing.assert_allclose(whole, mapped, atol=1e-14)
    np.testing.assert_allclose(whole[1, 2], harmonics(v[1, 2], degree=4), atol=1e-14)
    slope = jax.jit(jax.jacrev(lambda d: spherical_harmonics(d, 4)))(v[1, 2])
    for axis, step in enumerate(1e-5 * np.eye(3)):
        ahead, behind = (harmonics(v + sign * step, degree=4)[1, 2] for sign in (1, -1))
        np.testing.assert_allclose(slope[:, axis], (ahead - behind) / 2e-5, rtol=0, atol=1e-8)


@pytest.mark.parametrize("degree", [-1, 5])
def test_spherical_harmonics_refuse_other_degrees(degree):
    with pytest.raises(ValueError, match="degree must be 0 to 4"):
        spherical_harmonics(jnp.ones((3,)), degree)


_contract, _uncontract = jax.jit(contract), jax.jit(uncontract)
radii = st.floats(-4.0, 8.0).map(lambda exponent: 10.0**exponent)
seeds = st.integers(0, 2**32 - 1)


@several
@given(radius=radii, seed=seeds)
def test_contract_follows_its_formula_stays_in_the_ball_and_inverts(radius, seed):
    direction = _directions(np.random.default_rng(seed), 1)[0]
    x = (radius * direction).astype(np.float32)
    z = _contract(jnp.asarray(x))
    r = np.linalg.norm(x.astype(np.float64))
    expected = x if r <= 1.0 else (2.0 - 1.0 / r) / r * x.astype(np.float64)
    np.testing.assert_allclose(z, expected, rtol=1e-6, atol=1e-7)
    assert np.linalg.norm(np.asarray(z, np.float64)) <= 2.0 * (1 + 5e-7)
    if r < 0.999:
        np.testing.assert_array_equal(z, x)
    if r < 1e3:
        # The rounding of z near 2 is magnified by r.
        np.testing.assert_allclose(_uncontract(z), x, rtol=1e-6 * max(r, 1.0), atol=1e-7 * r)


def test_contract_inverts_to_rounding_in_double_precision(float64):
    rng = np.random.default_rng(7)
    x = _directions(rng, 500) * 10.0 ** rng.uniform(-3.0, 4.0, (500, 1))
    np.testing.assert_allclose(_uncontract(_contract(jnp.asarray(x))), x, rtol=1e-11)
    z = _directions(rng, 500) * rng.uniform(0.0, 1.99, (500, 1))
    np.testing.assert_allclose(_contract(_uncontract(jnp.asarray(z))), z, rtol=0, atol=1e-13)


def test_contract_keeps_any_leading_shape():
    x = np.random.default_rng(9).normal(0.0, 3.0, (2, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(_contract(x), jax.vmap(jax.vmap(_contract))(x), rtol=1e-6)
    np.testing.assert_allclose(_contract(x)[1, 3], _contract(x[1, 3]), rtol=1e-6)


@pytest.mark.parametrize("radius", [0.0, 0.5, 1.0 - 1e-9, 1.0, 1.0 + 1e-9, 3.0, 1e6])
def test_contract_has_a_continuous_jacobian_of_closed_form(float64, radius):
    direction = _directions(np.random.default_rng(8), 1)[0]
    found, again = _contract_jacobians(jnp.asarray(radius * direction))
    np.testing.assert_allclose(found, again, rtol=0, atol=1e-12)
    across = (2.0 - 1.0 / radius) / radius if radius > 1.0 else 1.0
    along = 1.0 / radius**2 if radius > 1.0 else 1.0
    outer = np.outer(direction, direction)
    np.testing.assert_allclose(
        found, along * outer + across * (np.eye(3) - outer), rtol=0, atol=1e-8 * across
    )


@jax.jit
def _contract_jacobians(x):
    return jax.jacfwd(contract)(x), jax.jacrev(contract)(x)


@pytest.mark.parametrize("x", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1e6, -1e6, 0.0), (0, 0, 1e10)])
def test_gradients_of_contract_are_finite_everywhere_in_single_precision(x):
    for jacobian in _contract_jacobians(jnp.asarray(x, jnp.float32)):
        assert np.isfinite(jacobian).all()
        assert np.abs(jacobian).max() <= 1.0 + 1e-6
    np.testing.assert_array_equal(jax.jacrev(_uncontract)(jnp.zeros(3)), np.eye(3))

"""Sums over the samples of a ray, against slow loops; and who runs which form of a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxnerf import VoxelField
from jaxnerf.fields.hash_grid import HashGridField
from jaxnerf.kernels import choice
from jaxnerf.kernels.weights import emission_absorption, mean_transmittance, sums_before


@pytest.mark.parametrize("count", [1, 2, 64, 257])
@pytest.mark.parametrize("axis", [-1, 0])
def test_what_lies_before_an_entry_is_that_of_a_slow_loop(count, axis):
    values = np.random.default_rng(count).exponential(size=(3, count)).astype(np.float32)
    values[0, -1] = 1e30  # which a sum less the entry itself could not be told from
    expected = np.zeros((3, count))
    for row, column in np.ndindex(3, count):
        expected[row, column] = sum(float(x) for x in values[row, :column])
    turned = values if axis == -1 else values.T
    found = np.asarray(sums_before(jnp.asarray(turned), axis))
    np.testing.assert_allclose(found if axis == -1 else found.T, expected, rtol=2e-6)


def test_a_mean_transmittance_is_its_integral_and_has_its_slope(float64):
    depth = np.array([0.0, 1e-6, 9.99e-3, 1e-2, 0.3, 5.0, 700.0, 1e30])
    nodes, weights = np.polynomial.legendre.leggauss(300)
    ways = 0.5 * (nodes + 1.0)
    short = np.minimum(depth, 700.0)[:, None]
    expected = (0.5 * weights * np.exp(-short * ways)).sum(axis=-1)
    slope = (0.5 * weights * -ways * np.exp(-short * ways)).sum(axis=-1)
    found = np.asarray(mean_transmittance(jnp.asarray(depth)))
    np.testing.assert_allclose(found[:-1], expected[:-1], rtol=1e-9)
    assert 0.0 < found[-1] < 1e-29
    gradient = jax.vmap(jax.grad(mean_transmittance))(jnp.asarray(depth[:-1]))
    np.testing.assert_allclose(gradient, slope[:-1], rtol=1e-6)


def test_fields_that_interpolate_run_as_is_chosen(monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "choose", lambda operation: asked.append(operation) or "xla")
    places = jnp.full((2, 3), 0.4)
    voxels, grid = VoxelField.in_unit_cube(), HashGridField(levels=2)
    for number, field in enumerate((voxels, grid)):
        field.density(field.init(jax.random.key(0)), places)
        assert len(asked) > number
        assert set(asked) == {"weighted_rows"}


@pytest.mark.parametrize("count", [1, 5, 300])  # sums by a product, and by a cumulative sum
def test_weights_and_their_slopes_are_those_of_a_slow_loop(float64, count):
    rng = np.random.default_rng(2)
    depth, of = rng.exponential(0.4 / np.sqrt(count), (2, count)), rng.normal(size=(2, count))
    weights, slopes = np.zeros((2, count)), np.zeros((2, count))
    for ray in range(2):
        light = np.exp(-np.concatenate([[0.0], np.cumsum(depth[ray])]))
        for i in range(count):
            weights[ray, i] = light[i] - light[i + 1]
            slopes[ray, i] += of[ray, i] * light[i + 1]
            for j in range(i + 1, count):
                slopes[ray, i] -= of[ray, j] * (light[j] - light[j + 1])
    found, pull_back = jax.vjp(emission_absorption, jnp.asarray(depth))
    np.testing.assert_allclose(found, weights, atol=1e-14)
    np.testing.assert_allclose(pull_back(jnp.asarray(of))[0], slopes, atol=1e-13)


def test_weights_have_derivatives_of_two_orders_in_both_modes(float64):
    depth = jnp.asarray(np.random.default_rng(3).exponential(0.5, (2, 6)))
    check_grads(emission_absorption, (depth,), order=2, modes=["fwd", "rev"], rtol=1e-5)


def test_what_is_infinitely_deep_takes_all_light_and_has_slopes():
    depth = jnp.array([[0.5, jnp.inf, 2.0], [jnp.inf, jnp.inf, 0.0], [1e38, 0.1, 1e38]])
    weights, pull_back = jax.vjp(emission_absorption, depth)
    left = np.exp(-0.5)
    expected = [[1.0 - left, left, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    # The first of the first ray takes from the second what it lets through no more.
    slopes = pull_back(jnp.array([[1.0, 3.0, 5.0]] * 3))[0]
    np.testing.assert_allclose(slopes[0], [left * (1.0 - 3.0), 0.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(slopes[1:], 0.0)

"""Sums over the samples of a ray, against slow loops; and who runs which form of a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import VoxelField, kernels
from jaxnerf.fields.hash_grid import HashGridField
from jaxnerf.kernels.weights import mean_transmittance, sums_before


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
    monkeypatch.setattr(kernels, "choose", lambda operation: asked.append(operation) or "xla")
    places = jnp.full((2, 3), 0.4)
    voxels, grid = VoxelField.in_unit_cube(), HashGridField(levels=2)
    for number, field in enumerate((voxels, grid)):
        field.density(field.init(jax.random.key(0)), places)
        assert len(asked) > number
        assert set(asked) == {"weighted_rows"}

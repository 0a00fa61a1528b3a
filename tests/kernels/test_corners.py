"""Functions of the lattice vertices around positions, against slow loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf.kernels import trilinear_corners
from jaxnerf.kernels.interpolation import at_corners, tetrahedral_corners


@pytest.mark.parametrize("batch", [(), (13,), (3, 5)])
def test_a_function_of_corners_is_asked_of_each_in_the_order_of_their_weights(batch):
    lower = np.random.default_rng(0).integers(-4, 9, (*batch, 3)).astype(np.int32)

    @jax.jit
    def coded(lower):
        return at_corners(lambda x, y, z: 10_000 * x + 100 * y + z, lower)

    found = np.asarray(coded(lower))
    assert found.shape == (8, *batch)
    for number, digits in enumerate(itertools.product(range(2), repeat=3)):
        for at in np.ndindex(batch):
            x, y, z = (int(low) + digit for low, digit in zip(lower[at], digits, strict=True))
            assert found[(number, *at)] == 10_000 * x + 100 * y + z
    corners, _ = trilinear_corners(jnp.asarray(lower.reshape(-1, 3) + 0.25, jnp.float32))
    of_corners = corners @ np.array([10_000, 100, 1], np.int32)
    np.testing.assert_array_equal(of_corners, found.reshape(8, -1))


def test_tetrahedra_have_corners_and_weights_of_a_sorted_walk():
    places = np.random.default_rng(1).uniform(-3.0, 3.0, (300, 3)).astype(np.float32)
    places[:9] = [[0, 0, 0], [-1, 2, 0.5], [0.5, 0.5, 0.5], [0.25, 0.25, 0], [0.25, 0, 0.25],
                  [0, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]  # fmt: skip
    corners, weights = map(np.asarray, jax.jit(tetrahedral_corners)(jnp.asarray(places)))
    assert (corners.shape, weights.shape) == ((4, 300, 3), (4, 300))
    for at, place in enumerate(places):
        corner = np.floor(place).astype(int)
        fractions = place - corner
        order = sorted(range(3), key=lambda axis: -fractions[axis])
        edges = [1.0, *(fractions[axis] for axis in order), 0.0]
        for number in range(4):
            if number:
                corner[order[number - 1]] += 1
            assert corners[number, at].tolist() == corner.tolist()
            assert weights[number, at] == pytest.approx(edges[number] - edges[number + 1], abs=1e-6)


def test_interpolation_in_tetrahedra_is_exact_for_linear_functions_and_so_is_its_gradient():
    slope = jnp.array([0.7, -1.3, 0.4])

    def interpolated(place):
        corners, weights = tetrahedral_corners(place[None])
        return jnp.sum(weights * (corners.astype(place.dtype) @ slope))

    for place in np.random.default_rng(2).uniform(-2.0, 2.0, (20, 3)):
        place = jnp.asarray(place, jnp.float32)
        value, gradient = jax.value_and_grad(interpolated)(place)
        assert float(value) == pytest.approx(float(place @ slope), abs=1e-5)
        np.testing.assert_allclose(gradient, slope, atol=1e-5)

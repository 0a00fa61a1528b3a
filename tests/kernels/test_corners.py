"""Functions of the lattice vertices around positions, against slow loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf.kernels import trilinear_corners
from jaxnerf.kernels.interpolation import at_corners


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

"""Where a sum along columns is reached, and sums of long arrays, against slow loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf.kernels.compositing import march_until
from jaxnerf.kernels.sums import sum_of_squares


def test_the_place_where_a_sum_is_reached_is_that_of_a_slow_loop():
    rng, (count, rays) = np.random.default_rng(0), (9, 40)
    begin = np.cumsum(rng.exponential(size=(count, rays)), axis=0)
    length = rng.uniform(0.1, 0.9, (count, rays))
    amount = np.where(rng.random((count, rays)) < 0.3, 0.0, rng.exponential(size=(count, rays)))
    # Some ask for more than there is, one for nothing, and one without end.
    wanted = rng.uniform(0.1, 1.3, rays) * amount.sum(axis=0)
    wanted[:2] = 0.0, np.inf
    expected = np.full(rays, np.inf)
    for ray in range(2, rays):
        before = 0.0
        for k in range(count):
            after = before + amount[k, ray]
            if before < wanted[ray] <= after:
                part = (wanted[ray] - before) / amount[k, ray]
                expected[ray] = begin[k, ray] + part * length[k, ray]
            before = after
    assert 0 < np.isinf(expected[2:]).sum() < rays - 2
    given = (jnp.asarray(each, jnp.float32) for each in (begin, length, amount, wanted))
    np.testing.assert_allclose(jax.jit(march_until)(*given), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (1 << 14,), (4096, 12), (4097, 12)])
def test_a_sum_of_squares_is_that_of_numpy(shape):
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    found = jax.jit(sum_of_squares)(jnp.asarray(x))
    assert found.shape == ()
    assert float(found) == pytest.approx(float(np.sum(np.square(x, dtype=np.float64))), rel=1e-5)

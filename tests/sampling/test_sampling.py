"""Samples along rays: their strata, their distribution, and slow loops that say the same.

Statistical tests use fixed keys and a false-alarm rate of 1e-6 each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnerf.compositing import volume_weights
from jaxnerf.sampling.intervals import (
    hierarchical,
    invert_cdf,
    merge,
    midpoints,
    stratified,
    unit_strata,
)

FALSE_ALARM = 1e-6

several = settings(deadline=None, max_examples=50, derandomize=True)
draw = jax.jit(hierarchical, static_argnames=("count", "padding"))
spread = jax.jit(stratified, static_argnames=("count", "spacing"))
_merge, _invert = jax.jit(merge), jax.jit(invert_cdf)
_strata = jax.jit(unit_strata, static_argnums=(0, 1))


def _array(values):
    return jnp.asarray(values, jnp.float32)


def _edges(count):
    """The strata of the released code: between the midpoints of i / (count - 1), and the ends."""
    even = np.arange(count) / (count - 1)
    middle = 0.5 * (even[1:] + even[:-1])
    return np.concatenate([[0.0], middle]), np.concatenate([middle, [1.0]])


def _assert_uniform(shares):
    """Whether numbers are independent draws from [0, 1], row by row."""
    assert stats.kstest(np.ravel(shares), "uniform").pvalue > FALSE_ALARM
    flat = np.asarray(shares, np.float64).reshape(-1, shares.shape[-1])
    for a, b in ((flat[:, 1:], flat[:, :-1]), (flat[1:], flat[:-1])):
        assert stats.pearsonr(np.ravel(a), np.ravel(b)).pvalue > FALSE_ALARM


def _quantile(t, cdf, u):
    """The last distance at which no more than u is reached; for u = 1 the first that reaches 1."""
    segments = list(zip(t[:-1], t[1:], cdf[:-1], cdf[1:], strict=True))
    if u >= cdf[-1]:
        return next(high for _, high, _, reached in segments if reached == cdf[-1])
    for low, high, before, after in reversed(segments):
        if before <= u < after:
            return low + (u - before) / (after - before) * (high - low)
    raise AssertionError("u is below the distribution")


def test_midpoints_are_means_of_neighbours():
    t = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    expected = [[[(row[i] + row[i + 1]) / 2 for i in range(4)] for row in rows] for rows in t]
    np.testing.assert_allclose(midpoints(_array(t)), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 64, 129])
def test_unit_strata_without_a_key_are_even(count):
    u = np.asarray(unit_strata((3,), count))
    np.testing.assert_allclose(u, [[i / (count - 1) for i in range(count)]] * 3, rtol=1.2e-7)
    assert (u[:, 0] == 0.0).all()
    assert (u[:, -1] == 1.0).all()
    np.testing.assert_array_equal(u, unit_strata((3,), count))


@pytest.mark.parametrize("count", [2, 16])
def test_unit_strata_draw_uniformly_and_independently_within_each_stratum(count):
    u = np.asarray(_strata((10, 100), count, jax.random.key(1)), np.float64)
    low, high = _edges(count)
    shares = (u - low) / (high - low)
    assert (shares > -1e-5).all()
    assert (shares < 1 + 1e-5).all()
    assert (np.diff(u) >= 0).all()
    _assert_uniform(shares)


def test_counts_below_two_are_refused():
    with pytest.raises(ValueError, match="count must be at least 2"):
        unit_strata((), 1)


def test_stratified_is_linear_in_depth_or_disparity():
    rng = np.random.default_rng(2)
    near, far = rng.uniform(0.1, 3.0, (2, 3)), rng.uniform(4.0, 50.0, (2, 3))
    depth = spread(_array(near), _array(far), 9)
    disparity = spread(_array(near), _array(far), 9, spacing="disparity")
    for i, j, k in np.ndindex(2, 3, 9):
        a, b, u = near[i, j], far[i, j], k / 8
        np.testing.assert_allclose(depth[i, j, k], a + u * (b - a), rtol=1e-6)
        np.testing.assert_allclose(disparity[i, j, k], 1 / ((1 - u) / a + u / b), rtol=1e-6)
    for t in (depth, disparity):
        np.testing.assert_array_equal(t[..., 0], _array(near))
        np.testing.assert_array_equal(t[..., -1], _array(far))
    mapped = jax.vmap(jax.vmap(lambda n, f: spread(n, f, 9)))(_array(near), _array(far))
    np.testing.assert_allclose(mapped, depth, rtol=1e-6)


def test_disparity_reaches_infinity():
    t = spread(jnp.array(2.0), jnp.array(jnp.inf), 5, spacing="disparity")
    np.testing.assert_allclose(t, [2.0, 8 / 3, 4.0, 8.0, np.inf], rtol=1e-6)


@pytest.mark.parametrize("spacing", ["depth", "disparity"])
def test_stratified_draws_uniformly_in_its_own_measure(spacing):
    near, far = np.full(3000, 0.5), np.linspace(1.0, 80.0, 3000)
    t = spread(_array(near), _array(far), 16, jax.random.key(3), spacing=spacing)
    near, far, t = near[:, None], far[:, None], np.asarray(t, np.float64)
    if spacing == "disparity":
        near, far, t = 1 / near, 1 / far, 1 / t
    u = (t - near) / (far - near)
    low, high = _edges(16)
    shares = (u - low) / (high - low)
    assert (np.abs(shares - 0.5) <= 0.5 + 1e-4).all()
    _assert_uniform(np.clip(shares, 0, 1))


@pytest.mark.parametrize("spacing", ["depth", "disparity"])
@pytest.mark.parametrize("key", [None, 4])
def test_stratified_ascends_within_bounds_on_rays_of_any_length(spacing, key):
    rng = np.random.default_rng(5)
    near = rng.uniform(0.1, 10.0, 5000).astype(np.float32)
    far = (near * (1 + 10.0 ** rng.uniform(-8, 1, 5000))).astype(np.float32)
    key = None if key is None else jax.random.key(key)
    t = spread(_array(near), _array(far), 65, key, spacing=spacing)
    weights = np.asarray(volume_weights(jnp.full((5000, 64), 1e10), t))
    t = np.asarray(t)
    assert (np.diff(t) >= 0).all()
    assert (t >= near[:, None]).all()
    assert (t <= far[:, None]).all()
    if key is None:
        np.testing.assert_array_equal(t[:, [0, -1]], np.stack([near, far], axis=-1))
    assert (weights >= 0).all()
    assert (weights.sum(axis=-1) < 1 + 1e-6).all()


@several
@given(
    rises=st.lists(st.integers(0, 3), min_size=5, max_size=5).filter(any),
    lengths=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    u=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    on_posts=st.booleans(),
)
def test_invert_cdf_follows_its_definition_where_it_is_flat_too(rises, lengths, u, on_posts):
    cdf = np.concatenate([[0.0], np.cumsum(rises) / sum(rises)]).astype(np.float32)
    t = np.concatenate([[2.0], 2.0 + np.cumsum(lengths)]).astype(np.float32)
    u = cdf[1:5] if on_posts else np.asarray(u, np.float32)
    expected = [_quantile(t.astype(np.float64), cdf.astype(np.float64), v) for v in u.tolist()]
    np.testing.assert_allclose(_invert(_array(t), _array(cdf), _array(u)), expected, rtol=1e-6)


def test_hierarchical_without_a_key_is_the_released_codes_sample_pdf(float64):
    rng = np.random.default_rng(6)
    t = np.cumsum(rng.uniform(0.01, 1.0, (3, 17)), axis=-1)
    weights = rng.uniform(0.01, 1.0, (3, 16))
    found = draw(jnp.asarray(t), jnp.asarray(weights), 33)
    for ray in range(3):
        padded = [w + 1e-5 for w in weights[ray]]
        cdf = [0.0]
        for w in padded:
            cdf.append(cdf[-1] + w / sum(padded))
        cdf[-1] = 1.0
        for i in range(33):
            u = i / 32
            above = sum(1 for c in cdf if c <= u)
            below, above = max(0, above - 1), min(16, above)
            rise = cdf[above] - cdf[below]
            share = (u - cdf[below]) / (rise if rise >= 1e-5 else 1.0)
            expected = t[ray, below] + share * (t[ray, above] - t[ray, below])
            np.testing.assert_allclose(found[ray, i], expected, rtol=1e-12)


def _random_rows(seed, rays, count=12):
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.1, 1.0, (rays, count + 1)), axis=-1)
    weights = rng.uniform(0.0, 1.0, (rays, count)) ** 2 * (rng.uniform(size=(rays, count)) > 0.3)
    weights[:, 0] += 0.1
    return t, weights


def test_hierarchical_draws_one_sample_uniformly_from_each_equal_share_of_the_weight():
    t, weights = _random_rows(7, 3000)
    drawn = draw(_array(t), _array(weights), 10, jax.random.key(8), padding=0.01)
    assert drawn.shape == (3000, 10)
    assert (np.diff(drawn) >= 0).all()
    padded = weights + 0.01
    cdf = np.cumsum(padded, axis=-1) / padded.sum(axis=-1, keepdims=True)
    cdf = np.concatenate([np.zeros((3000, 1)), cdf], axis=-1)
    u = np.stack([np.interp(x, a, c) for x, a, c in zip(np.asarray(drawn), t, cdf, strict=True)])
    shares = u * 10 - np.arange(10)
    assert (np.abs(shares - 0.5) <= 0.5 + 1e-3).all()
    _assert_uniform(np.clip(shares, 0, 1))


@pytest.mark.parametrize("count", [2, 3, 16])
def test_hierarchical_frequencies_are_proportional_to_the_weights(count):
    weights = np.array([0.1, 0.0, 0.4, 0.05, 0.25, 0.2])
    t = np.array([1.0, 1.5, 3.0, 3.1, 5.0, 5.5, 9.0])
    rays = 40_000 // count
    rows = [np.broadcast_to(x, (rays, len(x))) for x in (t, weights)]
    drawn = draw(*map(_array, rows), count, jax.random.key(9), padding=0.0)
    seen, _ = np.histogram(drawn, bins=t)
    assert seen.sum() == rays * count
    assert seen[1] == 0
    # One draw from each share varies less than independent ones: the test errs on the safe side.
    nonzero = weights > 0
    expected = weights[nonzero] * rays * count
    assert stats.chisquare(seen[nonzero], expected).pvalue > FALSE_ALARM


def test_hierarchical_carries_no_gradient():
    t, weights = map(_array, _random_rows(10, 4))

    def total(t, weights, key):
        return jnp.sum(hierarchical(t, weights, 8, key) ** 2)

    for key in (None, jax.random.key(0)):
        for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(t, weights, key):
            np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


@pytest.mark.parametrize("padding", [0.0, 1e-5])
def test_hierarchical_samples_a_ray_that_saw_nothing_evenly(padding):
    t = jnp.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    drawn = draw(t, jnp.zeros((1, 4)), 9, padding=padding)
    np.testing.assert_allclose(drawn[0], np.arange(9) / 2, atol=1e-6)


@pytest.mark.parametrize("where", [0, 3, 6])
@pytest.mark.parametrize("scale", [2.0**-60, 1.0, 2.0**60])
def test_hierarchical_puts_all_samples_into_a_dominant_weight(where, scale):
    t = _array(np.arange(8.0) ** 2)
    weights = jnp.zeros(7).at[where].set(scale)
    drawn = draw(t, weights, 5, padding=0.0)
    np.testing.assert_allclose(drawn, np.linspace(where**2, (where + 1) ** 2, 5), rtol=1e-6)
    drawn = draw(t, weights, 5, jax.random.key(1), padding=0.0)
    assert (drawn >= where**2).all()
    assert (drawn <= (where + 1) ** 2).all()


def test_hierarchical_maps_over_leading_dimensions():
    t, weights = (_array(x).reshape(2, 3, -1) for x in _random_rows(11, 6))
    whole = draw(t, weights, 7)
    mapped = jax.vmap(jax.vmap(lambda t, w: draw(t, w, 7)))(t, weights)
    np.testing.assert_allclose(whole, mapped, rtol=1e-6)
    np.testing.assert_allclose(whole[1, 2], draw(t[1, 2], weights[1, 2], 7), rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 6), (3, 5), (8, 8), (13, 4), (0, 3), (33, 64)])
def test_merge_sorts_every_pair_of_rows_of_zeros_and_ones(a, b):
    # By the 0-1 principle a network of minima and maxima that does so sorts every pair of rows.
    ones = [(i, j) for i in range(a + 1) for j in range(b + 1)]
    first = np.array([[0.0] * (a - i) + [1.0] * i for i, _ in ones])
    second = np.array([[0.0] * (b - j) + [1.0] * j for _, j in ones])
    expected = np.sort(np.concatenate([first, second], axis=-1), axis=-1)
    np.testing.assert_array_equal(_merge(_array(first), _array(second)), expected)


@several
@given(data=st.data(), a=st.sampled_from([0, 1, 5, 9]), b=st.sampled_from([1, 4, 7]))
def test_merge_equals_sorting_with_duplicates_and_infinities(data, a, b):
    number = st.one_of(
        st.integers(-2, 2).map(float), st.floats(width=32, allow_nan=False, allow_subnormal=False)
    )
    t, other = (sorted(data.draw(st.lists(number, min_size=n, max_size=n))) for n in (a, b))
    np.testing.assert_array_equal(_merge(_array(t), _array(other)), np.sort(_array(t + other)))


def test_merge_maps_over_leading_dimensions_and_passes_gradients_to_where_values_came_from():
    rng = np.random.default_rng(12)
    t, other = (_array(np.sort(rng.normal(size=(2, 3, n)))) for n in (4, 6))
    expected = np.sort(np.concatenate([t, other], axis=-1), axis=-1)
    np.testing.assert_array_equal(_merge(t, other), expected)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(merge)))(t, other), expected)
    gradient = jax.grad(lambda x: jnp.sum(_merge(x, other) ** 2))(t)
    np.testing.assert_allclose(gradient, 2 * t, rtol=1e-6)


def test_a_ray_without_a_length_has_samples_where_it_is():
    """What misses a box: its far is its near, which may be 0."""
    near = jnp.array([0.0, 0.0])
    t = stratified(near, jnp.array([0.0, 2.0]), 4, spacing="disparity")
    assert t[0].tolist() == [0.0] * 4
    assert np.isfinite(np.asarray(t)).all()

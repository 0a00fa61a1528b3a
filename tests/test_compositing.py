"""Weights, colours, depths and normals against closed forms, slow loops and finite differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxnerf import compositing
from jaxnerf.compositing import (
    accumulate,
    expected_depth,
    median_depth,
    normals,
    opacities,
    optical_depth,
    over,
    ray_opacity,
    surface_weights,
    transmittance,
    unit,
    volume_weights,
)

several = settings(
    deadline=None,
    max_examples=80,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)
_over = jax.jit(over)


def _array(values):
    return jnp.asarray(values, jnp.float32)


def _random_ray(seed, samples=12, batch=()):
    """Densities, some zero, and uneven fenceposts, in float64."""
    rng = np.random.default_rng(seed)
    t = 2.0 + np.cumsum(rng.uniform(0.05, 0.8, (*batch, samples + 1)), axis=-1)
    density = rng.exponential(1.0, (*batch, samples)) * (rng.uniform(size=(*batch, samples)) > 0.3)
    return density, t, rng.uniform(0.0, 1.0, (*batch, samples, 3))


def _weights_loop(density, t):
    """Eq. 3 of the paper, term by term."""
    weights = []
    for i in range(len(density)):
        reaching = math.exp(-sum(density[j] * (t[j + 1] - t[j]) for j in range(i)))
        weights.append(reaching * (1.0 - math.exp(-density[i] * (t[i + 1] - t[i]))))
    return weights


def _depth_at(density, t, distance):
    return sum(
        s * (min(max(distance, low), high) - low)
        for s, low, high in zip(density, t[:-1], t[1:], strict=True)
    )


def _median_by_bisection(density, t):
    low, high = t[0], t[-1]
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _depth_at(density, t, middle) < math.log(2) else (low, middle)
    return high


@pytest.mark.parametrize("seed", range(5))
def test_weights_match_a_slow_loop_of_equation_3(float64, seed):
    density, t, _ = _random_ray(seed)
    weights = volume_weights(jnp.asarray(density), jnp.asarray(t))
    np.testing.assert_allclose(weights, _weights_loop(density, t), rtol=0, atol=1e-14)
    single = volume_weights(*map(_array, (density, t)))
    np.testing.assert_allclose(single, _weights_loop(density, t), rtol=0, atol=1e-6)
    depth = [_depth_at(density, t, end) for end in t]
    np.testing.assert_allclose(optical_depth(jnp.asarray(density), jnp.asarray(t)), depth)
    np.testing.assert_allclose(
        transmittance(jnp.asarray(density), jnp.asarray(t)), np.exp(-1 * np.array(depth))
    )


@pytest.mark.parametrize("density", [1e-6, 0.3, 2.0, 50.0])
def test_a_slab_has_the_opacity_of_beers_law(density):
    t = np.sort(np.random.default_rng(1).uniform(1.0, 4.0, 65)).astype(np.float32)
    expected = -np.expm1(-density * (float(t[-1]) - float(t[0])))
    weights = volume_weights(jnp.full(64, density), jnp.asarray(t))
    np.testing.assert_allclose(ray_opacity(weights), expected, rtol=2e-6)
    one = opacities(jnp.full(1, density), jnp.asarray(t[[0, -1]]))
    np.testing.assert_allclose(one, [expected], rtol=1e-6)


@pytest.mark.parametrize("wall", [1e3, 1e10, 3e38])
def test_an_opaque_wall_returns_its_colour(wall):
    density = jnp.array([0.0, 0.0, wall, 5.0])
    colours = _array(np.random.default_rng(2).uniform(size=(4, 3)))
    weights = volume_weights(density, jnp.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(weights, [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(accumulate(weights, colours), colours[2])


_edge_density = st.sampled_from([0.0, 1e-20, 1e-3, 0.7, 40.0, 1e10])
_edge_length = st.sampled_from([0.0, 1e-6, 0.3, 2.0])


@jax.jit
def _value_and_gradients(density, t):
    probe = jnp.arange(1.0, 1.0 + density.shape[0])

    def scalars(density, t):
        weights = volume_weights(density, t)
        return jnp.stack([weights @ probe, expected_depth(weights, t), median_depth(density, t)])

    slopes = jax.jacrev(scalars, argnums=(0, 1))(density, t)
    return volume_weights(density, t), scalars(density, t), slopes


@several
@given(
    density=st.lists(_edge_density, min_size=6, max_size=6),
    lengths=st.lists(_edge_length, min_size=5, max_size=5),
    last=st.sampled_from([0.5, 1e10]),
)
def test_no_density_or_length_makes_weights_negative_more_than_1_or_undefined(
    density, lengths, last
):
    t = np.concatenate([[1.0], 1.0 + np.cumsum([*lengths, last])])
    weights, scalars, slopes = _value_and_gradients(_array(density), _array(t))
    assert (np.asarray(weights) >= 0).all()
    assert np.sum(weights) <= 1 + 3e-7
    np.testing.assert_allclose(weights, _weights_loop(density, _array(t).tolist()), atol=1e-6)
    for found in (scalars, *slopes):
        assert np.isfinite(found).all()


@pytest.mark.parametrize("last", [1e10, jnp.inf])
def test_an_unbounded_interval_takes_what_is_left_where_there_is_density(last):
    t = jnp.array([0.0, 1.0, last])
    left = math.exp(-0.5)
    np.testing.assert_allclose(
        volume_weights(jnp.array([0.5, 1.0]), t), [1 - left, left], rtol=1e-6
    )
    clear = jnp.array([0.5, 0.0])
    np.testing.assert_allclose(volume_weights(clear, t), [1 - left, 0.0], rtol=1e-6)
    np.testing.assert_allclose(expected_depth(volume_weights(clear, t), t), 0.5, rtol=1e-6)
    assert median_depth(clear, t) == 1.0
    slope = jax.grad(lambda d: ray_opacity(volume_weights(d, t)))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(slope, [0.0, 0.0], atol=1e-6)


@several
@given(seed=seeds, where=st.integers(0, 11), share=st.floats(0.0, 1.0))
def test_splitting_an_interval_changes_nothing(float64, seed, where, share):
    density, t, colours = _random_ray(seed)
    cut = t[where] + share * (t[where + 1] - t[where])
    split = (
        np.insert(density, where, density[where]),
        np.insert(t, where + 1, cut),
        np.insert(colours, where, colours[where], axis=0),
    )
    results = []
    for d, fence, rgb in ((density, t, colours), split):
        d, fence = jnp.asarray(d), jnp.asarray(fence)
        weights = volume_weights(d, fence)
        results.append([*accumulate(weights, jnp.asarray(rgb)), median_depth(d, fence)])
    np.testing.assert_allclose(*results, rtol=0, atol=1e-12)


@several
@given(seed=seeds, where=st.sampled_from([1, 5, 11]))
def test_the_front_of_a_ray_lies_over_its_back(float64, seed, where):
    density, t, colours = _random_ray(seed)

    def composited(part, fence):
        weights = volume_weights(jnp.asarray(density[part]), jnp.asarray(t[fence]))
        return accumulate(weights, jnp.asarray(colours[part])), ray_opacity(weights)

    whole, _ = composited(slice(None), slice(None))
    front = composited(slice(0, where), slice(0, where + 1))
    back, _ = composited(slice(where, None), slice(where, None))
    np.testing.assert_allclose(_over(*front, back), whole, rtol=0, atol=1e-12)


def test_gradients_match_finite_differences(float64):
    density, t, colours = map(jnp.asarray, _random_ray(3, samples=8))
    # Away from 0, below which a density means nothing.
    density = density + 0.05

    @jax.jit
    def outputs(density, t, colours):
        weights = volume_weights(density, t)
        return (
            weights,
            accumulate(weights, colours),
            expected_depth(weights, t),
            median_depth(density, t),
            optical_depth(density, t),
            opacities(density, t),
        )

    assert _depth_at(density, t, t[-1]) > math.log(2)
    check_grads(outputs, (density, t, colours), order=1, atol=1e-8, rtol=1e-7, eps=1e-5)
    check_grads(_over, (colours[0], density[0], colours[1]), 1, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(("density", "length"), [(0.4, 3.0), (1.7, 5.0), (6.0, 12.0)])
def test_expected_depth_in_an_exponential_medium(float64, density, length):
    t = jnp.linspace(2.0, 2.0 + length, 8001)
    weights = volume_weights(jnp.full(8000, density), t)
    left = math.exp(-density * length)
    expected = 2.0 + 1.0 / density - length * left / (1.0 - left)
    np.testing.assert_allclose(expected_depth(weights, t), expected, rtol=0, atol=2e-6)


def test_expected_depth_is_the_mean_of_centres_over_what_was_stopped():
    density, t, _ = _random_ray(4)
    weights = np.array(_weights_loop(density, t))
    expected = sum(w * (a + b) / 2 for w, a, b in zip(weights, t[:-1], t[1:], strict=True))
    expected /= sum(weights)
    for scale in (1.0, 1e-3, 1e-30):
        found = expected_depth(_array(scale * weights), _array(t))
        np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize("total", [1.0, 1e-10, 1e-25, 1e-36])
def test_gradient_of_expected_depth_survives_rays_that_stop_hardly_anything(total):
    weights, t = jnp.array([0.25, 0.5, 0.25]) * total, jnp.array([0.0, 1.0, 2.0, 3.0])
    slope = jax.grad(expected_depth)(weights, t)
    np.testing.assert_allclose(slope * total, [-1.0, 0.0, 1.0], atol=1e-5)


@pytest.mark.parametrize("density", [0.5, 3.0, 1e4])
def test_median_depth_of_a_slab_lies_ln_2_mean_free_paths_in(density):
    t = np.concatenate([[2.0, 3.5], np.linspace(5.0, 12.0, 64)])
    sigma = np.where(t[:-1] >= 5.0, density, 0.0)
    found = median_depth(_array(sigma), _array(t))
    np.testing.assert_allclose(found, 5.0 + math.log(2) / density, rtol=1e-6)
    unbounded = median_depth(_array([0.0, density]), _array([0.0, 5.0, 1e10]))
    # The last interval has no end to interpolate towards; samples there count at its start.
    assert unbounded == 5.0


@pytest.mark.parametrize("seed", range(4))
def test_median_depth_matches_a_bisection(float64, seed):
    density, t, _ = _random_ray(seed, samples=20)
    assert _depth_at(density, t, t[-1]) > math.log(2)
    found = median_depth(jnp.asarray(density), jnp.asarray(t))
    np.testing.assert_allclose(found, _median_by_bisection(density, t), rtol=0, atol=1e-12)


@jax.jit
def _slopes_of_an_empty_ray(zeros, t):
    return (
        jax.grad(expected_depth)(zeros, t),
        jax.grad(median_depth)(zeros, t),
        jax.grad(lambda w: normals(w, jnp.ones((3, 3))).sum())(zeros),
    )


@pytest.mark.parametrize(("last", "expected"), [(3.0, 3.0), (1e10, 2.0), (jnp.inf, 2.0)])
def test_rays_that_stop_nothing_end_at_the_last_fencepost(last, expected):
    t, density = jnp.array([0.0, 1.0, 2.0, last]), jnp.zeros(3)
    weights = volume_weights(density, t)
    np.testing.assert_array_equal(weights, density)
    assert expected_depth(weights, t).item() == expected
    assert median_depth(density, t).item() == expected
    assert median_depth(jnp.array([0.3, 0.3, 0.0]), t).item() == expected
    np.testing.assert_array_equal(over(jnp.zeros(3), ray_opacity(weights), 0.25), [0.25] * 3)
    np.testing.assert_array_equal(normals(weights, jnp.ones((3, 3))), jnp.zeros(3))
    for slope in _slopes_of_an_empty_ray(density, t):
        assert np.isfinite(slope).all()


def _normalised(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def test_normals_of_a_gaussian_ball_point_outward(float64):
    def ball(x):
        return 1e6 * jnp.exp(-8.0 * jnp.sum(x * x))

    rng = np.random.default_rng(5)
    origins = 4.0 * _normalised(rng.normal(size=(30, 3)))
    directions = _normalised(rng.uniform(-0.5, 0.5, (30, 3)) - origins)
    t = np.linspace(2.0, 6.0, 401)
    points = origins[:, None] + 0.5 * (t[1:] + t[:-1])[:, None] * directions[:, None]
    fences = jnp.asarray(np.broadcast_to(t, (30, 401)))
    density, gradient = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(ball))))(points)
    weights = volume_weights(density, fences)
    assert (np.asarray(ray_opacity(weights)) > 0.99).all()
    found = np.asarray(normals(weights, gradient))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, atol=1e-12)
    outward = _normalised(points)
    summed = np.sum(np.asarray(weights)[..., None] * outward, axis=1)
    np.testing.assert_allclose(found, _normalised(summed), atol=1e-12)
    surface = origins + np.asarray(median_depth(density, fences))[:, None] * directions
    assert (np.sum(found * _normalised(surface), axis=-1) > 0.99).all()
    assert (np.sum(found * directions, axis=-1) < 0).all()


def test_unit_vectors_and_their_gradient_at_zero():
    v = jnp.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [0.0, -1e-15, 0.0], [1e15, 0.0, 0.0]])
    expected = [[0.6, 0.0, 0.8], [0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]
    np.testing.assert_allclose(unit(v), expected, atol=1e-6)
    assert jnp.isfinite(jax.jacobian(unit)(jnp.zeros(3))).all()


def test_over_lays_colours_on_white_black_given_and_random_backgrounds():
    rng = np.random.default_rng(6)
    alpha = rng.uniform(size=(2, 5)).astype(np.float32)
    alpha[0, 0], alpha[0, 1] = 0.0, 1.0
    colour = (alpha[..., None] * rng.uniform(size=(2, 5, 3))).astype(np.float32)
    teal = np.array([0.0, 0.5, 0.25], np.float32)
    noise = rng.uniform(size=(2, 5, 3)).astype(np.float32)
    for background, given_as in (
        (1.0, 1.0),
        (0.0, 0.0),
        (teal, _array(teal)),
        (noise, _array(noise)),
    ):
        found = over(_array(colour), _array(alpha), given_as)
        rows = np.broadcast_to(background, (2, 5, 3))
        for ray in np.ndindex(2, 5):
            expected = [
                c + (1 - alpha[ray]) * b for c, b in zip(colour[ray], rows[ray], strict=True)
            ]
            np.testing.assert_allclose(found[ray], expected, atol=1e-6)
        np.testing.assert_array_equal(found[0, 0], rows[0, 0])
        np.testing.assert_array_equal(found[0, 1], colour[0, 1])
    mapped = jax.vmap(lambda c, a, b: over(c, a, b))(*map(_array, (colour, alpha, noise)))
    np.testing.assert_allclose(mapped, found, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_the_first_opaque_sample_alone_decides_a_surface(threshold):
    density, t, _ = _random_ray(7, samples=10, batch=(4, 5))
    density[0, 0] = 0.0
    found = surface_weights(_array(density), _array(t), threshold)
    for ray in np.ndindex(4, 5):
        alpha = 1 - np.exp(-density[ray] * np.diff(t[ray]))
        expected = np.zeros(10)
        for i in range(10):
            if alpha[i] >= threshold:
                expected[i] = 1.0
                break
        np.testing.assert_array_equal(found[ray], expected)
    mapped = jax.vmap(lambda d, t: surface_weights(d, t, threshold))(_array(density), _array(t))
    np.testing.assert_array_equal(mapped, found)


@several
@given(seed=seeds)
def test_a_surface_is_the_limit_of_a_volume_whose_densities_grow(seed):
    density, t, _ = map(_array, _random_ray(seed))
    hard = surface_weights(1e6 * density, t)
    np.testing.assert_allclose(volume_weights(1e6 * density, t), hard, atol=1e-6)
    np.testing.assert_allclose(hard.sum(), float((density > 0).any()))


@pytest.mark.parametrize(
    "name",
    [
        "optical_depth",
        "transmittance",
        "opacities",
        "volume_weights",
        "surface_weights",
        "median_depth",
        "ray_opacity",
        "expected_depth",
        "accumulate",
        "normals",
    ],
)
def test_every_function_takes_any_leading_shape(name):
    function = getattr(compositing, name)
    density, t, values = map(_array, _random_ray(8, batch=(2, 3)))
    weights = volume_weights(density, t)
    inputs = {
        "ray_opacity": (weights,),
        "expected_depth": (weights, t),
        "accumulate": (weights, values),
        "normals": (weights, values),
    }.get(name, (density, t))
    whole = function(*inputs)
    nested = jax.jit(jax.vmap(jax.vmap(function)))(*inputs)
    np.testing.assert_allclose(whole, nested, rtol=1e-6, atol=1e-7)

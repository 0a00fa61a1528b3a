"""Weights that the renderer computes under jit, against a loop in double precision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxnerf import Hierarchical, Rays, render_rays
from jaxnerf.compositing import opacity_weights, volume_weights


class Waves:
    """Density that changes by four powers of ten along a ray."""

    def init(self, key):
        return jnp.float32(0.5)

    def density(self, params, positions):
        wave = jnp.sin(7.0 * positions[..., 0]) * jnp.cos(5.0 * positions[..., 1])
        return params * jnp.exp(5.0 * wave), positions[..., :0]

    def colour(self, params, features, view_directions):
        return jnp.full(view_directions.shape, 0.5)


def rays_of_all_lengths(count: int) -> Rays:
    """Rays from about the origin, whose directions are 1e-3 to 1e3 long."""
    random = np.random.default_rng(0)
    unit = random.normal(size=(count, 3))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    length = 10.0 ** random.uniform(-3.0, 3.0, count)
    parts = (random.normal(size=(count, 3)), unit * length[:, None], unit, 2 / length, 6 / length)
    return Rays(*(jnp.asarray(part, jnp.float32) for part in parts))


def slow_weights(density, t, length) -> np.ndarray:
    """NeRF, eq. 3, sample by sample in double precision."""
    density, t = np.asarray(density, np.float64), np.asarray(t, np.float64)
    light, weights = np.ones(len(t)), []
    for sample in range(density.shape[1]):
        passed = np.exp(-density[:, sample] * length * (t[:, sample + 1] - t[:, sample]))
        weights.append(light * (1.0 - passed))
        light = light * passed
    return np.stack(weights, axis=-1)


@pytest.mark.parametrize(
    ("sample_at", "spacing", "drawn"),
    list(itertools.product(("middle", "start"), ("depth", "disparity"), (False, True))),
)
def test_weights_under_jit_are_those_of_a_slow_loop_and_sum_to_at_most_1(sample_at, spacing, drawn):
    sampler = Hierarchical((64, 128), spacing, sample_at)
    rays = rays_of_all_lengths(2000)
    length = np.linalg.norm(np.asarray(rays.directions, np.float64), axis=-1)
    key = jax.random.key(1) if drawn else None

    @jax.jit
    def see(rays):
        seen = render_rays(Waves(), jnp.float32(0.5), rays, sampler, key, proposals=True)
        levels = (*seen.proposals, seen)
        densities = [
            Waves().density(jnp.float32(0.5), level.samples.positions(rays))[0] for level in levels
        ]
        return levels, densities

    for level, density in zip(*see(rays), strict=True):
        samples = level.samples
        t = np.concatenate([samples.t0, samples.t1[:, -1:]], axis=-1)
        expected = slow_weights(density, t, length)
        np.testing.assert_allclose(level.weights, expected, rtol=0, atol=1e-6)
        assert float(level.opacity.max()) <= 1.0 + 2e-6
        assert np.asarray(level.weights, np.float64).sum(axis=-1).max() <= 1.0 + 2e-6


def test_weights_of_opacities_are_a_loop_and_those_of_densities(float64):
    opacity = np.random.default_rng(0).random((3, 9))
    opacity[1, 4], opacity[2, 0] = 1.0, 0.0
    expected = np.empty_like(opacity)
    for ray, row in enumerate(opacity):
        left = 1.0
        for place, alpha in enumerate(row):
            expected[ray, place] = left * alpha
            left *= 1.0 - alpha
    np.testing.assert_allclose(opacity_weights(jnp.asarray(opacity)), expected, atol=1e-15)
    depth = jnp.asarray(-np.log1p(-opacity[0]))
    weights = volume_weights(depth, jnp.arange(10.0))
    np.testing.assert_allclose(weights, expected[0], atol=1e-14)
    aim = jnp.asarray(np.random.default_rng(1).normal(size=9))
    check_grads(lambda a: aim @ opacity_weights(a), (jnp.asarray(opacity[0]),), 2, rtol=1e-6)
    # Behind what is opaque nothing counts, and in front of it the formula's slope does.
    slope = jax.grad(lambda a: aim @ opacity_weights(a))(jnp.asarray(opacity[1]))
    assert (slope[5:] == 0.0).all()
    assert (slope[:5] != 0.0).all()

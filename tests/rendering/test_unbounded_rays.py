"""Rays with an infinite far, and no rays at all: never a number that is none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import (
    Camera,
    Hierarchical,
    Occupancy,
    OccupancySampler,
    Stratified,
    cast_rays,
    render_image,
    render_rays,
)
from jaxnerf.config.presets import preset
from jaxnerf.sampling.intervals import unbounded
from jaxnerf.sampling.occupancy import encode
from jaxnerf.training.optimizers import NetworkOptimizerConfig, learning_rate

CAMERA = Camera.look_at((0.0, -4.0, 1.0), width=8, height=8)
PIXELS = jnp.asarray(np.random.default_rng(0).uniform(0, 8, (5, 2)), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Soft:
    """A soft ball of radius 1."""

    def init(self, key):
        return jnp.float32(8.0)

    def density(self, params, positions):
        r2 = jnp.sum(positions * positions, axis=-1)
        return params * jax.nn.sigmoid(6.0 * (1.0 - r2)), positions

    def colour(self, params, features, view_directions):
        return jax.nn.sigmoid(features)


render = jax.jit(render_rays, static_argnums=0)


@pytest.mark.parametrize(
    ("near", "spacing", "sample_at"),
    [
        (0.0, "depth", "middle"),
        (0.0, "disparity", "start"),
        (0.5, "depth", "start"),
        (0.5, "disparity", "middle"),
    ],
)
def test_an_unbounded_ray_sees_what_a_long_one_does(near, spacing, sample_at):
    field, params = Soft(), Soft().init(None)
    settings = Hierarchical((384, 192), spacing=spacing, sample_at=sample_at)
    rays = cast_rays(CAMERA, PIXELS, near=near)  # far is infinite by default
    seen = render(field, params, rays, settings)
    long = dataclasses.replace(settings, spacing="depth", sample_at="middle")
    truth = render(field, params, cast_rays(CAMERA, PIXELS, near=near, far=12.0), long)
    np.testing.assert_allclose(seen.colour, truth.colour, atol=0.02)
    for value in jax.tree.leaves(seen):
        assert np.isfinite(np.asarray(value)).all()

    def loss(params, camera):
        shown = render_rays(field, params, cast_rays(camera, PIXELS, near=near), settings)
        return jnp.mean(shown.colour)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True))(params, CAMERA)
    for leaf in (gradients[0], gradients[1].camera_to_world, gradients[1].focal):
        assert np.isfinite(np.asarray(leaf)).all()
    assert float(jnp.abs(gradients[0])) > 0.0


def test_samples_of_unbounded_rays_ascend_evenly_in_disparity():
    t = np.asarray(unbounded(jnp.array([0.0, 2.0]), 65))
    assert (np.diff(t, axis=-1) > 0.0).all()
    # 1 / (t + 1) from 1 on, and 1 / t from 1 / 2 on.
    np.testing.assert_allclose(1.0 / (t[0] + 1.0), np.linspace(1.0, 0.0, 65), atol=2e-4)
    np.testing.assert_allclose(1.0 / t[1], np.linspace(0.5, 0.0, 65), atol=1e-4)
    random = np.asarray(unbounded(jnp.zeros(1), 64, jax.random.key(0)))
    assert (np.diff(random, axis=-1) >= 0.0).all()
    assert np.isfinite(random).all()


def test_no_rays_give_nothing_and_no_error():
    field, params, none = Soft(), Soft().init(None), jnp.zeros((0, 2))
    rays = cast_rays(CAMERA, none, 1.0, 6.0)
    assert rays.directions.shape == (0, 3)
    assert render(field, params, rays, Hierarchical((8, 8))).colour.shape == (0, 3)
    cells = encode(jnp.ones((8,) * 3, bool), jnp.full((8,) * 3, 0.01))
    one = jnp.float32(0.25)
    occupancy = Occupancy(cells, jnp.full(3, -1.0), one, one)
    for sampler in (
        OccupancySampler(occupancy),
        OccupancySampler(occupancy, samples=8, max_steps=16, mean_samples=4.0),
    ):
        seen = render(field, params, rays, sampler)
        assert seen.colour.shape == (0, 3)
        assert not seen.samples.used.any()
    nothing = dataclasses.replace(CAMERA, size=np.array([0, 8], np.int32))
    with pytest.raises(ValueError, match="0 x 8"):
        render_image(field, params, nothing, near=1.0, far=6.0)
    with pytest.raises(ValueError, match="0 x 8"):
        render_image(field, params, nothing, OccupancySampler(occupancy))


def test_the_learning_rate_does_not_fall_after_the_last_step():
    config = NetworkOptimizerConfig(learning_rate=1e-2, final_learning_rate=1e-4, delay_steps=0)
    total = jnp.int32(100)
    last = learning_rate(config, total, total)
    np.testing.assert_allclose(last, 1e-4, rtol=1e-5)
    np.testing.assert_allclose(learning_rate(config, jnp.int32(1000), total), last, rtol=1e-6)
    assert preset("nerf").nerf.optimizer.final_learning_rate > 0.0


@pytest.mark.parametrize("key", [None, 3])
def test_even_disparity_of_a_ray_that_begins_at_0_covers_it(key):
    rays = cast_rays(CAMERA, PIXELS, far=6.0)  # near is 0 by default
    drawn = None if key is None else jax.random.key(key)
    samples = Stratified(64, spacing="disparity")(None, None, rays, drawn)
    np.testing.assert_array_equal(samples.t0[:, 0], 0.0)
    np.testing.assert_array_equal(samples.t1[:, -1], np.float32(6.0))
    assert (np.asarray(samples.t1 - samples.t0) > 0.0).all()
    far_half = (np.asarray(samples.t) > 0.012).sum(
        axis=-1
    )  # disparity there is half of the nearest
    np.testing.assert_allclose(far_half, 32, atol=1)
    assert (np.diff(np.asarray(samples.s1), axis=-1) >= 0.0).all()
    np.testing.assert_allclose(samples.s1[:, -1], 1.0, rtol=1e-6)


@pytest.mark.parametrize("far", [6.0, np.inf])
def test_drawn_intervals_cover_the_ray_from_near_on(far):
    rays = cast_rays(CAMERA, PIXELS, near=1.0, far=far)
    samples = Stratified(4)(None, None, rays, jax.random.key(0))
    np.testing.assert_array_equal(samples.t0[:, 0], 1.0)
    np.testing.assert_array_equal(samples.t0[:, 1:], samples.t1[:, :-1])
    if np.isfinite(far):
        np.testing.assert_array_equal(samples.t1[:, -1], np.float32(far))
    assert len(np.unique(np.asarray(samples.t1)[:, 0])) == len(PIXELS)  # drawn for each ray


def test_an_empty_pixel_is_as_far_as_the_horizon_by_any_sampler():
    nothing = jnp.float32(0.0)
    picture = render_image(Soft(), nothing, CAMERA, Stratified(8), horizon=50.0)
    np.testing.assert_allclose(picture.depth, 50.0)
    np.testing.assert_allclose(picture.depth_median, 50.0)

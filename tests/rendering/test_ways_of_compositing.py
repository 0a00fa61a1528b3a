"""Maximum, mean and attenuation: closed forms, dense as packed samples, gradients, training."""

import dataclasses
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from jaxnerf import Occupancy, OccupancySampler, Rays, Stratified, render_rays
from jaxnerf.compositing import (
    TO_THE_END,
    greatest_density_of,
    median_place_of,
    transmittance_of,
    weights_of,
)
from jaxnerf.sampling import dense_samples

WAYS = ("volume", "surface", *TO_THE_END)
RED, BLUE = np.array([0.9, 0.2, 0.1]), np.array([0.1, 0.3, 0.8])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Slabs:
    """Between planes across x, a red slab from 1 to 2 and a blue one from 3 to 5."""

    def init(self, key):
        return {"red": jnp.array(0.7), "blue": jnp.array(0.2)}

    def density(self, params, positions):
        x = positions[..., 0]
        is_red, is_blue = (x > 1.0) & (x < 2.0), (x > 3.0) & (x < 5.0)
        density = jnp.where(is_red, params["red"], jnp.where(is_blue, params["blue"], 0.0))
        return density.astype(x.dtype), is_red.astype(x.dtype)[..., None]

    def colour(self, params, features, view_directions):
        red, blue = (jnp.asarray(each, features.dtype) for each in (RED, BLUE))
        shape = (1,) * (features.ndim - 1) + (3,)
        return features * red.reshape(shape) + (1.0 - features) * blue.reshape(shape)


def rays(backwards: bool = False, count: int = 3) -> Rays:
    """Along x, from 0 to 6 or back."""
    origins = np.tile([[6.0 if backwards else 0.0, 0.4, 0.6]], (count, 1))
    directions = np.tile([[-1.0 if backwards else 1.0, 0.0, 0.0]], (count, 1))
    ends = np.zeros(count), np.full(count, 6.0)
    return Rays(
        *(jnp.asarray(each, jnp.float32) for each in (origins, directions, directions, *ends))
    )


def occupancy(step: float = 0.01) -> Occupancy:
    cells = np.zeros((6, 6, 6), bool)
    cells[1], cells[3:5] = True, True
    density = np.zeros(cells.shape)
    density[1], density[3:5] = 50.0, 50.0  # far too much: rays that are ended by it end wrongly
    return Occupancy.with_density(cells, density, np.zeros(3), 1.0, step)


def seen(how: Any, packed=False, backwards=False, background: Any = 1.0, params: Any = None):
    sampler = OccupancySampler(occupancy()) if packed else Stratified(600)
    params = Slabs().init(None) if params is None else params
    # The sampler is not an argument: how many samples its rays can take must be known.
    see = jax.jit(
        lambda params, rays: render_rays(
            Slabs(), params, rays, sampler, background=background, compositing=how
        )
    )
    return see(params, rays(backwards))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_densest_place_decides(packed, backwards):
    found = seen("maximum", packed, backwards)
    np.testing.assert_allclose(found.colour, np.tile(RED, (3, 1)), atol=1e-6)
    np.testing.assert_array_equal(found.opacity, 1.0)
    first = 4.0 if backwards else 1.0  # of places that are as dense the nearest
    for depth in (found.depth, found.depth_median):
        np.testing.assert_allclose(depth, first + 0.005, atol=0.006)


def test_the_median_depth_of_a_surface_is_in_its_first_opaque_sample():
    """Two of red's samples together are more than half opaque; the first that is so alone is blue's."""
    found = seen("surface", params={"red": jnp.array(60.0), "blue": jnp.array(120.0)})
    np.testing.assert_allclose(found.colour, np.tile(BLUE, (3, 1)), atol=1e-6)
    for depth in (found.depth, found.depth_median):
        np.testing.assert_allclose(depth, 3.005, atol=0.006)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_mean_hides_nothing_and_is_as_opaque_as_the_volume(packed, backwards):
    found = seen("mean", packed, backwards)
    opacity = 1.0 - math.exp(-1.1)  # 0.7 of red and 2 x 0.2 of blue
    mixed = (0.7 * RED + 0.4 * BLUE) / 1.1
    right = opacity * mixed + (1.0 - opacity)
    np.testing.assert_allclose(found.opacity, opacity, rtol=1e-5)
    np.testing.assert_allclose(found.colour, np.tile(right, (3, 1)), atol=1e-5)
    mean, median = (0.7 * 1.5 + 0.4 * 4.0) / 1.1, 1.0 + 0.55 / 0.7
    if backwards:
        mean, median = 6.0 - mean, 6.0 - median
    np.testing.assert_allclose(found.depth, mean, atol=1e-3)
    np.testing.assert_allclose(found.depth_median, median, atol=1e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_attenuation_is_the_background_through_the_integral(packed):
    behind = np.array([0.9, 0.5, 0.2])
    found = seen("attenuation", packed, background=jnp.asarray(behind, jnp.float32))
    np.testing.assert_allclose(found.colour, np.tile(math.exp(-1.1) * behind, (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.opacity, 1.0 - math.exp(-1.1), rtol=1e-5)
    volume = seen("volume", packed)
    if not packed:
        np.testing.assert_allclose(found.depth, volume.depth, rtol=1e-6)
        np.testing.assert_allclose(found.depth_median, volume.depth_median, rtol=1e-6)


def test_little_light_is_not_lost_to_rounding():
    params = {"red": jnp.array(12.0), "blue": jnp.array(2.0)}
    found = seen("attenuation", params=params)
    np.testing.assert_allclose(found.colour, math.exp(-16.0), rtol=1e-4)


@pytest.mark.parametrize("how", TO_THE_END)
def test_no_ray_is_ended_early_where_all_of_it_counts(how):
    found = seen(how, packed=True)
    assert bool(found.is_complete.all())
    assert not np.asarray(found.samples.early_stopped).any()
    assert np.asarray(seen("volume", packed=True).samples.early_stopped).all()


@pytest.mark.parametrize("how", WAYS)
def test_nothing_on_a_ray_shows_the_background(how):
    nothing = {"red": jnp.array(0.0), "blue": jnp.array(0.0)}
    for packed in (False, True):
        found = seen(how, packed, background=0.25, params=nothing)
        np.testing.assert_array_equal(found.colour, 0.25)
        np.testing.assert_array_equal(found.opacity, 0.0)
        np.testing.assert_allclose(found.depth_median, 6.0)


def test_one_colour_is_mixed_as_the_volume_shows_it():
    """Where all is of one colour, which part of it is in front does not matter."""
    rng = np.random.default_rng(0)
    density = jnp.asarray(rng.exponential(1.0, (4, 20)), jnp.float32)
    along = rays(count=4)
    samples = dense_samples(along, jnp.linspace(0.0, 6.0, 21)[None] + jnp.zeros((4, 1)))
    mixed, volume = (weights_of(samples, density, how) for how in ("mean", "volume"))
    np.testing.assert_allclose(mixed.sum(axis=-1), volume.sum(axis=-1), rtol=1e-5)
    for row, found in zip(np.asarray(density, np.float64), mixed, strict=True):
        depth = row * 0.3
        right = depth / depth.sum() * (1.0 - math.exp(-depth.sum()))
        np.testing.assert_allclose(found, right, rtol=1e-4)
    np.testing.assert_allclose(
        transmittance_of(samples, density), 1.0 - volume.sum(axis=-1), atol=1e-6
    )
    np.testing.assert_array_equal(greatest_density_of(samples, density), density.max(axis=-1))


@pytest.mark.parametrize("thickness", [1e-9, 1e-5, 9.9e-3, 1.01e-2, 1.0, 30.0])
@pytest.mark.parametrize("how", ["mean", "attenuation"])
def test_gradients_to_densities_are_those_of_finite_differences(float64, how, thickness):
    along = jax.tree.map(lambda x: x.astype(jnp.float64), rays(count=2))
    samples = dense_samples(along, jnp.linspace(0.0, 6.0, 9)[None] + jnp.zeros((2, 1)))
    rng = np.random.default_rng(1)
    density = jnp.asarray(rng.uniform(0.5, 1.0, (2, 8)) * thickness / 6.0)
    of = jnp.asarray(rng.normal(size=(2, 8)))

    def pixel(scale):
        here = density * jnp.exp(scale)
        if how == "attenuation":
            return transmittance_of(samples, here)
        return jnp.sum(weights_of(samples, here, how) * of, axis=-1)

    check_grads(pixel, (jnp.zeros((2, 8)),), order=2, modes=["rev"], eps=1e-4, rtol=1e-4, atol=1e-9)


def test_the_mean_of_next_to_nothing_has_the_right_slope():
    along = rays(count=1)
    samples = dense_samples(along, jnp.linspace(0.0, 6.0, 7)[None])
    slope = jax.grad(lambda d: weights_of(samples, d, "mean").sum())(jnp.full((1, 6), 1e-8))
    np.testing.assert_allclose(slope, 1.0, rtol=1e-5)  # of 1 - exp(-sum), in intervals of 1


def test_the_greatest_density_carries_a_gradient_where_the_weights_do_not():
    density = jnp.array([[0.1, 0.7, 0.3, 0.7]])
    samples = dense_samples(rays(count=1), jnp.linspace(0.0, 6.0, 5)[None])
    np.testing.assert_array_equal(weights_of(samples, density, "maximum"), [[0, 1, 0, 0]])
    weight = jax.grad(lambda d: weights_of(samples, d, "maximum")[0, 1])(density)
    np.testing.assert_array_equal(weight, 0.0)
    slope = jax.grad(lambda d: greatest_density_of(samples, d).sum())(density)
    np.testing.assert_allclose(slope.sum(), 1.0)
    np.testing.assert_array_equal(np.asarray(slope)[:, [0, 2]], 0.0)


@pytest.mark.parametrize("how", ["mean", "attenuation"])
def test_densities_are_found_again_from_pixels(how):
    """Two densities, from what two colours of light show of them."""

    def loss(logs):
        params = {name: jnp.exp(value) for name, value in logs.items()}
        along = rays(count=1)
        # One ray through all of it, one through the red slab alone.
        along = jax.tree.map(lambda x: jnp.concatenate([x, x]), along)
        along = dataclasses.replace(along, far=jnp.array([6.0, 2.5]))
        colour = render_rays(Slabs(), params, along, Stratified(150), compositing=how).colour
        return jnp.sum((colour - target) ** 2)

    target = 0.0
    truth = {"red": jnp.log(0.7), "blue": jnp.log(0.2)}
    along = jax.tree.map(lambda x: jnp.concatenate([x, x]), rays(count=1))
    along = dataclasses.replace(along, far=jnp.array([6.0, 2.5]))
    target = render_rays(
        Slabs(), {k: jnp.exp(v) for k, v in truth.items()}, along, Stratified(150), compositing=how
    ).colour
    logs = {"red": jnp.array(-1.5), "blue": jnp.array(-0.5)}
    step = optax.sgd(0.5, momentum=0.9)
    state = step.init(logs)

    @jax.jit
    def update(logs, state):
        change, state = step.update(jax.grad(loss)(logs), state)
        return optax.apply_updates(logs, change), state

    for _ in range(300):
        logs, state = update(logs, state)
    for name, value in truth.items():
        np.testing.assert_allclose(logs[name], value, atol=0.02)


def test_half_of_no_weight_is_at_the_end():
    samples = dense_samples(rays(count=1), jnp.linspace(0.0, 6.0, 5)[None])
    np.testing.assert_allclose(median_place_of(samples, jnp.zeros((1, 4)), rays(count=1)), 6.0)


def test_an_unknown_way_is_refused():
    samples = dense_samples(rays(count=1), jnp.linspace(0.0, 6.0, 5)[None])
    unchecked = inspect.unwrap(weights_of)  # by the suite's types, which would refuse it before
    with pytest.raises(ValueError, match=r"compositing: must be one of 'volume', .*got 'minimum'"):
        unchecked(samples, jnp.ones((1, 4)), "minimum")

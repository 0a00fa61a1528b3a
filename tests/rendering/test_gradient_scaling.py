"""Gradients near cameras: smaller by the square of the distance, of pictures that stay the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import Camera, ComposedField, OccupancySampler, Stratified, cast_rays, render_rays
from jaxnerf.rendering.shading import scale_gradients_near
from jaxnerf.sampling import Occupancy
from jaxnerf.sampling.occupancy import encode

EYE, REACH, SHELLS, THICK = (0.0, -2.0, 0.3), 2.2, 4096, 1e-3


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Shells:
    """A density and a grey for each of many thin shells around the eye: samples have each their own."""

    def init(self, key):
        drawn = jax.random.uniform(key, (2, SHELLS), minval=0.1, maxval=0.6)
        return {"density": drawn[0], "grey": drawn[1]}

    def density(self, params, positions):
        eye = jnp.broadcast_to(jnp.asarray(EYE, positions.dtype), positions.shape)
        shell = (jnp.linalg.norm(positions - eye, axis=-1) / THICK).astype(jnp.int32)
        return params["density"][shell], params["grey"][shell]

    def colour(self, params, features, view_directions):
        return jnp.broadcast_to(features[..., None], (*features.shape, 3))


def full_grid() -> OccupancySampler:
    code = encode(jnp.ones((8,) * 3, bool), jnp.full((8,) * 3, 1e-6))
    grid = Occupancy(code, jnp.full(3, -2.0), jnp.float32(0.5), jnp.float32(0.11))
    return OccupancySampler(grid, samples=60)


SAMPLERS = {"dense": Stratified(24), "packed": full_grid()}


def ray():
    camera = Camera.look_at(EYE, (0.1, 0.0, 0.0), width=8, height=8, field_of_view=50.0)
    return cast_rays(camera, jnp.asarray([[1.5, 6.0]]), 0.4, 3.6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_distances_are_from_the_origins_of_rays(name):
    rays = ray()
    samples = SAMPLERS[name](Shells(), Shells().init(jax.random.key(0)), rays, None)
    positions, distances = (
        np.asarray(x) for x in (samples.positions(rays), samples.distances(rays))
    )
    used = slice(None) if samples.packing is None else np.asarray(samples.packing.used)
    expected = np.linalg.norm(positions - np.asarray(EYE, np.float32), axis=-1)
    assert distances[used].size > 15
    np.testing.assert_allclose(distances[used], expected[used], rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_near_learns_less_by_the_square_of_the_distance(name):
    rays, params = ray(), Shells().init(jax.random.key(1))

    def picture(params, reach):
        seen = render_rays(Shells(), params, rays, SAMPLERS[name], gradient_reach=reach)
        return seen.colour

    def gradient(reach):
        return jax.jit(jax.grad(lambda p: jnp.sum((picture(p, reach) - 0.2) ** 2)))(params)

    whole, slowed = gradient(None), gradient(REACH)
    np.testing.assert_array_equal(picture(params, REACH), picture(params, None))
    for part in ("density", "grey"):
        asked = np.flatnonzero(np.asarray(whole[part]))
        assert 15 < len(asked) < 100  # or shells share samples
        ratio = np.asarray(slowed[part])[asked] / np.asarray(whole[part])[asked]
        distance = (asked + 0.5) * THICK
        assert distance.min() < 0.3 * REACH < REACH < distance.max()
        np.testing.assert_allclose(ratio, np.minimum(1.0, (distance / REACH) ** 2), rtol=5e-3)


def test_a_reach_of_0_leaves_gradients_as_they_are():
    rays, params = ray(), Shells().init(jax.random.key(2))

    def loss(params, reach):
        seen = render_rays(Shells(), params, rays, full_grid(), gradient_reach=reach)
        return jnp.sum(seen.colour**2)

    whole, traced = jax.grad(loss)(params, None), jax.jit(jax.grad(loss))(params, jnp.float32(0.0))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), whole, traced)


def test_answers_keep_their_precision_and_numbers_of_things_stay():
    rays = ray()
    samples = Stratified(24)(Shells(), Shells().init(jax.random.key(0)), rays, None)
    answers = {
        "half": jnp.linspace(0.1, 0.7, 24).astype(jnp.bfloat16)[None],
        "label": jnp.arange(24)[None],
    }
    slowed = jax.jit(lambda x: scale_gradients_near(samples, rays, REACH, x))(answers)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), slowed, answers)


def test_a_composition_is_not_trained_so():
    field = ComposedField((Shells(),))
    with pytest.raises(ValueError, match=r"gradient_reach: .*parts"):
        render_rays(
            field, (Shells().init(jax.random.key(0)),), ray(), Stratified(4), gradient_reach=1.0
        )

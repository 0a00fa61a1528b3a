"""Derivatives of pixels to everything that makes them, to the second order, against differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxnerf import Camera, Hierarchical, OccupancySampler, Stratified, cast_rays, render_rays
from jaxnerf.sampling import Occupancy
from jaxnerf.sampling.occupancy import encode
from jaxnerf.training.calibration import rotations

PIXELS = np.random.default_rng(0).uniform(2, 10, (6, 2))
AIM = np.random.default_rng(1).normal(size=(6, 3))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Cloud:
    """A smooth cloud that has ended, but for 1e-7, where the sampling does."""

    shading: str = "sample"

    def init(self, key):
        return {
            "peak": jnp.asarray(2.5),
            "centre": jnp.asarray([0.1, -0.1, 0.05]),
            "colours": jnp.asarray([[0.5, -0.3, 0.2], [0.1, 0.8, -0.6], [0.3, 0.2, 0.9]]),
        }

    def density(self, params, positions):
        away = positions - jnp.broadcast_to(params["centre"], positions.shape)
        return params["peak"] * jnp.exp(-4.0 * jnp.sum(away**2, axis=-1)), jnp.sin(2.0 * positions)

    def colour(self, params, features, view_directions):
        return jax.nn.sigmoid(features @ params["colours"] + 0.3 * view_directions)


def sampler_of(name: str):
    if name != "packed":
        return Stratified(120, sample_at="middle")
    code = encode(jnp.ones((8,) * 3, bool), jnp.full((8,) * 3, 1e-6))
    double = jnp.float64
    grid = Occupancy(
        code, jnp.full(3, -2.0, double), jnp.asarray(0.5, double), jnp.asarray(0.03, double)
    )
    return OccupancySampler(grid, samples=150)


def everything() -> dict:
    return {
        "params": Cloud().init(None),
        "turn": jnp.asarray([0.01, -0.02, 0.03]),
        "shift": jnp.asarray([0.02, 0.0, -0.05]),
        "focal": jnp.asarray([24.0, 25.0]),
        "centre": jnp.asarray([6.1, 5.8]),
        "distortion": jnp.asarray([0.05, -0.02, 0.01, 0.002, 0.003, -0.004]),
        "origins": jnp.asarray(np.random.default_rng(2).normal(size=(6, 3)) * 0.02),
        "background": jnp.asarray([0.2, 0.5, 0.7]),
    }  # fmt: skip


def seen(given: dict, sampler, lens: str, shading: str):
    camera = Camera.look_at((0.2, -4.0, 1.0), width=12, height=12, field_of_view=30.0)
    pose = jnp.asarray(camera.camera_to_world)
    turned = rotations(given["turn"]) @ pose[:, :3]
    pose = jnp.concatenate([turned, (pose[:, 3] + given["shift"])[:, None]], axis=1)
    camera = dataclasses.replace(
        camera, camera_to_world=pose, focal=given["focal"], centre=given["centre"],
        distortion=given["distortion"], lens=lens,
    )  # fmt: skip
    rays = cast_rays(camera, jnp.asarray(PIXELS), 2.2, 6.5)
    rays = dataclasses.replace(rays, origins=rays.origins + given["origins"])
    return render_rays(
        Cloud(shading), given["params"], rays, sampler, None, given["background"]
    )  # fmt: skip


@pytest.mark.parametrize(("lens", "shading"), [("opencv", "sample"), ("fisheye", "ray")])
@pytest.mark.parametrize("name", ["dense", "packed"])
def test_pixels_have_first_and_second_derivatives_to_everything(float64, name, shading, lens):
    start, sampler = everything(), sampler_of(name)
    flat, unravel = ravel_pytree(start)

    def loss(flat):
        found = seen(unravel(flat), sampler, lens, shading)
        bright = jnp.sum(jnp.asarray(AIM) * jnp.square(found.colour))
        return bright + jnp.sum(found.opacity**2) + 0.1 * jnp.sum(found.depth * found.distance)

    slope = jax.jit(jax.grad(loss))
    losses = jax.jit(jax.vmap(loss))
    steps = 1e-5 * np.eye(len(flat))
    expected = (losses(flat[None] + steps) - losses(flat[None] - steps)) / 2e-5
    found = slope(flat)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    for part in jax.tree.leaves(unravel(found)):
        assert np.abs(part).max() > 1e-5
    towards = jnp.asarray(np.random.default_rng(5).normal(size=(3, len(flat))))
    bent = jax.jit(jax.vmap(jax.grad(lambda x, v: jnp.vdot(jax.grad(loss)(x), v)), (None, 0)))
    differences = [(slope(flat + 1e-5 * v) - slope(flat - 1e-5 * v)) / 2e-5 for v in towards]
    scale = np.abs(np.asarray(differences)).max()
    np.testing.assert_allclose(bent(flat, towards), differences, rtol=1e-4, atol=1e-6 * scale)


def test_forward_mode_is_there_for_dense_samples_and_refused_for_packed_ones(float64):
    start = everything()
    flat, unravel = ravel_pytree(start)

    def colour(flat, name):
        return seen(unravel(flat), sampler_of(name), "opencv", "sample").colour

    forward, reverse = (
        jax.jit(way(colour), static_argnums=1)(flat, "dense") for way in (jax.jacfwd, jax.jacrev)
    )
    np.testing.assert_allclose(forward, reverse, atol=1e-10)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jacfwd(colour)(flat, "packed")


def test_where_hierarchical_samples_lie_is_not_differentiated(float64):
    start = everything()

    def colour(given):
        return jnp.sum(
            jnp.asarray(AIM) * seen(given, Hierarchical((40, 40)), "opencv", "sample").colour
        )

    gradient = jax.jit(jax.grad(colour))(start)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    dense = jax.jit(
        jax.grad(
            lambda given: jnp.sum(
                jnp.asarray(AIM) * seen(given, Stratified(400), "opencv", "sample").colour
            )
        )
    )(start)
    # The same integral: the gradients agree as well as the quadratures do.
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2 * max(np.abs(other).max(), 0.1))

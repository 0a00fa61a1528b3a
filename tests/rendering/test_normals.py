"""Normals of pictures: of bodies whose fields are rough inside, against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf.cameras import Camera, cast_rays, pixel_centres
from jaxnerf.rendering import render_image
from jaxnerf.rendering.normals import normals_of_depth
from jaxnerf.sampling import Stratified


@dataclasses.dataclass(frozen=True)
class RoughBall:
    """A ball whose density goes up and down inside, so that its gradients point anywhere."""

    def init(self, key):
        return {}

    def density(self, params, positions):
        away = jnp.sqrt(jnp.sum(positions**2, axis=-1) + 1e-9)
        ripples = 1.0 + 0.9 * jnp.prod(jnp.sin(60.0 * positions + 0.5), axis=-1)
        return 200.0 * ripples * jax.nn.sigmoid(300.0 * (1.0 - away)), positions

    def colour(self, params, features, view_directions):
        return jnp.ones_like(features)


def seen(lens: str = "pinhole"):
    """A picture of the ball, and the outward normal at each pixel that shows it."""
    camera = Camera.look_at((0.5, -4.0, 1.0), width=64, height=64, field_of_view=40.0)
    camera = dataclasses.replace(camera, lens=lens)
    image = render_image(
        RoughBall(), {}, camera, Stratified(512), near=2.0, far=6.0, normals=True, background=0.0
    )
    rays = cast_rays(camera, jnp.asarray(pixel_centres(64, 64)))
    origin, view = np.asarray(rays.origins), np.asarray(rays.view_directions)
    along = -(origin * view).sum(-1)
    hit = along**2 - (origin**2).sum(-1) + 1.0
    point = origin + (along - np.sqrt(np.maximum(hit, 0.0)))[..., None] * view
    return image, point, hit


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_they_are_those_of_the_surface_where_the_field_is_rough(lens):
    image, point, hit = seen(lens)
    sure = hit > 0.1
    angle = np.degrees(np.arccos(np.clip((image.normals * point).sum(-1)[sure], -1, 1)))
    assert sure.sum() > 400
    assert np.median(angle) < 6.0
    np.testing.assert_allclose(np.linalg.norm(image.normals[sure], axis=-1), 1.0, atol=1e-5)


def plane(normal: np.ndarray, shape=(12, 15)):
    """Rays from the origin to a plane at distance 3 along -z, and their depths."""
    y, x = np.indices(shape)
    directions = np.stack([(x - 7) / 40.0, (6 - y) / 40.0, -np.ones(shape)], axis=-1)
    depth = -3.0 * normal[2] / (directions @ normal)
    return directions, depth


@pytest.mark.parametrize("reach", [1, 2])
def test_only_what_lies_within_a_surface_has_its_slopes(reach):
    """Two slanted planes, one behind the other, and a part where nothing is."""
    left, right = np.array([0.3, 0.1, 1.0]), np.array([-0.4, 0.2, 1.0])
    (directions, depth), (_, behind) = plane(left), plane(right)
    depth = depth.copy()
    depth[:, 7:] = 1.6 * behind[:, 7:]
    opacity = np.ones_like(depth)
    opacity[:4, 13:] = 0.2
    gradients = np.broadcast_to([0.0, 1.0, 0.0], directions.shape)
    found = normals_of_depth(
        depth, opacity, np.zeros_like(directions), directions, gradients, reach
    )
    expected = np.where((np.arange(15) < 7)[None, :, None], left, right)
    expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    inner = np.zeros((12, 15), bool)
    inner[reach:-reach, reach : 7 - reach] = inner[reach:-reach, 7 + reach : -reach] = True
    inner[: 4 + reach, 13 - reach :] = False
    assert inner.any()
    wanted = np.broadcast_to(expected, found.shape)
    np.testing.assert_allclose(found[inner], wanted[inner], atol=1e-6)
    outer = opacity < 0.5
    outer[:, 7 - reach : 7 + reach] = outer[:, [0, -1]] = outer[[0, -1]] = True
    np.testing.assert_array_equal(found[outer], gradients[outer])


def test_a_pixel_alone_keeps_its_gradient():
    directions, depth = plane(np.array([0.0, 0.0, 1.0]))
    opacity = np.zeros_like(depth)
    opacity[5, 5] = 1.0
    gradients = np.broadcast_to([0.0, 1.0, 0.0], directions.shape)
    found = normals_of_depth(depth, opacity, np.zeros_like(directions), directions, gradients)
    np.testing.assert_array_equal(found, gradients)

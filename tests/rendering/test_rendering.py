"""Rays in, pixels out: against closed forms, and the picture the right way up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import (
    Camera,
    Field,
    Hierarchical,
    Stratified,
    cast_rays,
    project,
    render_image,
    render_rays,
)
from jaxnerf.cameras import pixel_centres
from jaxnerf.fields import split_field
from jaxnerf.fields.nerf import NerfField
from jaxnerf.rendering import image


@dataclasses.dataclass(frozen=True)
class Balls:
    """A field made of dense coloured balls: what a user's own field looks like."""

    sharpness: float = 40.0

    def init(self, key):
        return {"centres": jnp.zeros((1, 3)), "colours": jnp.ones((1, 3)), "radius": jnp.ones(())}

    def density(self, params, positions):
        offset = positions[..., None, :] - params["centres"].reshape(
            (1,) * (positions.ndim - 1) + (-1, 3)
        )
        distance = jnp.sqrt(jnp.sum(offset**2, axis=-1) + 1e-12)
        inside = 100.0 * jax.nn.sigmoid(self.sharpness * (params["radius"] - distance))
        share = inside / (jnp.sum(inside, axis=-1, keepdims=True) + 1e-9)
        return jnp.sum(inside, axis=-1), share @ params["colours"]

    def colour(self, params, features, view_directions):
        return features


@dataclasses.dataclass(frozen=True)
class Fog:
    """Constant density and colour everywhere."""

    def init(self, key):
        return {"density": jnp.array(0.3), "colour": jnp.array([0.2, 0.5, 0.9])}

    def density(self, params, positions):
        return jnp.broadcast_to(params["density"], positions.shape[:-1]), positions[..., :0]

    def colour(self, params, features, view_directions):
        return jnp.broadcast_to(params["colour"], view_directions.shape)


AXIS_BALLS = {
    "centres": jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    "colours": jnp.eye(3),
    "radius": jnp.array(0.3),
}


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_fog_has_the_closed_form_colour_along_the_true_length_of_each_ray(lens):
    camera = Camera.look_at((0.0, -4.0, 1.0), width=9, height=7, field_of_view=80.0)
    camera = dataclasses.replace(camera, lens=lens)
    params = Fog().init(None)
    image = render_image(
        Fog(), params, camera, Hierarchical((16,)), near=1.0, far=3.0, background=0.25
    )
    rays = cast_rays(camera, jnp.asarray(pixel_centres(9, 7)))
    length = 2.0 * np.linalg.norm(np.asarray(rays.directions), axis=-1)
    opacity = 1.0 - np.exp(-0.3 * length)
    expected = opacity[..., None] * np.array([0.2, 0.5, 0.9]) + 0.25 * (1.0 - opacity[..., None])
    np.testing.assert_allclose(image.colour, expected, atol=1e-5)
    np.testing.assert_allclose(image.opacity, opacity, atol=1e-5)


@pytest.mark.parametrize("eye", [(3.0, -4.0, 2.0), (-3.0, -3.0, 1.5), (4.0, 2.0, -3.0)])
def test_every_ball_appears_where_it_is_projected_in_its_colour(eye):
    camera = Camera.look_at(eye, width=80, height=60, field_of_view=50.0)
    settings = Hierarchical((64, 64))
    image = render_image(Balls(), AXIS_BALLS, camera, settings, near=2.0, far=8.0, background=0.0)
    for axis in range(3):
        pixel, depth = project(camera, AXIS_BALLS["centres"][axis])
        x, y = (int(coordinate) for coordinate in pixel)
        seen = image.colour[y, x]
        assert seen.argmax() == axis
        assert seen[axis] > 0.9
        # The nearest point of a ball lies a radius before its centre, up to the softness.
        distance = float(jnp.linalg.norm(AXIS_BALLS["centres"][axis] - jnp.array(eye)))
        assert abs(image.distance[y, x] - (distance - 0.3)) < 0.08
        assert abs(image.depth[y, x] * distance / float(depth) - image.distance[y, x]) < 0.05


def test_from_the_front_x_is_right_and_z_is_up():
    camera = Camera.look_at((0.0, -5.0, 0.0), width=64, height=64, field_of_view=40.0)
    image = render_image(
        Balls(),
        AXIS_BALLS,
        camera,
        Hierarchical((64,)),
        near=3.0,
        far=7.0,
        background=0.0,
    )
    rows, columns = np.indices((64, 64))
    red, blue = image.colour[..., 0], image.colour[..., 2]
    assert (red * columns).sum() / red.sum() > 40
    assert abs((red * rows).sum() / red.sum() - 31.5) < 1.0
    assert (blue * rows).sum() / blue.sum() < 24
    assert abs((blue * columns).sum() / blue.sum() - 31.5) < 1.0


def test_normals_of_a_ball_point_outwards():
    params = {"centres": jnp.zeros((1, 3)), "colours": jnp.ones((1, 3)), "radius": jnp.array(1.0)}
    camera = Camera.look_at((0.0, -4.0, 0.0), width=21, height=21, field_of_view=40.0)
    settings = Hierarchical((128, 64))
    image = render_image(Balls(), params, camera, settings, near=2.0, far=6.0, normals=True)
    rays = cast_rays(camera, jnp.asarray(pixel_centres(21, 21)))
    origin, view = np.asarray(rays.origins), np.asarray(rays.view_directions)
    along = -(origin * view).sum(-1)
    hit = along**2 - (origin**2).sum(-1) + 1.0
    sure = hit > 0.2
    point = origin + (along - np.sqrt(np.maximum(hit, 0.0)))[..., None] * view
    cosine = (image.normals * point).sum(-1)[sure]
    assert sure.sum() > 50
    assert cosine.min() > 0.98
    np.testing.assert_allclose(np.linalg.norm(image.normals[sure], axis=-1), 1.0, atol=1e-5)


def test_the_surface_renderer_is_the_hard_limit():
    camera = Camera.look_at((3.0, -4.0, 2.0), width=24, height=18, field_of_view=50.0)
    sampler = Stratified(256)
    hard = Balls(sharpness=4000.0)
    soft = render_image(hard, AXIS_BALLS, camera, sampler, near=2.0, far=8.0)
    first = render_image(
        hard, AXIS_BALLS, camera, sampler, near=2.0, far=8.0, compositing="surface"
    )
    assert set(np.unique(first.opacity)) == {0.0, 1.0}
    clear = (soft.opacity < 0.01) | (soft.opacity > 0.99)
    assert clear.mean() > 0.9
    np.testing.assert_allclose(soft.colour[clear], first.colour[clear], atol=0.02)


def test_rays_jit_vmap_and_loops_agree():
    field = NerfField(depth=2, width=16, view_width=8, position_octaves=4)
    params = field.init(jax.random.key(0))
    camera = Camera.look_at((0.0, -4.0, 1.0), width=4, height=4)
    rays = cast_rays(camera, jnp.asarray(pixel_centres(4, 3)), 2.0, 6.0)
    settings = Hierarchical((8, 8))

    @jax.jit
    def render(rays):
        return render_rays(field, params, rays, settings, normals=True)

    whole = render(rays)
    mapped = jax.jit(jax.vmap(jax.vmap(render)))(rays)
    one = render(jax.tree.map(lambda x: x[1, 2], rays))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), whole, mapped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1, 2], b, atol=1e-4), whole, one)


def test_gradients_reach_the_parameters_of_every_level_and_the_pose():
    fields = (NerfField(depth=2, width=8, view_width=4),) * 2
    params = tuple(field.init(jax.random.key(i)) for i, field in enumerate(fields))
    camera = Camera.look_at((0.0, -4.0, 1.0), width=4, height=4)

    def brightness(params, pose):
        posed = dataclasses.replace(camera, camera_to_world=pose)
        rays = cast_rays(posed, jnp.asarray(pixel_centres(4, 4)), 2.0, 6.0)
        return render_rays(fields, params, rays, Hierarchical((8, 8))).colour.sum()

    to_params, to_pose = jax.jit(jax.grad(brightness, argnums=(0, 1)))(
        params, jnp.asarray(camera.camera_to_world)
    )
    # The fine picture depends on the coarse network only through where it looked.
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(to_params[0]))
    assert any((leaf != 0.0).any() for leaf in jax.tree.leaves(to_params[1]))
    assert (to_pose != 0.0).any()
    assert jnp.isfinite(to_pose).all()


def test_one_compilation_serves_every_size_and_chunks_leave_no_seam():
    params = AXIS_BALLS
    settings = Hierarchical((33,))
    compiled = []

    @dataclasses.dataclass(frozen=True)
    class Counting(Balls):
        def colour(self, params, features, view_directions):
            compiled.append(1)
            return features

    field = Counting()
    assert isinstance(field, Field)
    for width, height in ((10, 10), (13, 7), (40, 30)):
        camera = Camera.look_at((3.0, -4.0, 2.0), width=width, height=height)
        chunked = render_image(field, params, camera, settings, near=2.0, far=8.0, chunk=64)
    assert len(compiled) == 1
    whole = render_image(Balls(), params, camera, settings, near=2.0, far=8.0, chunk=2048)
    np.testing.assert_allclose(chunked.colour, whole.colour, atol=1e-5)


def test_one_device_and_two_give_the_same_picture():
    camera = Camera.look_at((3.0, -4.0, 2.0), width=11, height=9)
    settings = Hierarchical((16, 16))
    pictures = [
        render_image(
            Balls(), AXIS_BALLS, camera, settings, near=2.0, far=8.0, chunk=32,
            devices=jax.devices()[:count],
        )
        for count in (1, 2)
    ]  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *pictures)


def test_hierarchical_samples_find_what_stratified_ones_barely_touch():
    radius = jnp.array(0.02)
    thin = {"centres": jnp.zeros((1, 3)), "colours": jnp.ones((1, 3)), "radius": radius}
    camera = Camera.look_at((0.0, -4.0, 0.0), width=1, height=1, field_of_view=1.0)

    def error(samples):
        settings = Hierarchical(samples)
        image = render_image(Balls(400.0), thin, camera, settings, near=2.0, far=6.0)
        return abs(image.opacity[0, 0] - (1.0 - np.exp(-100.0 * 0.04)))

    assert error((64, 64)) < 0.05 < error((64,))


def test_levels_and_fields_must_match():
    field = Fog()
    params = field.init(None)
    rays = cast_rays(
        Camera.look_at((0.0, -4.0, 0.0), width=2, height=2), jnp.ones((1, 2)), 2.0, 6.0
    )
    with pytest.raises(ValueError, match="2 levels of samples, but 3 fields"):
        render_rays((field,) * 3, (params,) * 3, rays, Hierarchical((4, 4)))
    with pytest.raises(ValueError, match="at least 2"):
        render_rays(field, params, rays, Hierarchical(()))
    with pytest.raises(ValueError, match="at least 3 first"):
        render_rays(field, params, rays, Hierarchical((2, 8), sample_at="start"))


def test_what_cannot_be_rendered_is_refused_in_one_line():
    camera = Camera.look_at((0.0, -4.0, 1.0), width=4, height=3)
    fog, params = Fog(), Fog().init(None)

    class NotHashable:
        __hash__ = None
        init, density, colour = fog.init, fog.density, fog.colour

    with pytest.raises(TypeError, match="NotHashable: cannot be hashed"):
        split_field(NotHashable())
    with pytest.raises(TypeError, match="NotHashable: cannot be hashed"):
        render_image(NotHashable(), params, camera, Stratified(4), far=5.0)
    with pytest.raises(ValueError, match=r"background has the shape \(4,\)"):
        image._of_pixels((0.0, 0.0, 0.0, 1.0), 5.0, 4, 3)
    with pytest.raises(ValueError, match="the background is not finite"):
        render_image(fog, params, camera, Stratified(4), far=5.0, background=np.nan)
    with pytest.raises(ValueError, match="render_places: no places"):
        image.render_places(fog, params, camera, np.zeros((0, 2), np.float32), far=5.0)

    def unsure(field, params, rays, key=None):
        samples = Stratified(4)(field, params, rays, key)
        return dataclasses.replace(samples, complete=jnp.zeros_like(samples.complete))

    with pytest.raises(ValueError, match="samples of Partial say that rays are not complete"):
        render_image(fog, params, camera, jax.tree_util.Partial(unsure), far=5.0)


def test_all_rays_of_a_picture_are_complete():
    camera = Camera.look_at((0.0, -4.0, 1.0), width=4, height=3)
    picture = render_image(Fog(), Fog().init(None), camera, Stratified(4), far=5.0)
    assert picture.is_complete.shape == (3, 4)
    assert picture.is_complete.all()

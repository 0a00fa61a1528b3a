"""A density means the same whichever ray meets it, and in both renderers, in all spaces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import (
    Camera,
    OccupancySampler,
    Rays,
    Stratified,
    WarpedField,
    cast_rays,
    render_image,
    render_rays,
)
from jaxnerf.contraction import NdcSpace, SphereContraction, arc_length
from jaxnerf.evaluation import psnr
from jaxnerf.sampling.occupancy import Occupancy, encode

BALL = SphereContraction(jnp.array([0.2, -0.1, 0.3]), jnp.float32(0.8))
FRUSTUM = NdcSpace(
    jnp.array([60.0, 60.0]), jnp.array([64.0, 48.0]), jnp.float32(1.0), jnp.float32(2.0)
)
SPACES = {"world": None, "ball": BALL, "frustum": FRUSTUM}
render = jax.jit(render_rays)


def within(field, space):
    """A field of the world."""
    return field if space is None else WarpedField(field, space)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Clouds:
    """Smooth densities in all of a cube of side 4, and colours of the place and the direction."""

    thickness: float = 1.0

    def init(self, key):
        return jnp.float32(self.thickness)

    def density(self, params, positions):
        waves = jnp.sum(jnp.cos(3.0 * positions + 0.5), axis=-1)
        return params * jnp.exp(waves - 1.0), 0.5 + 0.2 * jnp.sin(2.0 * positions)

    def colour(self, params, features, view_directions):
        return jnp.clip(features + 0.1 * view_directions, 0.0, 1.0)


def grid(space, step: float, cells: int = 32, origin: float = -2.0) -> Occupancy:
    """Every cell of a cube of side 4 may hold something, too little to end a ray."""
    code = encode(jnp.ones((cells,) * 3, bool), jnp.full((cells,) * 3, 1e-6))
    if space is FRUSTUM:  # nothing lies before the near plane, z = -1 in the cube
        inside = np.abs((np.arange(cells) + 0.5) * (4.0 / cells) + origin) < 1.0
        code = encode(jnp.asarray(np.broadcast_to(inside, (cells,) * 3)), jnp.float32(1e-6))
    side = jnp.float32(4.0 / cells)
    return Occupancy(code, jnp.full(3, origin), side, jnp.float32(step), space)


def camera_of(name: str, side: int = 24) -> Camera:
    """One that looks through the whole space, from within; forward in a frustum."""
    if name == "frustum":
        return Camera.look_at(
            (0.3, -0.2, 0.4), (0.1, 0.1, -6.0), width=side, height=side, up=(0.0, 1.0, 0.0)
        )
    return Camera.look_at((1.1, -1.3, 0.7), (0.1, 0.2, 0.0), width=side, height=side,
                          field_of_view=90.0)  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_marching_and_rendering_make_the_same_picture(name):
    space, field, camera = SPACES[name], Clouds(), camera_of(name)
    params = field.init(None)
    sampler = OccupancySampler(grid(space, 0.01))
    seen = render_image(within(field, space), params, camera, sampler, near=0.05, background=0.0)
    if space is None:

        @jax.tree_util.register_static
        @dataclasses.dataclass(frozen=True)
        class InCube(Clouds):
            def density(self, params, positions):
                density, features = super().density(params, positions)
                inside = jnp.max(jnp.abs(positions), axis=-1) <= 2.0
                return jnp.where(inside, density, 0.0), features

        plain, sampler, far = InCube(), Stratified(1024), 8.0
    else:
        plain = WarpedField(field, space)
        sampler, far = Stratified(4096, spacing="disparity"), 1e4
    truth = render_image(
        plain, params, camera, sampler, near=0.05, far=far, background=0.0, chunk=64
    )
    assert psnr(seen.colour, truth.colour) > 50.0
    assert psnr(seen.opacity, truth.opacity) > 50.0
    # Of depths where much is seen: beyond, there is no end.
    opaque = truth.opacity > 0.6
    assert opaque.mean() > 0.2
    ratio = seen.depth_median[opaque] / truth.depth_median[opaque]
    np.testing.assert_allclose(ratio, 1.0, atol=0.02)


def test_all_rays_through_a_place_of_contracted_space_meet_the_same_density():
    """Of a thin shell far away, by its optical depth: that of its thickness times the rate there."""
    random = np.random.default_rng(3)
    place = np.array([0.2, -0.1, 0.3]) + 0.8 * 3.0 * np.array([0.6, 0.64, 0.48])
    start = random.uniform(-1.5, 1.5, (64, 3)) + np.array([0.2, -0.1, 0.3])
    along = place - start
    unit = along / np.linalg.norm(along, axis=-1, keepdims=True)
    rays = Rays(*(jnp.asarray(x, jnp.float32) for x in (
        start, along, unit, np.full(64, 0.99), np.full(64, 1.01))))  # fmt: skip

    @jax.tree_util.register_static
    @dataclasses.dataclass(frozen=True)
    class Even(Clouds):
        def density(self, params, positions):
            return jnp.ones(positions.shape[:-1]), jnp.zeros(positions.shape)

    sampler = OccupancySampler(grid(BALL, 1e-4), samples=4000)
    seen = render(WarpedField(Even(), BALL), None, rays, sampler)
    optical = -np.log1p(-np.asarray(seen.opacity, np.float64))
    expected = 0.02 * np.linalg.norm(along, axis=-1) / (0.8 * 3.0**2)
    # A ray takes a whole number of steps: at least 100 of them here.
    np.testing.assert_allclose(optical, expected, rtol=2e-2)


def test_the_world_s_length_of_a_step_is_how_far_t_moves():
    random, step = np.random.default_rng(0), 1e-6
    start, along = random.normal(size=(2, 50, 3)) * 2.0
    unit = along / np.linalg.norm(along, axis=-1, keepdims=True)
    with jax.enable_x64(True):
        rays = Rays(*map(jnp.asarray, (start, along, unit, np.zeros(50), np.full(50, np.inf))))
        ball = SphereContraction(jnp.asarray(BALL.centre, jnp.float64), jnp.asarray(0.8))
        along_ray = arc_length(ball, rays)
        s = along_ray.length(jnp.asarray(random.uniform(0.0, 20.0, 50)))
        moved = (along_ray.t(s + step) - along_ray.t(s - step)) * np.linalg.norm(along, axis=-1)
        found = 0.8 * along_ray.world_length(along_ray.t(s), jnp.asarray(2.0 * step))
        np.testing.assert_allclose(found, moved, rtol=1e-4)
        # In contracted space no step is longer than it says.
        rate = ball.rate(rays.at(along_ray.t(s)[:, None])[:, 0])
        assert (np.asarray(found * rate) <= 2.0 * step * (1.0 + 1e-9)).all()


def test_the_world_s_length_of_a_step_in_the_cube_is_how_far_t_moves():
    camera, step = camera_of("frustum"), 1e-6
    with jax.enable_x64(True):
        pixels = jnp.asarray(np.random.default_rng(0).uniform(0.0, 24.0, (50, 2)))
        rays = cast_rays(jax.tree.map(lambda x: np.asarray(x, np.float64), camera), pixels)
        ndc = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), FRUSTUM)
        at = jnp.linspace(0.2, 0.95, 50)
        # A step has its length in the cube, where the ray's direction need not have length 1.
        speed = jnp.linalg.norm(ndc.rays(rays).directions, axis=-1)
        moved = ndc.t(rays, at + step / speed) - ndc.t(rays, at - step / speed)
        moved = moved * jnp.linalg.norm(rays.directions, axis=-1)
        found = ndc.world_length(rays, ndc.t(rays, at), jnp.asarray(2.0 * step))
        np.testing.assert_allclose(found, moved, rtol=1e-4)


@pytest.mark.parametrize("back", [0.0, 3.0])
def test_no_sample_lies_behind_the_camera_or_beyond_near_and_far(back):
    """Also of cameras that have moved past the near plane of a forward-facing scene."""
    camera = Camera.look_at(
        (0.2, 0.1, -back), (0.1, 0.0, -9.0), width=16, height=12, up=(0.0, 1.0, 0.0)
    )
    pixels = jnp.asarray(np.random.default_rng(1).uniform(0, 12, (40, 2)), jnp.float32)
    for near, far in ((0.0, np.inf), (2.5, 6.0)):
        rays = cast_rays(camera, pixels, near, far)
        cube = FRUSTUM.rays(rays)
        t = np.asarray(jax.vmap(lambda c, r=rays: FRUSTUM.t(r, c))(
            jnp.stack([cube.near, 0.5 * (cube.near + cube.far)])))  # fmt: skip
        assert (t >= near - 1e-5).all()
        assert (t <= far).all()
        field = WarpedField(Clouds(50.0), FRUSTUM)
        seen = render(field, jnp.float32(50.0), rays, OccupancySampler(grid(FRUSTUM, 0.02)))
        depth = np.asarray(seen.depth)
        hit = np.asarray(seen.opacity) > 0.5
        assert hit.any()
        assert (depth[hit] >= max(near, 1.0 - back) - 1e-4).all()
        assert (depth[hit] <= far + 1e-4).all()
        if near:
            inside = np.asarray(seen.depth_median)[hit]
            assert (inside >= 2.5 - 1e-4).all()
            assert (inside <= 6.0 + 1e-4).all()


def test_where_the_plane_is_behind_the_camera_the_walk_begins_at_the_camera():
    rays = Rays(
        jnp.array([[0.0, 0.0, -3.0]]), jnp.array([[0.1, 0.0, -1.0]]),
        jnp.array([[0.1, 0.0, -1.0]]) / np.float32(np.sqrt(1.01)), jnp.zeros(1), jnp.array([5.0]),
    )  # fmt: skip
    cube = FRUSTUM.rays(rays)
    # Depth 3 is 1 - 1/3 of the way from the near plane at 1 to infinity; depth 8 is 1 - 1/8.
    np.testing.assert_allclose([cube.near[0], cube.far[0]], [2 / 3, 7 / 8], rtol=1e-6)


def test_by_default_no_ray_of_a_full_grid_is_lost():
    size = 32
    cells = encode(jnp.ones((size,) * 3, bool), jnp.full((size,) * 3, 1e-6))
    cell = jnp.float32(2.0 / size)
    occupancy = Occupancy(cells, jnp.full(3, -1.0), cell, cell)
    camera = Camera.look_at((0.0, -3.0, 0.5), width=24, height=24)
    pixels = jnp.stack(jnp.meshgrid(jnp.arange(24.0), jnp.arange(24.0)), -1).reshape(-1, 2)
    rays = cast_rays(camera, pixels)
    field = Clouds(0.3)
    sampler = OccupancySampler(occupancy)
    seen = render(field, field.init(None), rays, sampler)
    assert np.asarray(seen.samples.complete).all()
    few = render(field, field.init(None), rays, dataclasses.replace(sampler, samples=8)).samples
    assert not np.asarray(few.complete).all()
    hit = np.asarray(seen.opacity) > 0.0
    assert not np.asarray(few.complete)[hit].all()
    # Steps that are shorter than a cell are as many as the numbers say.
    finer = dataclasses.replace(occupancy, step=cell / 3)
    some = jax.tree.map(lambda leaf: leaf[::97], rays)
    assert np.asarray(
        render_rays(field, field.init(None), some, OccupancySampler(finer)).samples.complete
    ).all()


def test_a_ray_that_was_given_up_in_the_dark_has_not_come_to_its_end_but_shows_what_it_would():
    cells = encode(jnp.ones((16,) * 3, bool), jnp.full((16,) * 3, 1e-6))
    occupancy = Occupancy(cells, jnp.full(3, -1.0), jnp.float32(0.125), jnp.float32(0.125))
    rays = cast_rays(Camera.look_at((0.0, -3.0, 0.0), width=4, height=4), jnp.full((1, 2), 2.0))
    field, sampler = Clouds(300.0), OccupancySampler(occupancy, samples=4)
    seen = render(field, field.init(None), rays, sampler)
    assert (bool(seen.samples.truncated[0]), bool(seen.samples.complete[0])) == (True, False)
    assert (bool(seen.is_dark[0]), bool(seen.is_complete[0])) == (True, False)
    thin = render(field, jnp.float32(0.01), rays, sampler)
    assert (bool(thin.samples.truncated[0]), bool(thin.samples.complete[0])) == (True, False)
    assert (bool(thin.is_dark[0]), bool(thin.is_complete[0])) == (False, False)


def test_a_ray_through_the_middle_of_the_ball_has_gradients():

    def colour(origin):
        along = jnp.array([[0.0, 1.0, 0.0]])
        rays = Rays(BALL.centre[None] + origin[None], along, along, jnp.zeros(1), jnp.array([9.0]))
        field, sampler = WarpedField(Clouds(), BALL), OccupancySampler(grid(BALL, 0.1), samples=99)
        return render_rays(field, jnp.float32(1.0), rays, sampler).colour.sum()

    gradient = jax.jit(jax.grad(colour))(jnp.array([0.0, -4.0, 0.0]))
    assert np.isfinite(np.asarray(gradient)).all()
    assert np.abs(np.asarray(gradient)).max() > 0.0

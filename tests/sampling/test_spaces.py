"""Contracted space: lengths that points do not outrun, and a grid walked as a slow loop walks it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxnerf import OccupancySampler, Stratified, render_rays
from jaxnerf.cameras import Rays
from jaxnerf.contraction import NdcSpace, SphereContraction, arc_length
from jaxnerf.fields.warped import WarpedField
from jaxnerf.kernels.compositing import march_distortion
from jaxnerf.sampling.occupancy import Occupancy, encode
from jaxnerf.sampling.traversal import march

SEEDS = st.integers(0, 2**32 - 1)
CENTRE, RADIUS = np.array([0.3, -0.2, 0.5]), 1.7


def random_rays(seed: int, count: int = 64, dtype=np.float32) -> tuple[SphereContraction, Rays]:
    """Rays in and around a ball, through its middle and past it, with directions of any length."""
    random = np.random.default_rng(seed)
    origins = CENTRE + RADIUS * random.normal(size=(count, 3)) * random.choice([0.1, 1.0, 3.0])
    directions = random.normal(size=(count, 3)) * random.uniform(0.3, 3.0, (count, 1))
    directions[0] = CENTRE - origins[0]
    arrays = [np.asarray(x, dtype) for x in (origins, directions)]
    unit = arrays[1] / np.linalg.norm(arrays[1], axis=-1, keepdims=True)
    near, far = np.zeros(count, dtype), np.full(count, np.inf, dtype)
    rays = Rays(*map(jnp.asarray, (*arrays, unit, near, far)))
    return SphereContraction(jnp.asarray(CENTRE, dtype), jnp.asarray(RADIUS, dtype)), rays


def contracted_by_the_paper(points: np.ndarray) -> np.ndarray:
    """Mip-NeRF 360, eq. 10."""
    x = (points - CENTRE) / RADIUS
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(norm <= 1.0, x, (2.0 - 1.0 / norm) * x / norm)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_lengths_and_distances_are_each_others_inverse(seed):
    with jax.enable_x64(True):
        ball, rays = random_rays(seed, dtype=np.float64)
        along = arc_length(ball, rays)
        for t in (0.0, 0.3, 1.0, 7.0, 300.0):
            at = jnp.full(rays.near.shape, t)
            np.testing.assert_allclose(along.t(along.length(at)), at, rtol=1e-6, atol=1e-6)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_rate_is_the_formula_s(seed):
    with jax.enable_x64(True):
        ball, rays = random_rays(seed, dtype=np.float64)
        along = arc_length(ball, rays)
        t, small = jnp.asarray(np.linspace(0.01, 9.0, rays.near.shape[0])), 1e-6
        rate = (along.length(t + small) - along.length(t - small)) / (2.0 * small)
        x = (
            np.asarray(rays.origins) + np.asarray(t)[:, None] * np.asarray(rays.directions)
        ) - CENTRE
        speed = np.linalg.norm(rays.directions, axis=-1) / RADIUS
        r2 = np.sum(x * x, axis=-1) / RADIUS**2
        u = np.sum(x * np.asarray(rays.directions), axis=-1) / speed / RADIUS**2
        b2 = np.maximum(r2 - u * u, 1e-6)
        expected = np.minimum(1.0, np.sqrt(1.0 + 4.0 * b2) / (u * u + b2)) * speed
        np.testing.assert_allclose(rate, expected, rtol=1e-4, atol=1e-6)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_contracted_points_never_outrun_the_length(seed):
    with jax.enable_x64(True):
        ball, rays = random_rays(seed, dtype=np.float64)
        along = arc_length(ball, rays)
        begin, end = along.length(rays.near), along.length(rays.far)
        s = np.linspace(np.asarray(begin), np.asarray(end) - 1e-6, 400)
        t = np.stack([np.asarray(along.t(jnp.asarray(row))) for row in s])
        points = np.asarray(rays.origins) + t[..., None] * np.asarray(rays.directions)
        moved = np.linalg.norm(np.diff(contracted_by_the_paper(points), axis=0), axis=-1)
        assert (moved <= np.diff(s, axis=0) * (1.0 + 1e-6) + 1e-9).all()
        # Nor is it much longer than the way: beyond the ball, by less than sqrt(1 + 4 b^2) of it.
        assert (np.diff(t, axis=0) >= 0.0).all()


def test_all_of_space_is_reached():
    ball, rays = random_rays(3)
    along = arc_length(ball, rays)
    t = np.asarray(along.t(along.length(rays.far)))
    points = np.asarray(rays.origins) + t[:, None] * np.asarray(rays.directions)
    norm = np.linalg.norm(np.asarray(ball.place(jnp.asarray(points))), axis=-1)
    assert (norm > 1.99).all()
    assert (norm <= 2.0).all()


walk = jax.jit(march, static_argnames=("samples", "max_steps"))


@given(SEEDS, st.sampled_from([0.02, 0.3, 1.0]))
@example(174, 0.3)  # a sample beyond 1,000 radii
@settings(max_examples=20, deadline=None)
def test_march_finds_what_a_loop_without_jumps_finds(seed, share):
    size, samples = 12, 300
    random = np.random.default_rng(seed)
    mask = random.uniform(size=(size,) * 3) < share
    density = np.full(mask.shape, 2.0**-10)
    cell, step = np.float32(4.0 / size), np.float32(4.0 / size / 2)
    ball, rays = random_rays(seed, 16)
    occupancy = Occupancy(
        encode(jnp.asarray(mask), jnp.asarray(density, jnp.float32)),
        jnp.full(3, -2.0), jnp.asarray(cell), jnp.asarray(step), ball,
    )  # fmt: skip
    found = jax.tree.map(np.asarray, walk(occupancy, rays, samples=samples, max_steps=samples))
    along = arc_length(ball, rays)
    begin, end = np.asarray(along.length(rays.near)), np.asarray(along.length(rays.far))
    s = begin + (np.arange(samples)[:, None] + 0.5) * step
    t = np.asarray(jax.vmap(along.t)(jnp.asarray(s, jnp.float32)))
    # What is farther than 1,000 radii is sampled as if it lay there.
    t = np.minimum(t, np.asarray(along.middle + 1000.0 / along.scale))
    points = np.asarray(rays.origins) + t[..., None] * np.asarray(rays.directions)
    place = (contracted_by_the_paper(points) + 2.0) / cell
    index = np.clip(np.floor(place).astype(int), 0, size - 1)
    hit = mask[index[..., 0], index[..., 1], index[..., 2]] & (s < end)
    # Rays that touch a wall, or end with a sample, may be seen either way in float32.
    near_wall = (np.abs(place - np.round(place)) < 1e-3).any(axis=-1) | (np.abs(s - end) < 1e-3)
    sure = ~(near_wall & (s < end + 1e-3)).any(axis=0)
    assert not found.truncated.any()
    for lane in np.flatnonzero(sure):
        expected = t[hit[:, lane], lane]
        assert found.count[lane] == len(expected)
        np.testing.assert_allclose(found.t[: len(expected), lane], expected, rtol=1e-3)


@pytest.mark.parametrize("where", ["in the ball", "beyond"])
def test_the_ball_and_back(where):
    ball, _ = random_rays(0)
    points = CENTRE + RADIUS * (0.4 if where == "in the ball" else 5.0) * np.eye(3)
    found = ball.place(jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(found, contracted_by_the_paper(points), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ball.world(found), points, rtol=1e-5)


def forward_rays(count: int = 32) -> tuple[NdcSpace, Rays]:
    """Cameras around the origin that look along -z, more or less; the last one backwards."""
    random = np.random.default_rng(1)
    origins = random.uniform(-0.1, 0.1, (count, 3))
    directions = np.concatenate([random.uniform(-0.15, 0.15, (count, 2)), -np.ones((count, 1))], -1)
    directions[-1, 2] = 0.5
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    rays = (origins, directions, unit, np.zeros(count), np.full(count, np.inf))
    frustum = NdcSpace(
        jnp.array([50.0, 60.0]), jnp.array([40.0, 30.0]), jnp.asarray(1.2), jnp.asarray(1.3)
    )
    return frustum, Rays(*(jnp.asarray(x, jnp.float32) for x in rays))


@pytest.mark.parametrize("cube", [0.0, 0.3, 0.9, 0.999])
def test_a_point_of_a_ray_is_a_point_of_its_ray_in_the_cube(cube):
    frustum, rays = forward_rays()
    inside, at = frustum.rays(rays), jnp.full(rays.near.shape, cube)
    t = frustum.t(rays, at)
    points = np.asarray(rays.origins) + np.asarray(t)[:, None] * np.asarray(rays.directions)
    expected = np.asarray(inside.origins) + cube * np.asarray(inside.directions)
    placed = np.asarray(frustum.place(jnp.asarray(points)))
    np.testing.assert_allclose(placed[:-1], expected[:-1], rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(frustum.world(jnp.asarray(placed))[:-1], points[:-1], rtol=5e-3)
    assert np.asarray(inside.far)[-1] == 0.0


def test_the_cube_is_the_picture_and_the_depth():
    frustum, _ = forward_rays()
    # The upper right corner of the picture on the near plane, and the middle of it at infinity.
    corner = jnp.array([1.2 * 20.0 / 50.0, 1.2 * 15.0 / 60.0, -1.2])
    np.testing.assert_allclose(frustum.place(corner), [1.0, 1.0, -1.0], rtol=1e-6)
    np.testing.assert_allclose(frustum.place(jnp.array([0.0, 0.0, -1e6])), [0, 0, 1], atol=1e-5)


def test_march_through_a_cube_takes_its_samples_evenly_there():
    frustum, rays = forward_rays()
    occupancy = Occupancy(
        encode(jnp.ones((8,) * 3, bool), jnp.full((8,) * 3, 2.0**-10)),
        jnp.full(3, -1.0), jnp.float32(0.25), jnp.float32(0.1), frustum,
    )  # fmt: skip
    found = jax.tree.map(np.asarray, walk(occupancy, rays, samples=64, max_steps=64))
    assert found.count[-1] == 0
    for lane in range(len(found.count) - 1):
        count = found.count[lane]
        t = found.t[:count, lane][:, None]
        points = np.asarray(rays.origins)[lane] + t * np.asarray(rays.directions)[lane]
        placed = np.asarray(frustum.place(jnp.asarray(points)))
        assert count >= 19
        gaps = np.linalg.norm(np.diff(placed, axis=0), axis=-1)
        # The last ones are far away, where float32 tells little of the distance.
        np.testing.assert_allclose(gaps[placed[1:, 2] < 0.9], 0.1, rtol=1e-2)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_distortion_is_the_double_sum_of_the_paper(seed):
    random = np.random.default_rng(seed)
    edges = np.sort(random.uniform(size=(9, 2)), axis=0)
    step = random.uniform(0.01, 0.1, 2)
    weights = random.dirichlet(np.ones(9), 2).T * random.choice([0.3, 1.0])
    widths = np.broadcast_to(step, edges.shape)
    found = march_distortion(*(jnp.asarray(x, jnp.float32) for x in (weights, edges, widths)))
    for ray in range(2):
        w, s = weights[:, ray], edges[:, ray]
        pairs = sum(w[i] * w[j] * abs(s[i] - s[j]) for i in range(9) for j in range(9))
        expected = pairs + sum(w * w) * step[ray] / 3.0
        np.testing.assert_allclose(found[ray], expected, rtol=1e-4, atol=1e-6)


class Uniform:
    """A field of density 1 in its space."""

    def density(self, params, positions):
        return jnp.ones(positions.shape[:-1]), positions


@pytest.mark.parametrize("kind", ["ball", "frustum"])
def test_a_field_within_a_space_is_as_dense_as_its_space_is_long(kind):
    space = random_rays(0)[0] if kind == "ball" else forward_rays()[0]
    field = WarpedField(Uniform(), space)
    out = np.array([0.0, 0.0, -1.0])
    start = CENTRE if kind == "ball" else np.zeros(3)
    t = np.linspace(1.3, 60.0, 40_001)
    points = jnp.asarray(start + t[:, None] * out, jnp.float32)
    density, places = field.density((), points)
    way = np.sum(np.asarray(density)) * (t[1] - t[0])
    length = np.linalg.norm(np.asarray(places)[-1] - np.asarray(places)[0])
    np.testing.assert_allclose(way, length, rtol=1e-2)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Shell:
    """A thin soft shell of radius 0.6, in the space in which it is asked."""

    def init(self, key):
        return jnp.float32(40.0)

    def density(self, params, positions):
        away = jnp.linalg.norm(positions, axis=-1) - 0.6
        return params * jnp.exp(-((away / 0.05) ** 2)), positions

    def colour(self, params, features, view_directions):
        return jax.nn.sigmoid(features)


@pytest.mark.parametrize("warped", [False, True])
def test_an_occupancy_made_by_asking_shows_what_dense_samples_do(warped):
    space = SphereContraction(jnp.asarray(CENTRE, jnp.float32), jnp.float32(RADIUS))
    field, density = WarpedField(Shell(), space) if warped else Shell(), jnp.float32(40.0)
    made = jax.jit(
        lambda params: Occupancy.of_field(
            field, params, np.full(3, -2.0, np.float32), 4.0, cells=40, step=0.01
        )
    )(density)
    share = float((made.cells >= 128).mean())
    assert 0.0 < share < 0.2
    _, rays = random_rays(5, 256)
    rays = dataclasses.replace(rays, far=jnp.full(rays.far.shape, 12.0))
    found = render_rays(field, density, rays, OccupancySampler(made))
    truth = render_rays(field, density, rays, Stratified(8000))
    assert float(truth.opacity.max()) > 0.9
    error = np.mean((np.asarray(found.colour) - np.asarray(truth.colour)) ** 2)
    assert -10.0 * np.log10(error) > 50.0

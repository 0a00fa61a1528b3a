"""Fields asked at points, on grids and by their first hits, against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from composition_factory import Ball, Blob, ball_spans, grid_around

from jaxnerf import (
    Box,
    Camera,
    Grid,
    Occupancy,
    Stratified,
    WarpedField,
    cast_rays,
    first_hit,
    grid_blocks,
    query,
)
from jaxnerf.contraction import SphereContraction
from jaxnerf.rendering import cells_that_hold
from jaxnerf.rendering.probing import BLOCK
from jaxnerf.sampling.cells import Cells

POINTS = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("batch", [(), (4,), (5, 4)])
def test_a_query_says_what_formulas_say_for_any_leading_shape(batch):
    points = POINTS.reshape(-1, 3)[: int(np.prod(batch))].reshape(*batch, 3)
    directions = np.float32([0.0, 0.0, 2.5]) * np.ones_like(points)
    found = jax.jit(query, static_argnums=0)(
        Blob(), jnp.float32(4.0), points, directions, length=0.3
    )
    density = 4.0 * np.exp(-2.0 * (points**2).sum(axis=-1))
    np.testing.assert_allclose(found.density, density, rtol=1e-4)
    np.testing.assert_allclose(found.opacity, 1.0 - np.exp(-0.3 * density), rtol=1e-4, atol=1e-6)
    logits = points + 0.5 * np.sin(3.0 * points) ** 2 + np.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(found.colour, 1.0 / (1.0 + np.exp(-logits)), rtol=1e-4)
    assert found.features.shape == (*batch, 6)


def test_a_colour_without_a_direction_is_the_mean_of_six():
    found = query(Blob(), jnp.float32(4.0), jnp.asarray(POINTS))
    ways = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    seen = [
        query(
            Blob(), jnp.float32(4.0), jnp.asarray(POINTS), jnp.asarray(way * np.ones_like(POINTS))
        )
        for way in ways
    ]
    np.testing.assert_allclose(found.colour, np.mean([s.colour for s in seen], axis=0), rtol=1e-5)
    assert query(Blob(), jnp.float32(4.0), jnp.asarray(POINTS), colours=False).colour is None


def test_a_query_has_gradients_and_knows_nothing_outside_of_occupied_cells():
    slope = jax.grad(lambda x: query(Blob(), jnp.float32(4.0), x).density)(jnp.ones(3) * 0.3)
    np.testing.assert_allclose(slope, -4.0 * 0.3 * 4.0 * np.exp(-2.0 * 0.27), rtol=1e-4)
    occupancy = grid_around(2.0, 0.1).occupancy
    found = query(Blob(), jnp.float32(4.0), jnp.asarray(POINTS), occupancy=occupancy)
    inside = (np.abs(POINTS) < 1.0).all(axis=-1)
    assert inside.any()
    assert ((np.asarray(found.density) > 0.0) == inside).all()


@pytest.mark.parametrize("kind", ["dense", "packed"])
def test_the_first_hit_is_that_of_the_quadratic_formula(kind):
    camera = Camera.look_at((0.5, -4.0, 1.0), width=16, height=12, field_of_view=40.0)
    pixels = np.random.default_rng(1).uniform(0.0, 12.0, (5, 20, 2)).astype(np.float32)
    rays = cast_rays(camera, pixels, 1.0, 7.0)
    sampler = Stratified(2000) if kind == "dense" else grid_around(2.2, 0.004)

    found = jax.jit(first_hit)(Soft(400.0), (), rays, sampler)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rays)
    spans = ball_spans(flat, (0, 0, 0), 1.0).reshape(5, 20, 2)
    thick = (spans[..., 1] - spans[..., 0]) > 0.2
    hit = np.asarray(found.hit)
    assert (hit == (spans[..., 0] < 1e8))[thick | (spans[..., 0] > 1e8)].all()
    speed = np.linalg.norm(rays.directions, axis=-1)
    np.testing.assert_allclose(
        np.asarray(found.distance)[thick], (spans[..., 0] * speed)[thick], atol=0.02
    )
    points = np.asarray(found.points)[thick]
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 1.0, atol=0.01)
    np.testing.assert_allclose(np.asarray(found.normal)[thick], points, atol=0.03)


def test_a_grid_in_blocks_is_the_formula_at_every_voxel():
    occupancy = Occupancy.of(np.ones((4, 4, 4), bool), np.full(3, -0.5), 0.25, 0.1)
    box = Box(np.array([-0.5, -1.5, -0.4]), np.array([0.6, 2.0, 0.5]))
    grid = Grid.of(box, 150)
    blocks = grid_blocks(Blob(), jnp.float32(4.0), grid, occupancy=occupancy)
    assert len(blocks) == 3 * 1 * 1
    density, colour = np.full(grid.shape, np.nan), np.full((*grid.shape, 3), np.nan)
    empty = 0
    for block in blocks:
        assert max(block.properties.density.shape) <= BLOCK
        density[block.where] = block.properties.density
        colour[block.where] = block.properties.colour
        empty += not block.properties.density.any()
    index = np.indices(grid.shape).transpose(1, 2, 3, 0)
    points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    inside = (np.abs(points) < 0.5).all(axis=-1)
    expected = np.where(inside, 4.0 * np.exp(-2.0 * (points**2).sum(axis=-1)), 0.0)
    sure = (np.abs(np.abs(points) - 0.5) > 1e-5).all(axis=-1)
    np.testing.assert_allclose(density[sure], expected[sure], rtol=1e-4, atol=1e-6)
    assert np.isfinite(colour).all()
    assert empty == 1  # the last, which no cell reaches
    half = np.zeros(grid.shape, np.float16)
    blocks.write(density=half)
    np.testing.assert_allclose(half[sure], expected[sure], rtol=2e-3, atol=1e-3)
    opacity = np.zeros(grid.shape, np.float32)
    shades = np.zeros((*grid.shape, 3), np.float32)
    blocks.write(opacity=opacity, colour=shades)
    np.testing.assert_allclose(
        opacity[sure], 1.0 - np.exp(-expected[sure] * grid.voxel), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(shades, colour, atol=1e-6)
    with pytest.raises(ValueError, match="density has the shape"):
        blocks.write(density=half[1:])
    with pytest.raises(ValueError, match="needs an array"):
        blocks.write()


def test_of_a_grid_of_1024_cubed_no_more_than_a_block_is_asked_at_once():
    grid = Grid.of(Box(np.full(3, -0.5), np.full(3, 0.5)), 1024)
    blocks = grid_blocks(Blob(), jnp.float32(4.0), grid)
    assert blocks.shape == (1024,) * 3
    assert len(blocks) == (1024 // BLOCK) ** 3
    first = next(iter(blocks))
    assert first.properties.density.shape == (BLOCK,) * 3
    np.testing.assert_allclose(
        first.properties.density[0, 0, 0], 4.0 * np.exp(-6.0 * (0.5 - 0.5 / 1024) ** 2), rtol=1e-5
    )


def box_of(cells: Cells) -> np.ndarray:
    corners = cells.corners()
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


class Soft(Ball):
    """With an edge that has a gradient, half a percent thick."""

    def density(self, params, positions):
        norm = jnp.linalg.norm(positions, axis=-1)
        return 400.0 * jax.nn.sigmoid((1.0 - norm) / 0.002), positions


class Scattered(Ball):
    """A ball of radius 0.5, fog everywhere, and a small speck far away."""

    def density(self, params, positions):
        ball = jnp.sum(positions**2, axis=-1) < 0.25
        shift = positions - jnp.broadcast_to(jnp.array([1.5, 1.5, -1.5]), positions.shape)
        speck = jnp.sum(shift**2, axis=-1) < 0.01
        return jnp.where(ball | speck, 200.0, 0.05), positions


jax.tree_util.register_static(Soft)
jax.tree_util.register_static(Scattered)


def test_cells_that_hold_something_are_found_without_fog_and_specks():
    everywhere = Cells(np.ones((48,) * 3, bool), np.full(3, -2.0), 4.0 / 48)
    found = cells_that_hold(Scattered(), (), everywhere)
    np.testing.assert_allclose(box_of(found), [[-0.5] * 3, [0.5] * 3], atol=4.0 / 48)
    with_speck = cells_that_hold(Scattered(), (), everywhere, least_fraction=0.0)
    np.testing.assert_allclose(box_of(with_speck)[1, 0], 1.6, atol=4.0 / 48)
    nothing = cells_that_hold(Ball(0.0), (), everywhere)
    assert not nothing.mask.any()


def test_cells_of_contracted_space_are_told_by_their_size_in_the_world():
    """A ball in the middle of the ball that keeps its shape."""
    space = SphereContraction(jnp.array([10.0, 0.0, 0.0]), jnp.float32(4.0))
    field = WarpedField(Scattered(), space)
    cells = Cells(np.ones((48,) * 3, bool), np.full(3, -2.0), 4.0 / 48, space).in_the_middle()
    found = cells_that_hold(field, (), cells)
    expected = np.array([[8.0, -2.0, -2.0], [12.0, 2.0, 2.0]])
    np.testing.assert_allclose(box_of(found), expected, atol=4.0 * 4.0 / 48)


def test_balls_hold_their_cells():
    space = SphereContraction(jnp.array([0.2, -0.1, 0.3]), jnp.float32(0.8))
    mask = np.random.default_rng(2).uniform(size=(12,) * 3) < 0.2
    index = np.argwhere(mask)
    for cells in (
        Cells(mask, np.full(3, -2.0), 1 / 3),
        Cells(mask, np.full(3, -2.0), 1 / 3, space),
    ):
        middles, radii = cells.balls()
        centres = np.linalg.norm(index / 3 - 2.0 + 1 / 6, axis=-1)
        for part in np.random.default_rng(3).uniform(size=(20, 3)):
            points = cells.world(index + part)
            inside = np.linalg.norm(points - middles, axis=-1) <= radii
            # Near the edge of contracted space, infinity, cells have no middle.
            assert inside[centres < 1.6].all()


def test_boxes_that_are_none_are_refused():
    for bad in ((0, 0, 0, 1, -1, 1), (0, 0, 0), np.zeros((2, 3)), (0, 0, 0, 1, 1, np.nan)):
        with pytest.raises(ValueError, match=r"box: .* is not x0,y0,z0,x1,y1,z1"):
            Box.named(bad)
    assert Box.named([[0, 0, 0], [1, 2, 3]]).size.tolist() == [1.0, 2.0, 3.0]

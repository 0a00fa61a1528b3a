"""The sparse voxels: against a slow dense lattice, finite differences, and the plain renderer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lattice import lattice_vertices
from voxel_factory import (
    ORIGIN,
    SETTINGS,
    points_in,
    random_cells,
    random_field,
    slow_density,
)

from jaxnerf import Field, Rays, Stratified, render_rays
from jaxnerf.fields.bricks import brick_index, num_vertices
from jaxnerf.fields.voxels import (
    BRICK,
    VoxelField,
    VoxelParams,
    VoxelSettings,
    decay_density,
    smoothed,
)


@pytest.mark.parametrize("voxels_a_cell", [2.0, 0.5, 1.25])
def test_density_is_trilinear_in_the_lattice(voxels_a_cell):
    cells, voxel = random_cells(0), 0.2 / voxels_a_cell
    field, params = random_field(cells, 0.2, voxel)
    random = np.random.default_rng(1)
    anywhere = ORIGIN + random.uniform(-0.3, 1.6, (200, 3))
    for positions in (points_in(random, cells, 0.2), anywhere):
        density, features = field.density(params, jnp.asarray(positions, jnp.float32))
        expected = slow_density(field, params, positions)
        np.testing.assert_allclose(density, expected[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(features, expected[1], atol=1e-4)


def test_there_is_nothing_outside_of_the_cube():
    field = VoxelField.on_lattice(np.ones((4,) * 3, bool), ORIGIN, 0.2, 0.1, SETTINGS)
    params = field.init(jax.random.key(0))
    random = np.random.default_rng(1)
    positions = ORIGIN + random.choice([-1.0, 1.0], (100, 3)) * random.uniform(2.0, 9.0, (100, 3))
    density, _ = field.density(params, jnp.asarray(positions, jnp.float32))
    assert (np.asarray(density) < 1e-5).all()


def test_a_new_field_has_its_initial_opacity_in_every_occupied_cell_and_any_leading_shape():
    cells = random_cells(4)
    field = VoxelField.on_lattice(cells, ORIGIN, 0.2, 0.1, SETTINGS)
    params = field.init(jax.random.key(1))
    positions = points_in(np.random.default_rng(0), cells, 0.2)[:24]
    density, features = field.density(
        params, jnp.asarray(positions.reshape(2, 3, 4, 3), jnp.float32)
    )
    assert density.shape == (2, 3, 4)
    assert features.shape == (2, 3, 4, 3)
    # Of one voxel, to first order.
    np.testing.assert_allclose(density, np.full((2, 3, 4), 0.03 / 0.1), rtol=1e-5)


def test_gradient_to_positions_is_that_of_finite_differences():
    cells = random_cells(0)
    field, params = jax.tree.map(np.asarray, random_field(cells))
    positions = points_in(np.random.default_rng(2), cells, 0.2, 2)
    # Away from faces, where the gradient jumps.
    place = (positions - ORIGIN) / 0.1
    positions = positions[np.abs(place - np.round(place)).min(axis=-1) > 1e-3]

    density = jax.jit(field.density)

    def total(params, x):
        return jnp.sum(density(params, x)[0])

    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype == np.float32 else x.dtype), params
        )
        gradient = jax.jit(jax.grad(total, argnums=1))(wide, jnp.asarray(positions))
        for axis in range(3):
            shift = 1e-6 * np.eye(3)[axis]
            ahead, behind = (density(wide, jnp.asarray(positions + s))[0] for s in (shift, -shift))
            expected = (ahead - behind) / 2e-6
            np.testing.assert_allclose(gradient[:, axis], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("voxels_a_cell", [2.0, 1.0, 0.5, 1.25, 1.1])
def test_bricks_cover_all_corners_of_every_occupied_cell(voxels_a_cell):
    cells = random_cells(5, size=9, share=0.02)
    bricks, count = brick_index(cells, voxels_a_cell)
    assert sorted(bricks[bricks > 0].tolist()) == list(range(1, count + 1))
    assert num_vertices(cells, voxels_a_cell) == 64 * count
    inside = np.linspace(1e-5, 1.0 - 1e-5, 9)
    for place in np.argwhere(cells):
        for offset in np.stack(np.meshgrid(inside, inside, inside), -1).reshape(-1, 3):
            lower = np.floor((place + offset) * voxels_a_cell).astype(int)
            for digits in np.ndindex(2, 2, 2):
                assert bricks[tuple((lower + digits) // BRICK)] > 0
    points = lattice_vertices(bricks)
    assert points.shape == (BRICK**3 * (1 + count), 3)
    for row in (64, 64 + 27, len(points) - 1):
        assert bricks[tuple(points[row].astype(int) // BRICK)] == row // 64
        x, y, z = points[row].astype(int) % BRICK
        assert row % 64 == (x * BRICK + y) * BRICK + z


@pytest.mark.parametrize("voxels", [4.5, 9.0, 31.0])
def test_a_cell_of_many_bricks_has_all_of_them(voxels):
    cells = np.zeros((2, 2, 2), bool)
    cells[1, 0, 1] = True
    bricks, count = brick_index(cells, voxels)
    first, last = (int(np.floor(x)) // BRICK for x in (voxels, 2.0 * voxels - 1e-6))
    inner = int(voxels - 1e-6) // BRICK
    assert (bricks[first : last + 1, : inner + 1, first : last + 1] > 0).all()
    assert count == (bricks > 0).sum()


@pytest.mark.parametrize("finer", [1.0, 2.0, 4.0, 2.5])
def test_refining_keeps_the_field_and_drops_bricks(finer):
    cells = random_cells(0, share=0.3)
    fewer = cells & random_cells(1, share=0.5)
    field, params = random_field(cells)
    after, resampled = field.resample(params, fewer, ORIGIN, 0.2, 0.1 / finer)
    assert (np.asarray(after.bricks) > 0).sum() < (finer**3) * (np.asarray(field.bricks) > 0).sum()
    np.testing.assert_allclose(after.spacing, 0.1 / finer, rtol=1e-6)
    assert float(after.view_dependence) == 1.0
    # The new lattice's own points within the cells that are left, which are the old one's and more.
    points = lattice_vertices(np.asarray(after.bricks))[64:].astype(np.float64)
    at = points * (0.1 / finer)
    index = np.floor((at + 1e-4) / 0.2).astype(int)
    inside = (index < 6).all(axis=-1)
    at, index = at[inside], index[inside]
    at = at[fewer[tuple(index.T)]] + ORIGIN
    assert len(at) > 50
    density, features = after.density(resampled, jnp.asarray(at, jnp.float32))
    expected = slow_density(field, params, at)
    # As numbers of float32 allow, an ulp of the place away from the lattice vertex.
    np.testing.assert_allclose(density, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features, expected[1], atol=1e-4)
    if finer == 1.0:
        assert np.asarray(after.bricks).max() < np.asarray(field.bricks).max()


def test_refining_keeps_densities_where_a_voxel_is_opaque_and_where_it_is_empty():
    cells = np.ones((2,) * 3, bool)
    field, params = random_field(cells)
    for logit in (-12.0, -3.0, 8.0, 60.0):
        table = params.table.at[64:, 0].set(logit)
        before = dataclasses.replace(params, table=table)
        after, resampled = field.resample(before, cells, ORIGIN, 0.2, 0.05)
        at = jnp.asarray(ORIGIN + 0.13, jnp.float32)[None]
        expected = np.logaddexp(0.0, logit) / 0.1
        np.testing.assert_allclose(
            after.density(resampled, at)[0], [expected], rtol=2e-3, atol=2e-5
        )


@pytest.mark.parametrize("cell", [0.15, 0.2, 0.5])
def test_pruning_keeps_the_cells_and_leaves_nothing_a_voxel_away(cell):
    size, voxel, origin = round(3.0 / cell), 0.2, np.array([0.3, -1.0, 2.0], np.float32)
    random = np.random.default_rng(3)
    everywhere = np.ones((size,) * 3, bool)
    field = VoxelField.on_lattice(everywhere, origin, cell, voxel, SETTINGS)
    params = field.init(jax.random.key(2))
    cells = random.random((size,) * 3) < 0.1
    cells[size // 3 :] = False
    pruned = field.prune(params, cells, origin, cell)
    points = origin + random.random((20_000, 3)).astype(np.float32) * np.float32(size * cell)
    before, after = (field.density(p, jnp.asarray(points))[0] for p in (params, pruned))
    place = (points - origin) / cell
    index = np.minimum(np.floor(place).astype(int), size - 1)
    inside = cells[tuple(index.T)]
    assert inside.sum() > 100
    np.testing.assert_allclose(after[inside], before[inside], rtol=1e-4)
    # The nearest occupied cell is farther than a voxel along some axis, and than a cell and a voxel more.
    gaps = np.argwhere(cells)[None] - place[:500, None, :]
    apart = np.maximum(np.maximum(gaps, -gaps - 1.0), 0.0).max(axis=-1).min(axis=-1) * cell
    far = apart > 2 * voxel + 2 * cell
    assert far.any()
    assert np.asarray(after[:500])[far].max() < 1e-5 < np.asarray(before).min()


def test_decay_lowers_logits_to_a_floor_and_nothing_else():
    _, params = random_field(random_cells(0))
    table = np.array(params.table)
    table[64:69, 0] = [-15.0, -12.5, -11.99, 0.0, 3.0]
    params = dataclasses.replace(params, table=jnp.asarray(table))
    lower = decay_density(params, jnp.float32(0.07))
    expected = [-15.0, -12.5, -12.0, -0.07, 2.93]
    np.testing.assert_allclose(lower.table[64:69, 0], expected, atol=1e-6)
    assert (np.asarray(lower.table[:64]) == table[:64]).all()
    np.testing.assert_array_equal(lower.table[:, 1:], table[:, 1:])
    rest = [dataclasses.replace(each, table=None) for each in (lower, params)]
    jax.tree.map(np.testing.assert_array_equal, *rest)


def slow_smoothing(field: VoxelField, params: VoxelParams, by: float) -> np.ndarray:
    """The table after diffusion, a lattice vertex and a neighbour at a time."""
    bricks, before = np.asarray(field.bricks), np.asarray(params.table, np.float64)
    after, places = before.copy(), {}
    for place in np.argwhere(bricks > 0):
        for local in np.ndindex(BRICK, BRICK, BRICK):
            row = BRICK**3 * bricks[tuple(place)] + np.ravel_multi_index(local, (BRICK,) * 3)
            places[tuple(BRICK * place + local)] = row
    for point, row in places.items():
        mean = 0.0
        for axis in range(3):
            for step in (-1, 1):
                near = (*point[:axis], point[axis] + step, *point[axis + 1 :])
                mean = mean + before[places.get(near, row)] / 6.0
        after[row] += by * (mean - before[row])
    return after


def test_smoothing_moves_points_towards_the_mean_of_their_neighbours_across_bricks():
    field, params = random_field(random_cells(1))
    after = jax.jit(smoothed)(field, params, jnp.float32(0.7))
    np.testing.assert_allclose(after.table, slow_smoothing(field, params, 0.7), atol=1e-5)
    assert np.abs(np.asarray(after.table - params.table)).max() > 1.0
    jax.tree.map(np.testing.assert_array_equal, after.network, params.network)


def test_smoothing_keeps_what_there_is_of_everything_and_what_is_even():
    field, params = random_field(random_cells(2))
    even = dataclasses.replace(params, table=jnp.full_like(params.table, 0.3))
    smooth = jax.jit(smoothed)
    np.testing.assert_allclose(smooth(field, even, jnp.float32(1.0)).table, 0.3, atol=1e-6)
    after = smooth(field, params, jnp.float32(0.4)).table
    np.testing.assert_allclose(jnp.sum(after, 0), jnp.sum(params.table, 0), rtol=1e-3, atol=0.05)


def test_any_optimizer_works_on_the_parameters():
    """Since all of them learn: weight decay, chains, and gradients without exceptions."""
    field, params = random_field(random_cells(0))
    at = jnp.asarray(points_in(np.random.default_rng(0), random_cells(0), 0.2), jnp.float32)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=1e-2))
    state = optimizer.init(params)

    def loss(params):
        density, features = field.density(params, at)
        colour = field.colour(params, features, jnp.ones_like(at) / np.float32(np.sqrt(3.0)))
        return jnp.mean((density - 5.0) ** 2) + jnp.mean((colour - 0.3) ** 2)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    _, _, first = step(params, state)
    for _ in range(100):
        params, state, value = step(params, state)
    assert float(value) < 0.5 * float(first)


def test_colours_are_colours_and_know_the_direction_only_when_told():
    field, params = random_field(random_cells(0))
    keys = jax.random.split(jax.random.key(3), 2)
    features = 5.0 * jax.random.normal(keys[0], (4, 50, 3))
    directions = jax.random.normal(keys[1], (4, 50, 3))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    colour = field.colour(params, features, directions)
    assert colour.shape == (4, 50, 3)
    assert ((colour >= 0.0) & (colour <= 1.0)).all()
    np.testing.assert_array_equal(field.colour(params, features, -directions), colour)
    told = dataclasses.replace(field, view_dependence=np.float32(1.0))
    difference = told.colour(params, features, -directions) - told.colour(
        params, features, directions
    )
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("shading", ["ray", "sample"])
def test_it_is_a_field_for_the_plain_renderer(shading):
    settings = VoxelSettings(width=8, shading=shading)
    field, params = random_field(np.ones((3,) * 3, bool), settings=settings)
    field = dataclasses.replace(field, view_dependence=np.float32(1.0))
    assert isinstance(field, Field)
    start = np.tile(ORIGIN + [-1.0, 0.0, 0.0], (6, 1)) + np.linspace(0.02, 0.58, 6)[:, None] * [
        0,
        1,
        1,
    ]
    along = np.tile(np.float32([1.0, 0.0, 0.0]), (6, 1))
    near, far = np.full(6, 1.0, np.float32), np.full(6, 1.6, np.float32)
    rays = jax.tree.map(jnp.asarray, Rays(start.astype(np.float32), along, along, near, far))

    def colour(params, rays):
        return render_rays(field, params, rays, Stratified(20)).colour

    together = jax.jit(colour)(params, rays)
    one_by_one = jax.jit(jax.vmap(colour, in_axes=(None, 0)))(params, rays)
    np.testing.assert_allclose(one_by_one, together, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(colour(p, rays))))(params)
    assert float(jnp.max(jnp.abs(gradient.table))) > 0.0
    assert all(float(jnp.max(jnp.abs(layer["kernel"]))) > 0.0 for layer in gradient.network)
    # No ray through occupied cells teaches what stands for nothing.
    assert float(jnp.max(jnp.abs(gradient.table[:64]))) == 0.0
    single = VoxelField.in_unit_cube()
    assert single.bricks.shape == (2, 2, 2)
    density, _ = single.density(single.init(jax.random.key(0)), jnp.full((1, 3), 0.5))
    assert np.asarray(density)[0] == pytest.approx(0.03)

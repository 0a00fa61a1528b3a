"""What growth makes of a ball: where something is kept, how fine, and how large batches are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import CENTRE, FOCAL, RADIUS, SIDE, cell_centres, photographs
from lattice import lattice_vertices
from training_factory import first_state_of_voxels, trainer_of_voxels

from jaxnerf.fields.voxels import VoxelField, VoxelSettings
from jaxnerf.sampling.occupancy import encode, occupied
from jaxnerf.scenes import Split
from jaxnerf.scenes.silhouettes import scene_cube
from jaxnerf.training.coarse_to_fine.settings import CoarseToFineConfig, StageInputs
from jaxnerf.training.coarse_to_fine.stages import grow, refresh, size_batch
from jaxnerf.training.loop import train
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.trainer import local

VOXELS = VoxelSettings(width=8)
GROWING = CoarseToFineConfig(
    resolutions=(16, 24), fractions=(0.4,), cells=16, samples=24, max_steps=40, mean_samples=2.0
)
CONFIG = TrainingConfig(steps=60, rays_per_batch=256, background="random", seed=3)


@pytest.fixture(scope="module")
def split() -> Split:
    return photographs()


def begun_state(split: Split):
    return first_state_of_voxels(split, GROWING, CONFIG)


def holding(state, cells):
    """The state as it would be if so much were found to hold something."""
    old = state.sampler.occupancy
    origin, cell = np.asarray(old.origin), float(old.cell)
    field = VoxelField.on_lattice(cells, origin, cell, cell, VOXELS)
    codes = encode(jnp.asarray(cells), jnp.ones(cells.shape))
    return dataclasses.replace(
        state,
        field=field,
        params=field.init(jax.random.key(0)),
        sampler=dataclasses.replace(state.sampler, occupancy=dataclasses.replace(old, cells=codes)),
    )


def with_rays(state, rays: int):
    """The state whose batches have so many rays."""
    growth = dataclasses.replace(state.strategy, rays=jnp.int32(rays))
    return dataclasses.replace(state, strategy=growth)


def kept_in(old, new) -> bool:
    """Whether the middle of each of a grid's occupied cells lies in one of another's."""
    middles = (np.argwhere(np.asarray(occupied(old))) + 0.5) * np.asarray(old.cell) + old.origin
    index = np.floor((middles - np.asarray(new.origin)) / np.asarray(new.cell)).astype(int)
    return bool(np.asarray(occupied(new))[tuple(index.T)].all())


def with_density(state, logit):
    """The state with logits that are a function of nothing, or of the row."""
    table = state.params.table.at[64:, 0].set(logit)
    return dataclasses.replace(state, params=dataclasses.replace(state.params, table=table))


def test_the_first_state_keeps_the_ball_and_carves_what_is_around_it(split):
    assert split.has_alpha
    state = begun_state(split)
    centres, full = cell_centres(state.sampler.occupancy)
    away = np.linalg.norm(centres - CENTRE, axis=-1)
    cell = float(state.sampler.occupancy.cell)
    assert full[away < RADIUS].all()
    # The grid is drawn in around the ball, and its corners are empty.
    assert 2.0 * RADIUS < 16 * cell < 6.0 * RADIUS
    assert 0.1 < full.mean() < 0.75
    assert full[::15, ::15, ::15].mean() < 0.3
    # Every point of the ball lies in the grid, and has a density.
    directions = np.random.default_rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    points = CENTRE + RADIUS * directions * np.linspace(0.0, 1.0, 500)[:, None]
    index = np.floor((points - np.asarray(state.sampler.occupancy.origin)) / cell).astype(int)
    assert full[tuple(index.T)].all()
    density = state.field.density(state.params, jnp.asarray(points, jnp.float32))[0]
    # The initial opacity, of a voxel.
    np.testing.assert_allclose(density, np.full(500, 0.03 / (16 * cell / 16)), rtol=1e-3)
    # The tiles that show the ball, and not many more.
    assert split.images is not None
    shown = split.images[..., 3].reshape(12, 8, 8, 8, 8).max(axis=(2, 4)) > 0
    assert np.asarray(state.strategy.tiles)[shown].all()
    jax.tree.map(np.testing.assert_array_equal, local(state), local(begun_state(split)))


def test_without_silhouettes_everything_that_all_cameras_see_is_kept():
    # Neither alpha nor a known background: the photographs are opaque, and the background is random.
    split = photographs(alpha=False)
    assert not split.has_alpha
    state = begun_state(split)
    origin, side = scene_cube(split)
    assert np.asarray(occupied(state.sampler.occupancy)).all()
    np.testing.assert_allclose(state.sampler.occupancy.origin, origin, rtol=1e-5)
    np.testing.assert_allclose(float(state.sampler.occupancy.cell) * 16, side, rtol=1e-5)
    # Around the point that the cameras look at, as large as the ball that they see.
    np.testing.assert_allclose(origin + side / 2, np.zeros(3), atol=1e-4)
    positions = np.asarray(split.cameras.camera_to_world)[:, :, 3]
    distance = np.median(np.linalg.norm(positions, axis=-1))
    assert side / 2 == pytest.approx(distance * (SIDE / 2) / FOCAL, rel=1e-4)
    assert np.asarray(state.strategy.tiles).all()


def test_refreshing_drops_cells_that_have_become_empty_and_no_others(split):
    state = begun_state(split)
    before = np.asarray(occupied(state.sampler.occupancy))
    dense = refresh(with_density(state, 3.0), 0.01)
    np.testing.assert_array_equal(occupied(dense.sampler.occupancy), before)
    # Only the half with x above the middle holds something.
    bricks = np.asarray(state.field.bricks)
    places = np.argwhere(bricks > 0)
    rows = np.repeat(places[:, 0] >= 2, 64)
    logit = jnp.full(state.params.table.shape[0] - 64, -12.0)
    logit = logit.at[: len(rows)].set(jnp.where(jnp.asarray(rows), 3.0, -12.0))
    half = np.asarray(occupied(refresh(with_density(state, logit), 0.01).sampler.occupancy))
    # Lattice vertices of 8 and above; cells 7 reach up to them, and are voxels here.
    np.testing.assert_array_equal(half[8:], before[8:])
    assert not half[:7].any()


def test_growing_when_all_has_become_empty_goes_on_everywhere(split):
    state = with_density(begun_state(split), -12.0)
    after = grow(local(state), 1, StageInputs(split, GROWING, CONFIG))
    assert np.asarray(occupied(after.sampler.occupancy)).any()
    assert np.asarray(after.strategy.tiles).any()


def test_a_batch_has_fewer_rays_while_they_need_more_samples(split):
    state = begun_state(split)
    config = dataclasses.replace(CONFIG, rays_per_batch=2048)
    full = config.rays_per_batch
    counts = {}
    for budget in (100.0, 2.5, 1.5, 0.1):
        growing = dataclasses.replace(GROWING, mean_samples=budget)
        counts[budget] = int(size_batch(state, StageInputs(split, growing, config)).strategy.rays)
    assert counts[100.0] == full > counts[2.5] > counts[1.5] > counts[0.1] == full // 8
    # What is drawn fits, or nearly, and most of what fits is drawn.
    growing = dataclasses.replace(GROWING, mean_samples=1.5)
    sized = with_rays(state, counts[1.5])
    way = trainer_of_voxels(split, growing, config)
    first = next(train(sized, way)).metrics
    assert first["rays"] == counts[1.5]
    assert first["dropped"] < 0.25
    assert first["truncated"] == 0.0
    assert first["samples"] * first["rays"] * (1.0 - first["dropped"]) > 0.6 * 3.0 * full


def test_a_batch_keeps_its_size_unless_much_is_gained(split):
    growing = dataclasses.replace(GROWING, mean_samples=12.0)
    state = with_rays(begun_state(split), 192)
    assert (
        int(size_batch(state, StageInputs(split, growing, CONFIG), least_factor=1.6).strategy.rays)
        == 192
    )
    assert int(size_batch(state, StageInputs(split, growing, CONFIG)).strategy.rays) == 256
    state = with_rays(state, 64)
    assert (
        int(size_batch(state, StageInputs(split, growing, CONFIG), least_factor=1.6).strategy.rays)
        == 256
    )


def test_a_stage_of_a_run_of_few_steps_is_as_fine_as_they_fill(split):
    growing = dataclasses.replace(GROWING, voxels_for_steps=5.0)
    state = dataclasses.replace(begun_state(split), total_steps=jnp.int32(64))
    after = grow(local(with_density(state, 9.0)), 1, StageInputs(split, growing, CONFIG))
    side = float(after.sampler.occupancy.cell) * after.sampler.occupancy.cells.shape[0]
    assert after.sampler.occupancy.cells.shape == (20, 20, 20)
    assert float(after.field.spacing) == pytest.approx(side / 20)


def test_a_stage_has_as_many_cells_as_voxels_and_drops_those_that_turn_out_empty(split):
    before = local(with_density(begun_state(split), 9.0))
    after = grow(
        before, 1, StageInputs(split, dataclasses.replace(GROWING, unseen_below=0.0), CONFIG)
    )
    assert before.sampler.occupancy.cells.shape == (16, 16, 16)
    assert after.sampler.occupancy.cells.shape == (24, 24, 24)
    assert kept_in(before.sampler.occupancy, after.sampler.occupancy)
    # Half of them emptied, by the field: their share of the volume goes.
    points = lattice_vertices(np.asarray(before.field.bricks))
    table = np.array(before.params.table)
    table[: len(points)][points[:, 0] > np.median(points[64:, 0]), 0] = -15.0
    emptied = dataclasses.replace(before, params=dataclasses.replace(before.params, table=table))
    half = grow(
        emptied, 1, StageInputs(split, dataclasses.replace(GROWING, unseen_below=0.0), CONFIG)
    )

    def volume(state):
        return (
            float(occupied(state.sampler.occupancy).sum())
            * float(state.sampler.occupancy.cell) ** 3
        )

    assert 0.3 * volume(after) < volume(half) < 0.8 * volume(after)


@pytest.mark.parametrize(("first", "side", "middle"), [(1, 24, 12.0), (2, 22, 13.0)])
def test_a_stage_shrinks_onto_what_was_found_even_by_a_little(split, first, side, middle):
    growing = dataclasses.replace(GROWING, unseen_below=0.0)
    begun = begun_state(split)
    origin, cell = np.asarray(begun.sampler.occupancy.origin), float(begun.sampler.occupancy.cell)
    cells = np.zeros((16, 16, 16), bool)
    cells[first:15, first:15, first:15] = True
    begun = holding(begun, cells)
    after = grow(local(begun), 1, StageInputs(split, growing, CONFIG)).sampler.occupancy
    # In the second stage's cells, of which the cube had 24 along each side before it shrank.
    fine = cell * 16 / 24
    assert float(after.cell) * 24 == pytest.approx(side * fine, rel=1e-5)
    found = (np.asarray(after.origin) - origin) / fine + side / 2
    np.testing.assert_allclose(found, middle, atol=0.02)


def test_voxels_are_as_small_as_the_vertices_of_a_lattice_allow(split):
    def voxels(cells, points, last=24):
        growing = dataclasses.replace(
            GROWING, resolutions=(16, last), unseen_below=0.0, target_vertices=points
        )
        begun = local(holding(begun_state(split), cells))
        after = grow(begun, 1, StageInputs(split, growing, CONFIG))
        side = float(after.sampler.occupancy.cell) * after.sampler.occupancy.cells.shape[0]
        voxel = float(after.field.spacing)
        assert float(after.sampler.occupancy.step) == voxel
        return voxel, 64 * np.count_nonzero(np.asarray(after.field.bricks)), side / voxel

    cells = np.zeros((16, 16, 16), bool)
    cells[4:12, 4:12, 6:9] = True
    coarse, fine = voxels(cells, 9_000), voxels(cells, 18_000)
    for (_, kept, along), points in ((coarse, 9_000), (fine, 18_000)):
        assert 0.85 * points < kept < 1.15 * points
        assert 16 < along < 36
    assert fine[0] < 0.9 * coarse[0]
    # Two lone cells far away make the cube wider, and the voxels no larger.
    cells[2, 8, 8] = cells[13, 8, 8] = True
    wide = voxels(cells, 9_000)
    assert wide[0] == pytest.approx(coarse[0], rel=0.08)
    assert wide[2] > 1.2 * coarse[2]
    # However many points: from two thirds as many voxels as the resolution says to half as many again,
    # and none larger than before.
    assert [round(voxels(cells, points)[2]) for points in (10, 10**9)] == [16, 36]
    before = float(begun_state(split).sampler.occupancy.step)
    assert 0.9 * before < voxels(cells, 10, 18)[0] <= before


def test_a_stage_in_the_middle_has_no_more_vertices_than_the_last_may_have(split):
    def middle(target, resolution=24):
        growing = dataclasses.replace(
            GROWING, resolutions=(16, resolution, 32), fractions=(0.2, 0.5), unseen_below=0.0,
            target_vertices=target,
        )  # fmt: skip
        cells = np.zeros((16, 16, 16), bool)
        cells[1:15, 1:15, 4:11] = True
        after = grow(
            local(holding(begun_state(split), cells)), 1, StageInputs(split, growing, CONFIG)
        )
        side = float(after.sampler.occupancy.cell) * after.sampler.occupancy.cells.shape[0]
        bricks = int(np.count_nonzero(np.asarray(after.field.bricks)))
        return 64 * bricks, side / float(after.field.spacing), float(after.field.spacing)

    unlimited, along, _ = middle(0)
    assert middle(10**6)[:2] == (unlimited, along)
    limited, coarser, _ = middle(unlimited // 2)
    assert 0.85 * (unlimited // 2) < limited < 1.15 * (unlimited // 2)
    # No finer than the resolution says, and no coarser than by a factor of 1.5 or than the stage before.
    assert 16 <= coarser < along
    assert round(middle(10, 30)[1]) == 20
    before = float(begun_state(split).sampler.occupancy.step)
    assert 0.9 * before < middle(10, 18)[2] <= before


def test_what_is_thin_is_kept_where_cells_become_larger(split):
    begun = begun_state(split)
    growing = dataclasses.replace(GROWING, unseen_below=0.0, target_vertices=10)
    old = dataclasses.replace(
        begun.sampler.occupancy, cell=begun.sampler.occupancy.cell * (16 / 24)
    )
    sheets = np.zeros((24, 24, 24), bool)
    sheets[2:22, 2:22, 3:22:3] = True
    begun = local(
        holding(
            dataclasses.replace(begun, sampler=dataclasses.replace(begun.sampler, occupancy=old)),
            sheets,
        )
    )
    after = grow(begun, 1, StageInputs(split, growing, CONFIG)).sampler.occupancy
    assert float(after.cell) > 1.2 * float(old.cell)
    assert kept_in(begun.sampler.occupancy, after)


def test_hidden_cells_can_be_kept(split):
    # Dense throughout, so that only the skin is seen.
    before = local(with_density(begun_state(split), 9.0))
    same = dataclasses.replace(GROWING, resolutions=(16, 16))
    kept, seen = (
        np.asarray(
            occupied(grow(before, 1, StageInputs(split, growing, CONFIG)).sampler.occupancy)
        ).sum()
        for growing in (dataclasses.replace(same, unseen_below=0.0), same)
    )
    assert kept == np.asarray(occupied(before.sampler.occupancy)).sum()
    assert seen < kept


def test_hidden_cells_are_dropped_when_the_last_stage_begins_and_not_before(split):
    before = local(with_density(begun_state(split), 9.0))
    more = dataclasses.replace(GROWING, resolutions=(16, 16, 16), fractions=(0.3, 0.6))
    middle, last = (
        np.asarray(
            occupied(grow(before, stage, StageInputs(split, more, CONFIG)).sampler.occupancy)
        ).sum()
        for stage in (1, 2)
    )
    assert middle == np.asarray(occupied(before.sampler.occupancy)).sum()
    assert last < middle

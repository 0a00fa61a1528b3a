"""From photographs of a ball to voxels: the growth, and that it can be interrupted anywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import CENTRE, FOCAL, RADIUS, SIDE, photographs

from jaxnerf import Config, placement
from jaxnerf.checkpoints import Checkpoints
from jaxnerf.cli.messages import how_fine
from jaxnerf.fields.voxels import VoxelField, lattice_points
from jaxnerf.fitting import Trainer, fit
from jaxnerf.growing import GrowingConfig
from jaxnerf.growth import create_growing_state, grow, refresh, size_batch
from jaxnerf.occupancy import encode, occupied
from jaxnerf.scenes import Split
from jaxnerf.silhouettes import has_alpha, scene_cube
from jaxnerf.stages import GrowingTrainer, block_size, local
from jaxnerf.training import TrainingConfig

FIELD = VoxelField(width=8)
# A stage begins at step 24, and the occupancy is brought up to date at steps 9, 18, 27, ... The budget
# is small enough that batches grow meanwhile.
GROWING = GrowingConfig(
    resolutions=(16, 24), shares=(0.4,), cells=16, samples=24, lookups=40, budget=2.0,
    refresh_every=9,
)  # fmt: skip
CONFIG = TrainingConfig(steps=60, rays_per_batch=256, background="random", seed=3)


def trainer(split: Split) -> GrowingTrainer:
    return GrowingTrainer(split, field=FIELD, growing=GROWING, config=CONFIG)


def first_state(split: Split):
    return create_growing_state(FIELD, split, GROWING, CONFIG)


def cell_centres(occupancy) -> tuple[np.ndarray, np.ndarray]:
    """Of all cells [M, M, M, 3]; and which are occupied."""
    full = np.asarray(occupied(occupancy))
    index = np.argwhere(np.ones_like(full)).reshape(*full.shape, 3)
    return np.asarray(occupancy.origin) + (index + 0.5) * float(occupancy.cell), full


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, local(one), local(other))


@pytest.fixture(scope="module")
def split() -> Split:
    return photographs()


@pytest.fixture(scope="module")
def whole_run(split):
    """The reports of a run that is not interrupted, and copies of some of its states."""
    states, reports = {}, []
    way = trainer(split)
    for report in fit(first_state(split), way, report_every=1):
        reports.append(report)
        if report.step in (13, 18, 24, 27, 60):
            states[report.step] = local(way.whole(report.state))
    return reports, states


def test_the_first_state_keeps_the_ball_and_carves_what_is_around_it(split):
    assert has_alpha(split)
    state = first_state(split)
    centres, full = cell_centres(state.occupancy)
    away = np.linalg.norm(centres - CENTRE, axis=-1)
    cell = float(state.occupancy.cell)
    assert full[away < RADIUS].all()
    # The grid is drawn in around the ball, and its corners are empty.
    assert 2.0 * RADIUS < 16 * cell < 6.0 * RADIUS
    assert 0.1 < full.mean() < 0.75
    assert full[::15, ::15, ::15].mean() < 0.3
    # Every point of the ball lies in the grid, and has a density.
    directions = np.random.default_rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    points = CENTRE + RADIUS * directions * np.linspace(0.0, 1.0, 500)[:, None]
    index = np.floor((points - np.asarray(state.occupancy.origin)) / cell).astype(int)
    assert full[tuple(index.T)].all()
    density = FIELD.density(state.params[0], jnp.asarray(points, jnp.float32))[0]
    # The initial opacity, of a voxel.
    np.testing.assert_allclose(density, np.full(500, 0.03 / (16 * cell / 16)), rtol=1e-3)
    # The tiles that show the ball, and not many more.
    assert split.images is not None
    shown = split.images[..., 3].reshape(12, 8, 8, 8, 8).max(axis=(2, 4)) > 0
    assert np.asarray(state.tiles)[shown].all()
    assert_same(state, first_state(split))


def test_without_silhouettes_everything_that_all_cameras_see_is_kept():
    # Neither alpha nor a known background: the photographs are opaque, and the background is random.
    split = photographs(alpha=False)
    assert not has_alpha(split)
    state = first_state(split)
    origin, side = scene_cube(split)
    assert np.asarray(occupied(state.occupancy)).all()
    np.testing.assert_allclose(state.occupancy.origin, origin, rtol=1e-5)
    np.testing.assert_allclose(float(state.occupancy.cell) * 16, side, rtol=1e-5)
    # Around the point that the cameras look at, as large as the ball that they see.
    np.testing.assert_allclose(origin + side / 2, np.zeros(3), atol=1e-4)
    positions = np.asarray(split.cameras.camera_to_world)[:, :, 3]
    distance = np.median(np.linalg.norm(positions, axis=-1))
    assert side / 2 == pytest.approx(distance * (SIDE / 2) / FOCAL, rel=1e-4)
    assert np.asarray(state.tiles).all()


@pytest.mark.parametrize(("voxels", "expected"), [(64, 1), (32, 1), (16, 2), (8, 4), (1, 4)])
def test_blocks_are_as_wide_as_half_a_voxel_looks(split, voxels, expected):
    occupancy = first_state(split).occupancy
    occupancy = dataclasses.replace(occupancy, step=occupancy.cell * (16 / voxels))
    assert block_size(occupancy, split) == expected


def test_training_learns_the_ball_over_two_stages(split, whole_run):
    reports, states = whole_run
    assert isinstance(trainer(split), Trainer)
    assert reports[-1].step == 60
    losses = [report.metrics["loss"] for report in reports]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    assert {"loss", "mse", "samples", "dropped", "cut"} <= reports[-1].metrics.keys()
    assert reports[-1].metrics["samples"] > 1.0
    assert reports[-1].metrics["learning_rate"] == pytest.approx(0.05 ** (59 / 60), rel=1e-4)
    sizes = [report.metrics["rays"] for report in reports]
    assert sizes[0] < max(sizes)
    before, last = states[24], states[60]
    assert (int(before.stage), int(last.stage)) == (0, 1)
    assert float(last.params[0].voxel) < float(before.params[0].voxel)
    assert (float(before.params[0].directional), float(last.params[0].directional)) == (0.0, 1.0)
    centres, full = cell_centres(last.occupancy)
    away = np.linalg.norm(centres - CENTRE, axis=-1)
    cell = float(last.occupancy.cell)
    assert full[np.abs(away - RADIUS) < 0.4 * cell].mean() > 0.95
    assert full[away > RADIUS + 4.0 * cell].mean() < 0.02


def test_two_runs_are_the_same_to_the_bit(split, whole_run):
    way = trainer(split)
    *_, last = fit(first_state(split), way, report_every=20)
    assert_same(way.whole(last.state), whole_run[1][60])


@pytest.mark.parametrize("step", [13, 18, 24, 27], ids=["mid", "refresh", "growth", "second"])
def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_had_been(split, whole_run, step, tmp_path):
    config = dataclasses.replace(
        Config(), method="voxels", voxels=FIELD, growing=GROWING, training=CONFIG
    )
    states = whole_run[1]
    Checkpoints(tmp_path).save(states[step])
    restored = Checkpoints(tmp_path).restore(config)
    assert_same(restored, states[step])
    way = trainer(split)
    *_, last = fit(restored, way, report_every=50)
    assert_same(way.whole(last.state), states[60])


def test_a_stage_with_a_large_table_is_trained_on_one_device_of_a_cpu(
    split, whole_run, monkeypatch
):
    states = whole_run[1]
    small, large = (states[step].params[0].table.nbytes for step in (24, 27))
    assert small < large
    monkeypatch.setattr(placement, "_MOST_COPIED", small)
    way, devices, kept = trainer(split), {}, {}
    for report in fit(first_state(split), way, report_every=1):
        devices[report.step] = len(report.state.params[0].table.devices())
        kept[report.step] = local(way.whole(report.state)) if report.step in (27, 60) else None
    assert [devices[step] for step in (1, 24, 25, 60)] == [2, 2, 1, 1]
    # The same steps but for rounding, and for the rays of which a device's budget had no room.
    found, expected = kept[27].params[0].table, states[27].params[0].table
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    *_, again = fit(kept[27], trainer(split), report_every=50)
    assert_same(way.whole(again.state), kept[60])
    # A plan is made where the state lies.
    endless = dataclasses.replace(kept[27], total_steps=np.int32(10**6))
    *_, planned = fit(endless, trainer(split), seconds_left=lambda: 5.0, plan=True, report_every=1)
    assert 27 < int(planned.state.total_steps) < 10**6


def with_density(state, logit):
    """The state with logits that are a function of nothing, or of the row."""
    (params,) = state.params
    table = params.table.at[64:, 0].set(logit)
    return dataclasses.replace(state, params=(dataclasses.replace(params, table=table),))


def test_refreshing_drops_cells_that_have_become_empty_and_no_others(split):
    state = first_state(split)
    before = np.asarray(occupied(state.occupancy))
    dense = refresh(with_density(state, 3.0), FIELD, 0.01)
    np.testing.assert_array_equal(occupied(dense.occupancy), before)
    # Only the half with x above the middle holds something.
    bricks = np.asarray(state.params[0].bricks)
    places = np.argwhere(bricks > 0)
    rows = np.repeat(places[:, 0] >= 2, 64)
    logit = jnp.full(state.params[0].table.shape[0] - 64, -12.0)
    logit = logit.at[: len(rows)].set(jnp.where(jnp.asarray(rows), 3.0, -12.0))
    half = np.asarray(occupied(refresh(with_density(state, logit), FIELD, 0.01).occupancy))
    # Lattice points of 8 and above; cells 7 reach up to them, and are voxels here.
    np.testing.assert_array_equal(half[8:], before[8:])
    assert not half[:7].any()


def test_growing_when_all_has_become_empty_goes_on_everywhere(split):
    state = with_density(first_state(split), -12.0)
    after = grow(local(state), 1, split, FIELD, GROWING, CONFIG)
    assert np.asarray(occupied(after.occupancy)).any()
    assert np.asarray(after.tiles).any()


def test_growing_keeps_the_density_of_the_ball_and_starts_the_moments_anew(split, whole_run):
    before = whole_run[1][24]
    after = grow(before, 1, split, FIELD, GROWING, CONFIG)
    (old,), (new,) = jax.tree.map(jnp.asarray, (before.params, after.params))
    centres, full = cell_centres(after.occupancy)
    at = jnp.asarray(centres[full], jnp.float32)
    was, now = (np.asarray(FIELD.density(params, at)[0]) for params in (old, new))
    # The lattice is another, so that they agree between its points but roughly.
    assert np.corrcoef(np.log(was + 0.1), np.log(now + 0.1))[0, 1] > 0.8
    assert all(float(jnp.max(jnp.abs(m))) == 0.0 for m in jax.tree.leaves(after.optimizer.mu))
    assert float(after.occupancy.step) == pytest.approx(float(new.voxel))
    assert after.optimizer.mu.table.shape == new.table.shape


def test_a_batch_has_fewer_rays_while_they_need_more_samples(split):
    state = first_state(split)
    config = dataclasses.replace(CONFIG, rays_per_batch=2048)
    full = config.rays_per_batch
    counts = {}
    for budget in (100.0, 2.5, 1.5, 0.1):
        growing = dataclasses.replace(GROWING, budget=budget)
        counts[budget] = int(size_batch(state, split, growing, config).rays)
    assert counts[100.0] == full > counts[2.5] > counts[1.5] > counts[0.1] == full // 8
    # What is drawn fits, or nearly, and most of what fits is drawn.
    growing = dataclasses.replace(GROWING, budget=1.5)
    sized = dataclasses.replace(state, rays=jnp.int32(counts[1.5]))
    way = GrowingTrainer(split, field=FIELD, growing=growing, config=config)
    first = next(fit(sized, way)).metrics
    assert first["rays"] == counts[1.5]
    assert first["dropped"] < 0.25
    assert first["cut"] == 0.0
    assert first["samples"] * first["rays"] * (1.0 - first["dropped"]) > 0.6 * 3.0 * full


def test_a_batch_keeps_its_size_unless_much_is_gained(split):
    growing = dataclasses.replace(GROWING, budget=12.0)
    state = dataclasses.replace(first_state(split), rays=jnp.int32(192))
    assert int(size_batch(state, split, growing, CONFIG, least_factor=1.6).rays) == 192
    assert int(size_batch(state, split, growing, CONFIG).rays) == 256
    state = dataclasses.replace(state, rays=jnp.int32(64))
    assert int(size_batch(state, split, growing, CONFIG, least_factor=1.6).rays) == 256


def test_the_effort_of_a_run_counts_later_stages_and_small_batches(split):
    full, small = trainer(split), trainer(split)
    states = [
        dataclasses.replace(first_state(split), rays=jnp.int32(rays), total_steps=jnp.int32(60))
        for rays in (256, 64)
    ]
    for way, state in zip((full, small), states, strict=True):
        next(fit(state, way))
    # Later steps cost the same whatever the first ones, which are cheaper if they have few rays.
    assert small.load < full.load == 1.0
    saved = GROWING.shares[0] * (full.load - small.load)
    assert full.effort(60) - small.effort(60) == pytest.approx(saved, rel=0.03)
    assert full.effort(60) / full.load < small.effort(60) / small.load < 1.5 * full.effort(60)
    fine = dataclasses.replace(GROWING, resolutions=(64, 128), voxels_for_steps=0.0)
    way = GrowingTrainer(split, field=FIELD, growing=fine, config=CONFIG)
    assert 1.0 < way.effort(60) < 4.0


def test_runs_of_few_steps_have_fewer_voxels_unless_they_are_named(split):
    growing = GrowingConfig(resolutions=(64, 128, 200))
    for total, expected in ((10**6, [64, 128, 200]), (1000, [64, 128, 200]), (512, [64, 102, 160])):
        assert [growing.voxels(stage, total) for stage in range(3)] == expected
    assert [growing.voxels(stage, 8) for stage in range(3)] == [64, 64, 64]
    kept = dataclasses.replace(growing, voxels_for_steps=0.0)
    assert [kept.voxels(stage, 8) for stage in range(3)] == [64, 128, 200]
    config = dataclasses.replace(Config(), method="voxels", growing=growing)
    assert how_fine(config, 512).startswith("160 voxels along a side in the end, not 200,")
    assert how_fine(config, 1000) == how_fine(Config(), 8) == ""
    way = GrowingTrainer(split, field=FIELD, growing=growing, config=CONFIG)
    efforts = [way.effort(total) for total in (8, 100, 512, 1000, 2000)]
    assert efforts[:4] == sorted(set(efforts[:4]))
    assert 1.0 < efforts[3] == efforts[4]


def test_a_stage_of_a_run_of_few_steps_is_as_fine_as_they_fill(split):
    growing = dataclasses.replace(GROWING, voxels_for_steps=5.0)
    state = dataclasses.replace(first_state(split), total_steps=jnp.int32(64))
    after = grow(local(with_density(state, 9.0)), 1, split, FIELD, growing, CONFIG)
    side = float(after.occupancy.cell) * after.occupancy.cells.shape[0]
    assert after.occupancy.cells.shape == (20, 20, 20)
    assert float(after.params[0].voxel) == pytest.approx(side / 20)


def test_a_stage_has_as_many_cells_as_voxels_and_drops_those_that_turn_out_empty(split):
    before = local(with_density(first_state(split), 9.0))
    after = grow(before, 1, split, FIELD, dataclasses.replace(GROWING, unseen_below=0.0), CONFIG)
    assert before.occupancy.cells.shape == (16, 16, 16)
    assert after.occupancy.cells.shape == (24, 24, 24)
    # Nothing that was occupied is lost: every old cell's middle lies in a new one that is.
    old, new = before.occupancy, after.occupancy
    middles = (np.argwhere(np.asarray(occupied(old))) + 0.5) * np.asarray(old.cell) + old.origin
    index = np.floor((middles - np.asarray(new.origin)) / np.asarray(new.cell)).astype(int)
    assert np.asarray(occupied(new))[tuple(index.T)].all()
    # Half of them emptied, by the field: their share of the volume goes.
    (params,) = before.params
    points = lattice_points(np.asarray(params.bricks))
    table = np.array(params.table)
    table[: len(points)][points[:, 0] > np.median(points[64:, 0]), 0] = -15.0
    emptied = dataclasses.replace(before, params=(dataclasses.replace(params, table=table),))
    half = grow(emptied, 1, split, FIELD, dataclasses.replace(GROWING, unseen_below=0.0), CONFIG)

    def volume(state):
        return float(occupied(state.occupancy).sum()) * float(state.occupancy.cell) ** 3

    assert 0.3 * volume(after) < volume(half) < 0.8 * volume(after)


@pytest.mark.parametrize(("first", "side", "middle"), [(1, 24, 12.0), (2, 22, 13.0)])
def test_a_stage_shrinks_onto_what_was_found_even_by_a_little(split, first, side, middle):
    state = first_state(split)
    old, growing = state.occupancy, dataclasses.replace(GROWING, unseen_below=0.0)
    origin, cell = np.asarray(old.origin), float(old.cell)
    cells = np.zeros((16, 16, 16), bool)
    cells[first:15, first:15, first:15] = True
    params = FIELD.from_cells(jax.random.key(0), cells, origin, cell, cell)
    occupancy = dataclasses.replace(old, cells=encode(jnp.asarray(cells), jnp.ones((16, 16, 16))))
    begun = dataclasses.replace(state, params=(params,), occupancy=occupancy)
    after = grow(local(begun), 1, split, FIELD, growing, CONFIG).occupancy
    # In the second stage's cells, of which the cube had 24 along each side before it shrank.
    fine = cell * 16 / 24
    assert float(after.cell) * 24 == pytest.approx(side * fine, rel=1e-5)
    found = (np.asarray(after.origin) - origin) / fine + side / 2
    np.testing.assert_allclose(found, middle, atol=0.02)


def test_hidden_cells_can_be_kept(split):
    # Dense throughout, so that only the skin is seen.
    before = local(with_density(first_state(split), 9.0))
    same = dataclasses.replace(GROWING, resolutions=(16, 16))
    kept, seen = (
        np.asarray(occupied(grow(before, 1, split, FIELD, growing, CONFIG).occupancy)).sum()
        for growing in (dataclasses.replace(same, unseen_below=0.0), same)
    )
    assert kept == np.asarray(occupied(before.occupancy)).sum()
    assert seen < kept


def test_hidden_cells_are_dropped_when_the_last_stage_begins_and_not_before(split):
    before = local(with_density(first_state(split), 9.0))
    more = dataclasses.replace(GROWING, resolutions=(16, 16, 16), shares=(0.3, 0.6))
    middle, last = (
        np.asarray(occupied(grow(before, stage, split, FIELD, more, CONFIG).occupancy)).sum()
        for stage in (1, 2)
    )
    assert middle == np.asarray(occupied(before.occupancy)).sum()
    assert last < middle

"""From photographs of a ball to voxels, over two stages; and that it can be interrupted anywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import CENTRE, RADIUS, cell_centres, photographs
from training_factory import first_state_of_voxels, trainer_of_voxels, voxel_config

from jaxnerf import Config
from jaxnerf.cli.messages import how_fine
from jaxnerf.config.presets import for_seconds
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.methods import state_like
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.scenes import Split
from jaxnerf.training import sharding
from jaxnerf.training.coarse_to_fine.settings import CoarseToFineConfig, StageInputs
from jaxnerf.training.coarse_to_fine.stages import grow
from jaxnerf.training.coarse_to_fine.strategy import block_size
from jaxnerf.training.loop import train
from jaxnerf.training.optimizers import VoxelOptimizerConfig
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.strategy import Strategy
from jaxnerf.training.trainer import Trainer, local

# With detail, which begins with the second stage.
VOXELS = VoxelSettings(width=8, log2_detail=10)
# A stage begins at step 24, and the occupancy is brought up to date at steps 9, 18, 27, ... The budget
# is small enough that batches grow meanwhile.
GROWING = CoarseToFineConfig(
    resolutions=(16, 24), fractions=(0.4,), cells=16, samples=24, max_steps=40, mean_samples=2.0,
    refresh_every=9, target_vertices=9_000,
)  # fmt: skip
CONFIG = TrainingConfig(steps=60, rays_per_batch=256, background="random", seed=3)


def trainer(split: Split) -> Trainer:
    return trainer_of_voxels(split, GROWING, CONFIG, field=VOXELS)


def begun_state(split: Split):
    return first_state_of_voxels(split, GROWING, CONFIG, field=VOXELS)


def with_rays(state, rays: int):
    """The state whose batches have so many rays."""
    growth = dataclasses.replace(state.strategy, rays=jnp.int32(rays))
    return dataclasses.replace(state, strategy=growth)


def assert_same(one, other):
    """The same numbers. (The limits of a restored state's sampler are set when it goes on.)"""
    for left, right in zip(*map(jax.tree.leaves, (local(one), local(other))), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def split() -> Split:
    return photographs()


@pytest.fixture(scope="module")
def whole_run(split):
    """The reports of a run that is not interrupted, and copies of some of its states."""
    states, reports = {}, []
    way = trainer(split)
    for report in train(begun_state(split), way, report_every=1):
        reports.append(report)
        if report.step in (13, 18, 24, 27, 60):
            states[report.step] = local(way.to_host(report.state))
    return reports, states


@pytest.mark.parametrize(("voxels", "expected"), [(64, 1), (32, 1), (16, 2), (8, 4), (1, 4)])
def test_blocks_are_as_wide_as_half_a_voxel_looks(split, voxels, expected):
    occupancy = begun_state(split).sampler.occupancy
    occupancy = dataclasses.replace(occupancy, step=occupancy.cell * (16 / voxels))
    assert block_size(occupancy, split) == expected
    finer = dataclasses.replace(occupancy, step=3.0 * occupancy.step)
    assert block_size(finer, split, 3) == expected


def test_training_learns_the_ball_over_two_stages(split, whole_run):
    reports, states = whole_run
    assert isinstance(trainer(split).strategy, Strategy)
    assert reports[-1].step == 60
    losses = [report.metrics["loss"] for report in reports]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    assert {"loss", "mse", "samples", "dropped", "truncated"} <= reports[-1].metrics.keys()
    assert reports[-1].metrics["samples"] > 1.0
    rate = VoxelOptimizerConfig().density_rate * 0.05 ** (59 / 60)
    assert reports[-1].metrics["learning_rate"] == pytest.approx(rate, rel=1e-4)
    sizes = [report.metrics["rays"] for report in reports]
    assert sizes[0] < max(sizes)
    before, last = states[24], states[60]
    assert (int(before.strategy.stage), int(last.strategy.stage)) == (0, 1)
    assert float(last.field.spacing) < float(before.field.spacing)
    assert (before.params.detail.shape, last.params.detail.shape) == ((1, 4), (1024, 4))
    assert np.abs(last.params.detail).mean() > 1e-3
    assert (float(before.field.view_dependence), float(last.field.view_dependence)) == (0.0, 1.0)
    centres, full = cell_centres(last.sampler.occupancy)
    away = np.linalg.norm(centres - CENTRE, axis=-1)
    cell = float(last.sampler.occupancy.cell)
    assert full[np.abs(away - RADIUS) < 0.4 * cell].mean() > 0.95
    assert full[away > RADIUS + 4.0 * cell].mean() < 0.02


def test_two_runs_are_the_same_to_the_bit(split, whole_run):
    way = trainer(split)
    *_, last = train(begun_state(split), way, report_every=20)
    assert_same(way.to_host(last.state), whole_run[1][60])


@pytest.mark.slow
@pytest.mark.parametrize("step", [13, 18, 24, 27], ids=["mid", "refresh", "growth", "second"])
def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_had_been(split, whole_run, step, tmp_path):
    config = voxel_config(GROWING, CONFIG, field=VOXELS)
    states = whole_run[1]
    Checkpoints(tmp_path).save(states[step])
    restored = Checkpoints(tmp_path).restore(config, state_like(config))
    assert_same(restored, states[step])
    way = trainer(split)
    *_, last = train(restored, way, report_every=50)
    assert_same(way.to_host(last.state), states[60])


def test_a_total_that_moves_in_the_last_stage_does_not_end_it_and_is_resumed(split, whole_run):
    # Of 90 steps the last stage begins at 36, and here it has begun.
    moved = dataclasses.replace(whole_run[1][27], total_steps=np.int32(90))
    assert GROWING.stage(27, 90) == 0

    def until(state, last: int) -> dict:
        way, kept = trainer(split), {}
        for report in train(state, way, report_every=1):
            assert report.metrics["learning_rate"] == pytest.approx(
                VoxelOptimizerConfig().density_rate * 0.05 ** ((report.step - 1) / 90), rel=1e-4
            )
            if report.step in (33, last):
                kept[report.step] = local(way.to_host(report.state))
            if report.step == last:
                return kept
        raise AssertionError

    kept = until(moved, 39)
    assert int(kept[39].strategy.stage) == 1
    assert kept[39].params.table.shape == moved.params.table.shape
    assert_same(until(kept[33], 39)[39], kept[39])


@pytest.mark.slow
def test_a_stage_with_a_large_table_is_trained_on_one_device_of_a_cpu(
    split, whole_run, monkeypatch
):
    states = whole_run[1]
    small, large = (states[step].params.table.nbytes for step in (24, 27))
    assert small < large
    monkeypatch.setattr(sharding, "_MOST_COPIED", small)
    way, devices, kept = trainer(split), {}, {}
    for report in train(begun_state(split), way, report_every=1):
        devices[report.step] = len(report.state.params.table.devices())
        kept[report.step] = local(way.to_host(report.state)) if report.step in (27, 60) else None
    assert [devices[step] for step in (1, 24, 25, 60)] == [2, 2, 1, 1]
    # The same steps but for rounding, and for the rays of which a device's budget had no room.
    found, expected = kept[27].params.table, states[27].params.table
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    *_, again = train(kept[27], trainer(split), report_every=50)
    assert_same(way.to_host(again.state), kept[60])
    # A plan is made where the state lies.
    endless = dataclasses.replace(kept[27], total_steps=np.int32(10**6))
    reports = train(endless, trainer(split), seconds_left=lambda: 5.0, plan=True, report_every=1)
    planned = next(report for report in reports if report.fixed)
    assert 27 < int(planned.state.total_steps) < 10**6
    assert next(reports).step == planned.step + 1


@pytest.mark.slow
def test_growing_keeps_the_density_of_the_ball_and_starts_the_moments_anew(split, whole_run):
    before = whole_run[1][24]
    after = grow(before, 1, StageInputs(split, GROWING, CONFIG))
    centres, full = cell_centres(after.sampler.occupancy)
    at = jnp.asarray(centres[full], jnp.float32)
    was, now = (np.asarray(x.field.density(x.params, at)[0]) for x in (before, after))
    # The lattice is another, so that they agree between its points but roughly.
    assert np.corrcoef(np.log(was + 0.1), np.log(now + 0.1))[0, 1] > 0.8
    # Whatever the moments were, the step after growth is the same.
    ends = []
    for factor in (1.0, 100.0):
        moments = jax.tree.map(lambda x, f=factor: (f * x).astype(x.dtype), before.optimizer)
        way = trainer(split)
        first = next(train(dataclasses.replace(before, optimizer=moments), way))
        ends.append(way.to_host(first.state))
    assert_same(*ends)
    assert float(after.sampler.occupancy.step) == pytest.approx(float(after.field.spacing))
    assert ends[0].optimizer[0].nu.table.shape == after.params.table.shape


def test_the_effort_of_a_run_counts_later_stages_and_small_batches(split):
    full, small = trainer(split), trainer(split)
    states = [with_rays(begun_state(split), rays) for rays in (256, 64)]
    for way, state in zip((full, small), states, strict=True):
        next(train(state, way))
    full, small = full.strategy, small.strategy
    assert small.step_cost < full.step_cost == 1.0
    assert small.stages(60) == full.stages(60)
    fine = dataclasses.replace(
        GROWING, resolutions=(64, 128), voxels_for_steps=0.0, target_vertices=0
    )
    first, last = trainer_of_voxels(split, fine, CONFIG).strategy.stages(60)
    assert (first.first_step, last.first_step) == (0, round(60 * fine.fractions[0]))
    assert 1.0 <= first.step_cost < last.step_cost < 2.0
    assert first.recompile_cost < last.recompile_cost
    detail = VoxelSettings(log2_detail=20)
    detailed = trainer_of_voxels(split, fine, CONFIG, field=detail).strategy.stages(60)
    assert 0.6 < detailed[-1].step_cost - last.step_cost < 0.8
    assert detailed[0] == first


def test_the_current_stage_costs_what_its_rows_do(split):
    way = trainer(split)
    planned = way.strategy.stages(60)[1].step_cost
    for report in train(begun_state(split), way):
        rows = sum(
            each.shape[0] for each in (report.state.params.table, report.state.params.detail)
        )
        assert report.step < 60 or way.strategy.stage == 1
    measured = way.strategy.stages(60)[1].step_cost
    assert measured == pytest.approx(1.2 + 0.65e-6 * rows) != planned


@pytest.mark.parametrize("seconds", [60.0, 95.0, 105.0, 120.0, 300.0, 1800.0])
def test_longer_runs_have_no_fewer_voxels_and_none_more_than_named(seconds):
    stages = for_seconds(seconds).voxels.stages
    for stage, resolution in enumerate(stages.resolutions):
        found = [stages.voxels(stage, total) for total in range(8, 6000, 7)]
        assert found == sorted(found)
        assert found[-1] == resolution


def test_runs_of_few_steps_have_fewer_voxels_unless_they_are_named(split):
    growing = CoarseToFineConfig(resolutions=(64, 128, 200))
    for total, expected in ((10**6, [64, 128, 200]), (1000, [64, 128, 200]), (512, [64, 104, 160])):
        assert [growing.voxels(stage, total) for stage in range(3)] == expected
    assert [growing.voxels(stage, 8) for stage in range(3)] == [64, 64, 64]
    kept = dataclasses.replace(growing, voxels_for_steps=0.0)
    assert [kept.voxels(stage, 8) for stage in range(3)] == [64, 128, 200]
    config = voxel_config(growing, CONFIG)
    assert how_fine(config, 512).startswith("160 voxels along a side in the end, not 200,")
    assert how_fine(config, 1000) == how_fine(Config(), 8) == ""
    way = trainer_of_voxels(split, growing, CONFIG).strategy
    costs = [way.stages(total)[-1].step_cost for total in (100, 512, 1000, 2000)]
    assert costs[:3] == sorted(set(costs[:3]))
    assert 1.0 < costs[2] == costs[3]
    many = dataclasses.replace(growing, target_vertices=2_000_000)
    way = trainer_of_voxels(split, many, CONFIG).strategy
    fewer, most, beyond = (way.stages(total)[-1].step_cost for total in (512, 4000, 8000))
    assert costs[1] == fewer < most == beyond
    config = voxel_config(many, CONFIG)
    assert how_fine(config, 512).startswith(
        "about 537,600 lattice vertices in the end, not 2,000,000,"
    )
    assert how_fine(config, 4000) == ""

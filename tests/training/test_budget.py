"""The loop's plan, against a clock that only training moves."""

import dataclasses
import types

import jax.numpy as jnp
import pytest

from jaxnerf.training import TrainingConfig, TrainState, budget, loop


class Clockwork:
    """A trainer whose steps take known times, and do nothing else."""

    config = TrainingConfig(rays_per_batch=100)
    divergence_hint, step_cost, most = "", 1.0, 1_000_000

    def __init__(
        self,
        seconds_of_step,
        mean_step_cost: float = 1.0,
        recompile_cost: float = 0.0,
        last: float = 0.0,
    ):
        self.now, self.seconds_of_step = 0.0, seconds_of_step
        self.last_stage = lambda total: round(last * total)
        self.mean_step_cost, self.recompile_cost = lambda total: mean_step_cost, recompile_cost
        self.strategy = self

    def to_devices(self, state):
        return state

    to_host = to_devices

    def step(self, state, number, total):
        self.now += self.seconds_of_step(number, total)
        metrics = {"loss": jnp.float32(1.0), "gradient_norm": jnp.float32(1.0)}
        return dataclasses.replace(state, step=state.step + 1), metrics


def run(monkeypatch, trainer: Clockwork, seconds: float):
    clock = types.SimpleNamespace(perf_counter=lambda: trainer.now)
    for module in (loop, budget):
        monkeypatch.setattr(module, "time", clock)
    state = TrainState(jnp.int32(0), jnp.int32(trainer.most), (), (), (), ())
    left = lambda: seconds - trainer.now  # noqa: E731
    return list(loop.train(state, trainer, seconds_left=left, plan=True))


def test_the_plan_fills_the_budget(monkeypatch):
    trainer = Clockwork(lambda number, total: 2.0 if number == 0 else 0.01)
    reports = run(monkeypatch, trainer, 20.0)
    assert reports[-1].step == reports[-1].total_steps
    assert 0.9 * 20.0 < trainer.now < 20.0
    fixed = [report for report in reports if report.fixed]
    assert {report.total_steps for report in fixed} == {reports[-1].step}
    # Fixed once, when 3% of what was left have been measured.
    assert 50 <= fixed[0].step <= 60
    assert fixed[0].rays_per_second == pytest.approx(100 / 0.01, rel=0.01)


def test_a_pause_while_the_speed_is_measured_does_not_shorten_the_run(monkeypatch):
    trainer = Clockwork(lambda number, total: {0: 2.0, 30: 1.5}.get(number, 0.01))
    reports = run(monkeypatch, trainer, 40.0)
    assert reports[-1].step == reports[-1].total_steps
    assert 0.9 * 40.0 < trainer.now < 40.0


def test_a_machine_that_is_busy_while_the_speed_is_measured_does_not_shorten_the_run(monkeypatch):
    def seconds(number, total):
        busy = number < 200 and number // 8 % 3
        return 2.0 if number == 0 else 0.02 if busy else 0.01

    trainer = Clockwork(seconds)
    reports = run(monkeypatch, trainer, 60.0)
    assert next(report for report in reports if report.fixed).step < 200
    assert reports[-1].step == reports[-1].total_steps
    assert 0.9 * 60.0 < trainer.now < 60.0


def test_a_first_step_that_compiles_for_long_leaves_half_of_the_rest_for_training(monkeypatch):
    trainer = Clockwork(lambda number, total: 10.0 if number == 0 else 0.01, recompile_cost=6)
    reports = run(monkeypatch, trainer, 60.0)
    assert reports[-1].step == reports[-1].total_steps
    assert 0.45 * 50.0 < trainer.now - 10.0 < 0.6 * 50.0


def test_later_stages_and_the_pauses_between_them_are_planned_for(monkeypatch):
    def seconds(number, total):
        if number in (0, total // 4):  # compilation
            return 2.0
        return 0.01 if number < total // 4 else 0.03

    trainer = Clockwork(seconds, mean_step_cost=0.25 + 0.75 * 3.0, recompile_cost=1)
    reports = run(monkeypatch, trainer, 60.0)
    assert reports[-1].step == reports[-1].total_steps
    assert 0.85 * 60.0 < trainer.now < 60.0


def test_a_run_that_becomes_slower_than_planned_ends_in_time(monkeypatch):
    trainer = Clockwork(lambda number, total: 0.01 if number < 500 else 0.05)
    reports = run(monkeypatch, trainer, 20.0)
    assert reports[-1].step == reports[-1].total_steps
    assert 19.0 < trainer.now <= 20.0


def test_steps_of_another_load_while_the_speed_is_measured_are_put_into_proportion(monkeypatch):
    def seconds(number, total):
        trainer.step_cost = 1.0 if number >= 40 else 0.25
        return 2.0 if number == 0 else 0.04 * trainer.step_cost

    trainer = Clockwork(seconds)
    reports = run(monkeypatch, trainer, 40.0)
    fixed = next(report for report in reports if report.fixed)
    assert 40 < fixed.step < fixed.total_steps == reports[-1].step
    assert 0.9 * 40.0 < trainer.now < 40.0


def test_the_plan_finds_the_most_steps_where_longer_runs_have_longer_steps(monkeypatch):
    def effort(total):
        return 1.0 + total / 1000.0

    trainer = Clockwork(lambda number, total: 0.01 * (effort(total) if total < 10**6 else 1.0))
    trainer.mean_step_cost = effort
    reports = run(monkeypatch, trainer, 20.0)
    total = reports[-1].total_steps
    assert reports[-1].step == total
    # 0.94 * 20 seconds of hundredths: n (1 + n / 1000) = 1880.
    assert 930 < total < 970
    assert 0.85 * 20.0 < trainer.now < 20.0


@pytest.mark.parametrize("dearer", [0.4, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("seconds", [60.0, 300.0])
def test_a_budget_is_used_where_later_stages_cost_other_than_was_thought(
    monkeypatch, dearer, seconds
):
    """Steps of later stages take three times those of the first, by what the trainer says."""
    begins = []  # The schedule's stages, which must not go back.

    def seconds_of_step(number, total):
        stage = max(
            [begins[-1] if begins else 0, (number >= 0.1 * total) + (number >= 0.3 * total)]
        )
        new = not begins or stage != begins[-1]
        begins.append(stage)
        return 2.0 if new else 0.01 * (3.0 * dearer if stage else 1.0)

    trainer = Clockwork(seconds_of_step, mean_step_cost=0.1 + 0.9 * 3.0, recompile_cost=2, last=0.3)
    reports = run(monkeypatch, trainer, seconds)
    assert reports[-1].step == reports[-1].total_steps
    assert 0.95 * seconds < trainer.now <= seconds
    totals = list(dict.fromkeys(report.total_steps for report in reports if report.fixed))
    assert 2 <= len(totals) <= 4
    assert totals[1] > totals[0] if dearer < 1.0 else totals[1] < totals[0] or dearer == 1.0


def test_a_stage_that_becomes_cheaper_while_it_lasts_uses_its_budget(monkeypatch):
    def seconds(number, total):
        if number == 0:
            return 2.0
        return 0.01 if number < 0.3 * total else 0.03 if number < 0.3 * total + 500 else 0.02

    trainer = Clockwork(seconds, mean_step_cost=0.3 + 0.7 * 3.0, last=0.3)
    reports = run(monkeypatch, trainer, 120.0)
    assert reports[-1].step == reports[-1].total_steps
    assert 0.95 * 120.0 < trainer.now <= 120.0


def test_no_plan_has_more_steps_than_are_wanted(monkeypatch):
    trainer = Clockwork(
        lambda number, total: 0.01 if number < 300 else 0.001, mean_step_cost=1.0, last=0.3
    )
    trainer.most = 1000
    reports = run(monkeypatch, trainer, 60.0)
    assert {report.total_steps for report in reports} == {1000}

"""The training loop: takes steps until the schedule or the time budget ends, and yields reports."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxnerf.errors import Error
from jaxnerf.training.budget import Pace, Paced, Plan
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.sharding import number_of_process_0, put_like

# A loop that never waits for a result can deadlock the all-reduce between CPU devices.
_STEPS_BETWEEN_WAITS = 8


@dataclasses.dataclass(frozen=True)
class Progress:
    """A report of the progress of training, yielded by `train`.

    Attributes:
      state: the state after the step, on the devices. Its buffers are donated to the next step, so copy
        what is kept; `Trainer.to_host` makes a state that can be saved and given to `train` again.
      step, total_steps: as Python numbers.
      metrics: the metrics of the last step.
      rays_per_second: mean since the last report.
      fixed: whether total_steps is that of a schedule: of one that was given, or of an estimate, which is
        corrected in each stage. Before the first estimate it is the most that the run may take.
    """

    state: Any
    step: int
    total_steps: int
    metrics: dict[str, float]
    rays_per_second: float
    fixed: bool


class FitError(Error):
    """Training cannot go on; the message says why and what to do."""


@runtime_checkable
class Steps(Protocol):
    """What the loop asks of a `jaxnerf.training.trainer.Trainer`; see there.

    Attributes:
      config: the settings that all methods share.
      divergence_hint: advice for the error when training diverges.
      strategy: the relative costs of steps.
    """

    config: TrainingConfig
    divergence_hint: str

    @property
    def strategy(self) -> Paced: ...

    def to_devices(self, state: Any) -> Any: ...

    def step(self, state: Any, number: int, total: int) -> tuple[Any, dict[str, Any]]: ...


def train(
    state: Any,
    trainer: Steps,
    *,
    seconds_left: Callable[[], float] = lambda: float("inf"),
    plan: bool = False,
    report_every: int = 50,
    between: Callable[[Any, int], float] | None = None,
) -> Iterator[Progress]:
    """Train from the state's step to its total of steps.

    With `plan`, the total is estimated early, since stages and learning rates are scheduled by it, and
    corrected several times (`jaxnerf.training.budget.Plan`). Learning rates then jump to their
    values in the new schedule, but no stage is repeated. The total is part of the state. A run that
    is resumed without `plan` uses the total of its checkpoint; its result is, bit for bit, that of an
    uninterrupted run whose total was not corrected after the checkpoint.

    Args:
      state: before the first step or restored, on the host.
      trainer: takes the steps.
      seconds_left: the time that is left; training stops when it is less than that of a few steps.
      plan: whether to estimate the total of steps that fits into the time, at most the state's total.
      report_every: steps between reports, which are also made after the first and the last step.
      between: called after each step but the last with the state and its number, and returns how many
        seconds it took, which are not training's. It must wait for the state if it uses the devices, and
        copy what it keeps.

    Yields:
      `Progress`; the first after the first step.

    Raises:
      FitError: the loss or the gradient is not finite; no such state is reported.
    """
    config = trainer.config
    state = trainer.to_devices(state)
    number, total = int(state.step), int(state.total_steps)
    reported, reported_at = number, time.perf_counter()
    begun, pace = number, Pace(number)
    planned = Plan(trainer.strategy, pace, total) if plan else None
    while number < total:
        state, metrics = trainer.step(state, number, total)
        number += 1
        if between and number < total and (seconds := between(state, number)):
            pace.leave_out(seconds)
            reported_at += seconds
        is_report = number == begun + 1 or number == total or number % report_every == 0
        if not is_report and number % _STEPS_BETWEEN_WAITS:
            continue
        values = {name: float(value) for name, value in metrics.items()}
        seconds_a_step = pace.arrive(number, trainer.strategy.step_cost)
        left = number_of_process_0(seconds_left())
        if left <= seconds_a_step * _STEPS_BETWEEN_WAITS:
            # The state keeps the total that was planned: a run that ran out of time may go on later.
            total = number
        elif planned and (fits := planned.total(number, total, left)):
            total, is_report = fits, True
            there = state.total_steps.sharding
            state = dataclasses.replace(state, total_steps=put_like(np.int32(total), there))
        if not all(np.isfinite(values[name]) for name in ("loss", "gradient_norm")):
            raise FitError(
                f"step {number}: the loss is {values['loss']} and the gradient's norm "
                f"{values['gradient_norm']}: training has diverged. {trainer.divergence_hint}"
            )
        if is_report or number == total:
            rays = values.get("rays", config.rays_per_batch) * (number - reported)
            rate = rays / max(time.perf_counter() - reported_at, 1e-9)
            yield Progress(state, number, total, values, rate, not planned or planned.made > 0)
            # Time that the caller spent on the report is not training's.
            reported, reported_at = number, time.perf_counter()
            pace.go_on()

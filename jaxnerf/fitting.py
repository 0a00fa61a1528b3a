"""The training loop, read top to bottom: batches in, reports out."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxnerf.config import Config
from jaxnerf.growing import blank_state
from jaxnerf.scenes import Scene
from jaxnerf.stages import GrowingTrainer, create_growing_state
from jaxnerf.training import NerfTrainer, TrainingConfig, create_state, replicate

# A loop that never waits for a result can deadlock the all-reduce between CPU devices.
_STEPS_BETWEEN_WAITS = 8
# How much of a time budget to measure the speed for before the number of steps is fixed, and the
# share of the remaining time that the steps may plan for.
_MEASURED_SHARE = 0.05
_PLANNED_SHARE = 0.94


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training stands, as `fit` reports it.

    Attributes:
      state: after the step; its buffers are gone after the next one, so copy what is kept.
      step, total_steps: as Python numbers.
      metrics: of the last step.
      rays_per_second: since the last report.
      fixed: whether total_steps is, and not still waiting for the speed to be measured.
    """

    state: Any
    step: int
    total_steps: int
    metrics: dict[str, float]
    rays_per_second: float
    fixed: bool


class FitError(Exception):
    """Training cannot go on; the message says why and what to do."""


@runtime_checkable
class Trainer(Protocol):
    """A way of training: `jaxnerf.training.NerfTrainer`, `jaxnerf.growing.GrowingTrainer`.

    Attributes:
      config: what all ways share.
      effort: the mean time of a step over the whole schedule, in units of the first steps' time.
      pauses: how often the schedule stops, in units of the first step, most of which is compilation.
      remedy: what to do when training diverges.
    """

    config: TrainingConfig
    effort: float
    pauses: int
    remedy: str

    def advance(self, state: Any, number: int, total: int) -> tuple[Any, dict[str, Any]]:
        """Take a step, the one with this number of so many; the state is replicated."""
        ...


def trainer_of(config: Config, scene: Scene) -> Trainer:
    """The way of training that a configuration names, on a scene's photographs."""
    split = scene.splits["train"]
    if config.method == "voxels":
        return GrowingTrainer(
            split, field=config.voxels, growing=config.growing, config=config.training
        )
    return NerfTrainer(
        split, scene.near, scene.far,
        fields=config.fields(), settings=config.render, config=config.training,
    )  # fmt: skip


def first_state(config: Config, scene: Scene) -> Any:
    """The state before the first step."""
    if config.method == "voxels":
        return create_growing_state(
            config.voxels, scene.splits["train"], config.growing, config.training
        )
    return create_state(config.fields(), config.training)


def state_like(config: Config) -> Any:
    """A state's structure: shapes and types, of which the fast field's change as it grows."""
    if config.method == "voxels":
        return jax.eval_shape(lambda: blank_state(config.voxels, config.training))
    return jax.eval_shape(lambda: create_state(config.fields(), config.training))


def fit(
    state: Any,
    trainer: Trainer,
    *,
    seconds_left: Callable[[], float] = lambda: float("inf"),
    plan: bool = False,
    report_every: int = 50,
) -> Iterator[Progress]:
    """Train from wherever the state stands to its total of steps.

    Args:
      state: of the trainer's kind, before the first step or restored.
      trainer: what a step is.
      seconds_left: the time budget; training stops when less than a step is left.
      plan: whether to fix the total of steps once, from the speed of the first ones, to what fits.
      report_every: steps between reports, which are also made after the first and the last step.

    Yields:
      `Progress`; the first after the first step.

    Raises:
      FitError: the loss or the gradient is not finite; no such state is reported.
    """
    config = trainer.config
    state = replicate(state)
    number, total = int(state.step), int(state.total_steps)
    reported, reported_at = number, time.perf_counter()
    measured_from: tuple[int, float] | None = None
    begun, begun_at, first_step = number, time.perf_counter(), 0.0
    while number < total:
        state, metrics = trainer.advance(state, number, total)
        number += 1
        is_report = number == begun + 1 or number == total or number % report_every == 0
        if not is_report and number % _STEPS_BETWEEN_WAITS:
            continue
        values = {name: float(value) for name, value in metrics.items()}
        now = time.perf_counter()
        if measured_from is None:
            measured_from, first_step = (number, now), now - begun_at
        seconds_a_step = agreed((now - measured_from[1]) / max(number - measured_from[0], 1))
        left = agreed(seconds_left())
        measured = seconds_a_step * (number - measured_from[0])
        if plan and 0.0 < measured >= _MEASURED_SHARE * left:
            training = _PLANNED_SHARE * max(left - trainer.pauses * agreed(first_step), 0.0)
            fits = int((number + training / seconds_a_step) / trainer.effort)
            total = max(min(total, fits), number)
            state = dataclasses.replace(state, total_steps=replicate(np.int32(total)))
            plan, is_report = False, True
        if left < seconds_a_step * _STEPS_BETWEEN_WAITS:
            total = number
        if not all(np.isfinite(value) for value in values.values()):
            raise FitError(
                f"step {number}: the loss is {values['loss']} and the gradient's norm "
                f"{values['gradient_norm']}: training has diverged. {trainer.remedy}"
            )
        if is_report or number == total:
            rate = (
                values.get("rays", config.rays_per_batch)
                * (number - reported)
                / max(now - reported_at, 1e-9)
            )
            yield Progress(state, number, total, values, rate, not plan)
            # Time that the caller spent on the report is not training's.
            reported, reported_at = number, time.perf_counter()


def agreed(value: float) -> float:
    """The first process's number, on all: clocks differ, and decisions must not."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))

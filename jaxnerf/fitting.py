"""The training loop, read top to bottom: batches in, reports out."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from jaxnerf.fields import Field
from jaxnerf.rendering import RenderSettings
from jaxnerf.scenes import Split
from jaxnerf.training import (
    TrainingConfig,
    TrainState,
    local_share,
    parallel,
    replicate,
    sample_batch,
    train_step,
)

# A loop that never waits for a result can deadlock the all-reduce between CPU devices.
_STEPS_BETWEEN_WAITS = 8
# How much of a time budget to measure the speed for before the number of steps is fixed, and the
# share of the remaining time that the steps may plan for.
_MEASURED_SHARE = 0.05
_PLANNED_SHARE = 0.96


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

    state: TrainState
    step: int
    total_steps: int
    metrics: dict[str, float]
    rays_per_second: float
    fixed: bool


class FitError(Exception):
    """Training cannot go on; the message says why and what to do."""


def fit(
    state: TrainState,
    split: Split,
    near: float,
    far: float,
    *,
    fields: Sequence[Field],
    settings: RenderSettings,
    config: TrainingConfig,
    seconds_left: Callable[[], float] = lambda: float("inf"),
    plan: bool = False,
    report_every: int = 50,
) -> Iterator[Progress]:
    """Train on a split's photographs, from wherever the state stands, to its total of steps.

    Args:
      state: from `create_state`, or restored.
      split: with photographs.
      near, far: depths.
      fields, settings, config: static.
      seconds_left: the time budget; training stops when less than a step is left.
      plan: whether to fix the total of steps once, from the speed of the first ones, to what fits.
      report_every: steps between reports, which are also made after the first and the last step.

    Yields:
      `Progress`; the first after the first step.

    Raises:
      FitError: the loss or the gradient is not finite; no such state is reported.
    """

    def static_step(state, batch, key, cameras, bounds):
        return train_step(
            state,
            batch,
            key,
            cameras,
            bounds,
            fields=tuple(fields),
            settings=settings,
            config=config,
        )

    step = parallel(static_step)
    key = jax.random.key(config.seed)
    state = replicate(state)
    cameras, bounds = replicate((split.cameras, np.asarray([near, far], np.float32)))
    number, total = int(state.step), int(state.total_steps)
    reported, reported_at = number, time.perf_counter()
    measured_from: tuple[int, float] | None = None
    begun = number
    while number < total:
        batch = local_share(sample_batch(split, config, number))
        state, metrics = step(state, batch, key, cameras, bounds)
        number += 1
        is_report = number == begun + 1 or number == total or number % report_every == 0
        if not is_report and number % _STEPS_BETWEEN_WAITS:
            continue
        values = {name: float(value) for name, value in metrics.items()}
        now = time.perf_counter()
        measured_from = measured_from or (number, now)
        seconds_a_step = agreed((now - measured_from[1]) / max(number - measured_from[0], 1))
        left = agreed(seconds_left())
        measured = seconds_a_step * (number - measured_from[0])
        if plan and 0.0 < measured >= _MEASURED_SHARE * left:
            fits = number + int(_PLANNED_SHARE * max(left, 0.0) / seconds_a_step)
            total = max(min(total, fits), number)
            state = dataclasses.replace(state, total_steps=replicate(np.int32(total)))
            plan, is_report = False, True
        if left < seconds_a_step * _STEPS_BETWEEN_WAITS:
            total = number
        if not all(np.isfinite(value) for value in values.values()):
            raise FitError(
                f"step {number}: the loss is {values['loss']} and the gradient's norm "
                f"{values['gradient_norm']}: training has diverged. Lower training.learning_rate "
                f"(now {config.learning_rate}), or lengthen training.delay_steps"
            )
        if is_report or number == total:
            rate = config.rays_per_batch * (number - reported) / max(now - reported_at, 1e-9)
            yield Progress(state, number, total, values, rate, not plan)
            # Time that the caller spent on the report is not training's.
            reported, reported_at = number, time.perf_counter()


def agreed(value: float) -> float:
    """The first process's number, on all: clocks differ, and decisions must not."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))

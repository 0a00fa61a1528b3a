"""How fast steps go, and how many of them fit into a time budget."""

import collections
import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from jaxnerf.training.sharding import number_of_process_0

# How much of the remaining time to measure the speed for before the number of steps is fixed, and in how
# many intervals, of which one may have a pause in it; where these are long, four times as much is enough.
_MEASURED_FRACTION, _MEASURED_INTERVALS, _LONG = 0.03, 4, 4.0
_INTERVALS = 32
# The fraction of the remaining time that steps may plan for: before the last stage; and in it, where only
# checkpoints, and what brings a field up to date, are not measured.
_PLANNED_FRACTION, _PLANNED_AT_LAST = 0.94, 0.96
# At most so much of it is kept for pauses: where compilation is slow their estimate can be all there is,
# and a run that is cut off at its end has learned more than one that hardly took a step.
_PAUSED_FRACTION = 0.5
# The plan of a stage is corrected when this fraction is left of the steps that it had when it was made:
# steps become cheaper while a stage finds what is empty (a third fewer samples after 500 steps on lego).
_CORRECTED_AT = 0.5


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a time budget must know of a stage of the schedule.

    Attributes:
      first_step: number of the step before which the stage begins.
      step_cost: duration of a step with a full batch, relative to those of other stages.
      recompile_cost: duration of the pause in which it begins, mostly compilation, relative to those of
        other stages, and to the run's first step as long as no pause was measured. The first stage's is
        not asked for.
    """

    first_step: int
    step_cost: float
    recompile_cost: float = 0.0


@runtime_checkable
class Paced(Protocol):
    """The relative costs of steps, by which a time budget is planned; part of `Strategy`."""

    @property
    def stage(self) -> int:
        """Index of the current stage."""
        ...

    @property
    def step_cost(self) -> float:
        """Current duration of a step, relative to a step of the same stage with a full batch."""
        ...

    def stages(self, total: int) -> Sequence[Stage]:
        """The stages of a schedule of `total` steps.

        Neither first steps nor costs decrease with `total`.
        """
        ...


class Pace:
    """How fast steps go, the same on all hosts.

    Attributes:
      first_step: seconds of the first step.
      latest: seconds between the latest arrival and the one before, as far as they were training's.
      measured: seconds since the first step's end, or since `forget`, as far as they were training's.
    """

    _intervals: collections.deque[float]  # seconds of a step whose cost is 1

    def __init__(self, number: int):
        self._number, self._begun = number, time.perf_counter()
        self.first_step, self.latest, self.measured = 0.0, 0.0, 0.0
        self._intervals = collections.deque(maxlen=_INTERVALS)

    def arrive(self, number: int, step_cost: float) -> float:
        """Record that steps up to `number` are done, of this cost each; returns the seconds per step.

        These are the median of the last intervals, so that pauses (compilation, or other processes) do
        not count.
        """
        self.latest = spent = number_of_process_0(time.perf_counter() - self._begun)
        if not self.first_step:
            self.first_step = spent
        else:
            self.measured += spent
            self._intervals.append(spent / (number - self._number) / step_cost)
        self._number = number
        self.go_on()
        return step_cost * statistics.median(self._intervals) if self._intervals else 0.0

    def go_on(self) -> None:
        """Leave out the time since the last arrival."""
        self._begun = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Say that so many seconds since the last arrival were not training's."""
        self._begun += seconds

    @property
    def number_of_intervals(self) -> int:
        """In how many intervals `measured` was measured, at most the last 32."""
        return len(self._intervals)

    def forget(self) -> None:
        """Measure anew from here, since steps are now others."""
        self.measured = 0.0
        self._intervals.clear()

    def undisturbed(self) -> float:
        """Seconds of a step of cost 1: the lower quartile of the measured intervals.

        Other processes can only make steps slower, so the fast intervals are the undisturbed ones. (If
        too many steps are planned, the last are cut off, which have the lowest learning rates; if too
        few, time is left unused.)
        """
        return sorted(self._intervals)[len(self._intervals) // 4]


class Plan:
    """The number of steps that fit into a time budget: estimated in each stage, from its own speed.

    An estimate is made after the first steps of each stage, by their measured duration, that of the pause
    before them, and what later steps and pauses cost in proportion (`Paced.stages`). It decides when
    later stages begin, and their resolutions. If there are several stages, each estimate is corrected
    when half of the stage's steps that were left at the time have been taken.

    Attributes:
      made: number of estimates made so far.
    """

    def __init__(self, schedule: Paced, pace: Pace, most: int):
        self.made, self._schedule, self._pace, self._most = 0, schedule, pace, most
        self._stage, self._made_in_stage, self._corrected_at = schedule.stage, 0, 0
        self._recompilation = 0.0  # seconds of a pause whose cost is 1, by the latest one

    def total(self, number: int, total: int, left: float) -> int | None:
        """The total of steps that fits, if it is time for a plan; all hosts find the same.

        Args:
          number: number of steps taken.
          total: total of the last plan.
          left: seconds that are left.
        """
        if self._schedule.stage != self._stage:
            self._begin_stage(total)
            return None
        if not self._is_due(number, left):
            return None
        later = self._schedule.stages(total)[self._stage + 1 :]
        fraction = _PLANNED_FRACTION if later or not self._stage else _PLANNED_AT_LAST
        planned = max(min(self._most_in(number, left, fraction), self._most), number)
        ends = [each.first_step for each in self._schedule.stages(planned)] + [planned]
        self._corrected_at = number + round(_CORRECTED_AT * (ends[self._stage + 1] - number))
        self.made, self._made_in_stage = self.made + 1, self._made_in_stage + 1
        return planned

    def _begin_stage(self, total: int) -> None:
        """Measure anew: what was measured is of the stage before, and has this one's pause in it."""
        self._stage, self._made_in_stage = self._schedule.stage, 0
        if cost := self._schedule.stages(total)[self._stage].recompile_cost:
            self._recompilation = self._pace.latest / cost
        self._pace.forget()

    def _is_due(self, number: int, left: float) -> bool:
        if self._made_in_stage:
            several = len(self._schedule.stages(self._most)) > 1
            return several and self._made_in_stage == 1 and number >= self._corrected_at
        enough = _MEASURED_FRACTION * left
        if self._pace.number_of_intervals < _MEASURED_INTERVALS:
            enough *= _LONG
        return self._pace.measured > 0.0 and self._pace.measured >= enough

    def _most_in(self, number: int, left: float, fraction: float) -> int:
        """The total of the longest schedule for which this fraction of the time left is enough."""
        later = self._schedule.stages(self._most)[self._stage + 1 :]
        recompilation = self._recompilation or self._pace.first_step
        pauses = sum(each.recompile_cost for each in later) * recompilation
        available = fraction * (left - min(pauses, _PAUSED_FRACTION * left))
        fits, too_many = number, self._most + 1
        while too_many - fits > 1:
            total = (fits + too_many) // 2
            if self._seconds(number, total) <= available:
                fits = total
            else:
                too_many = total
        return fits

    def _seconds(self, number: int, total: int) -> float:
        """How long the steps after the first `number` of so many take, without pauses."""
        now, *later = self._schedule.stages(total)[self._stage :]
        ends = [max(each.first_step, number) for each in later]
        costs = [now.step_cost * self._schedule.step_cost, *(each.step_cost for each in later)]
        steps = np.diff([number, *ends, total]).tolist()
        # Not by a product of matrices, whose last bit can differ between hosts.
        cost = sum(count * each for count, each in zip(steps, costs, strict=True))
        return cost / now.step_cost * self._pace.undisturbed()

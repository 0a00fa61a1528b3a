"""How fast steps go, and how many of them fit into a time budget."""

import collections
import statistics
import time
from typing import Protocol, runtime_checkable

from jaxnerf.training.sharding import number_of_process_0

# How much of the remaining time to measure the speed for before the number of steps is fixed.
_MEASURED_FRACTION = 0.03
_INTERVALS = 32
# The fraction of the remaining time that steps may plan for: before the last stage; and in it, where only
# checkpoints, and what brings a field up to date, are not measured.
_PLANNED_FRACTION, _PLANNED_AT_LAST = 0.94, 0.96
# At most so much of it is kept for pauses: where compilation is slow their estimate can be all there is,
# and a run that is cut off at its end has learned more than one that hardly took a step.
_PAUSED_FRACTION = 0.5
# The plan of the last stage is corrected when this fraction is left of the time that it began with: steps
# become cheaper while a stage finds what is empty (a third fewer samples after 500 steps on lego).
_CORRECTED_AT = 0.5


@runtime_checkable
class Paced(Protocol):
    """The relative costs of steps, by which a time budget is planned; part of `Strategy`."""

    @property
    def recompile_cost(self) -> float:
        """Total time of the pauses between stages, mostly compilation, in durations of the first step."""
        ...

    @property
    def step_cost(self) -> float:
        """Current duration of a step, relative to a step of the first stage with a full batch."""
        ...

    def mean_step_cost(self, total: int) -> float:
        """Mean duration of a step in a schedule of `total` steps, in the units of `step_cost`.

        It does not decrease with `total`.
        """
        ...

    def last_stage(self, total: int) -> int:
        """The first step of the last stage in a schedule of `total` steps; 0 if there is one stage."""
        ...


class Pace:
    """How fast steps go, the same on all hosts.

    Attributes:
      measured: seconds since the first step's end, or since `forget`, as far as they were training's.
    """

    _intervals: collections.deque[float]  # seconds of a step whose cost is 1

    def __init__(self, number: int):
        self._number, self._begun = number, time.perf_counter()
        self.first_step, self.measured = 0.0, 0.0
        self._intervals = collections.deque(maxlen=_INTERVALS)

    def arrive(self, number: int, step_cost: float) -> float:
        """Record that steps up to `number` are done, of this cost each; returns the seconds per step.

        These are the median of the last intervals, so that pauses (compilation, or other processes) do
        not count.
        """
        spent = number_of_process_0(time.perf_counter() - self._begun)
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
    """The number of steps that fit into a time budget: estimated early, and corrected in the last stage.

    The first estimate is made from the speed of the first steps and the relative costs of later stages
    (`Paced.mean_step_cost`); it decides when stages begin, and their resolutions. If there are several
    stages, the estimate is corrected by the measured speed of the last stage: after its first steps, and
    again when half of the time that was left then has passed.

    Attributes:
      made: number of estimates made so far.
    """

    def __init__(self, schedule: Paced, pace: Pace, most: int):
        self.made, self._schedule, self._pace, self._most = 0, schedule, pace, most
        self._at_last, self._corrected_at = False, 0.0

    def total(self, number: int, total: int, left: float) -> int | None:
        """The total of steps that fits, if it is time for a plan; all hosts find the same.

        Args:
          number: number of steps taken.
          total: total of the last plan.
          left: seconds that are left.
        """
        if not self._is_due(number, total, left):
            return None
        if self.made == 0:
            fits = self._of_all_stages(number, left)
        else:
            seconds = self._schedule.step_cost * self._pace.undisturbed()
            fits = number + int(_PLANNED_AT_LAST * left / seconds)
            self._corrected_at = _CORRECTED_AT * left
        self.made += 1
        return max(min(fits, self._most), number)

    def _is_due(self, number: int, total: int, left: float) -> bool:
        is_measured = 0.0 < self._pace.measured >= _MEASURED_FRACTION * left
        if self.made == 0:
            return is_measured
        if not self._at_last:
            self._at_last = 0 < self._schedule.last_stage(total) < number
            if self._at_last:  # What was measured had the stage's compilation in it.
                self._pace.forget()
            return False
        return is_measured if self.made == 1 else self.made == 2 and left < self._corrected_at

    def _of_all_stages(self, number: int, left: float) -> int:
        """The total of steps for which this many seconds are enough: the most of any schedule."""
        schedule, pace = self._schedule, self._pace
        pauses = min(schedule.recompile_cost * pace.first_step, _PAUSED_FRACTION * left)
        training = _PLANNED_FRACTION * (left - pauses) / pace.undisturbed()
        all_of_it = schedule.step_cost * number + training
        fits, too_many = 0, int(all_of_it / min(schedule.step_cost, 1.0)) + 1
        while too_many - fits > 1:
            total = (fits + too_many) // 2
            if total * schedule.mean_step_cost(total) <= all_of_it:
                fits = total
            else:
                too_many = total
        return fits

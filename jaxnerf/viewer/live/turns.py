"""Who has the devices: training, or the pictures of those who look; never both at once.

Training lends them between two steps, in its own thread, and waits until they come back. What pictures
take is a share of all time, whatever their size: after t seconds of pictures, training goes on for at
least 3 t.
"""

import threading
import time
from collections.abc import Callable

# Of all time, that pictures take while somebody looks.
SHARE = 0.25
# Seconds that devices are lent for at a time; they come back after the chunk of rays that is begun.
_LENT = 0.1


class Turns:
    """Lends the devices to one painter, who gives them back after a while or when a picture is done.

    Attributes:
      is_free: whether nobody else wants the devices, so that the painter has them whenever it likes.
    """

    def __init__(self, *, is_free: bool = False, clock: Callable[[], float] = time.perf_counter):
        self.is_free = is_free
        self._clock, self._condition = clock, threading.Condition()
        self._wanted = self._lent = False
        self._until = self._not_before = float("-inf")

    def acquire(self) -> None:
        """For the painter: wait until the devices are lent."""
        with self._condition:
            self._wanted = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._lent or self.is_free)

    def pause(self) -> None:
        """For the painter, with the devices at rest: give them back if the time is over, and wait."""
        if not self.is_free and self._clock() >= self._until:
            self.release()
            self.acquire()

    def release(self) -> None:
        """For the painter: give the devices back."""
        with self._condition:
            self._wanted = self._lent = False
            self._condition.notify_all()

    def lend(self, *, always: bool = False, wait: float = 0.0) -> float:
        """For training, with the devices at rest: lend them if it is time; returns the seconds it took.

        Args:
          always: whether to lend them although their share is used up, since training pauses.
          wait: for so many seconds at most, for somebody who wants them.
        """
        begun = self._clock()
        with self._condition:
            if not always and begun < self._not_before:
                return 0.0
            if not self._wanted and not self._condition.wait_for(lambda: self._wanted, wait):
                return self._clock() - begun
            self._lent, self._until = True, self._clock() + _LENT
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._lent or self.is_free)
            spent = self._clock() - begun
            if not always:
                self._not_before = self._clock() + spent * (1.0 / SHARE - 1.0)
            return spent

    @property
    def is_due(self) -> bool:
        """Whether somebody wants the devices, and it is time to lend them."""
        return self._wanted and self._clock() >= self._not_before

    def free(self) -> None:
        """Training is over: the painter has the devices from now on."""
        with self._condition:
            self.is_free = True
            self._condition.notify_all()

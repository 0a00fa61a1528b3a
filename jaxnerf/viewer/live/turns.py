"""Sharing of the devices between training and the images of the live viewer; never both at once.

Training lends the devices between two steps, in its own thread, and waits until they are returned. Images
take a fixed fraction of the time, whatever their size: after t seconds of images, training runs for at
least 3 t.
"""

import threading
import time
from collections.abc import Callable

# Largest fraction of the time that images take while there are clients.
FRACTION = 0.25
# Seconds for which devices are lent at a time; they are returned at the end of the current chunk of rays.
_LENT = 0.1


class Turns:
    """Lends the devices to one painter, which returns them after a while or when an image is done.

    Attributes:
      is_free: whether there is no training, so that the painter can always use the devices.
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
        """For the painter, with idle devices: return them if the time is over, and wait for a turn."""
        if not self.is_free and self._clock() >= self._until:
            self.release()
            self.acquire()

    def release(self) -> None:
        """For the painter: return the devices."""
        with self._condition:
            self._wanted = self._lent = False
            self._condition.notify_all()

    def lend(self, *, always: bool = False, wait: float = 0.0) -> float:
        """For training, with idle devices: lend them if it is time; returns the seconds that it took.

        Args:
          always: whether to lend them even if the time of images is used up, since training is paused.
          wait: largest number of seconds to wait for a request.
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
                self._not_before = self._clock() + spent * (1.0 / FRACTION - 1.0)
            return spent

    @property
    def is_due(self) -> bool:
        """Whether the devices are requested, and it is time to lend them."""
        return self._wanted and self._clock() >= self._not_before

    def free(self) -> None:
        """Record that training has ended: the painter can use the devices from now on."""
        with self._condition:
            self.is_free = True
            self._condition.notify_all()

"""Draws what watchers want to see, one picture after the other, in a thread of its own."""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from jaxnerf.runs.run import Run
from jaxnerf.scenes import Split
from jaxnerf.viewer.live.pacing import Order, Watcher
from jaxnerf.viewer.live.pictures import AbandonedError, cropped, picture
from jaxnerf.viewer.live.turns import Turns
from jaxnerf.viewer.live.views import Box, View

# Between looks for what to draw, where nothing says that there is something.
_IDLE = 0.1


@runtime_checkable
class Source(Protocol):
    """Where the run comes from that is drawn.

    Attributes:
      age: grows when the run changes.
      is_training: whether it soon changes again.
    """

    @property
    def age(self) -> int: ...

    @property
    def is_training(self) -> bool: ...

    def run(self) -> Run:
        """The run as it is now; called by whoever has the devices."""
        ...


class Painter:
    """Draws for several watchers, by turns.

    Attributes:
      photographs: that views are compared with; None if there are none.
      error: what went wrong last, in one line; "" if nothing did.
    """

    def __init__(
        self,
        source: Source,
        turns: Turns,
        show: Callable[[int, Order, UInt8[np.ndarray, "height width 3"]], None],
        photographs: Split | None = None,
        complain: Callable[[int, str], None] = lambda name, error: None,
    ):
        """Prepare.

        Args:
          source: of the run.
          turns: who has the devices.
          show: called with a watcher's name, what was drawn, and the picture.
          photographs: see the attributes.
          complain: called with a watcher's name and an error, where a picture cannot be drawn.
        """
        self.photographs, self.error = photographs, ""
        self._source, self._turns, self._show = source, turns, show
        self._complain = complain
        self._watchers: dict[int, Watcher] = {}
        self._changed, self._ends = threading.Condition(), False
        self._last_served = -1
        self._cut: tuple[Run, Box, Run] | None = None
        self._thread = threading.Thread(target=self._work, name="painter", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """Draw no more; returns when the thread has ended."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._turns.free()
        self._thread.join()

    def look(self, name: int, view: View) -> None:
        """Say what a watcher looks at from now on."""
        with self._changed:
            if self._watchers.setdefault(name, Watcher()).look(view, time.perf_counter()):
                self._changed.notify_all()

    def leave(self, name: int) -> None:
        """Say that a watcher looks no more."""
        with self._changed:
            self._watchers.pop(name, None)

    def refresh(self) -> None:
        """Say that the run or its training has changed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def is_watched(self) -> bool:
        """Whether anybody looks."""
        return bool(self._watchers)

    def _work(self) -> None:
        while (task := self._next()) is not None:
            name, watcher, order = task
            pixels = None
            self._turns.acquire()
            try:
                # Until the devices came, the camera may have moved, and training gone on.
                order = self._order(watcher, time.perf_counter()) or order
                if not self._ends:
                    pixels = self._draw(watcher, order)
            except AbandonedError:
                pass
            except Exception as error:  # said where somebody looks, who may change what is wrong
                self.error = f"{type(error).__name__}: {error}".splitlines()[0]
                watcher.showed(order, 1.0)
                self._complain(name, self.error)
            finally:
                self._turns.release()
            if pixels is not None:  # sent while others have the devices
                self._show(name, order, pixels)

    def _next(self) -> tuple[int, Watcher, Order] | None:
        """What to draw next, when there is something; None when the painter stops."""
        with self._changed:
            while not self._ends:
                now = time.perf_counter()
                wanted = [
                    (name, watcher, order)
                    for name, watcher in self._watchers.items()
                    if (order := self._order(watcher, now)) is not None
                ]
                if wanted:
                    # Cameras that move first, then whoever has waited.
                    chosen = min(
                        wanted,
                        key=lambda each: (not each[2].is_quick, each[0] <= self._last_served),
                    )
                    self._last_served = chosen[0]
                    return chosen
                self._changed.wait(_IDLE if self._watchers else None)
        return None

    def _cropped(self, run: Run, box: Box) -> Run:
        """The run cut to a box, kept for the pictures that follow."""
        if self._cut is None or self._cut[0] is not run or self._cut[1] != box:
            self._cut = run, box, cropped(run, box)
        return self._cut[2]

    def _order(self, watcher: Watcher, now: float) -> Order | None:
        return watcher.next(now, self._source.age, self._source.is_training)

    def _draw(self, watcher: Watcher, order: Order) -> UInt8[np.ndarray, "height width 3"]:
        run, drawn = self._source.run(), 0.0
        if order.view.style.crop is not None:
            run = self._cropped(run, order.view.style.crop)
        begun = time.perf_counter()

        def check(done: int, total: int) -> None:
            nonlocal begun, drawn
            if self._ends or not watcher.is_wanted(order):
                raise AbandonedError
            drawn += time.perf_counter() - begun
            self._turns.pause()
            begun = time.perf_counter()

        pixels: Any = picture(
            run,
            order.view,
            order.size,
            photographs=self.photographs,
            is_fine=not order.is_quick,
            progress=check,
        )
        watcher.showed(order, drawn + time.perf_counter() - begun)
        self.error = ""
        return pixels

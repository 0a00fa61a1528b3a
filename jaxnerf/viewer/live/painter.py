"""The rendering thread of the live viewer: renders the views of its clients in turn."""

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
from jaxnerf.viewer.live.views import CropBox, View

# Seconds between checks for an image to render, if no event announces one.
_IDLE = 0.1


@runtime_checkable
class Source(Protocol):
    """The source of the run that is rendered.

    Attributes:
      age: increases when the run changes.
      is_training: whether the run will change again soon.
    """

    @property
    def age(self) -> int: ...

    @property
    def is_training(self) -> bool: ...

    def run(self) -> Run:
        """The current run; called only by the thread that holds the devices."""
        ...


class Painter:
    """Renders for several clients ("watchers") in turn.

    Attributes:
      photographs: the photographs for comparisons; None if there are none.
      error: the last error, in one line; "" if the last image had none.
    """

    def __init__(
        self,
        source: Source,
        turns: Turns,
        show: Callable[[int, Order, UInt8[np.ndarray, "height width 3"]], None],
        photographs: Split | None = None,
        complain: Callable[[int, str], None] = lambda name, error: None,
    ):
        """Create the painter; `start` starts its thread.

        Args:
          source: source of the run.
          turns: gives access to the devices.
          show: called with a watcher's name, the order and the image.
          photographs: see the attributes.
          complain: called with a watcher's name and an error, if an image cannot be rendered.
        """
        self.photographs, self.error = photographs, ""
        self._source, self._turns, self._show = source, turns, show
        self._complain = complain
        self._watchers: dict[int, Watcher] = {}
        self._changed, self._ends = threading.Condition(), False
        self._last_served = -1
        self._cut: tuple[Run, CropBox, Run] | None = None
        self._thread = threading.Thread(target=self._work, name="painter", daemon=True)

    def start(self) -> None:
        """Start rendering."""
        self._thread.start()

    def stop(self) -> None:
        """Stop rendering; returns when the thread has ended."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._turns.free()
        self._thread.join()

    def look(self, name: int, view: View) -> None:
        """Set a watcher's view; adds the watcher if it is new."""
        with self._changed:
            if self._watchers.setdefault(name, Watcher()).look(view, time.perf_counter()):
                self._changed.notify_all()

    def leave(self, name: int) -> None:
        """Remove a watcher."""
        with self._changed:
            watcher = self._watchers.pop(name, None)
            if watcher is not None:  # its picture, if it is being rendered, is given up
                watcher.gone = True

    def refresh(self) -> None:
        """Check for images to render, since the run or the state of training has changed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def is_watched(self) -> bool:
        """Whether there are watchers."""
        return bool(self._watchers)

    def _work(self) -> None:
        while (task := self._next()) is not None:
            name, watcher, order = task
            pixels = None
            self._turns.acquire()
            try:
                # While waiting for the devices, the camera may have moved and the run changed.
                order = self._order(watcher, time.perf_counter()) or order
                if not self._ends and watcher.is_wanted(order):
                    pixels = self._draw(watcher, order)
            except AbandonedError:
                pass
            except Exception as error:  # shown to the watcher, who may be able to correct it
                self.error = f"{type(error).__name__}: {error}".splitlines()[0]
                watcher.showed(order, 1.0)
                self._said(self._complain, name, self.error)
            finally:
                self._turns.release()
            if pixels is not None:  # sent after the devices were released
                self._said(self._show, name, order, pixels)

    def _said(self, call: Callable[..., None], *arguments: Any) -> None:
        """Tell a client something; whatever comes of it, the other clients' pictures go on."""
        try:
            call(*arguments)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}".splitlines()[0]

    def _next(self) -> tuple[int, Watcher, Order] | None:
        """Wait for the next image to render; None when the painter stops."""
        with self._changed:
            while not self._ends:
                now = time.perf_counter()
                wanted = [
                    (name, watcher, order)
                    for name, watcher in self._watchers.items()
                    if (order := self._order(watcher, now)) is not None
                ]
                if wanted:
                    # Moving cameras first, then the watchers after the one that was served last.
                    chosen = min(
                        wanted,
                        key=lambda each: (not each[2].is_quick, each[0] <= self._last_served),
                    )
                    self._last_served = chosen[0]
                    return chosen
                self._changed.wait(_IDLE if self._watchers else None)
        return None

    def _cropped(self, run: Run, box: CropBox) -> Run:
        """The run cropped to a box, cached for the following images."""
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

"""What is drawn when: small pictures while a camera moves, finer ones the longer it rests."""

import dataclasses
import math

from jaxnerf.viewer.live.views import View

# Seconds that a picture may take while the camera moves, and its longer side at least.
QUICK = 0.12
LEAST_SIDE = 64
# Seconds without motion after which a camera rests.
REST = 0.2
# Of a picture that training will soon make old.
WHILE_TRAINING = 1.0
# Between one picture of a resting camera and the next, finer one: pixels along a side.
_FINER = 2.5
# Rays a second, until it is known.
_FIRST_SPEED = 50_000.0


@dataclasses.dataclass(frozen=True)
class Order:
    """A picture to draw.

    Attributes:
      view: that it shows.
      size: in pixels; not above the window's.
      number: of the view, which grows when it changes.
      age: of the parameters.
      is_quick: whether it is drawn to its end, since otherwise nothing at all would be shown.
      is_last: whether it has all pixels that it is going to have.
    """

    view: View
    size: tuple[int, int]
    number: int
    age: int
    is_quick: bool
    is_last: bool


class Watcher:
    """Somebody who looks: what was shown to them, and what comes next.

    Times are seconds of any clock that does not go back.

    Attributes:
      view: what is looked at now; None until it is known.
      number: of the view.
    """

    def __init__(self) -> None:
        self.view: View | None = None
        self.number = 0
        self._moved_at = float("-inf")
        self._shown: Order | None = None
        self._speed = _FIRST_SPEED

    def look(self, view: View, now: float) -> bool:
        """Look at a view from now on; returns whether it is another one."""
        if view == self.view:
            return False
        self.view, self.number, self._moved_at = view, self.number + 1, now
        return True

    def next(self, now: float, age: int = 0, is_training: bool = False) -> Order | None:
        """The picture to draw now, if there is one.

        Args:
          now: the time.
          age: of the parameters, which grows when they change.
          is_training: whether they soon change again: pictures are then no finer than a second allows.
        """
        if self.view is None:
            return None
        whole, shown = self.view.size, self._shown
        quick = self._size(QUICK)
        finest = self._size(WHILE_TRAINING) if is_training else whole
        if shown is None or shown.number != self.number:
            return Order(self.view, quick, self.number, age, True, quick == whole)
        if now - self._moved_at < REST:
            return None
        if shown.age != age and is_training:
            return Order(self.view, finest, self.number, age, False, finest == whole)
        if shown.size[0] < finest[0] or shown.age != age:
            size = tuple(round(side * _FINER) for side in shown.size)
            size = finest if size[0] >= 0.7 * finest[0] else size
            return Order(self.view, (size[0], size[1]), self.number, age, False, size == whole)
        return None

    def showed(self, order: Order, seconds: float) -> None:
        """Say that a picture was drawn, and how long that took."""
        self._shown = order
        if not order.view.compares:
            speed = order.size[0] * order.size[1] / max(seconds, 1e-4)
            # Half of what was known: the first picture is slow where a program is compiled.
            self._speed = (0.5 * self._speed + 0.5 * speed) if speed > self._speed else speed

    def is_wanted(self, order: Order) -> bool:
        """Whether a picture that is being drawn is still what should be shown."""
        return order.is_quick or order.number == self.number

    def _size(self, seconds: float) -> tuple[int, int]:
        """As many pixels as can be drawn in some seconds."""
        assert self.view is not None
        width, height = self.view.size
        scale = (seconds * self._speed / (width * height)) ** 0.5
        scale = min(max(scale, LEAST_SIDE / max(width, height)), 1.0)
        # By few steps, so that pictures do not change their size all the time.
        if scale < 1.0:
            scale = max(0.8 ** round(math.log(scale, 0.8)), LEAST_SIDE / max(width, height))
        if scale > 0.95:
            return width, height
        return max(round(width * scale), 1), max(round(height * scale), 1)

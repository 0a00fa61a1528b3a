"""The choice of the next image for a client: small while its camera moves, finer the longer it rests."""

import dataclasses
import math

from jaxnerf.viewer.live.views import View

# Seconds that an image may take while the camera moves, and the least length of its longer side.
QUICK = 0.12
LEAST_SIDE = 64
# Seconds without motion after which a camera is taken to rest.
REST = 0.2
# Seconds that an image may take during training, which soon makes it outdated.
WHILE_TRAINING = 1.0
# Factor of the side lengths from one image of a resting camera to the next, finer one.
_FINER = 2.5
# Rays per second that are assumed until the speed has been measured.
_FIRST_SPEED = 50_000.0


@dataclasses.dataclass(frozen=True)
class Order:
    """An image to render.

    Attributes:
      view: its view.
      size: its (width, height) in pixels; at most the window's.
      number: number of the view, which increases when the view changes.
      age: age of the parameters.
      is_quick: whether it is rendered to its end even if the view changes, so that some image is shown
        while a camera moves.
      is_last: whether it has the full resolution of the window.
    """

    view: View
    size: tuple[int, int]
    number: int
    age: int
    is_quick: bool
    is_last: bool


class Watcher:
    """The state of a client: what was shown, and what is rendered next.

    Times are seconds of any monotonic clock.

    Attributes:
      view: the current view; None until it is known.
      number: number of the view.
      gone: whether the client has left.
    """

    def __init__(self) -> None:
        self.view: View | None = None
        self.number, self.gone = 0, False
        self._moved_at = float("-inf")
        self._shown: Order | None = None
        self._speed = _FIRST_SPEED

    def look(self, view: View, now: float) -> bool:
        """Set the current view; returns whether it has changed."""
        if view == self.view:
            return False
        self.view, self.number, self._moved_at = view, self.number + 1, now
        return True

    def next(self, now: float, age: int = 0, is_training: bool = False) -> Order | None:
        """The image to render now, or None.

        Args:
          now: the time.
          age: age of the parameters, which increases when they change.
          is_training: whether they will change again soon: the size of images is then limited by
            `WHILE_TRAINING`.
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
        """Record that an image was rendered, and the seconds that it took."""
        self._shown = order
        if not order.view.compares:
            speed = order.size[0] * order.size[1] / max(seconds, 1e-4)
            # Increases are averaged with the previous speed; a decrease is adopted at once. (The first
            # image may include the compilation of a program.)
            self._speed = (0.5 * self._speed + 0.5 * speed) if speed > self._speed else speed

    def is_wanted(self, order: Order) -> bool:
        """Whether an image that is being rendered is still needed."""
        return not self.gone and (order.is_quick or order.number == self.number)

    def _size(self, seconds: float) -> tuple[int, int]:
        """The largest size that can be rendered in some seconds."""
        assert self.view is not None
        width, height = self.view.size
        scale = (seconds * self._speed / (width * height)) ** 0.5
        scale = min(max(scale, LEAST_SIDE / max(width, height)), 1.0)
        # In discrete steps, so that the size of images does not change all the time.
        if scale < 1.0:
            scale = max(0.8 ** round(math.log(scale, 0.8)), LEAST_SIDE / max(width, height))
        if scale > 0.95:
            return width, height
        return max(round(width * scale), 1), max(round(height * scale), 1)

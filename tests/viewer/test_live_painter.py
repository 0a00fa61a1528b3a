"""The painter of the live viewer, with a run that is drawn without any device."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxnerf.viewer.live.painter import Painter
from jaxnerf.viewer.live.turns import Turns
from jaxnerf.viewer.live.views import Style, View, rows

SIZE = (200, 150)


class Slow:
    """Draws pictures that are grey by the camera's x, in eight chunks."""

    def __init__(self, fails: bool = False):
        self.begun, self.go_on, self.fails = threading.Event(), threading.Event(), fails

    def picture(self, run, view, size, *, photographs, is_fine, progress):
        if self.fails:
            raise ValueError("no such colour\nand more")
        for part in range(8):
            if size == SIZE and part == 2:
                self.begun.set()
                assert self.go_on.wait(20.0)
            progress(part + 1, 8)
        return np.full((size[1], size[0], 3), round(255 * view.pose[0][3]), np.uint8)


class Still:
    """A source of what never changes."""

    age, is_training = 0, False

    def run(self) -> None:
        pass


@pytest.fixture
def painting(monkeypatch):
    """A function that begins to paint; returns the painter, and what is shown and said."""
    painters = []

    def begin(slow):
        monkeypatch.setattr("jaxnerf.viewer.live.painter.picture", slow.picture)
        shown, said = [], []
        painter = Painter(
            Still(),
            Turns(is_free=True),
            lambda name, order, pixels: shown.append((name, order, pixels)),
            complain=lambda name, error: said.append((name, error)),
        )
        painters.append(painter)
        painter.start()
        return painter, shown, said

    yield begin
    for painter in painters:
        painter.stop()


def view(grey: float) -> View:
    pose = np.eye(4)[:3]
    pose[0, 3] = grey
    return View(rows(pose), 0.7, SIZE, Style())


def until(holds: Callable[[], Any]) -> None:
    ends = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_fine_picture_is_abandoned_when_the_camera_moves(painting):
    run = Slow()
    painter, shown, _ = painting(run)
    painter.look(0, view(0.2))
    assert run.begun.wait(20.0)  # all pixels are being drawn
    assert all(order.size < SIZE for _, order, _ in shown)
    painter.look(0, view(0.8))
    run.go_on.set()
    until(lambda: shown and shown[-1][1].is_last)
    # Of the first view no fine picture came; the last one is of the second.
    assert {order.number for _, order, _ in shown if order.size == SIZE} == {2}
    np.testing.assert_array_equal(shown[-1][2], np.full((150, 200, 3), 204, np.uint8))


def test_several_watchers_all_get_their_pictures_and_leave(painting):
    run = Slow()
    run.go_on.set()
    painter, shown, _ = painting(run)
    for name in range(3):
        painter.look(name, view(0.2 * name))
    until(lambda: {name for name, order, _ in shown if order.is_last} == {0, 1, 2})
    for name, _, pixels in shown:
        assert np.all(pixels == round(255 * 0.2 * name))
    assert painter.is_watched
    for name in range(3):
        painter.leave(name)
    assert not painter.is_watched


def test_what_cannot_be_drawn_is_said_and_others_go_on(painting):
    painter, shown, said = painting(Slow(fails=True))
    painter.look(0, view(0.2))
    until(lambda: said)
    assert said[0] == (0, "ValueError: no such colour")
    assert shown == []
    painter.look(0, view(0.3))
    until(lambda: len(said) > 1)


def test_the_picture_of_a_page_that_was_closed_is_given_up(painting):
    run = Slow()
    painter, shown, _ = painting(run)
    painter.look(0, view(0.2))
    assert run.begun.wait(20.0)
    painter.leave(0)
    painter.look(1, view(0.6))
    run.go_on.set()
    until(lambda: shown and shown[-1][1].is_last)
    assert {name for name, order, _ in shown if order.size == SIZE} == {1}


def test_a_client_that_cannot_be_told_leaves_the_others_their_pictures(painting):
    run = Slow()
    run.go_on.set()
    painter, shown, _ = painting(run)
    tell = painter._show

    def refuse(name, order, pixels):
        if name == 0:
            raise OSError("gone")
        tell(name, order, pixels)

    painter._show = refuse
    painter.look(0, view(0.2))
    until(lambda: painter.error == "OSError: gone")
    painter.look(1, view(0.4))
    until(lambda: shown and shown[-1][1].is_last)
    assert {name for name, _, _ in shown} == {1}

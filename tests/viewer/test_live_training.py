"""Training that is watched: the same bits, and pictures of what it has learned so far."""

import dataclasses
import functools
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import photographs

from jaxnerf.config import override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import preset
from jaxnerf.methods import first_state, trainer_of
from jaxnerf.runs.run import run_of
from jaxnerf.scenes import Scene
from jaxnerf.training.loop import train
from jaxnerf.viewer.live.pacing import Order
from jaxnerf.viewer.live.painter import Painter
from jaxnerf.viewer.live.pictures import cropped
from jaxnerf.viewer.live.sources import Training
from jaxnerf.viewer.live.views import CropBox, View, rows

STEPS = 30


@functools.cache
def parts():
    """A configuration with two stages, and a scene."""
    scene = Scene("ball", Path("ball"), "test", {"train": photographs()}, 1.0, 5.0)
    config = override(
        preset("minute"),
        {
            "training.steps": STEPS,
            "training.max_seconds": 0.0,
            "training.rays_per_batch": 512,
            "voxels.stages.resolutions": (12, 24),
            "voxels.stages.fractions": (0.5,),
        },
    )
    return adapt_to_scene(config, scene, []), scene


def bare(scene: Scene) -> Scene:
    split = dataclasses.replace(scene.splits["train"], images=None)
    return dataclasses.replace(scene, splits={"train": split})


def trained(between=None):
    config, scene = parts()
    trainer, state = trainer_of(config, scene), first_state(config, scene)
    for progress in train(state, trainer, between=between):
        state = progress.state
    return jax.tree.map(np.array, trainer.to_host(state))


@pytest.fixture(scope="module")
def alone():
    """The state that training comes to while nobody looks."""
    return trained()


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def a_view(number: int = 0, size: tuple[int, int] = (48, 36)) -> View:
    pose = np.asarray(parts()[1].splits["train"].cameras.camera_to_world)[number]
    return View(rows(pose), 0.7, size)


class Watched:
    """Training with a painter, and what it painted."""

    def __init__(self):
        config, scene = parts()
        self.shown: list[tuple[Order, np.ndarray]] = []
        self.training = Training(Path("run"), config, bare(scene), lambda: self.painter.is_watched)
        self.painter = Painter(self.training, self.training.turns, self._show)
        self.painter.start()

    def _show(self, name, order, pixels):
        self.shown.append((order, pixels))


@pytest.fixture
def watched():
    found = Watched()
    yield found
    found.painter.stop()
    assert found.painter.error == ""


@pytest.mark.slow
def test_training_that_is_watched_has_the_same_bits(alone, watched):
    watched.painter.look(0, a_view())

    def between(state, number):
        time.sleep(0.002)  # so that the painter comes to ask
        # As often as possible: the share of time has a test of its own.
        watched.training.turns._not_before = float("-inf")
        watched.painter.look(0, a_view(number % 3))
        return watched.training.between(state, number)

    same(trained(between), alone)
    assert len({order.age for order, _ in watched.shown}) > 3
    first, last = watched.shown[0][1], watched.shown[-1][1]
    assert first.std() < last.std(), "what it has learned shows"
    assert watched.training.seconds > 0.0


@pytest.mark.slow
def test_nobody_looks_and_nothing_is_drawn(alone, watched):
    same(trained(watched.training.between), alone)
    assert (watched.shown, watched.training.seconds) == ([], 0.0)


@pytest.mark.slow
def test_a_pause_waits_shows_all_pixels_and_goes_on_to_the_same_bits(alone, watched):
    watched.painter.look(0, a_view(size=(160, 120)))
    seconds, log = [], []

    def go_on():
        ends = time.monotonic() + 60.0
        while not any(order.is_last for order, _ in watched.shown) and time.monotonic() < ends:
            time.sleep(0.02)
        log.append([order.age for order, _ in watched.shown])
        watched.training.is_paused = False

    def between(state, number):
        if number == 5:
            watched.training.is_paused = True
            threading.Thread(target=go_on).start()
        seconds.append(watched.training.between(state, number))
        return seconds[-1]

    same(trained(between), alone)
    (ages,) = log
    assert ages[-1] == 5
    assert any(order.size == (160, 120) for order, _ in watched.shown)
    assert seconds[4] > 0.2, "a camera rests for so long before all pixels come"


@pytest.mark.slow
def test_a_paused_training_that_shall_end_ends(watched):
    config, scene = parts()
    watched.training.is_paused = True
    stops = iter([False, False, True, True])
    watched.training.between(first_state(config, scene), 1, lambda: next(stops))
    assert next(stops, None) is True


@pytest.mark.slow
@pytest.mark.parametrize("side", [0, 1, 2])
def test_a_box_of_the_users_frame_leaves_what_lies_in_it(alone, side):
    config, scene = parts()
    run = run_of(Path("run"), config, bare(scene), alone)
    places = np.random.default_rng(0).uniform(-0.6, 0.6, (500, 3)).astype(np.float32)
    users = scene.to_user.points(places)
    low, high = np.full(3, -5.0), np.full(3, 5.0)
    high[side] = np.median(users[:, side])
    box = CropBox(tuple(low.tolist()), tuple(high.tolist()))
    field = cropped(run, box).field
    places = jnp.asarray(places)
    before, _ = run.field.density(run.params, places)
    after, _ = field.density(run.params, places)
    inside = users[:, side] <= high[side]
    np.testing.assert_array_equal(after, np.where(inside, before, 0.0))
    assert np.asarray(before)[~inside].max() > 0.0

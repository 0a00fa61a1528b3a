"""What ignoring a lens costs in pictures of places that were not trained on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ball import RAYS, photographs, with_surroundings
from test_unbounded import CONFIG, scene_of

from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.evaluation import blend, psnr
from jaxnerf.methods import first_state, trainer_of
from jaxnerf.runs.run import run_of
from jaxnerf.scenes import Scene, Split
from jaxnerf.training import loop
from jaxnerf.training.trainer import local

# Radial coefficients of OpenCV, as wide lenses have them: corners come 8 pixels nearer to the middle.
K1, K2 = -0.5, 0.1


def through_lens(count: int) -> Split:
    """Photographs through the lens, each pixel's ray found by a fixed point of OpenCV's formula."""
    seen = RAYS[..., :2]
    place = seen.copy()
    for _ in range(200):
        square = (place**2).sum(axis=-1, keepdims=True)
        place = seen / (1.0 + K1 * square + K2 * square**2)
    rays = np.concatenate([place, RAYS[..., 2:]], axis=-1)
    split = with_surroundings(photographs(count, one_side=True, rays=rays), rays)
    coefficients = np.tile(np.float32([K1, K2, 0.0, 0.0, 0.0, 0.0]), (count, 1))
    cameras = dataclasses.replace(split.cameras, distortion=coefficients, lens="opencv")
    return dataclasses.replace(split, cameras=cameras)


def without_lens(split: Split) -> Split:
    """The photographs as if their cameras were pinholes."""
    return dataclasses.replace(split, cameras=dataclasses.replace(split.cameras, lens="pinhole"))


def quality(train: Split, test: Split) -> float:
    """Mean PSNR of the test views after a short training."""
    scene: Scene = scene_of(train, unbounded=True)
    config = adapt_to_scene(CONFIG, scene)
    *_, last = loop.train(first_state(config, scene), trainer_of(config, scene))
    state = local(last.state)
    run = run_of(Path("run"), config, scene, state)
    assert test.images is not None
    found = [
        psnr(np.clip(run.render(test.cameras[index]).colour, 0.0, 1.0), blend(image, 1.0))
        for index, image in enumerate(test.images)
    ]
    return float(np.mean(found))


@pytest.mark.release
def test_ignoring_the_lens_costs_decibels():
    train, test = through_lens(24), through_lens(7)
    known = quality(train, test)
    ignored = quality(without_lens(train), without_lens(test))
    assert known > ignored + 1.0

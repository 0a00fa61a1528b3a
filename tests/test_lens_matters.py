"""What ignoring a phone's lens costs in pictures of places that were not trained on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxnerf.config import override, preset
from jaxnerf.evaluation import blend, psnr
from jaxnerf.fitting import first_state, fit, suited, trainer_of
from jaxnerf.runs import Run
from jaxnerf.scenes import Scene, load_scene
from jaxnerf.stages import local

OF_TESTING = {
    "training.steps": 500,
    "training.max_seconds": 0.0,
    "training.rays_per_batch": 4096,
    "growing.resolutions": (64, 128),
    "growing.shares": (0.4,),
}


def without_lens(scene: Scene) -> Scene:
    """The scene as if each of its cameras were a pinhole."""
    splits = {
        name: dataclasses.replace(split, cameras=dataclasses.replace(split.cameras, lens="pinhole"))
        for name, split in scene.splits.items()
    }
    return dataclasses.replace(scene, splits=splits)


def quality(scene: Scene) -> float:
    """Mean PSNR of the test views after a short training."""
    config = suited(override(preset("minute"), OF_TESTING), scene)
    *_, last = fit(first_state(config, scene), trainer_of(config, scene), report_every=500)
    state = local(last.state)
    run = Run(Path("run"), config, scene, state.params, last.step, state.occupancy)
    test = scene.splits["test"]
    assert test.images is not None
    found = [
        psnr(np.clip(run.render(test.cameras[index]).colour, 0.0, 1.0), blend(image, 1.0))
        for index, image in enumerate(test.images)
    ]
    return float(np.mean(found))


@pytest.mark.slow
def test_ignoring_the_lens_of_the_fox_costs_decibels(real_data, capsys):
    scene = load_scene(real_data / "fox", downscale=8, images=("train", "test"))
    assert scene.splits["train"].cameras.lens != "pinhole"
    known, ignored = quality(scene), quality(without_lens(scene))
    with capsys.disabled():
        print(f"\nfox: {known:.2f} dB with its lens, {ignored:.2f} dB without")
    assert known > ignored + 1.0

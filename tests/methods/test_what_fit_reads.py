"""What `fit` takes for photographs and settings, and what it refuses."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from ball import Sphere, photographs
from scene_factory import write_scene

from jaxnerf import (
    ConfigError,
    Error,
    FitError,
    RunError,
    Scene,
    SceneError,
    fit,
    load_run,
    load_scene,
)
from jaxnerf.config.adaptation import load_for

SMALL = {"training__rays_per_batch": 256, "occupancy__cells": 16, "occupancy__steps": 48}


@pytest.fixture(scope="module")
def scene() -> Scene:
    split = photographs()
    return Scene("ball", Path("ball"), "test", {"train": split}, 1.0, 5.0)


def test_photographs_are_read_as_the_configuration_says(tmp_path):
    folder = write_scene(tmp_path / "balls", 16, 12)
    small = {"training__rays_per_batch": 64, "nerf__field__width": 8, "nerf__samples": (4, 4)}
    run = fit("paper", folder, tmp_path / "run", steps=1, scene__downscale=2, **small)
    cameras = load_scene(folder, downscale=2, pixels="corner").splits["train"].cameras
    found = run.scene.splits["train"].cameras
    jax.tree.map(np.testing.assert_array_equal, found, cameras)
    # A scene that is loaded stays as it is, and the run says how that was.
    scene = load_scene(folder, downscale=4)
    run = fit("paper", scene, tmp_path / "other", steps=1, **small)
    assert (run.config.scene.downscale, run.config.scene.pixels) == (4, "centre")
    again = load_for(load_run(tmp_path / "other").config, folder, ())
    jax.tree.map(
        np.testing.assert_array_equal,
        again.splits["train"].cameras,
        load_run(tmp_path / "other").scene.splits["train"].cameras,
    )
    with pytest.raises(
        ConfigError, match=r"scene\.downscale has no effect on a scene that is loaded"
    ):
        fit("minute", scene, steps=1, scene__downscale=2)


def test_settings_without_effect_and_another_method_are_refused(scene):
    with pytest.raises(ConfigError, match=r"nerf\.field\.width: has no effect with method=voxels"):
        fit("minute", scene, steps=1, nerf__field__width=64)
    with pytest.raises(ConfigError, match=r"are for method=voxels; begin with another preset"):
        fit("minute", scene, steps=1, method="nerf")


def test_a_run_goes_on_with_its_own_photographs_alone(scene, tmp_path):
    out = tmp_path / "run"
    fit(Sphere(), scene, out, steps=1, **SMALL)
    split = scene.splits["train"]
    other = dataclasses.replace(split.cameras, focal=1.01 * split.cameras.focal)
    moved = dataclasses.replace(scene, splits={"train": dataclasses.replace(split, cameras=other)})
    with pytest.raises(SceneError, match=r"not the scene that .* was trained on"):
        fit(Sphere(), moved, out, steps=2, resume=True, **SMALL)
    fit(Sphere(), scene, out, steps=2, resume=True, **SMALL)


def test_errors_that_a_user_can_mend_are_of_one_kind():
    for kind in (SceneError, RunError, ConfigError, FitError):
        assert issubclass(kind, Error)

"""What `fit` takes for photographs and settings, and what it refuses."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import optax
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
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.training import PhotometricLoss

TINY = {"voxels__stages__resolutions": (8, 12, 16), "training__rays_per_batch": 256}
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


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"training__steps": 5}, "training.steps has no effect here"),
        ({"nerf__optimizer__learning_rate": 1.0}, "nerf.optimizer.learning_rate has no effect"),
        ({"method": "voxels"}, "method has no effect here"),
        ({"evaluation__orbit_frames": 3}, "evaluation.orbit_frames has no effect here"),
        ({"occupancy__cell": 5}, "unknown key 'own.occupancy.cell'"),
        ({"training__rays_per_batch": 65}, "2 devices do not divide 65 rays"),
        ({"resume": True}, "resume needs the run's folder"),
    ],
)
def test_what_would_do_nothing_or_fail_later_is_refused_in_one_line(scene, given, named):
    with pytest.raises((ConfigError, RunError), match=re.escape(named)):
        fit(Sphere(), scene, steps=2, **given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"loss": PhotometricLoss()}, "loss and optimizer are for fields of one's own"),
        ({"optimizer": optax.sgd(0.1)}, "voxels has its settings"),
        ({"steps": 0}, "training.steps"),
        ({"seconds": 0.0}, "seconds must be more than 0"),
        ({"training__max_seconds": 9.0}, "give it as steps or seconds"),
        ({"voxels__stages__resolution": 9}, "unknown key 'voxels.stages.resolution'"),
        ({"resume": True}, "resume needs the run's folder"),
    ],
)
def test_what_a_preset_cannot_be_given_is_refused_in_one_line(scene, given, named):
    with pytest.raises((ConfigError, RunError), match=re.escape(named)):
        fit("minute", scene, **({"steps": 2} | given))
    with pytest.raises(ConfigError, match="no preset 'minutes'"):
        fit("minutes", scene, steps=2)


class Broken(Sphere):
    """Cannot be begun."""

    def init(self, key):
        raise RuntimeError("broken init")


def test_a_run_is_not_replaced_by_one_that_cannot_begin(scene, tmp_path):
    fit(Sphere(), scene, tmp_path, steps=1, **SMALL)
    with pytest.raises(RuntimeError, match="broken init"):
        fit(Broken(), scene, tmp_path, steps=1, overwrite=True, **SMALL)
    assert load_run(tmp_path, field=Sphere()).step == 1


@pytest.mark.parametrize(
    ("field", "given", "named"),
    [
        (Sphere, {}, "Sphere is a class; give a field, as Sphere()"),
        (NoisyField(Sphere(), None, 1.0), {}, "density noise is for the paper's network"),
        (Sphere(), {"report_every": 0}, "report_every must be at least 1"),
    ],
)
def test_arguments_that_would_fail_later_are_refused_in_one_line(scene, field, given, named):
    with pytest.raises(ConfigError, match=re.escape(named)):
        fit(field, scene, **({"steps": 2} | given))


def test_a_run_does_not_keep_photographs_and_may_have_any_far(scene, tmp_path):
    run = fit(Sphere(), scene, tmp_path, steps=1, scene__far=1e12, **SMALL)
    assert run.scene.splits["train"].images is None
    assert load_run(tmp_path, field=Sphere()).scene.far == pytest.approx(run.scene.far)
    fit("minute", scene, tmp_path / "fast", steps=1, **TINY)
    with pytest.raises(RunError, match="was trained by voxels, which has its own field"):
        load_run(tmp_path / "fast", field=Sphere())

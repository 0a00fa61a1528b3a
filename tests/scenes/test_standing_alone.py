"""Captures whose photographs show an object alone: told from others, trained as bounded, said to be."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from scene_factory import (
    TINY,
    command_environment,  # noqa: F401
    edit_json,
    write_scene,
)

from jaxnerf.capture.inspection import inspect
from jaxnerf.cli import main
from jaxnerf.config import override
from jaxnerf.config.adaptation import adapt_to_scene, bounds_of
from jaxnerf.config.presets import preset
from jaxnerf.runs.folder import read_config
from jaxnerf.scenes import load_scene
from jaxnerf.scenes.silhouettes import scene_cube, stands_alone


def train(folder, run, *flags) -> None:
    assert main(["train", f"--data={folder}", f"--out={run}", *TINY, *flags]) == 0


def as_capture(folder, change=lambda image: image):
    """A folder of balls, without test views and bounds, in a format whose scenes have no end."""
    (folder / "transforms_train.json").rename(folder / "transforms.json")
    for split in ("val", "test"):
        (folder / f"transforms_{split}.json").unlink()
    for file in folder.glob("train/*.png"):
        with Image.open(file) as image:
            change(image.convert("RGBA")).save(file)
    return folder


def between_bars(image):
    """A photograph of anything, with black bars at its left and right."""
    pixels = np.zeros((*image.size[::-1], 3), np.uint8)
    random = np.random.default_rng(0)
    pixels[:, 16:-16] = random.integers(40, 256, pixels[:, 16:-16].shape)
    return Image.fromarray(pixels)


def in_a_circle(image):
    """A photograph of anything, as a microscope shows it."""
    side = np.arange(image.width) + 0.5 - image.width / 2.0
    pixels = np.random.default_rng(0).integers(40, 256, (image.width, image.width, 3))
    pixels[np.hypot(side[:, None], side[None, :]) > 0.45 * image.width] = 0
    return Image.fromarray(pixels.astype(np.uint8))


def on_grey(noise: float, lower: bool = True):
    """A change of a photograph: its background grey and noisy; below only if told so."""
    random = np.random.default_rng(0)

    def changed(image):
        behind = np.full((*image.size[::-1], 4), 255, np.uint8)
        behind[..., :3] = 128
        if not lower:
            behind[-20:, :, :3] = random.integers(0, 256, (20, image.width, 3))
        grey = Image.fromarray(behind)
        grey.alpha_composite(image)
        pixels = np.asarray(grey.convert("RGB"))
        pixels = pixels + random.normal(0.0, noise, pixels.shape)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    return changed


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        (on_grey(0.0), True),
        (lambda image: image, True),  # transparent
        (on_grey(3.0), False),  # a wall behind something is not even
        (on_grey(0.0, lower=False), False),  # a sky does not reach the lower side
        (between_bars, False),
        (in_a_circle, False),
    ],
    ids=["grey", "transparent", "noisy", "sky", "bars", "circle"],
)
def test_a_capture_of_an_object_that_stands_alone_is_bounded(change, alone, tmp_path):
    scene = load_scene(as_capture(write_scene(tmp_path / "balls", 96, 96, train=9), change))
    assert scene.unbounded
    assert stands_alone(scene) == alone
    space = adapt_to_scene(preset("minute"), scene).scene.space
    assert space == ("bounded" if alone else "unbounded")
    chosen = override(preset("minute"), {"scene.space": "unbounded"})
    assert adapt_to_scene(chosen, scene, ["scene.space"]).scene.space == "unbounded"


def test_rays_of_the_network_end_where_the_cube_of_an_object_alone_does(tmp_path):
    """Not at the horizon that its capture names, up to which 64 samples would show nothing."""
    scene = load_scene(as_capture(write_scene(tmp_path / "balls", 96, 96, train=9), on_grey(0.0)))
    config = adapt_to_scene(preset("nerf_small"), scene)
    near, far = bounds_of(config, scene)
    split = scene.splits["train"]
    corner, side = scene_cube(split)
    ends = corner + side * np.array(list(np.ndindex(2, 2, 2)))
    positions = np.asarray(split.cameras.camera_to_world)[:, :, 3]
    away = np.linalg.norm(ends[None] - positions[:, None], axis=-1)
    assert scene.near <= near <= away.min()
    assert away.max() <= far < 2.0 * away.max() < scene.far
    named = override(config, {"scene.near": 0.3, "scene.far": 7.0})
    assert bounds_of(named, dataclasses.replace(scene, near=0.3, far=7.0)) == (0.3, 7.0)


@pytest.mark.parametrize("space", ["auto", "unbounded"])
def test_a_run_goes_on_in_the_space_that_its_photographs_chose(space, tmp_path):
    """Also in one that was chosen by hand, or by an earlier version, for an object alone."""
    folder = as_capture(write_scene(tmp_path / "balls", 48, 48, train=9), on_grey(0.0))
    short = (*TINY, "--noevaluate", f"--out={tmp_path}/run")
    first = ("--max_steps=1", f"--scene.space={space}")
    assert main(["train", f"--data={folder}", *short, *first]) == 0
    before = read_config(tmp_path / "run")
    assert main(["train", f"--data={folder}", *short, "--resume", "--max_steps=2"]) == 0
    after = read_config(tmp_path / "run")
    assert after == override(before, {"training.steps": 2})
    assert after.scene.space == ("bounded" if space == "auto" else "unbounded")


def test_what_lies_around_the_circle_of_a_fisheye_lens_is_no_background(tmp_path):
    folder = as_capture(write_scene(tmp_path / "balls", 96, 96, train=9), on_grey(0.0))
    edit_json(folder / "transforms.json", lambda c: c.update(camera_model="OPENCV_FISHEYE"))
    scene = load_scene(folder)
    assert scene.splits["train"].cameras.lens == "fisheye"
    assert not stands_alone(scene)


def test_what_a_mask_hides_is_not_taken_for_background(tmp_path):
    """A mask over the lower sides, of a tripod under a sky, leaves open what is there."""
    change = on_grey(0.0)
    scene = load_scene(as_capture(write_scene(tmp_path / "balls", 96, 96, train=9), change))
    split = scene.splits["train"]
    masks = np.ones(split.images.shape[:3], bool)
    assert stands_alone(scene)
    masks[:, -12:] = False
    masked = dataclasses.replace(split, masks=masks)
    assert not stands_alone(dataclasses.replace(scene, splits={"train": masked}))


def test_cameras_and_points_can_say_that_an_object_does_not_stand_alone(tmp_path):
    """Which looks outwards, or has most of its points far away, shows more than a plain wall."""
    folder = as_capture(write_scene(tmp_path / "balls", 96, 96, train=9), on_grey(0.0))
    scene = load_scene(folder)
    split = scene.splits["train"]
    points = np.random.default_rng(0).normal(size=(50, 3))
    for scale, alone in ((0.01, True), (100.0, False)):
        assert stands_alone(dataclasses.replace(scene, points=scale * points)) == alone
    poses = np.array(split.cameras.camera_to_world)
    poses[:, :, [0, 2]] *= -1.0
    turned = dataclasses.replace(
        split, cameras=dataclasses.replace(split.cameras, camera_to_world=poses)
    )
    assert not stands_alone(dataclasses.replace(scene, splits={"train": turned}))


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_what_a_capture_before_a_grey_background_is_taken_for_is_said(noise, tmp_path, capsys):
    folder = as_capture(write_scene(tmp_path / "balls", 48, 48, train=9), on_grey(noise))
    train(folder, tmp_path / "run", "--max_steps=1", "--noevaluate")
    printed, facts = capsys.readouterr().out, inspect(folder).facts
    if noise:
        assert "stands alone" not in printed
        assert "background" not in facts
        assert facts["space"] == "unbounded"
    else:
        assert "bounded, as for an object that stands alone" in printed
        assert facts["background"] == "plain #808080"
        assert facts["space"].startswith("bounded: an object that stands alone")
    short = ("--max_steps=1", "--noevaluate", "--scene.space=bounded")
    train(folder, tmp_path / "bounded", *short)
    assert "plain background: #" in capsys.readouterr().out
    assert read_config(tmp_path / "bounded").training.background.startswith("#")
    train(folder, tmp_path / "whole", "--max_steps=1", "--noevaluate", "--scene.space=unbounded")
    assert ("--scene.space=bounded is for an object" in capsys.readouterr().out) == (not noise)

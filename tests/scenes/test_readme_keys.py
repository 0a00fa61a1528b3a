"""The keys of transforms files that the README names are those that change what is read."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_factory import HEIGHT, WIDTH, around, poses_of, write_pictures
from PIL import Image
from scene_factory import write_scene

from jaxnerf.scenes import load_scene
from jaxnerf.scenes.path_files import read_path
from jaxnerf.scenes.transforms_notes import READ

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(r"^\| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


def named(of: str) -> list[str]:
    """The keys that a row of the table names."""
    (cell,) = [cell for first, cell in ROW.findall(README.read_text()) if first.startswith(of)]
    return re.findall("`([^`]*)`", cell)


def write(folder: Path, shared: dict[str, Any], own: dict[str, Any]) -> Path:
    if not folder.exists():
        write_pictures(folder / "images", around())
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:3] = 1
        Image.fromarray(mask).save(folder / "mask.png")
    base = {"fl_x": 21.0, "w": WIDTH, "h": HEIGHT, "camera_model": "OPENCV", **shared}
    frames = [
        {"file_path": f"images/{i:04d}", "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]} | own
        for i, pose in enumerate(poses_of(around()))
    ]
    contents = {key: value for key, value in base.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps({**contents, "frames": frames}))
    return folder


def seen(folder: Path) -> list[np.ndarray]:
    """All that a scene is made of, but for its notes."""
    scene, found = load_scene(folder), []
    for split in scene.splits.values():
        camera = split.cameras
        found += [camera.camera_to_world, camera.focal, camera.centre, camera.distortion]
        found += [np.array([str(len(split)), camera.lens])]
        found += [] if split.masks is None else [split.masks]
    return [*found, np.array([scene.near, scene.far])]


def differs(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    if len(one) != len(other):
        return True
    return not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# What each is set to; with fl_x removed where that would go first.
VALUES: dict[str, Any] = {
    **{"fl_x": 30.0, "fl_y": 30.0, "camera_angle_x": 0.5, "camera_angle_y": 0.5, "cx": 3.0},
    **{"cy": 3.0, "w": 2 * WIDTH, "h": 2 * HEIGHT, "is_fisheye": True},
    "camera_model": "OPENCV_FISHEYE",
    **dict.fromkeys(("k1", "k2", "k3", "k4", "p1", "p2"), 0.01),
    **dict.fromkeys(("mask_path", "mask_filename"), "mask.png"),
}


@pytest.mark.parametrize("key", named("transforms files"))
def test_a_key_that_the_readme_names_changes_what_is_read(key, tmp_path):
    without = {"fl_x": None} if key.startswith("camera_angle") else {}
    without |= {"camera_model": None} if key == "is_fisheye" else {}
    changed = {key: VALUES[key]}
    if key in ("w", "h"):
        changed |= {"w": VALUES["w"], "h": VALUES["h"]}
    base = without | ({"camera_angle_x": 0.7} if "fl_x" in without else {})
    plain = seen(write(tmp_path / "s", base, {}))
    assert differs(plain, seen(write(tmp_path / "s", without | changed, {})))
    assert differs(plain, seen(write(tmp_path / "s", without, changed)))


def test_the_other_keys_that_the_readme_names(tmp_path):
    plain = seen(write(tmp_path / "s", {}, {}))
    assert named("a frame alone") == ["file_path", "transform_matrix"]
    keys = named("the file alone")
    names = [f"images/{i:04d}" for i in range(9)]
    for key in (key for key in keys if key.endswith("_filenames")):
        lists = {"train_filenames": names[:5], key: names[:5]}
        if key != "train_filenames":
            lists["train_filenames"] = names[5:]
        assert differs(plain, seen(write(tmp_path / "s", lists, {})))
    assert {*keys} >= {"frames", "near", "far"}
    blender = write_scene(tmp_path / "b")
    before = seen(blender)
    path = blender / "transforms_train.json"
    for key, value in (("near", 0.5), ("far", 9.0)):
        text = path.read_text()
        path.write_text(json.dumps({**json.loads(text), key: value}))
        assert differs(before, seen(blender))
        path.write_text(text)


def test_every_key_that_readers_of_transforms_files_honour_is_named():
    rows = ("transforms files", "a frame alone", "the file alone")
    assert {key for row in rows for key in named(row)} >= READ


# What each is set to in place of what the file has.
OF_PATHS: dict[str, Any] = {
    **{"fps": 7.0, "seconds": 9.0, "is_cycle": True, "camera_type": "fisheye"},
    **{"render_width": 30, "render_height": 20, "fov": 70.0},
}


def path_seen(path: Path, contents: dict[str, Any], training) -> list[np.ndarray]:
    path.write_text(json.dumps(contents))
    file = read_path(path, training)
    camera = file.cameras
    found = [np.asarray(x) for x in (camera.camera_to_world, camera.focal, camera.size)]
    return [*found, np.array([str(x) for x in (camera.lens, file.frames_per_second, file.cycle)])]


@pytest.mark.parametrize("key", named("camera paths"))
def test_a_key_of_camera_paths_changes_what_is_rendered(key, tmp_path):
    if key == "render --path":
        return
    training = load_scene(write_scene(tmp_path / "s"), images=()).splits["train"].cameras[0]
    pose = np.eye(4).ravel().tolist()
    contents: dict[str, Any] = {
        **{"camera_type": "perspective", "render_width": 16, "render_height": 16, "fps": 10},
        "camera_path": [
            {"camera_to_world": pose, "fov": 50.0},
            {"camera_to_world": pose, "fov": 50.0},
        ],
    }
    plain = path_seen(tmp_path / "p.json", contents, training)
    if key == "camera_path":
        changed = {**contents, key: contents[key][:1]}
    elif key in ("camera_to_world", "fov"):
        other = [*pose[:3], 1.0, *pose[4:]] if key == "camera_to_world" else OF_PATHS[key]
        changed = {**contents, "camera_path": [{**contents["camera_path"][0], key: other}] * 2}
    else:
        changed = {**contents, key: OF_PATHS[key]}
    assert differs(plain, path_seen(tmp_path / "p.json", changed, training))

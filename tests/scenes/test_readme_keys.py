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
    keys = named("a frame of them")
    assert keys[:2] == ["file_path", "transform_matrix"]
    for key in keys[2:]:
        assert differs(plain, seen(write(tmp_path / "s", {}, {key: "mask.png"})))
    keys = named("a file of them")
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

"""Wrong scenes are refused in one line that names the file and the field; never in another way."""

import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_factory import edit_json, write_scene

from jaxnerf.scenes import SceneError, load_scene


def frame(index, **changes):
    return lambda contents: contents["frames"][index].update(changes)


def pose(change):
    def edit(contents):
        contents["frames"][1]["transform_matrix"] = np.array(
            change(np.array(contents["frames"][1]["transform_matrix"]))
        ).tolist()

    return edit


def drop(*path):
    def edit(contents):
        *parents, last = path
        for key in parents:
            contents = contents[key]
        del contents[last]

    return edit


WRONG_JSON = {
    "no frames": (drop("frames"), "'frames'"),
    "empty frames": (lambda c: c.update(frames=[]), "'frames'"),
    "frames an object": (lambda c: c.update(frames={"a": 1}), "'frames'"),
    "a frame a number": (lambda c: c["frames"].append(3), "frames[4]"),
    "no angle": (drop("camera_angle_x"), "neither fl_x nor camera_angle_x"),
    "angle a text": (lambda c: c.update(camera_angle_x="0.8"), "camera_angle_x"),
    "angle a bool": (lambda c: c.update(camera_angle_x=True), "camera_angle_x"),
    "angle not finite": (lambda c: c.update(camera_angle_x=math.nan), "camera_angle_x"),
    "angle huge": (lambda c: c.update(camera_angle_x=10**400), "camera_angle_x"),
    "angle too wide": (lambda c: c.update(camera_angle_x=3.2), "camera_angle_x"),
    "angle almost 0": (lambda c: c.update(camera_angle_x=1e-300), "camera_angle_x"),
    "near after far": (lambda c: c.update(near=7), "near"),
    "far infinite": (lambda c: c.update(far=math.inf), "far"),
    "no file path": (drop("frames", 1, "file_path"), "frames[1]: file_path"),
    "file path a number": (frame(1, file_path=3), "frames[1]: file_path"),
    "outside": (frame(1, file_path="../balls/train/r_0"), "frames[1]: file_path"),
    "out and in again": (frame(1, file_path="train/../train/r_0"), "frames[1]: file_path"),
    "absolute": (frame(1, file_path="/etc/hostname"), "frames[1]: file_path"),
    "the root": (frame(1, file_path="/"), "frames[1]: file_path"),
    "the folder itself": (frame(1, file_path="."), "frames[1]: file_path"),
    "a NUL": (frame(1, file_path="a\0b"), "frames[1]: file_path"),
    "no pose": (drop("frames", 1, "transform_matrix"), "frames[1]: transform_matrix"),
    "pose of 3 x 3": (pose(lambda m: m[:3, :3]), "frames[1]: transform_matrix"),
    "pose of texts": (pose(lambda m: [["a"] * 4] * 4), "frames[1]: transform_matrix"),
    "pose not finite": (pose(lambda m: m + math.inf), "frames[1]: transform_matrix"),
    "place not finite": (pose(lambda m: m * [[1, 1, 1, math.nan]]), "frames[1]: transform_matrix"),
    "place beyond floats": (
        lambda c: c["frames"][1]["transform_matrix"][0].__setitem__(3, 10**400),
        "frames[1]: transform_matrix",
    ),
    "pose far away": (pose(lambda m: m + 1e12), "frames[1]: transform_matrix"),
    "pose of nothing": (pose(lambda m: m * [0, 0, 0, 1]), "frames[1]: transform_matrix"),
    "pose stretched": (pose(lambda m: m * [1, 1.01, 1, 1]), "frames[1]: transform_matrix"),
    "pose sheared": (pose(lambda m: m + 0.1 * m[:, [1, 2, 0, 3]]), "frames[1]: transform_matrix"),
    "pose mirrored": (pose(lambda m: m * [-1, 1, 1, 1]), "frames[1]: transform_matrix"),
    "pose projective": (pose(lambda m: m + np.eye(4)[[3]].T), "transform_matrix"),
    "a width alone": (lambda c: c.update(w=17), "frames[0]: h is missing"),
    "another width": (lambda c: c.update(w=18, h=16), "r_0.png: 16 x 16"),
    "another height": (lambda c: c.update(w=16, h=99), "r_0.png: 16 x 16"),
    "width a text": (lambda c: c.update(w="16"), "w must be a number"),
}


def refused(folder: Path, **options) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(SceneError) as caught:
        load_scene(folder, **options)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", WRONG_JSON)
def test_wrong_json_is_refused_by_file_and_field(case, tmp_path):
    change, field = WRONG_JSON[case]
    write_scene(tmp_path)
    edit_json(tmp_path / "transforms_train.json", change)
    message = refused(tmp_path)
    assert field in message
    assert "transforms_train.json" in message


def damage(folder: Path, kind: str) -> str:
    """Damage a scene; returns the path that the message must name."""
    image, transforms = folder / "train/r_2.png", folder / "transforms_train.json"
    whole = image.read_bytes()
    if kind == "truncated image":
        image.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty image":
        image.write_bytes(b"")
    elif kind == "a text as image":
        image.write_text("not an image")
    elif kind == "another format":
        Image.new("RGB", (16, 16)).save(image, "BMP")
    elif kind == "a folder as image":
        image.unlink()
        image.mkdir()
    elif kind == "a pipe as image":
        image.unlink()
        os.mkfifo(image)
    elif kind == "smaller image":
        Image.new("RGB", (16, 15)).save(image)
    elif kind == "enormous image":
        header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0)
        checksum = struct.pack(">I", zlib.crc32(header))
        image.write_bytes(whole[:8] + struct.pack(">I", 13) + header + checksum + whole[33:])
    elif kind == "image out of the folder":
        image.rename(folder.parent / "elsewhere.png")
        image.symlink_to(folder.parent / "elsewhere.png")
        return "frames[2]: file_path"
    elif kind == "endless file":
        transforms.unlink()
        transforms.symlink_to("/dev/zero")
        return "transforms_train.json"
    else:
        transforms.write_bytes(
            {"broken JSON": b'{"a', "binary": b"\xff\xfe", "deep": b"[" * 10**5}[kind]
        )
        return "transforms_train.json"
    return "r_2.png"


@pytest.mark.parametrize(
    "kind",
    ["truncated image", "empty image", "a text as image", "another format"]
    + [
        "a folder as image",
        "a pipe as image",
        "smaller image",
        "enormous image",
        "image out of the folder",
    ]
    + ["endless file", "broken JSON", "binary", "deep"],
)
def test_damaged_files_are_refused_by_name(kind, tmp_path):
    folder = write_scene(tmp_path / "scene")
    named = damage(folder, kind)
    assert named in refused(folder)


def test_folders_that_are_no_scenes_are_refused(tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a folder" in refused(tmp_path / "file")
    assert "transforms_train.json" in refused(tmp_path)
    refused(tmp_path / ("long" * 1000))


def test_splits_and_factors_that_are_not_there_are_refused(tmp_path):
    folder = write_scene(tmp_path / "scene", train=1)
    (folder / "transforms_val.json").unlink()
    assert "val" in refused(folder, images=("val",))
    assert "shrink by 17" in refused(folder, downscale=17)
    with pytest.raises(SceneError, match="downscale"):
        load_scene(folder, downscale=0)

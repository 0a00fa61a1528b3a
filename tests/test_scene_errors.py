"""Wrong scenes are refused in one line that names the file and the field; never in another way."""

import json
import math
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scene_factory import edit_json, eyes, matrix, write_scene

from jaxnerf.scenes import Scene, SceneError, load_scene


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
    "no angle": (drop("camera_angle_x"), "camera_angle_x is missing"),
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
    "pose scaled": (pose(lambda m: m * [2, 2, 2, 1]), "frames[1]: transform_matrix"),
    "pose stretched": (pose(lambda m: m * [1, 1.01, 1, 1]), "frames[1]: transform_matrix"),
    "pose sheared": (pose(lambda m: m + 0.1 * m[:, [1, 2, 0, 3]]), "frames[1]: transform_matrix"),
    "pose mirrored": (pose(lambda m: m * [-1, 1, 1, 1]), "frames[1]: transform_matrix"),
    "pose projective": (pose(lambda m: m + np.eye(4)[[3]].T), "transform_matrix"),
    "another width": (lambda c: c.update(w=17), "r_0.png: 16 x 16"),
    "another height": (lambda c: c.update(h=99), "r_0.png: 16 x 16"),
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
    if kind == "missing image":
        image.unlink()
    elif kind == "truncated image":
        image.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty image":
        image.write_bytes(b"")
    elif kind == "a text as image":
        image.write_text("not an image")
    elif kind == "another format":
        Image.new("RGB", (16, 16)).save(image, "TIFF")
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
    ["missing image", "truncated image", "empty image", "a text as image", "another format"]
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


# What stands in JSON text but json.dumps would not write.
RAW = {"1e400": "1e400", "deep": "[" * 2000 + "]" * 2000, "long": "1" * 5000}
PATHS = ["", ".", "..", "/", "../scene/train/r_0", "train/../train/r_0", "/etc/passwd", "train"]
PATHS += ["a\0b", "\ud800", "\udc80", "a" * 5000, "train/r_0.png/x", "a\nb", "C:\\x", "train/r_9"]
PATHS += ["loop", "gone", "outside", "pipe", "zero"]
NUMBERS = [
    0,
    -1,
    2**31,
    10**400,
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    1e-320,
    None,
    True,
    [[]],
    {},
]
FIELDS = ["camera_angle_x", "frames", "near", "far", "w", "h", "file_path", "transform_matrix"]
raw = st.sampled_from(sorted(RAW)).map(lambda name: f"RAW {name}")
odd_paths = st.sampled_from(PATHS) | st.text(max_size=5)
odd_numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats() | raw
odd_values = st.recursive(odd_paths | odd_numbers, st.lists, max_leaves=20)
json_edits = st.one_of(
    st.tuples(st.just("file_path"), st.just(False), st.just(0), odd_paths),
    st.tuples(st.sampled_from(FIELDS), st.just(False), st.integers(0, 15), odd_numbers),
    st.tuples(st.sampled_from(FIELDS), st.booleans(), st.integers(0, 15), odd_values),
)
file_edits = st.tuples(
    st.sampled_from(["train/r_0.png", "train/r_1.png", "transforms_train.json"]),
    st.sampled_from(["flip", "cut", "insert", "remove", "folder", "link", "loop", "zero"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)


PLAIN = matrix(eyes(2)[-1])


def edit_field(contents: dict, edit: tuple) -> None:
    """Drop a field or put an odd value in its place, or into a pose."""
    field, dropped, place, value = edit
    holder = contents
    if field in ("file_path", "transform_matrix"):
        frames = contents.get("frames")
        if not isinstance(frames, list) or not frames or not isinstance(frames[-1], dict):
            return
        holder = frames[-1]
    pose = holder.get("transform_matrix")
    if dropped:
        holder.pop(field, None)
    elif field == "transform_matrix" and place < 15 and pose == PLAIN:
        pose[place // 4][place % 4] = value
    else:
        holder[field] = value


def edit_file(path: Path, how: str, place: int, flip: int) -> None:
    """Damage or replace a file."""
    if path.is_dir() or not os.path.lexists(path):
        return
    contents = bytearray(path.read_bytes()) if path.is_file() else bytearray(b"x")
    place %= max(len(contents), 1)
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how in ("link", "loop", "zero"):
        path.symlink_to({"link": "/etc/hostname", "loop": path.name, "zero": "/dev/zero"}[how])
    elif how != "remove":
        if how == "flip" and contents:
            contents[place] ^= flip
        path.write_bytes(contents[:place] if how == "cut" else contents)
        if how == "insert":
            path.write_bytes(contents[:place] + bytes([flip]) * 3 + contents[place:])


def fuzz(original: Path, edits: list) -> None:
    """Apply edits to a copy of a scene and read it."""
    folder = original.parent / "scene"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "outside.png").symlink_to("/etc/passwd")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    path = folder / "transforms_train.json"
    contents = json.loads(path.read_text())
    fields = [edit for edit in edits if edit[0] in FIELDS]
    for edit in fields:
        edit_field(contents, edit)
    text = json.dumps(contents)
    for name, raw in RAW.items():
        text = text.replace(f'"RAW {name}"', raw)
    path.write_text(text)
    for edit in edits:
        if edit not in fields:
            edit_file(folder / edit[0], *edit[1:])
    try:
        scene = load_scene(folder)
    except SceneError as error:
        message = str(error)
        assert message.startswith(str(folder))
        if len(fields) == len(edits) and message.startswith(f"{path}: "):
            assert "broken JSON" in message or any(field in message for field in FIELDS)
    else:
        assert isinstance(scene, Scene)
        assert np.isfinite(scene.splits["train"].cameras.camera_to_world).all()
        assert np.isfinite(scene.splits["train"].cameras.focal).all()
        assert 0.0 <= scene.near < scene.far < math.inf


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("fuzz") / "original", 3, 3, train=2)


anything = st.lists(json_edits | file_edits, min_size=1, max_size=3)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(edits=anything)
def test_whatever_is_wrong_ends_in_a_scene_or_one_scene_error(original, edits):
    fuzz(original, edits)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=2000)
@given(edits=anything)
def test_whatever_is_wrong_ends_in_a_scene_or_one_scene_error_2000_times(original, edits):
    fuzz(original, edits)

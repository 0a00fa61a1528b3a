"""Whatever is wrong with a scene's files ends in a Scene or in one SceneError, soon, in little memory."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from jaxnerf.scenes import Scene, SceneError, load_scene

# What stands in JSON text but json.dumps would not write.
RAW = {"1e400": "1e400", "deep": "[" * 2000 + "]" * 2000, "long": "1" * 5000}
PATHS = ["", ".", "..", "/", "../scene/a", "images/../images/a", "/etc/passwd", "images", "train"]
PATHS += ["a\0b", "\ud800", "\udc80", "a" * 5000, "images/r_0.png/x", "a\nb", "C:\\x", "r_9"]
PATHS += ["loop", "gone", "outside", "pipe", "zero", "outside.png", "pipe.png", "zero.png"]
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

raw = st.sampled_from(sorted(RAW)).map(lambda name: f"RAW {name}")
odd_paths = st.sampled_from(PATHS) | st.text(max_size=5)
odd_numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats() | raw
odd_values = st.recursive(odd_paths | odd_numbers, st.lists, max_leaves=20)


@dataclasses.dataclass(frozen=True)
class Target:
    """A format's files, and what may be edited in them.

    Attributes:
      files: of which bytes are changed, or which are replaced.
      json: the file whose fields are edited; "" for none.
      shared, own: fields of the JSON file, and of its last frame.
      paths: those of them that are paths.
      edit, draws: what else may be done to a folder, by a draw.
    """

    files: Sequence[str]
    json: str = ""
    shared: Sequence[str] = ()
    own: Sequence[str] = ()
    paths: Sequence[str] = ()
    edit: Callable[[Path, tuple], None] = lambda folder, drawn: None
    draws: st.SearchStrategy | None = None

    def edits(self) -> st.SearchStrategy:
        """A few edits of a scene's files."""
        changes = st.tuples(
            st.just("file"),
            st.sampled_from(self.files),
            st.sampled_from(["flip", "cut", "insert", "remove", "folder", "link", "loop", "zero"]),
            st.integers(0, 10**6),
            st.integers(1, 255),
        )
        kinds = [changes]
        if self.json:
            fields = st.sampled_from([*self.shared, *self.own])
            places = st.integers(0, 15)
            kinds += [
                st.tuples(
                    st.just("field"), st.sampled_from(self.paths), st.just(False), st.just(15), odd_paths
                ),
                st.tuples(st.just("field"), fields, st.just(False), places, odd_numbers),
                st.tuples(st.just("field"), fields, st.booleans(), places, odd_values),
            ]  # fmt: skip
        if self.draws is not None:
            kinds.append(st.tuples(st.just("own"), self.draws))
        return st.lists(st.one_of(kinds), min_size=1, max_size=3)


def edit_field(target: Target, contents: dict, name: str, dropped: bool, place: int, value) -> None:
    """Drop a field or put an odd value in its place, or into a pose."""
    holder = contents
    if name in target.own:
        frames = contents.get("frames")
        if not isinstance(frames, list) or not frames or not isinstance(frames[-1], dict):
            return
        holder = frames[-1]
    pose = holder.get("transform_matrix")
    if dropped:
        holder.pop(name, None)
    elif name == "transform_matrix" and place < 15 and _is_square(pose):
        pose[place // 4][place % 4] = value
    else:
        holder[name] = value


def _is_square(pose: object) -> bool:
    """Whether it is four lists of four of anything, which an edit before may have made of it."""
    rows = pose if isinstance(pose, list) else []
    return len(rows) == 4 and all(isinstance(row, list) and len(row) == 4 for row in rows)


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


def fuzz(target: Target, original: Path, edits: list[tuple]) -> bool:
    """Apply edits to a copy of a scene and read it; whether a scene came out."""
    folder = original.parent / "scene"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "outside.png").symlink_to("/etc/passwd")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    if target.json:
        _edit_json(target, folder / target.json, [edit[1:] for edit in edits if edit[0] == "field"])
    for kind, *edit in edits:
        if kind == "file":
            edit_file(folder / edit[0], *edit[1:])
        elif kind == "own":
            target.edit(folder, *edit)
    with _limits():
        return check_reading(target, folder, edits)


def _edit_json(target: Target, path: Path, edits: list) -> None:
    contents = json.loads(path.read_text())
    for edit in edits:
        edit_field(target, contents, *edit)
    text = json.dumps(contents)
    for name, raw in RAW.items():
        text = text.replace(f'"RAW {name}"', raw)
    path.write_text(text)


def check_reading(target: Target, folder: Path, edits: list) -> bool:
    """A scene of finite numbers comes out, or one error that names the file, and the field if any."""
    try:
        scene = load_scene(folder, images=("train",))
    except SceneError as error:
        message = str(error)
        assert message.startswith(str(folder))
        assert "\n" not in message
        path = folder / target.json
        if all(edit[0] == "field" for edit in edits) and message.startswith(f"{path}: "):
            known = [*target.shared, *target.own]
            assert "broken JSON" in message or any(field in message for field in known)
        return False
    assert isinstance(scene, Scene)
    assert 0.0 <= scene.near < scene.far < math.inf
    assert np.isfinite(scene.to_user.scale)
    assert scene.to_user.scale > 0.0
    for split in scene.splits.values():
        cameras = split.cameras
        for values in (cameras.camera_to_world, cameras.focal, cameras.centre, cameras.distortion):
            assert np.isfinite(values).all()
        assert (np.asarray(cameras.focal) > 0.0).all()
        assert (np.asarray(cameras.size) > 0).all()
    train = scene.splits["train"]
    assert train.images.shape[:3] == (
        len(train),
        *np.max(np.asarray(train.cameras.size), axis=0)[::-1],
    )
    return True


@contextlib.contextmanager
def _limits():
    """Within 30 seconds and 1 GB (where Linux says how much memory was used at most)."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    measured = clear.exists() and os.access(clear, os.W_OK)
    if measured:
        clear.write_text("5")  # forget the most that was used so far
    before, begun = _kilobytes(status, "VmRSS") if measured else 0, time.perf_counter()
    yield
    assert time.perf_counter() - begun < 30.0
    if measured:
        assert _kilobytes(status, "VmHWM") - before < 1_000_000


def _kilobytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])

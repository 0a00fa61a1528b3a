"""Numbered frames: each made once, whole or not at all; a path goes on where it stopped."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnerf import Camera, Config, Run, Scene
from jaxnerf.exports import depth, video
from jaxnerf.exports import frames as files
from jaxnerf.exports.frames import Frames, assemble, begin, remove, render_frames
from jaxnerf.exports.pictures import Look
from jaxnerf.rendering import Rendering
from jaxnerf.runs.files import RunError
from jaxnerf.scenes import Split

SIDE = 8


@pytest.fixture
def rendered(monkeypatch) -> list[int]:
    """The frames that were rendered since, by the x of their cameras; pictures are of one shade each."""
    seen: list[int] = []

    def look_through(run, camera, look):
        index = int(camera.camera_to_world[0, 3])
        seen.append(index)
        flat = np.full((SIDE, SIDE), 1.0 + index, np.float32)
        opacity = np.ones((SIDE, SIDE), np.float32)
        opacity[0] = 0.0
        ramp = np.linspace(0.0, 1.0, SIDE * SIDE * 3, dtype=np.float32).reshape(SIDE, SIDE, 3)
        return Rendering(0.9 * ramp + 0.01 * index, opacity, flat, flat, flat)

    monkeypatch.setattr(files, "look_through", look_through)
    return seen


def poses(count: int) -> np.ndarray:
    pose = np.tile(np.eye(4)[:3], (count, 1, 1))
    pose[:, 0, 3] = np.arange(count)
    return pose


@pytest.fixture
def run() -> Run:
    split = Split(("a",), Camera.pinhole(poses(1), 10.0, SIDE, SIDE))
    scene = Scene("s", Path("s"), "test", {"train": split}, 2.0, 6.0)
    return Run(Path("r"), Config(method="nerf"), scene, None, {"w": np.arange(4.0)}, 1)


def of(folder: Path, count: int = 5, **more) -> Frames:
    return Frames(folder, Camera.pinhole(poses(count), 10.0, SIDE, SIDE), **more)


def make(frames: Frames, run: Run, **how) -> None:
    render_frames(frames, run, begin(frames, run, **how))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["", "exr", "png"])
def test_only_what_is_missing_or_damaged_is_rendered_again_and_to_the_same_files(
    tmp_path, run, rendered, kind
):
    whole = of(tmp_path / "whole", depth=kind)
    make(whole, run)
    expected = contents(whole.folder)
    assert rendered == [0, 1, 2, 3, 4]
    begun = of(tmp_path / "begun", depth=kind)
    make(begun, run)
    begun.files(1)[0].unlink()
    begun.files(2)[-1].unlink()
    file = begun.files(4)[-1]
    file.write_bytes(file.read_bytes()[:-30])
    kept = {index: begun.files(index)[0].stat().st_mtime_ns for index in (0, 3)}
    rendered.clear()
    make(begun, run)
    assert rendered == [1, 2, 4]
    assert contents(begun.folder) == expected
    assert {index: begun.files(index)[0].stat().st_mtime_ns for index in kept} == kept
    rendered.clear()
    make(begun, run)
    assert rendered == []


CHANGES = {
    "frames was 5, now 6": {"count": 6},
    "bits was 8, now 16": {"bits": 16},
    "depth was none, now png": {"depth": "png"},
    "supersampling was none, now 2": {"look": Look(supersampling=2)},
    "panels changed": {"look": Look(("rgb", "depth"))},
}


@pytest.mark.parametrize("said", CHANGES)
def test_other_settings_are_noticed_said_and_begun_anew_only_if_asked_to(
    tmp_path, run, rendered, said
):
    make(of(tmp_path / "f"), run)
    (tmp_path / "f" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "f")
    other = of(tmp_path / "f", **CHANGES[said])
    with pytest.raises(RunError, match="other settings") as caught:
        begin(other, run)
    assert said in str(caught.value)
    assert contents(tmp_path / "f") == before
    rendered.clear()
    make(other, run, overwrite=True)
    assert rendered == list(range(len(other)))
    assert (tmp_path / "f" / "notes.txt").read_text() == "mine"
    settings = json.loads((tmp_path / "f" / "render.json").read_text())
    assert settings["frames"] == len(other)


def test_other_weights_poses_and_lenses_are_other_settings(tmp_path, run, rendered):
    frames = of(tmp_path / "f")
    make(frames, run)
    retrained = dataclasses.replace(run, params={"w": np.arange(4.0) + 1e-9})
    with pytest.raises(RunError, match="weights changed"):
        begin(frames, retrained)
    moved = poses(5)
    moved[2, 1, 3] = 1e-9
    for name, change in (("cameras", moved), ("cameras", None)):
        cameras = Camera.pinhole(poses(5) if change is None else change, 10.0, SIDE, SIDE)
        if change is None:
            cameras = dataclasses.replace(cameras, focal=cameras.focal + np.float32(1e-3))
        with pytest.raises(RunError, match=f"{name} changed"):
            begin(dataclasses.replace(frames, cameras=cameras), run)


@pytest.mark.parametrize("text", [None, "{", "[1]", "{}"])
def test_a_folder_of_something_else_stays_as_it_is(tmp_path, run, rendered, text):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "0000.png").write_text("mine")
    if text is not None:
        (tmp_path / "f" / "render.json").write_text(text)
    before = contents(tmp_path / "f")
    with pytest.raises(RunError) as caught:
        begin(of(tmp_path / "f"), run)
    assert str(tmp_path / "f") in str(caught.value)
    assert contents(tmp_path / "f") == before


def test_a_run_that_was_killed_as_it_began_is_begun_again(tmp_path, run, rendered):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / ".partial.render.json").write_text("{")
    frames = of(tmp_path / "f")
    assert begin(frames, run) == list(range(len(frames)))


def test_a_full_disk_leaves_no_half_file_and_the_frame_to_be_rendered(tmp_path, run, rendered):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    for kind in ("", "exr", "png"):
        frames = of(tmp_path / f"f{kind}", depth=kind)
        left = begin(frames, run)
        file = frames.files(1)[-1]
        (file.parent / f".partial.{file.name}").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):
            render_frames(frames, run, left)
        assert begin(frames, run) == [1, 2, 3, 4]
        assert not any("partial" in name for name in contents(frames.folder))


def test_a_video_is_made_of_the_frames_and_they_are_removed(tmp_path, run, rendered):
    frames = of(tmp_path / "v.gif.frames")
    make(frames, run)
    assemble(frames, tmp_path / "v.gif", 10.0)
    remove(frames.folder)
    assert os.listdir(tmp_path) == ["v.gif"]
    with Image.open(tmp_path / "v.gif") as image:
        assert image.n_frames == 5


def test_colours_of_16_bits_are_told_apart(tmp_path, run, rendered):
    """Read again by ffmpeg, all bits, and by Pillow, which keeps the upper 8: so none are exchanged."""
    import imageio_ffmpeg

    frames = of(tmp_path / "f", count=1, bits=16)
    make(frames, run)
    file = frames.files(0)[0]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{file}"]
    raw = [*command, "-f", "rawvideo", "-pix_fmt", "rgb48le", "-"]
    stream = subprocess.run(raw, capture_output=True, check=True).stdout
    found = np.frombuffer(stream, "<u2").reshape(SIDE, SIDE, 3)
    ramp = np.linspace(0.0, 0.9, SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
    assert np.abs(found - 65_535.0 * ramp).max() <= 1.0
    header = file.read_bytes()[16:26]
    assert header[8:] == bytes([16, 2])  # bits, and the type of RGB
    with Image.open(file) as image:
        upper = np.asarray(image.convert("RGB"), np.int64)
    assert np.abs(upper - (found >> 8)).max() <= 1


def test_depth_of_less_than_half_an_opacity_is_0(tmp_path, run, rendered):
    frames = of(tmp_path / "f", count=1, depth="png", depth_level=0.01)
    make(frames, run)
    levels = np.asarray(Image.open(frames.files(0)[1]))
    assert (levels[0] == 0).all()
    assert (levels[1:] == 100).all()


def test_names_have_as_many_digits_as_they_need(tmp_path):
    assert of(tmp_path, 3).files(2) == (tmp_path / "0002.png",)
    cameras = Camera.pinhole(np.zeros((20_000, 3, 4)), 1.0, 2, 2)
    assert Frames(tmp_path, cameras).files(7)[0].name == "00007.png"


@pytest.mark.parametrize("farthest", [0.3, 6.0, 65.0, 66.0, 1e5])
def test_levels_of_depth_are_as_fine_as_a_power_of_ten_can_be(farthest):
    level = depth.fitting_level(farthest)
    assert level * 65_535 >= farthest > 0.1 * level * 65_535 * (1 - 1e-9)
    assert np.log10(level) == pytest.approx(round(np.log10(level)))


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(depth, "find_spec", lambda name: None)
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    assert depth.missing_package("exr") == "OpenEXR"
    assert depth.missing_package("png") == ""
    assert video.missing_ffmpeg() == "imageio-ffmpeg"

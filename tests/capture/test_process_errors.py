"""What `jaxnerf process` says of what it cannot use: one line, and nothing is left or written over."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_factory import command_environment  # noqa: F401

from jaxnerf.capture import structure_from_motion
from jaxnerf.cli import main


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Four photographs that have nothing in common."""
    folder, random = tmp_path_factory.mktemp("errors") / "noise", np.random.default_rng(0)
    folder.mkdir()
    for index in range(4):
        pixels = random.integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).resize((120, 80)).save(folder / f"{index}.jpg")
    return folder


@pytest.fixture
def here(noise, tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, with the photographs in "noise"."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(noise, tmp_path / "noise")).parent


@pytest.fixture
def refusal(here, capfd):
    """Run a command that must be refused and change nothing; returns its one line."""

    def run(*arguments: str) -> str:
        before = contents(here)
        capfd.readouterr()
        assert main(["process", *arguments]) == 1
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert err.startswith("jaxnerf: ")
        assert err.count("\n") == 1
        assert contents(here) == before
        return err

    return run


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def make_scene(folder: Path) -> None:
    """What a finished run leaves, but for what is in the files."""
    for name in ("images", "sparse/0"):
        (folder / name).mkdir(parents=True)
    for name in ("transforms.json", "sparse_pc.ply", "images/a.jpg"):
        (folder / name).write_text("old")


COMMANDS = {
    "nothing": ([], "--images or --video"),
    "both": (["--images=noise", "--video=x.mp4", "--out=out"], "--images or --video"),
    "no place": (["--images=noise"], "--out"),
    "frames of photographs": (["--images=noise", "--out=out", "--frames=9"], "--frames"),
    "few frames": (["--video=x.mp4", "--out=out", "--frames=2"], "frames"),
    "no size": (["--images=noise", "--out=out", "--max_image_size=-1"], "max_image_size"),
    "another lens": (["--images=noise", "--out=out", "--camera_model=FOV"], "camera_model"),
    "another matching": (["--images=noise", "--out=out", "--matching=vocabulary"], "matching"),
    "no folder": (["--images=no", "--out=out"], "no: no such folder"),
    "a long name": ([f"--images={'a' * 5000}", "--out=out"], "name too long"),
    "a long name of a place": (["--images=noise", f"--out={'a' * 5000}"], "name too long"),
    "a video as photographs": (["--images=noise/0.jpg", "--out=out"], "goes in with --video"),
    "photographs as a video": (["--video=noise", "--out=out"], "go in with --images"),
    "no video": (["--video=no.mp4", "--out=out"], "no.mp4: no such file"),
    "a picture as a video": (["--video=noise/0.jpg", "--out=out"], "frames"),
    "the place is where they are": (["--images=noise", "--out=noise"], "another folder"),
    "they are in the place": (["--images=noise", "--out=."], "another folder"),
    "the place is a file": (["--images=noise", "--out=noise/0.jpg/x"], "0.jpg"),
    "nothing in common": (["--images=noise", "--out=out"], "no cameras were found"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_wrong_command_is_refused(case, refusal):
    arguments, named = COMMANDS[case]
    assert named in refusal(*arguments)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_photographs_are_refused(count, here, refusal):
    for path in sorted((here / "noise").iterdir())[count:]:
        path.rename(path.with_suffix(".heic"))
    line = refusal("--images=noise", "--out=out")
    assert f"noise: at least 3 PNG or JPEG photographs are needed, got {count}; " in line
    assert ".heic files are not read" in line


@pytest.mark.parametrize("bytes_left", [0, 30, 600])
def test_a_damaged_photograph_is_named(bytes_left, here, refusal):
    path = here / "noise/2.jpg"
    path.write_bytes(path.read_bytes()[:bytes_left])
    assert "noise/2.jpg: " in refusal("--images=noise", "--out=out")


def test_photographs_that_would_have_one_name_are_refused(here, refusal):
    (here / "noise/0.jpg").rename(here / "noise/a b.jpg")
    (here / "noise/1.jpg").rename(here / "noise/a_b.jpg")
    assert "a_b.jpg" in refusal("--images=noise", "--out=out")


@pytest.mark.parametrize("text", [b"", b"\0" * 5000, b"#EXTM3U\nhttp://localhost:9/x.ts\n"])
def test_what_is_no_video_is_refused(text, here, refusal):
    (here / "x.mp4").write_bytes(text)
    assert "x.mp4: cannot be read as a video: " in refusal("--video=x.mp4", "--out=out")


def test_what_a_file_manager_leaves_is_not_in_the_way(here, refusal):
    (here / "out").mkdir()
    for name in (".DS_Store", "Thumbs.db"):
        (here / "out" / name).write_text("icons")
    assert "no cameras were found" in refusal("--images=noise", "--out=out")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["thesis.txt", "images/a.jpg", "transforms.json"])
def test_a_folder_of_other_files_stays_as_it_is(name, overwrite, here, refusal):
    (here / "out" / name).parent.mkdir(parents=True)
    (here / "out" / name).write_text("two years")
    line = refusal("--images=noise", "--out=out", *overwrite)
    assert f"out: holds other files ({name.partition('/')[0]})" in line


def test_links_are_not_followed_to_what_would_be_overwritten(here, refusal):
    make_scene(here / "elsewhere")
    make_scene(here / "out")
    shutil.rmtree(here / "out/images")
    (here / "out/images").symlink_to(here / "elsewhere/images")
    assert "out: holds other files" in refusal("--images=noise", "--out=out", "--overwrite")


def test_a_scene_stays_as_it_is_without_overwrite_or_where_that_fails(here, refusal):
    make_scene(here / "out")
    assert "--overwrite" in refusal("--images=noise", "--out=out")
    assert "no cameras were found" in refusal("--images=noise", "--out=out", "--overwrite")


def test_without_pycolmap_the_extra_is_named(refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert "pip install 'jaxnerf[process]'" in refusal("--images=noise", "--out=out")


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupt_leaves_what_was_there(there, here, monkeypatch, capsys):
    def interrupt(*_, **__):
        assert (here / "out/.partial/images/3.jpg").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(structure_from_motion, "_match", interrupt)
    if there:
        make_scene(here / "out")
    before = contents(here)
    assert main(["process", "--images=noise", "--out=out", "--overwrite"]) == 130
    assert contents(here) == before
    assert capsys.readouterr().err == ""


def test_what_a_killed_run_left_is_not_in_the_way(here, refusal):
    (here / "out/.partial/images").mkdir(parents=True)
    (here / "out/.partial/images/stale.jpg").write_text("half")
    assert main(["process", "--images=noise", "--out=out"]) == 1
    assert list((here / "out").iterdir()) == []


def test_a_full_disk_is_one_line(here, refusal, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "images/0.jpg")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "images/0.jpg: No space left on device" in refusal("--images=noise", "--out=out")

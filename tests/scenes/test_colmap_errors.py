"""Wrong COLMAP projects are refused in one line that names the file and the place in it."""

import os
import re
import shutil
import struct
from pathlib import Path

import pytest
from colmap_factory import write_project
from PIL import Image

from jaxnerf.scenes import Options, SceneError
from jaxnerf.scenes.colmap import read
from jaxnerf.scenes.colmap_files import read_model


@pytest.fixture(scope="module", params=["text", "binary"])
def project(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "original"
    return write_project(folder, 8, 8, 3, binary=request.param == "binary")


@pytest.fixture
def folder(project, tmp_path) -> Path:
    return Path(shutil.copytree(project, tmp_path / "s"))


def refused(folder: Path, **options) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(SceneError) as caught:
        read(folder, **options)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message


# A file, the words of its first record to be changed, and what the message says.
WORDS = {
    "an unknown model": ("cameras", {1: "FISHY"}, "line 2: its model 'FISHY' is not known"),
    "no width": ("cameras", {2: "0"}, "line 2: its WIDTH and HEIGHT are not from 1"),
    "a height of millions": ("cameras", {3: "9" * 9}, "line 2: its WIDTH and HEIGHT"),
    "a width of thousands of digits": ("cameras", {2: "9" * 4000}, "line 2: its WIDTH"),
    "no whole width": ("cameras", {2: "8.5"}, "line 2: should be CAMERA_ID MODEL"),
    "a focal length of 0": ("cameras", {4: "0"}, "line 2: the focal length of SIMPLE_PINHOLE"),
    "a focal length below 0": ("cameras", {4: "-9"}, "line 2: the focal length"),
    "no finite centre": ("cameras", {5: "nan"}, "line 2: the parameters of SIMPLE_PINHOLE"),
    "a text as centre": ("cameras", {5: "4,0"}, "line 2: should be CAMERA_ID"),
    "too few parameters": ("cameras", {6: ""}, "line 2: SIMPLE_PINHOLE has 3 parameters, not 2"),
    "too many parameters": ("cameras", {6: "4 0.1"}, "3 parameters, not 4"),
    "a camera that is not there": ("images", {8: "3"}, "image 1: its CAMERA_ID 3 is not in cam"),
    "no rotation": ("images", {1: "0", 2: "0", 3: "0", 4: "0"}, "line 3: its quaternion is of l"),
    "no finite rotation": ("images", {1: "inf"}, "line 3: its quaternion"),
    "too long a quaternion": ("images", {1: "5"}, "line 3: its quaternion"),
    "no finite translation": ("images", {6: "nan"}, "line 3: its translation is not finite"),
    "far away": ("images", {7: "1e300"}, "line 3: its translation is not finite or far"),
    "no name": ("images", {9: ""}, "line 3: should be IMAGE_ID QW"),
    "a number a text": ("images", {0: "one"}, "line 3: should be IMAGE_ID"),
    "out of the folder": ("images", {9: "../x.png"}, "image 1: NAME 'images/../x.png' leaves"),
    "absolute": ("images", {9: "/etc/passwd"}, "image 1: NAME '/etc/passwd' leaves"),
    "a NUL in the name": ("images", {9: "a\0b"}, "image 1: NAME must be the name of a file"),
    "a number twice": ("images", {0: "2"}, "the ID 2 twice"),
    "a point nowhere": ("points3D", {1: "inf"}, "point 1: its X Y Z are not finite"),
    "a point far away": ("points3D", {3: "-1e10"}, "point 1: its X Y Z"),
    "a colour of 256": ("points3D", {5: "256"}, "line 1: should be POINT3D_ID X Y Z"),
    "a track of 5": ("points3D", {8: "1 2"}, "line 1: should be POINT3D_ID"),
    "no error": ("points3D", {7: "", 8: "", 9: "", 10: "", 11: "", 12: "", 13: ""}, "line 1: sho"),
    "a point's number too large": ("points3D", {0: "9" * 30}, "a POINT3D_ID is too large"),
}


@pytest.mark.parametrize("case", WORDS)
def test_wrong_texts_are_refused_by_line(case, tmp_path):
    part, words, says = WORDS[case]
    folder = write_project(tmp_path / "s", 8, 8, 3)
    path = folder / f"sparse/0/{part}.txt"
    lines = path.read_text().split("\n")
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    changed = dict(enumerate(lines[first].split())) | words
    lines[first] = " ".join(word for _, word in sorted(changed.items()) if word)
    path.write_text("\n".join(lines))
    message = refused(folder)
    assert f"{part}.txt: " in message
    assert says in message


# A file, where in it bytes are put, and what the message says.
BYTES = {
    "more cameras than bytes": ("cameras", 0, struct.pack("<Q", 2**63), "too short for the 92233"),
    "more cameras than there are": (
        "cameras",
        0,
        struct.pack("<Q", 2),
        "ends in the middle of camera 2",
    ),
    "fewer cameras than there are": ("cameras", 0, struct.pack("<Q", 0), "goes on after the 0 ca"),
    "a model without a name": ("cameras", 12, struct.pack("<i", 99), "camera 1 of 1: its model 99"),
    "another model": ("cameras", 12, struct.pack("<i", 4), "ends in the middle of camera 1 of 1"),
    "no width": ("cameras", 16, struct.pack("<Q", 0), "camera 1 of 1: its WIDTH and HEIGHT"),
    "no finite focal length": ("cameras", 32, struct.pack("<d", float("nan")), "camera 1 of 1: t"),
    "more images": ("images", 0, struct.pack("<Q", 9), "too short for the 9 images"),
    "fewer images": ("images", 0, struct.pack("<Q", 1), "goes on after the 1 images"),
    "no finite rotation": ("images", 12, struct.pack("<d", float("inf")), "image 1 of 3: its qua"),
    "another camera": ("images", 68, struct.pack("<I", 77), "image 1: its CAMERA_ID 77"),
    "no text as name": ("images", 72, b"\xff", "image 1 of 3: its NAME is not a text"),
    "no end of the name": ("images", 82, b"a", "images.bin: image "),
    "endless features": ("images", 83, struct.pack("<Q", 2**60), "ends in the middle of image 1"),
    "more points": ("points3D", 0, struct.pack("<Q", 2**40), "too short for the 1099511627776"),
    "an endless track": ("points3D", 51, struct.pack("<Q", 2**61), "ends in the middle of point"),
    "no finite place": ("points3D", 16, struct.pack("<d", float("nan")), "point 1: its X Y Z are"),
}


@pytest.mark.parametrize("case", BYTES)
def test_wrong_bytes_are_refused_by_record(case, tmp_path):
    part, place, what, says = BYTES[case]
    folder = write_project(tmp_path / "s", 8, 8, 3, binary=True)
    path = folder / f"sparse/0/{part}.bin"
    contents = path.read_bytes()
    path.write_bytes(contents[:place] + what + contents[place + len(what) :])
    message = refused(folder)
    assert f"{part}.bin: " in message
    assert says in message


@pytest.mark.parametrize("part", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "not UTF-8", "cut", "empty"])
def test_damaged_files_are_refused_by_name(folder, part, kind):
    path = next((folder / "sparse/0").glob(f"{part}.*"))
    contents = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "empty" and path.suffix == ".txt" and part == "points3D":
        pytest.skip("no points are no mistake")
    else:
        damaged = {"not UTF-8": b"\xff\xfe" * 9, "cut": contents[:-13], "empty": b""}
        path.write_bytes(damaged[kind])
    if kind == "cut" and path.suffix == ".txt" and part == "points3D":
        assert len(read_model(folder / "sparse/0").points.numbers) == 3  # a track of even length
    else:
        assert path.name in refused(folder) or kind == "empty"


@pytest.mark.parametrize("part", ["cameras", "images"])
def test_missing_files_are_refused_by_name(folder, part):
    next((folder / "sparse/0").glob(f"{part}.*")).unlink()
    assert f"sparse/0: no {part}.bin or {part}.txt" in refused(folder)


def test_photographs_of_other_shapes_are_refused(folder):
    Image.new("RGB", (8, 5)).save(folder / "images/view_1.png")
    message = refused(folder)
    assert re.search(r"view_1.png: 8 x 5 pixels, but camera 1 in cameras.\w+ says 8 x 8", message)
    (folder / "images/view_1.png").write_bytes(b"nothing")
    assert "view_1.png: not a PNG, JPEG" in refused(folder)


def test_links_out_of_the_folder_are_followed_only_where_allowed(folder, tmp_path):
    shutil.move(folder / "images/view_1.png", tmp_path / "elsewhere.png")
    (folder / "images/view_1.png").symlink_to(tmp_path / "elsewhere.png")
    assert "view_1.png' leaves the folder" in refused(folder)
    assert len(read(folder, Options(allow_outside_paths=True)).splits["train"]) == 2
    (folder / "images/view_1.png").unlink()
    (folder / "here.png").write_bytes((tmp_path / "elsewhere.png").read_bytes())
    (folder / "images/view_1.png").symlink_to(folder / "here.png")
    assert len(read(folder).splits["train"]) == 2
    shutil.move(folder / "sparse", tmp_path / "sparse")
    (folder / "sparse").symlink_to(tmp_path / "sparse")
    assert "leaves the folder" in refused(folder)
    assert len(read(folder, Options(allow_outside_paths=True)).splits["train"]) == 2

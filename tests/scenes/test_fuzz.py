"""Every reader, against files that are wrong in any way."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from capture_factory import (
    in_front,
    write_colmap,
    write_dtu,
    write_llff,
    write_nerfstudio,
    write_transforms,
)
from fuzzing import NUMBERS, PATHS, Target, fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scene_factory import edit_json, write_scene

INTRINSICS = ["fl_x", "fl_y", "camera_angle_x", "cx", "cy", "w", "h", "k1", "k2", "p1", "p2"]
OWN = ["file_path", "transform_matrix"]
PICTURES = ["images/0000.png", "images/0001.png"]


def blender(folder: Path) -> Path:
    return write_scene(folder, 3, 3, train=2)


def instant_ngp(folder: Path) -> Path:
    """With a mask; and a JPEG, in which damage goes further than in a PNG with its checksums."""
    write_transforms(folder, in_front(2))
    Image.new("L", (20, 16)).save(folder / "images/dynamic_mask_0001.png")
    Image.open(folder / "images/0001.png").convert("RGB").save(folder / "images/0001.jpg")
    (folder / "images/0001.png").unlink()
    last = {"file_path": "images/0001.jpg"}
    edit_json(folder / "transforms.json", lambda contents: contents["frames"][-1].update(last))
    return folder


def nerfstudio(folder: Path) -> Path:
    write_nerfstudio(
        folder, in_front(2), train_filenames=PICTURES, applied_scale=1.0, ply_file_path="p.ply"
    )
    header = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
    (folder / "p.ply").write_text(header + "property float z\nend_header\n0 0 0\n0.1 0.2 0.3\n")
    Image.new("L", (20, 16), 255).save(folder / "images/mask.png")
    last = {"mask_path": "images/mask.png"}
    edit_json(folder / "transforms.json", lambda contents: contents["frames"][-1].update(last))
    return folder


def edit_rows(folder: Path, edit: tuple) -> None:
    """Another number in poses_bounds.npy, or an array of another shape or kind."""
    what, row, column, value = edit
    path = folder / "poses_bounds.npy"
    try:
        rows = np.load(path)
    except (ValueError, EOFError, OSError):
        return
    if what == "value" and rows.shape == (2, 17) and rows.dtype == np.float64:
        rows[row, column] = value
    elif what == "shape":
        rows = [rows[:row], rows[..., :column], rows[None], rows.reshape(-1)][column % 4]
    elif what == "kind":
        with np.errstate(all="ignore"):
            try:
                rows = rows.real.astype(["i4", "c16", "f2", "U3", "?", "f4"][column % 6])
            except ValueError:  # cut words that another edit has left
                return
    np.save(path, rows)


row_edits = st.tuples(
    st.sampled_from(["value"] * 8 + ["shape", "kind"]),
    st.integers(0, 1),
    st.integers(0, 16),
    st.floats() | st.sampled_from([0.0, -1.0, 1e-320, 1e308, 1e9]),
)


def llff(folder: Path) -> Path:
    return write_llff(folder, in_front(2))


def colmap_text(folder: Path) -> Path:
    write_colmap(folder, in_front(2))
    (folder / "masks").mkdir()
    Image.new("L", (20, 16), 255).save(folder / "masks/0001.png.png")
    return folder


def colmap_binary(folder: Path) -> Path:
    """With the same model in another place, but one photograph less."""
    write_colmap(folder, in_front(2), binary=True)
    write_colmap(folder / "colmap", in_front(1))
    return folder


PARTS = ("cameras", "images", "points3D")
ODD_WORDS = [
    *map(repr, NUMBERS),
    *(path for path in PATHS if path.isprintable()),
    "1e400",
    "9" * 5000,
]
ODD_BYTES = [
    *(struct.pack("<d", n) for n in (math.nan, math.inf, -1.0, 0.0, 1e308, 1e-320)),
    *(struct.pack("<Q", n) for n in (0, 1, 2, 3, 2**31, 2**40, 2**63, 2**64 - 1)),
    *(struct.pack("<i", n) for n in (0, 1, 4, 6, 17, 18, -1)),
    *(b"\0", b"../0001.png\0", b"/etc/passwd\0", b"outside.png\0", b"\xff\xff", b"\n"),
]


def edit_model(folder: Path, edit: tuple) -> None:
    """Another word in a text, other bytes in a binary file, or a file in another place."""
    part, line, place, word, contents = edit
    for path in (folder / f"sparse/0/{part}.txt", folder / f"sparse/0/{part}.bin"):
        if not path.is_file() or not path.stat().st_size:
            continue
        whole = path.read_bytes()
        if path.suffix == ".bin":
            place %= len(whole)
            path.write_bytes(whole[:place] + contents + whole[place + len(contents) :])
            continue
        lines = whole.split(b"\n")
        words = lines[line % len(lines)].split()
        if words:
            words[place % len(words)] = word.encode("utf-8", "surrogateescape")
        lines[line % len(lines)] = b" ".join(words)
        path.write_bytes(b"\n".join(lines))


model_edits = st.tuples(
    st.sampled_from(PARTS),
    st.integers(0, 9),
    # The first places are counts, numbers and sizes.
    st.integers(0, 30) | st.integers(0, 10**4),
    st.sampled_from(ODD_WORDS) | st.floats().map(repr) | st.integers().map(str),
    st.sampled_from(ODD_BYTES) | st.binary(min_size=1, max_size=8),
)


def dtu(folder: Path) -> Path:
    return write_dtu(folder, in_front(2))


def edit_matrices(folder: Path, edit: tuple) -> None:
    """Another number in one of the matrices, or none, or one of another shape or kind."""
    what, name, row, column, value = edit
    path = folder / "cameras_sphere.npz"
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            matrices = {key: file[key] for key in file.files}
    except Exception:  # what np.load makes of a file that was damaged
        return
    matrix = matrices.get(name, np.eye(4))
    if what == "value" and matrix.shape == (4, 4) and matrix.dtype == np.float64:
        matrix[row, column] = value
    elif what == "shape":
        matrix = [matrix[:row], matrix[..., :column], matrix[None], matrix.reshape(-1)][column]
    elif what == "kind":
        kind = [["i4", "c16"], ["f2", "U3"], ["?", "f4"]][row % 3][column % 2]
        try:
            with np.errstate(all="ignore"):
                matrix = matrix.real.astype(kind)
        except ValueError:  # words that another edit has left
            return
    matrices[name] = matrix
    if what == "remove":
        del matrices[name]
    np.savez_compressed(path, **matrices)


matrix_edits = st.tuples(
    st.sampled_from(["value"] * 8 + ["shape", "kind", "remove"]),
    st.sampled_from(["world_mat_0", "world_mat_1", "world_mat_2", "scale_mat_0", "scale_mat_1"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.floats() | st.sampled_from([0.0, -1.0, 1e-320, 1e308, 1e9]),
)

TARGETS = {
    blender: Target(
        ["train/r_0.png", "train/r_1.png", "transforms_train.json"],
        "transforms_train.json",
        ["frames", "near", "far", *INTRINSICS, "is_fisheye", "camera_model", "latlong"],
        [*OWN, "mask_filename"],
        ["file_path", "mask_filename"],
    ),
    instant_ngp: Target(
        ["images/0001.jpg", "images/dynamic_mask_0001.png", "transforms.json"],
        "transforms.json",
        ["frames", *INTRINSICS, "is_fisheye", "latlong", "aabb_scale"],
        [*OWN, "k3", "camera_angle_y"],
        ["file_path"],
    ),
    nerfstudio: Target(
        [*PICTURES, "images/mask.png", "transforms.json", "p.ply"],
        "transforms.json",
        ["frames", *INTRINSICS, "camera_model", "train_filenames", "val_filenames", "near", "far"],
        [*OWN, "mask_path", "k4", "ply_file_path"],
        ["file_path", "mask_path", "ply_file_path"],
    ),
    llff: Target(
        ["images_4/0001.png", "poses_bounds.npy", "images_4"],
        edit=edit_rows,
        draws=row_edits,
    ),
    colmap_text: Target(
        [*PICTURES, "masks/0001.png.png", *(f"sparse/0/{part}.txt" for part in PARTS), "sparse"],
        edit=edit_model,
        draws=model_edits,
    ),
    colmap_binary: Target(
        [*PICTURES, *(f"sparse/0/{part}.bin" for part in PARTS), "colmap/sparse/0/images.txt"],
        edit=edit_model,
        draws=model_edits,
    ),
    dtu: Target(
        ["image/0001.png", "mask/0001.png", "cameras_sphere.npz", "mask"],
        edit=edit_matrices,
        draws=matrix_edits,
    ),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict:
    return {write: write(tmp_path_factory.mktemp("fuzz") / "original") for write in TARGETS}


def run(write, originals, count: int) -> None:
    target, readable = TARGETS[write], []

    @settings(derandomize=True, deadline=None, max_examples=count)
    @given(edits=target.edits())
    def once(edits):
        readable.append(fuzz(target, originals[write], edits))

    once()
    # Not all are refused, for instance for what has nothing to do with the edits.
    assert 0 < sum(readable) < len(readable)


@pytest.mark.parametrize("write", TARGETS)
def test_whatever_is_wrong_ends_in_a_scene_or_one_scene_error(write, originals):
    run(write, originals, 100)


@pytest.mark.release
@pytest.mark.parametrize("write", TARGETS)
def test_whatever_is_wrong_ends_in_a_scene_or_one_scene_error_2000_times(write, originals):
    run(write, originals, 2000)

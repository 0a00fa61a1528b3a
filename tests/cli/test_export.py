"""`jaxnerf export`: every kind leaves its file, and what is wrong is one line that leaves nothing."""

import json
import os
import sys

import numpy as np
import pytest
from ball_run import ball_run
from scene_factory import command_environment  # noqa: F401
from test_cli_errors import refusal  # noqa: F401

from jaxnerf.cli import main
from jaxnerf.cli.export import KINDS
from jaxnerf.scenes import load_scene

SMALL = {
    "mesh": ["--resolution=24"],
    "points": ["--spacing=0.3"],
    "splats": ["--resolution=24"],
    "volume": ["--resolution=16"],
    "cameras": [],
}


def small(**how):
    """Pictures are small: what is tested here is what is written, and what is said."""
    return ball_run(count=6, pixels=24, **how)


@pytest.fixture
def ball(monkeypatch):
    """In the place of every run, that of a ball."""
    monkeypatch.setattr("jaxnerf.cli.export.load_run", lambda folder: small())
    monkeypatch.setattr("jaxnerf.exports.splats._SIDE", 24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("mesh", "b.ply"), ("points", "b.ply"), ("splats", "b.ply"), ("volume", "b.npz"),
     ("volume", "b.nii.gz"), ("cameras", "new/transforms.json"), ("cameras", "sparse/0")],
)  # fmt: skip
def test_a_kind_leaves_its_file_and_says_so(kind, name, ball, tmp_path, capsys):
    assert main(["export", "ball", kind, f"--out={tmp_path / name}", *SMALL[kind]]) == 0
    assert (tmp_path / name).exists()
    assert not list(tmp_path.rglob("*partial*"))
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"wrote {tmp_path / name}"
    assert any(sign in said[-2] for sign in ("faces", "points", "Gaussians", "voxels", "cameras"))


def test_every_kind_has_a_case_here():
    assert {*SMALL} <= {*KINDS}


def test_cameras_are_those_of_the_scene(ball, tmp_path):
    out = tmp_path / "transforms.json"
    assert main(["export", "ball", "cameras", f"--out={out}"]) == 0
    written = json.loads(out.read_text())["frames"]
    poses = np.array([frame["transform_matrix"] for frame in written])[:, :3]
    np.testing.assert_allclose(poses, small().cameras().camera_to_world, atol=1e-5)
    assert main(["export", "ball", "cameras", f"--out={out}"]) == 1  # there is one already


WRONG = {
    "no run": (["nowhere", "mesh", "--out=x.ply"], "nowhere: no such run folder"),
    "not a run": ([".", "mesh", "--out=x.ply"], ".: not a run folder"),
    "nothing named": (["nowhere"], "expected RUN KIND"),
    "an unknown kind": (["run", "mush", "--out=x.ply"], "'mush'; did you mean 'mesh'?"),
    "no file": (["run", "mesh"], "--out: name what is written; it ends in .ply"),
    "another format": (["run", "mesh", "--out=x.stl"], "x.stl does not end in .ply, .obj, .glb"),
    "a folder that is not there": (["run", "mesh", "--out=no/x.ply"], "no: no such folder"),
    "a file for a folder": (["run", "cameras", "--out=x.txt"], "x.txt does not end in .json"),
    "no resolution": (["run", "mesh", "--out=x.ply", "--resolution=0"], "--resolution: 0"),
    "a negative share": (["run", "mesh", "--out=x.ply", "--floaters=-1"], "--floaters: -1"),
    "a box of one side": (["run", "mesh", "--out=x.ply", "--box=1,2"], "--box: 1,2 is not"),
    "a box without volume": (["run", "mesh", "--out=x.ply", "--box=0,0,0,1,1,0"], "--box: 0,0,0,"),
    "no voxels": (["run", "volume", "--out=x.npz", "--resolution=0"], "--resolution: 0"),
    "voxels of Gaussians": (["run", "splats", "--out=x.ply", "--resolution=0"], "--resolution: 0"),
    "fewer faces than none": (["run", "mesh", "--out=x.ply", "--faces=-1"], "--faces: -1"),
    "fewer views than none": (["run", "points", "--out=x.ply", "--views=-1"], "--views: -1"),
    "a unit without a length": (["run", "mesh", "--out=x.glb", "--metres=0"], "--metres: 0"),
    "a spacing below none": (["run", "points", "--out=x.ply", "--spacing=-1"], "--spacing: -1"),
    "a spacing that is no number": (
        ["run", "points", "--out=x.ply", "--spacing=nan"],
        "--spacing: nan",
    ),
    "a spacing too small to count": (
        ["run", "points", "--out=x.ply", "--spacing=1e-9"],
        "--spacing: 1e-09 is too small",
    ),
    "a threshold that is no number": (
        ["run", "mesh", "--out=x.ply", "--how=density", "--threshold=nan"],
        "--threshold: nan",
    ),
    "a box of words": (["run", "volume", "--out=x.npz", "--box=a,b"], "--box: a,b are not numbers"),
    "a box without an end": (["run", "mesh", "--out=x.ply", "--box=0,0,0,1,1,inf"], "--box:"),
    "no up": (["run", "mesh", "--out=x.glb", "--up=0,0,0"], "--up: 0.0,0.0,0.0"),
    "an up for a format that has none": (
        ["run", "mesh", "--out=x.ply", "--up=0,0,1"],
        "--up: has no effect on .ply",
    ),
    "a texture for a format that has none": (
        ["run", "mesh", "--out=x.ply", "--texture=512"],
        "--texture: has no effect on .ply",
    ),
    "a texture of few texels": (["run", "mesh", "--out=x.glb", "--texture=9"], "--texture: 9"),
    "a threshold of distances": (
        ["run", "mesh", "--out=x.ply", "--threshold=3"],
        "--threshold: has no effect on fused distances",
    ),
    "an unknown way": (["run", "mesh", "--out=x.ply", "--how=poisson"], "how"),
    "a flag of another kind": (
        ["run", "points", "--out=x.ply", "--faces=9"],
        "--faces: has no effect on points, only on mesh",
    ),
    "a degree that files have not": (
        ["run", "splats", "--out=x.ply", "--sh_degree=4"],
        "sh_degree",
    ),
    "blocks in a format without": (
        ["run", "volume", "--out=x.nii", "--occupied"],
        "--occupied: only an .npz has blocks",
    ),
    "other programs' name": (["run", "cameras", "--out=cams.json"], "should be transforms.json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case, refusal, monkeypatch):  # noqa: F811
    arguments, named = WRONG[case]
    if arguments[0] == "run":
        monkeypatch.setattr("jaxnerf.cli.export.load_run", lambda folder: small())
    assert named in refusal("export", *arguments)


@pytest.mark.parametrize(
    ("kind", "out", "module", "pip"),
    [
        ("mesh", "x.ply", "skimage.measure", "scikit-image"),
        ("mesh", "x.ply", "fast_simplification", "fast-simplification"),
        ("mesh", "x.glb", "trimesh", "trimesh"),
        ("mesh", "x.glb", "xatlas", "xatlas"),
        ("volume", "x.nii", "nibabel", "nibabel"),
        ("volume", "x.nrrd", "nrrd", "pynrrd"),
    ],
)
def test_a_missing_package_is_named(kind, out, module, pip, ball, refusal, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, module, None)
    texture = ["--texture=64"] if module == "xatlas" else []
    line = refusal("export", "ball", kind, f"--out={out}", *SMALL[kind], *texture)
    assert line == f"jaxnerf: the package {pip} is missing: pip install 'jaxnerf[export]'\n"


def test_where_openvdb_comes_from_and_what_to_take_instead(ball, refusal, monkeypatch, tmp_path):  # noqa: F811
    """No wheel of it is on PyPI, so that no extra can bring it."""
    for name in ("openvdb", "pyopenvdb"):
        monkeypatch.setitem(sys.modules, name, None)
    line = refusal("export", "ball", "volume", f"--out={tmp_path}/x.vdb", *SMALL["volume"])
    assert line.startswith(f"jaxnerf: {tmp_path}/x.vdb: needs OpenVDB's Python module")
    for part in ("conda-forge openvdb", "python3-openvdb", ".npz, .nii, .nii.gz, .nrrd"):
        assert part in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("kind", "name"),
    [("mesh", "x.ply"), ("mesh", "x.obj"), ("mesh", "x.glb"), ("points", "x.ply"),
     ("points", "x.bin"), ("splats", "x.ply"), ("volume", "x.npz"), ("volume", "x.nii"),
     ("volume", "x.nrrd")],
)  # fmt: skip
def test_a_full_disk_leaves_what_was_there(kind, name, ball, tmp_path, capfd):
    (tmp_path / name).write_text("before")
    (tmp_path / f".partial.{name}").symlink_to("/dev/full")
    assert main(["export", "ball", kind, f"--out={tmp_path / name}", *SMALL[kind]]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"jaxnerf: {tmp_path / name}: the disk is full; make room"
    assert (tmp_path / name).read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("name", "file"),
    [("transforms.json", "transforms.json"), ("sparse", "sparse/cameras.txt"),
     ("sparse", "sparse/points3D.txt")],
)  # fmt: skip
def test_a_full_disk_leaves_no_cameras_and_no_part_of_them(name, file, ball, tmp_path, capfd):
    out, file = tmp_path / name, tmp_path / file
    file.parent.mkdir(exist_ok=True)
    file.with_name(f".partial.{file.name}").symlink_to("/dev/full")
    assert main(["export", "ball", "cameras", f"--out={out}"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"jaxnerf: {out}: the disk is full; make room"
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.slow
def test_a_scene_without_a_surface_is_one_line(refusal, monkeypatch):  # noqa: F811
    monkeypatch.setattr("jaxnerf.cli.export.load_run", lambda folder: small(empty=True))
    for kind in ("mesh", "points", "splats"):
        assert "no surface" in refusal("export", "ball", kind, "--out=x.ply", *SMALL[kind])
    assert "nothing is in the box" in refusal("export", "ball", "volume", "--out=x.npz")


def test_the_help_names_every_kind_and_flag(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for word in (*KINDS, "--resolution", "--faces", "--sh_degree", "occupied", "default 256"):
        assert word in text


def test_a_scene_of_exported_cameras_is_read_again(ball, tmp_path):
    """The transforms.json lies beside photographs, where its names are those of the scene."""
    from PIL import Image

    assert main(["export", "ball", "cameras", f"--out={tmp_path}/transforms.json"]) == 0
    for index in range(6):
        Image.new("RGB", (24, 24)).save(tmp_path / str(index), "png")
    scene = load_scene(tmp_path)
    assert sum(map(len, scene.splits.values())) >= 6

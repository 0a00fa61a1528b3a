"""`jaxnerf check`: what is wrong with a scene is found, and what is right is left alone."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from painted_views import FOCAL, HEIGHT, WIDTH, arc, poses, write_views
from PIL import Image, ImageFilter
from scene_factory import command_environment, edit_json, write_scene  # noqa: F401
from scipy.spatial.transform import Rotation

from jaxnerf.capture.epipolar import Sight, epipolar_errors
from jaxnerf.capture.inspection import inspect
from jaxnerf.capture.inspection.photographs import (
    alike_poses,
    blurred_views,
    looking_away,
    relative_sharpness,
)
from jaxnerf.capture.inspection.views import views_of
from jaxnerf.capture.overview import overview
from jaxnerf.cli import main
from jaxnerf.scenes import demo_path, load_scene

COUNT = 9
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Path:
    """Photographs of a box, with the poses that they were painted from."""
    folder = tmp_path_factory.mktemp("check") / "box"
    views = poses(arc(COUNT))
    write_views(folder / "images", views)
    frames = [
        {
            "file_path": f"images/{index:02d}.png",
            "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]],
        }
        for index, pose in enumerate(views)
    ]
    contents = {"fl_x": FOCAL, "w": WIDTH, "h": HEIGHT, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(contents))
    return folder


def with_poses(folder: Path, change) -> None:
    """Change the poses [N, 4, 4] of a transforms.json."""

    def edit(contents):
        matrices = np.array([frame["transform_matrix"] for frame in contents["frames"]])
        for frame, matrix in zip(contents["frames"], change(matrices), strict=True):
            frame["transform_matrix"] = matrix.tolist()

    edit_json(folder / "transforms.json", edit)


@pytest.fixture
def copy(painted, tmp_path, monkeypatch) -> Path:
    """A copy of the scene whose cameras may be changed, and another folder to work in."""
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / "transforms.json").write_bytes((painted / "transforms.json").read_bytes())
    (folder / "images").mkdir()
    for file in (painted / "images").iterdir():
        (folder / "images" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_a_good_scene_is_told_about_and_left_as_it_was(copy, capsys):
    pytest.importorskip("pycolmap")
    before = sorted(path.name for path in copy.rglob("*"))
    assert main(["check", str(copy)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for expected in (
        "9, all whole: 7 train, 2 test",
        "320 x 240 pixels",
        "400 pixels",
        "unbounded",
    ):
        assert expected in out
    assert "warning" not in out
    assert sorted(path.name for path in copy.rglob("*")) == before
    with Image.open("check.png") as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("mistake", "change"),
    [
        ("camera-to-world with OpenCV's axes", lambda m: m @ FLIP),
        ("world-to-camera", np.linalg.inv),
        ("world-to-camera with OpenCV's axes", lambda m: np.linalg.inv(m @ FLIP)),
        ("camera-to-world with LLFF's axes", lambda m: m[:, :, [1, 0, 2, 3]] * [-1, 1, 1, 1]),
    ],
)
def test_poses_in_another_convention_are_refused_by_its_name(copy, capsys, mistake, change):
    pytest.importorskip("pycolmap")
    with_poses(copy, change)
    assert main(["check", str(copy)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "poses contradict the pictures: they seem to be " + mistake in err
    assert ("OpenCV" in err) == ("OpenCV" in mistake)


def turned(degrees: float):
    def change(matrices):
        random = np.random.default_rng(0).normal(size=(len(matrices), 3))
        random *= np.radians(degrees) / np.linalg.norm(random, axis=-1, keepdims=True)
        changed = matrices.copy()
        changed[:, :3, :3] = matrices[:, :3, :3] @ Rotation.from_rotvec(random).as_matrix()
        return changed

    return change


def test_poses_of_other_photographs_are_refused(copy):
    pytest.importorskip("pycolmap")
    with_poses(copy, lambda m: m[np.random.default_rng(1).permutation(len(m))])
    found = inspect(copy)
    assert found.pointless
    assert found.pointless.startswith("poses contradict the pictures: only ")


def test_poses_that_are_a_degree_wrong_are_told_of_and_a_tenth_is_fine(copy):
    pytest.importorskip("pycolmap")
    original = (copy / "transforms.json").read_text()
    with_poses(copy, turned(1.0))
    found = inspect(copy)
    assert not found.pointless
    assert any("poses are inaccurate" in warning for warning in found.warnings)
    (copy / "transforms.json").write_text(original)
    with_poses(copy, turned(0.1))
    found = inspect(copy)
    assert not found.pointless
    assert not found.warnings


def test_epipolar_errors_are_distances_from_what_a_ray_may_be():
    """Two cameras side by side look along -z; a point may be shifted along the row, one way only."""
    pose = np.eye(3, 4)
    other = pose.copy()
    other[0, 3] = 1.0

    def sight_of(*slopes):
        directions = np.array([[x, y, -1.0] for x, y in slopes])
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        return Sight(directions, np.full(len(slopes), 0.001))

    seen = sight_of((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    # At infinity; at distance 10; 0.005 beside the row; behind both cameras.
    there = sight_of((0.0, 0.0), (-0.1, 0.0), (-0.1, 0.005), (0.1, 0.0))
    errors = epipolar_errors(seen, there, np.stack([pose, other]))
    np.testing.assert_allclose(errors, [0.0, 0.0, 5.0, 100.0], rtol=0.01, atol=1e-3)


def test_without_pycolmap_the_poses_are_left_out(copy, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert main(["check", str(copy)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "not compared with the pictures: pycolmap is missing: pip install 'jaxnerf[check]'" in out
    )


def test_a_blurred_photograph_is_found_and_no_other(copy):
    path = copy / "images/04.png"
    with Image.open(path) as image:
        image.filter(ImageFilter.GaussianBlur(1.5)).save(path)
    views = views_of(load_scene(copy, images=("train", "test")))
    found = blurred_views(relative_sharpness(views))
    assert [views.names[number] for number in found] == ["images/04.png"]


def test_a_pose_that_is_there_twice_is_found(copy):
    with_poses(copy, lambda m: m[[0, 1, 2, 3, 4, 5, 6, 6, 8]])
    views = views_of(load_scene(copy, images=("train", "test")))
    assert [views.names[number] for number in alike_poses(views)] == ["images/07.png"]


def test_a_camera_that_looks_away_is_found(tmp_path):
    folder = write_scene(tmp_path / "balls", train=12)

    def turn(contents):
        matrix = np.array(contents["frames"][3]["transform_matrix"])
        matrix[:3, [0, 2]] *= -1.0
        contents["frames"][3]["transform_matrix"] = matrix.tolist()

    assert looking_away(views_of(load_scene(folder, images=("train", "val", "test")))) == []
    edit_json(folder / "transforms_train.json", turn)
    views = views_of(load_scene(folder, images=("train", "val", "test")))
    assert [views.names[number] for number in looking_away(views)] == ["train/r_3.png"]


def refuse(capsys, *arguments: str) -> str:
    assert main(["check", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("jaxnerf: ")
    return err


def test_what_cannot_be_trained_on_is_refused(copy, tmp_path, capsys):
    assert "no such folder" in refuse(capsys, "nowhere")
    path = copy / "images/03.png"
    path.write_bytes(path.read_bytes()[:5000])
    assert "03.png: cannot be read" in refuse(capsys, str(copy))
    for index in range(2, COUNT):
        (copy / f"images/{index:02d}.png").unlink()
    assert "1 photographs to train on; at least 3" in refuse(capsys, str(copy))
    folder = write_scene(tmp_path / "balls")
    for split in ("train", "val", "test"):

        def gather(contents):
            for frame in contents["frames"]:
                for row in frame["transform_matrix"][:3]:
                    row[3] = 1.0

        edit_json(folder / f"transforms_{split}.json", gather)
    assert "all cameras stand at one place" in refuse(capsys, str(folder))


def test_the_picture_goes_elsewhere_and_is_a_png(copy, capsys):
    assert "in the scene's folder" in refuse(capsys, str(copy), f"--out={copy}/check.png")
    assert "does not end in .png" in refuse(capsys, str(copy), "--out=check.jpg")
    assert "cannot be written" in refuse(capsys, str(copy), "--out=missing/check.png")


def test_in_the_scene_s_own_folder_no_picture_is_written(copy, capsys, monkeypatch):
    monkeypatch.chdir(copy)
    before = sorted(copy.rglob("*"))
    assert main(["check", "."]) == 0
    assert "name a file elsewhere by --out" in capsys.readouterr().out
    assert sorted(copy.rglob("*")) == before


def test_the_overview_draws_every_split_and_the_points_in_their_colours():
    scene = load_scene(demo_path(), images=())
    plain = np.asarray(overview(scene)).reshape(-1, 3)
    assert not (plain == [220, 38, 38]).all(axis=-1).any()
    for colour in ([37, 99, 235], [234, 122, 12], [22, 163, 74]):
        assert (plain == colour).all(axis=-1).sum() > 20
    dots = dataclasses.replace(scene, points=np.random.default_rng(0).normal(size=(2000, 3)))
    drawn = np.asarray(overview(dots, {3})).reshape(-1, 3)
    assert (drawn == [220, 38, 38]).all(axis=-1).any()
    assert (drawn != plain).any(axis=-1).sum() > 3000


@pytest.mark.slow
def test_real_scenes_pass(real_data):
    pytest.importorskip("pycolmap")
    found = inspect(real_data / "nerf_llff_data/fern")
    assert not found.pointless
    assert "forward-facing" in found.facts["space"]
    assert not any("poses" in warning for warning in found.warnings)

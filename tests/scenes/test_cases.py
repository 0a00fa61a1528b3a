"""Scenes that were spoilt as users' are, against the same scenes as they were."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scene_factory import (
    TINY,
    command_environment,  # noqa: F401
    edit_json,
)

from jaxnerf.cameras import cast_rays
from jaxnerf.cli import main
from jaxnerf.scenes import demo_path, load_scene
from jaxnerf.scenes.silhouettes import possible_cells

VIEWS = 12


def demo_without_bounds(folder: Path, change=lambda contents: None) -> Path:
    """Some views of the demo scene, without its near and far, and with another change of its files."""
    for split in ("train", "test"):
        contents = json.loads((demo_path() / f"transforms_{split}.json").read_text())
        del contents["near"], contents["far"]
        contents["frames"] = contents["frames"][:VIEWS]
        change(contents)
        (folder / split).mkdir(parents=True)
        for frame in contents["frames"]:
            name = frame["file_path"] + ".png"
            shutil.copy(demo_path() / name, folder / name)
        (folder / f"transforms_{split}.json").write_text(json.dumps(contents))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load_scene(demo_without_bounds(tmp_path_factory.mktemp("cases") / "demo"))


def test_a_scene_ten_times_as_large_is_the_scene_ten_times_as_large(plain, tmp_path):
    def enlarge(contents):
        for frame in contents["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] *= 10.0

    scene = load_scene(demo_without_bounds(tmp_path / "s", enlarge))
    np.testing.assert_allclose(
        [scene.near, scene.far], [10 * plain.near, 10 * plain.far], rtol=0.01
    )
    one, ten = plain.splits["train"], scene.splits["train"]
    np.testing.assert_array_equal(ten.images, one.images)
    np.testing.assert_array_equal(ten.cameras.focal, one.cameras.focal)
    origin, side, cells = possible_cells(one, 32, "white")
    far_origin, far_side, far_cells = possible_cells(ten, 32, "white")
    np.testing.assert_allclose([*far_origin, far_side], 10.0 * np.array([*origin, side]), rtol=1e-4)
    assert np.mean(far_cells != cells) < 1e-3  # as rounding decides


def test_portraits_with_the_field_of_view_of_the_longer_side_have_the_rays_of_the_landscapes(
    plain, tmp_path
):
    focal = float(plain.splits["train"].cameras.focal[0, 0])
    folder = demo_without_bounds(
        tmp_path / "s", lambda c: c.update(fl_x=focal, fl_y=focal, w=192, h=256)
    )
    for path in folder.glob("*/*.png"):
        with Image.open(path) as image:
            image.crop((32, 0, 224, 256)).save(path)
    scene = load_scene(folder)
    pixels = np.random.default_rng(0).uniform(0.0, 192.0, (VIEWS, 2)).astype(np.float32)
    found = cast_rays(scene.splits["train"].cameras, jnp.asarray(pixels))
    shifted = pixels + np.array([32.0, 0.0], np.float32)
    expected = cast_rays(plain.splits["train"].cameras, jnp.asarray(shifted))
    np.testing.assert_allclose(found.directions, expected.directions, atol=1e-5)
    assert any("which is used" in note for note in scene.notes)


def test_without_test_pictures_a_scene_is_trained_on(tmp_path, capsys):
    folder = demo_without_bounds(tmp_path / "s")
    shutil.rmtree(folder / "test")
    short = ("--max_steps=2", "--evaluation.orbit_frames=0", "--scene.downscale=8")
    for more in ((), ("--noevaluate",)):
        arguments = [f"--data={folder}", f"--out={tmp_path / 'run'}", "--overwrite"]
        assert main(["train", *arguments, *TINY, *short, *more]) == 0
        said = capsys.readouterr().out
        assert "no test split: transforms_test.json: none of the pictures of its 12 frames" in said
        assert ("no test views, so nothing is measured" in said) == (not more)


def test_cameras_that_look_outwards_are_trained_on_without_an_end(tmp_path, capsys):
    frames = []
    for index in range(16):
        angle = 2.0 * np.pi * index / 16
        back = np.array([-np.cos(angle), -np.sin(angle), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([np.cross([0.0, 0.0, 1.0], back), [0.0, 0.0, 1.0], back], axis=-1)
        pose[:3, 3] = -0.6 * back
        noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
        frames.append({"file_path": f"{index}.png", "transform_matrix": pose.tolist()})
    contents = {"camera_angle_x": 1.2, "near": 0.3, "far": 5.0, "frames": frames}
    (tmp_path / "transforms_train.json").write_text(json.dumps(contents))
    short = ("--max_steps=2", "--evaluation.orbit_frames=0", "--method=nerf")
    assert main(["train", f"--data={tmp_path}", f"--out={tmp_path / 'run'}", *TINY, *short]) == 0
    assert "unbounded, since the cameras look outwards" in capsys.readouterr().out


def fox_that_is_there(folder: Path, real: Path, move=(0.0, 0.0, 0.0)) -> list[dict]:
    """A folder with links to the photographs; the frames of those that are there, shifted."""
    folder.mkdir()
    (folder / "images").symlink_to(real / "images")
    contents = json.loads((real / "transforms.json").read_text())
    frames = [row for row in contents["frames"] if (real / row["file_path"]).exists()]
    frames.sort(key=lambda row: row["file_path"])
    for frame in frames:
        for axis, by in enumerate(move):
            frame["transform_matrix"][axis][3] += by
    (folder / "transforms.json").write_text(json.dumps({**contents, "frames": frames}))
    return frames


def same_cameras(one, other, atol: float) -> None:
    for name in ("train", "test"):
        mine, theirs = one.splits[name].cameras, other.splits[name].cameras
        for field in ("camera_to_world", "focal", "centre", "distortion", "size"):
            np.testing.assert_allclose(
                getattr(mine, field), getattr(theirs, field), rtol=0, atol=atol, err_msg=field
            )
        assert mine.lens == theirs.lens
    assert (one.near, one.far) == pytest.approx((other.near, other.far), rel=1e-6)
    assert one.unbounded
    assert other.unbounded


def test_a_phones_photographs_in_files_of_splits_are_the_capture(real_data, tmp_path):
    folder = tmp_path / "s"
    frames = fox_that_is_there(folder, real_data / "fox")
    contents = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for split, some in (
        ("test", frames[::8]),
        ("train", [f for i, f in enumerate(frames) if i % 8]),
    ):
        text = json.dumps({**contents, "frames": some})
        (folder / f"transforms_{split}.json").write_text(text)
    outside = {"images": (), "allow_outside_paths": True}
    same_cameras(load_scene(folder, **outside), load_scene(real_data / "fox", images=()), 0.0)


def test_survey_coordinates_leave_the_scene_as_it_was(real_data, tmp_path):
    fox_that_is_there(tmp_path / "s", real_data / "fox", (455_000.0, 5_411_000.0, 212.0))
    moved = load_scene(tmp_path / "s", images=(), allow_outside_paths=True)
    same_cameras(moved, load_scene(real_data / "fox", images=()), 1e-6)


def test_the_same_photographs_in_train_and_test_are_said(real_data, tmp_path):
    names = [frame["file_path"] for frame in fox_that_is_there(tmp_path / "s", real_data / "fox")]
    lists = {"train_filenames": names, "val_filenames": names[:2], "test_filenames": names[::8]}
    edit_json(tmp_path / "s/transforms.json", lambda c: c.update(lists, camera_model="OPENCV"))
    scene = load_scene(tmp_path / "s", images=(), allow_outside_paths=True)
    said = "photographs of train are also in other splits: 2 of 2 of val, 7 of 7 of test"
    assert said in scene.notes

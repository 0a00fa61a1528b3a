"""Transforms files that say something else than their readers expect, and plainly mean it."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from capture_factory import BOTH, write_nerfstudio, write_transforms
from PIL import Image
from scene_factory import (
    ANGLE,
    TINY,
    command_environment,  # noqa: F401
    edit_json,
    matrix,
    write_scene,
)

from jaxnerf.cli import main
from jaxnerf.config import ConfigError, override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import preset
from jaxnerf.scenes import SceneError, describe, load_scene
from jaxnerf.scenes.in_view import cameras_that_see
from jaxnerf.scenes.transforms import present_frames


def edit_all(folder: Path, change) -> Path:
    for path in folder.glob("transforms*.json"):
        edit_json(path, change)
    return folder


def moved(scale: float = 1.0, turn: float = 1.0):
    """An edit of all poses: positions times a scale, rotations times another."""

    def change(contents):
        for frame in contents["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, 3] *= scale
            pose[:3, :3] *= turn
            frame["transform_matrix"] = pose.tolist()

    return change


def in_pictures(folder: Path, change) -> Path:
    for path in folder.glob("*/*.png"):
        change(Image.open(path)).save(path)
    return folder


def opaque(colour: tuple[int, int, int]):
    """The picture on a plain background, without alpha."""
    return lambda image: Image.alpha_composite(
        Image.new("RGBA", image.size, colour), image
    ).convert("RGB")


def photograph(image: Image.Image) -> Image.Image:
    """The picture before something that has another colour in each pixel."""
    noise = np.random.default_rng(1).integers(0, 255, (*image.size[::-1], 3), np.uint8)
    back = Image.fromarray(noise).convert("RGBA")
    return Image.alpha_composite(back, image).convert("RGB")


@pytest.mark.parametrize("scale", [10.0, 0.03])
def test_near_and_far_follow_from_how_far_the_cameras_are(scale, tmp_path):
    folder = edit_all(write_scene(tmp_path / "s", 8, 8), moved(scale))
    scene = load_scene(folder)
    np.testing.assert_allclose([scene.near, scene.far], [2.0 * scale, 6.0 * scale], rtol=1e-3)
    assert not scene.unbounded
    assert scene.to_user.scale == 1.0
    edit_json(folder / "transforms_train.json", lambda c: c.update(far=7.0 * scale))
    scene = load_scene(folder)
    np.testing.assert_allclose([scene.near, scene.far], [2.0 * scale, 7.0 * scale], rtol=1e-3)


def test_cameras_that_look_at_nothing_in_common_have_the_formats_near_and_far_which_is_said(
    tmp_path,
):
    folder = write_scene(tmp_path / "s", 8, 8, train=1)
    for split in ("val", "test"):
        (folder / f"transforms_{split}.json").unlink()
    scene = load_scene(folder)
    assert (scene.near, scene.far) == (2.0, 6.0)
    assert "near and far as in NeRF's scenes" in describe(scene)


def test_focal_lengths_in_pixels_go_before_angles_and_a_contradiction_is_said(tmp_path):
    """Portrait photographs, with the field of view of their longer side in camera_angle_x."""
    focal = 0.5 * 24 / math.tan(0.5 * ANGLE)
    shape = {"w": 16, "h": 24, "fl_x": focal, "fl_y": focal}
    folder = edit_all(write_scene(tmp_path / "s", 16, 24), lambda c: c.update(shape))
    scene = load_scene(folder, images=())
    for split in scene.splits.values():
        np.testing.assert_allclose(split.cameras.focal, focal, rtol=1e-6)
    wrong = 0.5 * 16 / math.tan(0.5 * ANGLE)
    assert (
        f"camera_angle_x 0.8 would be a focal length of {wrong:.4g} pixels, but fl_x is "
        f"{focal:.4g}, which is used (so in 8 frames)"
    ) in describe(scene)
    edit_all(folder, lambda c: c.update(camera_angle_x=2.0 * math.atan(8 / focal)))
    assert "camera_angle_x" not in describe(load_scene(folder, images=()))


def test_files_of_splits_say_what_transforms_json_may(tmp_path):
    folder = write_scene(tmp_path / "s", 16, 24)
    lens = {"fl_x": 60.0, "fl_y": 62.0, "cx": 15.0, "cy": 26.0, "w": 32, "h": 48, "k1": 0.1}

    def change(contents):
        del contents["camera_angle_x"]
        contents |= {**lens, "p2": 0.01, "camera_model": "OPENCV"}
        contents["frames"][1] |= {"fl_x": 64.0, "k1": 0.2}

    scene = load_scene(edit_all(folder, change), images=())
    for split in scene.splits.values():
        cameras = split.cameras
        assert cameras.lens == "opencv"
        np.testing.assert_allclose(cameras.focal[0], [30.0, 31.0], rtol=1e-6)
        np.testing.assert_allclose(cameras.focal[1], [32.0, 32.0], rtol=1e-6)
        np.testing.assert_allclose(cameras.centre, [[7.5, 13.0]] * len(split), rtol=1e-6)
        np.testing.assert_allclose(cameras.distortion[:2, 0], [0.1, 0.2], rtol=1e-6)
        np.testing.assert_allclose(cameras.distortion[:, 5], 0.01, rtol=1e-6)
    masks = folder / "masks"
    masks.mkdir()
    mask = np.full((24, 16), 255, np.uint8)
    mask[:6] = 0
    Image.fromarray(mask).save(masks / "0.png")
    edit_json(
        folder / "transforms_train.json",
        lambda c: c["frames"][0].update(mask_filename="masks/0.png"),
    )
    split = load_scene(folder).splits["train"]
    np.testing.assert_array_equal(split.masks[0], mask > 0)
    assert split.masks[1:].all()
    edit_all(folder, lambda c: c.update(p2=0.0, camera_model="OPENCV_FISHEYE"))
    assert load_scene(folder, images=()).splits["test"].cameras.lens == "fisheye"
    edit_all(folder, lambda c: c.update(latlong=True))
    with pytest.raises(SceneError, match="latlong: this kind of lens is not read"):
        load_scene(folder)


def test_what_has_no_use_and_what_contradicts_is_named(tmp_path):
    folder = write_transforms(
        tmp_path / "s", aabb_scale=4, applied_scale=2.0, camera_model="PINHOLE"
    )

    def change(contents):
        contents |= {"k1": 0.1, "is_fisheye": False, "time\nline": 1}
        for frame in contents["frames"]:
            frame |= {"depth_file_path": "d.png", "sharpness": 3.0}

    said = describe(load_scene(edit_all(folder, change), images=()))
    assert "not used: depth_file_path, applied_scale, 'time\\nline'" in said
    assert "camera_model is PINHOLE, but there is distortion, which is used: k1" in said
    assert not any(word in said for word in ("sharpness", "aabb_scale"))
    edit_all(folder, lambda c: c.update(is_fisheye=True))
    said = describe(load_scene(folder, images=()))
    assert "is_fisheye contradicts camera_model PINHOLE, which is used" in said


def test_a_usual_file_says_nothing(tmp_path):
    for name, writer in (("a", write_transforms), ("b", write_nerfstudio), ("c", write_scene)):
        assert load_scene(writer(tmp_path / name), images=()).notes == ()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("kind", ["blender", "instant-ngp"])
def test_json_of_other_encodings_is_read(encoding, kind, tmp_path):
    folder = (write_scene if kind == "blender" else write_transforms)(tmp_path / "s")
    expected = load_scene(folder)
    for path in folder.glob("transforms*.json"):
        path.write_text(path.read_text(), encoding=encoding)
    split = load_scene(folder).splits["train"]
    np.testing.assert_array_equal(split.images, expected.splits["train"].images)


@pytest.mark.parametrize("kind", ["blender", "instant-ngp"])
def test_a_scale_in_rotations_is_taken_out_and_said(kind, tmp_path):
    folder = (write_scene if kind == "blender" else write_transforms)(tmp_path / "s")
    expected = load_scene(folder, images=()).splits["train"].cameras.camera_to_world
    scene = load_scene(edit_all(folder, moved(turn=2.5)), images=())
    found = scene.splits["train"].cameras.camera_to_world
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "the rotations of transform_matrix are scaled by 2.5, which is taken out" in scene.notes
    edit_all(folder, moved(turn=-0.4))
    with pytest.raises(SceneError, match="transform_matrix is not rigid"):
        load_scene(folder)


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("images/0000", "images/0000.png"),
        ("images/0000", "images/0000.PNG"),
        ("images/0000", "images/0000.webp"),
        ("images/0000.frame", "images/0000.frame.tif"),
        ("images/0000.jpg", "images/0000.JPG"),
        ("images\\0000.JPG", "images/0000.jpg"),
    ],
)
def test_pictures_are_found_by_names_that_differ_in_the_suffix(named, there, tmp_path):
    picture = tmp_path / there
    picture.parent.mkdir()
    picture.write_bytes(b"")
    contents = {"frames": [{"file_path": named}]}
    (frame,), notes = present_frames(tmp_path / "transforms.json", contents, False)
    assert (frame.picture, notes) == (picture, ())


def test_backslashes_in_lists_of_pictures_are_slashes(tmp_path):
    folder = write_nerfstudio(
        tmp_path / "s",
        train_filenames=[f"images\\000{index}.png" for index in range(1, 9)],
        test_filenames=["images\\0000.png"],
    )
    splits = load_scene(folder, images=()).splits
    assert [len(splits[name]) for name in BOTH] == [8, 1]


def test_splits_and_frames_without_pictures_are_left_out_and_said(tmp_path):
    folder = write_scene(tmp_path / "s")
    expected = load_scene(folder).splits["train"]
    shutil.rmtree(folder / "test")
    (folder / "val/r_1.png").unlink()
    (folder / "train/r_2.png").unlink()
    scene = load_scene(folder)
    assert {name: len(split) for name, split in scene.splits.items()} == {"train": 3, "val": 1}
    np.testing.assert_array_equal(scene.splits["train"].images, expected.images[[0, 1, 3]])
    said = describe(scene)
    assert "no test split: transforms_test.json: none of the pictures of its 2 frames" in said
    assert "train: 1 of 4 frames without a file are left out" in said
    assert "val: 1 of 2 frames without a file are left out" in said
    with pytest.raises(SceneError, match=r"transforms_test.json: none of the pictures"):
        load_scene(folder, images=("test",))
    shutil.rmtree(folder / "train")
    with pytest.raises(SceneError, match=r"transforms_train.json: none of the pictures"):
        load_scene(folder)


def split_up(folder: Path) -> Path:
    """transforms_train.json and transforms_test.json instead of transforms.json."""
    contents = json.loads((folder / "transforms.json").read_text())
    for split, test in (("train", False), ("test", True)):
        frames = [f for i, f in enumerate(contents["frames"]) if (i % 8 == 0) == test]
        (folder / f"transforms_{split}.json").write_text(json.dumps({**contents, "frames": frames}))
    (folder / "transforms.json").unlink()
    return folder


def test_photographs_in_files_of_splits_are_the_capture_that_they_are_in_one_file(tmp_path):
    one = in_pictures(write_transforms(tmp_path / "one", k1=0.01), photograph)
    other = split_up(in_pictures(write_transforms(tmp_path / "other", k1=0.01), photograph))
    expected, found = load_scene(one, images=BOTH), load_scene(other, images=BOTH)
    assert found.format == "blender"
    assert "no transparent pixels and no plain background" in describe(found)
    assert (found.unbounded, found.near, found.far) == (True, expected.near, expected.far)
    np.testing.assert_array_equal(found.to_user.translation, expected.to_user.translation)
    for name in BOTH:
        mine, theirs = found.splits[name], expected.splits[name]
        np.testing.assert_array_equal(mine.images, theirs.images)
        for field in ("camera_to_world", "focal", "centre", "distortion", "size"):
            np.testing.assert_array_equal(
                getattr(mine.cameras, field), getattr(theirs.cameras, field)
            )
        assert mine.cameras.lens == theirs.cameras.lens == "opencv"


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 127, 129)])
def test_scenes_whose_alpha_was_thrown_away_stay_bounded_in_their_frame(colour, tmp_path):
    folder = write_scene(tmp_path / "s", 32, 32)
    expected = load_scene(folder)
    scene = load_scene(in_pictures(folder, opaque(colour)))
    assert not scene.unbounded
    assert "bounded, since the pictures have a plain background" in describe(scene)
    np.testing.assert_array_equal(
        scene.splits["train"].cameras.camera_to_world,
        expected.splits["train"].cameras.camera_to_world,
    )
    assert np.array_equal(scene.to_user.rotation, np.eye(3))


def test_opaque_pictures_between_near_and_far_that_are_given_are_bounded(tmp_path):
    folder = in_pictures(write_scene(tmp_path / "s", 32, 32), photograph)
    assert load_scene(folder).unbounded
    edit_all(folder, lambda c: c.update(near=2.5, far=5.5))
    scene = load_scene(folder)
    assert (scene.unbounded, scene.near, scene.far) == (False, 2.5, 5.5)
    assert "bounded, since near and far are given" in describe(scene)


def sky(image: Image.Image) -> Image.Image:
    """A photograph whose upper three fifths are a white sky."""
    pixels = np.array(photograph(image))
    pixels[: 3 * len(pixels) // 5] = 255
    return Image.fromarray(pixels)


def test_a_white_sky_is_no_plain_background(tmp_path):
    assert load_scene(in_pictures(write_scene(tmp_path / "s", 40, 40), sky)).unbounded


def outwards(folder: Path) -> Path:
    """Cameras on a circle of 0.6 that look away from its middle."""
    folder.mkdir()
    frames = []
    for index in range(12):
        angle = 2.0 * math.pi * index / 12
        pose = np.array(matrix(np.array([math.cos(angle), math.sin(angle), 0.0])))
        pose[:3, 3] *= -0.6  # what looked at the middle from 1 looks away from it at -0.6
        frames.append({"file_path": f"{index}.png", "transform_matrix": pose.tolist()})
        noise = np.random.default_rng(index).integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    contents = {"camera_angle_x": 1.2, "near": 0.3, "far": 6.0, "frames": frames}
    (folder / "transforms_train.json").write_text(json.dumps(contents))
    return folder


def test_cameras_that_look_outwards_are_a_capture(tmp_path):
    scene = load_scene(outwards(tmp_path / "s"))
    assert scene.unbounded
    assert "the cameras look outwards" in describe(scene)
    places = np.asarray(scene.splits["train"].cameras.camera_to_world)[:, :, 3]
    np.testing.assert_allclose(np.linalg.norm(places, axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose([scene.near, scene.far], [0.5, 10.0], rtol=1e-6)


def test_a_box_that_cameras_do_not_see_is_refused_in_one_line(tmp_path, capsys):
    folder = outwards(tmp_path / "s")
    arguments = ["train", "--data", str(folder), "--out", str(tmp_path / "run"), *TINY]
    assert main([*arguments, "--scene.space=bounded"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxnerf: scene.space: bounded, but only 0 of 12 cameras")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("near", "far", "fits"), [(2, 6, True), (0.1, 1.0, False), (9, 12, False)])
def test_near_and_far_must_meet_the_box(near, far, fits, tmp_path):
    folder = write_scene(tmp_path / "s")
    edit_json(folder / "transforms_train.json", lambda c: c.update(near=near, far=far))
    config = override(preset("minute"), {"scene.space": "bounded"})
    if fits:
        assert adapt_to_scene(config, load_scene(folder)).scene.space == "bounded"
    else:
        with pytest.raises(ConfigError, match=f"between near {near:g} and far {far:g}: mend"):
            adapt_to_scene(config, load_scene(folder))


def test_which_cameras_see_a_box_by_walking_along_their_rays(tmp_path):
    folder = write_scene(tmp_path / "s", train=7)
    cameras = load_scene(folder).splits["train"].cameras
    random = np.random.default_rng(2)
    poses = np.asarray(cameras.camera_to_world, np.float64)
    both = set()
    for _ in range(60):
        corner, side = random.uniform(-3.0, 3.0, 3), float(random.uniform(0.2, 3.0))
        near = float(random.uniform(0.0, 5.0))
        far = near + float(random.uniform(0.2, 3.0))
        found = cameras_that_see(cameras, corner, side, near, far)
        for index, pose in enumerate(poses):
            width, height = np.asarray(cameras.size)[index]
            expected = False
            for across in (np.arange(5) + 0.5) / 5 * width:
                for down in (np.arange(5) + 0.5) / 5 * height:
                    x, y = (np.array([across, down]) - cameras.centre[index]) / cameras.focal[index]
                    direction = pose[:, :3] @ [x, -y, -1.0]
                    points = pose[:, 3] + np.linspace(near, far, 2001)[:, None] * direction
                    inside = ((points > corner) & (points < corner + side)).all(axis=-1)
                    expected |= bool(inside.any())
            assert found[index] == expected
            both.add(expected)
    assert both == {True, False}

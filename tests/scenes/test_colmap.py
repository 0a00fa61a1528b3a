"""COLMAP's projects: against pycolmap, and a project written by hand."""

import dataclasses
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from colmap_factory import (
    focal_of,
    pinhole,
    random_reconstruction,
    write_model,
    write_project,
)
from PIL import Image
from scene_factory import CENTRES, COLOURS, eyes, matrix, paint

from jaxnerf.cameras import cast_rays, project
from jaxnerf.scenes import Options, SceneError
from jaxnerf.scenes.colmap import read, recognises
from jaxnerf.scenes.colmap_files import read_model
from jaxnerf.scenes.colmap_writing import write_model as write_ours

BOTH = ("train", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("colmap") / "balls")


@pytest.mark.parametrize("binary", [False, True])
def test_a_project_is_read_as_it_was_written(tmp_path, binary):
    folder = write_project(tmp_path / "balls", binary=binary)
    assert recognises(folder)
    scene = read(folder, Options(images=BOTH))
    assert (scene.name, scene.format, scene.notes) == ("balls", "colmap", ())
    assert scene.splits["test"].names == ("view_0.png", "view_8.png")
    assert scene.splits["train"].names == tuple(f"view_{i}.png" for i in range(1, 8))
    every = dict(zip((f"view_{i}.png" for i in range(9)), eyes(9), strict=True))
    for split in scene.splits.values():
        assert split.masks is None
        assert split.cameras.lens == "pinhole"
        back = scene.to_user.poses(split.cameras.camera_to_world)
        for name, pose, image in zip(split.names, back, split.images, strict=True):
            np.testing.assert_array_equal(image, paint(every[name], 48, 40))
            np.testing.assert_allclose(pose, matrix(every[name])[:3], atol=1e-6)
        np.testing.assert_allclose(split.cameras.focal, focal_of(48), rtol=1e-6)
        np.testing.assert_allclose(split.cameras.centre, [[24, 20]] * len(split))
    np.testing.assert_allclose(scene.to_user.points(scene.points), CENTRES, atol=1e-9)


def test_balls_appear_where_the_photographs_show_them(folder):
    scene = read(folder)
    split = scene.splits["train"]
    shown = 0
    for camera, image in zip(split.cameras, split.images, strict=True):
        pixels, depth = project(camera, jnp.asarray(scene.points, jnp.float32))
        nearest = int(np.argmin(depth))
        x, y = np.asarray(pixels[nearest])
        assert (image[int(y), int(x), :3] == COLOURS[nearest]).all()
        assert ((scene.near < np.asarray(depth)) & (np.asarray(depth) < scene.far)).all()
        shown += 1
    assert shown == 7
    # The depths of the three points from 4 away, and a quarter more.
    scale = scene.to_user.scale
    assert 2.2 < scene.near * scale < 3.2
    assert 4.4 < scene.far * scale < 6.3


def test_a_project_that_was_turned_shifted_and_scaled_is_the_same_scene(folder, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    shutil.copytree(folder, tmp_path / "moved")
    theirs = pycolmap.Reconstruction(str(folder / "sparse/0"))
    turn = pycolmap.Rotation3d(np.array([0.1, -0.7, 0.3, 0.6]) / np.sqrt(0.95))
    move = pycolmap.Sim3d(scale=3.7, rotation=turn, translation=np.array([5.0, -2.0, 11.0]))
    theirs.transform(move)
    theirs.write_text(str(tmp_path / "moved/sparse/0"))
    one, two = read(folder), read(tmp_path / "moved")
    np.testing.assert_allclose(two.points, one.points, atol=1e-9)
    np.testing.assert_allclose([two.near, two.far], [one.near, one.far], rtol=1e-9)
    for name in BOTH:
        poses = [scene.splits[name].cameras.camera_to_world for scene in (one, two)]
        np.testing.assert_allclose(poses[1], poses[0], atol=1e-6)
    known = move.scale * one.to_user.points(np.eye(3)) @ turn.matrix().T + move.translation
    np.testing.assert_allclose(two.to_user.points(np.eye(3)), known, atol=1e-8)


def sparse_of(folder: Path, place: str, count: int, binary: bool = False) -> None:
    images = [(i + 1, f"view_{i}.png", 1, eye) for i, eye in enumerate(eyes(9)[:count])]
    write_model(folder / place, {1: pinhole(48, 40)}, images, binary)


@pytest.mark.parametrize(
    ("models", "largest"),
    [
        ({"sparse": 5}, "sparse"),
        ({"colmap/sparse/0": 6}, "colmap/sparse/0"),
        ({"sparse/0": 2, "sparse/1": 7, "sparse/2": 4}, "sparse/1"),
        ({"sparse/0": 2, "colmap/sparse/3": 3}, "colmap/sparse/3"),
        ({".": 4}, "."),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_the_largest_model_is_taken(folder, tmp_path, models, largest, binary):
    shutil.copytree(folder / "images", tmp_path / "images")
    for place, count in models.items():
        sparse_of(tmp_path, place, count, binary)
    scene = read(tmp_path, Options(images=()))
    assert sum(map(len, scene.splits.values())) == models[largest]
    wanted = (f"{largest} the largest of {len(models)} models",) if len(models) > 1 else ()
    assert scene.notes == wanted


def test_a_model_without_its_images_yields_to_one_with_them(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images")
    sparse_of(tmp_path, "sparse/0", 9)
    sparse_of(tmp_path, "sparse/1", 2)
    (tmp_path / "sparse/0/images.txt").unlink()
    assert len(read(tmp_path).splits["train"]) == 1
    (tmp_path / "sparse/1/images.txt").unlink()
    with pytest.raises(SceneError, match=r"sparse/0: no images.bin or images.txt"):
        read(tmp_path)


def test_fern_lacks_its_images(real_data):
    with pytest.raises(SceneError, match=r"fern/sparse/0: no images.bin or images.txt"):
        read(real_data / "nerf_llff_data/fern")


def test_smaller_photographs_are_used_where_they_are_all_there(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s")
    own = read(tmp_path / "s", Options(downscale=2))
    (tmp_path / "s/images_2").mkdir()
    grey = np.full((20, 24, 3), 77, np.uint8)
    for index in range(8):
        Image.fromarray(grey).save(tmp_path / f"s/images_2/view_{index}.jpg", quality=95)
    np.testing.assert_array_equal(  # one is missing
        read(tmp_path / "s", Options(downscale=2)).splits["train"].images,
        own.splits["train"].images,
    )
    # Its side was rounded the other way.
    Image.fromarray(grey[:, :23]).save(tmp_path / "s/images_2/view_8.png")
    scene = read(tmp_path / "s", Options(downscale=2, images=BOTH))
    assert (np.abs(scene.splits["train"].images[..., :3].astype(int) - 77) <= 1).all()
    np.testing.assert_allclose(scene.splits["train"].cameras.focal, focal_of(48) / 2, rtol=1e-6)
    odd = scene.splits["test"].cameras[1]
    np.testing.assert_array_equal(odd.size, [23, 20])
    np.testing.assert_allclose(odd.focal, focal_of(48) * np.array([23 / 48, 0.5]), rtol=1e-6)
    assert scene.splits["test"].masks[1].sum() == 23 * 20
    assert read(tmp_path / "s", Options(downscale=4)).splits["train"].images.shape[1:3] == (10, 12)
    shutil.rmtree(tmp_path / "s/images")
    assert len(read(tmp_path / "s", Options(downscale=2)).splits["train"]) == 7
    with pytest.raises(SceneError, match="images_2 is there: downscale 2 reads it"):
        read(tmp_path / "s")


def test_masks_ignore_where_they_are_black(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s")
    (tmp_path / "s/masks").mkdir()
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (40, 48)).astype(np.uint8) * 255
    Image.fromarray(mask).save(tmp_path / "s/masks/3.png")
    scene = read(tmp_path / "s")
    assert scene.splits["train"].masks is None
    assert "NAME.jpg.png" in scene.notes[0]
    (tmp_path / "s/masks/3.png").rename(tmp_path / "s/masks/view_3.png.png")
    split = read(tmp_path / "s").splits["train"]
    np.testing.assert_array_equal(split.masks[2], mask > 0)
    assert split.masks[[0, 1, 3, 4, 5, 6]].all()
    # Smaller photographs without smaller masks are of no use.
    shutil.copytree(tmp_path / "s/images", tmp_path / "s/images_2")
    split = read(tmp_path / "s", Options(downscale=2)).splits["train"]
    assert split.images.shape[1:3] == (20, 24)
    np.testing.assert_array_equal(split.masks[2], (mask > 0).reshape(20, 2, 24, 2).all(axis=(1, 3)))
    (tmp_path / "s/masks_2").mkdir()
    Image.fromarray(mask).save(tmp_path / "s/masks_2/view_5.png.png")
    # images_2, which are as large here
    split = read(tmp_path / "s", Options(downscale=2)).splits["train"]
    np.testing.assert_array_equal(split.masks[4], mask > 0)
    Image.fromarray(mask[:20]).save(tmp_path / "s/masks/view_3.png.png")
    with pytest.raises(SceneError, match=r"view_3.png.png: a mask of 48 x 20"):
        read(tmp_path / "s")


def test_cameras_of_different_sizes_and_models_are_joined(tmp_path):
    (tmp_path / "images/left").mkdir(parents=True)
    all_eyes, distortion = eyes(4), [0.05, -0.01, 0.001, 0.002]
    opencv = ("OPENCV", 20, 30, [40.0, 41.0, 9.0, 16.0, *distortion])
    images = []
    for index, eye in enumerate(all_eyes):
        size = (20, 30) if index == 1 else (48, 40)
        name = f"left/{index}.png"
        Image.fromarray(paint(eye, *size)).save(tmp_path / "images" / name)
        images.append((index + 1, name, 7 if index == 1 else 1, eye))
    write_model(tmp_path / "sparse/0", {1: pinhole(48, 40), 7: opencv}, images)
    scene = read(tmp_path)
    split = scene.splits["train"]
    assert split.names == ("left/1.png", "left/2.png", "left/3.png")
    assert split.cameras.lens == "opencv"
    assert split.images.shape == (3, 40, 48, 4)
    np.testing.assert_array_equal(split.cameras.size, [[20, 30], [48, 40], [48, 40]])
    assert split.masks[0, :30, :20].all()
    assert split.masks.sum() == 20 * 30 + 2 * 48 * 40
    assert not split.images[0, 30:].any()
    np.testing.assert_allclose(split.cameras.distortion[0, [0, 1, 4, 5]], distortion, rtol=1e-6)
    assert not split.cameras.distortion[1:].any()
    rays = cast_rays(split.cameras[1], jnp.array([24.0, 20.0]))
    back = -scene.to_user.inverse().rotation @ (all_eyes[2] / 4.0)
    np.testing.assert_allclose(rays.view_directions, back, atol=1e-6)


def test_flat_and_round_lenses_do_not_mix(tmp_path):
    folder = write_project(tmp_path / "s", 8, 8, 3)
    fisheye = ("OPENCV_FISHEYE", 8, 8, [9.0, 9.0, 4.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    images = [(i + 1, f"view_{i}.png", 1 + (i > 1), eye) for i, eye in enumerate(eyes(3))]
    write_model(folder / "sparse/0", {1: pinhole(8, 8), 2: fisheye}, images)
    with pytest.raises(SceneError, match="fisheye and pinhole lenses"):
        read(folder)


def test_round_lenses_have_near_and_far_as_distances(tmp_path):
    folder = write_project(tmp_path / "s", 8, 8, 3)
    fisheye = ("OPENCV_FISHEYE", 8, 8, [9.0, 9.0, 4.0, 4.0, 0.1, 0.0, 0.0, 0.0])
    images = [(i + 1, f"view_{i}.png", 1, eye) for i, eye in enumerate(eyes(3))]
    write_model(folder / "sparse/0", {1: fisheye}, images)
    scene = read(folder)
    distances = np.linalg.norm(eyes(3)[:, None] - CENTRES, axis=-1) / scene.to_user.scale
    assert scene.splits["train"].cameras.lens == "fisheye"
    np.testing.assert_allclose(scene.near * 1.25, distances.min(), rtol=1e-2)
    np.testing.assert_allclose(scene.far / 1.25, distances.max(), rtol=1e-2)


def test_points_without_tracks_give_near_and_far_too(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s")
    lines = (folder / "sparse/0/images.txt").read_text().split("\n")
    lines[3::2] = [""] * len(lines[3::2])
    (tmp_path / "s/sparse/0/images.txt").write_text("\n".join(lines))
    known, found = read(folder), read(tmp_path / "s")
    np.testing.assert_allclose([found.near, found.far], [known.near, known.far], rtol=1e-9)
    (tmp_path / "s/sparse/0/points3D.txt").unlink()
    scene = read(tmp_path / "s")
    assert scene.points is None
    assert (scene.near, scene.far) == (0.05, 1000.0)


def test_outliers_do_not_move_near_and_far(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    theirs = random_reconstruction(3)
    for camera in theirs.cameras.values():
        camera.model, camera.params = "SIMPLE_PINHOLE", [500.0, 320.0, 160.0]
    rng = np.random.default_rng(0)
    for image in theirs.images.values():
        (tmp_path / "images" / image.name).parent.mkdir(parents=True, exist_ok=True)
        size = (image.camera.width, image.camera.height)
        Image.new("RGB", size).save(tmp_path / "images" / image.name, "PNG")
    (tmp_path / "sparse").mkdir()
    for _ in range(4000):
        theirs.add_point3D(rng.uniform(-0.5, 0.5, 3), pycolmap.Track(), np.zeros(3, np.uint8))
    for place in ([1e6, 0.0, 0.0], [0.0, -1e6, 1e6]):
        theirs.add_point3D(np.array(place), pycolmap.Track(), np.zeros(3, np.uint8))
    theirs.write_binary(str(tmp_path / "sparse"))
    model = read_model(tmp_path / "sparse")
    plain = {
        number: dataclasses.replace(image, places=np.zeros((0, 2)), points=np.zeros(0, np.int64))
        for number, image in model.images.items()
    }
    write_ours(tmp_path / "sparse", dataclasses.replace(model, images=plain))
    scene = read(tmp_path, Options(images=()))
    assert 0.0 < scene.near < scene.far < 1e3 / scene.to_user.scale


def test_photographs_without_a_file_are_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s")
    for index in (0, 4):
        (tmp_path / f"s/images/view_{index}.png").unlink()
    scene = read(tmp_path / "s", Options(images=BOTH))
    assert scene.splits["test"].names == ("view_1.png",)
    assert scene.splits["train"].names == tuple(f"view_{i}.png" for i in (2, 3, 5, 6, 7, 8))
    assert scene.notes == ("2 of 9 photographs without a file are left out",)
    shutil.rmtree(tmp_path / "s/images")
    with pytest.raises(SceneError, match=r"none of the 9 photographs .*'view_0.png'"):
        read(tmp_path / "s")


def test_names_with_spaces_and_folders_are_read(tmp_path):
    folder = write_project(tmp_path / "s", 8, 8, 2)
    (folder / "images/a b").mkdir()
    (folder / "images/view_1.png").rename(folder / "images/a b/c d.png")
    text = folder / "sparse/0/images.txt"
    text.write_text(text.read_text().replace("view_1.png", "a b/c d.png"))
    assert read(folder).splits["test"].names == ("a b/c d.png",)


def test_rigs_and_frames_do_not_disturb(folder, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    shutil.copytree(folder, tmp_path / "s")
    pycolmap.Reconstruction(str(folder / "sparse/0")).write_binary(str(tmp_path / "s/sparse/0"))
    assert {"rigs.bin", "frames.bin"} <= {f.name for f in (tmp_path / "s/sparse/0").iterdir()}
    for file in (tmp_path / "s/sparse/0").glob("*.txt"):
        file.unlink()
    one, two = read(folder), read(tmp_path / "s")
    for name in BOTH:
        poses = [scene.splits[name].cameras.camera_to_world for scene in (one, two)]
        np.testing.assert_allclose(poses[1], poses[0], atol=1e-6)

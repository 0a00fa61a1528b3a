"""Several formats in one folder, outliers, and files that are beside photographs or named otherwise."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from capture_factory import (
    BOTH,
    FOCAL,
    HEIGHT,
    WIDTH,
    around,
    by_place,
    in_front,
    llff_rows,
    poses_of,
    write_colmap,
    write_dtu,
    write_llff,
    write_transforms,
)
from colmap_factory import write_model
from PIL import Image
from scene_factory import CENTRES, paint

from jaxnerf.scenes import SceneError, describe, load_scene
from jaxnerf.scenes.images import read_image
from jaxnerf.scenes.llff import stray_bounds
from jaxnerf.scenes.picture_files import choose_rows, list_pictures

# COLMAP's camera of the photographs that poses_bounds.npy of the factory is of.
LENS = [4 * FOCAL, 4 * FOCAL, 2 * WIDTH, 2 * HEIGHT, 0.07, -0.01, 0.002, -0.001]
FULL = {1: ("OPENCV", 4 * WIDTH, 4 * HEIGHT, LENS)}


def beside(folder: Path, places: np.ndarray, shift: float = 0.0) -> None:
    """A complete model beside poses_bounds.npy, of the same poses; named otherwise than images_4."""
    poses = poses_of(places)
    poses[:, :, 3] += shift
    images = [(40 - i, f"IMG_{i:04d}.JPG", 1, pose) for i, pose in enumerate(poses)]
    write_model(folder / "sparse/0", FULL, images)


def test_a_model_goes_before_poses_bounds_where_cameras_stand_all_around(tmp_path):
    folder = write_colmap(tmp_path / "s", around())
    np.save(folder / "poses_bounds.npy", llff_rows(around()))
    scene = load_scene(folder)
    assert scene.format == "colmap"
    assert scene.points is not None
    (note,) = scene.notes
    assert "also holds poses_bounds.npy (LLFF): sparse/ is read, since it has lenses" in note


def test_forward_facing_captures_keep_their_published_frame_and_gain_lenses_and_points(tmp_path):
    plain = load_scene(write_llff(tmp_path / "plain"), images=BOTH)
    folder = write_llff(tmp_path / "both")
    beside(folder, in_front())
    both = load_scene(folder, images=BOTH)
    assert both.format == "llff"
    assert both.ndc is not None
    assert any("sparse/ (COLMAP): poses_bounds.npy is read" in note for note in both.notes)
    assert any("lenses and points from sparse/0" in note for note in both.notes)
    assert (both.near, both.far) == (plain.near, plain.far)
    for name in BOTH:
        one, two = plain.splits[name], both.splits[name]
        assert one.names == two.names
        np.testing.assert_array_equal(one.cameras.camera_to_world, two.cameras.camera_to_world)
        np.testing.assert_array_equal(one.images, two.images)
        assert two.cameras.lens == "opencv"
        np.testing.assert_allclose(two.cameras.focal, FOCAL, rtol=1e-6)
        np.testing.assert_allclose(two.cameras.distortion[:, [0, 1, 4, 5]], [LENS[4:]] * len(two))
    np.testing.assert_allclose(both.to_user.points(both.points), CENTRES, atol=1e-9)


@pytest.mark.parametrize("wrong", ["incomplete", "another's", "no photographs"])
def test_a_model_that_is_of_no_use_yields_and_that_is_said(tmp_path, wrong):
    places = around() if wrong == "no photographs" else in_front()
    folder = write_llff(tmp_path / "s", places)
    beside(folder, places, shift=0.1 if wrong == "another's" else 0.0)
    if wrong == "incomplete":
        (folder / "sparse/0/images.txt").unlink()
    scene = load_scene(folder)
    assert scene.format == "llff"
    text = ", ".join(scene.notes)
    assert "also holds sparse/ (COLMAP): poses_bounds.npy is read" in text
    assert ("incomplete (no images.bin)" in text) == (wrong == "incomplete")
    assert ("none of its photographs is there" in text) == (wrong == "no photographs")
    assert ("lenses and points" in text) == (wrong == "no photographs")
    assert scene.splits["train"].cameras.lens == (
        "opencv" if wrong == "no photographs" else "pinhole"
    )


def test_a_scan_beside_poses_bounds_keeps_its_masks(tmp_path):
    folder = write_dtu(tmp_path / "scan")
    alone = load_scene(folder)
    np.save(folder / "poses_bounds.npy", llff_rows(around()))
    shutil.copytree(folder / "image", folder / "images")
    scene = load_scene(folder)
    assert scene.format == "dtu"
    np.testing.assert_array_equal(scene.splits["train"].images, alone.splits["train"].images)
    assert (scene.splits["train"].images[..., 3] == 0).any()
    assert scene.notes == (
        "also holds poses_bounds.npy (LLFF): cameras_sphere.npz is read, since it has masks and "
        "the object's place",
    )


def test_transforms_go_before_the_model_that_they_were_made_from(tmp_path):
    folder = write_transforms(tmp_path / "s")
    shutil.copytree(write_colmap(tmp_path / "c") / "sparse", folder / "sparse")
    scene = load_scene(folder)
    assert scene.format == "instant-ngp"
    assert "also holds sparse/ (COLMAP): transforms.json is read" in scene.notes[-1]


@pytest.mark.parametrize("value", [0.01, 1e-6])
@pytest.mark.parametrize("places", [in_front, around])
def test_one_stray_bound_does_not_rule(tmp_path, value, places):
    whole = load_scene(write_llff(tmp_path / "whole", places(20)))
    folder = write_llff(tmp_path / "stray", places(20))
    rows = np.load(folder / "poses_bounds.npy")
    rows[5, 15] = value
    rows[7, 16] = 1e5
    np.save(folder / "poses_bounds.npy", rows)
    scene = load_scene(folder)
    assert (scene.near, scene.far) == pytest.approx((whole.near, whole.far), rel=0.05)
    assert scene.to_user.scale == pytest.approx(whole.to_user.scale, rel=0.05)
    said = ", ".join(scene.notes)
    assert f"1 of 20 near bounds left out, as {value:g}" in said
    assert "1 of 20 far bounds left out, as 100000" in said


def test_bounds_that_differ_as_those_of_photographs_do_all_count():
    near = np.linspace(1.0, 3.0, 30)
    depths = np.stack([near, near * np.linspace(3.0, 30.0, 30)], axis=-1)
    assert not np.any(stray_bounds(depths))


def test_the_case_stray_near_is_fern(real_data, tmp_path):
    fern = load_scene(real_data / "nerf_llff_data/fern", downscale=8, images=())
    folder = tmp_path / "stray"
    folder.mkdir()
    (folder / "images_8").symlink_to(real_data / "nerf_llff_data/fern/images_8")
    rows = np.load(real_data / "nerf_llff_data/fern/poses_bounds.npy")
    rows[int(np.argsort(rows[:, 15])[7]), 15] = 0.01
    np.save(folder / "poses_bounds.npy", rows)
    scene = load_scene(folder, downscale=8, images=(), allow_outside_paths=True)
    assert (scene.near, scene.far) == pytest.approx((fern.near, fern.far), rel=0.01)
    assert scene.to_user.scale == pytest.approx(fern.to_user.scale, rel=0.01)
    np.testing.assert_allclose(scene.to_user.translation, fern.to_user.translation)


def rubbish(folder: Path) -> None:
    """What archives, file managers and people leave beside photographs."""
    (folder / "._0003.png").write_bytes(b"Mac OS X")
    (folder / ".DS_Store").write_bytes(b"\0\0")
    (folder / ".thumbnails").mkdir()
    (folder / "Thumbs.db").write_bytes(b"\0")
    (folder / "notes.txt").write_text("taken at noon")
    (folder / "clip.mp4").write_bytes(b"\0")


@pytest.mark.parametrize(("kind", "writer"), [("llff", write_llff), ("dtu", write_dtu)])
def test_what_is_no_photograph_is_left_alone(tmp_path, kind, writer):
    clean = load_scene(writer(tmp_path / "clean"))
    folder = writer(tmp_path / "full")
    for each in folder.iterdir():
        if each.is_dir():
            rubbish(each)
    (folder / ".hidden").mkdir()
    scene = load_scene(folder)
    assert scene.splits["train"].names == clean.splits["train"].names
    assert scene.notes == clean.notes


def test_models_in_folders_with_a_dot_are_left_alone(tmp_path):
    folder = write_colmap(tmp_path / "s")
    shutil.copytree(folder / "sparse/0", folder / "sparse/.0")
    assert load_scene(folder).notes == ()


def test_photographs_of_other_types_are_counted_and_those_that_are_read_are_read(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.heic", "b.HEIC", "c.CR2", "d.tiff", "e.WEBP", "f.jpg", ".g.png", "h.md"):
        (tmp_path / name).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found, notes = list_pictures(tmp_path)
    assert found == ["d.tiff", "e.WEBP", "f.jpg"]
    assert notes == (
        "1 .cr2 photographs were skipped: their type is not read",
        "2 .heic photographs were skipped: pip install pillow-heif",
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleType(name).__spec__ or 1)
    assert list_pictures(tmp_path)[0] == ["a.heic", "b.HEIC", "d.tiff", "e.WEBP", "f.jpg"]


def test_heic_is_read_where_pillow_heif_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "a.heic", quality=95)
    assert list_pictures(tmp_path) == (["a.heic"], ())
    picture = read_image(tmp_path / "a.heic")
    assert picture.shape == (48, 64, 4)
    assert np.abs(picture.astype(int) - [200, 100, 50, 255]).max() < 8


def test_pictures_beside_photographs_are_told_from_them_by_their_names(tmp_path):
    plain = load_scene(write_llff(tmp_path / "plain"))
    folder = write_llff(tmp_path / "full")
    for path in sorted((folder / "images_4").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}_depth.png"))
    shutil.copy(folder / "images_4/0003.png", folder / "images_4/cover.png")
    scene = load_scene(folder)
    assert scene.splits["train"].names == plain.splits["train"].names
    assert "0000_depth.png, 0001_depth.png, 0002_depth.png and 7 more in images_4 left out" in (
        ", ".join(scene.notes)
    )
    (folder / "images_4/0008.png").unlink()
    with pytest.raises(SceneError, match=r"18 photographs, but poses_bounds.npy has 9 rows; named"):
        load_scene(folder)


def test_rows_are_chosen_only_where_that_is_plain():
    names = ["a0.png", "a1.png", "b0.png", "b1.png"]
    with pytest.raises(SceneError, match="4 photographs, but f has 2 rows"):
        choose_rows(Path("s"), names, 2, "f")
    assert choose_rows(Path("s"), [*names, "c.png"], 5, "f") == ([*names, "c.png"], ())


def same_pictures(folder: Path, places: np.ndarray) -> None:
    _, _, images = by_place(load_scene(folder, images=BOTH))
    for image, place in zip(images, places, strict=True):
        np.testing.assert_array_equal(image, paint(place, WIDTH, HEIGHT))


@pytest.mark.parametrize("suffix", [".PNG", ".tif", ".TIFF", ".webp"])
def test_photographs_with_another_suffix_than_the_model_says_are_found(tmp_path, suffix):
    folder = write_colmap(tmp_path / "s")
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image:
            image.load()
        path.unlink()
        kind = {".PNG": "PNG", ".webp": "WEBP"}.get(suffix, "TIFF")
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        image.save(path.with_suffix(suffix), kind, **options)
    same_pictures(folder, around())
    assert load_scene(folder).notes == ("9 photographs have another suffix than the model says",)


@pytest.mark.parametrize("place", ["input", "."])
def test_photographs_are_in_input_or_beside_the_model(tmp_path, place):
    folder = write_colmap(tmp_path / "s")
    for path in sorted((folder / "images").iterdir()):
        (folder / place).mkdir(exist_ok=True)
        path.rename(folder / place / path.name)
    (folder / "images").rmdir()
    same_pictures(folder, around())
    where = "beside the model" if place == "." else place
    assert load_scene(folder).notes == (f"photographs from {where}",)


def test_names_in_a_model_may_begin_with_images(tmp_path):
    folder = write_colmap(tmp_path / "s")
    text = (folder / "sparse/0/images.txt").read_text()
    changed = text.replace(" 000", " images/000")
    assert changed != text
    (folder / "sparse/0/images.txt").write_text(changed)
    same_pictures(folder, around())
    # Folders of several cameras are a part of the name.
    (folder / "sparse/0/images.txt").write_text(text.replace(" 000", " left/000"))
    with pytest.raises(SceneError, match="none of the 9 photographs"):
        load_scene(folder)


@pytest.mark.parametrize(
    "name", ["0003.png.png", "0003.png.jpg", "0003.jpg", "0003.png", "0003_mask.png"]
)
def test_masks_are_found_under_the_names_that_tools_give_them(tmp_path, name):
    folder = write_colmap(tmp_path / "s")
    (folder / "masks").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, WIDTH // 2 :] = 255
    Image.fromarray(mask).save(folder / "masks" / name, quality=60)
    scene = load_scene(folder)
    masks = dict(zip(scene.splits["train"].names, scene.splits["train"].masks, strict=True))
    wrong = masks["0003.png"] != (mask > 0)
    # JPEG's blocks of 8 x 8 have the edge, which is in the middle of one.
    assert wrong.sum() <= (HEIGHT if name.endswith("jpg") else 0)
    assert masks["0004.png"].all()
    assert "8 of 9 photographs have no mask in masks" in scene.notes


def test_alpha_of_captures_is_said(tmp_path):
    scene = load_scene(write_colmap(tmp_path / "s"))
    clear = np.mean(scene.splits["train"].images[..., 3] < 128)
    assert clear > 0.5
    assert "taken for a transparent background" in describe(scene)
    opaque = write_colmap(tmp_path / "opaque")
    for path in (opaque / "images").iterdir():
        with Image.open(path) as image:
            image.convert("RGB").save(path)
    assert "transparent" not in describe(load_scene(opaque))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_transforms_in_other_encodings(tmp_path, encoding):
    folder = write_transforms(tmp_path / "s")
    path = folder / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text())), encoding=encoding)
    same_pictures(folder, around())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_models_in_other_encodings(tmp_path, encoding):
    folder = write_colmap(tmp_path / "s")
    for path in (folder / "sparse/0").iterdir():
        path.write_text(path.read_text(), encoding=encoding)
    same_pictures(folder, around())


def test_backslashes_in_a_model_are_slashes(tmp_path):
    folder = write_colmap(tmp_path / "s")
    path = folder / "sparse/0/images.txt"
    path.write_text(path.read_text().replace(" 000", " images\\000"))
    same_pictures(folder, around())
    assert load_scene(folder).notes == ()


@pytest.mark.parametrize("scale", [2.5, 0.04])
def test_a_scale_in_the_rotations_of_rows_is_taken_out_and_said(tmp_path, scale):
    plain = load_scene(write_llff(tmp_path / "plain"), images=())
    folder = write_llff(tmp_path / "s")
    rows = np.load(folder / "poses_bounds.npy")
    rows[:, :15].reshape(-1, 3, 5)[:, :, :3] *= scale
    np.save(folder / "poses_bounds.npy", rows)
    scene = load_scene(folder, images=())
    said = f"the rotations of poses_bounds.npy are scaled by {scale:g}, which is taken out"
    assert scene.notes == (plain.notes[0], said, *plain.notes[1:])
    one, other = (each.splits["train"].cameras.camera_to_world for each in (scene, plain))
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("writer", [write_llff, write_colmap, write_dtu])
def test_copies_of_a_photograph_that_were_given_the_same_pose_are_said(tmp_path, writer):
    """The first and the second in the order of names, of which one is held out."""
    places = in_front() if writer is write_llff else around()
    places[1] = places[0]
    scene = load_scene(writer(tmp_path / "s", places), images=())
    assert "photographs of train are also in other splits: 1 of 2 of test" in scene.notes

"""What `jaxnerf check` finds beside wrong poses: each in a scene that was spoilt so."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from capture_factory import write_colmap, write_llff
from painted_views import FOCAL, HEIGHT, WIDTH, arc, poses, write_views
from PIL import Image
from scene_factory import edit_json, write_scene

from jaxnerf.cameras import Camera, look_at_pose
from jaxnerf.capture.inspection import inspect
from jaxnerf.capture.inspection.photographs import jumps, leaks, still_fraction, unmade_turns
from jaxnerf.capture.inspection.views import views_of
from jaxnerf.scenes import load_scene

COUNT = 9


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finds") / "box"
    views = poses(arc(COUNT))
    write_views(folder / "images", views)
    frames = [
        {"file_path": f"images/{i:02d}.png", "transform_matrix": [*p.tolist(), [0, 0, 0, 1]]}
        for i, p in enumerate(views)
    ]
    contents = {"fl_x": FOCAL, "w": WIDTH, "h": HEIGHT, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(contents))
    return folder


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.04, 4 / 3])
def test_a_focal_length_that_contradicts_the_matches_is_found(painted, tmp_path, factor):
    pytest.importorskip("pycolmap")
    folder = shutil.copytree(painted, tmp_path / "box")
    edit_json(folder / "transforms.json", lambda c: c.update(fl_x=FOCAL * factor))
    said = [w for w in inspect(folder).warnings if "the focal length contradicts" in w]
    if abs(np.log(factor)) < 0.1:
        assert not said
    else:
        (text,) = said
        found = float(text.split("about ")[1].split()[0])
        assert found == pytest.approx(1.0 / factor, rel=0.08)


def test_the_same_photograph_in_two_splits_is_found(tmp_path):
    folder = write_scene(tmp_path / "s")
    clean = load_scene(folder, images=("train", "val", "test"))
    assert not leaks(views_of(clean))
    test, train = clean.splits["test"], clean.splits["train"]
    images = test.images.copy()
    images[1] = train.images[2]
    splits = {**clean.splits, "test": dataclasses.replace(test, images=images)}
    views = views_of(dataclasses.replace(clean, splits=splits))
    (pair,) = leaks(views)
    assert [views.names[n] for n in pair] == [test.names[1], train.names[2]]
    blank = {k: dataclasses.replace(s, images=s.images * 0) for k, s in clean.splits.items()}
    assert not leaks(views_of(dataclasses.replace(clean, splits=blank)))


def test_leaks_are_warned_of_by_name(tmp_path):
    folder = write_scene(tmp_path / "s")
    scene = load_scene(folder, images=())
    one, other = scene.splits["test"].names[0], scene.splits["train"].names[0]
    shutil.copy(folder / other, folder / one)
    found = inspect(folder)
    assert any(f"two splits: {one} (test) is {other} (train)" in w for w in found.warnings)
    assert found.odd


def test_a_video_whose_reconstruction_has_folded_is_found(tmp_path):
    """Half a turn around an object whose back looks like its front, told as twice the same half."""
    folder = write_scene(tmp_path / "s")
    scene = load_scene(folder, images=("train",))
    split, count = scene.splits["train"], 24
    assert split.images is not None
    images = split.images[:1].repeat(count, axis=0)
    true = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)

    def views_at(angles, names):
        poses = [look_at_pose((4 * np.cos(a), 4 * np.sin(a), 1.0), (0, 0, 0)) for a in angles]
        first = dataclasses.replace(
            split,
            names=tuple(names),
            cameras=Camera.pinhole(np.stack(poses), 30.0, *images.shape[2:0:-1]),
            images=images,
            masks=None,
        )
        return views_of(dataclasses.replace(scene, splits={"train": first}))

    names = [f"f{i}.png" for i in range(count)]  # f10 comes after f9, not after f1
    assert not jumps(views_at(true, names))
    folded = views_at(true % np.pi, names)
    ((one, other, angle),) = jumps(folded)
    assert (folded.names[one], folded.names[other]) == ("f11.png", "f12.png")
    assert angle == pytest.approx(np.degrees(np.arccos((16 * np.cos(11 / 12 * np.pi) + 1) / 17)))
    shuffled = np.random.default_rng(0).permutation(names)
    assert not jumps(views_at(true, shuffled))


def test_what_the_reader_says_of_a_leak_is_not_said_twice(tmp_path):
    folder = write_scene(tmp_path / "s")
    shutil.copy(folder / "transforms_train.json", folder / "transforms_test.json")
    (folder / "transforms_val.json").unlink()
    assert any("in other splits" in note for note in load_scene(folder, images=()).notes)
    found = inspect(folder)
    assert "other splits" not in str(found.facts)
    assert sum("two splits" in warning for warning in found.warnings) == 1


@pytest.mark.parametrize("sides", [(60, 40), (48, 48)])
def test_turns_of_exif_that_were_not_made_are_told(tmp_path, sides):
    folder = tmp_path / "s"
    (folder / "images").mkdir(parents=True)
    frames = []
    for index, pose in enumerate(poses(arc(4))):
        exif = Image.Exif()
        if index:
            exif[0x0112] = 6
        noise = np.random.default_rng(index).integers(256, size=(*sides[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"images/{index}.jpg", exif=exif)
        matrix = [*pose.tolist(), [0, 0, 0, 1]]
        frames.append({"file_path": f"images/{index}.jpg", "transform_matrix": matrix})
    path = folder / "transforms.json"
    path.write_text(json.dumps({"fl_x": 50.0, "w": sides[0], "h": sides[1], "frames": frames}))
    turned, square = unmade_turns(load_scene(folder, images=()))
    assert sorted(turned) == ["images/1.jpg", "images/2.jpg", "images/3.jpg"]
    assert len(square) == (3 if sides[0] == sides[1] else 0)
    found = inspect(folder)
    said = [w for w in found.warnings if "EXIF would turn 3 photographs" in w]
    assert len(said) == (1 if square else 0)
    assert ("turns" in found.facts) == (not square)
    # Where the cameras are of the turned pictures they are turned, and there is nothing to say.
    frames.pop(0)
    path.write_text(json.dumps({"fl_x": 50.0, "w": sides[1], "h": sides[0], "frames": frames}))
    turned, _ = unmade_turns(load_scene(folder, images=()))
    assert len(turned) == (3 if square else 0)


def test_turns_are_told_where_a_model_names_photographs_by_another_suffix(tmp_path):
    folder = write_colmap(tmp_path / "s")
    for path in sorted((folder / "images").iterdir()):
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:
            image.convert("RGB").save(path.with_suffix(".JPG"), exif=exif)
        path.unlink()
    turned, _ = unmade_turns(load_scene(folder, images=()))
    assert len(turned) == 9


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (20, 90, 200), (255, 255, 255)])
def test_a_plain_background_is_named(tmp_path, colour):
    folder = write_scene(tmp_path / "s", 64, 64)
    scene = load_scene(folder, images=())
    assert "background" not in inspect(folder).facts  # alpha says what is behind
    for split in scene.splits.values():
        for name in split.names:
            with Image.open(folder / name) as image:
                behind = Image.new("RGBA", image.size, (*colour, 255))
                Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB").save(
                    folder / name
                )
    names = {(0, 0, 0): "black", (255, 255, 255): "white"}
    name = names.get(colour, "#{:02x}{:02x}{:02x}".format(*colour))
    assert inspect(folder).facts["background"] == f"plain {name}"


def with_backdrop(image: np.ndarray, number: int, backdrop: np.ndarray) -> np.ndarray:
    """A photograph [H, W, 3] of noise that fills a quarter of it, before a backdrop."""
    height, width = image.shape[:2]
    random, shown = np.random.default_rng(number), np.array(backdrop[:height, :width])
    middle = np.s_[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    shown[middle] = random.integers(0, 256, shown[middle].shape)
    return shown.astype(np.uint8)


def test_a_backdrop_that_does_not_turn_with_the_object_is_warned_of(tmp_path):
    folder = write_scene(tmp_path / "s")
    scene = load_scene(folder, images=("train", "val", "test"))
    number = 0
    for split in scene.splits.values():
        height, width = split.images.shape[1:3]
        lit = np.linspace(40.0, 220.0, width)[None, :, None] * np.ones((height, 1, 3))
        for name, image in zip(split.names, split.images, strict=True):
            number += 1
            Image.fromarray(with_backdrop(image, number, lit)).save(folder / name)
    (said,) = [w for w in inspect(folder).warnings if "does not turn with the object" in w]
    assert 70 <= int(said.split("%")[0]) <= 80


def test_plain_backgrounds_and_what_cameras_of_one_side_see_do_not_stand_still(tmp_path):
    scene = load_scene(write_scene(tmp_path / "s"), images=("train",))
    split = scene.splits["train"]
    height, width = split.images.shape[1:3]
    lit = np.linspace(40.0, 220.0, width)[None, :, None] * np.ones((height, 1, 3))
    halves = np.where(np.arange(width)[:, None] < width // 2, 10.0, 250.0) * np.ones((height, 1, 3))

    def fraction(backdrop, split=split, masks=None) -> float:
        shown = [with_backdrop(image, k, backdrop) for k, image in enumerate(split.images)]
        solid = np.full((*split.images.shape[:3], 1), 255, np.uint8)
        images = np.concatenate([np.stack(shown), solid], axis=-1)
        changed = dataclasses.replace(split, images=images, masks=masks)
        return still_fraction(views_of(dataclasses.replace(scene, splits={"train": changed})))

    assert fraction(lit) == pytest.approx(0.75, abs=0.03)
    assert fraction(np.full_like(lit, 180.0)) == fraction(halves) == 0.0
    masks = np.zeros(split.images.shape[:3], bool)
    masks[:, height // 4 : -(height // 4), width // 4 : -(width // 4)] = True
    assert fraction(lit, masks=masks) == 0.0
    poses = np.array(split.cameras.camera_to_world)
    poses[:, :, :3] = poses[0, :, :3]
    cameras = dataclasses.replace(split.cameras, camera_to_world=poses)
    assert fraction(lit, dataclasses.replace(split, cameras=cameras)) == 0.0


def test_bounds_that_stray_are_warned_of(tmp_path):
    folder = write_llff(tmp_path / "s")
    assert not any("stray" in w for w in inspect(folder).warnings)
    rows = np.load(folder / "poses_bounds.npy")
    rows[4, 15] = 1e-3
    np.save(folder / "poses_bounds.npy", rows)
    assert any("that stray: row 4 says near 0.001" in w for w in inspect(folder).warnings)


def test_a_box_that_photographs_do_not_show_is_found(tmp_path):
    folder = write_scene(tmp_path / "s")
    assert not any("do not show the cube" in w for w in inspect(folder).warnings)
    edit_json(folder / "transforms_train.json", lambda c: c.update(near=20.0, far=60.0))
    said = [w for w in inspect(folder).warnings if "do not show the cube of training" in w]
    assert len(said) == 1
    assert "near 20 and far 60" in said[0]


@pytest.mark.slow
def test_real_scenes_raise_no_alarm(real_data):
    pytest.importorskip("pycolmap")
    found = inspect(real_data / "fox")
    assert found.warnings == ()
    assert found.pointless is None


@pytest.mark.slow
def test_a_real_capture_whose_light_changed_is_named(real_data):
    """The sun lies on the sheet under the statuette in some of its photographs."""
    found = inspect(real_data / "statuette")
    (said,) = found.warnings
    assert "1.8 times as bright" in said
    assert "affine_colour" in said
    assert found.pointless is None


@pytest.mark.slow
def test_a_real_reconstruction_that_has_folded_is_named(real_data):
    """The can's label is printed twice around it."""
    (said,) = [w for w in inspect(real_data / "beer_can").warnings if "follow one another" in w]
    assert "0013.jpg and 0014.jpg (134 degrees)" in said

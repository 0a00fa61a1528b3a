"""What files of cameras say in vain, and photographs of which only another type is there."""

from pathlib import Path

import pytest
from capture_factory import write_transforms
from PIL import Image
from scene_factory import edit_json, write_scene

from jaxnerf.scenes import SceneError, load_scene
from jaxnerf.scenes.transforms import present_frames


def without_heif(monkeypatch) -> None:
    monkeypatch.setattr("jaxnerf.scenes.picture_files.importlib.util.find_spec", lambda name: None)


def test_what_only_the_file_of_training_decides_is_said_of_the_others(tmp_path):
    folder = write_scene(tmp_path / "s")
    edit_json(folder / "transforms_train.json", lambda c: c.update(near=2.5, far=5.5))
    for split in ("val", "test"):
        edit_json(folder / f"transforms_{split}.json", lambda c: c.update(near=2.5, far=5.5))
    assert load_scene(folder).notes == ()
    edit_json(folder / "transforms_test.json", lambda c: c.update(near=1.0, far=90.0))
    scene = load_scene(folder)
    assert (scene.near, scene.far) == (2.5, 5.5)
    assert scene.notes == ("test: near and far not used, transforms_train.json decides",)


def test_points_of_a_scene_with_an_end_are_said_not_to_be_used(tmp_path):
    folder = write_scene(tmp_path / "s")
    edit_json(folder / "transforms_train.json", lambda c: c.update(ply_file_path="points.ply"))
    assert load_scene(folder).notes == ("ply_file_path is not used, since the scene is bounded",)


@pytest.mark.parametrize("named", ["images/{}.png", "images/{}", "images\\{}.png"])
def test_frames_of_which_a_photograph_of_another_type_is_there_are_counted(
    named, tmp_path, monkeypatch
):
    without_heif(monkeypatch)
    folder = write_transforms(tmp_path / "s")
    for number, suffix in ((1, ".heic"), (2, ".HEIC"), (3, ".CR2")):
        path = folder / f"images/000{number}.png"
        path.rename(path.with_suffix(suffix))
    (folder / "images/other.heic").touch()

    def rename(contents):
        for number, frame in enumerate(contents["frames"]):
            frame["file_path"] = named.format(f"{number:04d}")

    edit_json(folder / "transforms.json", rename)
    assert load_scene(folder, images=()).notes[:3] == (
        "3 of 9 frames without a file are left out",
        "1 .cr2 photographs were skipped: their type is not read",
        "2 .heic photographs were skipped: pip install pillow-heif",
    )
    for path in sorted((folder / "images").glob("*.png")):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(SceneError, match=r"is there; the first is .*; 8 .heic photographs were sk"):
        load_scene(folder)


def test_heic_is_found_where_a_suffix_is_missing_and_pillow_heif_is_there(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "images/a.heic", quality=95)
    contents = {"frames": [{"file_path": "images/a"}]}
    (frame,), notes = present_frames(tmp_path / "transforms.json", contents, False)
    assert (frame.picture, notes) == (Path(tmp_path / "images/a.heic"), ())


def test_what_a_frame_says_for_the_file_is_said_to_be_unused(tmp_path):
    folder = write_transforms(tmp_path / "s")
    before = load_scene(folder).notes
    edit_json(folder / "transforms.json", lambda c: c["frames"][0].update(near=1.0))
    assert load_scene(folder).notes == (*before, "not used: near")


def test_one_mask_may_serve_all_frames_of_a_file(tmp_path):
    folder = write_transforms(tmp_path / "s")
    with Image.open(next((folder / "images").glob("*.png"))) as first:
        size = first.size
    mask = Image.new("L", size, 255)
    mask.paste(0, (0, 0, size[0] // 2, size[1]))
    mask.save(folder / "mask.png")
    edit_json(folder / "transforms.json", lambda c: c.update(mask_path="mask.png"))
    masks = load_scene(folder).splits["train"].masks
    assert masks is not None
    assert not masks[:, :, : size[0] // 2].any()
    assert masks[:, :, size[0] // 2 :].all()

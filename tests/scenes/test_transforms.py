"""What instant-ngp's and nerfstudio's transforms.json may say."""

import dataclasses
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from capture_factory import (
    BOTH,
    FOCAL,
    HEIGHT,
    WIDTH,
    around,
    by_place,
    poses_of,
    write_nerfstudio,
    write_transforms,
)
from PIL import Image
from scene_factory import edit_json, paint

from jaxnerf.cameras import cast_rays, pixel_centres
from jaxnerf.scenes import SceneError, describe, load_scene


def first_view(folder: Path, **options):
    """The camera of the first photograph, which is a test view."""
    split = load_scene(folder, images=("test",), **options).splits["test"]
    assert Path(split.names[0]).stem == "0000"
    return split.cameras[0], split.images[0]


@pytest.mark.parametrize("writer", [write_transforms, write_nerfstudio])
def test_focal_lengths_may_be_fields_of_view(writer, tmp_path):
    folder = writer(tmp_path / "balls")

    def by_angle(contents):
        del contents["fl_x"], contents["fl_y"], contents["cx"], contents["cy"]
        contents["camera_angle_x"], contents["camera_angle_y"] = 0.9, 0.7

    edit_json(folder / "transforms.json", by_angle)
    camera, _ = first_view(folder)
    expected = [0.5 * WIDTH / math.tan(0.45), 0.5 * HEIGHT / math.tan(0.35)]
    np.testing.assert_allclose(camera.focal, expected, rtol=1e-6)
    np.testing.assert_array_equal(camera.centre, [WIDTH / 2, HEIGHT / 2])
    edit_json(folder / "transforms.json", lambda c: c.pop("camera_angle_x"))
    np.testing.assert_allclose(first_view(folder)[0].focal, [expected[1]] * 2, rtol=1e-6)


@pytest.mark.parametrize("writer", [write_transforms, write_nerfstudio])
def test_keys_of_null_are_as_good_as_none(writer, tmp_path):
    folder = writer(tmp_path / "balls")
    before = load_scene(folder)

    def nulls(contents):
        keys = (
            "camera_angle_x",
            "k1",
            "p2",
            "near",
            "far",
            "mask_path",
            "train_filenames",
            "val_filenames",
        )
        contents |= {key: None for key in keys if key not in contents}
        contents["frames"][0] |= dict.fromkeys(("fl_x", "fl_y", "cx", "w", "k3", "mask_path"))

    edit_json(folder / "transforms.json", nulls)
    after = load_scene(folder)
    for name, split in before.splits.items():
        same = after.splits[name]
        assert same.names == split.names
        np.testing.assert_array_equal(same.cameras.focal, split.cameras.focal)
        np.testing.assert_array_equal(same.cameras.centre, split.cameras.centre)
    assert (after.near, after.far) == (before.near, before.far)


@pytest.mark.parametrize("writer", [write_transforms, write_nerfstudio])
def test_a_frames_own_intrinsics_go_first(writer, tmp_path):
    folder = writer(tmp_path / "balls")

    def own(contents):
        contents["frames"][0] |= {"camera_angle_x": 1.0, "cx": 3.0, "k1": 0.25}
        contents["frames"][8] |= {"fl_y": 12.0, "fl_x": 11.0, "p2": 0.125}

    edit_json(folder / "transforms.json", own)
    cameras = load_scene(folder, images=()).splits["test"].cameras
    assert cameras.lens == "opencv"
    expected = 0.5 * WIDTH / math.tan(0.5)
    np.testing.assert_allclose(cameras.focal, [[expected, expected], [11.0, 12.0]], rtol=1e-6)
    np.testing.assert_array_equal(cameras.centre[:, 0], [3.0, WIDTH / 2])
    np.testing.assert_array_equal(cameras.distortion[:, [0, 5]], [[0.25, 0.0], [0.0, 0.125]])


def test_lenses_have_their_coefficients(tmp_path):
    values = {"k1": 0.1, "k2": 0.02, "k3": 0.003, "k4": 0.0004}
    for kind, more in {
        "opencv": {"p1": 0.001, "p2": -0.002},
        "fisheye": {"is_fisheye": True},
        "fisheye of nerfstudio": {"camera_model": "OPENCV_FISHEYE"},
        "simple": {"camera_model": "SIMPLE_RADIAL", "p1": 0.001, "p2": -0.002},
    }.items():
        folder = write_transforms(tmp_path / kind, **values, **more)
        camera, _ = first_view(folder)
        assert camera.lens == ("fisheye" if kind.startswith("fisheye") else "opencv")
        tangential = [0.001, -0.002] if "p1" in more else [0.0, 0.0]
        np.testing.assert_allclose(
            camera.distortion, [0.1, 0.02, 0.003, 0.0004, *tangential], rtol=1e-6
        )


def test_equirectangular_pictures_are_whole_spheres(tmp_path):
    """nerfstudio's own formula, which has fl_x = w / 2 and fl_y = h."""
    folder = write_transforms(
        tmp_path / "balls", camera_model="EQUIRECTANGULAR", fl_x=WIDTH / 2, fl_y=HEIGHT
    )
    camera, _ = first_view(folder)
    pose = np.eye(4, dtype=np.float32)[:3]
    camera = dataclasses.replace(camera, camera_to_world=pose)
    pixels = pixel_centres(WIDTH, HEIGHT)
    found = cast_rays(camera, jnp.asarray(pixels)).view_directions
    theta = -math.pi * (pixels[..., 0] - WIDTH / 2) / (WIDTH / 2)
    phi = math.pi * (0.5 + (pixels[..., 1] - HEIGHT / 2) / HEIGHT)
    expected = [-np.sin(theta) * np.sin(phi), np.cos(phi), -np.cos(theta) * np.sin(phi)]
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), atol=1e-5)


@pytest.mark.parametrize("writer", [write_transforms, write_nerfstudio])
def test_intrinsics_of_another_resolution_are_scaled(writer, tmp_path):
    folder = writer(tmp_path / "balls")

    def enlarged(contents):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            contents[key] *= 3
        contents["cx"] = 24.0

    edit_json(folder / "transforms.json", enlarged)
    camera, image = first_view(folder)
    np.testing.assert_allclose(camera.focal, FOCAL, rtol=1e-6)
    np.testing.assert_array_equal(camera.centre, [8.0, HEIGHT / 2])
    np.testing.assert_array_equal(camera.size, [WIDTH, HEIGHT])
    np.testing.assert_array_equal(image, paint(around()[0], WIDTH, HEIGHT))


@pytest.mark.parametrize("writer", [write_transforms, write_nerfstudio])
def test_photographs_of_two_sizes_have_cameras_of_two_sizes(writer, tmp_path):
    folder = writer(tmp_path / "balls")
    Image.fromarray(paint(around()[0], 12, 24)).save(folder / "images/0000.png")

    def own(contents):
        contents["frames"][0] |= {"w": 12, "h": 24, "cx": 6.0, "cy": 12.0}

    edit_json(folder / "transforms.json", own)
    scene = load_scene(folder, images=BOTH)
    assert scene.splits["train"].masks is None
    split = scene.splits["test"]
    assert split.images.shape == (2, 24, WIDTH, 4)
    np.testing.assert_array_equal(split.cameras.size, [[12, 24], [WIDTH, HEIGHT]])
    np.testing.assert_array_equal(split.masks.sum(axis=(1, 2)), [12 * 24, WIDTH * HEIGHT])
    np.testing.assert_array_equal(split.images[0, :, :12], paint(around()[0], 12, 24))
    assert "views of 12 x 24 to 20 x 16, pinhole lens, no masks" in describe(scene)


def test_frames_without_a_file_are_left_out_and_counted(tmp_path):
    for writer in (write_transforms, write_nerfstudio):
        folder = writer(tmp_path / writer.__name__)
        for index in (0, 4):
            (folder / f"images/{index:04d}.png").unlink()
        scene = load_scene(folder)
        stems = {name: [int(Path(n).stem) for n in s.names] for name, s in scene.splits.items()}
        assert stems == {"train": [2, 3, 5, 6, 7, 8], "test": [1]}
        assert "2 of 9 frames without a file are left out" in describe(scene)
        for path in (folder / "images").iterdir():
            path.unlink()
        with pytest.raises(SceneError, match=r"transforms.json: none of the pictures of its 9 fr"):
            load_scene(folder)


def test_frames_are_sorted_by_name_and_may_leave_out_png(tmp_path):
    folder = write_transforms(tmp_path / "balls")

    def shuffle(contents):
        contents["frames"] = contents["frames"][::-1]
        for frame in contents["frames"]:
            frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")

    edit_json(folder / "transforms.json", shuffle)
    scene = load_scene(folder)
    assert scene.splits["test"].names == ("images/0000.png", "images/0008.png")
    np.testing.assert_allclose(by_place(scene)[0], poses_of(around()), atol=3e-6)


def corner_mask(bright: bool) -> np.ndarray:
    """Black or bright in one corner."""
    mask = np.full((HEIGHT, WIDTH), 0 if bright else 255, np.uint8)
    mask[:5, :7] = 90 if bright else 0
    return mask


@pytest.mark.parametrize("kind", ["instant-ngp", "nerfstudio"])
def test_masks_ignore_what_their_format_says(kind, tmp_path):
    counted = np.ones((HEIGHT, WIDTH), bool)
    counted[:5, :7] = False
    if kind == "instant-ngp":
        folder = write_transforms(tmp_path / "balls")
        Image.fromarray(corner_mask(bright=True)).save(folder / "images/dynamic_mask_0003.png")
    else:
        folder = write_nerfstudio(tmp_path / "balls")
        (folder / "masks").mkdir()
        Image.fromarray(corner_mask(bright=False)).save(folder / "masks/3.png")
        edit_json(
            folder / "transforms.json", lambda c: c["frames"][3].update(mask_path="masks/3.png")
        )
    scene = load_scene(folder, images=BOTH)
    train = scene.splits["train"]
    assert scene.splits["test"].masks is None
    index = train.names.index("images/0003.png")
    np.testing.assert_array_equal(train.masks[index], counted)
    assert np.delete(train.masks, index, axis=0).all()
    share = 100.0 * 35 / (7 * WIDTH * HEIGHT)
    assert f"masks on {share:.1f}% of the pixels" in describe(scene)


def test_nerfstudios_files_may_say_what_is_for_what(tmp_path):
    folder = write_nerfstudio(
        tmp_path / "balls",
        train_filenames=[f"images/000{i}.png" for i in (5, 1, 2)],
        val_filenames=["./images/0007.png"],
        test_filenames=["images/0000.png", "images/0008.png"],
    )
    (folder / "images/0002.png").unlink()
    scene = load_scene(folder, images=("train", "val", "test"))
    assert {name: split.names for name, split in scene.splits.items()} == {
        "train": ("images/0001.png", "images/0005.png"),
        "val": ("images/0007.png",),
        "test": ("images/0000.png", "images/0008.png"),
    }


NERFSTUDIO_SIGNS = {
    "camera_model": {"camera_model": "OPENCV"},
    "applied_transform": {"applied_transform": np.eye(4)[[0, 2, 1]].tolist()},
    "applied_scale": {"applied_scale": 2.0},
    "ply_file_path": {"ply_file_path": "points.ply"},
    "train_filenames": {"train_filenames": ["images/0001.png"]},
}


@pytest.mark.parametrize("sign", NERFSTUDIO_SIGNS)
def test_nerfstudios_files_are_told_from_instant_ngps(sign, tmp_path):
    folder = write_transforms(tmp_path / "balls", **NERFSTUDIO_SIGNS[sign])
    scene = load_scene(folder)
    assert scene.format == "nerfstudio"
    # What the tools applied is not undone: the user's files have it.
    poses = by_place(scene)[0]
    np.testing.assert_allclose(
        poses, poses_of(around())[[1] if len(poses) == 1 else slice(None)], atol=3e-6
    )


@pytest.mark.parametrize(
    ("key", "kind"),
    [("mask_path", "nerfstudio"), ("depth_file_path", "nerfstudio"), ("fl_x", "instant-ngp")],
)
def test_frames_with_fields_of_nerfstudio_are_too(key, kind, tmp_path):
    folder = write_transforms(tmp_path / "balls")
    value = FOCAL if key == "fl_x" else "images/0000.png"
    edit_json(folder / "transforms.json", lambda c: c["frames"][5].update({key: value}))
    assert load_scene(folder).format == kind


def test_backslashes_of_windows_are_slashes(tmp_path):
    folder = write_transforms(tmp_path / "balls")

    def windows(contents):
        for frame in contents["frames"]:
            frame["file_path"] = frame["file_path"].replace("/", "\\")

    edit_json(folder / "transforms.json", windows)
    assert load_scene(folder).splits["test"].names == ("images/0000.png", "images/0008.png")


def frame(**changes):
    return lambda contents: contents["frames"][1].update(changes)


def whole(**changes):
    return lambda contents: contents.update(changes)


WRONG = {
    "no focal length": (lambda c: [c.pop("fl_x"), c.pop("fl_y")], "frames[0]: neither fl_x nor"),
    "focal length a text": (whole(fl_x="20"), "transforms.json: fl_x must be a number"),
    "focal length 0": (whole(fl_y=0), "transforms.json: the focal length fl_y"),
    "focal length negative": (frame(fl_x=-3.0), "frames[1]: the focal length fl_x"),
    "focal length infinite": (whole(fl_x=math.inf), "transforms.json: fl_x is not finite"),
    "field of view too wide": (frame(camera_angle_y=4.0), "frames[1]: camera_angle_y"),
    "principal point a list": (frame(cx=[1.0]), "frames[1]: cx must be a number"),
    "principal point far away": (whole(cy=1e300), "transforms.json: cy 1e+300 is far too large"),
    "distortion not a number": (whole(k2=math.nan), "transforms.json: k2 is not finite"),
    "distortion a bool": (frame(p1=True), "frames[1]: p1 must be a number"),
    "another shape": (whole(w=HEIGHT, h=WIDTH), "0000.png: 20 x 16 pixels, but transforms.json"),
    "no height": (lambda c: c.pop("h"), "frames[0]: h is missing"),
    "size 0": (whole(w=0, h=0), "0000.png: 20 x 16 pixels, but transforms.json says 0 x 0"),
    "no pose": (lambda c: c["frames"][1].pop("transform_matrix"), "frames[1]: transform_matrix"),
    "no path": (lambda c: c["frames"][1].pop("file_path"), "frames[1]: file_path"),
    "an absolute path": (frame(file_path="/etc/hostname"), "allow_outside_paths"),
    "a path up": (frame(file_path="../x.png"), "frames[1]: file_path '../x.png' leaves"),
    "a line in a path": (frame(file_path="a\nb"), "frames[1]: file_path"),
    "a text as picture": (frame(file_path="transforms.json"), "transforms.json: not a PNG, JPEG"),
    "a folder as picture": (frame(file_path="images"), "images: not a file"),
    "p1 of a fisheye": (whole(is_fisheye=True, p1=0.1), "frames[0]: p1 and p2 are not 0"),
    "fisheye a text": (whole(is_fisheye="yes"), "transforms.json: is_fisheye must be"),
    "an ftheta lens": (whole(ftheta_p0=1.0), "transforms.json: ftheta_p0: this kind of lens"),
    "lenses of two kinds": (
        frame(is_fisheye=True),
        "mixes fisheye and pinhole lenses, which must be kept apart",
    ),
    "an unknown model": (whole(camera_model="FISHEYE624"), "camera_model 'FISHEYE624' is not"),
    "a model that is none": (whole(camera_model=[1]), "transforms.json: camera_model '[1]' is not"),
    "a mask that is gone": (frame(mask_path="m.png"), "m.png: no such image"),
    "a mask outside": (frame(mask_path="/m.png"), "frames[1]: mask_path '/m.png' leaves"),
    "a mask of another size": (frame(mask_path="small.png"), "small.png: a mask of 3 x 3 pixels"),
    "splits without train": (whole(test_filenames=[]), "but no train_filenames"),
    "a split of nothing": (whole(train_filenames=[]), "train_filenames names no picture"),
    "a split of a text": (whole(train_filenames="a"), "train_filenames must be a list"),
    "a split of others": (whole(train_filenames=["a.png"]), "train_filenames: 'a.png' is no"),
    "no frames": (whole(frames=[]), "transforms.json: 'frames'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused_by_file_and_field(case, tmp_path):
    change, message = WRONG[case]
    folder = write_transforms(tmp_path / "balls")
    Image.new("L", (3, 3), 255).save(folder / "small.png")
    edit_json(folder / "transforms.json", change)
    with pytest.raises(SceneError) as caught:
        load_scene(folder)
    assert str(caught.value).startswith(str(folder))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["picture", "mask", "transforms.json", "dynamic mask"])
@pytest.mark.parametrize("how", ["link", "up", "absolute"])
def test_files_outside_of_the_folder_are_read_only_if_that_is_allowed(what, how, tmp_path):
    folder = write_transforms(tmp_path / "balls")
    file = (
        folder
        / {
            "picture": "images/0003.png",
            "mask": "mask.png",
            "transforms.json": "transforms.json",
            "dynamic mask": "images/dynamic_mask_0003.png",
        }[what]
    )
    if "mask" in what:
        Image.fromarray(corner_mask(bright=True)).save(file)
    away = tmp_path / file.name
    file.rename(away)
    if how == "link":
        file.symlink_to(away)
    elif what in ("transforms.json", "dynamic mask"):
        return  # of which no field gives the path
    path = {"link": file.name, "up": f"../{file.name}", "absolute": str(away)}[how]
    if what == "mask":
        edit_json(folder / "transforms.json", lambda c: c["frames"][3].update(mask_path=path))
    elif what == "picture" and how != "link":
        edit_json(folder / "transforms.json", lambda c: c["frames"][3].update(file_path=path))
    with pytest.raises(SceneError, match="leaves the folder of the scene; allow_outside_paths"):
        load_scene(folder)
    scene = load_scene(folder, images=BOTH, allow_outside_paths=True)
    assert sum(len(split) for split in scene.splits.values()) == 9
    masked = any(split.masks is not None for split in scene.splits.values())
    assert masked == ("mask" in what)


def test_the_real_fox_is_read(real_data):
    scene = load_scene(real_data / "fox", downscale=8)
    assert describe(scene) == (
        "fox: instant-ngp scene, 43 train, 7 test views of 135 x 240, opencv lens, no masks, "
        "unbounded, near 0.05, far 1000, 17 of 67 frames without a file are left out"
    )
    contents = json.loads((real_data / "fox/transforms.json").read_text())
    wanted = {f["file_path"]: np.array(f["transform_matrix"]) for f in contents["frames"]}
    for split in scene.splits.values():
        poses = scene.to_user.poses(np.asarray(split.cameras.camera_to_world, np.float64))
        np.testing.assert_allclose(poses, [wanted[name][:3] for name in split.names], atol=3e-6)
    assert scene.splits["train"].images.shape == (43, 240, 135, 4)

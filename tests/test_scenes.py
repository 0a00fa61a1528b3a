"""Scenes: what is read, the right way up, shrunk rightly; and how wrong files are refused."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scene_factory import (
    ANGLE,
    CENTRES,
    COLOURS,
    RADIUS,
    edit_json,
    eyes,
    matrix,
    paint,
    write_scene,
)
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import cast_rays, pixel_centres, project
from jaxnerf.evaluation import blend
from jaxnerf.scenes import SceneError, Similarity, load_scene
from jaxnerf.scenes.images import read_image, shrink

ALL = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scenes") / "balls", 48, 40)


def test_everything_is_read_as_it_was_written(folder):
    scene = load_scene(folder, images=ALL)
    assert (scene.name, scene.format, scene.near, scene.far) == ("balls", "blender", 2.0, 6.0)
    assert {name: len(split) for name, split in scene.splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    for turn, split in enumerate(scene.splits.values()):
        assert split.images.dtype == np.uint8
        for index, eye in enumerate(eyes(len(split), 0.3 * turn)):
            np.testing.assert_array_equal(split.images[index], paint(eye, 48, 40))
            camera = split.cameras[index]
            np.testing.assert_allclose(camera.camera_to_world, matrix(eye)[:3], atol=1e-6)
            np.testing.assert_allclose(camera.focal, 24.0 / math.tan(0.5 * ANGLE), rtol=1e-6)
            np.testing.assert_array_equal(camera.centre, [24.0, 20.0])
            np.testing.assert_array_equal(camera.size, [48, 40])
    assert scene.splits["test"].names == ("test/r_0.png", "test/r_1.png")


def test_only_the_photographs_asked_for_are_read(folder):
    splits = load_scene(folder, images=("val",)).splits
    assert [splits[name].images is None for name in ALL] == [True, False, True]


def test_near_and_far_may_stand_in_the_file(tmp_path):
    write_scene(tmp_path / "s", 4, 4)
    edit_json(tmp_path / "s/transforms_train.json", lambda c: c.update(near=0.5, far=9))
    scene = load_scene(tmp_path / "s")
    assert (scene.near, scene.far) == (0.5, 9.0)


def balls_show(splits) -> bool:
    """Whether each ball's centre, seen by each camera, falls on its colour."""
    shown = []
    for split in splits:
        for camera, image in zip(split.cameras, split.images, strict=True):
            pixels, depth = project(camera, CENTRES.astype(np.float32))
            for centre, colour, (x, y) in zip(CENTRES, COLOURS, np.asarray(pixels), strict=True):
                if not (0 <= x < 48 and 0 <= y < 40 and np.all(depth > 0)):
                    return False
                eye = np.asarray(camera.camera_to_world)[:, 3]
                nearer = np.linalg.norm(CENTRES - eye, axis=-1) < np.linalg.norm(centre - eye)
                pixel = image[int(y), int(x)]
                hidden = any(
                    (pixel[:3] == COLOURS[other]).all() for other in np.flatnonzero(nearer)
                )
                shown.append(pixel[3] == 255 and (hidden or (pixel[:3] == colour).all()))
    return all(shown)


def test_known_points_fall_on_their_colours_and_with_any_axis_flipped_they_do_not(folder):
    splits = load_scene(folder, images=ALL).splits.values()
    assert balls_show(splits)
    world = [np.diag(signs) for signs in np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]], float)]
    for flip in world:
        for side in ("camera", "world"):
            flipped = []
            for split in splits:
                pose = np.array(split.cameras.camera_to_world)
                if side == "camera":
                    pose[..., :3] = pose[..., :3] @ flip
                else:
                    pose = flip @ pose
                cameras = dataclasses.replace(
                    split.cameras, camera_to_world=pose.astype(np.float32)
                )
                flipped.append(dataclasses.replace(split, cameras=cameras))
            assert not balls_show(flipped), (flip, side)


def test_the_ray_of_every_pixel_meets_the_ball_that_the_pixel_shows(folder):
    split = load_scene(folder).splits["train"]
    for camera, image in zip(split.cameras, split.images, strict=True):
        rays = cast_rays(camera, pixel_centres(48, 40))
        along = np.asarray(rays.view_directions, np.float64)[..., None, :]
        offset = CENTRES - np.asarray(camera.camera_to_world, np.float64)[:, 3]
        depth = np.sum(along * offset, axis=-1)
        miss = np.linalg.norm(depth[..., None] * along - offset, axis=-1)
        sure = (np.abs(miss - RADIUS) > 1e-4).all(axis=-1)
        nearest = np.where(miss < RADIUS, depth, np.inf).argmin(axis=-1)
        hit = (miss < RADIUS).any(axis=-1)
        expected = np.where(hit[..., None], np.append(COLOURS, [[255]] * 3, axis=1)[nearest], 0)
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(image[sure], expected[sure])


GREY = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)


def kinds() -> dict[str, tuple[Image.Image, np.ndarray]]:
    """Images of many kinds, and the RGBA that they mean."""
    opaque = np.full_like(GREY, 255)
    grey = np.stack([GREY, GREY, GREY, opaque], axis=-1)
    rgba = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) * 10
    palette = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    palette.putpalette([9, 8, 7, 255, 0, 3, 1, 2, 250])
    table = np.array([[9, 8, 7, 255], [255, 0, 3, 255], [1, 2, 250, 255]], np.uint8)
    indices = np.array([[0, 1, 2], [2, 1, 0]])
    sixteen = np.array([[0, 255, 256], [32767, 32768, 65535]], np.uint16)
    top = (sixteen // 256).astype(np.uint8)
    black = np.array([[0, 255, 0], [255, 0, 255]], np.uint8)
    return {
        "grey": (Image.fromarray(GREY), grey),
        "grey and alpha": (
            Image.fromarray(np.stack([GREY, GREY[::-1]], axis=-1), "LA"),
            np.stack([GREY, GREY, GREY, GREY[::-1]], axis=-1),
        ),
        "rgb": (
            Image.fromarray(np.ascontiguousarray(rgba[..., :3])),
            np.concatenate([rgba[..., :3], opaque[..., None]], axis=-1),
        ),
        "rgba": (Image.fromarray(rgba), rgba),
        "palette": (palette, table[indices]),
        "16 bits": (
            Image.fromarray(sixteen),
            np.stack([top, top, top, opaque], axis=-1),
        ),
        "1 bit": (
            Image.fromarray(black).convert("1"),
            np.stack([black, black, black, opaque], axis=-1),
        ),
    }


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.filterwarnings("ignore:.*mode.*parameter:DeprecationWarning")
def test_every_kind_of_image_becomes_8_bit_rgba(kind, tmp_path):
    image, expected = kinds()[kind]
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), expected)


def test_a_palette_with_a_transparent_colour_and_a_jpeg_are_read(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=1)
    np.testing.assert_array_equal(
        read_image(tmp_path / "palette.png"), [[[10, 20, 30, 255], [40, 50, 60, 0]]]
    )
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "photo.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "photo.jpg") - np.array([200.0, 100, 50, 255])).max() <= 3


pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4)))


@settings(derandomize=True, deadline=None)
@given(pictures, st.integers(1, 9))
def test_shrinking_averages_colours_with_their_alpha_as_weight(image, factor):
    height, width = image.shape[0] // factor, image.shape[1] // factor
    small = shrink(image, factor)
    assert small.shape == (height, width, 4)
    for row in range(height):
        for column in range(width):
            total, weighted = 0, [0, 0, 0]
            for y in range(row * factor, (row + 1) * factor):
                for x in range(column * factor, (column + 1) * factor):
                    alpha = int(image[y, x, 3])
                    total += alpha
                    weighted = [
                        w + alpha * int(c) for w, c in zip(weighted, image[y, x], strict=False)
                    ]
            if factor == 1:
                np.testing.assert_array_equal(small[row, column], image[row, column])
            else:
                assert abs(small[row, column, 3] - total / factor**2) <= 0.501
                if total:
                    mean = np.array(weighted) / total
                    assert np.abs(small[row, column, :3] - mean).max() <= 0.501


@settings(derandomize=True, deadline=None)
@given(pictures, st.integers(1, 9), st.sampled_from([0.0, 0.5, 1.0]))
def test_shrinking_then_blending_is_blending_then_shrinking(image, factor, background):
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blended = blend(image, background).astype(np.float64)[: height * factor, : width * factor]
    expected = blended.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    # Half a level of the colour and half a level of the alpha are rounded away.
    np.testing.assert_allclose(blend(shrink(image, factor), background), expected, atol=1.01 / 255)


@pytest.mark.parametrize("factor", [2, 3, 5, 7, 40])
def test_cameras_shrink_with_their_photographs(folder, factor):
    full, small = (load_scene(folder, downscale=k).splits["train"] for k in (1, factor))
    assert small.images.shape[1:3] == (40 // factor, 48 // factor)
    np.testing.assert_array_equal(small.images, [shrink(image, factor) for image in full.images])
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 3)).astype(np.float32)
    for large, little in zip(full.cameras, small.cameras, strict=True):
        np.testing.assert_array_equal(little.size, [48 // factor, 40 // factor])
        expected = np.asarray(project(large, points)[0]) / factor
        np.testing.assert_allclose(project(little, points)[0], expected, rtol=1e-5, atol=1e-5)


def frame(index, **changes):
    return lambda contents: contents["frames"][index].update(changes)


def pose(change):
    def edit(contents):
        contents["frames"][1]["transform_matrix"] = np.array(
            change(np.array(contents["frames"][1]["transform_matrix"]))
        ).tolist()

    return edit


def drop(*path):
    def edit(contents):
        *parents, last = path
        for key in parents:
            contents = contents[key]
        del contents[last]

    return edit


WRONG_JSON = {
    "no frames": (drop("frames"), "'frames'"),
    "empty frames": (lambda c: c.update(frames=[]), "'frames'"),
    "frames an object": (lambda c: c.update(frames={"a": 1}), "'frames'"),
    "a frame a number": (lambda c: c["frames"].append(3), "frames[4]"),
    "no angle": (drop("camera_angle_x"), "camera_angle_x is missing"),
    "angle a text": (lambda c: c.update(camera_angle_x="0.8"), "camera_angle_x"),
    "angle a bool": (lambda c: c.update(camera_angle_x=True), "camera_angle_x"),
    "angle not finite": (lambda c: c.update(camera_angle_x=math.nan), "camera_angle_x"),
    "angle huge": (lambda c: c.update(camera_angle_x=10**400), "camera_angle_x"),
    "angle too wide": (lambda c: c.update(camera_angle_x=3.2), "camera_angle_x"),
    "angle almost 0": (lambda c: c.update(camera_angle_x=1e-300), "camera_angle_x"),
    "near after far": (lambda c: c.update(near=7), "near"),
    "far infinite": (lambda c: c.update(far=math.inf), "far"),
    "no file path": (drop("frames", 1, "file_path"), "frames[1]: file_path"),
    "file path a number": (frame(1, file_path=3), "frames[1]: file_path"),
    "outside": (frame(1, file_path="../balls/train/r_0"), "frames[1]: file_path"),
    "absolute": (frame(1, file_path="/etc/hostname"), "frames[1]: file_path"),
    "the root": (frame(1, file_path="/"), "frames[1]: file_path"),
    "the folder itself": (frame(1, file_path="."), "frames[1]: file_path"),
    "a NUL": (frame(1, file_path="a\0b"), "frames[1]: file_path"),
    "no pose": (drop("frames", 1, "transform_matrix"), "frames[1]: transform_matrix"),
    "pose of 3 x 3": (pose(lambda m: m[:3, :3]), "frames[1]: transform_matrix"),
    "pose of texts": (pose(lambda m: [["a"] * 4] * 4), "frames[1]: transform_matrix"),
    "pose not finite": (pose(lambda m: m * math.inf), "frames[1]: transform_matrix"),
    "pose far away": (pose(lambda m: m + 1e12), "frames[1]: transform_matrix"),
    "pose scaled": (pose(lambda m: m * [2, 2, 2, 1]), "frames[1]: transform_matrix"),
    "pose stretched": (pose(lambda m: m * [1, 1.01, 1, 1]), "frames[1]: transform_matrix"),
    "pose sheared": (pose(lambda m: m + 0.1 * m[:, [1, 2, 0, 3]]), "frames[1]: transform_matrix"),
    "pose mirrored": (pose(lambda m: m * [-1, 1, 1, 1]), "frames[1]: transform_matrix"),
    "pose projective": (pose(lambda m: m + np.eye(4)[[3]].T), "frames[1]: transform_matrix"),
    "another width": (lambda c: c.update(w=17), "r_0.png: 16 x 16"),
    "another height": (lambda c: c.update(h=99), "r_0.png: 16 x 16"),
    "width a text": (lambda c: c.update(w="16"), "w must be a number"),
}


def refused(folder: Path, **options) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(SceneError) as caught:
        load_scene(folder, **options)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", WRONG_JSON)
def test_wrong_json_is_refused_by_file_and_field(case, tmp_path):
    change, field = WRONG_JSON[case]
    write_scene(tmp_path)
    edit_json(tmp_path / "transforms_train.json", change)
    message = refused(tmp_path)
    assert field in message
    assert "transforms_train.json" in message


def damage(folder: Path, kind: str) -> str:
    """Damage a scene; returns the path that the message must name."""
    image, transforms = folder / "train/r_2.png", folder / "transforms_train.json"
    whole = image.read_bytes()
    if kind == "missing image":
        image.unlink()
    elif kind == "truncated image":
        image.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty image":
        image.write_bytes(b"")
    elif kind == "a text as image":
        image.write_text("not an image")
    elif kind == "another format":
        Image.new("RGB", (16, 16)).save(image, "TIFF")
    elif kind == "a folder as image":
        image.unlink()
        image.mkdir()
    elif kind == "smaller image":
        Image.new("RGB", (16, 15)).save(image)
    elif kind == "enormous image":
        Image.new("1", (30_000, 30_000)).save(image)
    elif kind == "image out of the folder":
        image.rename(folder.parent / "elsewhere.png")
        image.symlink_to(folder.parent / "elsewhere.png")
        return "frames[2]: file_path"
    elif kind == "endless file":
        transforms.unlink()
        transforms.symlink_to("/dev/zero")
        return "transforms_train.json"
    else:
        transforms.write_bytes(
            {"broken JSON": b'{"a', "binary": b"\xff\xfe", "deep": b"[" * 10**5}[kind]
        )
        return "transforms_train.json"
    return "r_2.png"


@pytest.mark.parametrize(
    "kind",
    ["missing image", "truncated image", "empty image", "a text as image", "another format"]
    + ["a folder as image", "smaller image", "enormous image", "image out of the folder"]
    + ["endless file", "broken JSON", "binary", "deep"],
)
def test_damaged_files_are_refused_by_name(kind, tmp_path):
    folder = write_scene(tmp_path / "scene")
    named = damage(folder, kind)
    assert named in refused(folder)


def test_folders_that_are_no_scenes_are_refused(tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a folder" in refused(tmp_path / "file")
    assert "transforms_train.json" in refused(tmp_path)
    refused(tmp_path / ("long" * 1000))


def test_splits_and_factors_that_are_not_there_are_refused(tmp_path):
    folder = write_scene(tmp_path / "scene", train=1)
    (folder / "transforms_val.json").unlink()
    assert "val" in refused(folder, images=("val",))
    assert "shrink by 17" in refused(folder, downscale=17)
    with pytest.raises(SceneError, match="downscale"):
        load_scene(folder, downscale=0)


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_similarities_are_4_x_4_matrices(seed):
    random = np.random.default_rng(seed)

    def make():
        similarity = Similarity(
            float(random.uniform(0.1, 10.0)),
            Rotation.random(rng=random).as_matrix(),
            random.normal(size=3),
        )
        whole = np.eye(4)
        whole[:3, :3] = similarity.scale * similarity.rotation
        whole[:3, 3] = similarity.translation
        return similarity, whole

    (first, one), (second, two) = make(), make()
    points = random.normal(size=(5, 3))
    homogeneous = np.append(points, np.ones((5, 1)), axis=1)
    np.testing.assert_allclose(
        second.points(first.points(points)), (homogeneous @ (two @ one).T)[:, :3], atol=1e-8
    )
    np.testing.assert_allclose(
        first.inverse().points(points), (homogeneous @ np.linalg.inv(one).T)[:, :3], atol=1e-8
    )
    poses = np.concatenate([Rotation.random(5, rng=random).as_matrix(), points[..., None]], -1)
    moved = first.poses(poses)
    np.testing.assert_allclose(moved[..., :3], first.rotation @ poses[..., :3], atol=1e-12)
    np.testing.assert_allclose(moved[..., 3], first.points(points), atol=1e-12)
    np.testing.assert_allclose(first.inverse().poses(moved), poses, atol=1e-8)

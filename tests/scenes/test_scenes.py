"""Scenes: what is read, the right way up, and shrunk rightly."""

import dataclasses
import math
from pathlib import Path

import jax.numpy as jnp
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
from jaxnerf.scenes import Similarity, load_scene
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
            pixels, depth = project(camera, jnp.asarray(CENTRES, jnp.float32))
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
        rays = cast_rays(camera, jnp.asarray(pixel_centres(48, 40)))
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
    points = jnp.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, (20, 3)), jnp.float32)
    for large, little in zip(full.cameras, small.cameras, strict=True):
        np.testing.assert_array_equal(little.size, [48 // factor, 40 // factor])
        expected = np.asarray(project(large, points)[0]) / factor
        np.testing.assert_allclose(project(little, points)[0], expected, rtol=1e-5, atol=1e-5)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 9), st.integers(1, 60))
def test_the_longest_side_is_kept_by_the_smallest_factor_that_does(folder, downscale, longest):
    factor = next(k for k in range(1, 99) if 48 // (downscale * k) <= longest)
    cameras = load_scene(folder, downscale=downscale, longest_side=longest, images=()).splits
    np.testing.assert_array_equal(
        cameras["train"].cameras.size[0], [48 // (downscale * factor), 40 // (downscale * factor)]
    )


def test_rays_may_pass_through_the_corners_of_pixels(folder):
    centres, corners = (load_scene(folder, pixels=p).splits["val"] for p in ("centre", "corner"))
    pixel = jnp.asarray([[3.0, 4.0]])
    for centre, corner in zip(centres.cameras, corners.cameras, strict=True):
        through = cast_rays(corner, pixel + 0.5).directions
        np.testing.assert_allclose(through, cast_rays(centre, pixel).directions, rtol=1e-5)


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

"""Readers of captures: cameras and photographs as they were written, in the frame of the files."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from capture_factory import (
    BOTH,
    FOCAL,
    HEIGHT,
    WIDTH,
    WRITERS,
    by_place,
    poses_of,
    random_similarity,
    write,
)
from scene_factory import CENTRES, COLOURS, edit_json, paint, write_scene

from jaxnerf.cameras import project
from jaxnerf.scenes import load_scene
from jaxnerf.scenes.images import shrink


@pytest.mark.parametrize("kind", WRITERS)
def test_everything_is_read_as_it_was_written(kind, tmp_path):
    scene = load_scene(write(kind, tmp_path / "balls"), images=BOTH)
    places = WRITERS[kind][1]()
    assert (scene.name, scene.format) == ("balls", kind.split(",")[0])
    assert {name: len(split) for name, split in scene.splits.items()} == {"train": 7, "test": 2}
    for name in scene.splits["test"].names:
        assert int(Path(name).stem) % 8 == 0
    poses, cameras, images = by_place(scene)
    np.testing.assert_allclose(poses, poses_of(places), atol=3e-6)
    for place, camera, image in zip(places, cameras, images, strict=True):
        np.testing.assert_array_equal(image, paint(place, WIDTH, HEIGHT))
        np.testing.assert_allclose(camera.focal, FOCAL, rtol=1e-6)
        np.testing.assert_array_equal(camera.centre, [WIDTH / 2, HEIGHT / 2])
        np.testing.assert_array_equal(camera.size, [WIDTH, HEIGHT])
        assert camera.lens == "pinhole"
    assert all(split.masks is None for split in scene.splits.values())


@pytest.mark.parametrize("kind", WRITERS)
def test_known_points_fall_on_their_colours(kind, tmp_path):
    scene = load_scene(write(kind, tmp_path / "balls", random_similarity(5)), images=BOTH)
    similarity = random_similarity(5)
    centres = scene.to_user.inverse().points(similarity.points(CENTRES))
    _, cameras, images = by_place(scene)
    seen = 0
    for camera, image in zip(cameras, images, strict=True):
        pixels, depth = (
            np.asarray(part) for part in project(camera, jnp.asarray(centres, jnp.float32))
        )
        assert ((scene.near < depth) & (depth < scene.far)).all()
        # The ball nearest to the camera is hidden by none.
        nearest = depth.argmin()
        x, y = pixels[nearest].astype(int)
        np.testing.assert_array_equal(image[y, x], [*COLOURS[nearest], 255])
        seen += 1
    assert seen == 9


@pytest.mark.parametrize("kind", ["blender", *WRITERS])
@pytest.mark.parametrize("seed", range(4))
def test_a_copy_that_a_similarity_made_has_cameras_that_are_its_image(kind, seed, tmp_path):
    similarity = random_similarity(seed)
    if kind == "blender":
        # The scene's frame is the user's: single precision, for scenes not far from the origin.
        similarity = dataclasses.replace(similarity, translation=similarity.translation * 0.0 + 1.0)
        similarity = dataclasses.replace(similarity, scale=2.0)
        one, other = (write_scene(tmp_path / name, train=9) for name in ("one", "other"))
        for split in ("train", "val", "test"):
            edit_json(other / f"transforms_{split}.json", lambda c: moved(c, similarity))
    else:
        one, other = write(kind, tmp_path / "one"), write(kind, tmp_path / "other", similarity)
    scenes = [load_scene(folder, images=()) for folder in (one, other)]
    for split in scenes[0].splits:
        poses, copies = (
            scene.to_user.poses(np.asarray(scene.splits[split].cameras.camera_to_world, np.float64))
            for scene in scenes
        )
        size = similarity.scale * np.ptp(poses[:, :, 3], axis=0).max()
        expected = similarity.poses(poses)
        np.testing.assert_allclose(copies[:, :, 3], expected[:, :, 3], atol=1e-6 * size, rtol=0)
        np.testing.assert_allclose(copies[:, :, :3], expected[:, :, :3], atol=1e-6)
        if kind != "blender":
            # And the scene to train on is the same.
            here, there = (scene.splits[split].cameras.camera_to_world for scene in scenes)
            np.testing.assert_allclose(here, there, atol=1e-6)
    if kind != "blender":
        assert scenes[1].near == pytest.approx(scenes[0].near, rel=1e-6)
        assert scenes[1].far == pytest.approx(scenes[0].far, rel=1e-6)


def moved(contents: dict, similarity) -> None:
    for frame in contents["frames"]:
        pose = np.array(frame["transform_matrix"])
        pose[:3] = similarity.poses(pose[:3])
        frame["transform_matrix"] = pose.tolist()


@pytest.mark.parametrize("kind", WRITERS)
def test_downscaled_cameras_see_the_same(kind, tmp_path):
    folder = write(kind, tmp_path / "balls")
    times = 4 if kind.startswith("llff") else 1
    full, small = (load_scene(folder, downscale=times * k, images=BOTH) for k in (1, 3))
    points = jnp.asarray(np.random.default_rng(0).uniform(-0.3, 0.3, (20, 3)), jnp.float32)
    points = points.at[:, 2].add(-4.0 if full.ndc else 0.0)
    for split in BOTH:
        one, other = full.splits[split], small.splits[split]
        np.testing.assert_array_equal(other.images, [shrink(image, 3) for image in one.images])
        np.testing.assert_array_equal(other.cameras.size, [[WIDTH // 3, HEIGHT // 3]] * len(one))
        for large, little in zip(one.cameras, other.cameras, strict=True):
            expected = np.asarray(project(large, points)[0]) / 3
            np.testing.assert_allclose(project(little, points)[0], expected, rtol=1e-4, atol=1e-3)
    longest = load_scene(folder, longest_side=5, images=())
    np.testing.assert_array_equal(longest.splits["test"].cameras.size[0], [WIDTH // 4, HEIGHT // 4])

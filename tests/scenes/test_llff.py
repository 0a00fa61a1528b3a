"""LLFF: frames, folders, and the real fern."""

import dataclasses
import math
import pickle
import struct
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
    in_front,
    llff_rows,
    write_llff,
    write_pictures,
    write_transforms,
)

from jaxnerf.cameras import cast_rays, pixel_centres, project, to_ndc
from jaxnerf.scenes import SceneError, describe, load_scene


def test_forward_facing_scenes_have_ndc_and_those_all_around_have_none(tmp_path):
    front = load_scene(write_llff(tmp_path / "front"))
    assert load_scene(write_llff(tmp_path / "around", around())).ndc is None
    assert front.ndc.size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(front.ndc.focal, FOCAL)
    assert "forward-facing" in describe(front)
    distances = np.linalg.norm(in_front(), axis=-1)
    # Divided by 0.75 of the nearest depth, which is then at 4/3.
    scale = 1.0 / (0.75 * (distances.min() - 1.5))
    assert front.to_user.scale == pytest.approx(1.0 / scale)
    assert front.near == pytest.approx(1.0 / 1.25 / 0.75)
    assert front.far == pytest.approx((distances.max() + 1.5) * scale)
    for split in front.splits.values():
        for camera in split.cameras:
            rays = cast_rays(camera, jnp.asarray(pixel_centres(WIDTH, HEIGHT)))
            # What lies beyond the near plane is within the cube.
            focal, size = (jnp.asarray(values) for values in (front.ndc.focal, front.ndc.size))
            ndc = to_ndc(rays, focal, size, front.ndc.near)
            points = np.asarray(
                ndc.at(jnp.broadcast_to(jnp.linspace(0.0, 1.0, 5), (HEIGHT, WIDTH, 5)))
            )
            assert np.isfinite(points).all()
            np.testing.assert_allclose(points[..., 0, 2], -1.0, atol=1e-5)
            np.testing.assert_allclose(points[..., -1, 2], 1.0, atol=1e-5)


def test_surrounding_scenes_are_normalised_and_their_depths_with_them(tmp_path):
    scene = load_scene(write_llff(tmp_path / "around", around()))
    poses = np.concatenate([split.cameras.camera_to_world for split in scene.splits.values()])
    assert np.linalg.norm(poses[:, :, 3], axis=-1).max() == pytest.approx(1.0, abs=1e-6)
    # All cameras are at distance 4 and look at the origin.
    np.testing.assert_allclose(scene.to_user.points(np.zeros(3)), 0.0, atol=1e-5)
    # The nearest depth is 2.5; near has the margin that a COLMAP project's has.
    assert scene.near == pytest.approx(2.5 / 1.25 / 4.0, rel=1e-5)
    assert scene.far == pytest.approx(5.5 / 4.0, rel=1e-5)


@pytest.mark.parametrize(
    ("folders", "downscale", "taken", "size"),
    [
        ((1, 4, 8), 1, 1, 80),
        ((1, 4, 8), 2, 1, 40),
        ((1, 4, 8), 4, 4, 20),
        ((1, 4, 8), 8, 8, 10),
        ((1, 4, 8), 12, 4, 6),
        ((1, 4, 8), 16, 8, 5),
        ((4, 8), 1, 4, 20),
        ((4, 8), 6, 4, 20),
        ((4, 8), 8, 8, 10),
        ((8,), 4, 8, 10),
        ((8,), 16, 8, 5),
    ],
)
def test_the_smallest_photographs_that_will_do_are_taken(folders, downscale, taken, size, tmp_path):
    folder = tmp_path / "balls"
    for factor in folders:
        name = "images" if factor == 1 else f"images_{factor}"
        write_pictures(folder / name, in_front(2), 80 // factor, 64 // factor)
    np.save(folder / "poses_bounds.npy", llff_rows(in_front(2)))
    (folder / "images_0").mkdir()
    scene = load_scene(folder, downscale=downscale, images=BOTH)
    name = "images" if taken == 1 else f"images_{taken}"
    assert scene.notes == (f"photographs from {name}",)
    assert scene.splits["train"].names == (f"{name}/0001.png",)
    camera = scene.splits["train"].cameras[0]
    assert scene.splits["train"].images.shape[1:3] == (camera.size[1], camera.size[0])
    assert camera.size[0] == size
    np.testing.assert_allclose(camera.focal, 4.0 * FOCAL * size / 80, rtol=0.12)


def test_a_longest_side_shrinks_by_a_multiple_of_the_factor_whatever_folder_is_read(tmp_path):
    folder = tmp_path / "balls"
    for factor in (1, 2):
        name = "images" if factor == 1 else "images_2"
        write_pictures(folder / name, in_front(2), 80 // factor, 64 // factor)
    np.save(folder / "poses_bounds.npy", llff_rows(in_front(2)))
    scene = load_scene(folder, downscale=3, longest_side=20, images=BOTH)
    assert scene.notes == ("photographs from images_2",)
    # By 3 they would have 26 pixels, so it is by 6.
    np.testing.assert_array_equal(scene.splits["train"].cameras[0].size, [80 // 6, 64 // 6])


def test_focal_lengths_follow_the_true_sizes(tmp_path):
    """ImageMagick rounds a quarter of 78 x 66 to 20 x 17."""
    folder = tmp_path / "balls"
    write_pictures(folder / "images_4", in_front(2), 20, 17)
    rows = llff_rows(in_front(2))
    rows[:, [4, 9, 14]] = [66.0, 78.0, 90.0]
    np.save(folder / "poses_bounds.npy", rows)
    camera = load_scene(folder).splits["train"].cameras[0]
    np.testing.assert_allclose(camera.focal, [90.0 * 20 / 78, 90.0 * 17 / 66], rtol=1e-6)
    np.testing.assert_array_equal(camera.centre, [10.0, 8.5])


def test_arrays_of_other_kinds_are_read_if_they_say_the_same(tmp_path):
    folder = write_llff(tmp_path / "balls")
    expected = by_place(load_scene(folder))[0]
    rows = llff_rows(in_front())
    for kind in (np.asfortranarray(rows), rows.astype(">f8"), rows.astype(np.float32)):
        np.save(folder / "poses_bounds.npy", kind)
        np.testing.assert_allclose(by_place(load_scene(folder))[0], expected, atol=1e-5)


def test_a_single_photograph_is_for_training(tmp_path):
    for name, writer in {"ngp": write_transforms, "llff": write_llff}.items():
        scene = load_scene(writer(tmp_path / name, in_front(1)))
        assert {split: len(views) for split, views in scene.splits.items()} == {"train": 1}
        with pytest.raises(SceneError, match="no split 'test', only train"):
            load_scene(tmp_path / name, images=("test",))


def row(column, value):
    """Another value in the second row."""

    def change(rows):
        rows[1, column] = value
        return rows

    return change


WRONG = {
    "not finite": (row(3, np.nan), "has values that are not finite or far too large"),
    "far away": (row(8, 1e12), "has values that are not finite or far too large"),
    "not rigid": (row(0, 3.0), "row 1: the pose is not rigid"),
    "mirrored": (lambda rows: rows * np.where(np.arange(17) % 5 == 0, -1.0, 1.0), "row 0: the po"),
    "no height": (row(4, 0.5), "row 1: height 0.5, width 80"),
    "no focal length": (row(14, -1.0), "row 1: height 64, width 80 and focal length -1 are too"),
    "near behind": (row(15, -0.1), "row 1: depths -0.1"),
    "far before near": (row(16, 0.1), "row 1: depths"),
    "15 columns": (lambda rows: rows[:, :15], "must be N x 17 real numbers, got (9, 15)"),
    "no rows": (lambda rows: rows[:0], "must be N x 17 real numbers, got (0, 17)"),
    "whole numbers": (lambda rows: rows.astype(int), "must be N x 17 real numbers"),
    "objects": (lambda rows: rows.astype(object), "must be N x 17 real numbers"),
    "fewer rows": (lambda rows: rows[:8], "images_4: 9 photographs, but poses_bounds.npy has 8"),
    "another shape": (row(4, 70.0), "0001.png: 20 x 16 pixels, but poses_bounds.npy says 80 x 70"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows_are_refused(case, tmp_path):
    change, message = WRONG[case]
    folder = write_llff(tmp_path / "balls")
    np.save(folder / "poses_bounds.npy", change(llff_rows(in_front())), allow_pickle=True)
    with pytest.raises(SceneError) as caught:
        load_scene(folder)
    assert str(caught.value).startswith(str(folder))
    assert message in str(caught.value)


def test_pickles_are_not_opened(tmp_path):
    """Nor are arrays whose header promises more than the file holds."""
    folder = write_llff(tmp_path / "balls")
    path = folder / "poses_bounds.npy"
    contents = path.read_bytes()
    for damaged in (
        pickle.dumps(llff_rows(in_front())),
        contents[:60],
        contents[:-8],
        contents + b"more",
        contents.replace(b"(9, 17), }         ", b"(99999999999, 17), }"[:19].ljust(19)),
    ):
        path.write_bytes(damaged)
        with pytest.raises(SceneError, match=r"poses_bounds.npy: "):
            load_scene(folder)


def test_folders_without_photographs_are_refused(tmp_path):
    folder = write_llff(tmp_path / "balls")
    (folder / "images_4").rename(folder / "pictures")
    with pytest.raises(SceneError, match="no folder images, images_4 or images_8"):
        load_scene(folder)
    (folder / "images_4").symlink_to(folder / "pictures")
    load_scene(folder)
    (folder / "pictures").rename(tmp_path / "pictures")
    (folder / "images_4").unlink()
    (folder / "images_4").symlink_to(tmp_path / "pictures")
    with pytest.raises(SceneError, match="leaves the folder of the scene"):
        load_scene(folder)
    assert len(load_scene(folder, allow_outside_paths=True).splits["train"]) == 7


def test_only_cameras_that_look_the_same_way_are_forward_facing(tmp_path):
    """By the angle between two of them; and wide pictures leave less room."""

    def facing(degrees: float, focal: float) -> bool:
        angles = np.deg2rad([-0.5 * degrees, 0.5 * degrees])
        rows = llff_rows(in_front(2))
        for row, angle in zip(rows, angles, strict=True):
            right = [math.cos(angle), 0.0, -math.sin(angle)]
            back = [math.sin(angle), 0.0, math.cos(angle)]
            row[:15].reshape(3, 5)[:, :4] = np.stack([[0.0, -1.0, 0.0], right, back, back], -1)
            row[14] = focal
        np.save(folder / "poses_bounds.npy", rows)
        return load_scene(folder, images=()).ndc is not None

    folder = write_llff(tmp_path / "balls", in_front(2))
    assert facing(0.0, 100.0)
    assert facing(78.0, 100.0)
    assert not facing(82.0, 100.0)
    assert facing(60.0, 60.0)
    assert not facing(60.0, 20.0)
    assert not facing(180.0, 100.0)


def points_of_colmap(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions and colours of a points3D.bin."""
    contents = path.read_bytes()
    (count,) = struct.unpack_from("<Q", contents)
    places, colours, offset = [], [], 8
    for _ in range(count):
        values = struct.unpack_from("<Q3d3BdQ", contents, offset)
        places.append(values[1:4])
        colours.append(values[4:7])
        offset += 51 + 8 * values[8]
    return np.array(places), np.array(colours)


def test_the_real_fern_is_read_the_right_way_up(real_data):
    """COLMAP's points have the colours of the pixels that they fall on, and of no others."""
    folder = real_data / "nerf_llff_data/fern"
    scene = load_scene(folder, downscale=8, images=BOTH)
    assert describe(scene) == (
        "fern: llff scene, 17 train, 3 test views of 504 x 378, pinhole lens, no masks, "
        "forward-facing, near 1.06667, far 6.28011, photographs from images_8, also holds "
        "sparse/ (COLMAP): poses_bounds.npy is read, since sparse/0 is incomplete (no images.bin)"
    )
    places, colours = points_of_colmap(folder / "sparse/0/points3D.bin")
    points = jnp.asarray(scene.to_user.inverse().points(places), jnp.float32)

    def error(flip=(1.0, 1.0, 1.0)) -> float:
        """Of the colours, in levels; the median."""
        errors = []
        for split in scene.splits.values():
            for camera, image in zip(split.cameras, split.images, strict=True):
                pose = np.array(camera.camera_to_world)
                pose[:, :3] *= flip
                camera = dataclasses.replace(camera, camera_to_world=pose)
                pixels, depth = (np.asarray(part) for part in project(camera, points))
                inside = (depth > 0.0) & (pixels > 0.0).all(-1) & (pixels < camera.size).all(-1)
                x, y = pixels[inside].astype(int).T
                errors.append(np.abs(image[y, x, :3].astype(int) - colours[inside]).mean(-1))
                far = (depth[inside] > scene.near) & (depth[inside] < scene.far)
                assert flip != (1.0, 1.0, 1.0) or np.mean(far) > 0.99
        return float(np.median(np.concatenate(errors)))

    right = error()
    assert right < 25.0
    for flip in ((-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (-1.0, -1.0, 1.0)):
        assert error(flip) > 2.0 * right

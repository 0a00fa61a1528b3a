"""COLMAP's sparse models, read and written, against pycolmap."""

import numpy as np
import pytest
from colmap_factory import random_reconstruction

from jaxnerf.scenes.colmap_cameras import from_pose, pose_of
from jaxnerf.scenes.colmap_files import read_model, registered
from jaxnerf.scenes.colmap_writing import write_model as write_ours


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["binary", "text"])
def test_models_that_colmap_writes_are_read(tmp_path, seed, kind):
    theirs = random_reconstruction(seed)
    getattr(theirs, f"write_{kind}")(str(tmp_path))
    ours = read_model(tmp_path)
    assert registered(tmp_path) == len(ours.images) == theirs.num_reg_images()
    assert ours.images.keys() == set(theirs.images)
    for number, image in ours.images.items():
        there = theirs.images[number]
        assert (image.name, image.camera) == (there.name, there.camera_id)
        known = there.cam_from_world().matrix()
        pose = pose_of(image.rotation, image.translation)
        np.testing.assert_allclose(pose[:, 3], there.projection_center(), rtol=0, atol=1e-9)
        axes = np.stack([pose[:, 0], -pose[:, 1], -pose[:, 2]])
        np.testing.assert_allclose(axes, known[:, :3], rtol=0, atol=1e-9)
        places = np.array([point.xy for point in there.points2D]).reshape(-1, 2)
        np.testing.assert_allclose(image.places, places, rtol=1e-12)
        points = [p.point3D_id if p.has_point3D() else -1 for p in there.points2D]
        np.testing.assert_array_equal(image.points, points)
    for number, camera in ours.cameras.items():
        there = theirs.cameras[number]
        assert (camera.model, *camera.size) == (there.model.name, there.width, there.height)
        np.testing.assert_allclose(camera.parameters, there.params, rtol=1e-12)
    for number, place, colour in zip(
        ours.points.numbers, ours.points.positions, ours.points.colours, strict=True
    ):
        there = theirs.points3D[number]
        np.testing.assert_allclose(place, there.xyz, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(colour, there.color)
    assert len(ours.points.numbers) == theirs.num_points3D() == 50


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("text", [False, True])
def test_colmap_reads_what_is_written(tmp_path, seed, text):
    pycolmap = pytest.importorskip("pycolmap")
    theirs = random_reconstruction(seed)
    theirs.write_binary(str(tmp_path))
    model = read_model(tmp_path)
    write_ours(tmp_path, model, text)  # over theirs, rigs and frames included
    again = pycolmap.Reconstruction(str(tmp_path))
    assert set(again.images) == set(theirs.images)
    for number, image in again.images.items():
        there = theirs.images[number]
        known = there.cam_from_world().matrix()
        np.testing.assert_allclose(image.cam_from_world().matrix(), known, rtol=0, atol=1e-9)
        assert image.num_points3D == there.num_points3D
        np.testing.assert_allclose(image.camera.params, there.camera.params, rtol=1e-15)
    for number, point in again.points3D.items():
        np.testing.assert_array_equal(point.xyz, theirs.points3D[number].xyz)
        np.testing.assert_array_equal(point.color, theirs.points3D[number].color)
        assert point.track.length() == theirs.points3D[number].track.length()
    for number, image in read_model(tmp_path).images.items():
        np.testing.assert_allclose(image.rotation, model.images[number].rotation, atol=1e-15)
        np.testing.assert_array_equal(image.translation, model.images[number].translation)
        np.testing.assert_array_equal(image.places, model.images[number].places)
        np.testing.assert_array_equal(image.points, model.images[number].points)


def test_points_that_are_not_there_are_not_written(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    random_reconstruction(0).write_binary(str(tmp_path))
    (tmp_path / "points3D.bin").unlink()
    write_ours(tmp_path / "out", read_model(tmp_path))
    again = pycolmap.Reconstruction(str(tmp_path / "out"))
    assert (again.num_points3D(), again.num_reg_images()) == (0, 12)


@pytest.mark.parametrize("seed", range(20))
def test_poses_go_there_and_back(seed):
    rng = np.random.default_rng(seed)
    rotation = rng.normal(size=4)
    if seed < 4:  # half turns and the identity
        rotation = np.eye(4)[seed]
    rotation *= np.where(rotation[0] < 0, -1, 1) / np.linalg.norm(rotation)
    translation = rng.normal(size=3)
    turned, moved = from_pose(pose_of(rotation, translation))
    np.testing.assert_allclose(abs(turned @ rotation), 1.0, atol=1e-14)
    np.testing.assert_allclose(moved, translation, atol=1e-14)

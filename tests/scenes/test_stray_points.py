"""Points that were triangulated wrongly, right before a lens, as structure from motion leaves them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from capture_factory import around, poses_of, write_nerfstudio, write_pictures
from colmap_factory import pinhole, write_model
from plyfile import PlyData, PlyElement

from jaxnerf.capture.inspection import inspect
from jaxnerf.scenes import load_scene
from jaxnerf.scenes.colmap_files import ModelPoints, read_model
from jaxnerf.scenes.colmap_writing import write_model as write_ours

WIDTH, HEIGHT, COUNT, POINTS = 20, 16, 12, 400


def before_lenses(count: int) -> np.ndarray:
    """Places a hundredth before cameras, one after the other."""
    poses = poses_of(around(COUNT))[np.arange(count) % COUNT]
    return poses[:, :, 3] - 0.01 * poses[:, :, 2]


def project(folder: Path, strays: int, images: int = 2, error: float = 4.0) -> Path:
    """A model of points in the middle which all photographs see, and strays which few do."""
    names = write_pictures(folder / "images", around(COUNT), WIDTH, HEIGHT)
    poses = poses_of(around(COUNT))
    rows = [(i + 1, names[i], 1, pose) for i, pose in enumerate(poses)]
    write_model(folder / "sparse/0", {1: pinhole(WIDTH, HEIGHT)}, rows)
    model = read_model(folder / "sparse/0")
    middle = np.random.default_rng(0).uniform(-0.7, 0.7, (POINTS, 3))
    positions = np.concatenate([middle, before_lenses(strays)])
    numbers = np.arange(1, len(positions) + 1)
    errors = np.where(numbers > POINTS, error, 0.5)
    points = ModelPoints(numbers, positions, np.zeros((len(positions), 3), np.uint8), errors)

    def seen(index: int) -> np.ndarray:
        of = np.arange(strays)
        own = (index - of) % COUNT < images
        return np.concatenate([numbers[:POINTS], POINTS + 1 + of[own]])

    changed = {
        number: dataclasses.replace(
            image, points=seen(number - 1), places=np.zeros((len(seen(number - 1)), 2))
        )
        for number, image in model.images.items()
    }
    for path in (folder / "sparse/0").iterdir():
        path.unlink()
    write_ours(folder / "sparse/0", dataclasses.replace(model, images=changed, points=points))
    return folder


@pytest.mark.parametrize(("images", "error"), [(2, 0.5), (3, 4.0)])
def test_points_not_to_be_relied_on_do_not_decide_near(images, error, tmp_path):
    whole = load_scene(project(tmp_path / "whole", 0), images=())
    stray = load_scene(project(tmp_path / "stray", 30, images, error), images=())
    assert stray.near == pytest.approx(whole.near, rel=1e-6)
    assert stray.far == pytest.approx(whole.far, rel=0.05)


def test_where_no_point_is_to_be_relied_on_all_count(tmp_path):
    folder = project(tmp_path / "s", 0)
    model = read_model(folder / "sparse/0")

    def blind(image):
        return dataclasses.replace(image, points=image.points[:0], places=image.places[:0])

    two = {n: image if n < 3 else blind(image) for n, image in model.images.items()}
    for path in (folder / "sparse/0").iterdir():
        path.unlink()
    write_ours(folder / "sparse/0", dataclasses.replace(model, images=two))
    scene = load_scene(folder, images=())
    poses = poses_of(around(COUNT))[:2]
    depths = [-(model.points.positions - pose[:, 3]) @ pose[:, 2] for pose in poses]
    near = np.percentile(np.concatenate(depths), 0.1) / 1.25
    assert scene.near * scene.to_user.scale == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize(("strays", "decide"), [(0, False), (24, False), (240, True)])
def test_check_warns_of_points_that_decide_near(strays, decide, tmp_path):
    folder = write_nerfstudio(tmp_path / "s", around(COUNT), ply_file_path="points.ply")
    middle = np.random.default_rng(0).uniform(-0.7, 0.7, (10 * POINTS, 3))
    places = np.concatenate([middle, before_lenses(strays)]).astype(np.float32)
    vertices = np.array(list(map(tuple, places)), [(axis, "f4") for axis in "xyz"])
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(folder / "points.ply"))
    said = [warning for warning in inspect(folder).warnings if "points that stray" in warning]
    assert len(said) == decide

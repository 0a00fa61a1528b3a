"""A scene in the layouts that peers read: the same photographs, on the same background."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from jaxnerf.evaluation import blend, to_8bit
from jaxnerf.scenes import Scene, SceneError, Split
from jaxnerf.scenes.colmap_cameras import from_pose
from jaxnerf.scenes.colmap_files import ModelCamera, ModelImage, ModelPoints, SparseModel
from jaxnerf.scenes.colmap_writing import write_model
from jaxnerf.scenes.silhouettes import scene_cube

# Where the scene has no points, as 3D Gaussian splatting's authors begin on synthetic scenes.
_RANDOM_POINTS = 20_000


def check(scene: Scene) -> None:
    """Refuse a scene that not all peers can read.

    Raises:
      SceneError: it does not stand alone, or its cameras are not alike and without distortion.
    """
    for split in scene.splits.values():
        cameras = split.cameras
        same = (cameras.size == cameras.size[0]).all() and (cameras.focal == cameras.focal[0]).all()
        middle = np.allclose(cameras.centre, 0.5 * np.asarray(cameras.size), atol=0.01)
        if scene.unbounded or scene.ndc or cameras.lens != "pinhole" or not (same and middle):
            raise SceneError(
                f"{scene.source}: peers read scenes that stand alone, of pinhole cameras that are alike"
            )


def write_blender(scene: Scene, folder: Path) -> None:
    """Write NeRF's Blender layout: train/000.png and so on; val is test again."""
    for name in ("train", "test"):
        split = scene.splits[name]
        assert split.images is not None
        (folder / name).mkdir(parents=True)
        frames = []
        for index, (image, pose) in enumerate(zip(split.images, _poses(scene, split), strict=True)):
            Image.fromarray(image).save(folder / name / f"{index:03d}.png")
            matrix = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
            frames.append({"file_path": f"./{name}/{index:03d}", "transform_matrix": matrix})
        width, focal = float(split.cameras.size[0, 0]), float(split.cameras.focal[0, 0])
        contents = {"camera_angle_x": float(2.0 * np.arctan(0.5 * width / focal)), "frames": frames}
        text = json.dumps(contents)
        (folder / f"transforms_{name}.json").write_text(text)
        if name == "test":
            (folder / "transforms_val.json").write_text(text)


def write_colmap(scene: Scene, folder: Path, test: int | None = None) -> None:
    """Write a COLMAP project of the photographs of training on white, and of one test view.

    Args:
      scene: with photographs.
      folder: of the project.
      test: the number of the test view, whose photograph gets the folder's name; None for none.
    """
    (folder / "images").mkdir(parents=True)
    train = scene.splits["train"]
    assert train.images is not None
    views = list(zip(train.images, _poses(scene, train), strict=True))
    names = [f"train_{index:03d}.png" for index in range(len(views))]
    if test is not None:
        split = scene.splits["test"]
        assert split.images is not None
        views.append((split.images[test], _poses(scene, split)[test]))
        names.append(f"{folder.name}.png")
    images = {}
    for number, (name, (image, pose)) in enumerate(zip(names, views, strict=True), 1):
        Image.fromarray(to_8bit(blend(image, 1.0))).save(folder / "images" / name)
        images[number] = ModelImage(name, 1, *from_pose(pose))
    width, height = np.asarray(train.cameras.size[0]).tolist()
    parameters = np.array([float(train.cameras.focal[0, 0]), width / 2, height / 2])
    cameras = {1: ModelCamera("SIMPLE_PINHOLE", (width, height), parameters)}
    points = scene.to_user.points(scene.all_points)
    if not len(points):
        corner, side = scene_cube(train)
        spread = np.random.default_rng(0).uniform(size=(_RANDOM_POINTS, 3))
        points = scene.to_user.points(corner + side * spread)
    count = len(points)
    grey = np.full((count, 3), 128, np.uint8)
    model = ModelPoints(np.arange(1, count + 1), points, grey, np.zeros(count))
    write_model(folder / "sparse/0", SparseModel(cameras, images, model))


def _poses(scene: Scene, split: Split) -> np.ndarray:
    return scene.to_user.poses(np.asarray(split.cameras.camera_to_world, np.float64))

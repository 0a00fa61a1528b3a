"""A scene's cameras in the formats of other programs, in the frame and unit of the user's files.

`write_transforms` and `write_colmap` write the cameras of a scene's images: for a scene that was read
with a downscale, those of the shrunk photographs. `export` writes those of the photographs' files if
these are there. Masks, near and far are not written.
"""

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxnerf.cameras import Camera
from jaxnerf.cameras.lenses import COEFFICIENTS
from jaxnerf.exports.files import Report
from jaxnerf.runs.files import RunError, disk_errors, write_json
from jaxnerf.runs.run import Run
from jaxnerf.scenes import Scene, SceneError
from jaxnerf.scenes.colmap_cameras import Intrinsics, from_pose, model_of
from jaxnerf.scenes.colmap_files import ModelCamera, ModelImage, ModelPoints, SparseModel
from jaxnerf.scenes.colmap_writing import write_model
from jaxnerf.scenes.images import image_size

# The names of lenses in transforms.json, and the coefficients that it has for each.
_TRANSFORMS_LENSES = {
    "pinhole": ("PINHOLE", ()),
    "opencv": ("OPENCV", ("k1", "k2", "k3", "k4", "p1", "p2")),
    "fisheye": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
}
_COLMAP_FILES = ("cameras", "images", "points3D")
_IMAGES = "images"


SUFFIXES = (".json", "")
_TRANSFORMS = "transforms.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How cameras are exported: there is only one way."""


def export(run: Run, out: Path, settings: Settings = Settings(), report: Report = Report()) -> None:
    """Write a run's cameras; training cameras with their refined poses.

    Args:
      run: a run from `jaxnerf.load_run`.
      out: a transforms.json, or a folder for a COLMAP model.
      settings: has no fields.
      report: receives messages.

    Raises:
      SceneError, RunError: see `write_transforms` and `write_colmap`.
      ValueError: the file has another name than transforms.json, which other programs need.
    """
    if out.suffix and out.name != _TRANSFORMS:
        raise ValueError(f"out: {out.name} should be {_TRANSFORMS}, which other programs look for")
    splits = {}
    for name, split in run.scene.splits.items():
        cameras = run.adjusted(split.cameras) if name == "train" else split.cameras
        if run.config.scene.pixels == "corner":  # undoes `Camera.through_corners`
            cameras = dataclasses.replace(cameras, centre=cameras.centre - np.float32(0.5))
        splits[name] = dataclasses.replace(split, cameras=cameras)
    scene = dataclasses.replace(run.scene, splits=splits)
    whole = at_full_size(scene)
    scene = whole or scene
    with disk_errors(out):
        if out.suffix:
            write_transforms(scene, out.parent)
        else:
            write_colmap(scene, out)
    is_refined = run.calibration is not None and run.calibration.motions is not None
    refined = ", those of training as they were refined" if is_refined else ""
    report.say(f"{sum(map(len, splits.values()))} cameras{refined}")
    if whole is None:
        width, height = np.asarray(splits["train"].cameras.size)[0].tolist()
        report.say(
            f"their photographs are not in {scene.source}: focal lengths and sizes are those of training "
            f"(of the first {width} x {height})"
        )
    if not out.suffix:
        points = out / "points3D.txt"
        folder, file = (shlex.quote(str(path)) for path in (run.folder, points))
        report.say(f"{points} is empty; jaxnerf export {folder} points --out {file} fills it")


def at_full_size(scene: Scene) -> Scene | None:
    """A scene with the cameras of its photographs' files, whatever they were shrunk by when it was read.

    Args:
      scene: the scene; its photographs need not have been read.

    Returns:
      The scene; None if a photograph is not there, or not of a size that was shrunk by a whole factor.
    """
    splits = {}
    for name, split in scene.splits.items():
        shrunk = np.asarray(split.cameras.size, np.int64)
        try:
            sizes = [image_size(scene.source / scene.root / each) for each in split.names]
        except SceneError:
            return None
        whole = np.asarray(sizes, np.int64).reshape(-1, 2)
        # Of a photograph that was rotated when it was read the sides are exchanged.
        aside = (whole > whole[:, ::-1]) != (shrunk > shrunk[:, ::-1])
        whole = np.where(aside.any(axis=-1, keepdims=True), whole[:, ::-1], whole)
        factor = whole[:, :1] // np.maximum(shrunk[:, :1], 1)
        if (factor < 1).any() or (whole // np.maximum(factor, 1) != shrunk).any():
            return None
        focal, centre = (
            np.asarray(part, np.float32) * factor.astype(np.float32)
            for part in (split.cameras.focal, split.cameras.centre)
        )
        size = whole.astype(np.int32)
        cameras = dataclasses.replace(split.cameras, focal=focal, centre=centre, size=size)
        splits[name] = dataclasses.replace(split, cameras=cameras)
    return dataclasses.replace(scene, splits=splits)


def write_transforms(scene: Scene, folder: str | Path) -> Path:
    """Write a scene's cameras as nerfstudio's transforms.json.

    Each file_path is relative to the scene's own folder, so the file is for a copy of that folder. Splits
    are written as train_filenames and so on. instant-ngp can read the file too.

    Args:
      scene: the scene; its photographs need not have been read.
      folder: the folder for the file, which is created.

    Returns:
      The file.

    Raises:
      SceneError: the format has no such lens.
      RunError: there is such a file already.
      OSError: the file cannot be written.
    """
    path = Path(folder) / _TRANSFORMS
    _check_free(path)
    frames, lenses, filenames = [], [], {}
    for split, (name, camera, pose) in _views(scene):
        file_path = str(PurePosixPath(scene.root) / name)
        filenames.setdefault(f"{split}_filenames", []).append(file_path)
        lenses.append(_transforms_lens(scene, camera))
        matrix = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": file_path, "transform_matrix": matrix})
    shared = all(lens == lenses[0] for lens in lenses)
    if not shared:
        frames = [{**lens, **frame} for lens, frame in zip(lenses, frames, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**(lenses[0] if shared else {}), **filenames, "frames": frames})
    return path


def write_colmap(scene: Scene, folder: str | Path) -> Path:
    """Write a scene's cameras, and its points if it has any, as COLMAP's text model.

    Names of images are relative to images/ in the scene's own folder if all photographs are there, and
    otherwise to that folder. Photographs with equal intrinsics share a camera. Points have no colours
    (they are grey) and no tracks. COLMAP has no splits.

    Args:
      scene: the scene; its photographs need not have been read.
      folder: the folder for cameras.txt, images.txt and points3D.txt, which is created.

    Returns:
      The folder.

    Raises:
      SceneError: COLMAP has no such lens, or a name has a space, at which names in text models end.
      RunError: there is a model already.
      OSError: the files cannot be written.
    """
    folder = Path(folder)
    for part in _COLMAP_FILES:
        for suffix in (".txt", ".bin"):
            _check_free(folder / f"{part}{suffix}")
    views = [
        (PurePosixPath(scene.root) / name, camera, pose)
        for _, (name, camera, pose) in _views(scene)
    ]
    views.sort(key=lambda view: str(view[0]))
    inside = all(path.parts[0] == _IMAGES for path, _, _ in views)
    numbers: dict[tuple, int] = {}
    images = {}
    for number, (path, camera, pose) in enumerate(views, 1):
        if len(str(path).split()) != 1:
            raise SceneError(
                f"{scene.source}: {path}: COLMAP's text models have no names with spaces"
            )
        model, parameters = _colmap_lens(scene, camera)
        key = (model, tuple(camera.size.tolist()), tuple(parameters.tolist()))
        images[number] = ModelImage(
            str(path.relative_to(_IMAGES) if inside else path),
            numbers.setdefault(key, len(numbers) + 1),
            *from_pose(pose),
        )
    cameras = {
        number: ModelCamera(model, size, np.array(parameters))
        for (model, size, parameters), number in numbers.items()
    }
    write_model(folder, SparseModel(cameras, images, _points(scene)), text=True)
    return folder


def _check_free(path: Path) -> None:
    if path.exists():
        raise RunError(f"{path}: is there already; name another folder")


def _views(scene: Scene) -> Iterator[tuple[str, tuple[str, Camera, np.ndarray]]]:
    """Each photograph's split, name, camera, and pose in the user's frame."""
    for split, views in scene.splits.items():
        poses = np.array(views.cameras.camera_to_world, np.float64)
        # Made orthonormal in float64: errors of float32 would move cameras far from the origin.
        left, _, right = np.linalg.svd(poses[:, :, :3])
        poses[:, :, :3] = left @ right
        poses = scene.to_user.poses(poses)
        for index, (name, pose) in enumerate(zip(views.names, poses, strict=True)):
            yield split, (name, views.cameras[index], pose)


def _transforms_lens(scene: Scene, camera: Camera) -> dict[str, Any]:
    kind, names = _TRANSFORMS_LENSES.get(camera.lens, ("", ()))
    values = dict(zip(COEFFICIENTS[camera.lens], camera.distortion.tolist(), strict=False))
    lacking = sorted(name for name, value in values.items() if value and name not in names)
    if not kind or lacking:
        what = f" with {', '.join(lacking)}" if kind else ""
        raise SceneError(f"{scene.source}: transforms.json has no {camera.lens} lens{what}")
    (width, height), focal, centre = (
        part.tolist() for part in (camera.size, camera.focal, camera.centre)
    )
    return {
        "camera_model": kind,
        "is_fisheye": camera.lens == "fisheye",
        "w": width,
        "h": height,
        "fl_x": focal[0],
        "fl_y": focal[1],
        "cx": centre[0],
        "cy": centre[1],
        **{name: values[name] for name in names},
    }


def _colmap_lens(scene: Scene, camera: Camera) -> tuple[str, np.ndarray]:
    width, height = camera.size.tolist()
    focal, centre, distortion = (
        np.asarray(part, np.float64) for part in (camera.focal, camera.centre, camera.distortion)
    )
    try:
        return model_of(Intrinsics(camera.lens, focal, centre, distortion), (width, height))
    except ValueError as error:
        raise SceneError(f"{scene.source}: {error}") from None


def _points(scene: Scene) -> ModelPoints:
    places = scene.to_user.points(scene.all_points)
    count = len(places)
    return ModelPoints(
        np.arange(1, count + 1),
        np.asarray(places, np.float64),
        np.full((count, 3), 128, np.uint8),
        np.zeros(count),
    )

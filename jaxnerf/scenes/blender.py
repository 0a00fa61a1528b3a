"""Reader of NeRF's Blender format: transforms_{train,val,test}.json and RGBA pictures.

The poses are already in jaxnerf's axes and the scenes in a comfortable frame, so the scene's frame is
the user's.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnerf.cameras import Camera
from jaxnerf.scenes import Scene, SceneError, Split
from jaxnerf.scenes.images import image_size, read_images

_SPLITS = ("train", "val", "test")
# What the format's published scenes are made for; a transforms file may say otherwise.
_NEAR, _FAR = 2.0, 6.0
_MAX_JSON_BYTES = 200_000_000


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return (folder / "transforms_train.json").exists()


def read(
    folder: Path,
    *,
    downscale: int = 1,
    longest_side: int = 0,
    images: Sequence[str] = ("train",),
) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    The JSON says which pictures there are; others in the folders (depth, normals) are left alone.
    `camera_angle_x` is the horizontal field of view in radians. `near` and `far` at the top level of
    transforms_train.json, if there, replace 2 and 6.
    """
    splits, near, far = {}, _NEAR, _FAR
    for split in _SPLITS:
        path = folder / f"transforms_{split}.json"
        if split != "train" and not path.exists():
            continue
        contents = load_json(path)
        if split == "train":
            near = number(path, contents, "near", near)
            far = number(path, contents, "far", far)
            if not 0.0 <= near < far <= 1e9:
                raise SceneError(
                    f"{path}: near {near} and far {far} are not 0 <= near < far <= 1e9"
                )
        splits[split] = _read_split(path, contents, (downscale, longest_side), split in images)
    for split in images:
        if split not in splits:
            raise SceneError(f"{folder}: no transforms_{split}.json, so no split {split!r}")
    return Scene(folder.resolve().name, folder, "blender", splits, near, far)


def _read_split(
    path: Path, contents: dict[str, Any], shrinking: tuple[int, int], with_images: bool
) -> Split:
    angle = field_of_view(path, contents)
    files, poses = [], []
    for where, frame in frames_of(path, contents):
        files.append(_image_path(path.parent, where, frame.get("file_path")))
        poses.append(read_pose(where, frame.get("transform_matrix")))
    size = image_size(files[0])
    claimed = tuple(
        int(number(path, contents, key, float(actual)))
        for key, actual in zip("wh", size, strict=True)
    )
    if claimed != size:
        raise SceneError(
            f"{files[0]}: {size[0]} x {size[1]} pixels, but {path.name} says "
            f"{claimed[0]} x {claimed[1]}"
        )
    downscale, longest_side = shrinking
    if longest_side:
        downscale *= max(size) // (downscale * (longest_side + 1)) + 1
    if min(size) < downscale:
        raise SceneError(f"{files[0]}: {size[0]} x {size[1]} pixels cannot shrink by {downscale}")
    # The focal length belongs to the whole width, of which shrinking may cut a remainder.
    focal = 0.5 * size[0] / math.tan(0.5 * angle) / downscale
    width, height = size[0] // downscale, size[1] // downscale
    cameras = Camera.pinhole(np.stack(poses), focal, width, height)
    centre = np.broadcast_to(
        np.asarray(size, np.float32) / np.float32(2 * downscale), (len(poses), 2)
    )
    cameras = dataclasses.replace(cameras, centre=centre)
    names = tuple(file.relative_to(path.parent).as_posix() for file in files)
    if not with_images:
        return Split(names, cameras)
    loaded = read_images(files, size, downscale, lambda _: files[0].name)
    return Split(names, cameras, loaded)


def load_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      SceneError: it is missing, broken, or holds something else.
    """
    try:
        if path.exists() and not path.is_file():
            raise SceneError(f"{path}: not a file")
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise SceneError(f"{path}: too large for a transforms file")
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SceneError(f"{path}: no such file") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path}: broken JSON: {error}") from None
    if not isinstance(contents, dict):
        raise SceneError(f"{path}: must hold a JSON object")
    return contents


def frames_of(path: Path, contents: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each of the frames of a JSON file, with where it stands for messages.

    Raises:
      SceneError: there are none, or one is not an object.
    """
    frames = contents.get("frames")
    if not isinstance(frames, list) or not frames:
        raise SceneError(f"{path}: 'frames' must be a list with at least one frame")
    for index, frame in enumerate(frames):
        where = f"{path}: frames[{index}]"
        if not isinstance(frame, dict):
            raise SceneError(f"{where} must be an object")
        yield where, frame


def field_of_view(path: Path, contents: dict[str, Any]) -> float:
    """The camera_angle_x of a JSON file, in radians.

    Raises:
      SceneError: it is missing or no such angle.
    """
    angle = number(path, contents, "camera_angle_x")
    if not 1e-6 < angle < math.pi - 1e-6:
        raise SceneError(f"{path}: camera_angle_x {angle} is not between 0 and pi radians")
    return angle


def number(path: Path, contents: dict[str, Any], key: str, default: float | None = None) -> float:
    """A finite number of a JSON file.

    Raises:
      SceneError: it is missing without a default, or something else.
    """
    value = contents.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "is missing" if value is None else f"must be a number, got {str(value)[:40]!r}"
        raise SceneError(f"{path}: {key} {what}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise SceneError(f"{path}: {key} is not finite")
    return value


def _image_path(folder: Path, where: str, file_path: Any) -> Path:
    if not isinstance(file_path, str) or not file_path or "\0" in file_path:
        raise SceneError(f"{where}: file_path must be the name of a picture")
    path = folder / file_path
    try:
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            path = path.with_name(path.name + ".png")
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        inside = False
    if not inside or Path(file_path).is_absolute() or ".." in Path(file_path).parts:
        raise SceneError(f"{where}: file_path {file_path[:80]!r} leaves the folder of the scene")
    return path


def read_pose(where: str, matrix: Any) -> np.ndarray:
    """A pose [3, 4] from the 4 x 4 (or 3 x 4) numbers of a JSON file.

    Raises:
      SceneError: it is not one; `where` begins the message.
    """
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.zeros(())
    if pose.shape not in ((4, 4), (3, 4)):
        raise SceneError(f"{where}: transform_matrix must be 4 x 4 numbers")
    if not np.isfinite(pose).all() or np.abs(pose).max() > 1e9:
        raise SceneError(
            f"{where}: transform_matrix has values that are not finite or far too large"
        )
    rotation = pose[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise SceneError(f"{where}: transform_matrix is not rigid (a rotation and a position)")
    if len(pose) == 4 and not np.allclose(pose[3], [0.0, 0.0, 0.0, 1.0], atol=1e-6):
        raise SceneError(f"{where}: the last row of transform_matrix is not 0 0 0 1")
    return pose[:3]

"""Shared by the readers of JSON files: checked values, or an error of one line that names the key."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.frames import is_rigid

_MAX_JSON_BYTES = 200_000_000


def load_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object, in UTF-8, UTF-16 or UTF-32, with a byte order mark or without.

    Raises:
      SceneError: it is missing, broken, too large, or does not hold an object.
    """
    try:
        if path.exists() and not path.is_file():
            raise SceneError(f"{path}: not a file")
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise SceneError(f"{path}: too large for a transforms file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise SceneError(f"{path}: no such file") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror}") from None
    return object_of(path, data)


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of a file, if it has no more than a number of them.

    Raises:
      SceneError: the file is missing, too large, or cannot be read.
    """
    try:
        if not path.is_file():
            raise SceneError(f"{path}: not a file")
        if path.stat().st_size > most:
            raise SceneError(f"{path}: more than {most:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror}") from None


def object_of(where: Path | str, data: bytes) -> dict[str, Any]:
    """The object in the bytes of a JSON file; see `load_json`.

    Raises:
      SceneError: they are broken, or do not hold an object; `where` begins the message.
    """
    try:
        contents = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{where}: broken JSON: {error}") from None
    if not isinstance(contents, dict):
        raise SceneError(f"{where}: must hold a JSON object")
    return _without_nulls(contents)


def _without_nulls(contents: dict[str, Any]) -> dict[str, Any]:
    """What a program wrote as null it did not know: it is as good as not there."""
    return {key: value for key, value in contents.items() if value is not None}


def frames_of(path: Path, contents: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The frames of a JSON file, each with its position for messages.

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
        yield where, _without_nulls(frame)


def field_of_view(
    where: Path | str, contents: Mapping[str, Any], key: str = "camera_angle_x"
) -> float:
    """An angle of view in a JSON file, in radians.

    Raises:
      SceneError: it is missing or not between 0 and pi; `where` begins the message.
    """
    angle = number(where, contents, key)
    if not 1e-6 < angle < math.pi - 1e-6:
        raise SceneError(f"{where}: {key} {angle} is not between 0 and pi radians")
    return angle


def number(
    where: Path | str, contents: Mapping[str, Any], key: str, default: float | None = None
) -> float:
    """A finite number in a JSON file; `where` begins the message.

    Raises:
      SceneError: it is missing and there is no default, or it is something else.
    """
    value = contents.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "is missing" if value is None else f"must be a number, got {str(value)[:40]!r}"
        raise SceneError(f"{where}: {key} {what}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise SceneError(f"{where}: {key} is not finite")
    return value


def read_pose(where: str, matrix: Any, key: str = "transform_matrix") -> np.ndarray:
    """A pose [3, 4] from the 4 x 4 (or 3 x 4) numbers of a JSON file; `key` names them in messages.

    A uniform scale of the rotation is removed (see `scale_of`), since it does not affect the camera's
    position or direction.

    Raises:
      SceneError: it is not a pose; `where` begins the message.
    """
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.zeros(())
    if pose.shape not in ((4, 4), (3, 4)):
        raise SceneError(f"{where}: {key} must be 4 x 4 numbers")
    if not np.isfinite(pose).all() or np.abs(pose).max() > 1e9:
        raise SceneError(f"{where}: {key} has values that are not finite or far too large")
    scale = scale_of(pose)
    if not is_rigid(pose[:3, :3] / scale):
        raise SceneError(f"{where}: {key} is not rigid (a rotation and a position)")
    if len(pose) == 4 and not np.allclose(pose[3], [0.0, 0.0, 0.0, 1.0], atol=1e-6):
        raise SceneError(f"{where}: the last row of {key} is not 0 0 0 1")
    return np.concatenate([pose[:3, :3] / scale, pose[:3, 3:]], axis=-1)


def scale_of(pose: np.ndarray) -> float:
    """The mean length of the axes of a pose's rotation; exactly 1 if it differs from 1 by rounding only.

    Args:
      pose: finite, [3, 4] or [4, 4].
    """
    rotation = pose[:3, :3]
    if is_rigid(rotation):
        return 1.0
    return max(float(np.mean(np.linalg.norm(rotation, axis=0))), 1e-30)


def describe_scales(scales: Sequence[float], what: str) -> tuple[str, ...]:
    """A note on scales other than 1 that were removed from rotations, if there were any.

    Args:
      scales: the scale of each pose, see `scale_of`.
      what: name of the file or key with the poses.
    """
    found = [scale for scale in scales if scale != 1.0]
    if not found:
        return ()
    least, most = min(found), max(found)
    by = f"{least:.4g}" if most < 1.001 * least else f"{least:.4g} to {most:.4g}"
    of = "" if len(found) == len(scales) else f"{len(found)} of {len(scales)} "
    return (f"the rotations of {of}{what} are scaled by {by}, which is taken out",)


def path_in(
    folder: Path, where: str, field: str, value: Any, *, allow_outside_paths: bool = False
) -> Path:
    """The path that a key of a JSON file names, relative to the file's folder.

    Backslashes are read as slashes, since files that were written on Windows have them.

    Args:
      folder: folder of the file.
      where: begins the message.
      field, value: the key and its value.
      allow_outside_paths: whether the path may be absolute, contain .., or leave the folder by a link.

    Raises:
      SceneError: it is not a path, or leaves the folder.
    """
    if not isinstance(value, str) or not value or any(ord(letter) < 32 for letter in value):
        raise SceneError(f"{where}: {field} must be the name of a file")
    value = value.replace("\\", "/")
    if not allow_outside_paths and (Path(value).is_absolute() or ".." in Path(value).parts):
        raise SceneError(f"{where}: {field} {_leaves(value)}")
    return confined(folder, folder / value, f"{where}: {field}", allow_outside_paths)


def name_of(folder: Path, path: Path) -> str:
    """A file's name for people, relative to the folder if the file is in it."""
    inside = path.is_relative_to(folder)
    return (path.relative_to(folder) if inside else path).as_posix()


def confined(folder: Path, path: Path, what: str, allow_outside_paths: bool = False) -> Path:
    """Check that a path does not leave a folder by a link, and return it.

    Args:
      folder, path: the path begins with the folder.
      what: begins the message.
      allow_outside_paths: whether the path may leave the folder.

    Raises:
      SceneError: the path leaves the folder, or cannot be resolved.
    """
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # cycles of links, too long or invalid names
        raise SceneError(f"{what}: {str(path)[-80:]!r} cannot be followed") from None
    if not inside and not allow_outside_paths:
        raise SceneError(f"{what} {_leaves(str(path.name))}")
    return path


def is_file(path: Path) -> bool:
    """Whether a path exists; False if its name is too long or invalid."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _leaves(value: str) -> str:
    return (
        f"{value[:80]!r} leaves the folder of the scene; allow_outside_paths "
        "(--allow_outside_paths) reads it all the same"
    )

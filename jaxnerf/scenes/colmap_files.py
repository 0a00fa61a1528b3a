"""Reader of COLMAP's sparse models: cameras, images and points3D, each a .bin or a .txt file.

The formats are described in https://colmap.github.io/format.html. Newer versions also write rigs and
frames; these are not read, since the images contain the same information.
"""

import codecs
import dataclasses
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.colmap_cameras import MODELS, intrinsics
from jaxnerf.scenes.json_files import is_file, read_bytes

_MAX_BYTES = 2_000_000_000
_MAX_SIDE = 1_000_000
_MOST = 1e9  # limit of the absolute value of coordinates
_NAMES = {model.number: name for name, model in MODELS.items()}
PARTS = ("cameras", "images", "points3D")
FEATURE = np.dtype([("place", "<f8", 2), ("point", "<i8")])
POINT = np.dtype(
    [
        ("number", "<i8"),
        ("position", "<f8", 3),
        ("colour", "u1", 3),
        ("error", "<f8"),
        ("track", "<u8"),
    ]
)


@dataclasses.dataclass(frozen=True)
class ModelCamera:
    """A camera: a model of `colmap_cameras.MODELS`, (width, height) in pixels, and its parameters."""

    model: str
    size: tuple[int, int]
    parameters: Float[np.ndarray, " P"]


@dataclasses.dataclass(frozen=True)
class ModelImage:
    """A registered photograph.

    Attributes:
      name: name of its file, relative to the folder of the photographs, with forward slashes.
      camera: the ID of its camera.
      rotation, translation: see `colmap_cameras.pose_of`.
      places: positions of the features, in pixels.
      points: the ID of each feature's point; -1 for none.
    """

    name: str
    camera: int
    rotation: Float[np.ndarray, "4"]
    translation: Float[np.ndarray, "3"]
    places: Float[np.ndarray, "F 2"] = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    points: Int[np.ndarray, " F"] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


@dataclasses.dataclass(frozen=True)
class ModelPoints:
    """The points: their IDs, positions, 8-bit colours, and reprojection errors in pixels."""

    numbers: Int[np.ndarray, " P"]
    positions: Float[np.ndarray, "P 3"]
    colours: UInt8[np.ndarray, "P 3"]
    errors: Float[np.ndarray, " P"]


@dataclasses.dataclass(frozen=True)
class SparseModel:
    """A reconstruction: cameras and images by their IDs, and points."""

    cameras: dict[int, ModelCamera]
    images: dict[int, ModelImage]
    points: ModelPoints


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model's `PARTS` that exist; the .bin file if there are both."""
    files = {}
    for part in PARTS:
        for suffix in (".txt", ".bin"):
            if is_file(folder / f"{part}{suffix}"):
                files[part] = folder / f"{part}{suffix}"
    return files


def registered(folder: Path) -> int:
    """Number of photographs in a model, from the file of its images alone; -1 if it cannot be read."""
    files = model_files(folder)
    # Opening a named pipe would block.
    if not {"cameras", "images"} <= files.keys() or not files["images"].is_file():
        return -1
    try:
        if files["images"].suffix == ".bin":
            with files["images"].open("rb") as file:
                return struct.unpack("<Q", file.read(8))[0]
        return sum(1 for _ in _pairs(files["images"]))
    except (OSError, struct.error, SceneError):
        return -1


def read_model(folder: Path) -> SparseModel:
    """Read a model; one without points3D has no points.

    Raises:
      SceneError: a file is missing, broken, or contradicts another.
    """
    files = model_files(folder)
    for part in ("cameras", "images"):
        if part not in files:
            raise SceneError(f"{folder}: no {part}.bin or {part}.txt in this COLMAP model")
    path = files["cameras"]
    cameras = _numbered(path, _cameras_bin(path) if path.suffix == ".bin" else _cameras_txt(path))
    path = files["images"]
    images = _numbered(path, _images_bin(path) if path.suffix == ".bin" else _images_txt(path))
    for number, image in images.items():
        if image.camera not in cameras:
            raise SceneError(
                f"{path}: image {number}: its CAMERA_ID {image.camera} is not in "
                f"{files['cameras'].name}"
            )
    if "points3D" not in files:
        return SparseModel(cameras, images, _points(path, np.zeros(0, POINT)))
    path = files["points3D"]
    rows = _points_bin(path) if path.suffix == ".bin" else _points_txt(path)
    return SparseModel(cameras, images, _points(path, rows))


class _Bytes:
    """The unread rest of a binary file."""

    def __init__(self, path: Path):
        self.path, self.data, self.offset = path, read_bytes(path, _MAX_BYTES), 0

    def take(self, layout: str, what: str) -> tuple:
        try:
            values = struct.unpack_from(layout, self.data, self.offset)
        except struct.error:
            self.ends(what)
        self.offset += struct.calcsize(layout)
        return values

    def skip(self, size: int, what: str) -> memoryview:
        if size > len(self.data) - self.offset:
            self.ends(what)
        self.offset += size
        return memoryview(self.data)[self.offset - size : self.offset]

    def ends(self, what: str) -> NoReturn:
        raise SceneError(f"{self.path}: ends in the middle of {what}")

    def records(self, smallest: int, what: str) -> Iterator[str]:
        """A description for messages of each record; the number of records is read first."""
        (count,) = self.take("<Q", "its count")
        if count * smallest > len(self.data) - self.offset:
            raise SceneError(
                f"{self.path}: too short for the {count} {what}s that it says it holds"
            )
        for index in range(count):
            yield f"{what} {index + 1} of {count}"
        if self.offset != len(self.data):
            raise SceneError(
                f"{self.path}: goes on after the {count} {what}s that it says it holds"
            )


def _lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, with or without a byte order mark, or in UTF-16 with one."""
    contents = read_bytes(path, _MAX_BYTES)
    is_wide = contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return contents.decode("utf-16" if is_wide else "utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise SceneError(f"{path}: not a text in UTF-8 or UTF-16") from None


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The words of each line that is neither empty nor a comment, with the line's number for messages."""
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield f"line {number}", words


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """The pairs of lines of images.txt, with a number for messages; the second line may be empty."""
    lines = enumerate(_lines(path), 1)
    for number, line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"line {number}", line.strip(), next(lines, (0, ""))[1]


def _numbered(path: Path, items: Iterator[tuple[int, Any]]) -> dict[int, Any]:
    found = {}
    for number, item in items:
        if number in found:
            raise SceneError(f"{path}: the ID {number} twice")
        found[number] = item
    return found


def _cameras_bin(path: Path) -> Iterator[tuple[int, ModelCamera]]:
    file = _Bytes(path)
    for where in file.records(24, "camera"):
        number, model, width, height = file.take("<IiQQ", where)
        if model not in _NAMES:
            raise SceneError(f"{path}: {where}: its model {model} is not known")
        count = len(MODELS[_NAMES[model]].parameters)
        parameters = np.array(file.take(f"<{count}d", where))
        yield number, _camera(path, where, _NAMES[model], (width, height), parameters)


def _cameras_txt(path: Path) -> Iterator[tuple[int, ModelCamera]]:
    for where, words in _rows(path):
        try:
            number, width, height = (int(words[place]) for place in (0, 2, 3))
            parameters = np.array([float(word) for word in words[4:]])
        except (ValueError, IndexError):
            raise SceneError(
                f"{path}: {where}: should be CAMERA_ID MODEL WIDTH HEIGHT and numbers"
            ) from None
        yield number, _camera(path, where, words[1], (width, height), parameters)


def _camera(
    path: Path, where: str, model: str, size: tuple[int, int], parameters: np.ndarray
) -> ModelCamera:
    if model not in MODELS:
        raise SceneError(f"{path}: {where}: its model {model[:40]!r} is not known")
    if not all(1 <= side <= _MAX_SIDE for side in size):
        raise SceneError(f"{path}: {where}: its WIDTH and HEIGHT are not from 1 to {_MAX_SIDE:,}")
    try:
        intrinsics(model, parameters)
    except ValueError as error:
        raise SceneError(f"{path}: {where}: {error}") from None
    return ModelCamera(model, size, parameters)


def _images_bin(path: Path) -> Iterator[tuple[int, ModelImage]]:
    file = _Bytes(path)
    for where in file.records(73, "image"):
        number, *pose, camera = file.take("<I7dI", where)
        end = file.data.find(b"\0", file.offset)
        if end < 0:
            file.ends(where)
        try:
            name = str(file.skip(end - file.offset, where), "utf-8")
        except UnicodeDecodeError:
            raise SceneError(f"{path}: {where}: its NAME is not a text in UTF-8") from None
        _, count = file.take("<cQ", where)
        seen = np.frombuffer(file.skip(count * FEATURE.itemsize, where), FEATURE)
        yield number, _image(path, where, name, camera, pose, seen["place"], seen["point"])


def _images_txt(path: Path) -> Iterator[tuple[int, ModelImage]]:
    for where, line, features in _pairs(path):
        try:
            words, seen = line.split(maxsplit=9), features.split()
            number, camera, name = int(words[0]), int(words[8]), words[9]
            pose = [float(word) for word in words[1:8]]
            pairs = zip(seen[0::3], seen[1::3], strict=False)
            places = np.array([[float(x), float(y)] for x, y in pairs]).reshape(-1, 2)
            points = np.array([int(word) for word in seen[2::3]], np.int64)
            if len(seen) % 3:
                raise ValueError
        except (ValueError, IndexError, OverflowError):
            raise SceneError(
                f"{path}: {where}: should be IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, and the "
                "next line X Y POINT3D_ID of each feature"
            ) from None
        yield number, _image(path, where, name, camera, pose, places, points)


def _image(
    path: Path,
    where: str,
    name: str,
    camera: int,
    pose: list[float],
    places: np.ndarray,
    points: np.ndarray,
) -> ModelImage:
    length = math.hypot(*pose[:4])
    if not 0.9 < length < 1.1:
        raise SceneError(f"{path}: {where}: its quaternion is of length {length:g}, not 1")
    translation = np.array(pose[4:])
    if not (np.abs(translation) < _MOST).all():
        raise SceneError(f"{path}: {where}: its translation is not finite or far too large")
    rotation = np.array(pose[:4]) / length
    name = name.replace("\\", "/")
    return ModelImage(name, camera, rotation, translation, np.array(places), np.array(points))


def _points_bin(path: Path) -> np.ndarray:
    file, starts = _Bytes(path), []
    for where in file.records(POINT.itemsize, "point"):
        starts.append(file.offset)
        file.skip(POINT.itemsize - 8, where)
        (track,) = file.take("<Q", where)
        file.skip(8 * track, where)
    places = np.array(starts, np.int64)[:, None] + np.arange(POINT.itemsize)
    return np.frombuffer(file.data, np.uint8)[places].view(POINT)[:, 0]


def _points_txt(path: Path) -> np.ndarray:
    rows = []
    for where, words in _rows(path):
        try:
            colour = tuple(int(word) for word in words[4:7])
            if len(words) < 8 or len(words) % 2 or not all(0 <= c <= 255 for c in colour):
                raise ValueError
            number, position = int(words[0]), tuple(float(word) for word in words[1:4])
            rows.append((number, position, colour, float(words[7]), len(words) // 2 - 4))
        except ValueError:
            raise SceneError(
                f"{path}: {where}: should be POINT3D_ID X Y Z R G B ERROR and pairs of a track"
            ) from None
    try:
        return np.array(rows, POINT)
    except OverflowError:
        raise SceneError(f"{path}: a POINT3D_ID is too large") from None


def _points(path: Path, rows: np.ndarray) -> ModelPoints:
    # The columns of packed records are neither aligned nor contiguous.
    columns = ("number", "position", "colour", "error")
    points = ModelPoints(*(np.ascontiguousarray(rows[name]) for name in columns))
    wrong = ~(np.abs(points.positions) < _MOST).all(axis=-1)
    if wrong.any():
        number = points.numbers[wrong.argmax()]
        raise SceneError(f"{path}: point {number}: its X Y Z are not finite or far too large")
    return points

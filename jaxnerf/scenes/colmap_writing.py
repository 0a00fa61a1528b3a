"""Writing COLMAP's sparse models; see `colmap_files`."""

import contextlib
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxnerf.runs.files import replacing
from jaxnerf.scenes.colmap_cameras import MODELS
from jaxnerf.scenes.colmap_files import FEATURE, PARTS, ModelPoints, SparseModel

Track = list[tuple[int, int]]


def write_model(folder: Path, model: SparseModel, text: bool = False) -> None:
    """Write the three files of a model into a folder, which is created: either all of them or none.

    The points' tracks are made from the images' features.

    Args:
      folder: the folder; a model in it is replaced, and its files of rigs and frames are removed.
      model: the model.
      text: whether to write .txt files; .bin by default.

    Raises:
      OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = _texts(model) if text else _binaries(model)
    files = [folder / f"{part}{'.txt' if text else '.bin'}" for part in PARTS]
    with contextlib.ExitStack() as stack:
        for file, contents in zip(files, written, strict=True):
            stack.enter_context(replacing(file)).write_bytes(contents)
    for part in (*PARTS, "rigs", "frames"):
        for suffix in (".bin", ".txt"):
            if (old := folder / f"{part}{suffix}") not in files:
                old.unlink(missing_ok=True)


def points_file(points: ModelPoints, text: bool = False) -> bytes:
    """The contents of a points3D file with points without tracks."""
    return (_texts if text else _binaries)(SparseModel({}, {}, points))[2]


def _seen(model: SparseModel) -> dict[int, np.ndarray]:
    """For each image, the ID of the point of each feature; -1 if the model does not have this point."""
    return {
        number: np.where(np.isin(image.points, model.points.numbers), image.points, -1)
        for number, image in model.images.items()
    }


def _tracks(model: SparseModel) -> dict[int, Track]:
    """For each point, the pairs (image, feature) that observe it."""
    tracks: dict[int, Track] = {int(number): [] for number in model.points.numbers}
    for number, points in _seen(model).items():
        for feature in np.flatnonzero(points >= 0):
            tracks[int(points[feature])].append((number, int(feature)))
    return tracks


def _binaries(model: SparseModel) -> tuple[bytes, bytes, bytes]:
    cameras = [struct.pack("<Q", len(model.cameras))]
    for number, camera in model.cameras.items():
        cameras.append(struct.pack("<IiQQ", number, MODELS[camera.model].number, *camera.size))
        cameras.append(np.asarray(camera.parameters, "<f8").tobytes())
    images, seen = [struct.pack("<Q", len(model.images))], _seen(model)
    for number, image in model.images.items():
        images.append(
            struct.pack("<I7dI", number, *image.rotation, *image.translation, image.camera)
        )
        features = np.zeros(len(image.points), FEATURE)
        features["place"], features["point"] = image.places, seen[number]
        images.append(image.name.encode() + b"\0" + struct.pack("<Q", len(features)))
        images.append(features.tobytes())
    tracks, points = _tracks(model), [struct.pack("<Q", len(model.points.numbers))]
    for number, position, colour, error in _point_rows(model):
        track = tracks[number]
        points.append(struct.pack("<Q3d3BdQ", number, *position, *colour, error, len(track)))
        points.append(np.array(track, "<u4").tobytes())
    return b"".join(cameras), b"".join(images), b"".join(points)


def _texts(model: SparseModel) -> tuple[bytes, bytes, bytes]:
    cameras = [
        f"{number} {camera.model} {camera.size[0]} {camera.size[1]} {_words(camera.parameters)}\n"
        for number, camera in model.cameras.items()
    ]
    seen = _seen(model)
    images = [
        f"{number} {_words([*image.rotation, *image.translation])} {image.camera} {image.name}\n"
        + " ".join(
            f"{_words(place)} {point}"
            for place, point in zip(image.places, seen[number], strict=True)
        )
        + "\n"
        for number, image in model.images.items()
    ]
    tracks = _tracks(model)
    points = [
        f"{number} {_words(position)} {' '.join(map(str, colour))} {_words([error])}"
        + "".join(f" {image} {feature}" for image, feature in tracks[number])
        + "\n"
        for number, position, colour, error in _point_rows(model)
    ]
    heads = (
        "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]\n",
        "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME\n# POINTS2D[] as X Y POINT3D_ID\n",
        "# POINT3D_ID X Y Z R G B ERROR TRACK[] as IMAGE_ID POINT2D_IDX\n",
    )
    cameras, images, points = (
        (head + "".join(lines)).encode()
        for head, lines in zip(heads, (cameras, images, points), strict=True)
    )
    return cameras, images, points


def _words(numbers: Iterable[float]) -> str:
    """Numbers with enough digits to read back the same float64 values."""
    return " ".join(repr(float(number)) for number in numbers)


def _point_rows(model: SparseModel) -> Iterable[tuple[int, list[float], list[int], float]]:
    points = model.points
    return zip(
        points.numbers.tolist(),
        points.positions.tolist(),
        points.colours.tolist(),
        points.errors.tolist(),
        strict=True,
    )

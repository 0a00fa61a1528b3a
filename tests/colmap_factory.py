"""A tiny COLMAP project, written without any code of jaxnerf; and random ones of pycolmap."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_factory import ANGLE, CENTRES, COLOURS, eyes, matrix, paint
from scipy.spatial.transform import Rotation

from jaxnerf.scenes.colmap_cameras import MODELS

Camera = tuple[str, int, int, list[float]]
MODEL_NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "OPENCV": 4, "OPENCV_FISHEYE": 5}


def focal_of(width: int) -> float:
    return 0.5 * width / math.tan(0.5 * ANGLE)


def pinhole(width: int, height: int) -> Camera:
    return "SIMPLE_PINHOLE", width, height, [focal_of(width), width / 2, height / 2]


def world_to_camera(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternion (w, x, y, z) and translation, of an eye that looks at the origin or of a pose."""
    pose = np.array(matrix(place))[:3] if place.ndim == 1 else place
    rotation = (pose[:, :3] * [1.0, -1.0, -1.0]).T
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.array([w, x, y, z]), -rotation @ pose[:, 3]


def write_model(
    folder: Path,
    cameras: dict[int, Camera],
    images: Sequence[tuple[int, str, int, np.ndarray]],
    binary: bool = False,
    points: np.ndarray = CENTRES,
) -> None:
    """A model with three points, which every image sees.

    Args:
      images: number, name, camera's number, and eye or pose of each.
      points: as many as balls; their centres.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if binary:
        return _write_binary(folder, cameras, images, points)
    lines = [
        f"{n} {model} {w} {h} {' '.join(map(repr, p))}" for n, (model, w, h, p) in cameras.items()
    ]
    (folder / "cameras.txt").write_text("# a comment\n" + "\n".join(lines) + "\n")
    lines = []
    for number, name, camera, eye in images:
        pose = " ".join(repr(float(v)) for part in world_to_camera(eye) for v in part)
        lines += [f"{number} {pose} {camera} {name}", "1.5 2.5 1 3.5 4.5 -1 5.5 6.5 2 7.5 8.5 3"]
    (folder / "images.txt").write_text("# a comment\n\n" + "\n".join(lines) + "\n")
    lines = []
    for number, (place, colour) in enumerate(zip(points, COLOURS, strict=True), 1):
        where = " ".join(repr(float(v)) for v in place)
        track = " ".join(f"{image[0]} {(0, 2, 3)[number - 1]}" for image in images)
        lines.append(f"{number} {where} {' '.join(map(str, colour))} 0.5 {track}")
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")
    return None


def _write_binary(folder, cameras, images, points):
    data = struct.pack("<Q", len(cameras))
    for number, (model, width, height, parameters) in cameras.items():
        data += struct.pack("<IiQQ", number, MODEL_NUMBERS[model], width, height)
        data += struct.pack(f"<{len(parameters)}d", *parameters)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for number, name, camera, eye in images:
        quaternion, translation = world_to_camera(eye)
        data += struct.pack("<I7dI", number, *quaternion, *translation, camera)
        data += name.encode() + b"\0" + struct.pack("<Q", 4)
        for place, point in enumerate((1, -1, 2, 3)):
            data += struct.pack("<ddq", 1.5 + 2 * place, 2.5 + 2 * place, point)
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", 3)
    for number, (place, colour) in enumerate(zip(points, COLOURS, strict=True), 1):
        data += struct.pack("<Q3d3Bd", number, *place, *map(int, colour), 0.5)
        data += struct.pack("<Q", len(images))
        for image in images:
            data += struct.pack("<II", image[0], (0, 2, 3)[number - 1])
    (folder / "points3D.bin").write_bytes(data)


def write_project(
    folder: Path, width: int = 48, height: int = 40, count: int = 9, binary: bool = False
) -> Path:
    """A model in sparse/0 and photographs images/view_N.png; returns the folder."""
    (folder / "images").mkdir(parents=True)
    images = []
    for index, eye in enumerate(eyes(count)):
        Image.fromarray(paint(eye, width, height)).save(folder / f"images/view_{index}.png")
        images.append((index + 1, f"view_{index}.png", 1, eye))
    write_model(folder / "sparse/0", {1: pinhole(width, height)}, images, binary)
    return folder


def random_reconstruction(seed: int):
    """Cameras of every model, in rigs, with points and tracks."""
    pycolmap = pytest.importorskip("pycolmap")
    pycolmap.set_random_seed(seed)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, 2, 3
    options.num_points3D = 50
    found = pycolmap.synthesize_dataset(options)
    rng, models = np.random.default_rng(seed), list(MODELS)[4 * seed % len(MODELS) :]
    for camera, model in zip(found.cameras.values(), models, strict=False):
        camera.model = model
        camera.params = [
            {"f": 500.0, "fx": 500.0, "fy": 510.0, "w": 640.0, "h": 320.0, "beta": 1.1}.get(
                name, rng.uniform(0.0, 0.1)
            )
            for name in MODELS[model].parameters
        ]
    return found

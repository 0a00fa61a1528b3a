"""Tiny captures in each format that is read, painted without any code of jaxnerf."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from colmap_factory import pinhole, write_model
from PIL import Image
from scene_factory import ANGLE, CENTRES, eyes, matrix, paint
from scipy.spatial.transform import Rotation

from jaxnerf.scenes import Scene, Similarity

BOTH = ("train", "test")

WIDTH, HEIGHT = 20, 16
FOCAL = 0.5 * WIDTH / math.tan(0.5 * ANGLE)


def around(count: int = 9) -> np.ndarray:
    """Positions all around the balls."""
    return eyes(count)


def in_front(count: int = 9) -> np.ndarray:
    """Positions before the balls, from which the directions to the middle differ by few degrees."""
    random = np.random.default_rng(3)
    return np.array([2.3, 2.3, 2.3]) + random.uniform(-0.4, 0.4, (count, 3))


def random_similarity(seed: int) -> Similarity:
    random = np.random.default_rng(seed)
    return Similarity(
        float(10.0 ** random.uniform(-2.0, 2.0)),
        Rotation.random(rng=random).as_matrix(),
        random.uniform(-1.0, 1.0, 3) * 10.0 ** random.uniform(-1.0, 3.0),
    )


def poses_of(places: np.ndarray, similarity: Similarity | None = None) -> np.ndarray:
    """Poses [N, 3, 4] at places, in a copy of the world that a similarity made."""
    poses = np.stack([np.array(matrix(place))[:3] for place in places])
    if similarity is not None:
        poses[:, :, :3] = similarity.rotation @ poses[:, :, :3]
        moved = (similarity.scale * similarity.rotation @ poses[:, :, 3].T).T
        poses[:, :, 3] = moved + similarity.translation
    return poses


def write_pictures(folder: Path, places: np.ndarray, width=WIDTH, height=HEIGHT) -> list[str]:
    folder.mkdir(parents=True)
    names = [f"{index:04d}.png" for index in range(len(places))]
    for name, place in zip(names, places, strict=True):
        Image.fromarray(paint(place, width, height)).save(folder / name)
    return names


def write_transforms(
    folder: Path, places: np.ndarray | None = None, similarity: Similarity | None = None, **values
) -> Path:
    """One transforms.json, as instant-ngp reads it; with camera_model=... it is nerfstudio's."""
    places = around() if places is None else places
    names = write_pictures(folder / "images", places)
    frames: list[dict[str, Any]] = [
        {"file_path": f"images/{name}", "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]}
        for name, pose in zip(names, poses_of(places, similarity), strict=True)
    ]
    shared = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2}
    shared |= {"w": WIDTH, "h": HEIGHT, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    (folder / "transforms.json").write_text(json.dumps({**shared, **values, "frames": frames}))
    return folder


def llff_rows(places: np.ndarray, similarity: Similarity | None = None) -> np.ndarray:
    """poses_bounds.npy of photographs four times as large as those that are painted."""
    scale = 1.0 if similarity is None else similarity.scale
    rows = []
    for place, pose in zip(places, poses_of(places, similarity), strict=True):
        right, up, back, position = pose.T
        size = np.array([4.0 * HEIGHT, 4.0 * WIDTH, 4.0 * FOCAL])
        distance = np.linalg.norm(place)
        depths = [scale * (distance - 1.5), scale * (distance + 1.5)]
        whole = np.stack([-up, right, back, position, size], axis=-1)
        rows.append([*whole.reshape(-1), *depths])
    return np.array(rows)


def write_llff(
    folder: Path, places: np.ndarray | None = None, similarity: Similarity | None = None
) -> Path:
    """poses_bounds.npy, and images_4 alone of the folders of photographs."""
    places = in_front() if places is None else places
    write_pictures(folder / "images_4", places)
    np.save(folder / "poses_bounds.npy", llff_rows(places, similarity))
    return folder


def write_nerfstudio(
    folder: Path, places: np.ndarray | None = None, similarity: Similarity | None = None, **values
) -> Path:
    """The same as nerfstudio writes it."""
    return write_transforms(folder, places, similarity, camera_model="OPENCV", **values)


def write_colmap(
    folder: Path,
    places: np.ndarray | None = None,
    similarity: Similarity | None = None,
    binary: bool = False,
) -> Path:
    """A model in sparse/0 with the centres of the balls as its points."""
    places = around() if places is None else places
    names = write_pictures(folder / "images", places)
    poses = poses_of(places, similarity)
    images = [(i + 1, name, 1, poses[i]) for i, name in enumerate(names)]
    points = CENTRES if similarity is None else similarity.points(CENTRES)
    write_model(folder / "sparse/0", {1: pinhole(WIDTH, HEIGHT)}, images, binary, points)
    return folder


def write_dtu(
    folder: Path, places: np.ndarray | None = None, similarity: Similarity | None = None
) -> Path:
    """cameras_sphere.npz with a sphere of 2.5, photographs in image and what is opaque in mask."""
    places = around() if places is None else places
    (folder / "mask").mkdir(parents=True)
    for name in write_pictures(folder / "image", places):
        picture = Image.open(folder / "image" / name)
        picture.getchannel("A").save(folder / "mask" / name)
        picture.convert("RGB").save(folder / "image" / name)
    sphere, inner = np.diag([2.5, 2.5, 2.5, 1.0]), np.eye(4)
    sphere[:3, 3] = [0.3, -0.2, 0.4]
    if similarity is not None:
        whole = np.eye(4)
        whole[:3, :3] = similarity.scale * similarity.rotation
        whole[:3, 3] = similarity.translation
        sphere = whole @ sphere
    # Pixels have whole coordinates there.
    inner[:2, :3] = [[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5]]
    matrices = {}
    for index, pose in enumerate(poses_of(places, similarity)):
        world = np.eye(4)
        world[:3, :3] = (pose[:, :3] * [1.0, -1.0, -1.0]).T
        world[:3, 3] = -world[:3, :3] @ pose[:, 3]
        matrices[f"world_mat_{index}"] = inner @ world
        matrices[f"scale_mat_{index}"] = sphere
    np.savez(folder / "cameras_sphere.npz", **matrices)
    return folder


WRITERS = {
    "instant-ngp": (write_transforms, around),
    "nerfstudio": (write_nerfstudio, around),
    "llff": (write_llff, in_front),
    "llff, all around": (lambda *given: write_llff(*given), around),
    "colmap": (write_colmap, around),
    "colmap, binary": (lambda *given: write_colmap(*given, binary=True), around),
    "dtu": (write_dtu, around),
}


def write(kind: str, folder: Path, similarity: Similarity | None = None) -> Path:
    """A capture of one of the kinds of `WRITERS`."""
    writer, places = WRITERS[kind]
    return writer(folder, places(), similarity)


def by_place(scene: Scene) -> tuple[np.ndarray, list, list[str]]:
    """All views in the order they were written: poses in the files' frame, cameras, images."""
    found = {}
    for split in scene.splits.values():
        poses = scene.to_user.poses(np.asarray(split.cameras.camera_to_world, np.float64))
        for index, name in enumerate(split.names):
            image = None if split.images is None else split.images[index]
            found[int(Path(name).stem)] = (poses[index], split.cameras[index], image)
    poses, cameras, images = zip(*(found[index] for index in sorted(found)), strict=True)
    return np.stack(poses), list(cameras), list(images)

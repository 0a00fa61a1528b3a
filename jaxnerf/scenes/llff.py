"""Reader of LLFF's format: poses_bounds.npy, and folders of photographs at several resolutions.

A row of poses_bounds.npy is one photograph, in the order of the files' names: a matrix [3, 5] with the
columns down, right, back and position of the camera, and (height, width, focal length) in pixels; then
the depths between which it sees something (Mildenhall et al., "Local light field fusion", 2019).

Where all cameras look the same way, the scene's frame is NeRF's: divided by 0.75 of the nearest depth,
with the average camera at the origin; its `ndc` are those of the near plane at 1. Elsewhere it is that
of `jaxnerf.scenes.frames.normalising`.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxnerf.scenes import NdcFrame, Scene, SceneError
from jaxnerf.scenes.frames import is_rigid, normalising, recentring
from jaxnerf.scenes.images import find_picture
from jaxnerf.scenes.json_files import confined, name_of
from jaxnerf.scenes.numpy_files import read_array
from jaxnerf.scenes.views import View, hold_out, shrink_factor, splits_of

_SUFFIXES = (".png", ".jpg", ".jpeg")
# Of the nearest depth, in NeRF's frame for forward-facing scenes.
_NEAREST = 0.75
# A little nearer than the nearest point that was triangulated.
_MARGIN = 0.9
# How far viewing axes turn away from their mean where all look the same way; and how far from it the
# corners of pictures may still look, since rays across it have no NDC.
_CONE, _EDGE = math.radians(40.0), math.radians(80.0)


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return (folder / "poses_bounds.npy").exists()


def read(
    folder: Path,
    *,
    downscale: int = 1,
    longest_side: int = 0,
    images: Sequence[str] = ("train",),
    allow_outside_paths: bool = False,
) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Photographs are in the folder images, or smaller by 4 in images_4, and so on. The smallest ones are
    taken that can be shrunk to what is asked for by a whole factor; where there are none as large as
    that, the largest that are there. Focal lengths are scaled to their true sizes. Every 8th view from
    the first on is for testing.
    """
    path = folder / "poses_bounds.npy"
    rows = _read_rows(confined(folder, path, str(path), allow_outside_paths))
    wanted = shrink_factor(int(rows[:, [4, 9]].max()), downscale, longest_side)
    source, factor = _choose_folder(folder, wanted)
    views = _views(folder, source, rows, allow_outside_paths)
    scene = _place(folder, views, rows[:, 15:])
    splits = splits_of(
        folder, hold_out(views), scene.to_user.inverse(),
        downscale=max(downscale // factor, 1), longest_side=longest_side, images=images,
    )  # fmt: skip
    return dataclasses.replace(scene, splits=splits, notes=(f"photographs from {source.name}",))


def is_forward_facing(views: Sequence[View]) -> bool:
    """Whether all cameras look the same way, so that normalised device coordinates hold the scene."""
    poses = np.stack([view.pose for view in views])
    mean = poses[:, :, 2].mean(axis=0)
    length = np.linalg.norm(mean)
    if length < math.cos(_CONE):
        return False
    for view in views:
        (width, height), (right, up, back) = view.picture.size, view.pose[:, :3].T
        across, along = 0.5 * width / view.focal[0] * right, 0.5 * height / view.focal[1] * up
        corners = [back + x * across + y * along for x in (-1.0, 1.0) for y in (-1.0, 1.0)]
        edge = min(corner @ mean / np.linalg.norm(corner) for corner in corners)
        if back @ mean < length * math.cos(_CONE) or edge < length * math.cos(_EDGE):
            return False
    return True


def _place(folder: Path, views: Sequence[View], depths: np.ndarray) -> Scene:
    """The scene without its splits: its frame and what follows from that."""
    poses = np.stack([view.pose for view in views])
    nearest, farthest = float(depths.min()), float(depths.max())
    ndc = None
    if is_forward_facing(views):
        to_scene = recentring(poses, 1.0 / (_NEAREST * nearest))
        widest = min(views, key=lambda view: view.focal[0] / view.picture.size[0])
        ndc = NdcFrame(widest.focal, widest.picture.size)
    else:
        to_scene = normalising(poses)
    near, far = _MARGIN * nearest * to_scene.scale, farthest * to_scene.scale
    return Scene(
        folder.resolve().name, folder, "llff", {}, near, far,
        to_scene.inverse(), ndc, unbounded=ndc is None,
    )  # fmt: skip


def _read_rows(path: Path) -> Float[np.ndarray, "N 17"]:
    try:
        if not path.is_file():
            raise SceneError(f"{path}: not a file")
        with path.open("rb") as file:
            rows = read_array(str(path), file, (None, 17))
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror}") from None
    if not np.isfinite(rows).all() or np.abs(rows).max() > 1e9:
        raise SceneError(f"{path}: has values that are not finite or far too large")
    for index, row in enumerate(rows):
        matrix, (near, far), where = row[:15].reshape(3, 5), row[15:], f"{path}: row {index}"
        if not is_rigid(np.stack([matrix[:, 1], -matrix[:, 0], matrix[:, 2]], axis=-1)):
            raise SceneError(f"{where}: the pose is not rigid (a rotation and a position)")
        if (matrix[:, 4] < [1.0, 1.0, 1e-3]).any():
            height, width, focal = matrix[:, 4]
            raise SceneError(
                f"{where}: height {height:g}, width {width:g} and focal length {focal:g} are too small"
            )
        if not 1e-9 <= near < far:
            raise SceneError(f"{where}: depths {near:g} and {far:g} are not 1e-9 <= near < far")
    return rows


def _choose_folder(folder: Path, wanted: int) -> tuple[Path, int]:
    """The folder of photographs to shrink to a factor of the full size, and its own factor."""
    factors = {}
    for name in _names(folder):
        match = re.fullmatch(r"images(?:_([1-9][0-9]{0,3}))?", name)
        if match and (folder / name).is_dir():
            factors[int(match[1] or 1)] = folder / name
    if not factors:
        raise SceneError(f"{folder}: no folder images, images_4 or images_8 of photographs")
    whole = [factor for factor in factors if wanted % factor == 0]
    larger = [factor for factor in factors if factor < wanted]
    factor = max(whole or larger, default=min(factors))
    return factors[factor], factor


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read: {error.strerror}") from None


def _views(folder: Path, source: Path, rows: np.ndarray, allow_outside_paths: bool) -> list[View]:
    confined(folder, source, str(source), allow_outside_paths)
    names = [name for name in _names(source) if Path(name).suffix.lower() in _SUFFIXES]
    if len(names) != len(rows):
        raise SceneError(
            f"{source}: {len(names)} photographs, but poses_bounds.npy has {len(rows)} rows"
        )
    views = []
    for name, row in zip(names, rows, strict=True):
        matrix = row[:15].reshape(3, 5)
        down, right, back, position, (high, wide, focal) = matrix.T
        file = confined(folder, source / name, str(source / name), allow_outside_paths)
        picture = find_picture(file, (wide, high), "poses_bounds.npy")
        width, height = picture.size
        pose = np.stack([right, -down, back, position], axis=-1)
        focals = (float(focal * width / wide), float(focal * height / high))
        views.append(
            View(name_of(folder, file), picture, pose, focals, (0.5 * width, 0.5 * height))
        )
    return views

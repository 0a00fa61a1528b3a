"""Reader of LLFF's format: poses_bounds.npy, and folders of photographs at several resolutions.

A row of poses_bounds.npy belongs to one photograph, in the order of file names. It is a matrix [3, 5]
with the columns down, right, back and position of the camera, and (height, width, focal length) in
pixels; then the near and far depths of what the photograph shows (Mildenhall et al., "Local light field
fusion", 2019).

If all cameras look the same way, the scene's frame is NeRF's: divided by 0.75 of the nearest depth,
with the average camera at the origin; the near plane of its `ndc` is at 1. Otherwise it is that of
`jaxnerf.scenes.frames.normalising`.

The cameras were found by COLMAP. If its model is still beside poses_bounds.npy, with the same photographs
at the same poses, lenses and points are read from it: the rows have focal lengths alone.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from jaxnerf.scenes import NdcFrame, Options, Scene, SceneError
from jaxnerf.scenes.depths import MARGIN
from jaxnerf.scenes.frames import is_rigid, normalising, recentring
from jaxnerf.scenes.held_out import with_points
from jaxnerf.scenes.images import find_picture
from jaxnerf.scenes.json_files import confined, describe_scales, name_of, scale_of
from jaxnerf.scenes.llff_model import Model, matching_model
from jaxnerf.scenes.numpy_files import read_array
from jaxnerf.scenes.picture_files import choose_rows, is_folder, list_pictures
from jaxnerf.scenes.views import View, hold_out, leaks, shrink_factor, splits_of

# NeRF's frame for forward-facing scenes is divided by this fraction of the nearest depth.
_NEAREST = 0.75
# A scene is forward-facing if all viewing axes are within _CONE of their mean, and the rays of the
# images' corners within _EDGE: rays perpendicular to the mean have no NDC.
_CONE, _EDGE = math.radians(40.0), math.radians(80.0)
# A near depth is an outlier, from a point that was triangulated wrongly, if it is less than STRAY times
# this percentile of all photographs' near depths. (In published scenes the least is 0.8 times it or
# more.) A far depth is an outlier above _FARTHEST times the opposite percentile of the far depths.
NEAREST_PERCENTILE, STRAY, _FARTHEST = 10.0, 0.25, 10.0


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return (folder / "poses_bounds.npy").exists()


def read(folder: Path, options: Options = Options()) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Photographs are in the folder images, or in images_4 if they are smaller by a factor of 4, and so on.
    The smallest ones are read that can be shrunk to the wanted size by a whole factor; if there are none,
    the smallest ones that are larger than wanted; if there are none, the largest ones. Focal lengths are
    scaled to the photographs' sizes. Every 8th view, from the first on, is for testing.
    """
    rows, scaled = _rows_of(folder, options.allow_outside_paths)
    longest = int(rows[:, [4, 9]].max())
    wanted = shrink_factor(longest, options.downscale, options.longest_side)
    source, factor = _choose_folder(folder, wanted)
    model = matching_model(folder, rows, options.allow_outside_paths)
    views, notes = _views(folder, source, rows, model, options.allow_outside_paths)
    scene = _place(folder, views, rows[:, 15:])
    if wanted % factor == 0:
        options = dataclasses.replace(options, downscale=wanted // factor, longest_side=0)
    else:
        options = dataclasses.replace(options, downscale=max(options.downscale // factor, 1))
    held_out = hold_out(views)
    splits = splits_of(folder, held_out, scene.to_user.inverse(), options)
    notes = [f"photographs from {source.name}", *scaled, *notes, *_describe_stray(rows[:, 15:])]
    notes += leaks(held_out)
    if model is not None:
        notes.append(f"lenses and points from {model.name}")
        scene = with_points(scene, scene.to_user.inverse().points(model.points))
    return dataclasses.replace(scene, splits=splits, notes=tuple(notes))


def faces_forward(folder: Path, allow_outside_paths: bool = False) -> bool:
    """Whether all cameras of a folder look the same way, from poses_bounds.npy alone.

    Raises:
      SceneError: the file is missing or wrong.
    """
    rows, _ = _rows_of(folder, allow_outside_paths)
    poses = np.stack([_pose(row) for row in rows])
    return _one_way(poses, 0.5 * rows[:, [9, 4]] / rows[:, 14:15])


def stray_bounds(
    depths: Float[np.ndarray, "N 2"],
) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Which photographs' near, and which far depths are outliers.

    A near depth is an outlier below a quarter of the 10th percentile of the near depths, a far depth
    above 10 times the 90th percentile of the far depths.

    Args:
      depths: (near, far) of each photograph.
    """
    low = np.percentile(depths[:, 0], NEAREST_PERCENTILE)
    high = np.percentile(depths[:, 1], 100.0 - NEAREST_PERCENTILE)
    return depths[:, 0] < STRAY * low, depths[:, 1] > _FARTHEST * high


def stray_photographs(folder: Path, allow_outside_paths: bool = False) -> list[str]:
    """A description for people of each outlier among the bounds in poses_bounds.npy.

    Raises:
      SceneError: the file is missing or wrong.
    """
    depths = _rows_of(folder, allow_outside_paths)[0][:, 15:]
    return [
        f"row {index} says {what} {depths[index, side]:g}, the median is "
        f"{np.median(depths[:, side]):.4g}"
        for side, what, stray in _sides(depths)
        for index in np.flatnonzero(stray)
    ]


def _sides(depths: np.ndarray) -> list[tuple[int, str, np.ndarray]]:
    near, far = stray_bounds(depths)
    return [(0, "near", near), (1, "far", far)]


def _describe_stray(depths: np.ndarray) -> list[str]:
    return [
        f"{np.count_nonzero(stray)} of {len(stray)} {what} bounds left out, as "
        f"{depths[stray, side][0]:g}, far from the others"
        for side, what, stray in _sides(depths)
        if stray.any()
    ]


def is_forward_facing(views: Sequence[View]) -> bool:
    """Whether all cameras look the same way, so that the scene fits normalised device coordinates."""
    tangents = [0.5 * np.array(view.picture.size) / view.focal for view in views]
    return _one_way(np.stack([view.pose for view in views]), np.array(tangents))


def _one_way(poses: np.ndarray, tangents: np.ndarray) -> bool:
    """Whether all cameras look the same way, from poses and half the sides of images at distance 1."""
    mean = poses[:, :, 2].mean(axis=0)
    length = np.linalg.norm(mean)
    if length < math.cos(_CONE):
        return False
    for pose, (wide, high) in zip(poses, tangents, strict=True):
        right, up, back = pose[:, :3].T
        corners = [back + x * wide * right + y * high * up for x in (-1, 1) for y in (-1, 1)]
        edge = min(corner @ mean / np.linalg.norm(corner) for corner in corners)
        if back @ mean < length * math.cos(_CONE) or edge < length * math.cos(_EDGE):
            return False
    return True


def _place(folder: Path, views: Sequence[View], depths: np.ndarray) -> Scene:
    """The scene without its splits: its frame, near, far and ndc."""
    poses = np.stack([view.pose for view in views])
    stray = stray_bounds(depths)
    nearest, farthest = float(depths[~stray[0], 0].min()), float(depths[~stray[1], 1].max())
    ndc = None
    if is_forward_facing(views):
        to_scene = recentring(poses, 1.0 / (_NEAREST * nearest))
        widest = min(views, key=lambda view: view.focal[0] / view.picture.size[0])
        ndc = NdcFrame(widest.focal, widest.picture.size)
    else:
        to_scene = normalising(poses)
    # LLFF's bounds exclude the nearest thousandth of COLMAP's points, as `bounds_of_depths` does, so
    # that they get the same margin.
    near, far = nearest / MARGIN * to_scene.scale, farthest * to_scene.scale
    return Scene(
        folder.resolve().name, folder, "llff", {}, near, far,
        to_scene.inverse(), ndc, unbounded=ndc is None,
    )  # fmt: skip


def _rows_of(
    folder: Path, allow_outside_paths: bool
) -> tuple[Float[np.ndarray, "N 17"], tuple[str, ...]]:
    """The rows with the scale of their rotations removed, and a note if there was any."""
    path = folder / "poses_bounds.npy"
    rows = _read_rows(confined(folder, path, str(path), allow_outside_paths))
    scales = np.array([scale_of(_pose(row)) for row in rows])
    matrices = rows[:, :15].reshape(-1, 3, 5) / np.where(
        np.arange(5) < 3, scales[:, None, None], 1.0
    )
    rows = np.concatenate([matrices.reshape(-1, 15), rows[:, 15:]], axis=-1)
    return rows, describe_scales(scales.tolist(), "poses_bounds.npy")


def _pose(row: np.ndarray) -> Float[np.ndarray, "3 4"]:
    down, right, back, position, _ = row[:15].reshape(3, 5).T
    return np.stack([right, -down, back, position], axis=-1)


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
        if not is_rigid(_pose(row)[:, :3] / scale_of(_pose(row))):
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
    """The folder of photographs that are to be shrunk to a factor of the full size, and its factor."""
    factors = {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read: {error.strerror}") from None
    for name in names:
        match = re.fullmatch(r"images(?:_([1-9][0-9]{0,3}))?", name)
        if match and is_folder(folder / name):
            factors[int(match[1] or 1)] = folder / name
    if not factors:
        raise SceneError(f"{folder}: no folder images, images_4 or images_8 of photographs")
    whole = [factor for factor in factors if wanted % factor == 0]
    larger = [factor for factor in factors if factor < wanted]
    factor = max(whole or larger, default=min(factors))
    return factors[factor], factor


def _views(
    folder: Path, source: Path, rows: np.ndarray, model: Model | None, allow_outside_paths: bool
) -> tuple[list[View], tuple[str, ...]]:
    """The photographs of a folder with their cameras, and notes on files that were left out."""
    confined(folder, source, str(source), allow_outside_paths)
    found, skipped = list_pictures(source)
    try:
        names, left_out = choose_rows(source, found, len(rows), "poses_bounds.npy")
    except SceneError as error:
        raise SceneError("; ".join([str(error), *skipped])) from None
    views = []
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        high, wide, focal = row[[4, 9, 14]]
        file = confined(folder, source / name, str(source / name), allow_outside_paths)
        picture = find_picture(file, (wide, high), "poses_bounds.npy")
        width, height = picture.size
        focals = (float(focal * width / wide), float(focal * height / high))
        view = View(name_of(folder, file), picture, _pose(row), focals, (0.5 * width, 0.5 * height))
        views.append(view if model is None else model.with_lens(index, view))
    return views, skipped + left_out

"""Scenes of the photographs that transforms files name: captures of surroundings without a bound.

The scene's frame is computed from the cameras, see `jaxnerf.scenes.frames.normalising`. near and far are
those of the file, or are computed from its points, or else are 0.05 and 1000 in the scene's frame.
`bounded` makes a scene of transforms files that show a single object.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnerf.scenes import Options, Scene, SceneError, Similarity
from jaxnerf.scenes.depths import bounds_of_depths, depths_in_view
from jaxnerf.scenes.frames import FAR, NEAR, normalising
from jaxnerf.scenes.held_out import with_points
from jaxnerf.scenes.json_files import is_file, number, path_in
from jaxnerf.scenes.ply import read_points
from jaxnerf.scenes.views import View, leaks, splits_of

_FARTHEST = 1e9


@dataclasses.dataclass(frozen=True)
class Source:
    """A transforms file: its folder, the name of its format, its path and its contents."""

    folder: Path
    kind: str
    path: Path
    contents: Mapping[str, Any]


def capture(
    source: Source,
    views: Sequence[View],
    splits: Mapping[str, Sequence[View]],
    notes: Sequence[str],
    options: Options,
) -> Scene:
    """An unbounded scene.

    Args:
      source: the file with near, far and ply_file_path, if any are given.
      views: the views of all photographs; the order does not matter, they are sorted by name.
      splits: the views of each split.
      notes: notes on how the files were read.
      options: options of `jaxnerf.scenes.load_scene`.

    Raises:
      SceneError: near, far or the points are wrong, or a photograph cannot be read.
    """
    in_order = sorted({view.name: view for view in views}.values(), key=lambda view: view.name)
    to_scene = normalising(np.stack([view.pose for view in in_order]))
    points, bounds, more = _points(source, in_order, options.allow_outside_paths)
    near, far = (NEAR, FAR) if bounds is None else (bound * to_scene.scale for bound in bounds)
    found = near
    near, far = given_bounds(source, (near, far), to_scene.scale)
    if near == 0.0:
        # A near of 0 means that it is not known; the disparity at a camera would be infinite.
        near, more = found, (*more, "near 0 is not used")
    read = splits_of(source.folder, splits, to_scene, options)
    scene = Scene(
        source.folder.resolve().name, source.folder, source.kind, read, near, far,
        to_scene.inverse(), unbounded=True, notes=(*notes, *more, *leaks(splits)),
    )  # fmt: skip
    return scene if points is None else with_points(scene, to_scene.points(points))


def bounded(
    source: Source,
    splits: Mapping[str, Sequence[View]],
    bounds: tuple[float, float],
    notes: Sequence[str],
    options: Options,
) -> Scene:
    """A scene that lies between near and far, in the frame of its files.

    Args:
      source: the file with near and far, if they are given.
      splits: the views of each split.
      bounds: near and far that are used if the file does not have them.
      notes, options: as in `capture`.

    Raises:
      SceneError: near or far is wrong, or a photograph cannot be read.
    """
    near, far = given_bounds(source, bounds, 1.0)
    read = splits_of(source.folder, splits, Similarity(), options)
    if source.contents.get("ply_file_path") is not None:
        notes = (*notes, "ply_file_path is not used, since the scene is bounded")
    return Scene(
        source.folder.resolve().name, source.folder, source.kind, read, near, far,
        notes=(*notes, *leaks(splits)),
    )  # fmt: skip


def given_bounds(source: Source, found: tuple[float, float], scale: float) -> tuple[float, float]:
    """near and far in the scene's frame: the file's values, or else the computed ones.

    Args:
      source: the file.
      found: the computed near and far, in the scene's frame.
      scale: scale from the file's frame to the scene's.

    Raises:
      SceneError: the file's are not 0 <= near < far <= 1e9, in its frame.
    """
    near, far = (
        number(source.path, source.contents, key, bound / scale)
        for key, bound in zip(("near", "far"), found, strict=True)
    )
    said = [key for key in ("near", "far") if key in source.contents]
    if said and not 0.0 <= near < far <= _FARTHEST:
        raise SceneError(
            f"{source.path}: near {near:g} and far {far:g} are not 0 <= near < far <= 1e9"
        )
    return tuple(
        given * scale if key in said else bound
        for key, given, bound in zip(("near", "far"), (near, far), found, strict=True)
    )  # type: ignore[return-value]


def _points(
    source: Source, views: Sequence[View], allow_outside_paths: bool
) -> tuple[np.ndarray | None, tuple[float, float] | None, tuple[str, ...]]:
    """The points of ply_file_path in the file's frame, near and far computed from them, and notes."""
    name = source.contents.get("ply_file_path")
    if name is None:
        return None, None, ()
    path = path_in(
        source.path.parent, str(source.path), "ply_file_path", name,
        allow_outside_paths=allow_outside_paths,
    )  # fmt: skip
    if not is_file(path):
        return None, None, (f"ply_file_path {name[:80]} is not there",)
    points = read_points(path)
    if not len(points):
        return None, None, (f"{name[:80]} has no points",)
    depths = depths_in_view(points, views)
    if depths is None:
        return None, None, (f"the points of {name[:80]} are not what the cameras see: not used",)
    return points, bounds_of_depths(depths), ()

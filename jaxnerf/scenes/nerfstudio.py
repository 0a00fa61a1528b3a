"""Reader of nerfstudio's format: one transforms.json, with more keys than instant-ngp's.

The frame of the user's files is that of the poses in transforms.json. nerfstudio's tools have applied
applied_transform and applied_scale to these poses; the two lead back to the poses' original frame, and
are not used. The points of ply_file_path are in the frame of the poses, and near and far are computed
from them. The scene's frame is computed from the cameras, see `jaxnerf.scenes.frames.normalising`.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxnerf.scenes import Options, Scene, SceneError
from jaxnerf.scenes.captures import Source, capture
from jaxnerf.scenes.json_files import confined, frames_of, load_json
from jaxnerf.scenes.transforms import Frame, present_frames, view_in
from jaxnerf.scenes.transforms_notes import notes_on
from jaxnerf.scenes.views import View, hold_out

# Keys that instant-ngp's files do not have. (Both formats may have intrinsics in their frames.)
_OF_FILES = {"camera_model", "applied_transform", "applied_scale", "ply_file_path"}
_OF_FILES |= {"train_filenames", "val_filenames", "test_filenames"}
_OF_FRAMES = {"mask_path", "mask_filename", "depth_file_path", "colmap_im_id", "camera_model"}
_SPLITS = ("train", "val", "test")
_FILENAMES = tuple(f"{split}_filenames" for split in _SPLITS)


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format, and not in instant-ngp's."""
    path = folder / "transforms.json"
    try:
        contents = load_json(path)
    except SceneError:
        return False
    frames = contents.get("frames")
    return not _OF_FILES.isdisjoint(contents) or any(
        isinstance(frame, dict) and not _OF_FRAMES.isdisjoint(frame)
        for frame in (frames if isinstance(frames, list) else ())
    )


def read(folder: Path, options: Options = Options(), name: str = "nerfstudio") -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Intrinsics (fl_x, fl_y, cx, cy, w, h, k1 to k4, p1, p2, camera_model) are given in the file or in each
    frame; equirectangular photographs are whole spheres. Black pixels of masks (mask_path) are ignored.
    near and far are those of the file, or else the depths of the points of ply_file_path with a margin,
    or else 0.05 and 1000 in the scene's frame. Frames without a file are left out. train_filenames,
    val_filenames and test_filenames give the frames of each split, and other frames are not used; without
    these keys every 8th frame in the order of names, from the first on, is for testing.
    """
    path = folder / "transforms.json"
    contents = load_json(confined(folder, path, str(path), options.allow_outside_paths))
    frames, notes = present_frames(path, contents, options.allow_outside_paths)
    frames.sort(key=lambda frame: frame.name)
    views = [view_in(frame, options.allow_outside_paths) for frame in frames]
    splits = _split(path, contents, frames, views)
    return capture(
        Source(folder, name, path, contents), views, splits,
        (*notes, *notes_on(frames, views, _FILENAMES)),
        options,
    )  # fmt: skip


def _split(
    path: Path, contents: dict[str, Any], frames: Sequence[Frame], views: Sequence[View]
) -> dict[str, list[View]]:
    """The views of each split, as the file lists them, or by `hold_out`."""
    keys = {split: f"{split}_filenames" for split in _SPLITS if f"{split}_filenames" in contents}
    if not keys:
        return hold_out(views)
    if "train_filenames" not in contents:
        raise SceneError(f"{path}: has {' and '.join(keys.values())}, but no train_filenames")
    named = {_path(str(frame.get("file_path"))) for _, frame in frames_of(path, contents)}
    own = [_path(frame.own["file_path"]) for frame in frames]
    splits = {}
    for split, key in keys.items():
        chosen = _paths(path, key, contents[key])
        for unknown in sorted(chosen - named):
            raise SceneError(f"{path}: {key}: {str(unknown)[:80]!r} is no frame's file_path")
        members = [view for view, file in zip(views, own, strict=True) if file in chosen]
        if members:
            splits[split] = members
    if "train" not in splits:
        raise SceneError(f"{path}: train_filenames names no picture that is there")
    return splits


def _paths(path: Path, key: str, values: Any) -> set[PurePosixPath]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SceneError(f"{path}: {key} must be a list of names of pictures")
    return {_path(value) for value in values}


def _path(value: str) -> PurePosixPath:
    """A path with forward slashes, as in `jaxnerf.scenes.json_files.path_in`."""
    return PurePosixPath(value.replace("\\", "/"))

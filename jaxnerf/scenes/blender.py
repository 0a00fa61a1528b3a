"""Reader of NeRF's Blender format: transforms_{train,val,test}.json and pictures.

The files may say all that `transforms.json` may. The scenes that the format was made for are things cut
out of their background, in a comfortable frame: then the scene's frame is the user's. Photographs of
what is all around come in such files too: those are read as captures are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnerf.scenes import CLEAR, LEAST_CLEAR, Options, Scene, SceneError
from jaxnerf.scenes.captures import Source, bounded, capture
from jaxnerf.scenes.depths import bounds_of_cameras
from jaxnerf.scenes.frames import look_outwards
from jaxnerf.scenes.images import read_image
from jaxnerf.scenes.json_files import confined, load_json
from jaxnerf.scenes.sector import SECTOR
from jaxnerf.scenes.transforms import Frame, NoPicturesError, present_frames, view_in
from jaxnerf.scenes.transforms_notes import notes_on
from jaxnerf.scenes.views import View

_SPLITS = ("train", "val", "test")
_FOCAL = {"fl_x", "fl_y", "camera_angle_x", "camera_angle_y"}
# What is the same for all splits.
_SAID_ONCE = ("near", "far", "ply_file_path")
# What the format's published scenes are made for.
_NEAR, _FAR = 2.0, 6.0
# Bounds from cameras that are so near to these are these: published scenes keep their protocol.
_PUBLISHED = 0.05
# So many photographs are looked at.
_LOOKED_AT = 8
# A plain background is one colour, to the noise of a JPEG file, along half of a picture's margin and an
# eighth of each of its sides (a white sky has no lower side), in three of four pictures.
_NOISE, _OF_MARGIN, _OF_SIDE, _OF_PICTURES = 8, 0.5, 0.125, 0.75


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return (folder / "transforms_train.json").exists()


def read(folder: Path, options: Options = Options()) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    The JSON says which pictures there are; others in the folders (depth, normals) are left alone, and
    frames without a picture are left out. Intrinsics are as in `jaxnerf.scenes.instant_ngp`.

    The scene is bounded where the cameras do not look outwards and the pictures have transparent
    pixels or a plain background, or transforms_train.json says near and far; else it is a capture.
    Without near and far there, those of a bounded scene follow from how far the cameras are from what
    they look at; where they look at nothing in common they are 2 and 6.
    """
    train = folder / "transforms_train.json"
    contents = load_json(confined(folder, train, str(train), options.allow_outside_paths))
    frames, views, notes = [], {}, ()
    for split in _SPLITS:
        path = folder / f"transforms_{split}.json"
        if split != "train" and not path.exists():
            continue
        try:
            mine, views[split], left_out = _split(
                folder, path, contents, options.allow_outside_paths
            )
        except NoPicturesError as error:
            if split == "train" or split in options.images:
                raise
            left_out = (f"no {split} split: {str(error).removeprefix(f'{folder}/')}",)
        else:
            frames += mine
        notes += left_out
    for split in set(options.images) - {SECTOR}:
        if split not in views:
            raise SceneError(f"{folder}: no transforms_{split}.json, so no split {split!r}")
    every = [view for split in views.values() for view in split]
    unbounded, reason = _unbounded(contents, views["train"])
    notes += (*notes_on(frames, every), *reason)
    source = Source(folder, "blender", train, contents)
    if unbounded:
        return capture(source, every, views, notes, options)
    bounds = bounds_of_cameras(np.stack([view.pose for view in every]))
    if bounds is not None and np.allclose(bounds, (_NEAR, _FAR), rtol=_PUBLISHED):
        bounds = _NEAR, _FAR
    if bounds is None and not {"near", "far"} <= contents.keys():
        notes += ("near and far as in NeRF's scenes, for the cameras look at nothing in common",)
    return bounded(source, views, bounds or (_NEAR, _FAR), notes, options)


def _split(
    folder: Path, path: Path, train: dict[str, Any], allow_outside_paths: bool
) -> tuple[list[Frame], list[View], tuple[str, ...]]:
    """What a split's file has of frames with pictures, in its order; and notes on what is not used.

    Args:
      folder, path: of the scene and of the file.
      train: what transforms_train.json says.
      allow_outside_paths: see `jaxnerf.scenes.load_scene`.
    """
    contents = load_json(confined(folder, path, str(path), allow_outside_paths))
    frames, notes = present_frames(path, contents, allow_outside_paths)
    views = [view_in(frame, allow_outside_paths) for frame in frames]
    _check_sizes(frames, views)
    name = path.stem.removeprefix("transforms_")
    other = [
        key
        for key in _SAID_ONCE
        if contents.get(key) is not None and contents[key] != train.get(key)
    ]
    if other:
        notes = (*notes, f"{' and '.join(other)} not used, transforms_train.json decides")
    return frames, views, tuple(f"{name}: {note}" for note in notes)


def _check_sizes(frames: Sequence[Frame], views: Sequence[View]) -> None:
    """That intrinsics without a resolution, which are for all pictures, find them of one size."""
    first: View | None = None
    for frame, view in zip(frames, views, strict=True):
        if frame.get("w") is not None or not _FOCAL.isdisjoint(frame.own):
            continue
        first = first or view
        (width, height), (wide, high) = view.picture.size, first.picture.size
        if (width, height) != (wide, high):
            raise SceneError(
                f"{view.picture.path}: {width} x {height} pixels, but {first.picture.path.name} has "
                f"{wide} x {high}, and {frame.file.name} gives no w and h"
            )


def _unbounded(contents: dict[str, Any], views: Sequence[View]) -> tuple[bool, tuple[str, ...]]:
    """Whether photographs show what is all around; and a note on why, if that is not usual."""
    if look_outwards(np.stack([view.pose for view in views])):
        return True, ("unbounded, since the cameras look outwards",)
    some = sorted(set(np.linspace(0, len(views) - 1, _LOOKED_AT).round().astype(int)))
    pictures = [read_image(views[index].picture.path)[::2, ::2] for index in some]
    if np.mean([np.mean(picture[..., 3] < CLEAR) for picture in pictures]) > LEAST_CLEAR:
        return False, ()
    if "near" in contents and "far" in contents:
        return False, ("bounded, since near and far are given",)
    if _plain(pictures):
        return False, ("bounded, since the pictures have a plain background",)
    reason = "unbounded, since the pictures have no transparent pixels and no plain background"
    return True, (reason,)


def _plain(pictures: Sequence[np.ndarray]) -> bool:
    """Whether most pictures have one and the same colour along their sides."""
    borders = [(each[0], each[-1], each[:, 0], each[:, -1]) for each in pictures]
    every = np.concatenate([side[:, :3] for sides in borders for side in sides])
    colour = np.median(every, axis=0)
    plain = []
    for sides in borders:
        shown = [np.abs(side[:, :3] - colour).max(axis=-1) <= _NOISE for side in sides]
        least = min(np.mean(side) for side in shown)
        plain.append(np.mean(np.concatenate(shown)) >= _OF_MARGIN and least >= _OF_SIDE)
    return bool(np.mean(plain) >= _OF_PICTURES)

"""Reader of NeRF's Blender format: transforms_{train,val,test}.json and photographs.

The files may have all keys of `transforms.json`. The scenes that the format was made for are objects cut
out of their background, in a frame that suits fields: the scene's frame is then that of the files.
Files with photographs of whole surroundings are read as captures.
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
# Keys of the whole scene, which are read from transforms_train.json alone.
_SAID_ONCE = ("near", "far", "ply_file_path")
# near and far of the format's published scenes.
_NEAR, _FAR = 2.0, 6.0
# If the bounds that are computed from the cameras agree with these within this fraction, these are used,
# so that published scenes are measured with their usual bounds.
_PUBLISHED = 0.05
# Number of photographs that are examined for transparent pixels or a plain background.
_LOOKED_AT = 8
# A photograph has a plain background if its border has one colour, up to the noise of a JPEG file, on
# at least half of its length and an eighth of each side (a white sky does not reach the lower side).
# Three of four photographs must have it.
_NOISE, _OF_MARGIN, _OF_SIDE, _OF_PICTURES = 8, 0.5, 0.125, 0.75


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return (folder / "transforms_train.json").exists()


def read(folder: Path, options: Options = Options()) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    The photographs are those that the JSON files name; other images in the folders (depth, normals) are
    ignored, and frames without a photograph are left out. Intrinsics are as in
    `jaxnerf.scenes.instant_ngp`.

    The scene is bounded if the cameras do not look outwards and the photographs have transparent pixels
    or a plain background, or transforms_train.json has near and far; otherwise it is a capture. If the
    file has no near or far, those of a bounded scene are computed from the cameras' distances to the
    point that they look at; they are 2 and 6 if there is no such point.
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
    """The frames and views of a split's file, in its order; and notes on values that are not used.

    Args:
      folder, path: the scene's folder and the split's file.
      train: the contents of transforms_train.json.
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
    """Check that all photographs have one size if intrinsics are given without a resolution."""
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
    """Whether photographs show whole surroundings; and a note on the reason if that is not usual."""
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
    """Whether most images have one and the same colour along their borders."""
    borders = [(each[0], each[-1], each[:, 0], each[:, -1]) for each in pictures]
    every = np.concatenate([side[:, :3] for sides in borders for side in sides])
    colour = np.median(every, axis=0)
    plain = []
    for sides in borders:
        shown = [np.abs(side[:, :3] - colour).max(axis=-1) <= _NOISE for side in sides]
        least = min(np.mean(side) for side in shown)
        plain.append(np.mean(np.concatenate(shown)) >= _OF_MARGIN and least >= _OF_SIDE)
    return bool(np.mean(plain) >= _OF_PICTURES)

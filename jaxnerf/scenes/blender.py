"""Reader of NeRF's Blender format: transforms_{train,val,test}.json and RGBA pictures.

The poses are already in jaxnerf's axes and the scenes in a comfortable frame, so the scene's frame is
the user's.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxnerf.scenes import Scene, SceneError, Similarity
from jaxnerf.scenes.images import Picture, image_size
from jaxnerf.scenes.json_files import (
    confined,
    field_of_view,
    frames_of,
    load_json,
    name_of,
    number,
    picture_path,
    read_pose,
)
from jaxnerf.scenes.views import View, splits_of

_SPLITS = ("train", "val", "test")
# What the format's published scenes are made for; a transforms file may say otherwise.
_NEAR, _FAR = 2.0, 6.0


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return (folder / "transforms_train.json").exists()


def read(
    folder: Path,
    *,
    downscale: int = 1,
    longest_side: int = 0,
    images: Sequence[str] = ("train",),
    allow_outside_paths: bool = False,
) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    The JSON says which pictures there are; others in the folders (depth, normals) are left alone.
    `camera_angle_x` is the horizontal field of view in radians. `near` and `far` at the top level of
    transforms_train.json, if there, replace 2 and 6.
    """
    views, near, far = {}, _NEAR, _FAR
    for split in _SPLITS:
        path = folder / f"transforms_{split}.json"
        if split != "train" and not path.exists():
            continue
        contents = load_json(confined(folder, path, str(path), allow_outside_paths))
        if split == "train":
            near = number(path, contents, "near", near)
            far = number(path, contents, "far", far)
            if not 0.0 <= near < far <= 1e9:
                raise SceneError(
                    f"{path}: near {near} and far {far} are not 0 <= near < far <= 1e9"
                )
        views[split] = _views(path, contents, split in images, allow_outside_paths)
    for split in images:
        if split not in views:
            raise SceneError(f"{folder}: no transforms_{split}.json, so no split {split!r}")
    splits = splits_of(
        folder, views, Similarity(),
        downscale=downscale, longest_side=longest_side, images=images,
    )  # fmt: skip
    return Scene(folder.resolve().name, folder, "blender", splits, near, far)


def _views(
    path: Path, contents: dict[str, Any], with_images: bool, allow_outside_paths: bool
) -> list[View]:
    angle = field_of_view(path, contents)
    files, poses = [], []
    for where, frame in frames_of(path, contents):
        file = picture_path(path.parent, where, frame.get("file_path"), allow_outside_paths)
        files.append(file)
        poses.append(read_pose(where, frame.get("transform_matrix")))
    size = image_size(files[0])
    claimed = tuple(
        int(number(path, contents, key, float(actual)))
        for key, actual in zip("wh", size, strict=True)
    )
    if claimed != size:
        _refuse_size(files[0], size, claimed, path.name)
    # One field of view is one focal length only if all pictures have one size.
    for file in files if with_images else ():
        if image_size(file) != size:
            _refuse_size(file, image_size(file), size, files[0].name)
    focal = 0.5 * size[0] / math.tan(0.5 * angle)
    centre = (0.5 * size[0], 0.5 * size[1])
    return [
        View(name_of(path.parent, file), Picture(file, size), pose, (focal, focal), centre)
        for file, pose in zip(files, poses, strict=True)
    ]


def _refuse_size(file: Path, size: tuple[int, ...], wanted: tuple[int, ...], says: str) -> NoReturn:
    raise SceneError(
        f"{file}: {size[0]} x {size[1]} pixels, but {says} says {wanted[0]} x {wanted[1]}"
    )

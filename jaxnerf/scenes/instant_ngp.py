"""Reader of instant-ngp's format: one transforms.json with photographs beside it.

The scene's frame is found from the cameras, see `jaxnerf.scenes.frames.normalising`. aabb_scale, scale
and offset say in what part of the world instant-ngp can put things, and nothing of the scene: they have
no use here.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnerf.scenes import Scene, SceneError
from jaxnerf.scenes.frames import FAR, NEAR, normalising
from jaxnerf.scenes.images import find_picture
from jaxnerf.scenes.json_files import confined, is_file, load_json
from jaxnerf.scenes.transforms import (
    Frame,
    claimed_size,
    fisheye_or_not,
    present_frames,
    view_of,
)
from jaxnerf.scenes.views import View, hold_out, splits_of

_OTHER_LENSES = ("ftheta_p0", "latlong", "equirectangular")


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format, which nerfstudio's looks like."""
    return (folder / "transforms.json").exists()


def read(
    folder: Path,
    *,
    downscale: int = 1,
    longest_side: int = 0,
    images: Sequence[str] = ("train",),
    allow_outside_paths: bool = False,
) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Focal lengths are fl_x and fl_y in pixels, or camera_angle_x and camera_angle_y in radians; the
    principal point cx and cy is in the middle where they are missing; k1 to k4, p1 and p2 are those of
    the lens "opencv", or with is_fisheye k1 to k4 those of "fisheye". All of these may stand in a
    frame too. Frames without a file are left out. A picture dynamic_mask_NAME.png beside NAME.jpg
    ignores what it shows in another colour than black. Of the frames in the order of their names every
    8th from the first on is for testing.
    """
    path = folder / "transforms.json"
    contents = load_json(confined(folder, path, str(path), allow_outside_paths))
    frames, notes = present_frames(path, contents, allow_outside_paths)
    views = [_view(frame, folder, allow_outside_paths) for frame in frames]
    to_scene = normalising(np.stack([view.pose for view in views]))
    splits = splits_of(
        folder, hold_out(views), to_scene,
        downscale=downscale, longest_side=longest_side, images=images,
    )  # fmt: skip
    return Scene(
        folder.resolve().name, folder, "instant-ngp", splits, NEAR, FAR,
        to_scene.inverse(), unbounded=True, notes=notes,
    )  # fmt: skip


def _view(frame: Frame, folder: Path, allow_outside_paths: bool) -> View:
    for key in _OTHER_LENSES:
        if key in frame.own or key in frame.shared:
            raise SceneError(f"{frame.level(key)[0]}: {key}: this kind of lens is not read")
    mask = frame.picture.with_name(f"dynamic_mask_{frame.picture.stem}.png")
    found = is_file(mask)
    if found:
        confined(folder, mask, f"{frame.where}: its mask", allow_outside_paths)
    picture = find_picture(
        frame.picture, claimed_size(frame), "transforms.json", mask if found else None, "bright"
    )
    return view_of(frame, picture, fisheye_or_not(frame))

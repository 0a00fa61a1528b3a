"""Notes for the user on how a transforms file was read: contradictions, and keys that are not used."""

from collections.abc import Iterable, Sequence

import numpy as np

from jaxnerf.scenes.json_files import describe_scales, scale_of
from jaxnerf.scenes.transforms import (
    COEFFICIENTS,
    LENSES,
    MASK_KEYS,
    Frame,
    focal_length,
    lens_of,
)
from jaxnerf.scenes.views import View

READ = {
    "frames", "file_path", "transform_matrix", "w", "h", "cx", "cy", "fl_x", "fl_y",
    "camera_angle_x", "camera_angle_y", *COEFFICIENTS, "camera_model", "is_fisheye", *MASK_KEYS,
    "near", "far", "ply_file_path",
}  # fmt: skip
# Of these, those that are of the file and of none of its frames.
_OF_FILES = {"frames", "near", "far", "ply_file_path"}
# Keys that instant-ngp's and nerfstudio's tools, Blender add-ons and NeRF's own scripts write, and that
# have no effect on the photographs or cameras: the size of instant-ngp's box, the sharpness of a
# photograph, its number in COLMAP, the angle between the cameras of a Blender scene.
_HARMLESS = {
    "aabb_scale", "scale", "offset", "sharpness", "rotation", "colmap_im_id", "colmap_image_id",
    "render_aabb", "up", "n_frames", "name", "id", "image_id",
}  # fmt: skip
_MOST_NAMED, _LONGEST_NAME = 8, 40
# Relative difference up to which two focal lengths of one camera agree.
_ALIKE = 0.01


def notes_on(
    frames: Sequence[Frame], views: Sequence[View], read: Iterable[str] = ()
) -> tuple[str, ...]:
    """Notes on contradictions and unused keys in transforms files, each part of a sentence.

    Args:
      frames: the frames of one file or several.
      views: the view of each frame.
      read: keys that this format has in addition to the common ones.
    """
    notes = [_focal_lengths(frames, views), _lenses(frames), _scales(frames)]
    known = READ | _HARMLESS | set(read)
    of_frames = known - _OF_FILES
    unused = {key: None for frame in frames for key in frame.own if key not in of_frames}
    unused |= {key: None for frame in frames for key in frame.shared if key not in known}
    notes.append(_unused(list(unused)))
    return tuple(note for note in notes if note)


def _focal_lengths(frames: Sequence[Frame], views: Sequence[View]) -> str:
    """A note on focal lengths in pixels that contradict the angles of view in the same file or frame."""
    said, count = "", 0
    for frame, view in zip(frames, views, strict=True):
        if view.lens == "equirectangular":
            continue
        sides = {"x": frame.get("w"), "y": frame.get("h")}
        for (axis, side), pixels in zip(sides.items(), view.picture.size, strict=True):
            own = next((values for _, values in frame.levels() if f"fl_{axis}" in values), {})
            angle, length = own.get(f"camera_angle_{axis}"), own.get(f"fl_{axis}", 0.0)
            if not isinstance(angle, int | float) or not isinstance(length, int | float):
                continue
            if not 1e-6 < angle < np.pi - 1e-6 or not 0.0 < length < np.inf:
                continue
            other = focal_length(angle, float(pixels if side is None else side))
            if abs(other - length) > _ALIKE * length:
                count += 1
                said = said or (
                    f"camera_angle_{axis} {angle:.4g} would be a focal length of {other:.4g} pixels, but "
                    f"fl_{axis} is {length:.4g}, which is used"
                )
                break
    return said and said + (f" (so in {count} frames)" if count > 1 else "")


def _lenses(frames: Sequence[Frame]) -> str:
    for frame in frames:
        model, lens = frame.get("camera_model"), lens_of(frame)
        if model is None:
            continue
        if frame.get("is_fisheye") is not None and frame.get("is_fisheye") != (lens == "fisheye"):
            return f"is_fisheye contradicts camera_model {model}, which is used"
        bent = [key for key in COEFFICIENTS if frame.get(key)]
        if "PINHOLE" in model and model in LENSES and bent:
            return f"camera_model is {model}, but there is distortion, which is used: {', '.join(bent)}"
    return ""


def _scales(frames: Sequence[Frame]) -> str:
    matrices = (frame.own["transform_matrix"] for frame in frames)
    scales = [scale_of(np.asarray(matrix, np.float64)) for matrix in matrices]
    return "".join(describe_scales(scales, "transform_matrix"))


def _unused(found: Sequence[str]) -> str:
    names = [(key if key.isprintable() else ascii(key))[:_LONGEST_NAME] for key in found]
    more = f" and {len(names) - _MOST_NAMED} more keys" if len(names) > _MOST_NAMED else ""
    return f"not used: {', '.join(names[:_MOST_NAMED])}{more}" if names else ""

"""The common parts of transforms files: NeRF's Blender format, instant-ngp's and nerfstudio's.

All of them have poses with OpenGL axes, intrinsics at the file's top level or in each frame (which has
precedence), and names of photographs and masks relative to the file.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxnerf.cameras.lenses import Lens
from jaxnerf.scenes import SceneError
from jaxnerf.scenes.images import Picture, find_picture
from jaxnerf.scenes.json_files import (
    confined,
    field_of_view,
    frames_of,
    is_file,
    name_of,
    number,
    path_in,
    read_pose,
)
from jaxnerf.scenes.picture_files import skipped_for, suffixes_read
from jaxnerf.scenes.views import View

COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")
MASK_KEYS = ("mask_path", "mask_filename")
LENSES: dict[str, Lens | None] = {
    "SIMPLE_PINHOLE": None,
    "PINHOLE": None,
    "SIMPLE_RADIAL": None,
    "RADIAL": None,
    "OPENCV": None,
    "OPENCV_FISHEYE": "fisheye",
    "EQUIRECTANGULAR": "equirectangular",
}
_OTHER_LENSES = ("ftheta_p0", "latlong", "equirectangular")
# Limits of focal lengths in pixels, and of other numbers: far beyond those of any camera.
_LEAST_FOCAL, _MOST = 1e-3, 1e9


class NoPicturesError(SceneError):
    """None of the photographs that a file names exists."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One of a file's frames whose photograph exists.

    Attributes:
      picture: the photograph's file.
      name: name of the photograph, for people.
      where, own: position of the frame in the file, for messages, and the frame's values.
      file, shared: the transforms file, and the values at its top level.
    """

    picture: Path
    name: str
    where: str
    own: Mapping[str, Any]
    file: Path
    shared: Mapping[str, Any]

    def levels(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The levels of values, each with its name for messages: the frame, then the file."""
        return (self.where, self.own), (str(self.file), self.shared)

    def level(self, key: str) -> tuple[str, Mapping[str, Any]]:
        """The first level that has a key; that of the frame if neither has it."""
        own, shared = self.levels()
        return shared if key in self.shared and key not in self.own else own

    def get(self, key: str) -> Any:
        """The frame's value of a key, else the file's, else None."""
        return self.level(key)[1].get(key)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number, at most 1e9 in absolute value.

        Raises:
          SceneError: it is missing and there is no default, or it is something else.
        """
        where, values = self.level(key)
        found = number(where, values, key, default)
        if abs(found) > _MOST:
            raise SceneError(f"{where}: {key} {found:g} is far too large")
        return found


def present_frames(
    path: Path, contents: dict[str, Any], allow_outside_paths: bool
) -> tuple[list[Frame], tuple[str, ...]]:
    """The frames whose photographs exist, in the order of the file; and notes on the others.

    Args:
      path: the transforms file.
      contents: the file's contents.
      allow_outside_paths: see `jaxnerf.scenes.load_scene`.

    Raises:
      NoPicturesError: no photograph exists.
      SceneError: a frame is wrong.
    """
    frames, missing = [], []
    for where, frame in frames_of(path, contents):
        file_path = frame.get("file_path")
        picture = _picture_file(path.parent, where, file_path, allow_outside_paths)
        if picture is None:
            missing.append(str(file_path))
        else:
            name = name_of(path.parent, picture)
            frames.append(Frame(picture, name, where, frame, path, contents))
    if not missing:
        return frames, ()
    skipped = skipped_for([path.parent / name.replace("\\", "/") for name in missing])
    total = len(frames) + len(missing)
    if not frames:
        raise NoPicturesError(
            f"{path}: none of the pictures of its {total} frames is there; the first is "
            f"{missing[0][:80]!r}" + "".join(f"; {note}" for note in skipped)
        )
    return frames, (f"{len(missing)} of {total} frames without a file are left out", *skipped)


def _picture_file(
    folder: Path, where: str, file_path: Any, allow_outside_paths: bool
) -> Path | None:
    """The photograph that a file_path names, perhaps without its suffix or with it in other case."""

    def at(value: Any) -> Path:
        return path_in(
            folder, where, "file_path", value, allow_outside_paths=allow_outside_paths
        )  # fmt: skip

    exact = at(file_path)
    if not PurePosixPath(file_path.replace("\\", "/")).name:
        raise SceneError(f"{where}: file_path must be the name of a picture")
    if is_file(exact) and exact.is_file():
        return exact
    names = [file_path + each for suffix in suffixes_read() for each in (suffix, suffix.upper())]
    if exact.suffix:
        bare = file_path[: -len(exact.suffix)]
        names = [bare + exact.suffix.swapcase(), bare + exact.suffix.lower(), *names]
    for name in names:
        if is_file(candidate := at(name)):
            return candidate
    return exact if is_file(exact) else None


def claimed_size(frame: Frame) -> tuple[float, float] | None:
    """The (width, height) of a frame's photograph in the transforms file; None if it has neither.

    Raises:
      SceneError: only one of the two is given, or they are not numbers.
    """
    if frame.get("w") is None and frame.get("h") is None:
        return None
    return frame.number("w"), frame.number("h")


def lens_of(frame: Frame) -> Lens | None:
    """The lens of camera_model, or else of is_fisheye; None for a lens with k1 to k4, p1 and p2.

    Raises:
      SceneError: the model of the lens is not supported, or is_fisheye is neither true nor false.
    """
    for key in _OTHER_LENSES:
        if key in frame.own or key in frame.shared:
            raise SceneError(f"{frame.level(key)[0]}: {key}: this kind of lens is not read")
    model = frame.get("camera_model")
    if model is not None and (not isinstance(model, str) or model not in LENSES):
        raise SceneError(
            f"{frame.level('camera_model')[0]}: camera_model {str(model)[:40]!r} is not one of "
            f"{', '.join(LENSES)}"
        )
    fisheye = frame.get("is_fisheye")
    if fisheye is not None and not isinstance(fisheye, bool):
        raise SceneError(f"{frame.level('is_fisheye')[0]}: is_fisheye must be true or false")
    if model is not None:
        return LENSES[model]
    return "fisheye" if fisheye else None


def view_in(frame: Frame, allow_outside_paths: bool) -> View:
    """A frame's photograph with its mask and its camera.

    The mask is the image of mask_path or mask_filename, whose black pixels are ignored; or else the image
    dynamic_mask_NAME.png beside the photograph NAME, whose pixels of other colours are ignored.

    Args:
      frame: a frame of the file.
      allow_outside_paths: see `jaxnerf.scenes.load_scene`.

    Raises:
      SceneError: the photograph, its mask, the pose or an intrinsic is missing or wrong.
    """
    folder, mask, ignored = frame.file.parent, None, "black"
    for key in MASK_KEYS:
        if mask is None and frame.get(key) is not None:
            mask = path_in(
                folder, frame.where, key, frame.get(key), allow_outside_paths=allow_outside_paths
            )
    if mask is None:
        beside = frame.picture.with_name(f"dynamic_mask_{frame.picture.stem}.png")
        if is_file(beside):
            mask, ignored = beside, "bright"
            confined(folder, mask, f"{frame.where}: its mask", allow_outside_paths)
    picture = find_picture(frame.picture, claimed_size(frame), frame.file.name, mask, ignored)
    return view_of(frame, picture, lens_of(frame))


def view_of(frame: Frame, picture: Picture, lens: Lens | None = None) -> View:
    """A frame's photograph with its camera.

    Args:
      frame: a frame of the file.
      picture: its photograph; intrinsics that are given for another resolution are scaled to it.
      lens: "fisheye", whose distortion is k1 to k4, or "equirectangular", for a whole sphere; by
        default "opencv" with k1 to k4, p1 and p2, or "pinhole" if those are 0.

    Raises:
      SceneError: the pose or an intrinsic is missing or wrong.
    """
    pose = read_pose(frame.where, frame.own.get("transform_matrix"))
    width, height = picture.size
    if lens == "equirectangular":
        focal = (width / (2.0 * math.pi), height / math.pi)
        return View(
            frame.name, picture, pose, focal, (0.5 * width, 0.5 * height), lens="equirectangular"
        )
    wide, high = claimed_size(frame) or (float(width), float(height))
    across, down = width / wide, height / high
    focal_x, focal_y = _focal(frame, wide, high)
    centre = (
        frame.number("cx", 0.5 * wide) * across,
        frame.number("cy", 0.5 * high) * down,
    )
    distortion = tuple(frame.number(key, 0.0) for key in COEFFICIENTS)
    if lens == "fisheye" and any(distortion[4:]):
        raise SceneError(f"{frame.where}: p1 and p2 are not 0, but fisheye lenses have none")
    plain = "opencv" if any(distortion) else "pinhole"
    return View(
        frame.name, picture, pose, (focal_x * across, focal_y * down), centre, distortion,
        lens or plain,
    )  # fmt: skip


def _focal(frame: Frame, width: float, height: float) -> tuple[float, float]:
    """Focal lengths (x, y) in pixels, from the frame or else the file; one may be given for both."""
    for where, values in frame.levels():
        found = {}
        for axis, side in (("x", width), ("y", height)):
            if f"fl_{axis}" in values:
                found[axis] = number(where, values, f"fl_{axis}")
            elif f"camera_angle_{axis}" in values:
                angle = field_of_view(where, values, f"camera_angle_{axis}")
                found[axis] = focal_length(angle, side)
            if axis in found and not _LEAST_FOCAL <= found[axis] <= _MOST:
                raise SceneError(f"{where}: the focal length fl_{axis} is {found[axis]:g} pixels")
        if found:
            return found.get("x", found.get("y", 0.0)), found.get("y", found.get("x", 0.0))
    raise SceneError(f"{frame.where}: neither fl_x nor camera_angle_x is there")


def focal_length(angle: float, side: float) -> float:
    """The focal length in pixels from the angle of view in radians along a side, in pixels."""
    return 0.5 * side / math.tan(0.5 * angle)

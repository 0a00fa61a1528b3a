"""What transforms files can say: NeRF's Blender format, instant-ngp's and nerfstudio's.

All have poses with OpenGL axes, intrinsics at the file's top level or in each frame (which goes first),
and pictures and masks named relative to the file.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxnerf.lenses import Lens
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
# Pixels, and coefficients of lenses: far beyond any camera's.
_LEAST_FOCAL, _MOST = 1e-3, 1e9


class NoPicturesError(SceneError):
    """None of the pictures that a file names is there."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One of a file's frames, of which the picture is there.

    Attributes:
      picture: its file.
      name: of the picture, for people.
      where, own: where the frame stands, for messages, and its values.
      file, shared: the file, and its values.
    """

    picture: Path
    name: str
    where: str
    own: Mapping[str, Any]
    file: Path
    shared: Mapping[str, Any]

    def levels(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Where values stand, and the values: the frame's, then the file's."""
        return (self.where, self.own), (str(self.file), self.shared)

    def level(self, key: str) -> tuple[str, Mapping[str, Any]]:
        """That of the levels which has a key; the frame's if none has."""
        own, shared = self.levels()
        return shared if key in self.shared and key not in self.own else own

    def get(self, key: str) -> Any:
        """The frame's value, or else the file's, or else None."""
        return self.level(key)[1].get(key)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number that is not absurdly large.

        Raises:
          SceneError: it is missing without a default, or something else.
        """
        where, values = self.level(key)
        found = number(where, values, key, default)
        if abs(found) > _MOST:
            raise SceneError(f"{where}: {key} {found:g} is far too large")
        return found


def present_frames(
    path: Path, contents: dict[str, Any], allow_outside_paths: bool
) -> tuple[list[Frame], tuple[str, ...]]:
    """The frames whose pictures are there, in the order of the file; and notes on the others.

    Args:
      path: of the file.
      contents: of it.
      allow_outside_paths: see `jaxnerf.scenes.load_scene`.

    Raises:
      NoPicturesError: no picture is there.
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
    """The picture that a file_path names, perhaps without its suffix or in the other case of it."""

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
    """The (width, height) that the file gives a frame's picture; None where it gives neither.

    Raises:
      SceneError: there is but one, or they are no numbers.
    """
    if frame.get("w") is None and frame.get("h") is None:
        return None
    return frame.number("w"), frame.number("h")


def lens_of(frame: Frame) -> Lens | None:
    """The lens that camera_model names, or else is_fisheye; None for one with k1 to k4, p1 and p2.

    Raises:
      SceneError: it is none that is read, or is_fisheye neither true nor false.
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

    A mask is what mask_path or mask_filename names, and ignores what it shows in black; or
    dynamic_mask_NAME.png beside the photograph NAME, and ignores what it shows in another colour.

    Args:
      frame: of the file.
      allow_outside_paths: see `jaxnerf.scenes.load_scene`.

    Raises:
      SceneError: the picture, its mask, the pose or an intrinsic is missing or wrong.
    """
    folder, mask, ignored = frame.file.parent, None, "black"
    for key in MASK_KEYS:
        if mask is None and frame.own.get(key) is not None:
            mask = path_in(
                folder, frame.where, key, frame.own[key], allow_outside_paths=allow_outside_paths
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
      frame: of the file.
      picture: its photograph; intrinsics that are given for another resolution are scaled to it.
      lens: "fisheye", whose distortion is k1 to k4, or "equirectangular", for a whole sphere; by
        default "opencv" with k1 to k4, p1 and p2, or "pinhole" where those are 0.

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
    """Focal lengths in pixels, from the frame or else the file; one may stand for both."""
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
    """In pixels, of a field of view in radians along a picture's side of so many pixels."""
    return 0.5 * side / math.tan(0.5 * angle)

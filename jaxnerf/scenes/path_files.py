"""Camera paths in files: NeRF's transforms (read) and nerfstudio's camera paths (read and written).

A transforms file has {"frames": [{"transform_matrix": [[...], ...]}, ...]}, and for the file or a frame
the keys of cameras in `jaxnerf.scenes.transforms`: fl_x, fl_y, cx, cy, w, h, camera_angle_x,
camera_angle_y, k1 to k4, p1, p2, camera_model, is_fisheye. Without any of these the intrinsics are those
of the training cameras.

nerfstudio's camera_path.json has {"camera_path": [{"camera_to_world": 16 numbers, row by row, "fov":
vertical, in degrees}, ...], "render_width", "render_height", "camera_type", "fps", "seconds",
"is_cycle"}, as `nerfstudio.cameras.camera_paths.get_path_from_json` reads it. The aspect of a camera is
that of the editor's window; it does not affect the image, as in nerfstudio. `path_contents` writes such a
file, with the "keyframes" of the camera path, so that nerfstudio's editor can open it.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera, paths
from jaxnerf.cameras.lenses import Lens
from jaxnerf.scenes import SceneError, Similarity
from jaxnerf.scenes.images import Picture
from jaxnerf.scenes.json_files import frames_of, load_json, number, read_pose
from jaxnerf.scenes.transforms import Frame, claimed_size, lens_of, view_of
from jaxnerf.scenes.views import View, cameras_of, joined

MOST_PIXELS = 16_384  # along a side

# The keys of a transforms file that determine an image: those of the lens, and those of its size.
INTRINSICS = (
    *("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "cx", "cy"),
    *("k1", "k2", "k3", "k4", "p1", "p2", "camera_model", "is_fisheye"),
)
SIZES = ("w", "h")
# Other keys of such files, of scenes and photographs, which do not affect the images of a path.
_OF_PHOTOGRAPHS = {
    *("file_path", "mask_path", "mask_filename", "depth_file_path", "colmap_im_id", "sharpness"),
    *("near", "far", "aabb_scale", "scale", "offset", "rotation", "name", "id", "fps"),
    *("depth_path", "normal_path", "timestamp", "integer_depth_scale", "enable_depth_loading"),
    *("white_transparent", "black_transparent", "up", "n_frames", "license", "comment", "version"),
    *("applied_transform", "applied_scale", "ply_file_path", "orientation_override"),
    *("train_filenames", "val_filenames", "test_filenames", "frames", "transform_matrix"),
}
_KINDS: dict[str, Lens] = {
    "perspective": "pinhole",
    "fisheye": "fisheye",
    "equirectangular": "equirectangular",
    "omnidirectional": "equirectangular",
    "vr180": "equirectangular",
}
# The kinds with two eyes, each of which has an image of the file's size.
_PICTURES = {"omnidirectional": "ods", "vr180": "vr180"}
_OF_PATHS = {
    *("camera_path", "camera_type", "render_width", "render_height", "fps", "seconds", "is_cycle"),
    *("keyframes", "smoothness_value", "default_fov", "default_transition_sec", "path_name"),
}
_OF_PATH_CAMERAS = {"camera_to_world", "fov", "aspect", "render_time"}


@dataclasses.dataclass(frozen=True)
class PathFile:
    """The contents of a file with a camera path.

    Attributes:
      cameras: cameras at the file's poses, in the frame of the scene's own files.
      frames_per_second: None if the file does not have it.
      cycle: whether the path returns to its beginning.
      notes: remarks for the user, each a line.
      seconds: duration of the path, whatever its number of frames; None if the file does not have it.
      picture: kind of the images: "camera" for what each camera sees; "ods" or "vr180" for two eyes
        around each camera, which is equirectangular.
      from_file: whether the poses come from a file.
    """

    cameras: Camera
    frames_per_second: float | None = None
    cycle: bool = False
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    picture: str = "camera"
    from_file: bool = True


def read_path(path: Path, training: Camera) -> PathFile:
    """Read a camera path of either format.

    Args:
      path: the file.
      training: a camera of the photographs, whose lens and size are used if the file has neither.

    Raises:
      SceneError: the file is missing or wrong, or has a feature that cannot be rendered.
    """
    contents = load_json(path)
    if "camera_path" in contents:
        return _nerfstudio(path, contents)
    return _transforms(path, contents, training)


def path_contents(
    cameras: Camera, keys: Camera, *, frames_per_second: float, seconds_between: float, cycle: bool
) -> dict[str, Any]:
    """The contents of a camera_path.json with pinhole cameras; `read_path` reads them back.

    Args:
      cameras: the camera of each image, all of one size.
      keys: the key frames between which the cameras were interpolated.
      frames_per_second: frame rate of the video.
      seconds_between: time between two key frames.
      cycle: whether the path returns to its beginning.
    """
    width, height = (int(side) for side in np.asarray(cameras.size)[0])
    angles, of_keys = _vertical_angles(cameras), _vertical_angles(keys)
    return {
        "camera_type": "perspective",
        "render_width": width,
        "render_height": height,
        "fps": frames_per_second,
        "seconds": len(cameras) / frames_per_second,
        "is_cycle": cycle,
        "smoothness_value": 0.0,
        "default_fov": of_keys[0],
        "default_transition_sec": seconds_between,
        "keyframes": [
            {
                "matrix": _sixteen(pose),
                "fov": angle,
                "aspect": width / height,
                "override_transition_enabled": False,
                "override_transition_sec": None,
            }
            for pose, angle in zip(np.asarray(keys.camera_to_world), of_keys, strict=True)
        ],
        "camera_path": [
            {"camera_to_world": _sixteen(pose), "fov": angle, "aspect": width / height}
            for pose, angle in zip(np.asarray(cameras.camera_to_world), angles, strict=True)
        ],
    }


def _vertical_angles(cameras: Camera) -> list[float]:
    """Vertical angles of view in degrees."""
    heights, focal = (np.asarray(x, np.float64)[:, 1] for x in (cameras.size, cameras.focal))
    return np.rad2deg(2.0 * np.arctan(0.5 * heights / focal)).tolist()


def _sixteen(pose: np.ndarray) -> list[float]:
    """A pose with its fourth row as 16 numbers, row by row."""
    return [*np.asarray(pose, np.float64)[:3].ravel().tolist(), 0.0, 0.0, 0.0, 1.0]


def flight(cameras: Camera, frames: int, cycle: bool = False) -> Camera:
    """A smooth path through cameras; their intrinsics are interpolated linearly.

    Args:
      cameras: two or more.
      frames: number of cameras to return.
      cycle: whether the path returns to the first camera.
    """
    poses = paths.spline(np.asarray(cameras.camera_to_world), frames, loop=cycle)
    count = len(cameras)
    times = np.linspace(0.0, count if cycle else count - 1, frames, endpoint=not cycle)
    keys = np.arange(count + cycle)

    def between(values: Any) -> np.ndarray:
        values = np.asarray(values)
        values = np.concatenate([values, values[:1]]) if cycle else values
        columns = [np.interp(times, keys, column) for column in values.T]
        return np.stack(columns, axis=-1).astype(np.float32)

    return dataclasses.replace(
        cameras,
        camera_to_world=poses,
        focal=between(cameras.focal),
        centre=between(cameras.centre),
        distortion=between(cameras.distortion),
        size=np.repeat(np.asarray(cameras.size)[:1], frames, axis=0),
    )


def repeated(camera: Camera, poses: Float[np.ndarray, "N 3 4"]) -> Camera:
    """The same camera at many poses."""
    count = len(poses)
    same = {
        name: np.broadcast_to(
            np.asarray(getattr(camera, name)), (count, *np.shape(getattr(camera, name)))
        )
        for name in ("focal", "centre", "distortion", "size")
    }
    return dataclasses.replace(camera, camera_to_world=np.asarray(poses, np.float64), **same)


def _transforms(path: Path, contents: dict[str, Any], training: Camera) -> PathFile:
    frames = list(frames_of(path, contents))
    levels = [(str(path), contents), *frames]
    for where, values in levels:
        _refuse(where, values, {*INTRINSICS, *SIZES, *_OF_PHOTOGRAPHS})
    rate = _rate(path, contents)
    poses = [read_pose(where, values.get("transform_matrix")) for where, values in frames]
    said = {key for _, values in levels for key in values}
    of_lens, of_size = said & {*INTRINSICS}, said & {*SIZES}
    width, height = (int(side) for side in np.asarray(training.size))
    if not of_lens and not of_size:
        return PathFile(repeated(training, np.stack(poses)), rate)
    members = [Frame(path, "", where, values, path, contents) for where, values in frames]
    sizes = [_size(frame, (width, height)) for frame in members]
    if len(set(sizes)) > 1:
        index = next(i for i, size in enumerate(sizes) if size != sizes[0])
        raise SceneError(
            f"{frames[index][0]}: w and h are {sizes[index][0]} x {sizes[index][1]}, frames[0] has "
            f"{sizes[0][0]} x {sizes[0][1]}: a video has pictures of one size"
        )
    if not of_lens:
        if abs(sizes[0][0] * height - sizes[0][1] * width) > max(*sizes[0], width, height):
            raise SceneError(
                f"{path}: w and h are of another shape than the photographs' {width} x {height}, and "
                "no fl_x or camera_angle_x says what they show"
            )
        return PathFile(repeated(training.resized(*sizes[0]), np.stack(poses)), rate)
    notes = ()
    in_pixels = sorted(of_lens & {"fl_x", "fl_y", "cx", "cy"})
    if in_pixels and not of_size:
        notes = (f"{in_pixels[0]} is taken for pictures of {width} x {height}; w and h would say",)
    width, height = sizes[0]
    sized = {"w": float(width), "h": float(height)}
    views = [
        view_of(
            dataclasses.replace(frame, own={**frame.own, **sized}),
            Picture(path, (width, height)),
            lens_of(frame),
        )
        for frame in members
    ]
    return PathFile(_cameras(path, views), rate, notes=notes)


def _size(frame: Frame, default: tuple[int, int]) -> tuple[int, int]:
    wide, high = claimed_size(frame) or default
    if not all(side == int(side) and 1 <= side <= MOST_PIXELS for side in (wide, high)):
        raise SceneError(
            f"{frame.where}: w and h are {wide:g} and {high:g}, not whole numbers from 1 to "
            f"{MOST_PIXELS:,}"
        )
    return int(wide), int(high)


def pose_in(where: str, entry: Mapping[str, Any], key: str) -> np.ndarray:
    """The pose [3, 4] under a key of an entry, given as 4 x 4 numbers or as 16, row by row.

    Raises:
      SceneError: it has none; `where` begins the message.
    """
    matrix = entry.get(key)
    if isinstance(matrix, list) and len(matrix) == 16:
        matrix = [matrix[row : row + 4] for row in range(0, 16, 4)]
    return read_pose(where, matrix, key)


def _nerfstudio(path: Path, contents: dict[str, Any]) -> PathFile:
    _refuse(str(path), contents, _OF_PATHS)
    kind = contents.get("camera_type", "perspective")
    if kind not in _KINDS:
        raise SceneError(
            f"{path}: camera_type {str(kind)[:40]!r} is not one of {', '.join(_KINDS)}"
        )
    width, height = (_side(path, contents, key) for key in ("render_width", "render_height"))
    entries = contents["camera_path"]
    if not isinstance(entries, list) or not entries:
        raise SceneError(f"{path}: 'camera_path' must be a list with at least one camera")
    views = []
    for index, entry in enumerate(entries):
        where = f"{path}: camera_path[{index}]"
        if not isinstance(entry, dict):
            raise SceneError(f"{where} must be an object")
        _refuse(where, entry, _OF_PATH_CAMERAS)
        pose = pose_in(where, entry, "camera_to_world")
        around = math.pi if kind == "vr180" else 2.0 * math.pi
        focal = (width / around, height / math.pi)
        if _KINDS[kind] != "equirectangular":
            length = _focal(where, entry, height)
            focal = (length, length)
        picture = Picture(path, (width, height))
        views.append(View("", picture, pose, focal, (0.5 * width, 0.5 * height), lens=_KINDS[kind]))
    note = (
        f"{path}: poses are taken in the frame of the scene's own files; nerfstudio's viewer writes its "
        "own normalised one, which dataparser_transforms.json of its run leads back from"
    )
    cycle = contents.get("is_cycle", False)
    if not isinstance(cycle, bool):
        raise SceneError(f"{path}: is_cycle must be true or false")
    rate, seconds = _rate(path, contents), number(path, contents, "seconds", 0.0)
    if seconds > 0.0:
        rate = len(views) / seconds
    return PathFile(
        _cameras(path, views),
        rate,
        cycle,
        (note,),
        seconds if seconds > 0.0 else None,
        _PICTURES.get(kind, "camera"),
    )


def _focal(where: str, entry: Mapping[str, Any], height: int) -> float:
    angle = number(where, entry, "fov")
    if not 1e-3 <= angle <= 179.0:
        raise SceneError(f"{where}: fov {angle:g} is not between 0.001 and 179 degrees")
    return 0.5 * height / math.tan(0.5 * math.radians(angle))


def _side(path: Path, contents: Mapping[str, Any], key: str) -> int:
    side = number(path, contents, key)
    if side != int(side) or not 1 <= side <= MOST_PIXELS:
        raise SceneError(f"{path}: {key} {side:g} is not a whole number from 1 to {MOST_PIXELS:,}")
    return int(side)


def _rate(path: Path, contents: Mapping[str, Any]) -> float | None:
    """The file's frame rate; None if it has none."""
    if contents.get("fps") is None:
        return None
    rate = number(path, contents, "fps")
    if rate <= 0.0:
        raise SceneError(f"{path}: fps {rate:g} is not above 0")
    return rate


def _refuse(where: str, values: Mapping[str, Any], known: set[str]) -> None:
    """Raise an error for unknown keys, which might change the images, unless their values are empty."""
    for key, value in values.items():
        if key not in known and value not in (None, False, [], {}):
            raise SceneError(f"{where}: {key[:40]!r} is not honoured in a camera path; remove it")


def _cameras(path: Path, views: list[View]) -> Camera:
    cameras = cameras_of(views, Similarity(), joined(path, {view.lens for view in views}))
    # Survey coordinates do not fit into float32.
    poses = np.stack([np.asarray(view.pose, np.float64)[:3] for view in views])
    return dataclasses.replace(cameras, camera_to_world=poses)

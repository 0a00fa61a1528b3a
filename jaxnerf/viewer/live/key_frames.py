"""Key frames of a camera path, recorded in the live viewer."""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.scenes import SceneError
from jaxnerf.scenes.json_files import number, object_of
from jaxnerf.scenes.path_files import MOST_PIXELS, flight, path_contents, pose_in
from jaxnerf.viewer.live.views import rows

Key = tuple[tuple[tuple[float, ...], ...], float]
# Limits of the seconds between key frames, and of the frame rate.
SECONDS, RATES = (0.1, 600.0), (1.0, 120.0)
# Largest number of key frames in a file that is opened, since each is displayed.
_MOST_KEYS = 1000


@dataclasses.dataclass(frozen=True)
class KeyFrames:
    """The key frames of a camera path.

    Attributes:
      keys: for each key frame the pose, in the format of `View`, and the vertical field of view in
        radians.
      seconds: time between two key frames.
      frames_per_second: frame rate of the video.
      cycle: whether the path returns to the first key frame.
    """

    keys: tuple[Key, ...] = ()
    seconds: float = 2.0
    frames_per_second: float = 30.0
    cycle: bool = False

    def with_key(self, pose: Any, angle: float) -> "KeyFrames":
        """These key frames and one more."""
        return dataclasses.replace(self, keys=(*self.keys, (pose, angle)))

    def __len__(self) -> int:
        """Number of frames of the path."""
        count = len(self.keys)
        if count < 2:
            return count
        between = count if self.cycle else count - 1
        return max(round(between * self.seconds * self.frames_per_second), 2)

    def cameras(self, width: int, height: int) -> Camera:
        """The camera of each frame, in the user's frame; at least one key frame is required."""
        keys = self._at_keys(width, height)
        return flight(keys, len(self), self.cycle) if len(self.keys) > 1 else keys

    def at(self, part: float) -> tuple[Float[np.ndarray, "3 4"], float]:
        """Pose and vertical field of view at a fraction of the path: those of the nearest frame."""
        number = min(int(part * len(self)), len(self) - 1)
        camera = self._previewed[number]
        angle = 2.0 * np.arctan(1.0 / float(np.asarray(camera.focal)[1]))
        return np.asarray(camera.camera_to_world), float(angle)

    @functools.cached_property
    def _previewed(self) -> Camera:
        """The camera of each frame, made once for all frames of a preview."""
        return self.cameras(2, 2)

    def contents(self, width: int, height: int) -> dict[str, Any]:
        """Contents of a camera_path.json: `jaxnerf render RUN --path FILE` renders the same frames."""
        return path_contents(
            self.cameras(width, height),
            self._at_keys(width, height),
            frames_per_second=self.frames_per_second,
            seconds_between=self.seconds,
            cycle=self.cycle,
        )

    def to_json(self, width: int, height: int) -> bytes:
        """The contents of a camera_path.json as bytes; see `contents`."""
        return json.dumps(self.contents(width, height), allow_nan=False).encode()

    @classmethod
    def of_json(cls, name: str, data: bytes) -> tuple["KeyFrames", tuple[int, int]]:
        """Key frames of a camera_path.json in nerfstudio's layout, and the (width, height) of its images.

        The interpolation between key frames is jaxnerf's; nerfstudio's smoothness is ignored.

        Args:
          name: name of the file, for messages.
          data: contents of the file.

        Raises:
          SceneError: it is no such file, has no key frames, or has features that are not supported.
        """
        contents = object_of(name, data)
        keys = tuple(_keys_in(name, contents))
        cycle = contents.get("is_cycle", False)
        if not isinstance(cycle, bool):
            raise SceneError(f"{name}: is_cycle must be true or false")
        if (kind := contents.get("camera_type", "perspective")) != "perspective":
            raise SceneError(f"{name}: camera_type {str(kind)[:40]!r} is not perspective")
        seconds = _within(name, contents, "default_transition_sec", SECONDS, cls.seconds)
        rate = _within(name, contents, "fps", RATES, cls.frames_per_second)
        width, height = (
            round(_within(name, contents, key, (1.0, float(MOST_PIXELS))))
            for key in ("render_width", "render_height")
        )
        return cls(keys, seconds, rate, cycle), (width, height)

    def _at_keys(self, width: int, height: int) -> Camera:
        poses = np.array([pose for pose, _ in self.keys], np.float64)
        cameras = Camera.pinhole(poses, 1.0, width, height)
        focal = 0.5 * height / np.tan(0.5 * np.array([angle for _, angle in self.keys]))
        focal = np.repeat(focal[:, None], 2, axis=1).astype(np.float32)
        return dataclasses.replace(cameras, focal=focal)


def _keys_in(name: str, contents: Mapping[str, Any]) -> Iterator[Key]:
    """The key frames of a file."""
    found = contents.get("keyframes")
    if not isinstance(found, list) or not found:
        raise SceneError(
            f"{name}: 'keyframes' must be a list with at least one key frame; a path without is for "
            "jaxnerf render --path"
        )
    if len(found) > _MOST_KEYS:
        raise SceneError(f"{name}: {len(found):,} key frames are more than {_MOST_KEYS:,}")
    for index, key in enumerate(found):
        where = f"{name}: keyframes[{index}]"
        if not isinstance(key, dict):
            raise SceneError(f"{where} must be an object")
        if key.get("override_transition_enabled"):
            raise SceneError(
                f"{where}: override_transition_enabled: all key frames are as many seconds apart here"
            )
        pose = pose_in(where, key, "matrix")
        yield rows(pose), math.radians(_within(where, key, "fov", (1e-3, 179.0)))


def _within(
    where: str,
    contents: Mapping[str, Any],
    key: str,
    limits: tuple[float, float],
    default: float | None = None,
) -> float:
    value = number(where, contents, key, default)
    if not limits[0] <= value <= limits[1]:
        raise SceneError(f"{where}: {key} {value:g} is not from {limits[0]:g} to {limits[1]:g}")
    return value

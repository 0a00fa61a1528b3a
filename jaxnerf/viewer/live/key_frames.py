"""A flight that is recorded by standing somewhere, and somewhere else: key frames of a camera path."""

import dataclasses
import json
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.scenes.path_files import flight, path_contents

Key = tuple[tuple[tuple[float, ...], ...], float]


@dataclasses.dataclass(frozen=True)
class KeyFrames:
    """Where a flight comes by.

    Attributes:
      keys: of each the pose, as a `View` has it, and the vertical angle of view in radians.
      seconds: from one to the next.
      frames_per_second: of the video.
      cycle: whether it returns to the first.
    """

    keys: tuple[Key, ...] = ()
    seconds: float = 2.0
    frames_per_second: float = 30.0
    cycle: bool = False

    def with_key(self, pose: Any, angle: float) -> "KeyFrames":
        """These and one more."""
        return dataclasses.replace(self, keys=(*self.keys, (pose, angle)))

    def __len__(self) -> int:
        """How many frames the flight has."""
        count = len(self.keys)
        if count < 2:
            return count
        between = count if self.cycle else count - 1
        return max(round(between * self.seconds * self.frames_per_second), 2)

    def cameras(self, width: int, height: int) -> Camera:
        """The camera of each frame, in the user's frame; at least one key frame must be there."""
        keys = self._at_keys(width, height)
        return flight(keys, len(self), self.cycle) if len(self.keys) > 1 else keys

    def at(self, part: float) -> tuple[Float[np.ndarray, "3 4"], float]:
        """The pose and the angle at a part of the flight, from 0 to 1: those of the nearest frame."""
        number = min(int(part * len(self)), len(self) - 1)
        camera = self.cameras(2, 2)[number]
        angle = 2.0 * np.arctan(1.0 / float(np.asarray(camera.focal)[1]))
        return np.asarray(camera.camera_to_world), float(angle)

    def contents(self, width: int, height: int) -> dict[str, Any]:
        """What a camera_path.json says: `jaxnerf render RUN --path FILE` renders the same frames."""
        return path_contents(
            self.cameras(width, height),
            self._at_keys(width, height),
            frames_per_second=self.frames_per_second,
            seconds_between=self.seconds,
            cycle=self.cycle,
        )

    def to_json(self, width: int, height: int) -> bytes:
        """The same as a file has it."""
        return json.dumps(self.contents(width, height), allow_nan=False).encode()

    def _at_keys(self, width: int, height: int) -> Camera:
        poses = np.array([pose for pose, _ in self.keys], np.float64)
        cameras = Camera.pinhole(poses, 1.0, width, height)
        focal = 0.5 * height / np.tan(0.5 * np.array([angle for _, angle in self.keys]))
        focal = np.repeat(focal[:, None], 2, axis=1).astype(np.float32)
        return dataclasses.replace(cameras, focal=focal)

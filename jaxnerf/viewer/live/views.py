"""Views in the live viewer: a camera in the user's frame, and the style of its image."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.cameras.paths import focus_point, home_of, up_of
from jaxnerf.runs.run import Run

Layer = Literal["colour", "depth", "normals", "opacity"]
Comparison = Literal["render", "photograph", "difference"]
LAYERS: tuple[Layer, ...] = ("colour", "depth", "normals", "opacity")
COMPARISONS: tuple[Comparison, ...] = ("render", "photograph", "difference")
# Least distance of the point that the camera orbits, on the stage; and the least cosine of the up
# direction with the camera's upward axis at which it is used for orbiting.
_NEAREST, _LEVEL = 0.05, 0.05
# From OpenGL's axes of a camera (y up, z backward) to OpenCV's (y down, z forward), and back.
_TURNED = np.diag([1.0, -1.0, -1.0])


@dataclasses.dataclass(frozen=True)
class CropBox:
    """The box to which a scene is cropped.

    Attributes:
      low, high: corners, in the user's frame.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Style:
    """How an image is rendered.

    Attributes:
      layer: the layer that the image shows.
      background: colour behind the scene; None for that of training.
      crop: box to which the scene is cropped; None for the whole scene.
      comparison: for a view at the camera of a photograph: the run's image, the photograph, or their
        difference.
    """

    layer: Layer = "colour"
    background: tuple[float, float, float] | None = None
    crop: CropBox | None = None
    comparison: Comparison = "render"


@dataclasses.dataclass(frozen=True)
class View:
    """A camera without distortion, and the window for its image.

    Attributes:
      pose: camera-to-world in the user's frame, three rows of four numbers, OpenGL axes.
      angle: vertical field of view, in radians.
      size: (width, height) of the window in pixels.
      style: how the image is rendered.
      photograph: index of the training photograph taken with this pose; None for other poses.
    """

    pose: tuple[tuple[float, ...], ...]
    angle: float
    size: tuple[int, int]
    style: Style = Style()
    photograph: int | None = None

    def camera(self, size: tuple[int, int] | None = None) -> Camera:
        """The camera, for an image of the window's size or of another size."""
        width, height = size or self.size
        focal = 0.5 * height / np.tan(0.5 * self.angle)
        return Camera.pinhole(np.array(self.pose), focal, width, height)

    @property
    def compares(self) -> bool:
        """Whether the image uses the photograph's own lens, or is the photograph itself."""
        return self.photograph is not None and self.style.comparison != "render"


def rows(pose: Float[np.ndarray, "rows 4"]) -> tuple[tuple[float, ...], ...]:
    """A pose in the format of `View`."""
    return tuple(tuple(row) for row in np.asarray(pose, np.float64)[:3].tolist())


@dataclasses.dataclass(frozen=True)
class Stage:
    """The browser's coordinates: the user's frame, shifted and scaled so that coordinates are near 1.

    The axes are those of the user's frame. A browser computes in single precision and moves cameras by
    fixed lengths, but survey coordinates are millions, and a scan may be in millimetres.

    Attributes:
      middle: origin of the stage, in the user's frame.
      size: length of 1 on the stage, in the user's unit.
      up: the upward direction, a unit vector.
      home: pose of the first view, in the user's frame.
      angle: vertical field of view of the first view, in radians.
      distance: distance from the first view to the point looked at, in the user's unit.
    """

    middle: Float[np.ndarray, "3"]
    size: float
    up: Float[np.ndarray, "3"]
    home: Float[np.ndarray, "3 4"]
    angle: float
    distance: float

    def placed(
        self, pose: Float[np.ndarray, "3 4"]
    ) -> tuple[Float[np.ndarray, "4"], Float[np.ndarray, "3"]]:
        """A pose of the user's frame on the stage: quaternion (w, x, y, z), OpenCV axes, and position."""
        # Imported here, since this takes a fifth as long as all other imports together.
        from scipy.spatial.transform import Rotation

        pose = np.asarray(pose, np.float64)
        quaternion = Rotation.from_matrix(pose[:3, :3] @ _TURNED).as_quat(scalar_first=True)
        return quaternion, (pose[:3, 3] - self.middle) / self.size

    def orbit(
        self, pose: Float[np.ndarray, "3 4"]
    ) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """A pose of the user's frame as parameters of an orbiting camera, on the stage.

        Returns:
          The position; the point looked at, at the depth of the stage's origin; and the upward
          direction: the stage's up, projected to the plane of the camera's upward and backward axes, or
          the camera's upward axis if the cosine of that projection with it is too small (see `_LEVEL`).
        """
        pose = np.asarray(pose, np.float64)
        right, upward, back = pose[:, 0], pose[:, 1], pose[:, 2]
        distance = max(float((pose[:, 3] - self.middle) @ back) / self.size, _NEAREST)
        up = self.up - (self.up @ right) * right
        length = float(np.linalg.norm(up))
        is_level = up @ upward > _LEVEL * length
        position = (pose[:, 3] - self.middle) / self.size
        return position, position - distance * back, up / length if is_level else upward

    def pose(
        self, quaternion: Float[np.ndarray, "4"], position: Float[np.ndarray, "3"]
    ) -> Float[np.ndarray, "3 4"]:
        """The inverse of `placed`."""
        from scipy.spatial.transform import Rotation

        turn = Rotation.from_quat(np.asarray(quaternion), scalar_first=True).as_matrix() @ _TURNED
        where = self.middle + self.size * np.asarray(position, np.float64)
        return np.concatenate([turn, where[:, None]], axis=1)


def stage_of(run: Run) -> Stage:
    """The stage of a run: centred at the point its cameras look at, with their distance as its size."""
    cameras = run.cameras()
    poses = np.asarray(cameras.camera_to_world, np.float64)[:, :3]
    middle, home = focus_point(poses), home_of(poses)
    away = np.linalg.norm(poses[:, :, 3] - middle, axis=-1)
    distance = float((home[:, 3] - middle) @ home[:, 2])
    near, far = run.scene.near, run.scene.far
    if run.config.scene.space == "forward" or not distance > 0.0:
        distance = 0.5 * (near + min(far, 10.0 * near)) * run.scene.to_user.scale
        middle = home[:, 3] - distance * home[:, 2]
        away = np.array([distance])
    height, focal = float(cameras.size[0][1]), float(cameras.focal[0][1])
    angle = float(np.clip(2.0 * np.arctan(0.5 * height / focal), 0.2, 2.0))
    return Stage(middle, float(np.median(away)), up_of(poses), home, angle, distance)


def angle_around(camera: Camera, size: tuple[int, int]) -> float:
    """The vertical field of view of a window that contains a camera's whole image."""
    across, down = np.asarray(camera.size, np.float64)
    scale = min(size[0] / across, size[1] / down)
    length = float(np.asarray(camera.focal)[1])
    return float(2.0 * np.arctan(0.5 * size[1] / (scale * length)))


def between(
    first: Float[np.ndarray, "3 4"], last: Float[np.ndarray, "3 4"], part: float
) -> Float[np.ndarray, "3 4"]:
    """A pose between two others: linear in position, spherical linear (the shorter way) in rotation."""
    from scipy.spatial.transform import Rotation, Slerp

    first, last = np.asarray(first, np.float64), np.asarray(last, np.float64)
    turns = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([first[:, :3], last[:, :3]])))
    where = (1.0 - part) * first[:, 3] + part * last[:, 3]
    return np.concatenate([turns(part).as_matrix(), where[:, None]], axis=1)

"""What somebody looks at: a camera in the user's frame, and how its picture is made."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.paths import focus_point, home_of, up_of
from jaxnerf.runs.run import Run

Layer = Literal["colour", "depth", "normals", "opacity"]
Comparison = Literal["render", "photograph", "difference"]
LAYERS: tuple[Layer, ...] = ("colour", "depth", "normals", "opacity")
COMPARISONS: tuple[Comparison, ...] = ("render", "photograph", "difference")
# How far the point is that one moves around, on the stage; and the cosine from which on up is upward.
_NEAREST, _LEVEL = 0.05, 0.05
# From OpenGL's axes of a camera (y up, z backward) to OpenCV's (y down, z forward), and back.
_TURNED = np.diag([1.0, -1.0, -1.0])


@dataclasses.dataclass(frozen=True)
class Box:
    """What is shown of a scene: the rest is empty.

    Attributes:
      low, high: corners, in the user's frame.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Style:
    """How a picture is made.

    Attributes:
      layer: what of the scene it shows.
      background: behind the scene; None for that of training.
      crop: what is shown of the scene; None for all of it.
      comparison: of a view that stands where a photograph was taken: the run's picture, the photograph,
        or how far they are apart.
    """

    layer: Layer = "colour"
    background: tuple[float, float, float] | None = None
    crop: Box | None = None
    comparison: Comparison = "render"


@dataclasses.dataclass(frozen=True)
class View:
    """A camera without distortion, and the window that shows what it sees.

    Attributes:
      pose: camera-to-world in the user's frame, three rows of four numbers, axes of OpenGL.
      angle: from the upper to the lower edge, in radians.
      size: (width, height) of the window in pixels.
      style: how the picture is made.
      photograph: the number of the training photograph that was taken here; None elsewhere.
    """

    pose: tuple[tuple[float, ...], ...]
    angle: float
    size: tuple[int, int]
    style: Style = Style()
    photograph: int | None = None

    def camera(self, size: tuple[int, int] | None = None) -> Camera:
        """The camera, with a picture of the window's size or of another."""
        width, height = size or self.size
        focal = 0.5 * height / np.tan(0.5 * self.angle)
        return Camera.pinhole(np.array(self.pose), focal, width, height)

    @property
    def compares(self) -> bool:
        """Whether the picture is through a photograph's own lens, or the photograph itself."""
        return self.photograph is not None and self.style.comparison != "render"


def rows(pose: Float[np.ndarray, "rows 4"]) -> tuple[tuple[float, ...], ...]:
    """A pose as a `View` has it."""
    return tuple(tuple(row) for row in np.asarray(pose, np.float64)[:3].tolist())


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where a browser shows the user's frame: shifted and scaled, so that numbers there are near 1.

    Axes are the user's own. A browser computes in single precision, and steps through space by fixed
    lengths, where survey coordinates are millions and a scan is in millimetres.

    Attributes:
      middle: of the stage, in the user's frame.
      size: what is 1 on the stage, in the user's unit.
      up: the direction that is upward, of unit length.
      home: where one stands at first, in the user's frame.
      angle: of the first view, from the upper to the lower edge, in radians.
      distance: from there to what is looked at, in the user's unit.
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
        """A pose of the user's frame as a quaternion (w, x, y, z), with OpenCV's axes, and a position."""
        # Here, since it takes a fifth as long to import as all else together.
        from scipy.spatial.transform import Rotation

        pose = np.asarray(pose, np.float64)
        quaternion = Rotation.from_matrix(pose[:3, :3] @ _TURNED).as_quat(scalar_first=True)
        return quaternion, (pose[:3, 3] - self.middle) / self.size

    def orbit(
        self, pose: Float[np.ndarray, "3 4"]
    ) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """A pose of the user's frame as one moves around from it, on the stage.

        Returns:
          The position; the point that is looked at, as far away as the stage's middle is; and the upward
          direction that is most nearly the stage's, of those that lie above the middle of the picture.
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
    """The stage of a run: around what its cameras look at, as large as their distance from it."""
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
    """The angle from the upper to the lower edge of a window that shows all of a camera's picture."""
    across, down = np.asarray(camera.size, np.float64)
    scale = min(size[0] / across, size[1] / down)
    length = float(np.asarray(camera.focal)[1])
    return float(2.0 * np.arctan(0.5 * size[1] / (scale * length)))


def between(
    first: Float[np.ndarray, "3 4"], last: Float[np.ndarray, "3 4"], part: float
) -> Float[np.ndarray, "3 4"]:
    """Part of the way from one pose to another, the shorter way around."""
    from scipy.spatial.transform import Rotation, Slerp

    first, last = np.asarray(first, np.float64), np.asarray(last, np.float64)
    turns = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([first[:, :3], last[:, :3]])))
    where = (1.0 - part) * first[:, 3] + part * last[:, 3]
    return np.concatenate([turns(part).as_matrix(), where[:, None]], axis=1)

"""Conversion of COLMAP's camera models and poses to jaxnerf's cameras and back."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras.lenses import COEFFICIENTS, FLAT, Lens


class Model(NamedTuple):
    """A camera model of COLMAP: its number in binary files, its lens, and the names of its parameters.

    Distortion parameters have the names of `lenses.COEFFICIENTS`, which may differ from COLMAP's.
    """

    number: int
    lens: Lens
    parameters: tuple[str, ...]


def _model(number: int, lens: Lens, parameters: str) -> Model:
    return Model(number, lens, tuple(parameters.split()))


# The models of COLMAP 4.2 (src/colmap/sensor/models.h); models of one lens are in the order of their
# number of parameters.
MODELS: dict[str, Model] = {
    "SIMPLE_PINHOLE": _model(0, "pinhole", "f cx cy"),
    "PINHOLE": _model(1, "pinhole", "fx fy cx cy"),
    "SIMPLE_RADIAL": _model(2, "opencv", "f cx cy k1"),
    "RADIAL": _model(3, "opencv", "f cx cy k1 k2"),
    "OPENCV": _model(4, "opencv", "fx fy cx cy k1 k2 p1 p2"),
    "FULL_OPENCV": _model(6, "opencv", "fx fy cx cy k1 k2 p1 p2 k3 q1 q2 q3"),
    "SIMPLE_FISHEYE": _model(14, "fisheye", "f cx cy"),
    "FISHEYE": _model(15, "fisheye", "fx fy cx cy"),
    "SIMPLE_RADIAL_FISHEYE": _model(8, "fisheye", "f cx cy k1"),
    "RADIAL_FISHEYE": _model(9, "fisheye", "f cx cy k1 k2"),
    "OPENCV_FISHEYE": _model(5, "fisheye", "fx fy cx cy k1 k2 k3 k4"),
    "THIN_PRISM_FISHEYE": _model(10, "fisheye", "fx fy cx cy k1 k2 p1 p2 k3 k4 s1 s3"),
    "RAD_TAN_THIN_PRISM_FISHEYE": _model(
        11, "fisheye624", "fx fy cx cy k1 k2 k3 k4 k5 k6 p2 p1 s1 s2 s3 s4"
    ),
    "FOV": _model(7, "fov", "fx fy cx cy omega"),
    "SIMPLE_DIVISION": _model(12, "division", "f cx cy k"),
    "DIVISION": _model(13, "division", "fx fy cx cy k"),
    "EUCM": _model(16, "eucm", "fx fy cx cy alpha beta"),
    "EQUIRECTANGULAR": _model(17, "equirectangular", "w h"),
}
_MOST = 1e9  # limit of the absolute value of parameters


class Intrinsics(NamedTuple):
    """The intrinsics of a camera without its size, as in `Camera`."""

    lens: Lens
    focal: Float[np.ndarray, "2"]
    centre: Float[np.ndarray, "2"]
    distortion: Float[np.ndarray, " K"]


def intrinsics(model: str, parameters: Float[np.ndarray, " P"]) -> Intrinsics:
    """The intrinsics of a camera with a model of `MODELS`.

    Distortion coefficients after the last one that the model has are left out.

    Raises:
      ValueError: the number of parameters is not the model's, or the values are not possible.
    """
    _, lens, names = MODELS[model]
    if len(parameters) != len(names):
        raise ValueError(f"{model} has {len(names)} parameters, not {len(parameters)}")
    if not (np.abs(parameters) < _MOST).all():
        raise ValueError(f"the parameters of {model} are not finite or far too large")
    values = dict(zip(names, map(float, parameters), strict=True))
    if lens == "equirectangular":
        size = np.array([values["w"], values["h"]])
        focal, centre = size / [2.0 * math.pi, math.pi], 0.5 * size
    else:
        focal = np.array([values.get(name, values.get("f")) for name in ("fx", "fy")], np.float64)
        centre = np.array([values["cx"], values["cy"]])
    if not (focal > 1.0 / _MOST).all():
        raise ValueError(f"the focal length of {model} is not above 0")
    if lens == "eucm" and not (0.0 <= values["alpha"] <= 1.0 and values["beta"] > 0.0):
        raise ValueError(f"{model} wants an alpha from 0 to 1 and a beta above 0")
    given = [place for place, name in enumerate(COEFFICIENTS[lens]) if name in values]
    coefficients = [values.get(name, 0.0) for name in COEFFICIENTS[lens]]
    return Intrinsics(lens, focal, centre, np.array(coefficients[: max(given, default=-1) + 1]))


def model_of(camera: Intrinsics, size: tuple[int, int]) -> tuple[str, Float[np.ndarray, " P"]]:
    """The simplest COLMAP model that represents a camera, and its parameters.

    Raises:
      ValueError: COLMAP has no such model.
    """
    values = dict(zip(COEFFICIENTS[camera.lens], map(float, camera.distortion), strict=False))
    needed = {name for name, value in values.items() if value != 0.0}
    values |= dict(zip(("fx", "fy"), map(float, camera.focal), strict=True))
    values |= dict(zip(("cx", "cy"), map(float, camera.centre), strict=True))
    values |= {"f": values["fx"], "w": float(size[0]), "h": float(size[1])}
    lenses = FLAT if camera.lens in FLAT else (camera.lens,)
    for name, model in MODELS.items():
        if model.lens not in lenses or not needed <= set(model.parameters):
            continue
        parameters = np.array([values.get(parameter, 0.0) for parameter in model.parameters])
        again = intrinsics(name, parameters)
        if np.allclose(again.focal, camera.focal, rtol=1e-7, atol=0.0) and np.allclose(
            again.centre, camera.centre, rtol=1e-7, atol=1e-7
        ):
            return name, parameters
    raise ValueError(f"COLMAP has no model for this {camera.lens} lens")


def pose_of(
    rotation: Float[np.ndarray, "4"], translation: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 4"]:
    """The pose (camera-to-world, OpenGL axes) from COLMAP's: world-to-camera with OpenCV axes.

    Args:
      rotation: unit quaternion (w, x, y, z).
      translation: position of the world's origin in the camera's coordinates.
    """
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_quat(rotation, scalar_first=True).as_matrix()
    return np.concatenate([turn.T * [1.0, -1.0, -1.0], -turn.T @ translation[:, None]], axis=1)


def from_pose(
    pose: Float[np.ndarray, "3 4"],
) -> tuple[Float[np.ndarray, "4"], Float[np.ndarray, "3"]]:
    """COLMAP's rotation and translation of a pose: the inverse of `pose_of`, with w >= 0."""
    from scipy.spatial.transform import Rotation

    turn = (np.asarray(pose[:, :3], np.float64) * [1.0, -1.0, -1.0]).T
    rotation = Rotation.from_matrix(turn).as_quat(canonical=True, scalar_first=True)
    return rotation, -turn @ pose[:, 3]

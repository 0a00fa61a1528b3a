"""COLMAP's camera models, each of which is one of jaxnerf's lenses."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxnerf.lenses import COEFFICIENTS, FLAT, Lens

# Shorter distortions than those of most cameras are filled up, so that most have the same shape.
_USUAL_COEFFICIENTS = 6


class Model(NamedTuple):
    """A camera model of COLMAP: its number in binary files, and its parameters in order.

    Parameters of the lens have the names of `lenses.COEFFICIENTS`, whatever COLMAP calls them.
    """

    number: int
    lens: Lens
    parameters: tuple[str, ...]


def _model(number: int, lens: Lens, parameters: str) -> Model:
    return Model(number, lens, tuple(parameters.split()))


# Of COLMAP 4.2, src/colmap/sensor/models.h; the simpler of a lens before the less simple.
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


class Intrinsics(NamedTuple):
    """What a camera is apart from its pose, as `Camera` has it."""

    lens: Lens
    focal: Float[np.ndarray, "2"]
    centre: Float[np.ndarray, "2"]
    distortion: Float[np.ndarray, " K"]


def intrinsics(model: str, parameters: Float[np.ndarray, " P"]) -> Intrinsics:
    """The intrinsics of a camera of one of `MODELS`.

    Raises:
      ValueError: they are not as many as the model has, not finite, or no lens has them.
    """
    _, lens, names = MODELS[model]
    if len(parameters) != len(names):
        raise ValueError(f"{model} has {len(names)} parameters, not {len(parameters)}")
    if not (np.abs(parameters) < 1e9).all():
        raise ValueError(f"parameters of {model} are not finite or far too large")
    values = dict(zip(names, map(float, parameters), strict=True))
    if lens == "equirectangular":
        size = np.array([values["w"], values["h"]])
        focal, centre = size / [2.0 * math.pi, math.pi], 0.5 * size
    else:
        focal = np.array([values[name] if name in values else values["f"] for name in ("fx", "fy")])
        centre = np.array([values["cx"], values["cy"]])
    if not (focal > 1e-6).all():
        raise ValueError(f"{model} has a focal length that is not above 0")
    coefficients = np.array([values.get(name, 0.0) for name in COEFFICIENTS[lens]])
    used = [place for place, name in enumerate(COEFFICIENTS[lens]) if name in values]
    distortion = np.zeros(max([_USUAL_COEFFICIENTS, *(place + 1 for place in used)]))
    count = min(len(distortion), len(coefficients))
    distortion[:count] = coefficients[:count]
    return Intrinsics(lens, focal, centre, distortion)


def model_of(camera: Intrinsics, size: tuple[int, int]) -> tuple[str, Float[np.ndarray, " P"]]:
    """The simplest model that a camera is an example of, and its parameters.

    Raises:
      ValueError: COLMAP has none.
    """
    values = dict(zip(COEFFICIENTS[camera.lens], map(float, camera.distortion), strict=False))
    needed = {name for name, value in values.items() if value != 0.0}
    values |= dict(zip(("fx", "fy", "cx", "cy"), (*camera.focal, *camera.centre), strict=True))
    values |= {"f": values["fx"], "w": float(size[0]), "h": float(size[1])}
    for name, model in MODELS.items():
        alike = model.lens == camera.lens or (model.lens in FLAT and camera.lens in FLAT)
        if not alike or not needed <= set(model.parameters):
            continue
        parameters = np.array([values.get(parameter, 0.0) for parameter in model.parameters])
        again = intrinsics(name, parameters)
        if np.allclose(
            [*again.focal, *again.centre], [*camera.focal, *camera.centre], rtol=1e-7, atol=0.0
        ):
            return name, parameters
    raise ValueError(f"COLMAP has no model for this {camera.lens} lens")

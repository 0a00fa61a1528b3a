"""Whether photographs show the same points with the same brightness: exposures and changing light."""

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.linalg import lsqr

from jaxnerf.scenes import Scene
from jaxnerf.scenes.sightings import sightings_of

# Side, in pixels, of the square around a point whose mean is used; and the limits of usable 8-bit grey
# values, which are neither dominated by noise nor clipped.
_WINDOW, _DARKEST, _BRIGHTEST = 5, 13.0, 242.0
# Least number of observations from which a photograph's brightness is computed.
_LEAST_SIGHTINGS = 20
# Residual of the logarithm at which the weight of an observation is a half (highlights, wrong tracks);
# and the number of iterations.
_USUAL_ERROR, _ROUNDS = 0.1, 10


def brightness_of(scene: Scene) -> Float[np.ndarray, " N"] | None:
    """The brightness of each training photograph, relative to others that show the same points.

    Args:
      scene: a scene with photographs of the training split, and points.

    Returns:
      For each training photograph the factor by which the 8-bit grey values of points in it are larger
      than in the photographs' geometric mean; NaN for photographs that show fewer than 20 points. None if
      it is not known which photographs show which points.
    """
    if scene.points is None or scene.tracks is None:
        return None
    split = scene.splits["train"]
    assert split.images is not None
    seen = sightings_of(scene.points, split.cameras, scene.tracks)
    assert seen.point is not None
    value = np.zeros(len(seen))
    for number in np.unique(seen.camera):
        own = seen.camera == number
        column, row = np.floor(seen.pixel[own]).astype(int).T
        grey = split.images[number, ..., :3].mean(axis=-1, dtype=np.float32)
        value[own] = uniform_filter(grey, _WINDOW)[row, column]
    usable = (value >= _DARKEST) & (value <= _BRIGHTEST)
    return relative_brightness(
        seen.camera[usable], seen.point[usable], value[usable], len(split.cameras)
    )


def relative_brightness(
    camera: Int[np.ndarray, " M"],
    point: Int[np.ndarray, " M"],
    value: Float[np.ndarray, " M"],
    cameras: int,
) -> Float[np.ndarray, " N"]:
    """The brightness of photographs relative to their geometric mean, from the points that they share.

    Minimises the sum of w (log value - log factor of the camera - log brightness of the point)^2, where
    the weights w = 1 / (1 + (error / 0.1)^2) and the factors are computed in turn (Cauchy's loss).

    Args:
      camera, point: camera and point of each observation.
      value: grey value of each observation, more than 0.
      cameras: number of cameras.

    Returns:
      A factor for each camera; NaN for cameras with fewer than 20 observations.
    """
    point = np.unique(point, return_inverse=True)[1]
    logarithm, count = np.log(value), len(value)
    rows = np.tile(np.arange(count), 2)
    columns = np.concatenate([camera, cameras + point])
    points = int(point.max(initial=-1)) + 1
    weight, solution = np.ones(count), np.zeros(cameras + points)
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        shape = (count, cameras + points)
        system = coo_array((np.tile(root, 2), (rows, columns)), shape=shape).tocsr()
        error = root * (logarithm - solution[camera] - solution[cameras + point])
        solution = solution + lsqr(system, error)[0]
        error = logarithm - solution[camera] - solution[cameras + point]
        weight = 1.0 / (1.0 + (error / _USUAL_ERROR) ** 2)
    known = np.bincount(camera, minlength=cameras) >= _LEAST_SIGHTINGS
    found = np.where(known, solution[:cameras], np.nan)
    return np.exp(found - np.nanmean(found)) if known.any() else found

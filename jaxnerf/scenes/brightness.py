"""Whether photographs show the same points with the same brightness: exposures and changing light."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxnerf.scenes import Scene
from jaxnerf.scenes.sightings import Sightings, sightings_of

# Side, in pixels, of the square around a point whose mean is used; and the limits of usable 8-bit grey
# values, which are neither dominated by noise nor clipped.
_WINDOW, _DARKEST, _BRIGHTEST = 3, 13.0, 242.0
# Largest number of sightings that are used.
_ENOUGH_SIGHTINGS = 100_000
# Least number of sightings from which a photograph's brightness is computed.
_LEAST_SIGHTINGS = 20
# Residual of the logarithm at which the weight of an observation is a half (highlights, wrong tracks);
# and the number of iterations.
_USUAL_ERROR, _ROUNDS = 0.1, 10
# Least root mean square of the logarithms of brightness at which photographs differ. A phone's video of
# one place has 0.06, and corrections of colour reduce its quality; at 0.15 and 0.21 they increase it
# (experiments/captures).
_UNEVEN = 0.12


@dataclasses.dataclass(frozen=True)
class Uneven:
    """Photographs that differ in brightness.

    Attributes:
      darkest, brightest: names of the photographs that show the same points darkest and brightest.
      factor: the ratio of the grey values of the same points in these two.
    """

    darkest: str
    brightest: str
    factor: float


def uneven_brightness(scene: Scene) -> Uneven | None:
    """The extremes of brightness, if the training photographs differ in it; see `brightness_of`."""
    found = brightness_of(scene)
    if found is None or not np.isfinite(found).any():
        return None
    if np.nanstd(np.log(found)) < _UNEVEN:
        return None
    names = scene.splits["train"].names
    darkest, brightest = int(np.nanargmin(found)), int(np.nanargmax(found))
    return Uneven(names[darkest], names[brightest], float(found[brightest] / found[darkest]))


def brightness_of(scene: Scene) -> Float[np.ndarray, " N"] | None:
    """The brightness of each training photograph, relative to others that show the same points.

    Args:
      scene: a scene with photographs of the training split.

    Returns:
      For each training photograph the factor by which the 8-bit grey values of points in it are larger
      than in the photographs' geometric mean; NaN for photographs that show fewer than 20 points. None if
      the scene's files have no points.
    """
    split = scene.splits["train"]
    if scene.points is None or split.images is None:
        return None
    seen = sightings_of(scene.points, split.cameras, scene.tracks)
    if len(seen) > _ENOUGH_SIGHTINGS:
        chosen = np.random.default_rng(0).choice(len(seen), _ENOUGH_SIGHTINGS, replace=False)
        seen = seen[np.sort(chosen)]
    assert seen.point is not None
    value = _grey(split.images, np.asarray(split.cameras.size)[seen.camera], seen)
    usable = (value >= _DARKEST) & (value <= _BRIGHTEST)
    return relative_brightness(
        seen.camera[usable], seen.point[usable], value[usable], len(split.cameras)
    )


def _grey(images: np.ndarray, sizes: np.ndarray, seen: Sightings) -> np.ndarray:
    """The mean grey value of the pixels around each sighting."""
    pixel, total = np.floor(seen.pixel).astype(np.int64), np.zeros(len(seen))
    for offset in np.ndindex(_WINDOW, _WINDOW):
        column, row = np.clip(pixel + offset - _WINDOW // 2, 0, sizes - 1).T
        total += images[seen.camera, row, column, :3].mean(axis=-1)
    return total / _WINDOW**2


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
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import lsqr

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

"""Whether photographs show the same points with the same brightness: exposures and changing light."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnerf.scenes import CLEAR, Scene, Split
from jaxnerf.scenes.sightings import Sightings, sightings_of

# Side, in pixels, of the square around a point whose mean is used; and the limits of usable 8-bit grey
# values, which are neither dominated by noise nor clipped.
_WINDOW, _DARKEST, _BRIGHTEST = 3, 13.0, 242.0
# Largest number of points that are used, and of photographs of each.
_MOST_POINTS, _MOST_VIEWS = 20_000, 8
# Least number of points that two photographs must share to be compared.
_LEAST_SHARED = 20
# Least spread of the logarithm of brightness at which photographs differ. Captures in one light have 0.03
# to 0.05, and corrections of colour reduce their quality; at 0.14 and 0.15 they increase it
# (experiments/captures).
_UNEVEN = 0.1


@dataclasses.dataclass(frozen=True)
class Brightness:
    """How the brightness of the same points differs between photographs.

    Attributes:
      spread: standard deviation of the logarithm of photographs' brightness, from those that share
        points.
      darkest, brightest: names of the two photographs that differ most.
      factor: the ratio of their grey values of the same points.
    """

    spread: float
    darkest: str
    brightest: str
    factor: float

    @property
    def is_uneven(self) -> bool:
        """Whether a correction of colour for each photograph is worth its parameters."""
        return self.spread >= _UNEVEN


def brightness_of(scene: Scene) -> Brightness | None:
    """Compare the grey values of the same points in the training photographs.

    Args:
      scene: a scene with photographs of the training split.

    Returns:
      None if the scene has no points, or no two photographs share 20 of them.
    """
    split = scene.splits["train"]
    if scene.points is None or split.images is None:
        return None
    seen = sightings_of(scene.points, split.cameras, scene.tracks)
    assert seen.point is not None
    seen = seen[_some(seen.point)]
    value, usable = _grey(split, seen)
    seen, value = seen[usable], value[usable]
    assert seen.point is not None
    pairs, ratios = log_ratios(seen.camera, seen.point, np.log(value))
    if not len(pairs):
        return None
    most = int(np.abs(ratios).argmax())
    one, other = (split.names[number] for number in pairs[most])
    dark, bright = (one, other) if ratios[most] > 0.0 else (other, one)
    # The difference of two independent numbers has twice the variance of one.
    spread = float(np.sqrt(0.5 * np.mean(ratios**2)))
    return Brightness(spread, dark, bright, float(np.exp(np.abs(ratios[most]))))


def log_ratios(
    camera: Int[np.ndarray, " M"],
    point: Int[np.ndarray, " M"],
    value: Float[np.ndarray, " M"],
) -> tuple[Int[np.ndarray, "P 2"], Float[np.ndarray, " P"]]:
    """The difference between two photographs of the same points, for pairs that share at least 20.

    Medians over the points of a pair, so that highlights and wrong tracks do not matter. Differences are
    not added up along chains of photographs: darker corners would accumulate along a path forward, and
    photographs that share no points have no common scale.

    Args:
      camera, point: camera and point of each sighting.
      value: the logarithm of its grey value.

    Returns:
      (i, j) with i < j of each pair of cameras, and the median of the value in j less that in i.
    """
    order = np.lexsort((camera, point))
    camera, point, value = camera[order], point[order], value[order]
    parts = []
    for apart in range(1, _MOST_VIEWS):
        same = np.flatnonzero(point[apart:] == point[:-apart])
        other = same + apart
        parts.append((camera[same], camera[other], value[other] - value[same]))
    i, j, change = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.lexsort((change, j, i))
    i, j, change = i[order], j[order], change[order]
    begins = np.flatnonzero(np.diff(i, prepend=-1) | np.diff(j, prepend=-1))
    count = np.diff(begins, append=len(i))
    middle = 0.5 * (change[begins + (count - 1) // 2] + change[begins + count // 2])
    enough = count >= _LEAST_SHARED
    return np.stack([i[begins], j[begins]], axis=-1)[enough], middle[enough]


def _some(point: np.ndarray) -> np.ndarray:
    """Rows of the sightings of at most so many points, in at most so many photographs each."""
    random = np.random.default_rng(0)
    rows = random.permutation(len(point))
    numbers = np.unique(point)
    if len(numbers) > _MOST_POINTS:
        rows = rows[np.isin(point[rows], random.choice(numbers, _MOST_POINTS, replace=False))]
    rows = rows[np.argsort(point[rows], kind="stable")]
    begins = np.flatnonzero(np.diff(point[rows], prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(begins, np.diff(begins, append=len(rows)))
    return rows[rank < _MOST_VIEWS]


def _grey(split: Split, seen: Sightings) -> tuple[Float[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """The mean grey value of the pixels around each sighting, and whether it is usable."""
    assert split.images is not None
    sizes = np.asarray(split.cameras.size)[seen.camera]
    pixel, total = np.floor(seen.pixel).astype(np.int64), np.zeros(len(seen))
    usable = np.ones(len(seen), bool)
    for offset in np.ndindex(_WINDOW, _WINDOW):
        column, row = np.clip(pixel + offset - _WINDOW // 2, 0, sizes - 1).T
        rgba = split.images[seen.camera, row, column]
        total += rgba[:, :3].mean(axis=-1)
        usable &= rgba[:, 3] >= CLEAR
        if split.masks is not None:
            usable &= split.masks[seen.camera, row, column]
    value = total / _WINDOW**2
    return value, usable & (value >= _DARKEST) & (value <= _BRIGHTEST)

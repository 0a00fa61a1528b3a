"""Whether poses and focal lengths agree with the photographs."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras.lenses import FLAT
from jaxnerf.capture.epipolar import (
    LEAST_MATCHES,
    MISTAKES,
    Features,
    Sight,
    epipolar_errors,
    find_features,
    match,
    on_one_geometry,
    sight,
)
from jaxnerf.capture.inspection.views import Views
from jaxnerf.capture.structure_from_motion import import_pycolmap
from jaxnerf.scenes import SceneError

# Number of pairs of views, their least distance as a fraction of the cameras' extent, and their largest
# angle in degrees.
_PAIRS, _LEAST_APART, _MOST_ANGLE = 8, 0.03, 50.0
# The limit of small epipolar errors, and the median above which poses are wrong and not only inaccurate,
# in pixels; the fraction of small errors below which poses are inaccurate, and the fraction that another
# convention of poses must reach to be reported.
SMALL, _LARGE = 2.0, 8.0
_INACCURATE, _FITS = 0.7, 0.7
_LEAST_PAIRS = 2
# A focal length contradicts the matches if with another one the ratio of a pair's median error to that
# with the given focal length is below _BETTER in the median over at least _LEAST_FOCAL_PAIRS pairs, and
# below _BETTER_PAIR in the fraction _MOST_PAIRS of the pairs. _LEAST_ERROR is added to errors as their
# noise, in pixels. Differences of less than a tenth are not reported.
_LEAST_FOCAL_PAIRS, _BETTER, _BETTER_PAIR, _MOST_PAIRS = 4, 0.8, 0.95, 0.75
_LEAST_ERROR, _OTHER_FOCAL = 0.05, math.log(1.1)
# The focal lengths that are tried, as factors of the given ones.
FACTORS = np.array(
    [0.5, 0.56, 0.63, 0.71, 0.8, 0.89, 0.95, 1.0, 1.06, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0]
)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The agreement of poses with photographs.

    Attributes:
      pairs, matches: the numbers of pairs of views and of matches.
      median: median of the epipolar errors, in pixels.
      small: the fraction of errors below `SMALL`, in the median over pairs.
      mistake: the convention that the poses seem to have instead of camera-to-world with OpenGL axes, or
        None.
      focal: a factor of the focal lengths with which poses and photographs agree better than with the
        given ones, or None.
    """

    pairs: int
    matches: int
    median: float
    small: float
    mistake: str | None = None
    focal: float | None = None


def agreement(views: Views) -> Agreement | None:
    """Compare poses with photographs in a few pairs of neighbouring views.

    Returns:
      The agreement; None if too few pairs have matches.

    Raises:
      SceneError: pycolmap is missing.
    """
    import_pycolmap("check")
    pairs = _matched_pairs(views)
    if len(pairs) < _LEAST_PAIRS:
        return None
    errors, small = _errors(pairs, views.poses)
    mistake = None
    if small < _INACCURATE:
        others = {name: _errors(pairs, of(views.poses))[1] for name, of in MISTAKES.items()}
        best = max(others, key=lambda name: others[name])
        mistake = best if others[best] > max(_FITS, 1.5 * small) else None
    focal = None
    if mistake is None and views.cameras.lens in FLAT and views.extent:
        focal = better_focal(pairs, views.poses)
    return Agreement(len(pairs), len(errors), float(np.median(errors)), small, mistake, focal)


def focal_errors(
    pairs: list[tuple[int, int, Sight, Sight]], poses: np.ndarray
) -> Float[np.ndarray, "pairs factors"]:
    """The median epipolar error of each pair, with focal lengths multiplied by each of `FACTORS`.

    Args:
      pairs: indices of two views, and the directions and pixels of their matches.
      poses: the poses of all views.
    """
    return np.array(
        [
            [
                np.median(epipolar_errors(_zoomed(s, f), _zoomed(t, f), poses[[one, other]]))
                for f in FACTORS
            ]
            for one, other, s, t in pairs
        ]
    )


def better_focal(pairs: list[tuple[int, int, Sight, Sight]], poses: np.ndarray) -> float | None:
    """The factor of the focal lengths with which nearly all pairs agree much better, or None.

    Args:
      pairs, poses: see `focal_errors`.
    """
    if len(pairs) < _LEAST_FOCAL_PAIRS:
        return None
    errors = focal_errors(pairs, poses) + _LEAST_ERROR
    ratios = errors / errors[:, FACTORS == 1.0]
    best = int(np.median(ratios, axis=0).argmin())
    factor, fraction = float(FACTORS[best]), float(np.mean(ratios[:, best] < _BETTER_PAIR))
    plain = np.median(ratios[:, best]) < _BETTER and fraction >= _MOST_PAIRS
    return factor if plain and abs(math.log(factor)) > _OTHER_FOCAL else None


def _zoomed(seen: Sight, factor: float) -> Sight:
    """The directions of the same pixels, for a flat lens whose focal length is larger by a factor."""
    directions = seen.directions * [1.0, 1.0, factor]
    directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    # The solid angle of a pixel is proportional to the cube of the cosine divided by the squared focal
    # length.
    tilt = np.abs(directions[:, 2]) / np.maximum(np.abs(seen.directions[:, 2]), 1e-9)
    return Sight(directions, seen.pixel * tilt**1.5 / factor)


def _errors(
    pairs: list[tuple[int, int, Sight, Sight]], poses: np.ndarray
) -> tuple[np.ndarray, float]:
    """All epipolar errors, and the median over pairs of the fraction of small errors."""
    errors = [epipolar_errors(s, t, poses[[one, other]]) for one, other, s, t in pairs]
    return np.concatenate(errors), float(np.median([np.mean(each < SMALL) for each in errors]))


def _matched_pairs(views: Views) -> list[tuple[int, int, Sight, Sight]]:
    """Pairs of views, with the directions of their common features in both cameras."""
    features: dict[int, Features] = {}

    def of(number: int) -> Features:
        if number not in features:
            features[number] = find_features(views.images[number], views.masks[number])
        return features[number]

    found: dict[tuple[int, int], tuple[int, int, Sight, Sight]] = {}
    count = len(views.names)
    for first in np.unique(np.linspace(0, count - 1, min(count, _PAIRS)).round().astype(int)):
        best = LEAST_MATCHES - 1
        kept = None
        for second in _candidates(views, int(first)):
            one, other = of(int(first)), of(second)
            index = match(one, other)
            seen = [
                sight(views.cameras[number], each.places[index[:, side]])
                for side, (number, each) in enumerate(((int(first), one), (second, other)))
            ]
            same = on_one_geometry(*seen)
            if same.sum() > best:
                best = int(same.sum())
                left, right = (Sight(s.directions[same], s.pixel[same]) for s in seen)
                kept = (int(first), second, left, right)
        if kept is not None:
            found.setdefault((min(kept[:2]), max(kept[:2])), kept)
    return list(found.values())


def _candidates(views: Views, first: int) -> list[int]:
    """Views that may show the same things as a view: two near it by pose, and two by name.

    The order of names is correct even if poses are wrong.
    """
    offset = np.linalg.norm(views.poses[:, :, 3] - views.poses[first, :, 3], axis=-1)
    offset = offset / max(views.extent, 1e-30)
    turn = np.arccos(np.clip(views.poses[:, :, 2] @ views.poses[first, :, 2], -1.0, 1.0))
    apart = (offset > _LEAST_APART) | (views.extent == 0.0)
    apart[first] = False
    near = np.where(apart & (turn < math.radians(_MOST_ANGLE)), offset + turn, np.inf)
    by_pose = [int(other) for other in np.argsort(near)[:2] if np.isfinite(near[other])]
    by_name = [
        other
        for other in (first - 1, first + 1)
        if 0 <= other < len(offset) and apart[other] and views.splits[other] == views.splits[first]
    ]
    return list(dict.fromkeys(by_pose + by_name))


def judged(views: Views) -> tuple[str, list[str], str | None]:
    """A fact about the poses, warnings, and the reason why training would be pointless, or None."""
    at_one_place = "all cameras stand at one place, which shows no depth"
    pointless = None if views.extent else at_one_place
    try:
        found = agreement(views)
    except SceneError as error:
        return f"not compared with the pictures: {error}", [], pointless
    if found is None:
        return "not compared with the pictures: too few of their features match", [], pointless
    fact = (
        f"epipolar error {found.median:.1f} pixels, {found.small:.0%} within {SMALL:g} "
        f"({found.matches:,} matches in {found.pairs} pairs of pictures)"
    )
    if found.mistake:
        return fact, [], f"poses contradict the pictures: they seem to be {found.mistake}"
    warnings = []
    if found.focal is not None:
        warnings.append(
            f"the focal length contradicts what the pictures share: about {found.focal:g} times as long "
            "agrees with more of it (is fl_x or camera_angle_x that of the other side, or another size?)"
        )
    if pointless or found.small >= _INACCURATE:
        return fact, warnings, pointless
    what = f"only {found.small:.0%} of what they share is within {SMALL:g} pixels of where it should be"
    if found.median > _LARGE:
        return fact, warnings, f"poses contradict the pictures: {what}"
    inaccurate = f"poses are inaccurate (--voxels.calibration.refine_poses refines them): {what}"
    return fact, [*warnings, inaccurate], None

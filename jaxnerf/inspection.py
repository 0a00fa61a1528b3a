"""What a person needs to know of a scene before an hour of training."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.ndimage import laplace
from scipy.spatial import KDTree

from jaxnerf.cameras import Camera, project
from jaxnerf.epipolar import (
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
from jaxnerf.paths import focus_point
from jaxnerf.scenes import Scene, SceneError, load_scene
from jaxnerf.structure_from_motion import import_pycolmap

# Pictures are compared at this longer side: what poses or blur must be good for is no finer.
LONGEST_SIDE = 800
_LEAST_VIEWS = 3
# Blurred is what has less than this share of its neighbours' variance of the Laplacian, if that is far
# from what is usual (in standard deviations, estimated robustly).
_NEIGHBOURS, _BLURRED, _UNUSUAL = 6, 0.4, 4.0
# Alike poses, in the cameras' extent and in radians.
_ALIKE, _ALIKE_ANGLE = 1e-4, 2e-3
# Pairs of views: how many, and how far apart in the cameras' extent and in degrees.
_PAIRS, _LEAST_APART, _MOST_ANGLE = 8, 0.03, 50.0
# Epipolar errors that are small, and a median beyond which a scene is not merely blurred, in pixels; the
# share of small ones below which poses are inaccurate, and what another convention must reach.
SMALL, _LARGE = 2.0, 8.0
_INACCURATE, _FITS = 0.7, 0.7
_LEAST_PAIRS = 2


@dataclasses.dataclass(frozen=True)
class Views:
    """All photographs of a scene, its splits one after the other.

    Attributes:
      names, splits: of each.
      cameras: as the photographs were read, in the scene's frame.
      poses: in the user's frame.
      images, masks: of each.
    """

    names: list[str]
    splits: list[str]
    cameras: Camera
    poses: Float[np.ndarray, "N 3 4"]
    images: list[np.ndarray]
    masks: list[np.ndarray | None]

    @property
    def extent(self) -> float:
        """The farthest distance of a camera from the cameras' mean, in the user's unit; 0 for none."""
        places = self.poses[:, :, 3]
        extent = float(np.linalg.norm(places - places.mean(axis=0), axis=-1).max())
        return extent if extent > 1e-7 * float(np.abs(places).max()) else 0.0


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How poses agree with pictures.

    Attributes:
      pairs, matches: of how many pairs of views, and how many matches.
      median: of the epipolar errors, in pixels.
      small: the share of errors below `SMALL`, the median over pairs.
      mistake: what the poses seem to be instead of camera-to-world with OpenGL axes, if anything.
    """

    pairs: int
    matches: int
    median: float
    small: float
    mistake: str | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
      scene: as it was read, with photographs of at most `LONGEST_SIDE`.
      facts: of each matter, what there is to say.
      warnings: what should be looked at.
      pointless: why training would be; None if it would not.
      odd: numbers of the views that a warning names, in the order of the splits.
    """

    scene: Scene
    facts: dict[str, str]
    warnings: tuple[str, ...]
    pointless: str | None
    odd: frozenset[int]


def inspect(folder: str | Path | None = None, *, allow_outside_paths: bool = False) -> Inspection:
    """Read everything of a scene, and look for what would spoil its training.

    Args:
      folder: of the scene; the demo scene by default.
      allow_outside_paths: see `jaxnerf.scenes.load_scene`.

    Raises:
      SceneError: something is missing or cannot be read.
    """
    whole = load_scene(folder, images=(), allow_outside_paths=allow_outside_paths)
    scene = load_scene(
        folder,
        images=tuple(whole.splits),
        longest_side=LONGEST_SIDE,
        allow_outside_paths=allow_outside_paths,
    )
    views = views_of(scene)
    sharpness = relative_sharpness(views)
    blurred, twins, away = blurred_views(sharpness), alike_poses(views), looking_away(views)
    facts = _facts(whole, views) | {"sharpness": f"{len(blurred) or 'no'} photographs blurred"}
    warnings = [
        *_named("blurred", views, blurred),
        *_named("at the pose of another photograph", views, twins),
        *_named("looking away from what the others see", views, away),
    ]
    pointless = _too_few(scene)
    if pointless is None:
        facts["poses"], more, pointless = _judged(views)
        warnings += more
    return Inspection(scene, facts, tuple(warnings), pointless, frozenset(blurred + twins + away))


def views_of(scene: Scene) -> Views:
    """All photographs of a scene that was read with all of its splits."""
    names, splits, images, masks = [], [], [], []
    for name, split in scene.splits.items():
        assert split.images is not None
        for index, size in enumerate(np.asarray(split.cameras.size)):
            width, height = size.tolist()
            names.append(split.names[index])
            splits.append(name)
            images.append(split.images[index, :height, :width])
            mask = split.masks
            masks.append(None if mask is None else mask[index, :height, :width])
    batches = [split.cameras for split in scene.splits.values()]
    cameras = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    poses = scene.to_user.poses(np.asarray(cameras.camera_to_world, np.float64))
    return Views(names, splits, cameras, poses, images, masks)


def relative_sharpness(views: Views) -> Float[np.ndarray, " N"]:
    """The variance of each picture's Laplacian, divided by the median of its neighbours'."""
    variances = np.array([_variance(*pair) for pair in zip(views.images, views.masks, strict=True)])
    # Neighbours stand near and look the same way.
    where = np.concatenate(
        [views.poses[:, :, 3] / max(views.extent, 1e-30), views.poses[:, :, 2]], axis=-1
    )
    count = min(_NEIGHBOURS + 1, len(where))
    _, near = KDTree(where).query(where, k=count)
    usual = np.median(variances[near.reshape(len(where), count)][:, 1:], axis=-1)
    return variances / np.maximum(usual, 1e-9) if count > 1 else np.ones(1)


def blurred_views(sharpness: Float[np.ndarray, " N"]) -> list[int]:
    """The numbers of the views that are blurred, of the relative sharpness of all."""
    logs = np.log(np.maximum(sharpness, 1e-9))
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    least = min(math.log(_BLURRED), np.median(logs) - _UNUSUAL * spread)
    return np.flatnonzero(logs < least).tolist()


def alike_poses(views: Views) -> list[int]:
    """The numbers of the views at a pose that an earlier view of the same split has too."""
    places, found = views.poses[:, :, 3], set()
    for one, other in KDTree(places).query_pairs(_ALIKE * views.extent):
        turned = views.poses[one, :, :3] - views.poses[other, :, :3]
        if np.linalg.norm(turned) < _ALIKE_ANGLE and views.splits[one] == views.splits[other]:
            found.add(max(one, other))
    return sorted(found)


def looking_away(views: Views) -> list[int]:
    """The numbers of the views that do not show the point that nine in ten have in their pictures."""
    if views.cameras.lens == "equirectangular":
        return []
    point = jnp.asarray(focus_point(np.asarray(views.cameras.camera_to_world)), jnp.float32)
    pixels, depths = project(views.cameras, jnp.broadcast_to(point, (len(views.names), 3)))
    inside = np.asarray(depths) > 0.0
    for axis in (0, 1):
        place = np.asarray(pixels)[:, axis]
        inside &= (place >= 0.0) & (place <= np.asarray(views.cameras.size)[:, axis])
    return np.flatnonzero(~inside).tolist() if inside.mean() >= 0.9 else []


def agreement(views: Views) -> Agreement | None:
    """Compare poses with pictures on a few pairs of neighbouring views.

    Returns:
      None if too few pairs have matches.

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
    return Agreement(len(pairs), len(errors), float(np.median(errors)), small, mistake)


def _errors(
    pairs: list[tuple[int, int, Sight, Sight]], poses: np.ndarray
) -> tuple[np.ndarray, float]:
    """All epipolar errors, and the median over pairs of the share that is small."""
    errors = [epipolar_errors(s, t, poses[[one, other]]) for one, other, s, t in pairs]
    return np.concatenate(errors), float(np.median([np.mean(each < SMALL) for each in errors]))


def _matched_pairs(views: Views) -> list[tuple[int, int, Sight, Sight]]:
    """Pairs of views, and what their cameras see of what both have."""
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
    """Views that may show what one shows: two near it by their poses, and two by their names.

    Names go on where poses are wrong.
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


def _judged(views: Views) -> tuple[str, list[str], str | None]:
    """What there is to say of the poses, warnings, and why training would be pointless."""
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
    if pointless or found.small >= _INACCURATE:
        return fact, [], pointless
    what = f"only {found.small:.0%} of what they share is within {SMALL:g} pixels of where it should be"
    if found.median > _LARGE:
        return fact, [], f"poses contradict the pictures: {what}"
    return fact, [f"poses are inaccurate (--growing.refine_poses refines them): {what}"], None


def _too_few(scene: Scene) -> str | None:
    count = len(scene.splits["train"])
    if count < _LEAST_VIEWS:
        return f"{count} photographs to train on; at least {_LEAST_VIEWS} are needed"
    return None


def _facts(scene: Scene, views: Views) -> dict[str, str]:
    """What is so, of a scene that was not shrunk."""
    sizes = np.concatenate([np.asarray(split.cameras.size) for split in scene.splits.values()])
    kinds, counts = np.unique(sizes, axis=0, return_counts=True)
    shown = [
        f"{width} x {height}" + (f" ({count})" if len(kinds) > 1 else "")
        for (width, height), count in zip(kinds[:4].tolist(), counts.tolist(), strict=False)
    ]
    focal = np.concatenate([np.asarray(split.cameras.focal) for split in scene.splits.values()])
    low, high = focal.min(), focal.max()
    places = views.poses[:, :, 3]
    box = np.stack([places.min(axis=0), places.max(axis=0)])
    unit = scene.to_user.scale
    counts = ", ".join(f"{len(split)} {name}" for name, split in scene.splits.items())
    facts = {
        "format": scene.format,
        "photographs": f"{len(views.names)}, all whole: {counts}",
        "sizes": ", ".join(shown) + (", ..." if len(kinds) > 4 else "") + " pixels",
        "lens": f"{views.cameras.lens}, focal length {low:.5g}"
        + (f" to {high:.5g}" if high > 1.001 * low else "")
        + " pixels",
        "masks": _masked(views),
        "space": "forward-facing" if scene.ndc else "unbounded" if scene.unbounded else "bounded",
        "depths": f"near {scene.near * unit:.4g}, far {scene.far * unit:.4g}",
        "cameras": _box(box),
    }
    if scene.points is not None and len(scene.points):
        points = scene.to_user.points(scene.points)
        facts["points"] = f"{len(points):,}, 98% in " + _box(np.percentile(points, [1, 99], axis=0))
    if scene.notes:
        facts["notes"] = "; ".join(scene.notes)
    return facts


def _masked(views: Views) -> str:
    ignored = np.mean([0.0 if mask is None else 1.0 - mask.mean() for mask in views.masks])
    clear = np.mean([np.mean(image[..., 3] < 128) for image in views.images])
    parts = [f"{ignored:.1%} of the pixels are ignored"] if ignored else ["none"]
    return ", ".join(parts + ([f"{clear:.1%} of the pixels are transparent"] if clear else []))


def _box(box: np.ndarray) -> str:
    spans = (f"{low:.3g} to {high:.3g}" for low, high in box.T)
    return ", ".join(f"{axis} {span}" for axis, span in zip("xyz", spans, strict=True))


def _named(what: str, views: Views, numbers: list[int]) -> list[str]:
    if not numbers:
        return []
    names = ", ".join(views.names[number] for number in numbers[:5])
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return [f"{what}: {names}{more}"]


def _variance(image: np.ndarray, mask: np.ndarray | None) -> float:
    """The variance of the Laplacian of a picture's brightness, where it counts."""
    alpha = image[..., 3:].astype(np.float32) / 255.0
    grey = (image[..., :3] * alpha).mean(axis=-1)
    counted = alpha[..., 0] > 0.5 if mask is None else mask & (alpha[..., 0] > 0.5)
    return float(laplace(grey)[counted].var()) if counted.any() else 0.0

"""Inspection of a scene before training."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxnerf.capture.inspection.photographs import (
    alike_poses,
    blurred_views,
    jumps,
    leaks,
    looking_away,
    relative_sharpness,
    still_fraction,
    unmade_turns,
)
from jaxnerf.capture.inspection.poses import judged
from jaxnerf.capture.inspection.views import Views, views_of
from jaxnerf.scenes import CLEAR, Scene, load_scene
from jaxnerf.scenes.brightness import brightness_of
from jaxnerf.scenes.depths import MARGIN
from jaxnerf.scenes.in_view import cameras_that_see
from jaxnerf.scenes.llff import NEAREST_PERCENTILE, STRAY, stray_photographs
from jaxnerf.scenes.plane_sweep import with_found_points
from jaxnerf.scenes.sightings import sightings_of
from jaxnerf.scenes.silhouettes import plain_background, scene_cube, stands_alone
from jaxnerf.scenes.views import LEAKED

__all__ = ["LONGEST_SIDE", "Inspection", "inspect"]

# Photographs are compared at this longer side, in pixels: poses and sharpness need not be better.
LONGEST_SIDE = 800
_LEAST_VIEWS = 3
# Largest fraction of cameras that do not see the box of training without a warning.
_MISSING = 0.1
# Least fraction of the pictures that stands still with a warning.
_STILL = 0.1


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The result of an inspection.

    Attributes:
      scene: the scene, with photographs shrunk to at most `LONGEST_SIDE`.
      facts: a description of each topic.
      warnings: problems that should be examined.
      pointless: why training would be pointless; None if it would not.
      odd: indices of the views that a warning names, in the order of the splits.
    """

    scene: Scene
    facts: dict[str, str]
    warnings: tuple[str, ...]
    pointless: str | None
    odd: frozenset[int]


def inspect(folder: str | Path | None = None, *, allow_outside_paths: bool = False) -> Inspection:
    """Read all files of a scene, and look for problems that would spoil its training.

    Args:
      folder: folder of the scene; the demo scene by default.
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
    leaked = leaks(views)
    if scene.ndc or (scene.unbounded and not stands_alone(scene)):
        scene = with_found_points(scene)
    facts = _facts(whole, views) | _found(scene) | _notes(whole, leaked)
    facts |= {"sharpness": f"{len(blurred) or 'no'} photographs blurred"} | _background(scene)
    warnings = [
        *_named("blurred", views, blurred),
        *_named("at the pose of another photograph", views, twins),
        *_named("looking away from what the others see", views, away),
        *_leaked(views, leaked),
        *_folded(views),
        *_stray(whole, allow_outside_paths),
        *_misplaced(scene),
        *_uneven(scene),
        *_standing_still(views),
    ]
    pointless = _too_few(scene)
    if pointless is None:
        facts["poses"], more, pointless = judged(views)
        warnings += more
    turned = _turned(whole, doubtful=pointless is not None or any("poses" in w for w in warnings))
    facts, warnings = facts | turned[0], [*warnings, *turned[1]]
    odd = frozenset([*blurred, *twins, *away, *(late for late, _ in leaked)])
    return Inspection(scene, facts, tuple(warnings), pointless, odd)


def _leaked(views: Views, pairs: list[tuple[int, int]]) -> list[str]:
    """A warning if photographs are in two splits, since measurements on them would be too good."""
    shown = [
        f"{views.names[late]} ({views.splits[late]}) is {views.names[early]} ({views.splits[early]})"
        for late, early in pairs
    ]
    return [f"the same photograph in two splits: {_listed(shown)}"] if shown else []


def _folded(views: Views) -> list[str]:
    """A warning of jumps of the camera; see `jumps`."""
    said = [
        f"{views.names[one]} and {views.names[other]} ({angle:.0f} degrees)"
        for one, other, angle in jumps(views)
    ]
    if not said:
        return []
    return [
        f"photographs that follow one another, but were taken from other sides by their poses: "
        f"{_listed(said)}; of a video, the reconstruction has taken sides that look alike for one"
    ]


def _stray(scene: Scene, allow_outside_paths: bool) -> list[str]:
    if scene.format != "llff":
        return _stray_points(scene)
    found = stray_photographs(scene.source, allow_outside_paths)
    return [f"bounds in poses_bounds.npy that stray: {_listed(found)}"] if found else []


def _stray_points(scene: Scene) -> list[str]:
    """A warning of points that are outliers close to cameras and determine near."""
    if scene.points is None:
        return []
    split, unit = scene.splits["train"], scene.to_user.scale
    depths = sightings_of(scene.points, split.cameras, scene.tracks).depth
    if not len(depths):
        return []
    usual = float(np.percentile(depths, NEAREST_PERCENTILE))
    stray = depths < STRAY * usual
    # A few outliers do not affect near, which is a percentile with a margin.
    if not stray.any() or scene.near * MARGIN >= STRAY * usual:
        return []
    return [
        f"points that stray: {np.count_nonzero(stray)} of {len(stray)} depths are less than {STRAY:g} of "
        f"{usual * unit:.4g}, which nine in ten exceed; near is {scene.near * unit:.4g} "
        "(--scene.near names another)"
    ]


def _uneven(scene: Scene) -> list[str]:
    """A warning of different exposures or changing light; see `brightness_of`."""
    found = brightness_of(scene)
    if found is None or not found.is_uneven:
        return []
    return [
        f"{found.brightest} shows the same points {found.factor:.2g} times as bright as {found.darkest} "
        "does: exposures differ, or the light has changed; the fast field learns a correction of "
        "colours for each photograph then (--voxels.calibration.affine_colour)"
    ]


def _standing_still(views: Views) -> list[str]:
    """A warning of a backdrop that does not turn with the object; see `still_fraction`."""
    still = still_fraction(views)
    if still < _STILL:
        return []
    return [
        f"{still:.0%} of the pictures stays as it is while the cameras look from different sides: a "
        "backdrop that does not turn with the object cannot be reconstructed; mask it, make it "
        "transparent, or take the photographs before one plain colour"
    ]


def _misplaced(scene: Scene) -> list[str]:
    if scene.unbounded or scene.ndc is not None:
        return []
    split, unit = scene.splits["train"], scene.to_user.scale
    seen = cameras_that_see(split.cameras, *scene_cube(split), scene.near, scene.far)
    missing = [name for name, sees in zip(split.names, seen, strict=True) if not sees]
    if len(missing) <= _MISSING * len(split):
        return []
    return [
        f"{len(missing)} of {len(split)} photographs do not show the cube of training between "
        f"near {scene.near * unit:.4g} and far {scene.far * unit:.4g}: {_listed(missing)}"
    ]


def _background(scene: Scene) -> dict[str, str]:
    """Facts about what photographs show around an object, and the space that follows from it."""
    split, facts = scene.splits["train"], {}
    if scene.ndc is not None:
        return facts
    if scene.unbounded and stands_alone(scene):
        facts["space"] = (
            "bounded: an object that stands alone (--scene.space=unbounded for its surroundings too)"
        )
    if split.has_alpha:
        return facts
    found = plain_background(split)
    if facts or not scene.unbounded:
        facts["background"] = "none that is plain" if found is None else f"plain {found.name}"
    elif found and found.is_even:
        advice = "--scene.space=bounded is for an object that stands alone before it"
        facts["background"] = f"plain {found.name}; {advice}"
    return facts


def _turned(scene: Scene, doubtful: bool) -> tuple[dict[str, str], list[str]]:
    """A fact about photographs that were not rotated by their EXIF data; a warning if they should be."""
    turned, square = unmade_turns(scene)
    if not turned:
        return {}, []
    text = (
        f"EXIF would turn {len(turned)} photographs that are read as they are stored, as COLMAP and "
        f"LLFF read them: {_listed(turned)}"
    )
    if square or doubtful:
        return {}, [f"{text}; if the poses are of the turned ones, turn the files"]
    return {"turns": text}, []


def _too_few(scene: Scene) -> str | None:
    count = len(scene.splits["train"])
    if count < _LEAST_VIEWS:
        return f"{count} photographs to train on; at least {_LEAST_VIEWS} are needed"
    return None


def _facts(scene: Scene, views: Views) -> dict[str, str]:
    """Facts about a scene with photographs of their full size."""
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
    if len(scene.all_points):
        points = scene.to_user.points(scene.all_points)
        facts["points"] = f"{len(points):,}, 98% in " + _box(np.percentile(points, [1, 99], axis=0))
    return facts


def _found(scene: Scene) -> dict[str, str]:
    """The points that were found in the photographs, and where rays begin by them."""
    if not scene.points_found or scene.points is None:
        return {}
    points, near = scene.to_user.points(scene.points), scene.near * scene.to_user.scale
    return {
        "points": f"{len(points):,} found in the photographs, 98% in "
        + _box(np.percentile(points, [1, 99], axis=0))
        + (f"; rays begin at {near:.4g}" if scene.unbounded else "")
    }


def _notes(scene: Scene, leaked: list[tuple[int, int]]) -> dict[str, str]:
    """The reader's notes, without the note on leaks if a warning names these."""
    said = [note for note in scene.notes if not (leaked and note.startswith(LEAKED))]
    return {"notes": "; ".join(said)} if said else {}


def _masked(views: Views) -> str:
    ignored = np.mean([0.0 if mask is None else 1.0 - mask.mean() for mask in views.masks])
    clear = np.mean([np.mean(image[..., 3] < CLEAR) for image in views.images])
    parts = [f"{ignored:.1%} of the pixels are ignored"] if ignored else ["none"]
    return ", ".join(parts + ([f"{clear:.1%} of the pixels are transparent"] if clear else []))


def _box(box: np.ndarray) -> str:
    spans = (f"{low:.3g} to {high:.3g}" for low, high in box.T)
    return ", ".join(f"{axis} {span}" for axis, span in zip("xyz", spans, strict=True))


def _named(what: str, views: Views, numbers: list[int]) -> list[str]:
    return [f"{what}: {_listed([views.names[n] for n in numbers])}"] if numbers else []


def _listed(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")

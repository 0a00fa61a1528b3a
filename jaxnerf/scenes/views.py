"""From the photographs and cameras of a capture's files to the splits of a scene.

The readers of captures share this module. A reader makes a `View` of each photograph, in the frame and at
the resolution of its files; this module does the rest.
"""

import dataclasses
import filecmp
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.cameras.lenses import Lens
from jaxnerf.scenes import Options, SceneError, Similarity, Split
from jaxnerf.scenes.images import Picture, read_pictures
from jaxnerf.scenes.sector import LEAST, SECTOR, in_sector

# Beginning of the note that photographs of the training split are also in other splits.
LEAKED = "photographs of train are also in other splits"
# Tolerance of equal poses: for positions as a fraction of the cameras' extent, for axes absolute.
_SAME_POSE = 1e-3
# Every 8th photograph is for testing: LLFF's convention, which most results on captures follow.
_EVERY = 8
# Distortion coefficients of cameras are padded to this number. Most lenses have no more, so that the
# camera arrays of most scenes have the same shapes.
USUAL_COEFFICIENTS = 6


@dataclasses.dataclass(frozen=True)
class View:
    """A photograph and its camera, before more than the header of its file is read.

    Attributes:
      name: name of the photograph's file.
      picture: the photograph's file; the intrinsics refer to `picture.size`.
      pose: camera-to-world with OpenGL axes, in the frame of the files.
      focal, centre, lens: see `jaxnerf.cameras.Camera`.
      distortion: the lens's coefficients; zeros at the end may be left out.
    """

    name: str
    picture: Picture
    pose: Float[np.ndarray, "3 4"]
    focal: tuple[float, float]
    centre: tuple[float, float]
    distortion: tuple[float, ...] = ()
    lens: Lens = "pinhole"


def hold_out(views: Sequence[View]) -> dict[str, list[View]]:
    """Split views into "test", every 8th view from the first on, and "train"; one view is "train"."""
    if len(views) < 2:
        return {"train": list(views)}
    return {
        "train": [view for index, view in enumerate(views) if index % _EVERY],
        "test": list(views[::_EVERY]),
    }


def with_sector(folder: Path, views: Mapping[str, Sequence[View]]) -> dict[str, list[View]]:
    """Take the cameras of a sector out of all splits and make them a split of their own.

    Args:
      folder: folder of the scene, for messages.
      views: the views of each split.

    Raises:
      SceneError: there are fewer than 20 cameras, or all training cameras are in the sector.
    """
    by_name = {view.name: view for split in views.values() for view in split}
    every = [by_name[name] for name in sorted(by_name)]
    if len(every) < LEAST:
        raise SceneError(
            f"{folder}: {len(every)} photographs are too few to hold out a sector of; at least {LEAST} "
            "are needed"
        )
    inside = in_sector(np.stack([view.pose for view in every]))
    sector = [view for view, chosen in zip(every, inside, strict=True) if chosen]
    names = {view.name for view in sector}
    left = {
        split: [view for view in members if view.name not in names]
        for split, members in views.items()
    }
    if not left["train"]:
        raise SceneError(f"{folder}: all photographs to train on are in the sector to hold out")
    return {split: members for split, members in left.items() if members} | {SECTOR: sector}


def leaks(views: Mapping[str, Sequence[View]]) -> tuple[str, ...]:
    """A note if photographs of the training split are also in another split, as the same file or a copy.

    A copy is a file with the same bytes and the same pose, up to rounding in the files of the cameras.

    Args:
      views: the views of each split.
    """
    if "train" not in views:
        return ()
    trained = {_identity(view.picture.path) for view in views["train"]}
    poses = np.stack([view.pose for view in views["train"]])
    extent = float(np.linalg.norm(np.ptp(poses[:, :, 3], axis=0)))
    tolerance = _SAME_POSE * np.array([1.0, 1.0, 1.0, extent])

    def copies(view: View) -> Iterator[Path]:
        for number in np.flatnonzero((np.abs(poses - view.pose) <= tolerance).all(axis=(1, 2))):
            yield views["train"][int(number)].picture.path

    found = []
    for name, members in views.items():
        if name == "train":
            continue
        both = sum(
            _identity(view.picture.path) in trained
            or any(filecmp.cmp(view.picture.path, path, shallow=False) for path in copies(view))
            for view in members
        )
        found += [f"{both} of {len(members)} of {name}"] if both else []
    return (f"{LEAKED}: {', '.join(found)}",) if found else ()


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode of a file, which do not depend on the name or link by which it is opened."""
    found = path.stat()
    return found.st_dev, found.st_ino


def splits_of(
    folder: Path,
    views: Mapping[str, Sequence[View]],
    to_scene: Similarity,
    options: Options = Options(),
) -> dict[str, Split]:
    """The splits of a scene, with the photographs that the options name.

    Args:
      folder: folder of the scene, for messages.
      views: the views of each split, at least one.
      to_scene: similarity from the frame of the files to the scene's.
      options: options of `jaxnerf.scenes.load_scene`. All photographs are shrunk by one factor.

    Raises:
      SceneError: there are too few photographs to hold out a sector, a split whose photographs are to be
        read does not exist, the lenses are of several kinds, or a photograph is too small to be shrunk or
        cannot be read.
    """
    if options.hold_out_sector:
        views = with_sector(folder, views)
    for split in options.images:
        if split not in views:
            raise SceneError(f"{folder}: no split {split!r}, only {', '.join(views)}")
    every = [view for split in views.values() for view in split]
    factor = shrink_factor(
        max(max(v.picture.size) for v in every), options.downscale, options.longest_side
    )
    _check_large_enough(every, factor)
    lens = joined(folder, {view.lens for view in every})
    coefficients = max(USUAL_COEFFICIENTS, *(len(view.distortion) for view in every))
    splits = {}
    for name, members in views.items():
        names = tuple(view.name for view in members)
        split = Split(names, cameras_of(members, to_scene, lens, coefficients, factor))
        if name in options.images:
            pixels, masks = read_pictures([view.picture for view in members], factor)
            split = dataclasses.replace(split, images=pixels, masks=masks)
        splits[name] = split
    return splits


def shrink_factor(longest: int, downscale: int, longest_side: int) -> int:
    """The whole factor by which photographs are shrunk.

    Args:
      longest: number of pixels of the longest side of all photographs.
      downscale, longest_side: see `jaxnerf.scenes.load_scene`.
    """
    if not longest_side:
        return downscale
    return downscale * (longest // (downscale * (longest_side + 1)) + 1)


def _check_large_enough(views: Sequence[View], factor: int) -> None:
    for view in views:
        if min(view.picture.size) < factor:
            width, height = view.picture.size
            raise SceneError(
                f"{view.picture.path}: {width} x {height} pixels cannot shrink by {factor}"
            )


def joined(path: Path, lenses: set[Lens]) -> Lens:
    """The common kind of several lenses; a pinhole can be an opencv lens without distortion.

    Args:
      path: the scene or file, for the message.
      lenses: at least one.

    Raises:
      SceneError: the lenses are of several kinds.
    """
    kinds = lenses - {"pinhole"} if "opencv" in lenses else lenses
    if len(kinds) > 1:
        raise SceneError(
            f"{path}: mixes {' and '.join(sorted(kinds))} lenses, which must be kept apart"
        )
    return next(iter(kinds))


def cameras_of(
    views: Sequence[View],
    to_scene: Similarity,
    lens: Lens,
    coefficients: int = USUAL_COEFFICIENTS,
    factor: int = 1,
) -> Camera:
    """The cameras of views, all with one kind of lens, as a batch.

    Args:
      views: at least one.
      to_scene: similarity from the frame of the views' poses to that of the cameras.
      lens: the common kind of lens, see `joined`.
      coefficients: number of distortion coefficients, at least as many as any view has.
      factor: factor by which the photographs are shrunk.
    """

    def of(values) -> np.ndarray:
        return np.asarray(values, np.float64).astype(np.float32)

    distortion = np.zeros((len(views), coefficients))
    for row, view in zip(distortion, views, strict=True):
        row[: len(view.distortion)] = view.distortion
    return Camera(
        camera_to_world=of(to_scene.poses(np.stack([view.pose for view in views]))),
        # Intrinsics refer to the whole photograph, from which shrinking may cut off a remainder.
        focal=of([np.asarray(view.focal) / factor for view in views]),
        centre=of([np.asarray(view.centre) / factor for view in views]),
        distortion=of(distortion),
        size=np.asarray([view.picture.size for view in views], np.int32) // np.int32(factor),
        lens=lens,
    )

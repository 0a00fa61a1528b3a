"""Photographs with problems: blurred, duplicated, looking away, or not rotated."""

import math
from pathlib import Path, PurePosixPath

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.ndimage import laplace
from scipy.spatial import KDTree

from jaxnerf.cameras import project
from jaxnerf.cameras.paths import focus_point
from jaxnerf.capture.inspection.views import Views
from jaxnerf.scenes import CLEAR, Scene, SceneError
from jaxnerf.scenes.images import ON_ITS_SIDE, orientation_of
from jaxnerf.scenes.json_files import is_file
from jaxnerf.scenes.picture_files import by_number, spellings

# A photograph is blurred if its variance of the Laplacian is less than the fraction _BLURRED of the
# median of its _NEIGHBOURS neighbours', and the logarithm of this ratio is more than _UNUSUAL standard
# deviations (estimated robustly) below the median.
_NEIGHBOURS, _BLURRED, _UNUSUAL = 6, 0.4, 4.0
# Largest difference of equal poses, as a fraction of the cameras' extent and in radians.
_ALIKE, _ALIKE_ANGLE = 1e-4, 2e-3
# A jump between consecutive photographs is a rotation of more than _JUMP degrees and _USUAL_TURNS times
# the median one, with a movement of more than _JUMP_AWAY of the cameras' extent. Jumps are reported if
# there are at least _FEWEST photographs and at most the fraction _FEW_JUMPS of them jumps.
_JUMP, _USUAL_TURNS, _JUMP_AWAY, _FEWEST, _FEW_JUMPS = 60.0, 6.0, 0.5, 12, 0.1
# At most so many photographs are compared pixel by pixel, at about so many pixels along each side. A
# pixel stands still if in the fraction _STILL_IN of them it differs by at most _STILL_WITHIN levels from
# the median. Pixels that stand still are neither a plain background nor a frame around the pictures if
# _MANY_BINS bins of _BIN levels have the fraction _FILLED of them each. Cameras look from different sides
# if two of them differ by the angle with the cosine _SAME_WAY or more.
_COMPARED, _ACROSS, _STILL_IN, _STILL_WITHIN = 60, 128, 0.7, 4
_BIN, _FILLED, _MANY_BINS, _SAME_WAY = 8, 0.02, 4, math.cos(math.radians(30.0))
# Folders in which readers look for photographs that are named without a folder.
_ROOTS = ("", "images", "input", "image", "rgb")


def relative_sharpness(views: Views) -> Float[np.ndarray, " N"]:
    """The variance of each photograph's Laplacian, divided by the median of its neighbours'."""
    if len(views.images) < 2:
        return np.ones(len(views.images))
    variances = np.array([_variance(*pair) for pair in zip(views.images, views.masks, strict=True)])
    # Neighbours are close in position and viewing direction.
    where = np.concatenate(
        [views.poses[:, :, 3] / max(views.extent, 1e-30), views.poses[:, :, 2]], axis=-1
    )
    count = min(_NEIGHBOURS + 1, len(where))
    _, near = KDTree(where).query(where, k=count)
    usual = np.median(variances[near.reshape(len(where), count)][:, 1:], axis=-1)
    return variances / np.maximum(usual, 1e-9)


def blurred_views(sharpness: Float[np.ndarray, " N"]) -> list[int]:
    """The indices of blurred views, from the relative sharpness of all views."""
    logs = np.log(np.maximum(sharpness, 1e-9))
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    least = min(math.log(_BLURRED), np.median(logs) - _UNUSUAL * spread)
    return np.flatnonzero(logs < least).tolist()


def alike_poses(views: Views) -> list[int]:
    """The indices of views with the pose of an earlier view of the same split."""
    places, found = views.poses[:, :, 3], set()
    for one, other in KDTree(places).query_pairs(_ALIKE * views.extent):
        turned = views.poses[one, :, :3] - views.poses[other, :, :3]
        if np.linalg.norm(turned) < _ALIKE_ANGLE and views.splits[one] == views.splits[other]:
            found.add(max(one, other))
    return sorted(found)


def looking_away(views: Views) -> list[int]:
    """The indices of views that do not show the point that nine in ten views show."""
    if views.cameras.lens == "equirectangular":
        return []
    point = jnp.asarray(focus_point(np.asarray(views.cameras.camera_to_world)), jnp.float32)
    pixels, depths = project(views.cameras, jnp.broadcast_to(point, (len(views.names), 3)))
    inside = np.asarray(depths) > 0.0
    for axis in (0, 1):
        place = np.asarray(pixels)[:, axis]
        inside &= (place >= 0.0) & (place <= np.asarray(views.cameras.size)[:, axis])
    return np.flatnonzero(~inside).tolist() if inside.mean() >= 0.9 else []


def jumps(views: Views) -> list[tuple[int, int, float]]:
    """Pairs of photographs that are consecutive by name but far apart by their poses.

    In a video they indicate that the reconstruction has merged sides of a scene that look alike (a can's
    label that is printed twice, a tower): consecutive frames show nearly the same, but their poses are on
    different sides.

    Returns:
      The indices of both, and the angle between their viewing axes in degrees; none if there are so many
      jumps that the names are not in the order of the photographs.
    """
    order = np.array(sorted(range(len(views.names)), key=lambda i: by_number(views.names[i])))
    if len(order) < _FEWEST:
        return []
    poses = views.poses[order]
    turns = np.sum(poses[1:, :, 2] * poses[:-1, :, 2], axis=-1)
    turns = np.degrees(np.arccos(np.clip(turns, -1.0, 1.0)))
    moved = np.linalg.norm(np.diff(poses[:, :, 3], axis=0), axis=-1)
    far = (turns > max(_JUMP, _USUAL_TURNS * np.median(turns))) & (
        moved > _JUMP_AWAY * views.extent
    )
    if far.mean() > _FEW_JUMPS:
        return []
    return [(int(order[i]), int(order[i + 1]), float(turns[i])) for i in np.flatnonzero(far)]


def _variance(image: np.ndarray, mask: np.ndarray | None) -> float:
    """The variance of the Laplacian of a photograph's brightness, over its valid pixels."""
    alpha = image[..., 3:].astype(np.float32) / 255.0
    grey = (image[..., :3] * alpha).mean(axis=-1)
    counted = alpha[..., 0] > 0.5 if mask is None else mask & (alpha[..., 0] > 0.5)
    return float(laplace(grey)[counted].var()) if counted.any() else 0.0


def leaks(views: Views) -> list[tuple[int, int]]:
    """Pairs of views of different splits, the later one first, that have the same pixels.

    Images of a single colour are not compared.
    """
    first: dict[tuple[bytes, tuple[int, ...]], int] = {}
    found = []
    order = sorted(range(len(views.names)), key=lambda index: views.splits[index] != "train")
    for index in order:
        image = views.images[index]
        if (image == image[:1, :1]).all():
            continue
        key = np.ascontiguousarray(image).tobytes(), image.shape
        other = first.setdefault(key, index)
        if views.splits[other] != views.splits[index]:
            found.append((index, other))
    return found


def still_fraction(views: Views) -> float:
    """The fraction of the pixels that stay as they are while the cameras look from different sides.

    That is what a backdrop does that does not turn with the object on a turntable. Backgrounds of one
    colour, and what is around the circle of a lens, do not count.

    Returns:
      0 if the photographs differ in size, or if the cameras look the same way.
    """
    backs, shapes = views.poses[:, :, 2], {image.shape for image in views.images}
    if len(shapes) > 1 or (backs @ backs.T).min() > _SAME_WAY:
        return 0.0
    (shape,) = shapes
    few = np.unique(np.linspace(0, len(backs) - 1, _COMPARED).round().astype(int))
    strides = (max(side // _ACROSS, 1) for side in shape[:2])
    some = tuple(slice(stride // 2, None, stride) for stride in strides)
    pixels = np.stack([views.images[index][some] for index in few])
    counts = (pixels[..., 3] >= CLEAR).all(axis=0)
    for index in few:
        mask = views.masks[index]
        if mask is not None:
            counts &= mask[some]
    levels = pixels[..., :3].astype(np.int16)
    usual = np.median(levels, axis=0)
    within = (np.abs(levels - usual) <= _STILL_WITHIN).all(axis=-1).mean(axis=0)
    still = counts & (within >= _STILL_IN)
    if not still.any():
        return 0.0
    bins = np.bincount((usual[still].mean(axis=-1) // _BIN).astype(int))
    plain = np.count_nonzero(bins >= _FILLED * still.sum()) < _MANY_BINS
    return 0.0 if plain else float(still.mean())


def unmade_turns(scene: Scene) -> tuple[list[str], list[str]]:
    """Photographs whose EXIF data has a rotation or reflection that was not applied by the reader.

    Args:
      scene: a scene with photographs of their full size.

    Returns:
      Their names, and the names of those that are square, for which the size in the file of the cameras
      does not show whether the poses are of the rotated photographs.
    """
    turned, square = [], []
    for split in scene.splits.values():
        for name, size in zip(split.names, np.asarray(split.cameras.size).tolist(), strict=True):
            path = _file(scene.source, name)
            try:
                orientation, stored = (1, size) if path is None else orientation_of(path)
            except SceneError:
                continue
            made = orientation in ON_ITS_SIDE and size == list(stored[::-1]) != list(stored)
            if orientation != 1 and not made:
                turned.append(name)
                square += [name] if size[0] == size[1] else []
    return turned, square


def _file(folder: Path, name: str) -> Path | None:
    """The file of a view's photograph, or None."""
    names = [Path(each) for each in spellings(PurePosixPath(name))]
    found = (folder / root / each for each in names for root in _ROOTS)
    return next((path for path in found if is_file(path) and path.is_file()), None)

"""Points of surfaces, found in photographs whose cameras are known, for files that have none.

A patch of one photograph is moved along its ray. Where it lies on the surface, the photographs of other
cameras show the same there (plane sweeping: Collins, "A space-sweep approach to true multi-image
matching", 1996). Likeness is the normalised cross-correlation of brightness, first at half the size for
all depths, then at the full size around the best.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxnerf.cameras import Camera, cast_rays, project
from jaxnerf.cameras.lenses import FLAT
from jaxnerf.rendering.chunks import in_chunks, replicated
from jaxnerf.scenes import Scene, Split
from jaxnerf.scenes.frames import NEAR
from jaxnerf.scenes.straight_views import Level, halved, straight_views

# At most so many photographs are looked at, evenly spread.
_MOST_VIEWS = 120
# Patches in all, and at least in each photograph; each is the best corner of a square of the photograph.
_PATCHES, _FEWEST_PATCHES = 6000, 16
# The other cameras of a patch by their distance, the nearest first: near ones look alike, far ones
# measure better. They look within 60 degrees of the same way. Those that stand nearer than this fraction
# of what is usual between neighbours measure nothing.
_OTHERS, _SAME_WAY, _TOO_NEAR = (0, 1, 2, 4, 7, 11), 0.5, 0.2
_SAME_PLACE = 1e-6  # of the distance of the farthest two
# Depths begin at so many of the usual distance to the nearest camera, grow by a factor, and end at so
# many of that to the farthest of the others; there are at most so many.
_FIRST, _FACTOR, _FARTHEST, _MOST_DEPTHS = 2.0, 1.045, 100.0, 192
# Sides of patches, coarse and fine, in pixels of theirs.
_COARSE, _FINE = 5, 7
# Around the best depth: from so many factors before it to as many behind it, in steps of a tenth.
_AROUND, _TENTHS = 1.5, 10
# Least likeness to the two most alike others. A second depth so many factors away that is nearly as good
# makes a patch ambiguous, and so does a likeness that hardly falls within one factor.
_ALIKE, _VERY_ALIKE, _APART, _AMBIGUOUS, _LEAST_FALL = 0.7, 0.85, 4, 0.1, 0.03
# A camera sees a point if it is as much alike; two at least, beside the one of the patch.
_SEEN = 0.8
# Smaller eigenvalue of the brightness gradients' mean outer product that makes a corner, of 255 levels.
_CORNER = 4.0
# Fewer points are taken for chance.
_FEWEST_POINTS = 64
# near from the depths of the points that a camera sees, for cameras that see at least so many: this
# percentile, since some are wrong, of the camera for which it is least, less a margin for surfaces
# without corners. Not if it is within so many of the first depths that are tried.
_ENOUGH, _NEAREST, _MARGIN, _CUT_OFF = 12, 5.0, 1.5, 1.3
# Patches that are compared at once.
_ROWS = 128


@dataclasses.dataclass(frozen=True)
class FoundPoints:
    """Points of surfaces.

    Attributes:
      positions: positions in the cameras' world.
      tracks: pairs (camera, point) of the cameras that see a point, as `jaxnerf.scenes.Scene.tracks`;
        first those of the cameras in whose photographs the points were found, one a point.
      nearest: the depth that next to nothing is nearer than, along the axis of any camera; None if the
        sweep cannot say: if points begin where it does, or if the lens sees more than it looks at.
    """

    positions: Float[np.ndarray, "P 3"]
    tracks: Int[np.ndarray, "T 2"]
    nearest: float | None


@dataclasses.dataclass(frozen=True)
class _Patches:
    """Squares of photographs, and the cameras that they are compared with.

    Attributes:
      camera: index of the photograph's camera.
      pixel: position of the square's middle, (x, y).
      others: indices of the cameras that a square is compared with; -1 for none.
    """

    camera: Int[np.ndarray, " P"]
    pixel: Float[np.ndarray, "P 2"]
    others: Int[np.ndarray, "P K"]

    def __getitem__(self, chosen: np.ndarray) -> "_Patches":
        return _Patches(self.camera[chosen], self.pixel[chosen], self.others[chosen])


def with_found_points(scene: Scene) -> Scene:
    """Add points of surfaces to a scene whose files have none, and a near, if the files do not name it.

    Args:
      scene: a scene with photographs of the training split.

    Returns:
      The scene; as it was, if it has points or none are found.
    """
    found = find_points(scene.splits["train"]) if scene.points is None else None
    if found is None:
        return scene
    near = scene.near
    # What readers give where nothing is known.
    if scene.unbounded and near == NEAR and found.nearest is not None:
        near = min(max(near, found.nearest / _MARGIN), 0.5 * scene.far)
    return dataclasses.replace(
        scene, points=found.positions, points_found=True, tracks=found.tracks, near=near
    )


def find_points(split: Split) -> FoundPoints | None:
    """Points of the surfaces that photographs show, a few thousand at most.

    On captures of which all is known 94 to 97% of the points have a depth that is right within 5%; fewer
    where silhouettes stand before something far, down to 72% (experiments/captures).

    Args:
      split: a split with photographs.

    Returns:
      The points; None if there are too few that at least three photographs agree on.
    """
    kept = np.unique(np.linspace(0, len(split) - 1, _MOST_VIEWS).round().astype(int))
    poses = np.asarray(split.cameras.camera_to_world, np.float64)[kept, :3]
    # Far from the origin the differences between cameras would be lost in rounding.
    middle = poses[:, :, 3].mean(axis=0)
    poses[:, :, 3] -= middle
    others, distances = _others_of(poses)
    if others.shape[1] < 2:
        return None
    placed = dataclasses.replace(split.cameras[kept], camera_to_world=poses.astype(np.float32))
    cameras, fine = straight_views(split, kept, placed)
    patches = _corners(fine, others)
    if len(patches.camera) < _FEWEST_POINTS:
        return None
    placed = replicated(jax.tree.map(jnp.asarray, cameras))
    t = _depths(distances)
    first = float(t[0])
    likeness = _likeness(
        halved(fine), placed, patches, np.tile(t, (len(patches.camera), 1)), _COARSE
    )
    score = _of_two(likeness)
    best = score.argmax(axis=1)
    apart = np.abs(np.arange(len(t)) - best[:, None]) > _APART
    second = np.where(apart, score, -1.0).max(axis=1, initial=-1.0)
    good = (score.max(axis=1) > _ALIKE) & (second < score.max(axis=1) - _AMBIGUOUS)
    patches, t = patches[good], t[best[good]]
    if not len(patches.camera):
        return None
    shifts = np.arange(-_AROUND * _TENTHS, _AROUND * _TENTHS + 1) / _TENTHS
    around = (t[:, None] * _FACTOR**shifts).astype(np.float32)
    likeness = _likeness(fine, placed, patches, around, _FINE)
    good, depths, seen = _settled(likeness, t, shifts)
    if good.sum() < _FEWEST_POINTS:
        return None
    patches, depths, seen = patches[good], depths[good], seen[good]
    # Compiled as a whole, since each operation by itself takes as long.
    rays = jax.jit(cast_rays)(jax.tree.map(lambda x: x[patches.camera], cameras), patches.pixel)
    positions = np.asarray(rays.origins) + depths[:, None] * np.asarray(rays.directions)
    nearest = None
    if split.cameras.lens in FLAT:
        nearest = _nearest(positions, poses, patches, seen, first)
    point, column = np.nonzero(seen)
    tracks = np.concatenate([
        np.stack([kept[patches.camera], np.arange(len(depths))], axis=-1),
        np.stack([kept[patches.others[point, column]], point], axis=-1),
    ])  # fmt: skip
    return FoundPoints(positions.astype(np.float64) + middle, tracks, nearest)


def _nearest(
    positions: Float[np.ndarray, "P 3"],
    poses: Float[np.ndarray, "N 3 4"],
    patches: _Patches,
    seen: Bool[np.ndarray, "P K"],
    first: float,
) -> float | None:
    """See `FoundPoints`; first is the least depth that was tried."""
    least = []
    for camera, pose in enumerate(poses):
        here = (patches.camera == camera) | (seen & (patches.others == camera)).any(axis=1)
        if np.count_nonzero(here) >= _ENOUGH:
            depths = (pose[:, 3] - positions[here]) @ pose[:, 2]
            least.append(float(np.percentile(depths, _NEAREST)))
    return min(least) if least and min(least) > _CUT_OFF * first else None


def _others_of(poses: np.ndarray) -> tuple[Int[np.ndarray, "N K"], Float[np.ndarray, "N K"]]:
    """For each camera others that look the same way (-1 for none), and how far away they are."""
    positions, backs = poses[:, :, 3], poses[:, :, 2]
    away = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    away[(backs @ backs.T < _SAME_WAY) | (away <= _SAME_PLACE * away.max())] = np.inf
    nearest = away.min(axis=1, initial=np.inf)
    if not np.isfinite(nearest).any():
        return np.zeros((len(poses), 0), int), np.zeros((len(poses), 0))
    away[away < _TOO_NEAR * np.median(nearest[np.isfinite(nearest)])] = np.inf
    ranks = [rank for rank in _OTHERS if rank < len(poses) - 1]
    others = np.argsort(away, axis=1)[:, ranks]
    distances = np.take_along_axis(away, others, axis=1)
    return np.where(np.isfinite(distances), others, -1), distances


def _depths(distances: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " D"]:
    """Depths at which patches are tried; what is nearer is hardly in the next camera's picture."""
    finite = np.where(np.isfinite(distances), distances, np.nan)
    farthest = np.where(np.isfinite(distances), distances, 0.0).max(axis=1)
    first = _FIRST * np.nanmedian(finite[:, 0])
    last = _FARTHEST * np.median(farthest[farthest > 0.0])
    count = min(math.ceil(math.log(last / first) / math.log(_FACTOR)), _MOST_DEPTHS)
    return (first * _FACTOR ** np.arange(max(count, 1))).astype(np.float32)


def _corners(level: Level, others: Int[np.ndarray, "N K"]) -> _Patches:
    """The best corner of each square of each photograph (Shi and Tomasi, 1994), where there is one."""
    from scipy.ndimage import minimum_filter, uniform_filter

    count, height, width = level.valid.shape
    each = max(_PATCHES // count, _FEWEST_PATCHES)
    side = max(int(math.sqrt(height * width / each)), _FINE)
    rows, columns = height // side, width // side
    if not rows or not columns:
        nobody = np.zeros(0, int)
        return _Patches(nobody, np.zeros((0, 2), np.float32), others[nobody])
    camera, pixel = [], []
    for index in range(count):
        down, right = np.gradient(level.brightness[index])
        a, b, c = (uniform_filter(x, _FINE) for x in (right * right, right * down, down * down))
        smaller = 0.5 * (a + c) - np.sqrt(0.25 * (a - c) ** 2 + b * b)
        # The whole patch must be valid, and one pixel more, which its gradients look at.
        whole = minimum_filter(level.valid[index], _FINE + 2, mode="constant", cval=False)
        smaller = np.where(whole, smaller, 0.0)[: rows * side, : columns * side]
        squares = smaller.reshape(rows, side, columns, side).swapaxes(1, 2)
        squares = squares.reshape(rows * columns, side * side)
        best, good = squares.argmax(axis=1), squares.max(axis=1) > _CORNER
        y, x = np.divmod(best, side)
        row, column = np.divmod(np.arange(rows * columns), columns)
        place = np.stack([column * side + x, row * side + y], axis=-1)[good]
        camera.append(np.full(len(place), index))
        pixel.append((place + 0.5) * level.spacing)
    where = np.concatenate(camera)
    return _Patches(where, np.concatenate(pixel).astype(np.float32), others[where])


def _likeness(
    level: Level, cameras: Camera, patches: _Patches, t: Float[np.ndarray, "P D"], side: int
) -> Float[np.ndarray, "P D K"]:
    """Correlation of patches with what others show where they would be at each depth; -1 if nothing."""
    # What is not valid, or beside what is not, is no number. The four pixels between whose middles a
    # place lies are in one row, since four lookups take three times as long.
    known = np.where(level.valid, level.brightness, np.float32(np.nan))
    known = np.pad(known, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    four = [known[:, :-1, :-1], known[:, :-1, 1:], known[:, 1:, :-1], known[:, 1:, 1:]]
    squares = replicated(np.stack(four, axis=-1))
    compare = functools.partial(_compared, squares, cameras, spacing=level.spacing, side=side)
    return in_chunks(
        compare, patches.camera.astype(np.int32), patches.pixel, patches.others.astype(np.int32), t,
        rows_at_once=_ROWS,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("spacing", "side"))
def _compared(
    squares: Float[Array, "N h w 4"],
    cameras: Camera,
    camera: Int[Array, " P"],
    pixel: Float[Array, "P 2"],
    others: Int[Array, "P K"],
    t: Float[Array, "P D"],
    *,
    spacing: float,
    side: int,
) -> Float[Array, "P D K"]:
    height, width = squares.shape[1:3]
    rows, half = squares.reshape(-1, 4), 0.5 * (side - 1)
    steps = jnp.arange(side, dtype=pixel.dtype) - half
    x, y = jnp.tile(steps, side), jnp.repeat(steps, side)

    def normalised(patch):
        patch = patch - jnp.mean(patch)
        return patch * jax.lax.rsqrt(jnp.sum(patch * patch) + 1.0)

    def shown(view, places):
        place = places / spacing - 0.5
        lower = jnp.floor(place)
        limit = jnp.array([width - 1, height - 1], place.dtype)[None]
        inside = jnp.all((lower >= 0.0) & (lower <= limit))
        column, row = jnp.clip(lower, 0.0, limit).astype(jnp.int32).T
        four = rows[(view * height + row) * width + column]
        across, down = (place - lower).T
        upper, under = (four[:, at] + across * (four[:, at + 1] - four[:, at]) for at in (0, 2))
        return upper + down * (under - upper), inside

    def of_patch(view, middle, theirs, depths):
        here = jax.tree.map(lambda leaf: leaf[view], cameras)
        patch, inside = shown(view, middle[None] + spacing * jnp.stack([x, y], axis=-1))
        # Between its middle and two points at its sides a patch is projected linearly.
        ends = jnp.array([[0.0, 0.0], [half, 0.0], [0.0, half]], pixel.dtype) * spacing
        rays = cast_rays(here, middle[None] + ends)
        wanted = normalised(patch)

        def in_view(other, depth):
            there = jax.tree.map(lambda leaf: leaf[other], cameras)
            (centre, right, down), away = project(there, rays.origins + depth * rays.directions)
            places = centre[None] + x[:, None] * ((right - centre) / half)[None]
            places = places + y[:, None] * ((down - centre) / half)[None]
            found, whole = shown(other, places)
            correlation = jnp.sum(wanted * normalised(found))
            good = inside & whole & jnp.all(away > 0.0) & (other >= 0) & ~jnp.isnan(correlation)
            return jnp.where(good, correlation, -1.0)

        by_camera = jax.vmap(in_view, in_axes=(0, None))
        return jax.vmap(by_camera, in_axes=(None, 0))(theirs, depths)

    return jax.vmap(of_patch)(camera, pixel, others, t)


def _of_two(likeness: Float[np.ndarray, "P D K"]) -> Float[np.ndarray, "P D"]:
    """The mean likeness to the two most alike cameras; -1 if only one shows the patch."""
    two = np.sort(likeness, axis=-1)[..., -2:]
    return np.where(two[..., 0] > -1.0, two.mean(axis=-1), -1.0)


def _settled(
    likeness: Float[np.ndarray, "P D K"],
    t: Float[np.ndarray, " P"],
    shifts: Float[np.ndarray, " D"],
) -> tuple[Bool[np.ndarray, " P"], Float[np.ndarray, " P"], Bool[np.ndarray, "P K"]]:
    """Which patches have one depth, the depth, and which cameras see them there."""
    score, each = _of_two(likeness), np.arange(len(t))
    best, last = score.argmax(axis=1), len(shifts) - 1
    top = score[each, best]
    beside = [score[each, np.clip(best + step, 0, last)] for step in (-_TENTHS, _TENTHS)]
    seen = likeness[each, best] > _SEEN
    good = (top > _VERY_ALIKE) & (best > 0) & (best < last) & (seen.sum(axis=1) >= 2)
    good &= top - np.maximum(*beside) > _LEAST_FALL
    # Between steps the top of a parabola.
    inner = np.clip(best, 1, last - 1)
    before, here, after = (score[each, inner + step] for step in (-1, 0, 1))
    bend = np.minimum(before - 2.0 * here + after, -1e-6)
    shift = shifts[inner] + np.clip(0.5 * (before - after) / bend, -0.5, 0.5) / _TENTHS
    return good, t * _FACTOR**shift, seen

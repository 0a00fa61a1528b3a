"""The visual hull of the photographs: the cells that may be occupied, before training.

The hull (Laurentini, "The visual hull concept", PAMI 1994) is the space inside the silhouettes of all
photographs. Silhouettes come from alpha, or from the colour of a plain background, which is found from
the photographs' borders.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jaxnerf.cameras.lenses import FLAT
from jaxnerf.cameras.paths import focus_point
from jaxnerf.rendering.footprints import HALF_DIAGONAL, carve
from jaxnerf.sampling.occupancy import dilate
from jaxnerf.scenes import Scene, Split
from jaxnerf.scenes.backgrounds import levels_of, name_of
from jaxnerf.scenes.frames import look_outwards
from jaxnerf.scenes.in_view import cameras_that_see

TILE = 8  # pixels
# Cells along the cube in successive refinements, each of which tests only cells inside the previous hull.
_COARSE = (16, 32, 64)
# Without alpha, a cell is empty if at least a twentieth of the cameras, and at least two, see the
# background there: a highlight can have the background's colour in one of them. Silhouettes are used
# only if half of the photographs' margins is background: otherwise the colour may be that of a wall or a
# sky.
_WITNESSES, _BARE_MARGIN = 0.05, 0.5
# The tolerance of a background's colour, in levels of 255, is _ROUNDING if three quarters (_USUAL) of the
# margins' tiles that may be background are within it. Otherwise it is the noise of 95% (_HELD) of these
# tiles and a half more (_BRIGHTER_INSIDE), since with a vignette the middle is brighter than any margin,
# and at most _MOST_NOISE.
_ROUNDING, _MOST_NOISE, _MOST_EVEN = 1, 24, 8
_USUAL, _HELD, _BRIGHTER_INSIDE = 0.75, 0.95, 1.5
# A background is common to all photographs if it covers a fifth of the margin in four of five of them: in
# others the scene may fill the image.
_SAME_MARGIN, _SAME_PICTURES = 0.2, 0.8
# `stands_alone`: the fractions of the border and of each of its sides that must show the background, the
# fraction of the photographs in which they must, and the fraction of the points in the cube.
_BARE_BORDER, _BARE_SIDE, _ALONE_IN, _POINTS_INSIDE = 0.5, 0.125, 0.75, 0.9
# Photographs are in a frame if the mean area in front of the background is so much of the area that is in
# front of it in any of them.
_FRAMED = 0.9
# The colour is computed from at most this many tiles, drawn at random.
_MOST_TILES = 30_000


def possible_cells(
    split: Split, cells: int, background: str, astray: float = 0.0
) -> tuple[Float[np.ndarray, "3"], float, Bool[np.ndarray, "M M M"]]:
    """The cells of a cube that may be occupied according to the silhouettes.

    Args:
      split: a split with photographs.
      cells: number of cells along each side of the cube.
      background: the background that photographs are trained on; see `TrainingConfig`.
      astray: margin around silhouettes for errors of the poses, in the world's unit.

    Returns:
      The corner of the cube, its side, and the mask of the cells: all cells of `scene_cube` if there are
      no silhouettes, else those of a tighter cube around the hull.
    """
    origin, side = scene_cube(split)
    shown, witnesses = silhouettes(split, background)

    def hull(origin: np.ndarray, side: float, sizes: tuple[int, ...]) -> np.ndarray:
        """The hull at the last of several resolutions, computed from coarse to fine."""
        full = np.ones((1,) * 3, bool)
        for size in sizes:
            if size % len(full):  # a cell may then overlap coarser cells besides that of its corner
                full = dilate(full)
            inside = np.arange(size) * len(full) // size
            candidates = np.argwhere(full[np.ix_(inside, inside, inside)])
            centres = (origin + (candidates + 0.5) * (side / size)).astype(np.float32)
            radius = HALF_DIAGONAL * side / size + astray
            found = carve(centres, radius, split.cameras, shown, TILE, witnesses)
            full = np.zeros((size,) * 3, bool)
            full[tuple(candidates[found].T)] = True
        return full

    if not shown.all():
        coarse = np.argwhere(hull(origin, side, _COARSE))
        if len(coarse):
            origin, side = tight_cube(origin, side / _COARSE[-1], coarse)
            mask = hull(origin, side, (*(size for size in _COARSE if size < cells), cells))
            if mask.any():
                return origin, side, mask
    return origin, side, np.ones((cells,) * 3, bool)


def scene_cube(split: Split) -> tuple[np.ndarray, float]:
    """The cube that is assumed to hold a scene without given bounds: (corner, side).

    It is centred at the point nearest to all the cameras' axes. Half its side is the median, over the
    cameras, of the radius of the ball around that point that a camera sees whole.
    """
    poses = np.asarray(split.cameras.camera_to_world, np.float64)
    centre = focus_point(poses.astype(np.float32)).astype(np.float64)
    distance = np.linalg.norm(poses[:, :, 3] - centre, axis=-1)
    half = 0.5 * np.min(np.asarray(split.cameras.size), axis=-1)
    tangent = half / np.max(np.asarray(split.cameras.focal), axis=-1)
    radius = float(np.median(distance * tangent))
    return centre - radius, 2.0 * radius


@dataclasses.dataclass(frozen=True)
class PlainBackground:
    """The colour of a plain background in photographs.

    Attributes:
      levels: 8-bit sRGB.
      tolerance: number of levels by which a channel of the background's pixels may differ.
    """

    levels: tuple[int, int, int]
    tolerance: int

    def is_called(self, background: str) -> bool:
        """Whether this is the colour with a name in a configuration, up to rounding."""
        pairs = zip(self.levels, levels_of(background), strict=True)
        return background != "random" and all(abs(a - b) <= _ROUNDING for a, b in pairs)

    @property
    def is_even(self) -> bool:
        """Whether it is more even than a wall or table top, which can be behind a capture too."""
        return self.tolerance <= _MOST_EVEN

    @property
    def name(self) -> str:
        """The name of the colour in configurations."""
        return next(
            (name for name in ("white", "black") if self.is_called(name)), name_of(self.levels)
        )


def plain_background(split: Split) -> PlainBackground | None:
    """The colour of the plain background of photographs without alpha, or None if there is none.

    It is the most common colour along the borders of the photographs. It must cover at least half of the
    borders, and a fifth of the border in most photographs.
    """
    assert split.images is not None
    height, width = split.images.shape[1:3]
    margins = np.argwhere(_margins(split))
    if len(margins) > _MOST_TILES:
        margins = np.random.default_rng(0).choice(margins, _MOST_TILES, replace=False)
    camera, row, column = margins.T[..., None, None]
    inside = np.arange(TILE)
    rows = np.minimum(row * TILE + inside[:, None], height - 1)
    columns = np.minimum(column * TILE + inside[None, :], width - 1)
    tiles = split.images[camera, rows, columns, :3]
    if not len(tiles):
        return None
    levels = _commonest(tiles.reshape(-1, 3))
    off = _difference(tiles, levels).max(axis=(1, 2))
    alike = off[off <= _MOST_NOISE]
    if len(alike) < _BARE_MARGIN * len(off):
        return None
    # With an even background the tolerance stays small, so that soft shadows are not part of it.
    usual, most = np.quantile(alike, (_USUAL, _HELD), method="higher")
    tolerance = _ROUNDING
    if usual > _ROUNDING:
        tolerance = min(round(_BRIGHTER_INSIDE * int(most)), _MOST_NOISE)
    bare, count = off <= tolerance, np.bincount(camera.ravel())
    fractions = np.bincount(camera.ravel(), bare)[count > 0] / count[count > 0]
    if np.mean(bare) < _BARE_MARGIN or np.mean(fractions >= _SAME_MARGIN) < _SAME_PICTURES:
        return None
    return PlainBackground(levels, tolerance)


def background_of(split: Split) -> str:
    """Name of the plain background of photographs; white if they have alpha or no such background."""
    plain = None if split.has_alpha else plain_background(split)
    return "white" if plain is None else plain.name


def stands_alone(scene: Scene) -> bool:
    """Whether a scene's photographs to train on show an object alone before an empty background.

    That is: the background is transparent, or of one even colour; it is seen along half of the borders,
    and along a part of each side (a white sky does not reach the lower side); it is not the same in all
    photographs, as black bars are and what lies around the circle of a fisheye lens; and most cameras
    look at one place, around which nearly all points lie, if there are any. Nothing is known of the
    surroundings then, so an unbounded field could only put fog there.

    Args:
      scene: a scene with the photographs to train on.
    """
    split = scene.splits["train"]
    plain = None if split.has_alpha else plain_background(split)
    if not split.has_alpha and not (plain and plain.is_even):
        return False
    if split.cameras.lens not in FLAT or look_outwards(np.asarray(split.cameras.camera_to_world)):
        return False
    corner, side = scene_cube(split)
    if np.mean(cameras_that_see(split.cameras, corner, side, scene.near, scene.far)) < 0.5:
        return False
    if scene.points is not None and len(scene.points):
        inside = np.all((scene.points >= corner) & (scene.points <= corner + side), axis=-1)
        if np.mean(inside) < _POINTS_INSIDE:
            return False
    bare, sides = ~silhouettes(split, background_of(split))[0], _sides(split)

    def bare_fraction(tiles: np.ndarray) -> np.ndarray:
        count = tiles.sum(axis=(-2, -1))
        # A side that is masked may show anything.
        return (tiles & bare).sum(axis=(-2, -1)) / np.maximum(count, 1)

    if np.mean(~bare) > _FRAMED * np.mean(~np.logical_and.reduce(bare)):
        return False
    alone = bare_fraction(np.logical_or.reduce(sides)) >= _BARE_BORDER
    alone &= bare_fraction(sides).min(axis=0) >= _BARE_SIDE
    return bool(np.mean(alone) >= _ALONE_IN)


def _commonest(colours: np.ndarray) -> tuple[int, int, int]:
    """The centre of the densest cluster of colours [N, 3].

    It starts with the median of the colours in the fullest cube of two bins a side of a histogram, and is
    replaced by the median of the colours near it until it does not change. (A colour that most of the
    colours have is returned exactly.)
    """
    bins, shape = colours // np.uint8(_MOST_NOISE // 2), (32, 32, 32)
    flat = np.ravel_multi_index(tuple(bins.astype(np.int32).T), shape)
    cubes = np.bincount(flat, minlength=32**3).reshape(shape)
    for axis in range(3):
        cubes = cubes + np.roll(cubes, -1, axis)  # the last bins are empty
    first = np.array(np.unravel_index(cubes.argmax(), shape))
    near = ((bins == first) | (bins == first + 1)).all(axis=-1)
    levels = np.median(colours[near], axis=0).astype(np.uint8)
    for _ in range(10):
        near = _difference(colours, levels) <= _MOST_NOISE
        before, levels = levels, np.median(colours[near], axis=0).astype(np.uint8)
        if np.array_equal(before, levels):
            break
    return int(levels[0]), int(levels[1]), int(levels[2])


def _difference(pixels: np.ndarray, levels: np.ndarray | tuple[int, ...]) -> np.ndarray:
    """The difference of pixels [..., 3] from a colour in levels, in the channel that differs most."""
    colour = np.asarray(levels, np.uint8)
    # Maximum minus minimum, since unsigned bytes cannot be negative.
    return (np.maximum(pixels, colour) - np.minimum(pixels, colour)).max(axis=-1)


def silhouettes(
    split: Split, background: str
) -> tuple[Bool[np.ndarray, "cameras rows columns"], int]:
    """Which tiles of the photographs show more than the background, and how reliable that is.

    Args:
      split: a split with photographs. A tile with an invalid pixel is taken to show more.
      background: the background that photographs are trained on. Without alpha it is recognised by its
        colour, with the tolerance that the photographs need, unless it is "random" or covers less than
        half of the photographs' margins.

    Returns:
      The tiles, and the number of cameras that must see the background before a place is taken as empty.
    """
    assert split.images is not None
    count, height, width = split.images.shape[:3]
    transparent = split.has_alpha
    shown = np.ones((count, -(-height // TILE), -(-width // TILE)), bool)
    if not transparent and background == "random":
        return shown, 1
    levels, tolerance = levels_of(background), _ROUNDING
    plain = None if transparent else plain_background(split)
    if plain is not None and plain.is_called(background):
        levels, tolerance = plain.levels, plain.tolerance
    for index, image in enumerate(split.images):
        differs = image[..., 3] > 0
        if not transparent:
            differs = _difference(image[..., :3], levels) > tolerance
        if split.masks is not None:
            differs |= ~split.masks[index]
        shown[index] = tiles_of(differs[None])[0]
    if transparent:
        return shown, 1
    on_margin = shown[_margins(split)]
    if not len(on_margin) or np.mean(~on_margin) < _BARE_MARGIN:
        shown[:] = True
    return shown, max(2, round(_WITNESSES * count))


def _margins(split: Split) -> np.ndarray:
    """The tiles along the borders of each photograph of which all pixels are valid."""
    return np.logical_or.reduce(_sides(split))


def _sides(split: Split) -> np.ndarray:
    """The same tiles, those of the upper, lower, left, and right side apart [4, N, rows, columns]."""
    assert split.images is not None
    count, height, width = split.images.shape[:3]
    _, row, column = np.indices((count, -(-height // TILE), -(-width // TILE)))
    last = -(-np.asarray(split.cameras.size) // TILE)[:, None, None] - 1
    sides = np.stack([row == 0, row == last[..., 1], column == 0, column == last[..., 0]])
    if split.masks is not None:
        sides &= ~tiles_of(~split.masks)
    return sides


def tiles_of(
    pixels: Bool[np.ndarray, "cameras height width"], tile: int = TILE
) -> Bool[np.ndarray, "cameras rows columns"]:
    """Which tiles of photographs contain a True pixel of a mask."""
    _, height, width = pixels.shape
    rows, columns = -(-height // tile), -(-width // tile)
    held = np.zeros((len(pixels), rows, columns), bool)
    for picture, result in zip(pixels, held, strict=True):
        padded = np.pad(picture, ((0, -height % tile), (0, -width % tile)))
        result[:] = padded.reshape(rows, tile, columns, tile).any(axis=(1, 3))
    return held


def tight_cube(origin: np.ndarray, cell: float, cells: np.ndarray) -> tuple[np.ndarray, float]:
    """The cube around cells with one cell of margin: (corner, side)."""
    low, high = cells.min(axis=0) - 1.0, cells.max(axis=0) + 2.0
    side = float((high - low).max()) * cell
    middle = origin + 0.5 * (low + high) * cell
    return middle - 0.5 * side, side

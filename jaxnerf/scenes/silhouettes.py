"""The visual hull of the photographs: the cells that may be occupied, before training.

The hull (Laurentini, "The visual hull concept", PAMI 1994) is what lies within the silhouette of every
picture. Silhouettes come from alpha, or from the colour of a plain background, which is found from the
borders of the pictures.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jaxnerf.paths import focus_point
from jaxnerf.rendering.footprints import carve
from jaxnerf.sampling.occupancy import dilate
from jaxnerf.scenes import Split
from jaxnerf.scenes.backgrounds import levels_of, name_of

TILE = 8  # pixels
# Cells along the cube, at first: those of the next are looked for in those of the last.
_COARSE = (16, 32, 64)
# Without alpha, a cell is empty where a twentieth of the cameras see the background. One does not count:
# a highlight can be as white. And that only where half of the pictures' margins are bare: else it is a
# wall or a sky that has this colour.
_WITNESSES, _BARE_MARGIN = 0.05, 0.5
# A background is one colour up to rounding, or up to the noise and the vignette of photographs: so many
# levels of 255 at most. Rounding is enough where it holds three quarters of the margins' tiles that may
# be background; else what nearly all of them need, and a half more, since a vignette leaves the middle
# brighter than any margin.
_ROUNDING, _MOST_NOISE, _MOST_EVEN = 1, 24, 8
_USUAL, _HELD, _BRIGHTER_INSIDE = 0.75, 0.95, 1.5
# It is the same in all pictures if it covers a fifth of the margin in four of five: in some the scene
# may fill the picture.
_SAME_MARGIN, _SAME_PICTURES = 0.2, 0.8
# Drawn at random, so many tiles are enough to know a colour by.
_MOST_TILES = 30_000


def possible_cells(
    split: Split, cells: int, background: str, astray: float = 0.0
) -> tuple[Float[np.ndarray, "3"], float, Bool[np.ndarray, "M M M"]]:
    """The cells of a cube that may hold something, for all that silhouettes tell.

    Args:
      split: with photographs.
      cells: along each side of the cube.
      background: that photographs are trained on; see `TrainingConfig`.
      astray: how far from its silhouette a thing may be because poses are not exact.

    Returns:
      The corner of the cube, its side, and the cells: all of `scene_cube` where there are no
      silhouettes, else of a tighter one around the hull.
    """
    origin, side = scene_cube(split)
    shown, witnesses = silhouettes(split, background)

    def hull(origin: np.ndarray, side: float, sizes: tuple[int, ...]) -> np.ndarray:
        """The cells of the last size, by way of the coarser ones that hold them."""
        full = np.ones((1,) * 3, bool)
        for size in sizes:
            if size % len(full):  # a cell may then reach into one that does not hold its corner
                full = dilate(full)
            inside = np.arange(size) * len(full) // size
            candidates = np.argwhere(full[np.ix_(inside, inside, inside)])
            centres = (origin + (candidates + 0.5) * (side / size)).astype(np.float32)
            radius = 0.87 * side / size + astray
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
    """The cube that a scene without given bounds is looked for in: (corner, side).

    Around the point nearest to all the cameras' axes; as large as the ball there that the narrowest
    of the cameras sees whole.
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
    """What the borders of photographs show, where that is one colour.

    Attributes:
      levels: 8-bit sRGB.
      tolerance: by how many levels a channel of the background's pixels may differ.
    """

    levels: tuple[int, int, int]
    tolerance: int

    def is_called(self, background: str) -> bool:
        """Whether this is the colour that a configuration names, up to rounding."""
        pairs = zip(self.levels, levels_of(background), strict=True)
        return background != "random" and all(abs(a - b) <= _ROUNDING for a, b in pairs)

    @property
    def is_even(self) -> bool:
        """Whether it is so even that no wall or table top is, which also may be behind a capture."""
        return self.tolerance <= _MOST_EVEN

    @property
    def name(self) -> str:
        """As configurations have it."""
        return next(
            (name for name in ("white", "black") if self.is_called(name)), name_of(self.levels)
        )


def plain_background(split: Split) -> PlainBackground | None:
    """The one colour that lies behind a scene in photographs without alpha, if there is one.

    It is the most common colour along the sides of the pictures. It must cover at least half of what
    lies there, and be the same over the pictures.
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
    # A soft shadow on an even background is none of it; where most of it is uneven there is no telling.
    usual, most = np.quantile(alike, (_USUAL, _HELD), method="higher")
    tolerance = _ROUNDING
    if usual > _ROUNDING:
        tolerance = min(round(_BRIGHTER_INSIDE * int(most)), _MOST_NOISE)
    bare, count = off <= tolerance, np.bincount(camera.ravel())
    share = np.bincount(camera.ravel(), bare)[count > 0] / count[count > 0]
    if np.mean(bare) < _BARE_MARGIN or np.mean(share >= _SAME_MARGIN) < _SAME_PICTURES:
        return None
    return PlainBackground(levels, tolerance)


def background_of(split: Split) -> str:
    """The name of the plain background of photographs; white if they have alpha or no such background."""
    plain = None if split.has_alpha else plain_background(split)
    return "white" if plain is None else plain.name


def _commonest(colours: np.ndarray) -> tuple[int, int, int]:
    """The middle of the densest cluster of colours [N, 3].

    That is the median of the fullest cube of two bins a side of a histogram, then of what is near to it,
    until it rests. (Of colours of which most are the same it is that one.)
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
    """By how many levels pixels [..., 3] differ from a colour in the channel that differs most."""
    colour = np.asarray(levels, np.uint8)
    # Maximum minus minimum, since bytes do not become negative.
    return (np.maximum(pixels, colour) - np.minimum(pixels, colour)).max(axis=-1)


def silhouettes(
    split: Split, background: str
) -> tuple[Bool[np.ndarray, "cameras rows columns"], int]:
    """Which tiles of the photographs show more than the background, and how far that can be trusted.

    Args:
      split: with photographs. A tile shows more wherever a pixel of it does not count.
      background: that they are trained on. Without alpha it is recognised by its colour, as exactly as
        the pictures allow, unless it is "random" or covers less than half of the pictures' margins.

    Returns:
      The tiles; and how many cameras must agree that a place is empty.
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
    """The tiles along the sides of each picture, as far as all of their pixels count."""
    assert split.images is not None
    count, height, width = split.images.shape[:3]
    _, row, column = np.indices((count, -(-height // TILE), -(-width // TILE)))
    last = -(-np.asarray(split.cameras.size) // TILE)[:, None, None] - 1
    margin = (row == 0) | (column == 0) | (row == last[..., 1]) | (column == last[..., 0])
    if split.masks is not None:
        margin &= ~tiles_of(~split.masks)
    return margin


def tiles_of(
    pixels: Bool[np.ndarray, "cameras height width"], tile: int = TILE
) -> Bool[np.ndarray, "cameras rows columns"]:
    """Which tiles of photographs hold one of some pixels."""
    _, height, width = pixels.shape
    rows, columns = -(-height // tile), -(-width // tile)
    held = np.zeros((len(pixels), rows, columns), bool)
    for picture, result in zip(pixels, held, strict=True):
        padded = np.pad(picture, ((0, -height % tile), (0, -width % tile)))
        result[:] = padded.reshape(rows, tile, columns, tile).any(axis=(1, 3))
    return held


def tight_cube(origin: np.ndarray, cell: float, cells: np.ndarray) -> tuple[np.ndarray, float]:
    """The smallest cube around cells, with one cell of margin: (corner, side)."""
    low, high = cells.min(axis=0) - 1.0, cells.max(axis=0) + 2.0
    side = float((high - low).max()) * cell
    middle = origin + 0.5 * (low + high) * cell
    return middle - 0.5 * side, side

"""Where a scene can be, before anything is learned: the visual hull of its photographs.

The hull (Laurentini, "The visual hull concept", PAMI 1994) is what lies within the silhouette of every
picture. Silhouettes come from alpha, or from the colour of a background that is known.
"""

import numpy as np
from jaxtyping import Bool, Float

from jaxnerf.footprints import carve
from jaxnerf.occupancy import dilate
from jaxnerf.paths import focus_point
from jaxnerf.scenes import Split

TILE = 8  # pixels
# Cells along the cube, at first: those of the next are looked for in those of the last.
_COARSE = (16, 32, 64)
# Without alpha, a cell is empty where a twentieth of the cameras see the background. One does not count:
# a highlight can be as white. And that only where half of the pictures' margins are bare: else it is a
# wall or a sky that has this colour.
_WITNESSES, _BARE_MARGIN = 0.05, 0.5


def possible_cells(
    split: Split, cells: int, background: str, astray: float = 0.0
) -> tuple[Float[np.ndarray, "3"], float, Bool[np.ndarray, "M M M"]]:
    """The cells of a cube that may hold something, for all that silhouettes tell.

    Args:
      split: with photographs.
      cells: along each side of the cube.
      background: that photographs are trained on, "white", "black" or "random".
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


def has_alpha(split: Split) -> bool:
    """Whether the photographs' alpha tells the scene from what is behind it."""
    assert split.images is not None
    transparent = split.images[:, ::4, ::4, 3] < 128
    if split.masks is not None:
        transparent = transparent[split.masks[:, ::4, ::4]]
    return bool(transparent.size and np.mean(transparent) > 0.01)


def silhouettes(
    split: Split, background: str
) -> tuple[Bool[np.ndarray, "cameras rows columns"], int]:
    """Which tiles of the photographs show more than the background, and how far that can be trusted.

    Args:
      split: with photographs. A tile shows more wherever a pixel of it does not count.
      background: that they are trained on. Without alpha it is recognised by its colour, unless it is
        "random" or covers less than half of the pictures' margins.

    Returns:
      The tiles; and how many cameras must agree that a place is empty.
    """
    assert split.images is not None
    count, height, width = split.images.shape[:3]
    transparent = has_alpha(split)
    shown = np.ones((count, -(-height // TILE), -(-width // TILE)), bool)
    if not transparent and background == "random":
        return shown, 1
    bare = np.uint8(255 if background == "white" else 0)
    for index, image in enumerate(split.images):
        differs = image[..., 3] > 0
        if not transparent:
            # Maximum minus minimum, since bytes do not become negative.
            colour = image[..., :3]
            differs = (np.maximum(colour, bare) - np.minimum(colour, bare)).max(axis=-1) > 1
        if split.masks is not None:
            differs |= ~split.masks[index]
        shown[index] = tiles_of(differs[None])[0]
    if transparent:
        return shown, 1
    on_margin = shown[_margins(split, shown.shape)]
    if not len(on_margin) or np.mean(~on_margin) < _BARE_MARGIN:
        shown[:] = True
    return shown, max(2, round(_WITNESSES * count))


def _margins(split: Split, shape: tuple[int, ...]) -> np.ndarray:
    """The tiles along the sides of each picture, as far as all of their pixels count."""
    _, row, column = np.indices(shape)
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

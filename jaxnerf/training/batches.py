"""Batches of training: square blocks of pixels, drawn at random from the photographs."""

import numpy as np
from jaxtyping import Int

from jaxnerf.scenes import Split
from jaxnerf.scenes.backgrounds import colour_of
from jaxnerf.scenes.sightings import Sightings
from jaxnerf.scenes.silhouettes import TILE, tiles_of
from jaxnerf.training.state import Batch

# Every 8th block is centred on a point of structure from motion, if there are any.
_APART = 8
# How often blocks with masked pixels are drawn again.
_TRIES = 10_000


def sample_batch(
    split: Split,
    size: int,
    seed: int,
    step: int,
    *,
    tiles: Int[np.ndarray, "N 3"] | None = None,
    block: int = 1,
    background: str = "white",
    one_image: bool = False,
    transparent: bool | None = None,
    sightings: Sightings | None = None,
    certainty: float = 0.0,
) -> Batch:
    """The global batch of a step: square blocks of unmasked pixels, drawn uniformly.

    One ray is cast through the middle of each block, and compared with the mean of its pixels. Random
    backgrounds and the jitter of samples are drawn here too, on the host: they do not depend on the
    number of devices, and no random number generator has to be compiled.

    Args:
      split: the photographs.
      size: number of blocks.
      seed, step: the batch is a function of both.
      tiles: (camera, row, column) of the tiles to draw from, each with at least one block without masked
        pixels (`usable_tiles`); None for all pixels.
      block: side of a block in pixels.
      background: colour behind the scene, on which photographs are blended; see `TrainingConfig`.
      one_image: whether to draw all blocks from one photograph.
      transparent: see `Batch`; None is `Split.has_alpha`.
      sightings: points of known depth in the photographs, at least one, each with an unmasked block
        around it (`usable_sightings`). Every 8th block is around one of them.
      certainty: weight of their depths in the loss. With 0 all blocks are drawn at random.

    Raises:
      ValueError: the photographs are smaller than a block, blocks do not divide tiles, or no block
        without masked pixels was found.
    """
    assert split.images is not None
    height, width = split.images.shape[1:3]
    if block > min(width, height):
        raise ValueError(f"sample_batch: no square of {block} pixels in {width} x {height}")
    if tiles is not None and TILE % block:
        raise ValueError(f"sample_batch: squares of {block} pixels do not divide tiles of {TILE}")
    random = np.random.Generator(np.random.Philox(key=[seed, step]))
    camera, x, y = _squares(split, size, random, tiles, block, one_image)
    depth = known = None
    if sightings is not None:
        depth, known = np.ones(size, np.float32), np.zeros(size, np.float32)
        if certainty > 0.0:
            among = random.integers(len(sightings), size=len(depth[::_APART]))
            camera[::_APART] = sightings.camera[among]
            x[::_APART], y[::_APART] = _corners(sightings.pixel[among], block, (width, height)).T
            depth[::_APART], known[::_APART] = sightings.depth[among], certainty
    # RGBA as one uint32 per pixel, which NumPy gathers several times faster than rows of four bytes.
    whole = split.images.view(np.uint32).reshape(-1)
    places = _places(split.images.shape, camera, x, y, block)
    pixels = whole.take(places).view(np.uint8).reshape(size, -1, 4)
    middle = np.stack([x, y], axis=-1).astype(np.float32) + np.float32(0.5 * block)
    jitter = random.random(size, np.float32)
    if background == "random":
        behind = random.random((size, 3), np.float32)
    else:
        behind = np.tile(np.asarray(colour_of(background), np.float32), (size, 1))
    if transparent is None:
        transparent = split.has_alpha
    return Batch(camera.astype(np.int32), middle, pixels, behind, jitter, depth, known, transparent)


def _squares(
    split: Split,
    size: int,
    random: np.random.Generator,
    tiles: Int[np.ndarray, "N 3"] | None,
    block: int,
    one_image: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Camera indices, and x and y of the upper left corners, of random blocks without masked pixels.

    Args: as for `sample_batch`.
    """
    assert split.images is not None
    count, height, width = split.images.shape[:3]
    only = random.integers(count, dtype=np.int32) if one_image else None
    if only is not None and split.masks is not None and split.masks.any():
        while not split.masks[only].any():
            only = random.integers(count, dtype=np.int32)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if tiles is None:
            camera = random.integers(count, size=size, dtype=np.int32)
            x = random.integers(width - block + 1, size=size, dtype=np.int32)
            y = random.integers(height - block + 1, size=size, dtype=np.int32)
        else:
            camera, row, column = tiles[random.integers(len(tiles), size=size)].T
            inside = random.integers(TILE // block, size=(2, size), dtype=np.int32) * block
            x, y = column * TILE + inside[0], row * TILE + inside[1]
        return camera if only is None else np.full_like(camera, only), x, y

    camera, x, y = drawn = draw(size)
    again = np.arange(size)
    for _ in range(_TRIES):
        again = again[_is_missed(split, camera[again], x[again], y[again], block)]
        if not again.size:
            return drawn
        for values, new in zip(drawn, draw(again.size), strict=True):
            values[again] = new
    raise ValueError(f"sample_batch: no square of {block} x {block} pixels that count was found")


def _is_missed(
    split: Split, camera: np.ndarray, x: np.ndarray, y: np.ndarray, block: int
) -> np.ndarray:
    """Which blocks extend beyond the photograph, or contain masked pixels."""
    assert split.images is not None
    height, width = split.images.shape[1:3]
    missed = (x > width - block) | (y > height - block)
    if split.masks is not None:
        places = _places(split.images.shape, camera, x, y, block)
        counted = split.masks.reshape(-1)[np.where(missed[:, None], 0, places)]
        missed |= ~counted.all(axis=-1)
    return missed


def _places(
    shape: tuple[int, ...], camera: np.ndarray, x: np.ndarray, y: np.ndarray, block: int
) -> Int[np.ndarray, "N pixels"]:
    """The indices of the blocks' pixels in the flattened array of all photographs."""
    height, width = shape[1:3]
    offset = np.arange(block)
    around = (offset[:, None] * width + offset[None, :]).reshape(-1)
    first = (camera.astype(np.int64) * height + y) * width + x
    return first[:, None] + around[None, :]


def usable_tiles(
    split: Split, tiles: Int[np.ndarray, "N 3"], block: int
) -> tuple[Int[np.ndarray, "M 3"], int]:
    """The tiles in which a block of pixels that all count can be drawn.

    Args:
      split: a split with photographs.
      tiles: (camera, row, column) of each tile, with a pixel that counts.
      block: side of a square in pixels, a power of 2.

    Returns:
      The tiles; and the block's side, smaller where no tile holds such a block.
    """
    if split.masks is None or not len(tiles):
        return tiles, block
    while True:
        height, width = (side // block for side in split.masks.shape[1:])
        squares = split.masks[:, : height * block, : width * block]
        squares = squares.reshape(-1, height, block, width, block)
        usable = tiles_of(np.asarray(squares.all(axis=(2, 4))), TILE // block)
        rows, columns = usable.shape[1:]
        inside = (tiles[:, 1] < rows) & (tiles[:, 2] < columns)
        chosen = tiles[inside]
        chosen = chosen[usable[tuple(chosen.T)]]
        if len(chosen) or block == 1:
            return chosen, block
        block //= 2


def usable_sightings(split: Split, sightings: Sightings, block: int) -> Sightings | None:
    """The points around which all pixels of a square count; None if there are none.

    Args:
      split: a split with photographs.
      sightings: points that they show.
      block: side of a square in pixels.
    """
    assert split.images is not None
    height, width = split.images.shape[1:3]
    counts = np.ones(len(sightings), bool)
    if split.masks is not None:
        x, y = _corners(sightings.pixel, block, (width, height)).T
        for right, down in np.ndindex(block, block):
            counts &= split.masks[sightings.camera, y + down, x + right]
    parts = (sightings.camera[counts], sightings.pixel[counts], sightings.depth[counts])
    return Sightings(*parts) if counts.any() else None


def _corners(pixels: np.ndarray, block: int, size: tuple[int, int]) -> np.ndarray:
    """The upper left corners of blocks around points; at the image's edge the block is moved inside."""
    corner = np.round(pixels - 0.5 * block).astype(np.int32)
    return np.clip(corner, 0, [size[0] - block, size[1] - block])

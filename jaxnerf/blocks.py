"""What a step of a growing field learns from: squares of pixels, drawn from tiles of the photographs."""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxnerf.backgrounds import colour_of
from jaxnerf.scenes import Split
from jaxnerf.silhouettes import TILE, tiles_of


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """Squares of pixels to learn from.

    Attributes:
      camera: which.
      middle: (x, y) of the square in pixels.
      pixels: of the square, with straight alpha.
      background: what lies behind the scene there.
      jitter: where in their intervals the ray's samples lie, in [0, 1).
    """

    camera: Int[np.ndarray, "*batch"]
    middle: Float[np.ndarray, "*batch 2"]
    pixels: UInt8[np.ndarray, "*batch P 4"]
    background: Float[np.ndarray, "*batch 3"]
    jitter: Float[np.ndarray, "*batch"]

    def colour(self) -> Float[Array, "*batch 4"]:
        """The mean of RGB times alpha, and of alpha, in [0, 1]."""
        pixels = jnp.asarray(self.pixels).astype(jnp.float32) * (1.0 / 255.0)
        alpha = pixels[..., 3:]
        return jnp.mean(jnp.concatenate([pixels[..., :3] * alpha, alpha], axis=-1), axis=-2)


def sample_blocks(
    split: Split,
    tiles: Int[np.ndarray, "N 3"],
    block: int,
    size: int,
    seed: int,
    step: int,
    background: str = "white",
) -> Blocks:
    """The global batch of a step: squares of pixels drawn evenly from the tiles.

    All that is random in a step is drawn here: it is the same on however many devices, and no generator
    is compiled.

    Args:
      split: with photographs.
      tiles: (camera, row, column) of each tile that can show something; see `usable_tiles`.
      block: side of a square in pixels. All pixels of a square count.
      size: how many.
      seed, step: the batch is a function of both.
      background: that photographs are blended on; see `TrainingConfig`.
    """
    assert split.images is not None
    height, width = split.images.shape[1:3]
    random = np.random.Generator(np.random.Philox(key=[seed, step]))
    offset = np.arange(block)
    around = (offset[:, None] * width + offset[None, :]).reshape(-1)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Cameras, upper left corners, and where those pixels lie in the array."""
        camera, row, column = tiles[random.integers(len(tiles), size=size)].T
        inside = random.integers(TILE // block, size=(2, size), dtype=np.int32) * block
        x = np.minimum(column * TILE + inside[0], width - block)
        y = np.minimum(row * TILE + inside[1], height - block)
        return camera, x, y, (camera.astype(np.int64) * height + y) * width + x

    camera, x, y, first = drawn = draw(size)
    if split.masks is not None:
        counted = split.masks.reshape(-1)
        again = np.arange(size)
        while (again := again[~counted[first[again, None] + around].all(axis=-1)]).size:
            for values, new in zip(drawn, draw(again.size), strict=True):
                values[again] = new
    # As one number a pixel, which NumPy gathers several times faster than rows of four.
    whole = split.images.view(np.uint32).reshape(-1)
    pixels = whole.take(first[:, None] + around[None, :]).view(np.uint8).reshape(size, -1, 4)
    middle = np.stack([x, y], axis=-1).astype(np.float32) + np.float32(0.5 * block)
    jitter = random.random(size, np.float32)
    if background == "random":
        behind = random.random((size, 3), np.float32)
    else:
        behind = np.tile(np.asarray(colour_of(background), np.float32), (size, 1))
    return Blocks(camera.astype(np.int32), middle, pixels, behind, jitter)


def usable_tiles(
    split: Split, tiles: Int[np.ndarray, "N 3"], block: int
) -> tuple[Int[np.ndarray, "M 3"], int]:
    """The tiles in which a block of pixels that all count can be drawn.

    Args:
      split: with photographs.
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

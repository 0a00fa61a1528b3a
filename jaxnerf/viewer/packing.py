"""The fast field made small: bricks that show, numbers of few levels, empty space by its extent."""

import dataclasses
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Bool, Float, Float16, Int, UInt8
from scipy.ndimage import distance_transform_cdt

from jaxnerf.fields.bricks import BRICK
from jaxnerf.sampling.occupancy import OCCUPIED

# Of one number. On a finely trained lego (7 features) these levels leave the page's pictures 55 dB from
# those of the unquantised field, on garden (3 features, of greater contrast) 46; twice as many cost a
# fifth more bytes for 4 dB.
DENSITY_LEVELS, FEATURE_LEVELS = 128, 64
# Levels are even near 0 and grow with the number's size from about here, as colours' logits saturate.
_KNEE = 4.0
# Logits of density are centred here: what is half transparent matters most.
_CENTRE = -1.0
# A voxel with a lower logit stops less than 1/8000 of the light: what it looks like cannot be seen.
_SHOWS = -9.0
# The logit of nothing.
NOTHING = -12.0
# Cells that a ray can jump at once.
_FARTHEST = 15
# Cells along a side that a texture of a telephone may have.
_MOST_CELLS = 512


@no_type_check
@dataclasses.dataclass(frozen=True)
class PackedTable:
    """A table of lattice points in few bits.

    Attributes:
      kept: which positions have a brick.
      codes: by channel (the logit of density, then features), brick in the order of `kept`, and point.
      values: what the codes of each channel stand for.
    """

    kept: Bool[np.ndarray, "X Y Z"]
    codes: UInt8[np.ndarray, "C N 64"]
    values: Float16[np.ndarray, "C 256"]

    def table(self) -> Float[np.ndarray, "V C"]:
        """The numbers that the page interpolates, laid out as in `VoxelParams.table`."""
        channels = [values[codes] for values, codes in zip(self.values, self.codes, strict=True)]
        rows = np.stack(channels, axis=-1).astype(np.float32).reshape(-1, len(channels))
        nothing = np.zeros((BRICK**3, len(channels)), np.float32)
        nothing[:, 0] = NOTHING
        return np.concatenate([nothing, rows])

    def bricks(self) -> Int[np.ndarray, "X Y Z"]:
        """The numbers of the bricks in `table`, as in `VoxelField.bricks`."""
        numbers = np.zeros(self.kept.shape, np.int32)
        numbers[self.kept] = 1 + np.arange(int(self.kept.sum()), dtype=np.int32)
        return numbers


def pack_table(bricks: Int[np.ndarray, "X Y Z"], table: Float[np.ndarray, "V C"]) -> PackedTable:
    """Leave out bricks without density, and tell numbers apart by few levels.

    Args:
      bricks, table: of a `VoxelField` and its parameters.
    """
    count = int(bricks.max())
    points = np.asarray(table[: BRICK**3 * (count + 1)]).reshape(count + 1, BRICK**3, -1)
    logits = np.maximum(points[..., 0], NOTHING)
    shows = np.greater_equal(_highest_around(bricks, logits), _SHOWS)
    of_brick: Any = shows.any(axis=-1)
    kept = np.greater(bricks, 0)
    kept[kept] = of_brick[bricks[kept] - 1]
    chosen = bricks[kept]
    shows, points, logits = shows[chosen - 1], points[chosen], logits[chosen]
    density, levels = _coded(logits - _CENTRE, DENSITY_LEVELS)
    codes, values = [density], [levels + _CENTRE]
    for channel in range(1, points.shape[-1]):
        # Points that no voxel with density touches all say the same, which compresses.
        feature = np.where(shows, points[..., channel], 0.0)
        coded, levels = _coded(feature, FEATURE_LEVELS)
        codes.append(coded)
        values.append(levels)
    return PackedTable(kept, np.stack(codes), np.stack(values).astype(np.float16))


def _coded(numbers: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers by levels that are even in asinh(x / knee): their codes, and 256 values of codes."""
    low, high = (float(end) for end in (numbers.min(initial=0.0), numbers.max(initial=0.0)))
    begin, end = np.arcsinh(low / _KNEE), np.arcsinh(high / _KNEE)
    step = max(end - begin, 1e-6) / (levels - 1)
    codes = np.rint((np.arcsinh(numbers / _KNEE) - begin) / step).astype(np.uint8)
    values = _KNEE * np.sinh(begin + step * np.minimum(np.arange(256), levels - 1))
    return codes, values


def _highest_around(
    bricks: Int[np.ndarray, "X Y Z"], logits: Float[np.ndarray, "B 64"]
) -> Float[np.ndarray, "N 64"]:
    """The greatest logit of each point and its 26 neighbours, of all bricks but the first, nothing."""
    places, padded = np.argwhere(bricks > 0), np.pad(bricks, 1)
    cubes = logits.reshape(-1, BRICK, BRICK, BRICK)
    around = np.empty((len(places), *(BRICK + 2,) * 3), logits.dtype)
    # The last layer of the brick before, all of the brick itself, the first of the one after.
    into = (slice(0, 1), slice(1, BRICK + 1), slice(BRICK + 1, BRICK + 2))
    out_of = (slice(BRICK - 1, BRICK), slice(0, BRICK), slice(0, 1))
    for offset in np.ndindex(3, 3, 3):
        x, y, z = (places + offset).T
        to, of = (tuple(ends[k] for k in offset) for ends in (into, out_of))
        around[(slice(None), *to)] = cubes[padded[x, y, z]][(slice(None), *of)]
    for axis in (1, 2, 3):
        parts: list[Any] = [
            np.take(around, np.arange(first, first + BRICK), axis=axis) for first in range(3)
        ]
        around = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    return around.reshape(-1, BRICK**3)


def pack_cells(code: UInt8[np.ndarray, "M M M"]) -> tuple[UInt8[np.ndarray, "L L L"], int]:
    """An occupancy for the page: 0 where something is, else the distance to it in cells.

    Args:
      code: of an `Occupancy`.

    Returns:
      The cells, and how many of the occupancy's make up one of them along each side: more than 1 where
      those would be too many for a texture.
    """
    occupied, side, factor = np.greater_equal(code, OCCUPIED), len(code), 1
    while side > _MOST_CELLS:
        even, side = np.pad(occupied, [(0, side % 2)] * 3), -(-side // 2)
        occupied = even.reshape(side, 2, side, 2, side, 2).any(axis=(1, 3, 5))
        factor *= 2
    if not occupied.any():
        return np.full(occupied.shape, _FARTHEST, np.uint8), factor
    distance: Any = distance_transform_cdt(~occupied, metric="chessboard")
    return np.minimum(distance, _FARTHEST).astype(np.uint8), factor

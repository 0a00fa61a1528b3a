"""Which cells of a cube hold something of a volume, from the least and the greatest value around each."""

import numpy as np
from jaxtyping import Float

from jaxnerf.fields.transfer import TransferFunction

# Voxels along a side of the blocks whose least and greatest values are looked at.
_BLOCK = 4
# Cells whose places are computed at once.
_AT_ONCE = 1 << 20


def cells_of(
    values: np.ndarray,
    transfer: TransferFunction | None,
    to_world: Float[np.ndarray, "4 4"],
    origin: Float[np.ndarray, "3"],
    cell: float,
    count: int,
    *,
    nearest: bool = False,
) -> tuple[Float[np.ndarray, "M M M"], Float[np.ndarray, "M M M"]]:
    """Bounds of the density in each cell of a cube: not more than the least, nor less than the greatest.

    Args:
      values: [X, Y, Z], of the voxels.
      transfer: from values to density; None where the values are densities.
      to_world: the matrix of the voxels.
      origin, cell, count: the cube's first corner, the side of a cell, and cells along a side.
      nearest: whether values are not interpolated, so that fewer voxels matter to a place.
    """
    low, high = _block_ranges(values)
    if transfer is None:
        least, greatest = np.maximum(low, 0.0), np.maximum(high, 0.0)
    else:
        least, greatest = transfer.least(low, high), transfer.greatest(low, high)
    inverse = np.linalg.inv(to_world[:3, :3])
    # So far the box around a cell reaches on the lattice, and then the voxels that a place asks.
    reach = np.abs(inverse).sum(axis=1) * (0.5 * cell) + (0.5 if nearest else 1.0) + 1e-3
    window = np.floor(2.0 * reach / _BLOCK).astype(int) + 2
    # Outside of the array density is 0.
    padding = [(int(size), int(size)) for size in window]
    least = _sliding(np.pad(least, padding), window, np.minimum)
    greatest = _sliding(np.pad(greatest, padding), window, np.maximum)
    found = np.empty((2, count, count, count), np.float32)
    planes = max(_AT_ONCE // count**2, 1)
    axis = origin[:, None] + (np.arange(count) + 0.5) * cell
    for begin in range(0, count, planes):
        some = slice(begin, begin + planes)
        points = np.stack(np.meshgrid(axis[0, some], axis[1], axis[2], indexing="ij"), axis=-1)
        lattice = (points - to_world[:3, 3]) @ inverse.T
        first = np.floor((lattice - reach) / _BLOCK).astype(int) + window
        first = np.clip(first, 0, np.array(greatest.shape) - 1)
        index = tuple(np.moveaxis(first, -1, 0))
        found[0, some], found[1, some] = least[index], greatest[index]
    return found[0], found[1]


def _block_ranges(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each block of voxels, as floating-point numbers."""
    found = []
    for best in (np.minimum, np.maximum):
        reduced = values
        # The slowest axis first, along which whole planes are compared.
        for axis in range(3):
            starts = np.arange(0, values.shape[axis], _BLOCK)
            reduced = _of_blocks(reduced, axis, starts, best)
        found.append(reduced.astype(np.float32))
    return found[0], found[1]


def _of_blocks(values: np.ndarray, axis: int, starts: np.ndarray, best) -> np.ndarray:
    """The best of each run of `_BLOCK` along an axis; the last run may be shorter."""
    ends = values.shape[axis]
    found = np.take(values, starts, axis=axis)
    for offset in range(1, _BLOCK):
        # Past the end, the last again: it is in the last run anyhow.
        other = np.take(values, np.minimum(starts + offset, ends - 1), axis=axis)
        best(found, other, out=found)
    return found


def _sliding(values: np.ndarray, window: np.ndarray, best) -> np.ndarray:
    """The best of each window that begins at a place and does not reach beyond the end."""
    for axis, size in enumerate(window):
        length = values.shape[axis] - int(size) + 1
        parts = [np.take(values, range(i, i + length), axis=axis) for i in range(int(size))]
        values = parts[0]
        for part in parts[1:]:
            values = best(values, part)
    return values

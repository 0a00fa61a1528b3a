"""The occupied cells of a volume, from the least and the greatest value around each cell."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnerf.fields.transfer import TransferFunction

# Positions are computed in float32 when the field is evaluated: by so much they may be off, in voxels,
# and relative to where the volume lies in the world.
_ROUNDING, _EPSILON = 1e-3, 4.0 * 2.0**-23
# Axes that leave the lattice's by less than this, in voxels from the middle of the cube to a face,
# count as parallel.
_PARALLEL = 0.05
# Cells whose places are computed at once.
_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Voxels:
    """The voxels along one axis of the lattice that matter to cells.

    Attributes:
      first, last: their indices; of a cell outside of the array those of a voxel at its face.
      within, touched: whether all of a cell, and whether some of it, lies in the array.
    """

    first: Int[np.ndarray, "*cells"]
    last: Int[np.ndarray, "*cells"]
    within: Bool[np.ndarray, "*cells"]
    touched: Bool[np.ndarray, "*cells"]


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

    The bounds are those of the voxels from which a cell's values are interpolated, exactly where the
    axes of the lattice are parallel to the world's, in any order. Otherwise they are those of the box
    around the cell on the lattice, and of some voxels more.

    Args:
      values: [X, Y, Z], of the voxels.
      transfer: the transfer function from values to density; None if the values are densities.
      to_world: the matrix of the voxels.
      origin, cell, count: the cube's first corner, the side of a cell, and cells along a side.
      nearest: whether values are not interpolated, so that fewer voxels matter to a place.
    """
    inverse = np.linalg.inv(to_world[:3, :3])
    # Half of the box around a cell on the lattice.
    reach = np.abs(inverse).sum(axis=1) * (0.5 * cell) + _ROUNDING
    reach += np.abs(inverse) @ np.maximum(np.abs(origin), np.abs(origin + count * cell)) * _EPSILON
    from_middle = (np.arange(count) + 0.5 - 0.5 * count) * cell
    middle = inverse @ (origin + 0.5 * count * cell - to_world[:3, 3])
    along = np.abs(inverse).argmax(axis=1)
    steps = inverse[np.arange(3), along]
    drift = (np.abs(inverse).sum(axis=1) - np.abs(steps)) * (0.5 * count * cell)

    def voxels_of(axis: int, centre: np.ndarray, more: float = 0.0) -> _Voxels:
        return _voxels_around(centre, reach[axis] + more, values.shape[axis], nearest)

    if len(set(along)) == 3 and drift.max() < _PARALLEL:
        axes = [
            voxels_of(axis, middle[axis] + steps[axis] * from_middle, drift[axis])
            for axis in range(3)
        ]
        least, greatest = _ranges(values, [(each.first, each.last) for each in axes])
        within = np.meshgrid(*(each.within for each in axes), indexing="ij", sparse=True)
        touched = np.meshgrid(*(each.touched for each in axes), indexing="ij", sparse=True)
        found = _densities(transfer, least, greatest, within, touched)
        order = np.argsort(along)
        return found[0].transpose(order), found[1].transpose(order)

    # A range for each cell by a lookup among the ranges of windows that begin at every block.
    block = max(int(cell * np.abs(inverse).sum(axis=1).min() / 2.0), 1)
    window = np.floor(2.0 * reach).astype(int) + 2 + block
    spans = [
        (first := np.arange(0, side, block), np.minimum(first + size, side) - 1)
        for side, size in zip(values.shape, window, strict=True)
    ]
    least, greatest = _ranges(values, spans)
    found = np.empty((2, count, count, count), np.float32)
    planes = max(_AT_ONCE // count**2, 1)
    for begin in range(0, count, planes):
        some = slice(begin, begin + planes)
        places = np.meshgrid(from_middle[some], from_middle, from_middle, indexing="ij")
        axes = [
            voxels_of(a, middle[a] + sum(inverse[a, i] * places[i] for i in range(3)))
            for a in range(3)
        ]
        index = tuple(each.first // block for each in axes)
        within, touched = [each.within for each in axes], [each.touched for each in axes]
        found[:, some] = _densities(transfer, least[index], greatest[index], within, touched)
    return found[0], found[1]


def _voxels_around(centre: np.ndarray, reach: float, side: int, nearest: bool) -> _Voxels:
    """The voxels that matter to cells along an axis.

    Args:
      centre: the cells' centres, on the lattice.
      reach: half of a cell there.
      side: voxels along the axis.
      nearest: whether values are not interpolated.
    """
    low, high = centre - reach, centre + reach
    shift, more = (0.5, 0) if nearest else (0.0, 1)
    return _Voxels(
        first=np.clip(np.floor(low + shift), 0, side - 1).astype(int),
        last=np.clip(np.floor(high + shift) + more, 0, side - 1).astype(int),
        within=np.asarray((low >= -0.5) & (high <= side - 0.5)),
        touched=np.asarray((high >= -0.5) & (low <= side - 0.5)),
    )


def _densities(
    transfer: TransferFunction | None,
    low: np.ndarray,
    high: np.ndarray,
    within: Any,
    touched: Any,
) -> Float[np.ndarray, "2 X Y Z"]:
    """The least and the greatest density of cells, from the range of their values."""
    low, high = low.astype(np.float32), high.astype(np.float32)
    if transfer is None:
        least, greatest = np.maximum(low, 0.0), np.maximum(high, 0.0)
    else:
        least, greatest = transfer.least(low, high), transfer.greatest(low, high)
    # Outside of the array density is 0.
    for axis in range(3):
        least = np.where(within[axis], least, 0.0)
        greatest = np.where(touched[axis], greatest, 0.0)
    return np.stack([least, greatest]).astype(np.float32)


def _ranges(
    values: np.ndarray, spans: list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of boxes of voxels.

    Args:
      values: [X, Y, Z].
      spans: for each axis the first and the last index of each box.

    Returns:
      Two arrays of as many boxes along each axis, in the values' dtype.
    """

    # Boxes outside of a thin volume are all the same one, and are not to fill memory.
    different = [np.unique(np.stack(span), axis=1, return_inverse=True) for span in spans]
    everywhere = np.ix_(*(inverse.reshape(-1) for _, inverse in different))

    def reduced(best: Callable[..., Any]) -> np.ndarray:
        found = values
        # The slowest axis first, along which whole planes are compared.
        for axis, (pairs, _) in enumerate(different):
            before = (slice(None),) * axis
            boxes = [
                best(found[(*before, slice(low, high + 1))], axis=axis) for low, high in pairs.T
            ]
            found = np.stack(boxes, axis=axis)
        return found[everywhere]

    return reduced(np.min), reduced(np.max)

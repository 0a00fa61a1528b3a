"""The lattice of sparse voxels: bricks of 4 x 4 x 4 lattice vertices, numbered where the scene may be."""

import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxnerf.kernels.interpolation import at_corners

BRICK = 4
_BITS = 2
# Rows of the table per brick. The first brick stands for empty space.
ROWS = BRICK**3
# Tables are padded to a multiple of this many rows, and long ones to a multiple of an eighth to a
# sixteenth of their rows, so that programs can often be used that were compiled for another table.
ROWS_AT_ONCE = 1 << 14


def num_vertices(cells: Bool[np.ndarray, "M M M"], voxels_a_cell: float) -> int:
    """The number of lattice vertices that a field on these cells stores.

    Args:
      cells: a mask of the cells of a cube that may be occupied.
      voxels_a_cell: the side of a cell in voxels.
    """
    return ROWS * brick_index(cells, voxels_a_cell)[1]


def brick_index(
    cells: Bool[np.ndarray, "M M M"], voxels_a_cell: float
) -> tuple[Int[np.ndarray, "X Y Z"], int]:
    """Number the bricks that the corners of cells need.

    Args:
      cells: a mask of the occupied cells.
      voxels_a_cell: the side of a cell in voxels.

    Returns:
      For every position of a brick its number, from 1, or 0; and how many there are.
    """
    parts = max(math.ceil(voxels_a_cell / BRICK), 1)  # or bricks inside of a cell are missed
    cells = cells.repeat(parts, 0).repeat(parts, 1).repeat(parts, 2)
    voxels_a_cell /= parts
    # One more lattice vertex than voxels, and one that a position on the last wall asks for.
    side = (int(np.ceil(cells.shape[0] * voxels_a_cell)) + 2 + BRICK - 1) // BRICK + 1
    index = np.arange(cells.shape[0])
    first = np.floor(index * voxels_a_cell).astype(int) // BRICK
    last = (np.floor((index + 1) * voxels_a_cell - 1e-6).astype(int) + 1) // BRICK
    needed = cells
    for _ in range(3):  # an axis after the other, each of which comes to the end
        along = np.zeros((side, *needed.shape[1:]), bool)
        for cell, both in enumerate(zip(first, last, strict=True)):
            for brick in both:
                along[brick] |= needed[cell]
        needed = np.moveaxis(along, 0, -1)
    numbers = np.zeros(needed.shape, np.int32)
    count = int(needed.sum())
    numbers[needed] = 1 + np.arange(count, dtype=np.int32)
    return numbers, count


def parts_of_lattice(
    bricks: Int[np.ndarray, "X Y Z"],
) -> Iterator[tuple[int, Float[np.ndarray, "N 3"]]]:
    """The lattice coordinates of the table's rows, in parts of some bricks each.

    Yields:
      The index of the first row of a part, and the coordinates of its rows. The rows of brick 0, which
      stands for empty space, are left out.
    """
    digits = np.arange(BRICK, dtype=np.float32)
    inside = np.stack(np.meshgrid(digits, digits, digits, indexing="ij"), -1).reshape(-1, 3)
    places = np.argwhere(bricks > 0).astype(np.float32) * BRICK
    at_once = ROWS_AT_ONCE // ROWS
    for start in range(0, len(places), at_once):
        vertices = places[start : start + at_once, None] + inside[None]
        yield (1 + start) * ROWS, vertices.reshape(-1, 3)


def padded_rows(bricks: int) -> int:
    """How many rows the table of so many bricks has."""
    rows = ROWS * (1 + bricks)
    if rows <= ROWS_AT_ONCE:
        return rows
    unit = max(ROWS_AT_ONCE, 1 << (rows.bit_length() - 4))
    return -(-rows // unit) * unit


def corner_rows(bricks: Array, lattice: Array) -> Array:
    """The table rows [8, N] of the lattice vertices around positions; rows of brick 0 outside."""

    def row(*vertex: Array) -> Array:
        number, local, inside = jnp.int32(0), jnp.int32(0), True
        for corner, size in zip(vertex, bricks.shape, strict=True):
            inside &= (corner >= 0) & (corner < size * BRICK)
            corner = jnp.clip(corner, 0, size * BRICK - 1)
            number = number * size + (corner >> _BITS)
            local = (local << _BITS) + (corner & (BRICK - 1))
        return jnp.where(inside, bricks.reshape(-1)[number], 0) * ROWS + local

    return at_corners(row, jnp.floor(lattice).astype(jnp.int32))

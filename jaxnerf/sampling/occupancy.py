"""The occupancy grid, by which samplers skip empty space and end rays behind opaque surfaces.

The grid is a cube of cells with a code of one byte each. A code below 128 means that the cell is empty,
and is the Chebyshev distance in cells to the nearest occupied cell, at most 16: a ray may jump that far.
A code from 128 on means that the cell is occupied, and encodes the logarithm of its expected density,
from which the transmittance is estimated to end rays early. Each jump or sample needs one lookup
(`jaxnerf.sampling.traversal`).
"""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jaxnerf.contraction import BoxSpace, NdcSpace, SphereContraction
from jaxnerf.fields.warped import WarpedField

OCCUPIED = 128
_FARTHEST = 16  # cells that a ray can jump at once; more costs more when the grid is made
# Densities from 2^-10 a cell are told apart, in steps of 2^(1/8).
OCTAVES, SMALLEST = 8.0, -10.0
# Which cells of a cube are meant.
CellMask = Bool[Array, "M M M"] | Bool[np.ndarray, "M M M"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Occupancy:
    """The occupied cells of a cube, with the densities that are expected in them. A pytree.

    Attributes:
      cells: the module's code, by x, y, z.
      origin: the corner of the cube with the smallest coordinates.
      cell: the side of a cell.
      step: the distance between samples along a ray, for one sample per voxel.
      space: in an unbounded or forward-facing scene, the space in which origin, cell and step are
        measured; None for a cube in the world.
    """

    cells: UInt8[Array, "M M M"]
    origin: Float[Array, "3"]
    cell: Float[Array, ""]
    step: Float[Array, ""]
    space: SphereContraction | NdcSpace | None = None

    @classmethod
    def of(
        cls,
        cells: CellMask,
        origin: Float[Array | np.ndarray, "3"],
        cell: float,
        step: float,
        space: SphereContraction | NdcSpace | None = None,
    ) -> "Occupancy":
        """An occupancy without densities: empty cells are skipped, but no ray is ended early.

        Args:
          cells: a mask of the occupied cells, by x, y, z.
          origin, cell, step, space: see the attributes.
        """
        code = encode(jnp.asarray(cells), 0.0)
        origin = jnp.asarray(origin, jnp.float32)
        return cls(code, origin, jnp.float32(cell), jnp.float32(step), space)

    @classmethod
    def with_density(
        cls,
        cells: CellMask,
        density: Float[Array | np.ndarray, "M M M"],
        origin: Float[Array | np.ndarray, "3"],
        cell: float,
        step: float,
        space: SphereContraction | NdcSpace | None = None,
    ) -> "Occupancy":
        """An occupancy with densities, by which rays are ended early where no light is left.

        Args:
          cells: a mask of the occupied cells, by x, y, z.
          density: the density in 1/length that each cell has at least.
          origin, cell, step, space: see the attributes.
        """
        known = cls.of(cells, origin, cell, step, space)
        # Codes are rounded, and a ray must not be ended too early.
        a_side = jnp.asarray(density, jnp.float32) * (jnp.float32(cell) * 2.0 ** (-0.5 / OCTAVES))
        code = jnp.where(jnp.asarray(cells), code_of(a_side), known.cells)
        return dataclasses.replace(known, cells=code)

    @classmethod
    def of_field(
        cls,
        field: Any,
        params: Any,
        origin: Float[Array | np.ndarray, "3"],
        side: float,
        *,
        cells: int = 64,
        step: float | None = None,
        empty_below: float = 0.01,
        places: int = 3,
    ) -> "Occupancy":
        """An occupancy of the cells in which a field has density, found by evaluating it.

        Cells beside those count too, so that what lies between the places of evaluation is not cut off;
        a thing far thinner than a cell may still be missed. Works under jit. A `WarpedField` is evaluated
        in its own space, of which the cube then is, and along whose rays steps are measured.

        Args:
          field, params: see `jaxnerf.Field`.
          origin, side: the cube's corner with the smallest coordinates, and its side.
          cells: number of cells along each side.
          step: see the attributes; by default half of a cell.
          empty_below: opacity of a step below which a place counts as empty.
          places: number of positions along each side of a cell at which density is evaluated.

        >>> class Ball:
        ...     def density(self, params, positions):
        ...         return jnp.where(jnp.sum(positions**2, axis=-1) < params, 9.0, 0.0), positions
        >>> around = Occupancy.of_field(Ball(), jnp.float32(0.25), jnp.full(3, -1.0), 2.0, cells=8)
        >>> occupied(around)[:, 4, 4].tolist()
        [False, True, True, True, True, True, True, False]
        """
        space, inner = None, field
        if isinstance(field, WarpedField) and not isinstance(field.space, BoxSpace):
            space, inner = field.space, field.field
        cell = side / cells
        step = 0.5 * cell if step is None else step
        inside = (np.arange(places, dtype=np.float32) + 0.5) / places
        within = np.stack(np.meshgrid(inside, inside, inside, indexing="ij"), -1).reshape(-1, 3)
        square = np.stack(np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij"), -1)

        first = jnp.asarray(origin, jnp.float32).reshape(1, 1, 1, 3)

        def of_slab(x: Array) -> tuple[Array, Array]:
            corner = jnp.concatenate(
                [jnp.full((cells, cells, 1), x, jnp.float32), jnp.asarray(square, jnp.float32)], -1
            )
            at = (corner[:, :, None] + within[None, None]) * cell + first
            density = inner.density(params, at)[0]
            return jnp.max(density, axis=-1), jnp.min(density, axis=-1)

        most, least = jax.lax.map(of_slab, jnp.arange(cells, dtype=jnp.float32))
        some = most * step > -np.log1p(-empty_below)
        return cls.with_density(dilate(some), least, origin, cell, step, space)

    def place(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Where points of the world lie in the space of the cube."""
        return points if self.space is None else self.space.place(points)


@jax.jit
def encode(
    occupied: Bool[Array, "M M M"],
    density: Float[Array, "M M M"] | Float[Array, ""] | float = 0.0,
) -> UInt8[Array, "M M M"]:
    """The cells' code.

    Args:
      occupied: a mask of the occupied cells.
      density: the density that is expected in each of them, or in all, per side of a cell.
    """

    def spread(step, carry):
        reached, distance = carry
        grown = dilate(reached)
        return grown, jnp.where(grown & ~reached, step.astype(jnp.uint8), distance)

    unreached = jnp.full(occupied.shape, _FARTHEST, jnp.uint8)
    _, distance = jax.lax.fori_loop(1, _FARTHEST, spread, (occupied, unreached))
    return jnp.where(occupied, code_of(density), distance)


@jax.jit
def code_of(density: Float[Array, "*cells"] | float) -> UInt8[Array, "*cells"]:
    """The code of occupied cells in which a density, per side of a cell, is expected."""
    level = OCTAVES * (jnp.log2(jnp.maximum(density, 1e-9)) - SMALLEST)
    return jnp.clip(jnp.round(level), 0.0, 127.0).astype(jnp.uint8) + jnp.uint8(OCCUPIED)


def marked(cells: Bool[np.ndarray, "M M M"]) -> UInt8[np.ndarray, "M M M"]:
    """Codes without distances: quick to compute, but rays cross empty space cell by cell."""
    return np.where(cells, np.uint8(OCCUPIED), np.uint8(1))


def occupied(occupancy: Occupancy) -> CellMask:
    """A mask of the occupied cells; a NumPy array if the code is one."""
    return occupancy.cells >= OCCUPIED


def dilate(cells: CellMask) -> CellMask:
    """The cells and all their neighbours, also across edges and corners; of NumPy if the cells are."""
    pad: Any = np.pad if isinstance(cells, np.ndarray) else jnp.pad
    for axis in range(3):
        padded = pad(cells, [(1, 1) if i == axis else (0, 0) for i in range(3)])
        before = (slice(None),) * axis
        cells = cells | padded[(*before, slice(None, -2))] | padded[(*before, slice(2, None))]
    return cells

"""Cells of a cube in the world or in another space, on the host: where they lie in the world."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.sampling.occupancy import Occupancy, occupied


@dataclasses.dataclass(frozen=True)
class Cells:
    """Some cells of a cube, as an `Occupancy` has them.

    Attributes:
      mask: a mask of these cells, by x, y, z.
      origin, cell: the corner of the cube, and the side of a cell, in the space.
      space: the cube's space; None for the world.
      farthest: for an `NdcSpace`, the z in its cube up to which points are meant.
    """

    mask: Bool[np.ndarray, "X Y Z"]
    origin: Float[np.ndarray, "3"]
    cell: float
    space: Any = None
    farthest: float = 1.0

    @classmethod
    def of(cls, occupancy: Occupancy) -> "Cells":
        """The occupied cells of an occupancy."""
        return cls(
            np.asarray(occupied(occupancy)),
            np.asarray(occupancy.origin, np.float64),
            float(occupancy.cell),
            occupancy.space,
        )

    def world(self, places: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """The points of the world at places in cells, counted from the first corner in cells."""
        places = np.asarray(self.origin, np.float64) + places * self.cell
        if self.space is None:
            return places
        if isinstance(
            self.space, NdcSpace
        ):  # cells reach beyond the cube, where space has no points
            places = np.clip(places, [-np.inf, -np.inf, -1.0], [np.inf, np.inf, self.farthest])
        return np.asarray(self.space.world(jnp.asarray(places, jnp.float32)), np.float64)

    def corners(self) -> Float[np.ndarray, "N 3"]:
        """Points of the world whose hull has the cells in it: corners of the outermost."""
        offsets = np.array(list(np.ndindex(2, 2, 2)), np.float64)
        return self.world((_outermost(self.mask)[:, None] + offsets).reshape(-1, 3))

    def balls(self) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, " N"]]:
        """Middles and radii of balls of the world that have each cell in them."""
        offsets = np.concatenate([np.array(list(np.ndindex(2, 2, 2))), [[0.5] * 3]])
        points = self.world(np.argwhere(self.mask)[:, None] + offsets)
        middles = points[:, -1]
        # With room for walls that a contraction bends.
        radii = 1.01 * np.linalg.norm(points[:, :-1] - middles[:, None], axis=-1).max(axis=-1)
        return middles, radii

    def side(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        """The side of a cell in the world's unit, at points of the world."""
        if self.space is None:
            return np.full(len(points), self.cell)
        return self.cell / np.asarray(self.space.rate(jnp.asarray(points, jnp.float32)))

    def in_the_middle(self) -> "Cells":
        """The cells in the part of the space that pictures look at; all cells of a bounded scene.

        In contracted space they are those in the uncontracted ball, in NDC space those in the view
        frustum up to `farthest`.
        """
        if self.space is None:
            return self
        axes = np.ogrid[tuple(slice(0, side) for side in self.mask.shape)]
        x, y, z = ((a + 0.5) * self.cell + o for a, o in zip(axes, self.origin, strict=True))
        if isinstance(self.space, SphereContraction):
            kept = x * x + y * y + z * z <= 1.0
        else:  # beside it lies what only the outermost cameras see
            kept = (z <= self.farthest) & (np.abs(x) <= 1.0) & (np.abs(y) <= 1.0)
        return dataclasses.replace(self, mask=self.mask & kept)


def _outermost(cells: Bool[np.ndarray, "X Y Z"]) -> Int[np.ndarray, "N 3"]:
    """The first and the last cell of each column that has any: the hull of all is that of these."""
    columns = np.argwhere(cells.any(axis=2))
    shown = cells[tuple(columns.T)]
    ends = shown.argmax(axis=-1), shown.shape[-1] - 1 - shown[:, ::-1].argmax(axis=-1)
    return np.concatenate([np.concatenate([columns, end[:, None]], axis=1) for end in ends])

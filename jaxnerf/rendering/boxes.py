"""Boxes along the axes, and regular grids in them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

_MOST = 4096  # voxels along a side: numbers of lattice points stay in 64 bits with room


@dataclasses.dataclass(frozen=True)
class Box:
    """A box along the axes of a frame; of a run, of the user's.

    Attributes:
      low, high: its corners with the smallest and the largest coordinates.
    """

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]

    @classmethod
    def named(cls, box: Any) -> "Box":
        """A box from one, from two corners, or from x0, y0, z0, x1, y1, z1.

        Raises:
          ValueError: it is none, or inside out.
        """
        if isinstance(box, Box):
            box = np.stack([box.low, box.high])
        corners = np.asarray(box, np.float64).reshape(-1)
        if corners.shape != (6,) or not (corners[:3] < corners[3:]).all():
            raise ValueError(
                f"box: {','.join(f'{x:g}' for x in corners)} is not x0,y0,z0,x1,y1,z1 with x0 < x1"
            )
        return cls(corners[:3], corners[3:])

    @property
    def size(self) -> Float[np.ndarray, "3"]:
        """The lengths of its sides."""
        return self.high - self.low

    def within(self, other: "Box") -> "Box":
        """What two boxes share; empty where they share nothing."""
        low = np.maximum(self.low, other.low)
        return Box(low, np.maximum(np.minimum(self.high, other.high), low))

    def grown(self, by: float) -> "Box":
        """The box with walls farther outside by a length."""
        return Box(self.low - by, self.high + by)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Voxels of a box, or the lattice of their corners.

    Attributes:
      origin: the corner of the first voxel, in the box's frame.
      voxel: the side of a voxel in that frame's unit.
      shape: how many voxels along each axis.
    """

    origin: Float[np.ndarray, "3"]
    voxel: float
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, box: Box, resolution: int) -> "Grid":
        """The cubes that fill a box, `resolution` of them along its longest side."""
        voxel = float(box.size.max()) / resolution
        x, y, z = (max(1, int(np.ceil(side / voxel - 1e-6))) for side in box.size)
        return cls(np.asarray(box.low, np.float64), voxel, (x, y, z))

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """From the index of a voxel to its middle."""
        matrix = np.diag([self.voxel] * 3 + [1.0])
        matrix[:3, 3] = self.origin + 0.5 * self.voxel
        return matrix


def check_resolution(resolution: int) -> None:
    """Refuse a number of voxels that is not from 2 to 4,096.

    Raises:
      ValueError: the message begins with the setting's name.
    """
    if not 2 <= resolution <= _MOST:
        raise ValueError(f"resolution: {resolution} is not from 2 to {_MOST}")

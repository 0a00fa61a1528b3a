"""Boxes along the axes, and regular grids in them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

_MOST = 4096  # voxels along a side, so that indices of lattice vertices fit into 64 bits


@dataclasses.dataclass(frozen=True)
class Box:
    """A box along the axes of a frame; boxes of a run are in the user's frame.

    Attributes:
      low, high: the corners with the smallest and the largest coordinates.
    """

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]

    @classmethod
    def named(cls, box: Any) -> "Box":
        """A box from a `Box`, from two corners [2, 3], or from x0, y0, z0, x1, y1, z1.

        Raises:
          ValueError: there are not six numbers, or a side is not longer than 0.
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
        """The lengths of the sides."""
        return self.high - self.low

    def within(self, other: "Box") -> "Box":
        """The intersection of two boxes; sides along which they do not overlap have the length 0."""
        low = np.maximum(self.low, other.low)
        return Box(low, np.maximum(np.minimum(self.high, other.high), low))

    def grown(self, by: float) -> "Box":
        """The box with every wall moved outwards by a length."""
        return Box(self.low - by, self.high + by)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A regular grid of cubic voxels.

    Attributes:
      origin: the lowest corner of the first voxel, in the box's frame.
      voxel: the side of a voxel, in the unit of this frame.
      shape: the number of voxels along each axis.
    """

    origin: Float[np.ndarray, "3"]
    voxel: float
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, box: Box, resolution: int) -> "Grid":
        """The grid that covers a box, with `resolution` voxels along its longest side."""
        voxel = float(box.size.max()) / resolution
        x, y, z = (max(1, int(np.ceil(side / voxel - 1e-6))) for side in box.size)
        return cls(np.asarray(box.low, np.float64), voxel, (x, y, z))

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """The matrix that maps the index of a voxel to its centre."""
        matrix = np.diag([self.voxel] * 3 + [1.0])
        matrix[:3, 3] = self.origin + 0.5 * self.voxel
        return matrix


def check_resolution(resolution: int) -> None:
    """Check that a number of voxels along a side is from 2 to 4,096.

    Raises:
      ValueError: it is not; the message begins with the setting's name.
    """
    if not 2 <= resolution <= _MOST:
        raise ValueError(f"resolution: {resolution} is not from 2 to {_MOST}")

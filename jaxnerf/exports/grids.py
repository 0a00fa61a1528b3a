"""Regular grids in the user's frame, and the box around what a run's scene holds."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run
from jaxnerf.sampling.occupancy import occupied
from jaxnerf.scenes.silhouettes import scene_cube
from jaxnerf.spaces import space_of

# Cells along a space without an end, where a run keeps no occupancy of it.
_CELLS = 32
_MOST = 4096  # voxels along a side: numbers of lattice points stay in 64 bits with room


@dataclasses.dataclass(frozen=True)
class Box:
    """A box along the axes of the user's frame.

    Attributes:
      low, high: its corners with the smallest and the largest coordinates.
    """

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]

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
      origin: the corner of the first voxel, in the user's frame.
      voxel: the side of a voxel in the user's unit.
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
        """From the index of a voxel to its middle, in the user's frame."""
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


def box_of(run: Run, named: tuple[float, ...] = ()) -> Box:
    """The box that is exported: the one that is named, or that of the scene.

    The scene's is that of its occupied cells; of all of space those in the ball that keeps its shape, of
    a forward-facing scene those up to the scene's far. Where a run keeps no occupancy it is the cube
    that the cameras look at, or what its space holds there.

    Args:
      run: whose scene it is.
      named: x0, y0, z0, x1, y1, z1 in the user's frame, or nothing.

    Raises:
      RunError: no cell is occupied.
      ValueError: the named box is none.
    """
    if named:
        corners = np.asarray(named, np.float64)
        if corners.shape != (6,) or not (corners[:3] < corners[3:]).all():
            raise ValueError(
                f"box: {','.join(map(str, named))} is not x0,y0,z0,x1,y1,z1 with x0 < x1"
            )
        return Box(corners[:3], corners[3:])
    corners = _corners(run)
    if not len(corners):
        raise RunError(f"{run.folder}: the scene has no surface: no cell is occupied")
    corners = run.scene.to_user.points(corners)
    return Box(corners.min(axis=0), corners.max(axis=0))


def _corners(run: Run) -> Float[np.ndarray, "N 3"]:
    """Points of the scene's frame whose hull has the box's content: corners of cells."""
    space = space_of(run.config, run.scene)
    if run.occupancy is not None:
        space = run.occupancy.space
        mask = np.asarray(occupied(run.occupancy))
        origin, cell = np.asarray(run.occupancy.origin, np.float64), float(run.occupancy.cell)
    elif space is None:
        origin, cell = scene_cube(run.scene.splits["train"])
        mask = np.ones((1, 1, 1), bool)
    else:
        origin, side, mask = space.cells(_CELLS)
        cell = side / _CELLS
    if space is not None:
        axes = np.ogrid[tuple(slice(0, side) for side in mask.shape)]
        mask = mask & _kept(
            run, space, *(x * cell + o + 0.5 * cell for x, o in zip(axes, origin, strict=True))
        )
    cells = _outermost(mask)
    offsets = np.array(list(np.ndindex(2, 2, 2)))
    places = (origin + (cells[:, None] + offsets) * cell).reshape(-1, 3)
    if space is None:
        return places
    if isinstance(space, NdcSpace):  # cells reach beyond the cube, where space has no points
        places = np.clip(places, [-np.inf, -np.inf, -1.0], [np.inf, np.inf, _farthest(run, space)])
    return np.asarray(space.world(jnp.asarray(places, jnp.float32)), np.float64)


def _outermost(cells: Bool[np.ndarray, "X Y Z"]) -> Int[np.ndarray, "N 3"]:
    """The first and the last cell of each column that has any: the hull of all is that of these."""
    columns = np.argwhere(cells.any(axis=2))
    shown = cells[tuple(columns.T)]
    ends = shown.argmax(axis=-1), shown.shape[-1] - 1 - shown[:, ::-1].argmax(axis=-1)
    return np.concatenate([np.concatenate([columns, end[:, None]], axis=1) for end in ends])


def _kept(
    run: Run, space: SphereContraction | NdcSpace, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> np.ndarray:
    """Which cells with these middles lie in the part of an endless space that is exported."""
    if isinstance(space, SphereContraction):
        return x * x + y * y + z * z <= 1.0
    # Beside the frustum's own picture lies what only the outermost cameras see.
    return (z <= _farthest(run, space)) & (np.abs(x) <= 1.0) & (np.abs(y) <= 1.0)


def _farthest(run: Run, space: NdcSpace) -> float:
    """Where a forward-facing scene's far lies in the frustum's cube."""
    return 1.0 - 2.0 * float(space.near) / max(run.scene.far, 2.0 * float(space.near))

"""Triangles of a level set, extracted block by block, so that a fine grid is never in memory as a whole.

Only blocks of the grid near the surface are sampled, and only their triangles are kept. On the face
between two blocks both have the same vertices, each on an edge of the lattice, by which they are merged.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnerf.exports.files import package
from jaxnerf.sampling.occupancy import dilate

BRICK = 4  # voxels along a side of a brick, which is sampled completely or not at all
_BLOCK = 16  # bricks along a side of a block, which is sampled at once
# Values closer to 0 than this are moved away from it, so that vertices are inside edges of the lattice.
_NUDGE = 1e-3

# Largest number of faces for the library of quadric decimation; and the first cell size, in voxels, of
# vertex clustering, which is applied before if there are more.
_MOST_FACES, _FIRST_CELL = 1_500_000, 1.5

# Lattice points [N, 3] -> values [N], positive outside, and a mask of the known ones.
Level = Callable[[Float[np.ndarray, "N 3"]], tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]]


def extract(
    level: Level,
    bricks: Bool[np.ndarray, "X Y Z"],
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """The surface where a function of position is 0, by marching cubes (Lewiner et al. 2003).

    Only cells all of whose corners are known have triangles: the surface ends where values are not known.

    Args:
      level: the function, of coordinates in voxels.
      bricks: a mask of the cubes of `BRICK` voxels that are sampled.
      shape: voxels along each axis.
      progress: called with (blocks done, blocks in all).

    Returns:
      Vertices in voxels, and triangles whose normals point to where the function is positive.

    Raises:
      RunError: scikit-image is not installed.
    """
    measure = package("skimage.measure", "scikit-image")
    keys, places, corners, count = [], [], [], 0
    blocks = list(_blocks(bricks))
    for number, (first, inside) in enumerate(blocks):
        found = _march(measure, level, BRICK * _BLOCK * np.asarray(first), inside, shape)
        if found is not None:
            vertices, faces = found
            keys.append(_edges(vertices, shape))
            places.append(vertices)
            corners.append((faces + count).astype(np.int32))
            count += len(vertices)
        if progress:
            progress(number + 1, len(blocks))
    if not count:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    return _joined(np.concatenate(keys), np.concatenate(places), np.concatenate(corners))


def _blocks(bricks: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The blocks with bricks to sample: the position of each, and the mask of its bricks."""
    padded = np.pad(bricks, [(0, -side % _BLOCK) for side in bricks.shape])
    x, y, z = (side // _BLOCK for side in padded.shape)
    split = padded.reshape(x, _BLOCK, y, _BLOCK, z, _BLOCK).transpose(0, 2, 4, 1, 3, 5)
    for position in np.argwhere(split.any(axis=(3, 4, 5))):
        yield tuple(position.tolist()), split[tuple(position)]


def _march(
    measure: Any, level: Level, first: np.ndarray, inside: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """A block's vertices in voxels of the grid, and its triangles; None if it has none."""
    cells = inside.repeat(BRICK, 0).repeat(BRICK, 1).repeat(BRICK, 2)
    for axis, side in enumerate(shape):  # the last bricks extend beyond the grid
        cells[(slice(None),) * axis + (slice(max(side - int(first[axis]), 0), None),)] = False
    wanted = np.pad(cells, [(0, 1)] * 3)
    for axis in range(3):  # add the corners on the upper sides of the cells
        wanted = wanted | np.roll(wanted, 1, axis)
    values, known = level((first + np.argwhere(wanted)).astype(np.float32))
    values = np.where(values < 0, np.minimum(values, -_NUDGE), np.maximum(values, _NUDGE))
    volume = np.ones(wanted.shape, np.float32)
    volume[wanted] = np.where(known, values, 1.0)
    whole = np.zeros(wanted.shape, bool)
    whole[wanted] = known
    for axis in range(3):
        whole = whole & np.roll(whole, 1, axis)
    # In the library's mask the index of a cell is that of its last corner.
    mask = np.pad(cells, [(1, 0)] * 3) & whole
    if not mask.any() or not volume.min() < 0.0 < volume.max():
        return None
    try:
        vertices, faces, _, _ = measure.marching_cubes(
            volume, 0.0, mask=mask, gradient_direction="descent"
        )
    except RuntimeError:  # no surface among the cells that are known
        return None
    return vertices + first.astype(np.float32), faces


def _edges(vertices: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The index of the lattice edge on which each vertex lies; negative for vertices inside a cell."""
    nearest = np.rint(vertices)
    off = np.abs(vertices - nearest)
    axis = off.argmax(axis=-1)
    start = nearest.astype(np.int64)
    rows = np.arange(len(vertices))
    start[rows, axis] = np.floor(vertices[rows, axis]).astype(np.int64)
    x, y, z = start.T
    key = ((x * (shape[1] + 1) + y) * (shape[2] + 1) + z) * 3 + axis
    return np.where((off > 1e-4).sum(axis=-1) > 1, -1, key)


def _joined(
    keys: np.ndarray, places: np.ndarray, corners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Merge vertices on the same edge, and remove triangles that become degenerate."""
    alone = keys < 0
    keys = np.where(alone, -1 - np.cumsum(alone), keys)
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    faces = number.astype(np.int32)[corners]
    a, b, c = faces.T
    return places[first], faces[(a != b) & (b != c) & (c != a)]


def bricks_around(
    points: Float[np.ndarray, "N 3"], reach: float, bricks: Bool[np.ndarray, "X Y Z"]
) -> None:
    """Mark the bricks within a distance, along the axes, of any of some points.

    Args:
      points: points in voxels.
      reach: the distance in voxels, at most a brick.
      bricks: marked in place.
    """
    for offset in np.array(list(np.ndindex(2, 2, 2))) * 2.0 - 1.0:
        index = np.floor((points + reach * offset.astype(np.float32)) / BRICK).astype(np.int32)
        inside = ((index >= 0) & (index < bricks.shape)).all(axis=-1)
        x, y, z = index[inside].T
        bricks[x, y, z] = True


def grown(bricks: Bool[np.ndarray, "X Y Z"], by: int) -> Bool[np.ndarray, "X Y Z"]:
    """Bricks dilated by a number of bricks."""
    for _ in range(by):
        bricks = np.asarray(dilate(bricks))
    return bricks


def without_floaters(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], fraction: float
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"], int]:
    """A mesh without connected parts that have fewer faces than a fraction of the largest part's.

    Args:
      vertices, faces: the mesh.
      fraction: the fraction.

    Returns:
      The remaining vertices and faces, and the number of parts that were removed.
    """
    from scipy import sparse

    if not len(faces):
        return vertices, faces, 0
    pairs = np.concatenate([faces[:, :2], faces[:, 1:]])
    ones = np.ones(len(pairs), bool)
    graph = sparse.coo_matrix((ones, tuple(pairs.T)), shape=(len(vertices),) * 2)
    _, part = sparse.csgraph.connected_components(graph, directed=False)
    counts = np.bincount(part[faces[:, 0]], minlength=part.max() + 1)
    large = counts >= max(1.0, fraction * counts.max())
    removed = int(np.count_nonzero((counts > 0) & ~large))
    return *used_only(vertices, faces[large[part[faces[:, 0]]]]), removed


def used_only(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """A mesh without the vertices that are in no face."""
    used = np.zeros(len(vertices), bool)
    used[faces.reshape(-1)] = True
    return vertices[used], (np.cumsum(used) - 1).astype(np.int32)[faces]


def clustered(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], cell: float
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """A mesh in which vertices in the same cell of a grid are merged at their mean.

    Rossignac and Borrel, "Multi-resolution 3D approximations for rendering complex scenes", 1993.
    """
    index = np.floor((vertices - vertices.min(axis=0)) / cell).astype(np.int64)
    x, y, z = index.T
    _, number = np.unique((x * (y.max() + 1) + y) * (z.max() + 1) + z, return_inverse=True)
    total = [np.bincount(number, vertices[:, axis]) for axis in range(3)]
    means = np.stack(total, axis=-1) / np.bincount(number)[:, None]
    faces = number.astype(np.int32)[faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return means.astype(np.float32), faces[np.sort(first)]


def decimated(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], count: int
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """A mesh decimated to about `count` faces by quadric error (Garland and Heckbert, SIGGRAPH 1997).

    Vertices of very fine meshes are merged in the cells of a grid before, since the library needs half a
    kilobyte per face.

    Args:
      vertices: vertices in voxels.
      faces: indices of vertices.
      count: number of faces.

    Raises:
      RunError: fast-simplification is not installed.
    """
    simplification = package("fast_simplification", "fast-simplification")
    if len(faces) <= count:
        return vertices, faces
    cell = _FIRST_CELL
    while len(faces) > max(_MOST_FACES, 2 * count):
        vertices, faces = clustered(vertices, faces, cell)
        cell *= _FIRST_CELL
    points, triangles = simplification.simplify(
        np.ascontiguousarray(vertices, np.float32),
        np.ascontiguousarray(faces, np.int32),
        target_count=count,
    )
    return used_only(np.asarray(points, np.float32), np.asarray(triangles, np.int32))

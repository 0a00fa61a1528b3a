"""Textures of meshes: faces are unwrapped into a square, and each texel is coloured."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxnerf.exports.files import package

LEAST, MOST = 64, 8192
# Texels between charts: enough to separate their colours in two smaller levels of a mipmap.
_PADDING = 4
# Number of candidate texels in a batch.
_AT_ONCE = 1 << 20
# Tolerance of barycentric coordinates within which a texel lies on the common edge of two triangles.
_EDGE = 1e-5

# Points [N, 3] and their unit normals -> RGB in [0, 1].
Paint = Callable[[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]], Float[np.ndarray, "N 3"]]


@dataclasses.dataclass(frozen=True)
class Texture:
    """A square image, and the positions of a mesh's faces in it.

    Attributes:
      image: 8-bit sRGB, the top row first.
      corners: the mesh's vertex at each corner; a vertex on a seam has a corner on either side.
      uv: positions of the corners, from (0, 0) at the lower left of the image to (1, 1) at its upper
        right.
      faces: indices of corners, in the order of the mesh's faces.
    """

    image: UInt8[np.ndarray, "S S 3"]
    corners: Int[np.ndarray, " C"]
    uv: Float[np.ndarray, "C 2"]
    faces: Int[np.ndarray, "F 3"]


def check_size(size: int) -> None:
    """Check that the number of texels along a side is 0 (no texture) or from 64 to 8,192.

    Raises:
      ValueError: it is not; the message begins with the setting's name.
    """
    if size and not LEAST <= size <= MOST:
        raise ValueError(f"texture: {size} is neither 0 nor from {LEAST} to {MOST}")


def textured(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    normals: Float[np.ndarray, "V 3"],
    size: int,
    paint: Paint,
    progress: Callable[[int, int], None] | None = None,
) -> Texture:
    """Unwrap a mesh and colour its texture.

    Each texel whose centre lies in a face has the colour of the corresponding point of the mesh; every
    other texel has the colour of the nearest of these, so that along seams neither interpolation between
    texels nor smaller levels of a mipmap introduce other colours.

    Args:
      vertices, faces: the mesh.
      normals: unit normals of the vertices.
      size: texels along a side, from 64 to 8,192.
      paint: function that returns the colour of points.
      progress: called with (faces painted, faces in all).

    Raises:
      RunError: xatlas is not installed.
    """
    corners, uv, unfolded = unwrapped(vertices, faces, size)
    image, covered = np.zeros((size * size, 3), np.uint8), np.zeros(size * size, bool)
    parts = itertools.chain(texels_of(uv, unfolded, size), _corner_texels(uv, unfolded, size))
    for texel, face, weights in parts:
        bare = ~covered[texel]
        texel, corner, weights = texel[bare], corners[unfolded[face[bare]]], weights[bare]
        if progress and len(face):
            progress(int(face.max()) + 1, len(faces))
        if not len(texel):
            continue
        points = np.einsum("nk,nkx->nx", weights, vertices[corner])
        across = np.einsum("nk,nkx->nx", weights, normals[corner])
        across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-9)
        image[texel] = np.rint(np.clip(paint(points, across), 0.0, 1.0) * 255.0)
        covered[texel] = True
    image = image.reshape(size, size, 3)
    return Texture(_spread(image, covered.reshape(size, size)), corners, uv, unfolded)


def unwrapped(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], size: int
) -> tuple[Int[np.ndarray, " C"], Float[np.ndarray, "C 2"], Int[np.ndarray, "F 3"]]:
    """Cut a mesh into charts that are flat and do not touch in the unit square.

    Args:
      vertices, faces: the mesh.
      size: texels along a side of the square, which determine the distance between charts.

    Returns:
      For each corner its vertex, and (u, v) as in `Texture`; and faces as indices of corners.

    Raises:
      RunError: xatlas is not installed.
    """
    xatlas = package("xatlas")
    atlas = xatlas.Atlas()
    atlas.add_mesh(
        np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32)
    )
    atlas.generate(_chart_options(xatlas), _pack_options(xatlas, size))
    corners, unfolded, uv = atlas.get_mesh(0)
    return corners.astype(np.int32), uv.astype(np.float32), unfolded.astype(np.int32)


def _chart_options(xatlas: Any) -> Any:
    options = xatlas.ChartOptions()
    options.max_iterations = 1
    return options


def _pack_options(xatlas: Any, size: int) -> Any:
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = size, _PADDING, True
    options.blockAlign = True  # several times as fast
    return options


def texels_of(
    uv: Float[np.ndarray, "C 2"], faces: Int[np.ndarray, "F 3"], size: int
) -> Iterator[tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]]]:
    """The texels whose centres lie in faces.

    Args:
      uv, faces: as in `Texture`.
      size: texels along a side.

    Yields:
      Batches: indices of texels, row by row from the top; the face of each; and its barycentric
      coordinates in the face. A texel on an edge is yielded with both faces.
    """
    place = _places(uv, size)[faces]
    first = np.maximum(np.ceil(place.min(axis=1) - 0.5), 0.0).astype(np.int64)
    last = np.minimum(np.floor(place.max(axis=1) - 0.5), size - 1.0).astype(np.int64)
    wide, high = np.maximum(last - first + 1, 0).T
    counts = wide * high
    ends = np.cumsum(counts)
    for begin in range(0, int(ends[-1]), _AT_ONCE):
        number = np.arange(begin, min(begin + _AT_ONCE, int(ends[-1])))
        face = np.searchsorted(ends, number, "right")
        number -= ends[face] - counts[face]
        x = first[face, 0] + number % wide[face]
        y = first[face, 1] + number // wide[face]
        weights = _barycentric(place[face], np.stack([x, y], axis=-1) + 0.5)
        inside = weights.min(axis=-1) >= -_EDGE
        yield (y * size + x)[inside], face[inside], weights[inside].astype(np.float32)


def _barycentric(triangles: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Barycentric coordinates of places; negative for triangles without an area."""
    a, b, c = triangles.astype(np.float64).transpose(1, 0, 2)

    def doubled(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        first, second = q - p, r - p
        return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]

    area = doubled(a, b, c)
    parts = np.stack([doubled(places, b, c), doubled(a, places, c), doubled(a, b, places)], -1)
    flat = np.abs(area) < 1e-12
    return np.where(flat[:, None], -1.0, parts / np.where(flat, 1.0, area)[:, None])


def _corner_texels(
    uv: np.ndarray, faces: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The texels that contain corners of faces, as `texels_of`: a face may contain no texel's centre."""
    index = np.floor(_places(uv, size)).astype(np.int64).clip(0, size - 1)
    texel = (index[:, 1] * size + index[:, 0])[faces]
    face = np.arange(len(faces))
    for corner in range(3):
        weights = np.zeros((len(faces), 3), np.float32)
        weights[:, corner] = 1.0
        yield texel[:, corner], face, weights


def _places(uv: np.ndarray, size: int) -> np.ndarray:
    """(x, y) in texels, from the upper left of the image."""
    return np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=-1) * size


def _spread(image: UInt8[np.ndarray, "S S 3"], covered: Bool[np.ndarray, "S S"]) -> np.ndarray:
    """An image in which texels that are not covered have the colour of the nearest covered one."""
    from scipy import ndimage

    if not covered.any():
        return image
    nearest: Any = ndimage.distance_transform_edt(
        ~covered, return_distances=False, return_indices=True
    )
    return image[tuple(nearest)]

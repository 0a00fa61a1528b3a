"""Writer of PLY, binary and little-endian: vertices with named properties, and triangles."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

_TYPES = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int"}
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
# Largest rounding error of float32 coordinates, as a fraction of the extent of the points.
_LEAST_PRECISION = 1e-5


def write_ply(
    path: Path, vertices: np.ndarray, faces: Int[np.ndarray, "F 3"] | None = None
) -> None:
    """Write a PLY file.

    Args:
      path: the file.
      vertices: a structured array [N] with the types f4, f8, u1 and i4; the names of its fields are those
        of the properties.
      faces: indices of vertices.

    Raises:
      OSError: the file cannot be written.
    """
    names = vertices.dtype.names or ()
    kinds = [vertices.dtype[name] for name in names]
    properties = [
        f"property {_TYPES[kind.str[1:]]} {name}" for kind, name in zip(kinds, names, strict=True)
    ]
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"element vertex {len(vertices)}", *properties]
    if faces is not None:
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\nend_header\n").encode("ascii"))
        file.write(vertices.astype(vertices.dtype.newbyteorder("<"), copy=False).tobytes())
        if faces is not None:
            rows = np.empty(len(faces), _FACE)
            rows["count"], rows["corners"] = 3, faces
            file.write(rows.tobytes())


def coordinate_type(positions: Float[np.ndarray, "N 3"]) -> str:
    """The PLY type for coordinates: f4, or f8 if they are large compared with their extent."""
    if not len(positions):
        return "f4"
    spread = float(np.ptp(positions, axis=0).max())
    rounding = float(np.abs(positions).max()) * 2.0**-24
    return "f4" if rounding <= _LEAST_PRECISION * max(spread, 1e-30) else "f8"


def coloured_points(
    positions: Float[np.ndarray, "N 3"],
    normals: Float[np.ndarray, "N 3"] | None,
    colours: np.ndarray,
) -> np.ndarray:
    """Vertices for `write_ply`, with the usual names of properties.

    Args:
      positions: [N, 3].
      normals: unit vectors, or None.
      colours: 8-bit sRGB [N, 3].
    """
    kind = coordinate_type(positions)
    fields = [(name, kind) for name in "xyz"]
    parts = [positions]
    if normals is not None:
        fields += [(f"n{name}", "f4") for name in "xyz"]
        parts.append(normals)
    fields += [(name, "u1") for name in ("red", "green", "blue")]
    parts.append(colours)
    vertices = np.empty(len(positions), fields)
    columns = [column for part in parts for column in part.T]
    for (name, _), column in zip(fields, columns, strict=True):
        vertices[name] = column
    return vertices

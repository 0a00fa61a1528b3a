"""Reader of the points of PLY files (Turk, "The PLY polygon file format", 1994).

No library is used: plyfile is under the GPL, and others depend on a viewer.
"""

import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import Float

from jaxnerf.scenes import SceneError

_MOST_HEADER, _MOST_BYTES = 1 << 16, 1 << 32
_Order = Literal["=", "<", ">"]
_ORDERS: dict[str, _Order] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
# Points with larger coordinates are not part of a scene.
_FARTHEST = 1e9


def read_points(path: Path) -> Float[np.ndarray, "P 3"]:
    """The positions (x, y, z) of a PLY file's vertices, ASCII or binary.

    Points with coordinates that are not finite, or larger than 1e9, are left out.

    Raises:
      SceneError: the file is missing, broken or truncated, or its vertices have no x, y and z, come
        after another element, or have lists.
    """
    try:
        if not path.is_file():
            raise SceneError(f"{path}: not a file")
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise SceneError(f"{path}: too large")
        with path.open("rb") as file:
            order, count, row = _header(path, file)
            if order == "=":
                found = _of_text(path, file, count, row, size)
            else:
                found = _of_bytes(path, file, count, row.newbyteorder(order), size)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror}") from None
    with np.errstate(invalid="ignore"):
        return found[(np.abs(found) <= _FARTHEST).all(axis=-1)]


def _header(path: Path, file: BinaryIO) -> tuple[_Order, int, np.dtype]:
    """Byte order, number of vertices, and dtype of a vertex; the file is then at the first vertex."""
    lines = []
    while not lines or lines[-1] != ["end_header"]:
        line = file.readline(_MOST_HEADER - file.tell())
        if not line.endswith(b"\n") or (not lines and line.strip() != b"ply"):
            raise SceneError(f"{path}: not a PLY file")
        lines.append(line.decode("ascii", "replace").split())
    order: _Order | None = None
    count, names = -1, []
    for words in lines[1:-1]:
        match words:
            case ["format", kind, *_] if kind in _ORDERS:
                order = _ORDERS[kind]
            case ["element", "vertex", number] if number.isdecimal() and len(number) < 13:
                count = int(number)
            case ["element", name, *_]:
                if count < 0:
                    raise SceneError(f"{path}: has {name[:40]!r} before its vertices: not read")
                break
            case ["property", kind, name] if kind in _TYPES and count >= 0:
                names.append((name, _TYPES[kind]))
            case ["property", *rest]:
                raise SceneError(f"{path}: property {' '.join(rest)[:40]!r} is not read")
    known = [name for name, _ in names]
    if (
        order is None
        or count < 0
        or not {"x", "y", "z"} <= set(known)
        or len(set(known)) < len(known)
    ):
        raise SceneError(f"{path}: its header names no vertices with x, y and z")
    return order, count, np.dtype(names)


def _of_bytes(path: Path, file: BinaryIO, count: int, row: np.dtype, size: int) -> np.ndarray:
    if count * row.itemsize > size - file.tell():
        raise SceneError(f"{path}: is cut off: {count} vertices do not fit into {size} bytes")
    rows = np.fromfile(file, row, count)
    return np.stack([rows[axis].astype(np.float64) for axis in "xyz"], axis=-1)


def _of_text(path: Path, file: BinaryIO, count: int, row: np.dtype, size: int) -> np.ndarray:
    assert row.names is not None
    if 2 * len(row.names) * count > size - file.tell() + 1:
        raise SceneError(f"{path}: is cut off: {count} vertices do not fit into {size} bytes")
    if not count:
        return np.zeros((0, 3))
    columns = [row.names.index(axis) for axis in "xyz"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns if there are no rows
            found = np.loadtxt(file, usecols=columns, max_rows=count, ndmin=2, comments=None)
    except ValueError as error:
        raise SceneError(f"{path}: a vertex is wrong: {str(error)[:80]}") from None
    if len(found) < count:
        raise SceneError(f"{path}: is cut off: {len(found)} of {count} vertices are there")
    return found

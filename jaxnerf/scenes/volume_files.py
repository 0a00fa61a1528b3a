"""Reader of scanners' volumes in NIfTI, NRRD and NumPy files: an array, and the matrix that places it.

Files are not trusted: sizes are checked before memory is allocated, no pickle is opened, and the values
of an NRRD must be in the file itself.
"""

import dataclasses
import importlib
import math
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxnerf.fields.volume import check_size
from jaxnerf.scenes import SceneError

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".npy", ".npz")
# The names of the values, the matrix and the colours in an .npz.
_VALUES, _MATRIX, _COLOURS = ("density", "values", "volume"), "affine", "colour"
# For NRRD's names of spaces, the signs that convert their axes to NIfTI's: right, anterior, superior.
_TO_RAS = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VolumeFile:
    """The contents of a volume's file, for `jaxnerf.VolumeField.from_array`.

    Attributes:
      values: array [X, Y, Z], in the file's own dtype if possible.
      to_world: maps an index (i, j, k, 1) to the centre of a voxel, in the file's unit.
      colours: 8-bit RGB of an .npz of `jaxnerf export volume`; None in other files.
      notes: assumptions that were made, for the user.
    """

    values: np.ndarray
    to_world: Float[np.ndarray, "4 4"]
    colours: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def is_volume(path: str | Path) -> bool:
    """Whether a file name has the suffix of a volume."""
    return str(path).lower().endswith(SUFFIXES)


def without_suffix(path: str | Path) -> str:
    """The name of a volume's file without its suffix: "head" of "head.nii.gz"."""
    name = str(path)
    ends = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[: len(name) - max(map(len, ends), default=0)]


def read_volume(path: str | Path) -> VolumeFile:
    """Read a volume.

    - NIfTI (.nii, .nii.gz): values with slope and intercept applied; the file's affine, in its unit
      (usually millimetres), with axes right, anterior, superior.
    - NRRD (.nrrd): `space directions` and `space origin`, or else `spacings`; axes that point to the left
      or to the back are converted to those of NIfTI.
    - .npy: an array, with voxels of side 1.
    - .npz: `density` (or `values`, `volume`, or its only array) and, if present, `affine` and `colour`,
      as `jaxnerf export volume` writes them.

    Raises:
      SceneError: the file is missing, damaged, of another kind, too large, or not of three dimensions; or
        a package is missing. The message is one line that names the file.
    """
    path = Path(path)
    if not is_volume(path):
        raise SceneError(f"{path}: a volume's name ends in one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise SceneError(f"{path}: no such file")
    end = path.name.lower()[len(without_suffix(path.name)) :]
    reader = {".nii": _nifti, ".nii.gz": _nifti, ".nrrd": _nrrd, ".npy": _npy, ".npz": _npz}[end]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(path)
    except (SceneError, MemoryError):
        raise
    except ValueError as error:
        raise SceneError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:  # packages raise various exceptions for damaged files
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise SceneError(f"{path}: cannot be read: {said}") from None


def _nifti(path: Path) -> VolumeFile:
    nibabel = _package("nibabel")
    image = nibabel.load(path)
    shape, notes = _three_dimensions(tuple(int(side) for side in image.shape)), []
    header = image.header
    stored = image.dataobj
    is_scaled = (stored.slope, stored.inter) != (1.0, 0.0)
    kind = np.dtype(np.float32) if is_scaled else header.get_data_dtype()
    _check(path, shape, kind)
    values = np.asarray(stored, kind) if is_scaled else np.asarray(stored.get_unscaled())
    values = values.reshape(shape)
    matrix = np.asarray(image.affine, np.float64)
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        notes.append("the file names no frame: voxels have their sizes, around the middle")
    unit = header.get_xyzt_units()[0]
    notes.append(
        f"in {'millimetres' if unit in ('mm', 'unknown') else unit}, right, anterior, superior"
    )
    return VolumeFile(values, matrix, notes=tuple(notes))


def _nrrd(path: Path) -> VolumeFile:
    nrrd = _package("nrrd", "pynrrd")
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        sizes = tuple(int(side) for side in header["sizes"])
        kind = np.dtype(nrrd.reader._determine_datatype(header))
        shape = _three_dimensions(sizes)
        _check(path, shape, kind)
        contents = _nrrd_bytes(path, header, file.read(), math.prod(shape) * kind.itemsize)
    values, notes = np.frombuffer(contents, kind).reshape(shape, order="F"), []
    matrix = np.eye(4)
    if header.get("space directions") is not None:
        directions = np.asarray(header["space directions"], np.float64)[: len(shape)]
        if directions.shape != (3, 3) or not np.isfinite(directions).all():
            raise SceneError(f"{path}: space directions are not three vectors")
        matrix[:3, :3] = directions.T
        matrix[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), np.float64)
        space = str(header.get("space", "")).lower()
        if space in _TO_RAS:
            matrix[:3] *= np.array(_TO_RAS[space])[:, None]
            notes.append(f"{space}, shown as right, anterior, superior")
        else:
            notes.append(f"space {space or 'not named'}: axes are as in the file")
    elif header.get("spacings") is not None:
        matrix[:3, :3] = np.diag(np.asarray(header["spacings"], np.float64)[:3])
        notes.append("no space directions: axes are those of the array, in its spacings")
    else:
        notes.append("neither space directions nor spacings: voxels have a side of 1")
    return VolumeFile(values, matrix, notes=tuple(notes))


def _npy(path: Path) -> VolumeFile:
    with path.open("rb") as file:
        values = _numpy_array(path, file)
    values = values.reshape(_three_dimensions(values.shape))
    return VolumeFile(values, np.eye(4), notes=("a bare array: voxels have a side of 1",))


def _npz(path: Path) -> VolumeFile:
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy"): name for name in archive.namelist()}

        def read(name: str) -> np.ndarray:
            with archive.open(names[name]) as file:
                return _numpy_array(path, file)

        if "blocks" in names:
            raise SceneError(f"{path}: holds blocks of voxels (--occupied), which are not read")
        found = [name for name in _VALUES if name in names]
        if not found and len(names) == 1:
            found = list(names)
        if not found:
            raise SceneError(f"{path}: has no array called {', '.join(_VALUES)}")
        values, notes = read(found[0]), []
        if _MATRIX in names:
            matrix = read(_MATRIX).astype(np.float64)
        else:
            matrix = np.eye(4)
            notes.append(f"no {_MATRIX}: voxels have a side of 1")
        colours = read(_COLOURS) if _COLOURS in names else None
    values = values.reshape(_three_dimensions(values.shape))
    return VolumeFile(values, matrix, colours, tuple(notes))


def _numpy_array(path: Path, file: Any) -> np.ndarray:
    """An array of a .npy, whose size is checked before its values are read."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise SceneError(f"{path}: not an array that NumPy wrote without a pickle")
    shape, in_columns, kind = read_header(file)
    if kind.hasobject:
        raise SceneError(f"{path}: holds Python objects, which are not read")
    _check(path, shape, kind)
    count = math.prod(shape)
    contents = file.read(count * kind.itemsize)
    if len(contents) != count * kind.itemsize:
        raise SceneError(f"{path}: {len(contents)} bytes are not {count} numbers of {kind}")
    return np.frombuffer(contents, kind).reshape(shape, order="F" if in_columns else "C")


def _check(path: Path, shape: tuple[int, ...], kind: Any) -> None:
    kind = np.dtype(kind)
    if kind.kind not in "fiub":
        raise SceneError(f"{path}: must be of real numbers, got {kind}")
    check_size(tuple(shape), kind)


def _three_dimensions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing dimensions of 1 after the third, such as a single time.

    Raises:
      ValueError: the result does not have three dimensions.
    """
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        sides = " x ".join(map(str, shape))
        raise ValueError(f"must have 3 dimensions, got {len(shape)}: {sides}")
    return shape


def _nrrd_bytes(path: Path, header: Any, packed: bytes, size: int) -> bytes:
    """The values of an NRRD; no more bytes are decompressed than the header specifies."""
    for key in ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"):
        if header.get(key):
            raise SceneError(f"{path}: {key!r} is not read; write it anew as one file")
    encoding = header["encoding"]
    if encoding in ("gzip", "gz"):
        contents = zlib.decompressobj(wbits=31).decompress(packed, size)
    elif encoding == "raw":
        contents = packed[:size]
    else:
        raise SceneError(f"{path}: encoding must be raw or gzip, got {encoding!r}")
    if len(contents) != size:
        raise SceneError(f"{path}: {len(contents):,} bytes of values where {size:,} should be")
    return contents


def _package(name: str, installed_as: str = "") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SceneError(
            f"the package {installed_as or name} is missing: pip install 'jaxnerf[volumes]'"
        ) from None

"""Reader of NumPy's files that does not trust them: no pickle, and sizes are checked before reading."""

import io
import math
import warnings
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.json_files import read_bytes

_MAX_BYTES = 100_000_000
_MAX_HEADER = 20_000


def read_array(
    where: str, file: io.BufferedIOBase, shape: tuple[int | None, ...]
) -> Float[np.ndarray, "..."]:
    """A .npy file of floating-point numbers, as float64.

    Args:
      where: begins messages.
      file: the opened file.
      shape: the required shape; None is any number but 0.

    Raises:
      SceneError: the file is damaged, or its array has another shape or type.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(file)]
            found, in_columns, kind = header(file)
            contents = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SceneError(f"{where}: cannot be read: {error.strerror}") from None
    except Exception:  # NumPy raises various exceptions for damaged headers
        raise SceneError(f"{where}: not a NumPy array, or damaged at its beginning") from None
    fits = len(found) == len(shape) and all(
        side > 0 if wanted is None else side == wanted
        for side, wanted in zip(found, shape, strict=True)
    )
    if kind.kind != "f" or kind.itemsize > 8 or not fits:
        sides = " x ".join("N" if wanted is None else str(wanted) for wanted in shape)
        raise SceneError(f"{where}: must be {sides} real numbers, got {found} of {kind}")
    count = int(np.prod([int(side) for side in found], dtype=object))
    if len(contents) != count * kind.itemsize:
        raise SceneError(f"{where}: {len(contents)} bytes are not {count} numbers of {kind}")
    array = np.frombuffer(contents, kind).reshape(found, order="F" if in_columns else "C")
    return array.astype(np.float64)


class NumpyZip:
    """A .npz file: arrays by name.

    Args:
      path: the file.

    Raises:
      SceneError: the file is missing, or not an .npz.
    """

    def __init__(self, path: Path):
        self.path = path
        contents = read_bytes(path, _MAX_BYTES)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(contents))
        except Exception:  # zipfile raises various exceptions for damaged files
            raise SceneError(f"{path}: not an .npz file, or damaged") from None
        self.names = {name.removesuffix(".npy"): name for name in self._zip.namelist()}

    def read(self, name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """One of the arrays, as float64; see `read_array`.

        Raises:
          SceneError: the array is missing, damaged, or of another shape or type.
        """
        if name not in self.names:
            raise SceneError(f"{self.path}: {name} is missing")
        where = f"{self.path}: {name}"
        try:
            about = self._zip.getinfo(self.names[name])
            # The sizes in the archive are checked before unpacking, which can multiply a size by 1,000.
            if max(about.file_size, about.compress_size) > _MAX_HEADER + 8 * math.prod(shape):
                raise SceneError(f"{where}: too large for {' x '.join(map(str, shape))} numbers")
            contents = self._zip.read(about)
        except SceneError:
            raise
        except Exception:  # zipfile raises various exceptions for damaged files
            raise SceneError(f"{where}: damaged, or packed in a way that is not read") from None
        return read_array(where, io.BytesIO(contents), shape)

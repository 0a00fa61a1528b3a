"""Writers of depth: OpenEXR in floating point, and PNG of 16 bits."""

import errno
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, PngImagePlugin

from jaxnerf.runs.files import replacing

_MOST = 65_535


def missing_package(kind: str) -> str:
    """The package that is missing for writing depth as "exr" or "png"; empty if there is none."""
    return "OpenEXR" if kind == "exr" and not find_spec("OpenEXR") else ""


def write_depth_exr(path: Path, depth: Float[np.ndarray, "height width"]) -> None:
    """Write depth as OpenEXR with one channel, Z, of 32-bit floats. The file is complete or not there.

    Args:
      path: the file.
      depth: depth in any unit; 0 for no surface.

    Raises:
      OSError: the file cannot be written.
      ImportError: see `missing_package`.
    """
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with replacing(path) as partial:
        try:
            with OpenEXR.File(header, {"Z": np.ascontiguousarray(depth, np.float32)}) as file:
                file.write(str(partial))
        except RuntimeError as error:
            full = "No space" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from None
        # The library raises no error if the disk is full for its last bytes.
        if not is_whole_exr(partial):
            raise OSError(errno.ENOSPC, "No space left on device")


def is_whole_exr(path: Path) -> bool:
    """Whether an OpenEXR file of scanlines ends where its offset table puts the end of its last chunk.

    The library itself would print messages about missing data. (Layout: openexr.com, "OpenEXR File
    Layout".)
    """
    if not path.is_file() or not path.stat().st_size:
        return False
    data, at = path.read_bytes(), 8
    try:
        while data[at]:  # attributes: name, type, size, value
            at = data.index(0, data.index(0, at) + 1) + 1
            at += 4 + int.from_bytes(data[at : at + 4], "little")
        end = int.from_bytes(data[at + 1 : at + 9], "little")
        table = np.frombuffer(data[at + 1 : end], "<u8")
        last = int(table.max())
        return len(data) == last + 8 + int.from_bytes(data[last + 4 : last + 8], "little")
    except (IndexError, ValueError):
        return False


def write_depth_png(path: Path, depth: Float[np.ndarray, "height width"], level: float) -> None:
    """Write depth as a PNG of 16 bits, in whole levels. The file is complete or not there.

    Args:
      path: the file.
      depth: depth; 0 for no surface. Depths beyond 65,535 levels are stored as 65,535.
      level: depth of one level. It is also stored in the PNG's text.

    Raises:
      OSError: the file cannot be written.
    """
    levels = np.where(depth > 0.0, np.clip(np.rint(depth / level), 1, _MOST), 0).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", f"depth in levels of {level:g}; 0 where nothing is")
    with replacing(path) as partial:
        Image.fromarray(levels).save(partial, pnginfo=text)


def fitting_level(farthest: float) -> float:
    """The smallest power of ten as a level with which a 16-bit PNG holds depths up to the farthest.

    >>> fitting_level(6.0), fitting_level(900.0)
    (0.0001, 0.1)
    """
    return float(10.0 ** np.ceil(np.log10(farthest / _MOST)))

"""Reading photographs as 8-bit RGBA.

Orientation: the EXIF data of photographs may contain a rotation for viewers. COLMAP, LLFF, instant-ngp
and nerfstudio ignore it: poses and principal points refer to the pixels as they are stored, and so they
are read here. The exception is a photograph for which the file of the cameras gives the size after that
rotation and not the stored size (as tools do that read with OpenCV): its pixels are rotated.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.picture_files import HEIF

# More pixels than any camera's photograph has; larger images are rejected before memory is allocated.
_MAX_PIXELS = 200_000_000
# Largest number of pixels per byte of a file. Deflate in PNG reaches 8,256, blank JPEG blocks some 512.
# Blank WebP images have no such bound, so images of up to _HARMLESS pixels are always accepted.
_MAX_PIXELS_A_BYTE, _HARMLESS = 10_000, 16_777_216
# The formats that are read. Pillow can read more, some of them by running other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
_KINDS = "PNG, JPEG, WebP or TIFF"
# Least fraction of valid pixels in a mask, since training draws pixels at random until one is valid.
_LEAST_COUNTED = 1e-3
_ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF
_WIDTH, _HEIGHT = 0x0100, 0x0101  # of TIFF
# What makes images of each orientation upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# End marks that complete files have among their last _LAST_BYTES bytes.
_END_MARKS, _LAST_BYTES = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}, 1 << 12
# Formats that do not store black exactly. The threshold of a mask in such a format is half of its largest
# value, and at least _LEAST_WHITE.
_LOSSY, _LEAST_WHITE = ("JPEG", "WEBP", "HEIF"), 32


@dataclasses.dataclass(frozen=True)
class Picture:
    """A photograph's file, of which the header was read, and how its pixels are to be read.

    Attributes:
      path: the file.
      size: (width, height) in pixels, after any rotation.
      turned: whether the pixels are rotated by the orientation in its EXIF data.
      mask: an image of the same size that gives the valid pixels.
      ignored: which values of the mask are invalid: "black", or "bright" (anything else).
      alpha: an image of the same size whose brightness is the photograph's alpha.
    """

    path: Path
    size: tuple[int, int]
    turned: bool = False
    mask: Path | None = None
    ignored: Literal["black", "bright"] = "black"
    alpha: Path | None = None


def find_picture(
    path: Path,
    claimed: tuple[int | float, int | float] | None = None,
    says: str = "",
    mask: Path | None = None,
    ignored: Literal["black", "bright"] = "black",
) -> Picture:
    """Read the headers of a photograph and of its mask.

    Args:
      path: the photograph.
      claimed: the (width, height) in the file of the cameras. The photograph may have another
        resolution with the same aspect ratio, to a pixel.
      says: name of the file of the cameras, for the message.
      mask, ignored: see `Picture`.

    Raises:
      SceneError: as `image_size`; or the aspect ratio is not the claimed one, or the mask has another
        size.
    """
    size, on_its_side = _size_and_turn(path)
    turned = on_its_side and size != claimed == size[::-1]
    if turned:
        size = (size[1], size[0])
    elif claimed is not None and not _same_shape(size, claimed):
        raise SceneError(
            f"{path}: {size[0]} x {size[1]} pixels, but {says} says {claimed[0]:g} x {claimed[1]:g}"
        )
    if mask is not None and image_size(mask) != size:
        found = image_size(mask)
        raise SceneError(
            f"{mask}: a mask of {found[0]} x {found[1]} pixels for a picture of "
            f"{size[0]} x {size[1]}"
        )
    return Picture(path, size, turned, mask, ignored)


def read_image(path: Path, turned: bool = False) -> UInt8[np.ndarray, "height width 4"]:
    """One photograph as 8-bit RGBA with straight alpha.

    Args:
      path: the file.
      turned: whether to rotate it by the orientation in its EXIF data.

    Raises:
      SceneError: the file is missing, not in one of the formats PNG, JPEG, WebP or TIFF (or HEIF, if
        pillow-heif is installed), truncated, or too large.
    """
    with _open(path) as image, _readable(path):
        image = ImageOps.exif_transpose(image) if turned else as_stored(image)
        if image.mode.startswith("I"):
            grey = np.asarray(image, np.uint32)
            image = Image.fromarray(np.minimum(grey >> 8, 255).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, which are no colours")
        return np.asarray(image.convert("RGBA"))


def read_mask(
    path: Path, ignored: Literal["black", "bright"] = "black"
) -> Bool[np.ndarray, "height width"]:
    """A mask, True where the photograph's pixel is valid: by default where the mask is not black.

    In formats with lossy compression, values up to a threshold are black.

    Args:
      path: the file. If all its pixels have one brightness and its alpha varies, alpha is the mask;
        otherwise alpha is ignored.
      ignored: see `Picture`.

    Raises:
      SceneError: as `read_image`.
    """
    with _open(path) as image, _readable(path):
        lossy = image.format in _LOSSY
        image = as_stored(image)
        if image.mode.startswith("I"):
            bright = np.asarray(image, np.uint32) > 0
        else:
            values = np.asarray(image.convert("RGB")).max(axis=-1)
            if image.mode in ("RGBA", "LA") and values.min() == values.max():
                alpha = np.asarray(image.getchannel("A"))
                values = alpha if alpha.min() < alpha.max() else values
            bright = values > (max(int(values.max()) // 2, _LEAST_WHITE) if lossy else 0)
    return bright if ignored == "black" else ~bright


def image_size(path: Path) -> tuple[int, int]:
    """An image's (width, height) as it is stored, from its header alone.

    Raises:
      SceneError: as `read_image`, or it is truncated.
    """
    return _size_and_turn(path)[0]


def orientation_of(path: Path) -> tuple[int, tuple[int, int]]:
    """The orientation in a photograph's EXIF data: 1 for no rotation, as TIFF 6.0 numbers orientations.

    Returns:
      The orientation, and the (width, height) as the image is stored.

    Raises:
      SceneError: as `image_size`.
    """
    size, orientation = _size_and_orientation(path)
    return orientation, size


def _size_and_turn(path: Path) -> tuple[tuple[int, int], bool]:
    """An image's stored size, and whether its EXIF orientation exchanges width and height."""
    size, orientation = _size_and_orientation(path)
    return size, orientation in ON_ITS_SIDE


def _size_and_orientation(path: Path) -> tuple[tuple[int, int], int]:
    """An image's stored size, and its orientation in EXIF.

    The end of the file is checked too, so that a truncated file is found before training, even if its
    pixels are needed only afterwards.
    """
    with _quiet(), _open(path) as image:
        size, orientation = image.size, 1
        # If the EXIF data of a PNG is not at its beginning, Pillow would decode the image to find it.
        if image.format != "PNG" or "exif" in image.info:
            with contextlib.suppress(Exception):  # any exception, for damaged EXIF
                exif = image.getexif()
                orientation = exif.get(_ORIENTATION, 1)
                if image.format == "TIFF":  # whose size Pillow gives as it is after the rotation
                    size = int(exif[_WIDTH]), int(exif[_HEIGHT])
        if not _ends(path, image.format or ""):
            with _readable(path):
                image.load()
        return size, orientation


def as_stored(image: Image.Image) -> Image.Image:
    """An image whose pixels are as the file has them: those of TIFF are rotated by Pillow's decoder."""
    if image.format != "TIFF":
        return image
    orientation = int(image.getexif().get(_ORIENTATION, 1))
    image.load()
    undone = UPRIGHT.get({6: 8, 8: 6}.get(orientation, orientation))
    return image if undone is None else image.transpose(undone)


def _ends(path: Path, kind: str) -> bool:
    """Whether a file is complete by its end mark or length; False if only decoding can show it."""
    if kind == "WEBP":
        with _readable(path), path.open("rb") as file:
            return path.stat().st_size >= 8 + int.from_bytes(file.read(8)[4:], "little")
    return kind in _END_MARKS and _END_MARKS[kind] in _last_bytes(path)


def _last_bytes(path: Path) -> bytes:
    with _readable(path), path.open("rb") as file:
        file.seek(max(path.stat().st_size - _LAST_BYTES, 0))
        return file.read()


def _same_shape(size: tuple[int, int], claimed: tuple[int | float, int | float]) -> bool:
    """Whether two sizes have the same aspect ratio, with sides rounded to whole pixels."""
    (width, height), (wide, high) = size, claimed
    if wide < 1.0 or high < 1.0:
        return False
    # The tolerance is one pixel of the lower resolution.
    return bool(abs(width * high - height * wide) <= max(width, height, wide, high))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """An image of which only the header is read."""
    try:
        if path.exists() and not path.is_file():
            raise SceneError(f"{path}: not a file")
        image = Image.open(path, formats=_formats(path))
    except FileNotFoundError:
        raise SceneError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise SceneError(
            f"{path}: not a {_KINDS} image, or damaged at its beginning{_hint(path)}"
        ) from None
    except SceneError:
        raise
    except Exception as error:  # Pillow raises various exceptions for damaged files
        reason = getattr(error, "strerror", None) or error
        raise SceneError(f"{path}: cannot be read as an image: {reason}") from None
    with image:
        pixels = image.width * image.height
        most = max(_HARMLESS, _MAX_PIXELS_A_BYTE * path.stat().st_size)
        if pixels > min(_MAX_PIXELS, most):
            raise SceneError(f"{path}: {image.width} x {image.height} pixels are too many")
        yield image


def _formats(path: Path) -> tuple[str, ...]:
    """The formats that Pillow may try for a file; HEIF only if the file's suffix is HEIF's."""
    if path.suffix.lower() in HEIF and importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
        return (*_FORMATS, "HEIF")
    return _FORMATS


def _hint(path: Path) -> str:
    if path.suffix.lower() in HEIF and not importlib.util.find_spec("pillow_heif"):
        return " (pip install pillow-heif reads HEIF)"
    return ""


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises various exceptions for damaged files
        raise SceneError(f"{path}: cannot be read as an image: {error}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings, such as those of large images: `_MAX_PIXELS` is the limit here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def shrink(image: UInt8[np.ndarray, "h w 4"], factor: int) -> UInt8[np.ndarray, "H W 4"]:
    """Average squares of factor x factor pixels; incomplete squares at the right and bottom are cut off.

    Colours are averaged with their alpha as weight, so that shrinking and then blending on a
    background is the same as blending and then shrinking.
    """
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    squares = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 4)
    alpha = squares[..., 3:].astype(np.float32)
    mean_alpha = alpha.mean(axis=(1, 3))
    premultiplied = (squares[..., :3] * alpha).mean(axis=(1, 3))
    colour = premultiplied / np.maximum(mean_alpha, 1e-6)
    return np.rint(np.concatenate([colour, mean_alpha], axis=-1)).astype(np.uint8)


def shrink_mask(mask: Bool[np.ndarray, "h w"], factor: int) -> Bool[np.ndarray, "H W"]:
    """The mask of a photograph that `shrink` made smaller: a square is valid if all its pixels are."""
    height, width = mask.shape[0] // factor, mask.shape[1] // factor
    squares = mask[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return np.asarray(squares.all(axis=(1, 3)))


def read_pictures(
    pictures: Sequence[Picture], factor: int = 1
) -> tuple[UInt8[np.ndarray, "N height width 4"], Bool[np.ndarray, "N height width"] | None]:
    """Read photographs into one array, decoded in several threads.

    Args:
      pictures: at least one.
      factor: factor to shrink by, see `shrink`; no side of a photograph may have fewer pixels.

    Returns:
      The photographs, padded with zeros at the right and the bottom to the largest size; and the mask of
      valid pixels, without padding and pixels that masks ignore, or None if all pixels are valid.

    Raises:
      SceneError: as `read_image`; a file was changed since its header was read; a mask leaves hardly any
        valid pixels; or the photographs do not fit into this machine's memory.
    """
    sizes = [(width // factor, height // factor) for width, height in (p.size for p in pictures)]
    width, height = (max(side) for side in zip(*sizes, strict=True))
    _check_memory(pictures, sizes)
    images = np.zeros((len(pictures), height, width, 4), np.uint8)
    whole = len(set(sizes)) == 1 and all(picture.mask is None for picture in pictures)
    masks = None if whole else np.zeros(images.shape[:3], bool)

    def read(index: int) -> None:
        picture, (across, down) = pictures[index], sizes[index]
        image = read_image(picture.path, picture.turned)
        if image.shape[1::-1] != picture.size:
            raise SceneError(f"{picture.path}: was changed while it was being read")
        if picture.alpha is not None:
            image = _with_alpha(image, picture.alpha)
        images[index, :down, :across] = shrink(image, factor)
        if masks is not None:
            masks[index, :down, :across] = _counted(picture, factor)

    with _quiet(), ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(pictures))))
    return images, None if masks is None or masks.all() else masks


def _with_alpha(image: np.ndarray, path: Path) -> np.ndarray:
    alpha = read_image(path)[..., :3].max(axis=-1)
    if alpha.shape != image.shape[:2]:
        raise SceneError(f"{path}: was changed while it was being read")
    return np.concatenate([image[..., :3], alpha[..., None]], axis=-1)


def _counted(picture: Picture, factor: int) -> np.ndarray | bool:
    if picture.mask is None:
        return True
    mask = read_mask(picture.mask, picture.ignored)
    if mask.shape[::-1] != picture.size:
        raise SceneError(f"{picture.mask}: was changed while it was being read")
    mask = shrink_mask(mask, factor)
    if mask.mean() < _LEAST_COUNTED:
        raise SceneError(f"{picture.mask}: leaves next to nothing of the picture; remove it")
    return mask


def _check_memory(pictures: Sequence[Picture], sizes: Sequence[tuple[int, int]]) -> None:
    """Check that the photographs fit into half of the machine's memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    width, height = (max(side) for side in zip(*sizes, strict=True))
    if 4 * len(sizes) * width * height <= 0.5 * memory:
        return
    largest = max(range(len(sizes)), key=lambda index: sizes[index][0] * sizes[index][1])
    raise SceneError(
        f"{pictures[largest].path}: {len(sizes)} pictures of up to {width} x {height} pixels take "
        f"{4e-9 * len(sizes) * width * height:.1f} GB, more than half of this machine's memory; "
        "use a larger downscale"
    )

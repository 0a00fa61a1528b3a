"""Reading photographs: 8-bit RGBA out, whatever came in, or one clear line."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxnerf.scenes import SceneError

# Larger than any camera's picture; what claims to be larger is refused before memory is taken.
_MAX_PIXELS = 200_000_000
# Pillow reads many more, some by running other programs.
_FORMATS = ("PNG", "JPEG")


def read_image(path: Path) -> UInt8[np.ndarray, "height width 4"]:
    """One photograph as 8-bit RGBA with straight alpha.

    Raises:
      SceneError: the file is missing, not a PNG or JPEG, truncated, or too large.
    """
    with _open(path) as image:
        try:
            if image.mode.startswith("I"):
                grey = np.asarray(image, np.uint32)
                image = Image.fromarray(np.minimum(grey >> 8, 255).astype(np.uint8))
            return np.asarray(image.convert("RGBA"))
        except Exception as error:  # whatever a damaged file makes of Pillow
            raise SceneError(f"{path}: cannot be read as an image: {error}") from None


def image_size(path: Path) -> tuple[int, int]:
    """An image's (width, height), from its header alone.

    Raises:
      SceneError: the file is missing, not a PNG or JPEG, or too large.
    """
    with _many_pixels(), _open(path) as image:
        return image.size


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """An image of which the header is read, and no more."""
    try:
        if path.exists() and not path.is_file():
            raise SceneError(f"{path}: not a file")
        image = Image.open(path, formats=_FORMATS)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise SceneError(f"{path}: not a PNG or JPEG image, or damaged at its beginning") from None
    except SceneError:
        raise
    except Exception as error:  # whatever a damaged file makes of Pillow
        reason = getattr(error, "strerror", None) or error
        raise SceneError(f"{path}: cannot be read as an image: {reason}") from None
    with image:
        if image.width * image.height > _MAX_PIXELS:
            raise SceneError(f"{path}: {image.width} x {image.height} pixels are too many")
        yield image


@contextlib.contextmanager
def _many_pixels() -> Iterator[None]:
    """Without Pillow's warning of large pictures: `_MAX_PIXELS` is the limit here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def shrink(image: UInt8[np.ndarray, "h w 4"], factor: int) -> UInt8[np.ndarray, "H W 4"]:
    """Average squares of factor x factor pixels; what is left over at the right and bottom is cut.

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


def read_images(
    paths: Sequence[Path],
    size: tuple[int, int],
    factor: int = 1,
    says: Callable[[Path], str] = lambda path: "the first image",
) -> UInt8[np.ndarray, "N height width 4"]:
    """Photographs of one size, shrunk, in one array; decoded by as many threads as there are cores.

    Args:
      paths: the files.
      size: the (width, height) that each must have.
      factor: see `shrink`.
      says: what claims that size, for the message when a file disagrees.

    Raises:
      SceneError: as `read_image`, or an image has another size.
    """
    width, height = size[0] // factor, size[1] // factor
    images = np.empty((len(paths), height, width, 4), np.uint8)

    def read(index: int) -> None:
        image = read_image(paths[index])
        if (image.shape[1], image.shape[0]) != size:
            raise SceneError(
                f"{paths[index]}: {image.shape[1]} x {image.shape[0]} pixels, but "
                f"{says(paths[index])} has {size[0]} x {size[1]}"
            )
        images[index] = shrink(image, factor)

    with _many_pixels(), ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(paths))))
    return images

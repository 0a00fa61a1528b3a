"""Photographs made small and straight: what pinhole cameras would show in their places."""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnerf.cameras import Camera, cast_rays, pixel_centres, project
from jaxnerf.scenes import CLEAR, Split

# The longer side at most. A pixel is the mean of at most the square of some 4 pixels.
_LONGEST_SIDE, _SHRUNK = 256, 4


@dataclasses.dataclass(frozen=True)
class Level:
    """Brightness of all photographs at one size, which pixels are valid, and their side in pixels.

    Attributes:
      brightness: from 0 to 255.
      valid: whether a pixel shows the scene.
      spacing: the side of a pixel, in pixels of the small cameras.
    """

    brightness: Float[np.ndarray, "N h w"]
    valid: Bool[np.ndarray, "N h w"]
    spacing: float


def straight_views(split: Split, kept: np.ndarray, cameras: Camera) -> tuple[Camera, Level]:
    """Pinhole cameras in the places of some photographs' cameras, and what they would show, small.

    Points are projected into a pinhole's picture several times as fast as through a lens. Of a wide lens
    the picture has the middle.
    """
    from jaxnerf.scenes.images import shrink, shrink_mask

    assert split.images is not None
    # Of large photographs every few pixels are enough, since taking means of all takes minutes.
    whole = math.ceil(max(split.images.shape[1:3]) / _LONGEST_SIDE)
    stride = max(whole // _SHRUNK, 1)
    means = math.ceil(whole / stride)
    factor, middle = stride * means, stride // 2
    brightness, valid = [], []
    sizes = np.asarray(cameras.size) // factor
    for index, (width, height) in zip(kept, sizes, strict=True):
        some = np.s_[index, middle::stride, middle::stride]
        picture = shrink(split.images[some], means).astype(np.float32)
        brightness.append(picture[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32))
        inside = np.asarray(picture[..., 3] >= CLEAR)
        inside[height:], inside[:, width:] = False, False
        if split.masks is not None:
            inside = inside & shrink_mask(split.masks[some], means)
        valid.append(np.asarray(inside))
    focal, centre = (np.asarray(x) / factor for x in (cameras.focal, cameras.centre))
    small = dataclasses.replace(cameras, focal=focal, centre=centre, size=sizes)
    level = Level(np.stack(brightness), np.stack(valid), 1.0)
    if cameras.lens == "pinhole":
        return small, level
    return _straightened(small, level)


def _straightened(cameras: Camera, level: Level) -> tuple[Camera, Level]:
    """Pinhole cameras that see at most 90 degrees, and their pictures, from those through a lens."""
    from scipy.ndimage import map_coordinates

    height, width = level.valid.shape[1:]
    focal = np.maximum(np.asarray(cameras.focal), 0.5 * max(height, width))
    straight = dataclasses.replace(cameras, lens="pinhole", focal=focal)
    pixels, brightness, valid = pixel_centres(width, height).reshape(-1, 2), [], []
    for index in range(len(cameras)):
        place = np.asarray(_through_lens(cameras[index], straight[index], pixels)) - 0.5
        place = np.nan_to_num(place, nan=-9.0).clip(-9.0, max(height, width) + 9.0)[:, ::-1].T
        for source, found in (
            (level.brightness, brightness),
            (level.valid.astype(np.float32), valid),
        ):
            picture = map_coordinates(source[index], place, order=1, mode="constant", cval=0.0)
            found.append(picture.reshape(height, width).astype(np.float32))
    return straight, Level(np.stack(brightness), np.asarray(np.stack(valid) > 0.999), 1.0)


@jax.jit
def _through_lens(camera: Camera, straight: Camera, pixels: Array) -> Float[Array, "P 2"]:
    """Where a camera shows what another one in its place shows at some pixels."""
    rays = cast_rays(straight, pixels)
    return project(camera, rays.origins + rays.directions)[0]


def halved(level: Level) -> Level:
    """Pictures of half the size: means of four pixels, valid where all four are."""
    height, width = (side // 2 for side in level.valid.shape[1:])
    squares = (slice(None), slice(2 * height), slice(2 * width))
    four = (len(level.valid), height, 2, width, 2)
    return Level(
        level.brightness[squares].reshape(four).mean(axis=(2, 4)),
        np.asarray(level.valid[squares].reshape(four).all(axis=(2, 4))),
        2.0 * level.spacing,
    )

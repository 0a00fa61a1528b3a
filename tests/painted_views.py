"""Photographs for structure from motion, painted by NumPy: a box on a floor, both of random texture."""

import functools
import math
from pathlib import Path

import numpy as np
from PIL import Image
from scene_factory import camera_axes
from scipy.ndimage import map_coordinates, zoom

WIDTH, HEIGHT, FOCAL = 320, 240, 400.0
_TEXELS = 256

# Middle, and the two half edges: the floor, and the box's top and four sides.
_QUADS = np.array(
    [
        [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]],
        [[0.0, 0.0, 0.8], [0.5, 0.0, 0.0], [0.0, 0.5, 0.0]],
        [[0.5, 0.0, 0.4], [0.0, 0.5, 0.0], [0.0, 0.0, 0.4]],
        [[-0.5, 0.0, 0.4], [0.0, 0.5, 0.0], [0.0, 0.0, 0.4]],
        [[0.0, 0.5, 0.4], [0.5, 0.0, 0.0], [0.0, 0.0, 0.4]],
        [[0.0, -0.5, 0.4], [0.5, 0.0, 0.0], [0.0, 0.0, 0.4]],
    ]
)


def arc(count: int, degrees: float = 14.0) -> np.ndarray:
    """Positions [count, 3] on an arc above the floor, so many degrees apart, at two heights."""
    azimuth = np.radians(degrees) * np.arange(count)
    height = np.radians(np.where(np.arange(count) % 2, 40.0, 32.0))
    return 4.0 * np.stack(
        [np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)], -1
    )


def poses(eyes: np.ndarray) -> np.ndarray:
    """Camera-to-world [N, 3, 4] with OpenGL axes, looking at the origin."""
    axes = [camera_axes(eye) for eye in eyes]
    return np.stack(
        [
            np.stack([right, up, -forward, eye], axis=-1)
            for (right, up, forward), eye in zip(axes, eyes, strict=True)
        ]
    )


@functools.cache
def textures(seed: int = 0) -> np.ndarray:
    """Random colours [quads, texels, texels, 3] with detail at every size."""
    random, total = np.random.default_rng(seed), 0.0
    for cells in (8, 16, 32, 64, 128):
        coarse = random.uniform(-1.0, 1.0, (len(_QUADS), cells, cells, 3))
        total = total + zoom(coarse, (1, _TEXELS // cells, _TEXELS // cells, 1), order=1)
    return np.clip(128.0 + 55.0 * np.asarray(total), 0.0, 255.0)


def paint(pose: np.ndarray, colours: np.ndarray, fisheye: float | None = None) -> np.ndarray:
    """What a camera sees [HEIGHT, WIDTH, 3], the mean of four rays a pixel; grey where nothing is.

    Args:
      pose: [3, 4].
      colours: from `textures`.
      fisheye: the focal length in pixels, if it is an equidistant fisheye and not a pinhole.
    """
    x, y = np.meshgrid(0.25 + 0.5 * np.arange(2 * WIDTH), 0.25 + 0.5 * np.arange(2 * HEIGHT))
    x, y = x - WIDTH / 2, HEIGHT / 2 - y
    forward = np.full_like(x, FOCAL)
    if fisheye:
        radius = np.hypot(x, y)
        forward = radius / np.tan(radius / fisheye)
    local = np.stack([x, y, -forward], axis=-1) / np.abs(forward)[..., None]
    rays = local @ pose[:, :3].T
    nearest = np.full(x.shape, math.inf)
    picture = np.full((*x.shape, 3), 128.0)
    for (middle, across, along), texture in zip(_QUADS, colours, strict=True):
        normal = np.cross(across, along)
        t = (normal @ (middle - pose[:, 3])) / (rays @ normal)
        hit = pose[:, 3] + t[..., None] * rays - middle
        u, v = hit @ across / (across @ across), hit @ along / (along @ along)
        seen = (np.abs(u) < 1.0) & (np.abs(v) < 1.0) & (t > 0.0) & (t < nearest)
        nearest[seen] = t[seen]
        where = 0.5 * (np.stack([u[seen], v[seen]]) + 1.0) * (_TEXELS - 1)
        for channel in range(3):
            picture[seen, channel] = map_coordinates(texture[..., channel], where, order=1)
    return picture.reshape(HEIGHT, 2, WIDTH, 2, 3).mean((1, 3)).round().astype(np.uint8)


def write_views(folder: Path, views: np.ndarray, fisheye: float | None = None) -> Path:
    """Write a photograph for each pose as 00.png, 01.png and so on; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = textures()
    for index, pose in enumerate(views):
        Image.fromarray(paint(pose, colours, fisheye)).save(folder / f"{index:02d}.png")
    return folder

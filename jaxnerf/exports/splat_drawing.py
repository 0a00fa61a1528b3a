"""A simple renderer of Gaussians, to measure the difference of splats from the field.

It follows Kerbl et al., "3D Gaussian splatting for real-time radiance field rendering" (SIGGRAPH 2023)
and its released code: Gaussians are projected by the camera's derivative at their centre (Zwicker et al.,
"EWA volume splatting", 2001), widened by 0.3 pixels, and blended from front to back.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera

_WIDENED, _NEAREST = 0.3, 0.01
_LEAST_ALPHA, _MOST_ALPHA = 1.0 / 255.0, 0.99
_DEVIATIONS, _WIDEST = 3.0, 32


def draw(splats: Any, camera: Camera, background: float = 1.0) -> Float[np.ndarray, "H W 3"]:
    """Render Gaussians with a pinhole camera.

    Args:
      splats: a `jaxnerf.exports.splats.Splats`.
      camera: a single camera, in the user's frame.
      background: a grey level.
    """
    width, height = (int(side) for side in np.asarray(camera.size))
    pose = np.array(camera.camera_to_world, np.float64)
    offset = splats.positions + (splats.origin - pose[:, 3])
    local = (offset @ pose[:, :3]) * [1.0, -1.0, -1.0]
    middle, conic, radius = _projected(splats, local, pose, camera)
    inside = (local[:, 2] > _NEAREST) & (middle > -radius[:, None]).all(axis=-1)
    inside &= (middle < np.array([width, height]) + radius[:, None]).all(axis=-1)
    order = np.flatnonzero(inside)
    order = order[np.argsort(local[order, 2], kind="stable")]
    directions = offset[order] / np.linalg.norm(offset[order], axis=-1, keepdims=True)
    parts = middle[order], conic[order], radius[order], splats.opacities[order]
    pixel, number, alpha = _covered(*parts, width, height)
    weight, left = _blended(pixel, number, alpha, width * height)
    colours = splats.colours(directions, order)
    picture = [
        np.bincount(pixel, weight * colours[number, channel], width * height)
        for channel in range(3)
    ]
    return (np.stack(picture, axis=-1) + background * left[:, None]).reshape(height, width, 3)


def _projected(splats: Any, local: np.ndarray, pose: np.ndarray, camera: Camera):
    """Centres in pixels, inverse covariances (xx, xy, yy), and the Gaussians' radii in pixels."""
    w, x, y, z = splats.rotations.astype(np.float64).T
    turn = np.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ], axis=-1).reshape(-1, 3, 3)  # fmt: skip
    axes = np.diag([1.0, -1.0, -1.0]) @ pose[:, :3].T @ (turn * splats.scales[:, None, :])
    depth = np.maximum(local[:, 2], _NEAREST)
    slope = local[:, :2] / depth[:, None]
    focal, centre = (np.asarray(part, np.float64) for part in (camera.focal, camera.centre))
    flat = focal[:, None] * (axes[:, :2] - slope[:, :, None] * axes[:, 2:]) / depth[:, None, None]
    covariance = flat @ flat.transpose(0, 2, 1) + _WIDENED * np.eye(2)
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    conic = np.stack([yy, -xy, xx], axis=-1) / (xx * yy - xy * xy)[:, None]
    widest = 0.5 * (xx + yy) + np.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)
    radius = np.minimum(np.ceil(_DEVIATIONS * np.sqrt(widest)), _WIDEST)
    return focal * slope + centre, conic, radius.astype(np.int64)


def _covered(middle, conic, radius, opacity, width: int, height: int):
    """All pairs of a pixel and a Gaussian that covers it, with the Gaussian's alpha in the pixel."""
    found = []
    for reach in np.unique(radius):
        some = np.flatnonzero(radius == reach)
        steps = np.arange(-reach, reach + 1)
        x, y = (part.reshape(-1) for part in np.meshgrid(steps, steps))
        columns = np.floor(middle[some, 0]).astype(np.int64)[:, None] + x
        rows = np.floor(middle[some, 1]).astype(np.int64)[:, None] + y
        across = columns + 0.5 - middle[some, 0, None]
        down = rows + 0.5 - middle[some, 1, None]
        a, b, c = (conic[some, index, None] for index in range(3))
        power = -0.5 * (a * across**2 + c * down**2) - b * across * down
        alpha = np.minimum(opacity[some, None] * np.exp(np.minimum(power, 0.0)), _MOST_ALPHA)
        kept = (alpha >= _LEAST_ALPHA) & (columns >= 0) & (columns < width)
        kept &= (rows >= 0) & (rows < height)
        numbers = np.broadcast_to(some[:, None], kept.shape)
        found.append(((rows * width + columns)[kept], numbers[kept], alpha[kept]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    pixel, number, alpha = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((number, pixel))
    return pixel[order], number[order], alpha[order]


def _blended(pixel: np.ndarray, number: np.ndarray, alpha: np.ndarray, pixels: int):
    """Weights of Gaussians in pixels, for pairs sorted by pixel and depth; and the transmittance."""
    dark = -np.log1p(-alpha)
    before = np.cumsum(dark) - dark
    first = np.searchsorted(pixel, np.arange(pixels))
    start = before[np.minimum(first, max(len(before) - 1, 0))] if len(before) else np.zeros(pixels)
    weight = np.exp(-(before - start[pixel])) * alpha
    return weight, 1.0 - np.bincount(pixel, weight, pixels)

"""Whether cameras see the box that is assumed to hold a bounded scene, before training."""

import numpy as np
from jaxtyping import Bool, Float

from jaxnerf.cameras import Camera
from jaxnerf.cameras.lenses import FLAT

# Number of rays along each side of a camera's image.
_RAYS = 5


def cameras_that_see(
    cameras: Camera, corner: Float[np.ndarray, "3"], side: float, near: float, far: float
) -> Bool[np.ndarray, " N"]:
    """Which of a batch of cameras have a ray that is inside a box somewhere between near and far.

    Computed on the host and without distortion: directions need not be exact to the pixel.

    Args:
      cameras: cameras of N photographs; the result is True for lenses that are not flat.
      corner: corner of the box, in the cameras' world.
      side: side of the box.
      near, far: depths.
    """
    poses = np.asarray(cameras.camera_to_world, np.float64)
    if cameras.lens not in FLAT:
        return np.ones(len(poses), bool)
    fractions = (np.arange(_RAYS) + 0.5) / _RAYS
    inside = np.stack(np.meshgrid(fractions, fractions), axis=-1).reshape(1, -1, 2)
    pixels = inside * np.asarray(cameras.size, np.float64)[:, None]
    centre, focal = (np.asarray(x, np.float64)[:, None] for x in (cameras.centre, cameras.focal))
    flat = (pixels - centre) / focal * [1.0, -1.0]
    local = np.concatenate([flat, np.full((*flat.shape[:2], 1), -1.0)], axis=-1)
    direction = np.einsum("nij,npj->npi", poses[:, :, :3], local)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (corner + np.array([0.0, side])[:, None] - poses[:, None, None, :, 3]) / direction[
            :, :, None
        ]
    enter = np.fmax.reduce(np.fmin.reduce(ends, axis=2), axis=-1)
    leave = np.fmin.reduce(np.fmax.reduce(ends, axis=2), axis=-1)
    return (np.maximum(enter, near) < np.minimum(leave, far)).any(axis=-1)

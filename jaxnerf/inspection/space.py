"""Whether cameras look at where a bounded scene would be trained."""

import jax.numpy as jnp
import numpy as np

from jaxnerf.cameras import cast_rays
from jaxnerf.scenes import Scene, Split
from jaxnerf.silhouettes import scene_cube


def rays_that_miss(scene: Scene) -> list[str]:
    """The photographs whose middle ray does not meet the cube of training between near and far.

    Args:
      scene: a bounded one; the cube is that of `jaxnerf.silhouettes.scene_cube`.
    """
    split = scene.splits["train"]
    origin, side = scene_cube(split)
    enter, leave = _in_box(split, origin, origin + side)
    meets = np.maximum(enter, scene.near) < np.minimum(leave, scene.far)
    return [name for name, met in zip(split.names, meets, strict=True) if not met]


def _in_box(split: Split, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the rays of the pictures' middles enter and leave a box; enter > leave where they miss it."""
    middles = np.float32(0.5) * np.asarray(split.cameras.size, np.float32)
    rays = cast_rays(split.cameras, jnp.asarray(middles))
    origins, directions = (np.asarray(v, np.float64) for v in (rays.origins, rays.directions))
    directions = np.where(np.abs(directions) < 1e-12, 1e-12, directions)
    first, second = (low - origins) / directions, (high - origins) / directions
    enter, leave = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
    return np.maximum(enter, 0.0), leave

"""All photographs of a scene, for its inspection."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.scenes import Scene


@dataclasses.dataclass(frozen=True)
class Views:
    """All photographs of a scene, in the order of its splits.

    Attributes:
      names, splits: name and split of each photograph.
      cameras: their cameras, at the resolution of the images, in the scene's frame.
      poses: their poses in the user's frame.
      images, masks: pixels and mask of each photograph.
    """

    names: list[str]
    splits: list[str]
    cameras: Camera
    poses: Float[np.ndarray, "N 3 4"]
    images: list[np.ndarray]
    masks: list[np.ndarray | None]

    @property
    def extent(self) -> float:
        """The largest distance of a camera from the cameras' mean, in the user's unit; else 0."""
        places = self.poses[:, :, 3]
        extent = float(np.linalg.norm(places - places.mean(axis=0), axis=-1).max())
        return extent if extent > 1e-7 * float(np.abs(places).max()) else 0.0


def views_of(scene: Scene) -> Views:
    """All photographs of a scene that was read with all of its splits."""
    names, splits, images, masks = [], [], [], []
    for name, split in scene.splits.items():
        assert split.images is not None
        for index, size in enumerate(np.asarray(split.cameras.size)):
            width, height = size.tolist()
            names.append(split.names[index])
            splits.append(name)
            images.append(split.images[index, :height, :width])
            mask = split.masks
            masks.append(None if mask is None else mask[index, :height, :width])
    batches = [split.cameras for split in scene.splits.values()]
    cameras = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    poses = scene.to_user.poses(np.asarray(cameras.camera_to_world, np.float64))
    return Views(names, splits, cameras, poses, images, masks)

"""COLMAP's model beside poses_bounds.npy: lenses and points, which poses_bounds.npy does not contain."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.colmap import choose_model, find_models
from jaxnerf.scenes.colmap_cameras import intrinsics, pose_of
from jaxnerf.scenes.colmap_files import ModelCamera, read_model
from jaxnerf.scenes.views import View

# Tolerances of equal poses in the model and in the rows: of positions, as a fraction of the cameras'
# extent, and of axes.
_SAME_PLACE, _SAME_AXES = 1e-3, 1e-3


@dataclasses.dataclass(frozen=True)
class Model:
    """The cameras and points of a COLMAP model.

    Attributes:
      name: path of the model's folder within the scene's.
      cameras: the camera of each photograph, in the order of the rows.
      points: the points, in the frame of the files.
    """

    name: str
    cameras: tuple[ModelCamera, ...]
    points: Float[np.ndarray, "P 3"]

    def with_lens(self, index: int, view: View) -> View:
        """A row's view with the intrinsics that its photograph has in the model."""
        camera = self.cameras[index]
        lens, focal, centre, distortion = intrinsics(camera.model, camera.parameters)
        scale = np.array(view.picture.size) / camera.size
        return dataclasses.replace(
            view, focal=tuple(focal * scale), centre=tuple(centre * scale),
            distortion=tuple(distortion), lens=lens,
        )  # fmt: skip


def matching_model(
    folder: Path, rows: Float[np.ndarray, "N 17"], allow_outside_paths: bool
) -> Model | None:
    """The COLMAP model of a folder, if its poses are those of the rows of poses_bounds.npy.

    The model's photographs in the order of their names must have the poses and sizes of the rows.

    Returns:
      The model; None if there is none, or it is incomplete, broken, or of other photographs.
    """
    if not find_models(folder):
        return None
    try:
        chosen, _ = choose_model(folder, allow_outside_paths)
        model = read_model(chosen)
    except SceneError:
        return None
    images = sorted(model.images.values(), key=lambda image: image.name)
    if len(images) != len(rows):
        return None
    poses = np.stack([pose_of(image.rotation, image.translation) for image in images])
    matrices = rows[:, :15].reshape(-1, 3, 5)
    theirs = np.stack(
        [matrices[:, :, 1], -matrices[:, :, 0], matrices[:, :, 2], matrices[:, :, 3]], axis=-1
    )
    extent = float(np.linalg.norm(np.ptp(theirs[:, :, 3], axis=0)))
    if np.abs(poses[:, :, 3] - theirs[:, :, 3]).max() > _SAME_PLACE * extent:
        return None
    if np.abs(poses[:, :, :3] - theirs[:, :, :3]).max() > _SAME_AXES:
        return None
    sizes = np.array([model.cameras[image.camera].size for image in images])
    if (np.abs(sizes - rows[:, [9, 4]]) > 1.0).any():
        return None
    cameras = tuple(model.cameras[image.camera] for image in images)
    return Model(str(chosen.relative_to(folder)), cameras, model.points.positions)

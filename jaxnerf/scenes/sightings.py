"""Projections of a reconstruction's points into the cameras that see them: known depths of pixels."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnerf.cameras import Camera, project
from jaxnerf.cameras.lenses import FLAT

# If it is not known which cameras see a point, visibility is estimated. An image is divided into squares,
# _SQUARES along its longer side. A point is visible if it is at most the fraction _BEHIND behind the
# nearest point in its square and the eight squares around it.
_BEHIND, _SQUARES = 0.05, 64
# At most about this many points are projected into each camera.
_ENOUGH_POINTS = 100_000
# Points with a depth of at most this are not visible: they are at the camera or behind it.
_NEAREST = 1e-6


@dataclasses.dataclass(frozen=True)
class Sightings:
    """Observations of points by cameras.

    Attributes:
      camera: index of the camera of each observation.
      pixel: position of the point in the image, (x, y).
      depth: depth of the point, in units of the length of its ray's direction.
      point: index of the point of each observation; None if it is not needed.
    """

    camera: Int[np.ndarray, " M"]
    pixel: Float[np.ndarray, "M 2"]
    depth: Float[np.ndarray, " M"]
    point: Int[np.ndarray, " M"] | None = None

    def __len__(self) -> int:
        return len(self.camera)

    def __getitem__(self, chosen: Bool[np.ndarray, " M"] | Int[np.ndarray, " N"]) -> "Sightings":
        point = None if self.point is None else self.point[chosen]
        return Sightings(self.camera[chosen], self.pixel[chosen], self.depth[chosen], point)


def sightings_of(
    points: Float[np.ndarray, "P 3"],
    cameras: Camera,
    tracks: Int[np.ndarray, "T 2"] | None = None,
    *,
    others: Float[np.ndarray, "Q 3"] | None = None,
) -> Sightings:
    """Observations of points by cameras.

    Args:
      points: points in the cameras' world.
      cameras: a batch.
      tracks: pairs (camera, point) for which it is known that the camera sees the point; None if that is
        not known.
      others: points that may occlude the others, but of which no observations are returned. Used only
        without tracks.
    """
    asked = len(points)
    if tracks is None:
        points = points if others is None else np.concatenate([points, others])
        numbers = [np.arange(0, len(points), 1 + len(points) // _ENOUGH_POINTS)] * len(cameras)
    else:
        tracks = tracks[np.argsort(tracks[:, 0], kind="stable")]
        numbers = np.split(tracks[:, 1], np.searchsorted(tracks[:, 0], np.arange(1, len(cameras))))
    most, parts = max(map(len, numbers)), []
    for number, seen in enumerate(numbers):
        pixel, depth = _projected(points[seen], cameras[number], most)
        width, height = np.asarray(cameras[number].size)
        with np.errstate(invalid="ignore"):
            inside = (depth > _NEAREST) & (pixel >= 0.0).all(axis=-1)
            inside &= (pixel[:, 0] < width) & (pixel[:, 1] < height)
        pixel, depth, seen = pixel[inside], depth[inside], seen[inside]
        if tracks is None:
            shown = _foremost(pixel, depth, max(width, height) / _SQUARES)
            shown &= seen < asked
            pixel, depth, seen = pixel[shown], depth[shown], seen[shown]
        parts.append((np.full(len(depth), number, np.int32), pixel, depth, seen))
    camera, pixel, depth, point = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Sightings(camera, pixel.astype(np.float32), depth.astype(np.float32), point)


_project = jax.jit(project)


def _projected(points: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of points, and their depths in units of the ray's direction.

    Args:
      points: at most `size` points.
      camera: a single camera.
      size: number of points to which the array is padded.
    """
    if not len(points):
        return np.zeros((0, 2)), np.zeros(0)
    # Padded to one shape for all cameras, since each new shape is compiled.
    padded = np.pad(points.astype(np.float32), ((0, size - len(points)), (0, 0)), mode="edge")
    pixel, depth = (np.asarray(x, np.float64)[: len(points)] for x in _project(camera, padded))
    if camera.lens not in FLAT:
        offset = points - np.asarray(camera.camera_to_world)[:3, 3]
        depth = np.where(depth > 0.0, np.linalg.norm(offset, axis=-1), depth)
    return pixel, depth


def _foremost(pixel: np.ndarray, depth: np.ndarray, square: float) -> np.ndarray:
    """Which points are not occluded by others; see `_BEHIND`."""
    from scipy.ndimage import minimum_filter

    if not len(depth):
        return np.zeros(0, bool)
    column, row = (pixel / square).astype(int).T
    nearest = np.full((row.max() + 1, column.max() + 1), np.inf)
    np.minimum.at(nearest, (row, column), depth)
    around = minimum_filter(nearest, size=3, mode="nearest")
    return depth <= (1.0 + _BEHIND) * around[row, column]

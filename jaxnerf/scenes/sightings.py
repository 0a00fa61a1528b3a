"""Which points of a reconstruction which cameras see: depths known before anything is learned."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxnerf.cameras import Camera, project
from jaxnerf.lenses import FLAT

# Where it is not known which cameras see a point, those do in whose pictures no other point stands before
# it by more than this fraction of its depth within a square of so many pixels of the longer side.
_BEHIND, _SQUARES = 0.05, 64
# Points in the cameras' midst, and behind them, are not seen.
_NEAREST = 1e-6


@dataclasses.dataclass(frozen=True)
class Sightings:
    """Points that cameras see.

    Attributes:
      camera: the number of each one's camera.
      pixel: where it is in the picture, (x, y).
      depth: of the point, in units of the length of its ray's direction.
    """

    camera: Int[np.ndarray, " M"]
    pixel: Float[np.ndarray, "M 2"]
    depth: Float[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.camera)


def sightings_of(
    points: Float[np.ndarray, "P 3"],
    cameras: Camera,
    tracks: Int[np.ndarray, "T 2"] | None = None,
) -> Sightings:
    """Where cameras see points.

    Args:
      points: in the cameras' world.
      cameras: a batch.
      tracks: pairs of (camera, point) of which it is known that the camera sees the point; None where
        that is not known.
    """
    parts = []
    for number in range(len(cameras)):
        seen = np.arange(len(points)) if tracks is None else tracks[tracks[:, 0] == number, 1]
        pixel, depth = _projected(points[seen], cameras[number])
        width, height = np.asarray(cameras[number].size)
        with np.errstate(invalid="ignore"):
            inside = (depth > _NEAREST) & (pixel >= 0.0).all(axis=-1)
            inside &= (pixel[:, 0] < width) & (pixel[:, 1] < height)
        pixel, depth = pixel[inside], depth[inside]
        if tracks is None:
            shown = _foremost(pixel, depth, max(width, height) / _SQUARES)
            pixel, depth = pixel[shown], depth[shown]
        parts.append((np.full(len(depth), number, np.int32), pixel, depth))
    camera, pixel, depth = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Sightings(camera, pixel.astype(np.float32), depth.astype(np.float32))


def _projected(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and depths in units of the ray's direction."""
    if not len(points):
        return np.zeros((0, 2)), np.zeros(0)
    pixel, depth = (np.asarray(x, np.float64) for x in project(camera, points.astype(np.float32)))
    if camera.lens not in FLAT:
        offset = points - np.asarray(camera.camera_to_world)[:3, 3]
        depth = np.where(depth > 0.0, np.linalg.norm(offset, axis=-1), depth)
    return pixel, depth


def _foremost(pixel: np.ndarray, depth: np.ndarray, square: float) -> np.ndarray:
    """Which points nothing else stands before."""
    if not len(depth):
        return np.zeros(0, bool)
    column, row = (pixel / square).astype(int).T
    nearest = np.full((row.max() + 3, column.max() + 3), np.inf)
    for right in range(3):
        for down in range(3):
            np.minimum.at(nearest, (row + down, column + right), depth)
    return depth <= (1.0 + _BEHIND) * nearest[row + 1, column + 1]

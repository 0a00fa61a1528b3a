"""Epipolar errors of features that neighbouring photographs share, by which poses are checked.

Features are SIFT's (Lowe, 2004), computed by COLMAP: needs the extra `check`. Matches that do not fit a
common fundamental matrix are removed first. The remaining matches depend on the photographs alone, so
that their epipolar errors are due to the poses (or the lens).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.capture.structure_from_motion import log

# Largest number of features of an image, those with the largest scale. Arrays are padded to this number,
# so that the program for rays is compiled once.
_MOST_FEATURES = 2048
_RATIO = 0.8  # largest ratio of the distances to the best and the second best match (Lowe, 2004)
_RANSAC_PIXELS, _SEED = 3.0, 0
# Least number of matches that fit a fundamental matrix; fewer may do so by chance.
LEAST_MATCHES = 20

_OPENCV = np.diag([1.0, -1.0, -1.0])
_DOWN_RIGHT_BACK = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


class Features(NamedTuple):
    """Positions of features, in pixels, and their descriptors, of length 1."""

    places: Float[np.ndarray, "F 2"]
    descriptors: Float[np.ndarray, "F 128"]


@dataclasses.dataclass(frozen=True)
class Sight:
    """Matches as seen by one camera.

    Attributes:
      directions: unit vectors in the camera's own axes (OpenGL).
      pixel: the angle that a pixel covers in each direction, in radians.
    """

    directions: Float[np.ndarray, "M 3"]
    pixel: Float[np.ndarray, " M"]


def find_features(
    image: UInt8[np.ndarray, "height width 4"], mask: Bool[np.ndarray, "height width"] | None = None
) -> Features:
    """The features of an image in its valid pixels.

    Args:
      image: sRGB with straight alpha; it is blended on grey.
      mask: the valid pixels.
    """
    import pycolmap

    alpha = image[..., 3:].astype(np.float32) / 255.0
    colour = image[..., :3] * alpha + 128.0 * (1.0 - alpha)
    with log(False):
        options = pycolmap.FeatureExtractionOptions()
        options.sift.max_num_features = _MOST_FEATURES
        extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
        keypoints, found = extractor.extract_from_uint8_array(
            np.ascontiguousarray(colour.mean(axis=-1).round().astype(np.uint8))
        )
    places = np.array([(point.x, point.y) for point in keypoints], np.float64).reshape(-1, 2)
    descriptors = np.asarray(found.data, np.float32).reshape(-1, 128)
    if mask is not None:
        height, width = mask.shape
        column, row = np.clip(places.astype(int), 0, [width - 1, height - 1]).T
        places, descriptors = places[mask[row, column]], descriptors[mask[row, column]]
    places, descriptors = places[:_MOST_FEATURES], descriptors[:_MOST_FEATURES]
    lengths = np.linalg.norm(descriptors, axis=-1, keepdims=True)
    return Features(places, descriptors / np.maximum(lengths, 1e-6))


def match(one: Features, other: Features) -> Int[np.ndarray, "M 2"]:
    """Pairs of features that are each other's best match, and much better than the second best."""
    if min(len(one.places), len(other.places)) < 2:
        return np.zeros((0, 2), np.int64)
    cosines = one.descriptors @ other.descriptors.T
    best, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    second, first = np.partition(cosines, -2, axis=1)[:, -2:].T
    distance = np.sqrt(np.maximum(2.0 - 2.0 * np.stack([first, second]), 0.0))
    index = np.arange(len(best))
    chosen = (back[best] == index) & (distance[0] < _RATIO * distance[1])
    return np.stack([index[chosen], best[chosen]], axis=-1)


def sight(camera: Camera, places: Float[np.ndarray, "M 2"]) -> Sight:
    """The directions of positions in a camera's image; at most 2,048 positions."""
    padded = np.zeros((3, _MOST_FEATURES, 2), np.float32)
    padded[:, : len(places)] = places
    padded[1] += np.array([1.0, 0.0], np.float32)
    padded[2] += np.array([0.0, 1.0], np.float32)
    straight = dataclasses.replace(camera, camera_to_world=np.eye(3, 4, dtype=np.float32))
    rays = np.asarray(_directions(straight, padded), np.float64)[:, : len(places)]
    area = np.linalg.norm(np.cross(rays[1] - rays[0], rays[2] - rays[0]), axis=-1)
    return Sight(rays[0], np.sqrt(area))


def on_one_geometry(one: Sight, other: Sight) -> Bool[np.ndarray, " M"]:
    """Which matches fit a common fundamental matrix; poses are not used."""
    import pycolmap

    chosen = np.zeros(len(one.directions), bool)
    ahead = (one.directions[:, 2] < -0.2) & (other.directions[:, 2] < -0.2)
    if ahead.sum() < LEAST_MATCHES:
        return chosen
    planes = [
        each.directions[ahead, :2] / -each.directions[ahead, 2:] / np.median(each.pixel)
        for each in (one, other)
    ]
    options = pycolmap.RANSACOptions()
    options.max_error, options.random_seed, options.max_num_trials = _RANSAC_PIXELS, _SEED, 5000
    with log(False):
        found = pycolmap.estimate_fundamental_matrix(planes[0], planes[1], options)
    if found is not None:
        chosen[np.flatnonzero(ahead)[np.asarray(found["inlier_mask"], bool)]] = True
    return chosen


def epipolar_errors(
    one: Sight, other: Sight, poses: Float[np.ndarray, "2 3 4"]
) -> Float[np.ndarray, " M"]:
    """The epipolar errors of matches with given poses, in pixels.

    Points on one camera's ray, from the camera to infinity, form an arc for the other camera. The error
    is the distance from that arc, averaged over both directions, so that a match behind a camera is wrong
    too.

    Args:
      one, other: the matches as seen by the two cameras.
      poses: poses of both cameras, camera-to-world.
    """
    seen = [each.directions @ pose[:, :3].T for each, pose in zip((one, other), poses, strict=True)]
    between = poses[0][:, 3] - poses[1][:, 3]
    there = _from_arc(seen[1], seen[0], between) / other.pixel
    back = _from_arc(seen[0], seen[1], -between) / one.pixel
    return 0.5 * (there + back)


def _from_arc(directions: np.ndarray, distant: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Angles of unit vectors from the shorter arcs between distant points and a position."""
    end = towards / max(float(np.linalg.norm(towards)), 1e-30)
    along = distant @ end
    across = end - along[:, None] * distant
    width = np.linalg.norm(across, axis=-1)
    across = across / np.maximum(width, 1e-30)[:, None]
    first, second = (np.sum(directions * axis, axis=-1) for axis in (distant, across))
    angle = np.arctan2(second, first)
    inside = (angle >= 0.0) & (angle <= np.arctan2(width, along))
    from_plane = np.arccos(np.clip(np.hypot(first, second), 0.0, 1.0))
    ends = np.minimum(
        np.linalg.norm(directions - distant, axis=-1), np.linalg.norm(directions - end, axis=-1)
    )
    return np.where(inside, from_plane, 2.0 * np.arcsin(np.minimum(0.5 * ends, 1.0)))


def _inverse(poses: np.ndarray) -> np.ndarray:
    turned = np.swapaxes(poses[..., :3], -1, -2)
    return np.concatenate([turned, -turned @ poses[..., 3:]], axis=-1)


def _with_axes(poses: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.concatenate([poses[..., :3] @ axes, poses[..., 3:]], axis=-1)


# Conventions that files have by mistake instead of camera-to-world with OpenGL axes, and the functions
# that convert their poses.
MISTAKES: dict[str, Callable[[Any], Any]] = {
    "camera-to-world with OpenCV's axes (+y down, looking along +z)": lambda poses: _with_axes(
        poses, _OPENCV
    ),
    "world-to-camera": _inverse,
    "world-to-camera with OpenCV's axes (+y down, looking along +z)": lambda poses: _with_axes(
        _inverse(poses), _OPENCV
    ),
    "camera-to-world with LLFF's axes (down, right, back)": lambda poses: _with_axes(
        poses, _DOWN_RIGHT_BACK
    ),
}


@jax.jit
def _directions(camera: Camera, pixels: Float[jax.Array, "*batch 2"]) -> jax.Array:
    return cast_rays(camera, jnp.asarray(pixels)).view_directions

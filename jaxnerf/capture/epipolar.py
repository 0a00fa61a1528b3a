"""Whether poses agree with pictures: epipolar errors of features that neighbouring pictures share.

Features are SIFT's (Lowe, 2004), found by COLMAP: needs the extra `check`. Matches that no fundamental
matrix explains are dropped first, so that what is left depends on the pictures alone; what the poses
make of these matches is then the poses' (or the lens's) doing.
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

# Of a picture, those with the largest scale; a fixed number so that rays are compiled once.
_MOST_FEATURES = 2048
_RATIO = 0.8  # of the distances to the best and the second best match (Lowe, 2004)
_RANSAC_PIXELS, _SEED = 3.0, 0
# Fewer matches on one fundamental matrix may be chance.
LEAST_MATCHES = 20

_OPENCV = np.diag([1.0, -1.0, -1.0])
_DOWN_RIGHT_BACK = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


class Features(NamedTuple):
    """Where features are, in pixels, and their descriptors, of length 1."""

    places: Float[np.ndarray, "F 2"]
    descriptors: Float[np.ndarray, "F 128"]


@dataclasses.dataclass(frozen=True)
class Sight:
    """What one camera sees of some matches.

    Attributes:
      directions: unit vectors in the camera's own axes (OpenGL).
      pixel: the angle that a pixel covers there, in radians.
    """

    directions: Float[np.ndarray, "M 3"]
    pixel: Float[np.ndarray, " M"]


def find_features(
    image: UInt8[np.ndarray, "height width 4"], mask: Bool[np.ndarray, "height width"] | None = None
) -> Features:
    """A picture's features, of those that count.

    Args:
      image: sRGB with straight alpha; what is transparent is grey.
      mask: which pixels count.
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
    """What a camera sees at places of its picture; at most 2,048."""
    padded = np.zeros((3, _MOST_FEATURES, 2), np.float32)
    padded[:, : len(places)] = places
    padded[1] += np.array([1.0, 0.0], np.float32)
    padded[2] += np.array([0.0, 1.0], np.float32)
    straight = dataclasses.replace(camera, camera_to_world=np.eye(3, 4, dtype=np.float32))
    rays = np.asarray(_directions(straight, padded), np.float64)[:, : len(places)]
    area = np.linalg.norm(np.cross(rays[1] - rays[0], rays[2] - rays[0]), axis=-1)
    return Sight(rays[0], np.sqrt(area))


def on_one_geometry(one: Sight, other: Sight) -> Bool[np.ndarray, " M"]:
    """Which of some matches a single fundamental matrix explains, whatever the poses are."""
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
    """How far matches are from where poses say that they may be, in pixels.

    What lies along one camera's ray, from the camera to infinity, is an arc for the other: the error
    is the distance from that arc, the mean of both ways. So a match behind a camera is wrong too.

    Args:
      one, other: what the two cameras see.
      poses: of both, camera-to-world.
    """
    seen = [each.directions @ pose[:, :3].T for each, pose in zip((one, other), poses, strict=True)]
    between = poses[0][:, 3] - poses[1][:, 3]
    there = _from_arc(seen[1], seen[0], between) / other.pixel
    back = _from_arc(seen[0], seen[1], -between) / one.pixel
    return 0.5 * (there + back)


def _from_arc(directions: np.ndarray, distant: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Angles of unit vectors from the shorter arcs between distant points and a place."""
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


# What files have in place of camera-to-world with OpenGL axes, and how that becomes of it.
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

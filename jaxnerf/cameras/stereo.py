"""Cameras for headsets: panoramas, and pairs of eyes.

Conventions as in `jaxnerf.cameras`. All functions are for upright poses
(`jaxnerf.cameras.paths.level`). The distance between the eyes is in the poses' unit; that of people is
about 0.063 m.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras.camera import Camera

Poses = Float[np.ndarray, "*batch rows 4"]


def panorama(poses: Poses, width: int, height: int, degrees: float = 360.0) -> Camera:
    """Equirectangular cameras: longitude to the right, latitude from the zenith down to the nadir.

    The centre of the image is the viewing direction of the pose.

    Args:
      poses: poses of one camera or more.
      width, height: size of an image in pixels.
      degrees: range of longitude of the image: 360, or 180 for an eye of VR180.
    """
    plain = Camera.pinhole(poses, 1.0, width, height)
    focal = np.array([width / math.radians(degrees), height / math.pi], np.float32)
    focal = np.broadcast_to(focal, plain.focal.shape)
    return dataclasses.replace(plain, focal=focal, lens="equirectangular")


def eyes(cameras: Camera, distance: float) -> tuple[Camera, Camera]:
    """A left and a right camera for each camera: shifted to the sides, with parallel axes.

    Points at infinity have the same position in both images; for pinhole cameras the position of a point
    is farther to the left in the right image, by focal length * distance / depth.

    Args:
      cameras: one or more.
      distance: distance between the two.
    """
    left, right = (_aside(cameras, side * distance) for side in (-0.5, 0.5))
    return left, right


def omnidirectional_eye(camera: Camera, offset: float) -> Camera:
    """The cameras of one eye's image for omnidirectional stereo: one for each column.

    When a head turns, its eyes move on a circle. Each column of the image is the view straight ahead of
    an eye at its position on the circle when the head looks in the column's direction: rays are tangent
    to the circle (Google, "Rendering Omni-directional Stereo Content", 2015). `jaxnerf.render_image`
    takes the result as the camera of the whole image.

    Args:
      camera: a single equirectangular camera at the centre of the head.
      offset: distance of the eye to the right of the centre: half the distance between the eyes, negative
        for the left eye.
    """
    if camera.lens != "equirectangular" or np.ndim(camera.focal) != 1:
        raise ValueError("omnidirectional_eye: camera must be a single equirectangular one")
    count = int(np.asarray(camera.size)[0])
    middles = np.arange(count) + 0.5
    longitudes = (middles - float(camera.centre[0])) / float(camera.focal[0])
    pose = np.asarray(camera.camera_to_world, np.float64)[:3]
    right, up, back = pose[:, 0], pose[:, 1], pose[:, 2]
    sines, cosines = np.sin(longitudes)[:, None], np.cos(longitudes)[:, None]
    rights = cosines * right + sines * back
    poses = np.stack(
        [rights, np.broadcast_to(up, rights.shape), cosines * back - sines * right, 0.0 * rights],
        axis=-1,
    )
    poses[:, :, 3] = pose[:, 3] + offset * rights
    return dataclasses.replace(
        camera,
        camera_to_world=poses,
        focal=np.broadcast_to(np.asarray(camera.focal), (count, 2)),
        centre=np.stack([middles, np.full(count, float(camera.centre[1]))], -1).astype(np.float32),
        distortion=np.broadcast_to(np.asarray(camera.distortion), (count, len(camera.distortion))),
        size=np.broadcast_to(np.asarray(camera.size), (count, 2)),
    )


def _aside(cameras: Camera, offset: float) -> Camera:
    poses = np.array(cameras.camera_to_world, np.float64)
    poses[..., :3, 3] += offset * poses[..., :3, 0]
    return dataclasses.replace(cameras, camera_to_world=poses)

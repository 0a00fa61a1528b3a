"""Cameras, and the rays that they cast; with their lenses, stances, paths and stereo pairs.

Conventions, everywhere in jaxnerf. A pose is camera-to-world, [R | position] with OpenGL axes: the
camera's +x is right, +y up, and it looks along -z. Pixel coordinates are (x, y), x to the right and
y down, with the origin at the image's upper left corner: the centre of the first pixel is (0.5, 0.5).
"""

from jaxnerf.cameras.camera import (
    Camera,
    Rays,
    cast_rays,
    look_at_pose,
    pixel_centres,
    project,
    to_ndc,
    within_box,
)

__all__ = [
    "Camera",
    "Rays",
    "cast_rays",
    "look_at_pose",
    "pixel_centres",
    "project",
    "to_ndc",
    "within_box",
]

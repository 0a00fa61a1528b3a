"""Reader of instant-ngp's format: one transforms.json with photographs beside it.

The scene's frame is computed from the cameras, see `jaxnerf.scenes.frames.normalising`. aabb_scale, scale
and offset describe instant-ngp's bounding box, not the scene, and are not used.
"""

from pathlib import Path

from jaxnerf.scenes import Options, Scene, nerfstudio


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format. True for nerfstudio's too, which must be tried before."""
    return (folder / "transforms.json").exists()


def read(folder: Path, options: Options = Options()) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Focal lengths are fl_x and fl_y in pixels, or camera_angle_x and camera_angle_y in radians; the
    principal point cx and cy is the middle of the photograph if they are missing; k1 to k4, p1 and p2 are
    those of the lens "opencv", or with is_fisheye k1 to k4 those of "fisheye". A frame may have its own
    values of all of these. Frames without a file are left out. A mask is an image dynamic_mask_NAME.png
    beside NAME.jpg, whose pixels that are not black are ignored. In the order of names every 8th frame,
    from the first on, is for testing. near and far are as in `jaxnerf.scenes.nerfstudio`.
    """
    return nerfstudio.read(folder, options, "instant-ngp")

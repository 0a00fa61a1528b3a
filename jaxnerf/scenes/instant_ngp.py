"""Reader of instant-ngp's format: one transforms.json with photographs beside it.

The scene's frame is found from the cameras, see `jaxnerf.scenes.frames.normalising`. aabb_scale, scale
and offset say in what part of the world instant-ngp can put things, and nothing of the scene: they have
no use here.
"""

from pathlib import Path

from jaxnerf.scenes import Options, Scene, nerfstudio


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format, which nerfstudio's looks like."""
    return (folder / "transforms.json").exists()


def read(folder: Path, options: Options = Options()) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Focal lengths are fl_x and fl_y in pixels, or camera_angle_x and camera_angle_y in radians; the
    principal point cx and cy is in the middle where they are missing; k1 to k4, p1 and p2 are those of
    the lens "opencv", or with is_fisheye k1 to k4 those of "fisheye". All of these may stand in a
    frame too. Frames without a file are left out. A picture dynamic_mask_NAME.png beside NAME.jpg
    ignores what it shows in another colour than black. Of the frames in the order of their names every
    8th from the first on is for testing. near and far are what the file says, or found.
    """
    return nerfstudio.read(folder, options, "instant-ngp")

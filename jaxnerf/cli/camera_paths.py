"""The camera path of `jaxnerf render`: poses and lens from its flags, and messages about them."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from jaxnerf.cameras import Camera, paths, stereo
from jaxnerf.exports.pictures import Shown
from jaxnerf.runs.run import Run
from jaxnerf.scenes.frames import looked_at
from jaxnerf.scenes.path_files import PathFile, flight, read_path, repeated

PICTURES = ("camera", "panorama", "stereo", "ods", "vr180")
SPHERES = ("panorama", "ods", "vr180")
_FRAMES = 120
# Default widths of panoramas, and of an eye's image of VR180, in pixels.
_WIDTHS = {"panorama": 2048, "ods": 2048, "vr180": 1024}
# Distance between the eyes, as a fraction of the distance to the point looked at: a rule of thumb of
# stereo photography.
_EYES = 1.0 / 30.0


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of poses and lenses."""
    flags.DEFINE_string(
        "path",
        "orbit",
        "orbit, ellipse, spiral, cameras, cameras:LIST, or a JSON file of poses. LIST has numbers of "
        "training cameras or names of their photographs, for a smooth flight through them; without it "
        "all training cameras are rendered in turn",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "frames",
        None,
        "number of frames; 120 by default. With a FILE: the number of frames of a smooth flight through "
        "its poses; without it only its poses are rendered",
        flag_values=values,
        lower_bound=2,
    )
    flags.DEFINE_bool(
        "loop",
        None,
        "whether a flight through cameras or the poses of a FILE returns to its first pose",
        flag_values=values,
    )
    flags.DEFINE_list(
        "up",
        None,
        "x,y,z: the upward direction in the frame of the scene's files; by default as the cameras were "
        "held",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "picture",
        None,
        PICTURES,
        "camera: the image of the path's camera; panorama: all directions, equirectangular; stereo: the "
        "images of two eyes, the left eye's at the left; ods: omnidirectional stereo, two panoramas, the "
        "left eye's above; vr180: stereo of half a panorama for each eye. Panoramas are upright, except "
        "at the poses of a FILE (--level)",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "level", None, "whether poses are rotated upright in their positions", flag_values=values
    )
    flags.DEFINE_float(
        "eye_distance",
        None,
        "distance between the eyes, in the unit of the scene's files; by default a thirtieth of the "
        "distance to the point that the cameras look at",
        flag_values=values,
    )
    for side, shape in (
        ("width", "that of FILE or of the photographs"),
        ("height", "the one with the same aspect ratio"),
    ):
        flags.DEFINE_integer(
            side,
            None,
            f"{side} in pixels of a panel, or of an eye's picture; by default {shape}. With another "
            "aspect ratio than the camera's the picture shows more at two sides",
            flag_values=values,
            lower_bound=1,
            upper_bound=16_384,
        )
    flags.DEFINE_float(
        "fov",
        None,
        "horizontal field of view in degrees, of a lens without distortion; by default the lens is that "
        "of FILE or of the first training camera",
        flag_values=values,
    )


def chosen_path(run: Shown, values: Any) -> PathFile:
    """The cameras of the flags, in the user's frame; for two eyes the cameras in the middle between them.

    Raises:
      SceneError, flags.Error: something is wrong; in one line.
    """
    up = _up(values)
    found = _path(run, values, up)
    picture = values.picture or found.picture
    is_file, notes = bool(found.from_file), list(found.notes)
    cameras = found.cameras
    should_level = (picture in SPHERES and not is_file) if values.level is None else values.level
    if should_level:
        up_here = paths.up_of(np.asarray(run.cameras().camera_to_world)) if up is None else up
        cameras = dataclasses.replace(
            cameras, camera_to_world=paths.level(np.asarray(cameras.camera_to_world), up_here)
        )
        notes.append(_said_up(up_here, up is None))
    elif up is not None and isinstance(run, Run) and (is_file or values.path.startswith("cameras")):
        raise flags.Error(f"--up: has no effect on the poses of {values.path} without --level")
    if picture in SPHERES and isinstance(run, Run) and run.config.scene.space == "forward":
        notes.append("the scene was seen from one side: most of a panorama shows nothing")
    cameras = _through_lens(cameras, picture, values)
    return dataclasses.replace(
        found, cameras=cameras, picture=picture, notes=tuple(dict.fromkeys(notes))
    )


def eye_distance(run: Run, values: Any) -> tuple[float, str]:
    """The distance between the eyes in the user's unit, and a message about it.

    Raises:
      flags.Error: it is not above 0; or none was given, and it cannot be computed from the scene.
    """
    if values.eye_distance is not None:
        if values.eye_distance <= 0.0:
            raise flags.Error(f"--eye_distance: {values.eye_distance:g} is not above 0")
        return values.eye_distance, ""
    poses = np.asarray(run.cameras().camera_to_world, np.float64)
    point = looked_at(poses)
    if point is not None:
        away = float(np.median(np.linalg.norm(poses[:, :, 3] - point, axis=-1)))
    elif not run.scene.unbounded:
        away = middle_distance(run)
    else:
        raise flags.Error(
            "--eye_distance: say it, in the unit of the scene's files: the cameras look at no one place "
            "whose distance could tell"
        )
    said = f"eyes {away * _EYES:.3g} apart, a thirtieth of the way to what the cameras look at"
    return away * _EYES, f"{said} (--eye_distance)"


def middle_distance(run: Run) -> float:
    """The distance halfway between the scene's near and far, in the user's unit."""
    return 0.5 * (run.scene.near + run.scene.far) * run.scene.to_user.scale


def of_shape(cameras: Camera, width: int | None, height: int | None) -> Camera:
    """Cameras with images of another size; what was visible stays visible and in the middle.

    Args:
      cameras: a batch of one size, or a single camera.
      width, height: size of the images in pixels; None is computed from the other one.
    """
    wide, high = (int(side) for side in np.reshape(cameras.size, (-1, 2))[0])
    if not width and not height:
        return cameras
    width = width or max(1, round(wide * (height or high) / high))
    if not height:
        return cameras.resized(width, max(1, round(high * width / wide)))
    scale = min(width / wide, height / high)
    # Up to rounding the size has the same aspect ratio, as if only one side were given.
    if abs(wide * scale - width) < 1.0 and abs(high * scale - height) < 1.0:
        return cameras.resized(width, height)
    margin = 0.5 * (np.array([width, height]) - scale * np.array([wide, high]))
    return dataclasses.replace(
        cameras,
        focal=np.asarray(cameras.focal) * np.float32(scale),
        centre=np.asarray(cameras.centre) * np.float32(scale) + margin.astype(np.float32),
        size=np.broadcast_to(np.array([width, height], np.int32), np.shape(cameras.size)),
    )


def _path(run: Shown, values: Any, up: np.ndarray | None) -> PathFile:
    trained = run.cameras()
    poses, count = np.asarray(trained.camera_to_world, np.float64), values.frames or _FRAMES
    kind, _, names = values.path.partition(":")
    if kind == "cameras" and isinstance(run, Run):
        return _through_cameras(run, values, names)
    if kind not in ("orbit", "ellipse", "spiral") or names:
        return _of_file(Path(values.path), values, trained[0])
    if values.loop is not None:
        raise flags.Error(f"--loop: has no effect on {kind}, which always returns")
    here, notes = paths.up_of(poses) if up is None else up, ()
    if kind in ("orbit", "ellipse"):
        notes = (_said_up(here, up is None),)
        if said := paths.orbit_note(poses, up):
            notes = (said if kind == "orbit" else f"no {kind}: {said}", *notes)
    try:
        if kind == "spiral" and isinstance(run, Run):
            made = paths.spiral(poses, middle_distance(run), count, up=up)
        else:
            made = (paths.orbit_of if kind == "orbit" else paths.ellipse_of)(poses, count, up)
    except ValueError as error:  # a camera looks along up
        raise flags.Error(f"--up: {error}") from None
    return PathFile(repeated(trained[0], made), notes=notes, from_file=False)


def _through_cameras(run: Run, values: Any, names: str) -> PathFile:
    trained, known = run.cameras(), run.scene.splits["train"].names
    if not names:
        if values.frames or values.loop is not None:
            raise flags.Error("--path: --frames and --loop want some cameras, as in cameras:0,5,9")
        chosen = list(range(len(trained)))
    else:
        chosen = [_camera_of(name, known) for name in names.split(",")]
    cameras = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], trained)
    notes = ()
    if len({tuple(size) for size in cameras.size.tolist()}) > 1:
        cameras = repeated(cameras[0], cameras.camera_to_world)
        notes = (
            "the photographs have several sizes: all pictures are through the first one's lens",
        )
    if names and len(chosen) > 1:
        cameras = flight(cameras, values.frames or _FRAMES, bool(values.loop))
    elif names and (values.frames or values.loop is not None):
        flag = "frames" if values.frames else "loop"
        raise flags.Error(f"--{flag}: {values.path} has one pose, a flight needs two")
    return PathFile(cameras, notes=notes, from_file=False)


def _camera_of(name: str, known: tuple[str, ...]) -> int:
    """The camera with a number, or with a photograph's name, with or without its folder and suffix.

    >>> [_camera_of(name, ("a/0003.png", "a/0001.png")) for name in ("1", "0001", "0003.png")]
    [1, 1, 0]
    """
    number = int(name) if name.isdecimal() and int(name) < len(known) else None
    for part in (str, lambda each: Path(each).name, lambda each: Path(each).stem):
        found = [index for index, each in enumerate(known) if part(each) == name]
        if len(found) > 1:
            raise flags.Error(f"--path: {len(found)} photographs are called {name!r}")
        if found and number is not None and name == str(number) and number != found[0]:
            raise flags.Error(
                f"--path: {name} is the number of {known[number]} and the name of {known[found[0]]}; "
                "write the name with its suffix"
            )
        if found:
            return found[0]
    if number is not None:
        return number
    if name.isdecimal():
        raise flags.Error(f"--path: camera {name} is not one of 0 to {len(known) - 1}")
    raise flags.Error(
        f"--path: no training photograph is called {name!r}, the first is {known[0]!r}"
    )


def _of_file(path: Path, values: Any, training: Camera) -> PathFile:
    found = read_path(path, training)
    cycle = found.cycle if values.loop is None else values.loop
    if not values.frames:
        if values.loop is not None:
            raise flags.Error("--loop: only a flight returns; say how many --frames it has")
        return found
    if len(found.cameras) < 2:
        raise flags.Error(f"--frames: {path} has one pose, a flight needs two")
    cameras = flight(found.cameras, values.frames, cycle)
    rate = len(cameras) / found.seconds if found.seconds else found.frames_per_second
    return dataclasses.replace(found, cameras=cameras, frames_per_second=rate)


def _through_lens(cameras: Camera, picture: str, values: Any) -> Camera:
    poses, width, height = np.asarray(cameras.camera_to_world), values.width, values.height
    sphere = cameras.lens == "equirectangular"
    if values.fov is not None:
        if sphere or picture in SPHERES:
            raise flags.Error("--fov: has no effect on a panorama")
        if not 0.1 <= values.fov <= 170.0:
            raise flags.Error(f"--fov: {values.fov:g} is not from 0.1 to 170 degrees")
    if picture in SPHERES:
        degrees, shape = (180.0, 1.0) if picture == "vr180" else (360.0, 2.0)
        if sphere and not width and not height:
            width, height = (int(side) for side in np.asarray(cameras.size)[0])
        width = width or (max(1, round(height * shape)) if height else _WIDTHS[picture])
        return stereo.panorama(poses, width, height or max(1, round(width / shape)), degrees)
    cameras = of_shape(cameras, width, height)
    if values.fov is None:
        return cameras
    width, height = (int(side) for side in np.asarray(cameras.size)[0])
    focal = 0.5 * width / math.tan(math.radians(0.5 * values.fov))
    return Camera.pinhole(poses, focal, width, height)


def _up(values: Any) -> Float[np.ndarray, "3"] | None:
    if values.up is None:
        return None
    try:
        up = np.array([float(part) for part in values.up])
    except ValueError:
        up = np.zeros(0)
    if up.shape != (3,) or not np.isfinite(up).all() or not np.linalg.norm(up) > 0.0:
        raise flags.Error(f"--up: {','.join(values.up)} is not a direction, as 0,0,1 is one")
    return up / np.linalg.norm(up)


def _said_up(up: np.ndarray, is_found: bool) -> str:
    text = ", ".join(f"{x + 0.0:.2f}" for x in np.where(np.abs(up) < 5e-3, 0.0, up))
    return f"up is ({text}), as the photographs were held (--up)" if is_found else f"up is ({text})"

"""`jaxnerf render`: make a video from a run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from jaxnerf import paths
from jaxnerf.cameras import Camera
from jaxnerf.checkpoints import disk_errors
from jaxnerf.cli import common
from jaxnerf.evaluation import to_8bit
from jaxnerf.exports import video
from jaxnerf.exports.video import SUFFIXES
from jaxnerf.runs import load_run
from jaxnerf.scenes.json_files import field_of_view, frames_of, load_json, read_pose

_HELP = """
usage: jaxnerf render RUN [--path orbit|spiral|FILE] [--out video.mp4] [flags]

Renders a camera path from the run's folder alone; the photographs are not needed. FILE is a JSON file
with poses in the frame of the scene's own files, laid out as NeRF's Blender transforms: {"frames":
[{"transform_matrix": [[...], ...]}, ...]} and, if it should not be that of the training cameras, a
"camera_angle_x" in radians. The suffix of the output decides its kind: .mp4, .gif or .webp.

Examples:
  jaxnerf render runs/lego --path orbit --out lego.mp4
  jaxnerf render runs/lego --path orbit --frames 60 --width 320 --panels rgb,depth,normals --out lego.gif
  jaxnerf render runs/lego --path keys.json --frames 240 --out flight.mp4
"""

_PANELS = ("rgb", "depth", "normals")


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "path", "orbit", "orbit, spiral, or a JSON file of poses", flag_values=values
    )
    flags.DEFINE_string("out", None, "the video; RUN/PATH.mp4 by default", flag_values=values)
    flags.DEFINE_integer(
        "frames",
        None,
        "how many; 120 by default. For a FILE: a smooth flight of so many frames through its poses; "
        "by default just its poses",
        flag_values=values,
        lower_bound=2,
    )
    flags.DEFINE_integer(
        "width",
        0,
        "of a panel in pixels; by default that of the photographs",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_float("fps", 30.0, "frames a second", flag_values=values, lower_bound=0.1)
    flags.DEFINE_list(
        "panels", ["rgb"], f"side by side: any of {','.join(_PANELS)}", flag_values=values
    )
    return values


def main(arguments: Sequence[str]) -> None:
    """Render; see the help.

    Raises:
      RunError, flags.Error: in one line what is wrong.
    """
    values = _flags()
    (folder,) = common.parse(values, arguments, _HELP, ["RUN"])

    if not values.panels:
        raise flags.Error(f"--panels: name at least one of {', '.join(_PANELS)}")
    for panel in values.panels:
        if panel not in _PANELS:
            raise flags.Error(f"--panels: {panel!r} is not one of {', '.join(_PANELS)}")
    out = Path(values.out) if values.out else Path(folder) / f"{Path(values.path).stem}.mp4"
    if out.suffix not in SUFFIXES:
        raise flags.Error(f"--out: {out} does not end in one of {', '.join(SUFFIXES)}")
    if missing := video.missing_encoder(out):
        raise flags.Error(f"--out: {out} needs the package {missing}; .gif and .webp do not")
    if values.out and not out.parent.is_dir():
        raise flags.Error(f"--out: {out.parent}: no such folder")
    common.prepare_cpu()
    common.use_compilation_cache()

    run = load_run(folder)
    trained = np.asarray(run.cameras().camera_to_world)
    frames, angle = values.frames or 120, None
    if values.path == "orbit":
        poses = paths.orbit_of(trained, frames)
    elif values.path == "spiral":
        middle = 0.5 * (run.scene.near + run.scene.far) * run.scene.to_user.scale
        poses = paths.spiral(trained, middle, frames)
    else:
        poses, angle = read_poses(Path(values.path))
        if values.frames:
            if len(poses) < 2:
                raise flags.Error(f"--frames: {values.path} has one pose, a flight needs two")
            poses = paths.spline(poses, values.frames)
    cameras = path_cameras(run, poses, values.width, angle)
    render_video(run, cameras, out, values.panels, values.fps)
    print(f"left {out}: {len(cameras)} frames")


def path_cameras(run, poses: np.ndarray, width: int = 0, angle: float | None = None) -> Camera:
    """Cameras for poses: with the lens of the first training camera, or of a field of view.

    Args:
      run: from `load_run`.
      poses: [N, 3, 4].
      width: of the pictures, whose shape is that of the photographs; 0 for that of the photographs.
      angle: horizontal field of view in radians, if not that of the photographs.
    """
    first = run.cameras()[0]
    full_width, full_height = (int(side) for side in np.asarray(first.size))
    if width:
        first = first.resized(width, max(1, round(full_height * width / full_width)))
    if angle is not None:
        size = np.asarray(first.size)
        focal = 0.5 * size[0] / np.tan(0.5 * angle)
        first = Camera.pinhole(np.asarray(first.camera_to_world), focal, *map(int, size))
    count = len(poses)
    repeated = {
        name: np.broadcast_to(
            np.asarray(getattr(first, name)), (count, *np.shape(getattr(first, name)))
        )
        for name in ("focal", "centre", "distortion", "size")
    }
    return dataclasses.replace(first, camera_to_world=np.asarray(poses, np.float64), **repeated)


def render_video(
    run,
    cameras: Camera,
    out: Path,
    panels: Sequence[str] = ("rgb",),
    frames_per_second: float = 30.0,
) -> None:
    """Render cameras one after the other into a video, with a progress line."""
    line = common.LiveLine()
    scale = run.scene.to_user.scale
    range_of_depth = run.scene.near * scale, run.scene.far * scale
    with disk_errors(out), video.open_video(out, frames_per_second) as write:
        for index in range(len(cameras)):
            seen = run.render(cameras[index], with_normals="normals" in panels)
            if index == 0 and run.scene.unbounded:
                # Where depths have no end, the colours are for those of the first picture.
                shown = seen.depth[seen.opacity > 0.5]
                low, high = np.percentile(shown, (2, 98)) if shown.size else range_of_depth
                range_of_depth = float(low), max(float(high), float(low) * 1.001)
            pictures = {
                "rgb": lambda s=seen: s.colour,
                "depth": lambda s=seen, r=range_of_depth: video.colour_depth(
                    s.depth, s.opacity, *r
                ),
                "normals": lambda s=seen: video.colour_normals(s.normals, s.opacity),
            }
            write(to_8bit(np.concatenate([pictures[panel]() for panel in panels], axis=1)))
            done = index + 1
            line.show(f"{out.name} {common.bar(done, len(cameras))}", last=done == len(cameras))


def read_poses(path: Path) -> tuple[np.ndarray, float | None]:
    """Poses [N, 3, 4] and, if it says one, the field of view of a JSON file; see the help.

    Raises:
      SceneError: the file is missing or wrong.
    """
    contents = load_json(path)
    poses = [
        read_pose(where, frame.get("transform_matrix"))
        for where, frame in frames_of(path, contents)
    ]
    return np.stack(poses), field_of_view(path, contents) if "camera_angle_x" in contents else None

"""`jaxnerf render`: make a video from a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from jaxnerf import paths
from jaxnerf.cameras import Camera
from jaxnerf.cli import common
from jaxnerf.cli.path_files import flight, read_path, repeated
from jaxnerf.evaluation import to_8bit
from jaxnerf.exports import video
from jaxnerf.exports.video import SUFFIXES
from jaxnerf.runs.files import disk_errors
from jaxnerf.runs.run import load_run

_HELP = """
usage: jaxnerf render RUN [--path orbit|spiral|FILE] [--out video.mp4] [flags]

Renders a camera path from the run's folder alone; the photographs are not needed. FILE is a JSON file
with poses in the frame of the scene's own files, laid out as NeRF's Blender transforms: {"frames":
[{"transform_matrix": [[...], ...]}, ...]}; and if pictures should not be as those of the training
cameras, with camera_angle_x, camera_angle_y, fl_x, fl_y, cx, cy, w, h, k1 to k4, p1, p2 or camera_model
for all or for a frame. Or it is nerfstudio's camera_path.json. What else would change the pictures is
refused. The suffix of the output decides its kind: .mp4, .gif or .webp.

Examples:
  jaxnerf render runs/lego --path orbit --out lego.mp4
  jaxnerf render runs/lego --path orbit --frames 60 --width 320 --panels rgb,depth,normals --out lego.gif
  jaxnerf render runs/lego --path keys.json --frames 240 --out flight.mp4
"""

_PANELS = ("rgb", "depth", "normals")
_FRAMES_PER_SECOND = 30.0


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
        "of a panel in pixels; by default that of FILE or of the photographs",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_float(
        "fps",
        None,
        "frames a second; by default what FILE says, or 30",
        flag_values=values,
        lower_bound=0.1,
    )
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
    frames, rate = values.frames or 120, None
    if values.path == "orbit":
        cameras = path_cameras(run, paths.orbit_of(trained, frames), values.width)
    elif values.path == "spiral":
        middle = 0.5 * (run.scene.near + run.scene.far) * run.scene.to_user.scale
        cameras = path_cameras(run, paths.spiral(trained, middle, frames), values.width)
    else:
        found = read_path(Path(values.path), run.cameras()[0])
        cameras, rate = found.cameras, found.frames_per_second
        for note in found.notes:
            print(note)
        if values.frames:
            if len(cameras) < 2:
                raise flags.Error(f"--frames: {values.path} has one pose, a flight needs two")
            cameras = flight(cameras, values.frames, found.cycle)
            rate = len(cameras) / found.seconds if found.seconds else rate
        if values.width:
            cameras = _of_width(cameras, values.width)
    render_video(run, cameras, out, values.panels, values.fps or rate or _FRAMES_PER_SECOND)
    print(f"left {out}: {len(cameras)} frames")


def path_cameras(run, poses: np.ndarray, width: int = 0) -> Camera:
    """Cameras for poses, with the lens of the first training camera.

    Args:
      run: from `load_run`.
      poses: [N, 3, 4].
      width: of the pictures, whose shape is that of the photographs; 0 for that of the photographs.
    """
    first = run.cameras()[0]
    return repeated(_of_width(first, width) if width else first, poses)


def _of_width(cameras: Camera, width: int) -> Camera:
    """Cameras, of one size, with pictures of another width and the same shape."""
    full_width, full_height = (int(side) for side in np.asarray(cameras.size).reshape(-1, 2)[0])
    return cameras.resized(width, max(1, round(full_height * width / full_width)))


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

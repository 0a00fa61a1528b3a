"""`jaxnerf render`: render a video, or numbered images, of a camera path through a run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jaxnerf.cameras import Camera
from jaxnerf.cli import camera_paths, common, volumes
from jaxnerf.cli.render_processes import render_in_processes
from jaxnerf.exports import depth, video
from jaxnerf.exports.frames import Frames, assemble, begin, remove, render_frames
from jaxnerf.exports.pictures import Eyes, Look, Shown, depth_range, frame_size
from jaxnerf.exports.scans import Scan
from jaxnerf.exports.video import SUFFIXES
from jaxnerf.runs.files import disk_errors
from jaxnerf.runs.run import Run, load_run
from jaxnerf.scenes.path_files import repeated
from jaxnerf.scenes.volume_files import without_suffix

_HELP = """
usage: jaxnerf render RUN [--path PATH] [--out video.mp4] [flags]
       jaxnerf render VOLUME [--compositing HOW] [--window LOW,HIGH] [--out video.mp4] [flags]

Renders a camera path from the run's folder alone; the photographs are not needed. PATH is orbit, ellipse
or spiral, cameras:0,5,9 for a flight through training cameras, or a FILE: JSON with poses in the frame of
the scene's own files, in the layout of NeRF's Blender transforms: {"frames": [{"transform_matrix":
[[...], ...]}, ...]}. The lens is that of the first training camera unless FILE has camera_angle_x,
camera_angle_y, fl_x, fl_y, cx, cy, w, h, k1 to k4, p1, p2 or camera_model, for all frames or for one.
FILE can also be nerfstudio's camera_path.json. Other keys that would change the pictures are refused.

VOLUME is a scanner's volume, .nii, .nii.gz, .nrrd, .npy or .npz, rendered from an orbit or along a FILE
of poses in its own frame.

The suffix of the output determines its format: .mp4, .gif or .webp; without one it is a folder of
numbered PNGs. To continue an interrupted rendering, repeat the command: existing frames are kept.

Examples:
  jaxnerf render runs/lego --path orbit --out lego.mp4
  jaxnerf render runs/lego --path orbit --frames 60 --width 320 --panels rgb,depth,normals --out lego.gif
  jaxnerf render runs/lego --path keys.json --frames 240 --out flight.mp4
  jaxnerf render runs/lego --path cameras:0,20,40 --out frames --bits 16 --depth exr
  jaxnerf render runs/garden --path cameras:12 --picture ods --eye_distance 0.063 --out here
  jaxnerf render head.nii.gz --compositing attenuation --out xray.mp4
"""

_PANELS = ("rgb", "depth", "normals")
_FRAMES_PER_SECOND = 30.0
_EYES: dict[str, Eyes] = {
    "stereo": "side_by_side",
    "vr180": "side_by_side",
    "ods": "omnidirectional",
}
# Suffixes of file names by which players recognise the kind of a video.
_NAMES = {"camera": "", "panorama": "_360", "stereo": "_LR", "ods": "_360_TB", "vr180": "_180_LR"}
_LARGEST_WEBP = 16_383
_FASTEST_GIF = 50  # its clock counts hundredths of a second, and players show one of them as ten
_KEPT = "; frames that are whole are kept, and the same command goes on"


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    camera_paths.define_flags(values)
    volumes.define_flags(values)
    flags.DEFINE_string(
        "out",
        None,
        "the video, or a folder of numbered PNGs; RUN/PATH.mp4 by default, with the endings of names by "
        "which players recognise videos for headsets: _360, _360_TB, _180_LR, _LR",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overwrite", False, "replace frames that have other settings", flag_values=values
    )
    flags.DEFINE_float(
        "fps",
        None,
        "frames per second; by default those of FILE, or 30",
        flag_values=values,
        lower_bound=0.1,
    )
    flags.DEFINE_list(
        "panels", ["rgb"], f"images side by side: any of {','.join(_PANELS)}", flag_values=values
    )
    flags.DEFINE_enum("bits", "8", ["8", "16"], "bits per colour; 16 in PNGs", flag_values=values)
    flags.DEFINE_enum(
        "depth",
        None,
        ["exr", "png"],
        "for a folder of PNGs: write depth too, in the unit of the scene's files, as OpenEXR in floating "
        "point or as PNG of 16 bits; 0 where there is no surface",
        flag_values=values,
    )
    flags.DEFINE_float(
        "depth_level",
        None,
        "depth of one level of a PNG of depth, in the unit of the scene's files; by default the smallest "
        "power of ten with which the scene fits into 16 bits, which is printed",
        flag_values=values,
        lower_bound=1e-12,
    )
    flags.DEFINE_integer(
        "supersampling",
        None,
        "number of rays along a pixel's side, whose square is the number of rays of a pixel; by default "
        "one ray, and four at edges if the run's configuration has evaluation.edge_supersampling",
        flag_values=values,
        lower_bound=1,
        upper_bound=16,
    )
    flags.DEFINE_integer(
        "processes",
        1,
        "number of processes that render frames, each on a part of the cores; one uses all accelerators",
        flag_values=values,
        lower_bound=1,
        upper_bound=256,
    )
    return values


def main(arguments: Sequence[str]) -> None:
    """Render; see the help.

    Raises:
      RunError, SceneError, flags.Error: something is wrong; in one line.
    """
    values = _flags()
    (folder,) = common.parse(values, arguments, _HELP, ["RUN"])
    _check(values)
    volumes.check(folder, values)
    _check_out(_out(folder, values, "camera"), values)
    if values.processes > 1:
        # A process that preallocates an accelerator's memory would leave none to the others.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    common.prepare_cpu()
    common.use_compilation_cache()

    run, said = volumes.opened(folder, values) or (load_run(folder), ())
    found = camera_paths.chosen_path(run, values)
    out = _out(folder, values, found.picture)
    notes, eyes, distance = [*said, *found.notes], _EYES.get(found.picture, "one"), 0.0
    if eyes != "one" and isinstance(run, Run):
        distance, said = camera_paths.eye_distance(run, values)
        notes += [said] if said else []
    elif values.eye_distance is not None:
        raise flags.Error(f"--eye_distance: has no effect with --picture {found.picture}")
    elif eyes != "one":
        raise flags.Error(f"--path: {values.path} is for two eyes, which are of runs only")
    look = Look(tuple(values.panels), eyes, distance, values.supersampling or 0)
    if out.suffix == ".webp" and max(frame_size(found.cameras[0], look)) > _LARGEST_WEBP:
        raise flags.Error(f"--out: {out}: a WebP has at most {_LARGEST_WEBP:,} pixels along a side")
    level = values.depth_level or depth.fitting_level(_farthest(run, found.cameras))
    if values.depth:
        notes.append(_said_depth(values.depth, level))
    for note in notes:
        print(note)
    frames = _frames(
        run, found.cameras, out, look, bits=int(values.bits), depth=values.depth or "",
        depth_level=level,
    )  # fmt: skip
    rate = values.fps or found.frames_per_second or _FRAMES_PER_SECOND
    if out.suffix == ".gif" and rate > _FASTEST_GIF:
        raise flags.Error(f"--fps: a GIF has at most {_FASTEST_GIF} frames a second, not {rate:g}")
    _render(run, frames, out, rate, values.processes, overwrite=values.overwrite)
    print(f"wrote {out}: {len(frames)} frame{'s' if len(frames) > 1 else ''}")


def path_cameras(run: Run, poses: np.ndarray, width: int = 0) -> Camera:
    """Cameras with given poses and the lens of the first training camera.

    Args:
      run: a run from `load_run`.
      poses: [N, 3, 4].
      width: width of the images, whose aspect ratio is that of the photographs; 0 for the photographs'
        width.
    """
    return repeated(camera_paths.of_shape(run.cameras()[0], width or None, None), poses)


def render_video(run: Run, cameras: Camera, out: Path) -> None:
    """Render cameras in order into a video, with a progress line.

    Raises:
      RunError: the video cannot be written.
    """
    _render(run, _frames(run, cameras, out, Look()), out, _FRAMES_PER_SECOND, overwrite=True)


def _frames(run: Shown, cameras: Camera, out: Path, look: Look, **files: Any) -> Frames:
    """The frames of an output: in its folder, or for a video in a temporary folder beside it."""
    if "depth" in look.panels:
        values = depth_range(run, cameras[0])
        look = Look(look.panels, look.eyes, look.eye_distance, look.supersampling, values)
    folder = out.with_name(f"{out.name}.frames") if out.suffix else out
    return Frames(folder, cameras, look, **files)


def _render(
    run: Shown,
    frames: Frames,
    out: Path,
    frames_per_second: float,
    processes: int = 1,
    *,
    overwrite: bool = False,
) -> None:
    """Render the missing frames, and make a video of all frames if the output is a video."""
    line, total = common.LiveLine(), len(frames)
    with disk_errors(out, _KEPT):
        left = begin(frames, run, overwrite=overwrite)
        done = total - len(left)
        if done:
            print(f"{frames.folder}: {done} of {total} frames are there already")

        def one_more(count: int = 1) -> None:
            nonlocal done
            done += count
            line.show(f"{out.name} {common.bar(done, total)}", last=done == total)

        try:
            if processes > 1 and len(left) > 1 and isinstance(run, Run):
                render_in_processes(frames, run, left, min(processes, len(left)), one_more)
            else:
                render_frames(frames, run, left, one_more)
        except KeyboardInterrupt:
            print(f"\n{frames.folder} has {done} of {total} frames; the same command goes on")
            raise
        if out.suffix:
            assemble(frames, out, frames_per_second)
            remove(frames.folder)


def _check(values: flags.FlagValues) -> None:
    if not values.panels:
        raise flags.Error(f"--panels: name at least one of {', '.join(_PANELS)}")
    for panel in values.panels:
        if panel not in _PANELS:
            raise flags.Error(f"--panels: {panel!r} is not one of {', '.join(_PANELS)}")
    if values.depth_level is not None and values.depth != "png":
        raise flags.Error("--depth_level: has an effect with --depth png only")


def _out(folder: str, values: flags.FlagValues, picture: str) -> Path:
    name = Path(str(values.path).partition(":")[0]).stem
    if values.out:
        return Path(values.out)
    if volumes.names_volume(folder):
        return Path(f"{without_suffix(folder)}_{name}.mp4")
    return Path(folder) / f"{name}{_NAMES[picture]}.mp4"


def _check_out(out: Path, values: flags.FlagValues) -> None:
    if out.suffix not in (*SUFFIXES, ""):
        raise flags.Error(
            f"--out: {out} does not end in one of {', '.join(SUFFIXES)}, or in nothing for a folder of "
            "PNGs"
        )
    if missing := video.missing_encoder(out):
        raise flags.Error(f"--out: {out} needs the package {missing}; .gif and .webp do not")
    if out.suffix:
        for name, given in (("bits", values.bits == "16"), ("depth", values.depth)):
            if given:
                raise flags.Error(
                    f"--{name}: not in a video; name a folder as --out, without a suffix"
                )
    elif values.fps:
        raise flags.Error("--fps: a folder of PNGs has no speed")
    if values.bits == "16" and (missing := video.missing_ffmpeg()):
        raise flags.Error(f"--bits: 16 needs the package {missing}")
    if values.depth and (missing := depth.missing_package(values.depth)):
        raise flags.Error(
            f"--depth: exr needs the package {missing}: pip install 'jaxnerf[export]'; png does not"
        )
    if values.out and not out.parent.is_dir():
        raise flags.Error(f"--out: {out.parent}: no such folder")
    if out.suffix and out.is_dir():
        raise flags.Error(f"--out: {out} is a folder, and has the name of a video")


def _farthest(run: Shown, cameras: Camera) -> float:
    """A distance beyond which no camera of a path sees a surface, in the user's unit."""
    if isinstance(run, Scan):
        return run.farthest(cameras)
    positions, trained = (
        np.asarray(each.camera_to_world, np.float64)[:, :3, 3] for each in (cameras, run.cameras())
    )
    apart = np.linalg.norm(positions[:, None] - trained[None], axis=-1).min(axis=1)
    return float(run.scene.far * run.scene.to_user.scale + apart.max())


def _said_depth(kind: str, level: float) -> str:
    if kind == "exr":
        return "depth: channel Z of OpenEXR, in the unit of the scene's files; 0 where nothing is"
    return (
        f"depth: PNG of 16 bits in levels of {level:g} (--depth_level), in the unit of the scene's "
        f"files; 0 where nothing is, and {65_535 * level:g} for what is farther"
    )

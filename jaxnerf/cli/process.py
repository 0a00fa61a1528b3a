"""`jaxnerf process`: make a scene's folder from photographs or a video without poses."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, get_args

from absl import flags

from jaxnerf.capture import structure_from_motion
from jaxnerf.capture.process import Processed, photographs_in, process
from jaxnerf.capture.structure_from_motion import Settings, is_exhaustive
from jaxnerf.cli import common
from jaxnerf.scenes import SceneError

_HELP = """
usage: jaxnerf process --images DIR | --video FILE --out DIR [flags]

Finds the poses and the lens of photographs by structure from motion (COLMAP, on the CPU;
pip install 'jaxnerf[process]'). It writes a folder for `jaxnerf train --data`:

  transforms.json    cameras, as nerfstudio and instant-ngp read them too
  images/            copies of the photographs, upright, or the sharpest frames of the video
  sparse/0/          COLMAP's model
  sparse_pc.ply      its points

All files are in one frame: the origin is the point that the cameras look at, +z is upward, and the
farthest camera is at distance 1, since photographs alone do not determine the size of a scene.

Examples:
  jaxnerf process --images holiday/statue --out statue
  jaxnerf process --video statue.mov --frames 150 --out statue
"""

_WARN_BELOW = 0.8


def _flags() -> flags.FlagValues:
    values, default = flags.FlagValues(), Settings()
    flags.DEFINE_string("images", None, "folder of PNG or JPEG photographs", flag_values=values)
    flags.DEFINE_string("video", None, "a video file", flag_values=values)
    flags.DEFINE_string("out", None, "folder of the scene, which is created", flag_values=values)
    flags.DEFINE_integer(
        "frames",
        100,
        "number of frames to take from a video: the sharpest frame of each of this many equal parts",
        flag_values=values,
        lower_bound=3,
        upper_bound=5000,
    )
    flags.DEFINE_enum(
        "matching",
        default.matching,
        get_args(structure_from_motion.Matching),
        "exhaustive (each photograph with each) or sequential (with its neighbours by name, and key "
        "frames with each other); auto is sequential for videos and more than 150 photographs",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "cameras",
        default.cameras,
        get_args(structure_from_motion.Cameras),
        "single: photographs of one size share a camera; per_image: for zoom lenses and collections",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "camera_model",
        default.camera_model,
        get_args(structure_from_motion.Lens),
        "COLMAP's name of the lens",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_image_size",
        default.max_image_size,
        "longer side in pixels to which photographs are shrunk to find features; 0 for no limit",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_bool("overwrite", False, "replace a scene in OUT", flag_values=values)
    flags.DEFINE_bool("verbose", False, "show COLMAP's log", flag_values=values)
    return values


def main(arguments: Sequence[str]) -> None:
    """Process; see the help.

    Raises:
      SceneError, RunError, flags.Error: something is wrong; in one line.
    """
    values = _flags()
    common.parse(values, arguments, _HELP)
    if bool(values.images) == bool(values.video):
        raise flags.Error("name either --images or --video")
    if not values.out:
        raise flags.Error("name the folder to make with --out")
    if values["frames"].present and not values.video:
        raise flags.Error("--frames: has no effect without --video")
    source, out = Path(values.images or values.video), Path(values.out)
    if values.images and source.is_file():
        raise SceneError(f"{source}: not a folder; a video goes in with --video")
    if values.video and source.is_dir():
        raise SceneError(f"{source}: not a file; photographs go in with --images")
    settings = Settings(
        matching=values.matching,
        cameras=values.cameras,
        camera_model=values.camera_model,
        max_image_size=values.max_image_size,
        verbose=values.verbose,
    )
    if values.images:
        found, others = photographs_in(source)
        left = f"; left alone: {_names(others)}" if others else ""
        print(f"{len(found)} photographs in {source}{left}", flush=True)
    stages = _Stages()
    try:
        processed = process(
            source,
            out,
            settings,
            frames=values.frames,
            overwrite=values.overwrite,
            progress=stages,
        )
    finally:
        stages.end()
    _report(processed, out, is_exhaustive(settings, processed.total, bool(values.video)))


class _Stages:
    """A progress line for each stage, with its duration."""

    _COUNTED: ClassVar = {"video": "frames looked at", "cameras": "registered"}

    def __init__(self):
        self._stage, self._text, self._begun = "", "", 0.0
        self._line = common.LiveLine()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a stage."""
        if stage != self._stage:
            self.end()
            self._stage, self._begun, self._line = stage, time.monotonic(), common.LiveLine()
        amount = common.bar(done, total) if total else f"{done} {self._COUNTED.get(stage, '')}"
        self._text = f"{stage:12}{amount}  {common.duration(time.monotonic() - self._begun)}"
        self._line.show(self._text)

    def end(self) -> None:
        """End the line of the last stage."""
        if self._text:
            self._line.show(self._text, last=True)
        self._text = ""


def _names(files: Sequence[Path]) -> str:
    shown = ", ".join(file.name for file in files[:10])
    return shown + (f" and {len(files) - 10} more" if len(files) > 10 else "")


def _report(processed: Processed, out: Path, exhaustive: bool) -> None:
    found, missing, total = len(processed.registered), processed.missing, processed.total
    print(
        f"{found} of {total} photographs registered, {processed.points:,} points, "
        f"reprojection error {processed.error:.2f} pixels"
    )
    if processed.elsewhere:
        counts = ", ".join(map(str, processed.elsewhere))
        print(f"the largest model is taken; further ones that do not join it hold {counts} more")
    if missing:
        print(f"not registered: {', '.join(missing)}")
    if found < _WARN_BELOW * total:
        more = "photographs from places between theirs may help"
        more += "" if exhaustive else ", and so may --matching=exhaustive"
        print(
            f"jaxnerf: warning: only {found} of {total} photographs were registered, so parts of the "
            f"scene may be missing; {more}",
            file=sys.stderr,
        )
    print(
        f"\nleft in {out}: transforms.json, images/, sparse/0/, sparse_pc.ply\n"
        f"after {common.duration(common.seconds_since_process_start())} in all. Next:\n"
        f"  jaxnerf train --data {shlex.quote(str(out))}"
    )

"""`jaxnerf check`: inspect a scene before training."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxnerf.capture.inspection import Inspection, inspect
from jaxnerf.capture.overview import overview
from jaxnerf.cli import common
from jaxnerf.runs.files import replacing
from jaxnerf.scenes import SceneError

_HELP = """
usage: jaxnerf check DIR [flags]

Reads a scene with its photographs, and reports: sizes, lens, splits, masks and the arrangement of the
cameras; photographs that are blurred, have equal poses, look away, are in two splits or were not
rotated as their EXIF says; the plain background, if there is one, bounds or points at wrong depths, and
cameras that do not see the cube of training; and whether poses and focal lengths agree with the
photographs. The latter is measured by features that neighbouring photographs share, in pixels of
photographs shrunk to at most 800 (pip install 'jaxnerf[check]'; without it this part is left out). A
picture shows the cameras from above and from the side. If training would be pointless, the exit status
is 1, with the reason in one line.

Example:
  jaxnerf check data/fox
"""


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "out",
        "check.png",
        "file of the picture, a .png outside of the scene's folder; an existing file is replaced. If the "
        "current folder is the scene's and this flag is not given, no picture is written",
        flag_values=values,
    )
    common.define_scene_flags(values)
    return values


def main(arguments: Sequence[str]) -> None:
    """Check a scene; see the help.

    Raises:
      SceneError, flags.Error: training would be pointless, or something else is wrong; in one line.
    """
    values = _flags()
    (name,) = common.parse(values, arguments, _HELP, ("DIR",))
    folder, out = Path(name), Path(values.out)
    if values["out"].using_default_value and _is_inside(out, folder):
        out = None
    else:
        _check_out(folder, out)
    found = inspect(folder, allow_outside_paths=values.allow_outside_paths)
    if out is not None:
        with replacing(out) as partial:
            overview(found.scene, found.odd).save(partial, "PNG")
    print(report(found, out))
    if found.pointless:
        raise SceneError(f"{folder}: {found.pointless}")


def report(found: Inspection, picture: Path | None) -> str:
    """The text that is printed; `picture` is its file if there is one."""
    none = "none is written into the scene's folder: name a file elsewhere by --out"
    facts = {**found.facts, "picture": str(picture or none)}
    lines = [found.scene.name]
    for matter, fact in facts.items():
        first, *rest = textwrap.wrap(fact, 84) or [""]
        lines += [f"  {matter:14}{first}", *(f"{'':16}{line}" for line in rest)]
    lines += [f"  warning: {warning}" for warning in found.warnings]
    return "\n".join(lines)


def _check_out(folder: Path, out: Path) -> None:
    if out.suffix != ".png":
        raise flags.Error(f"--out: {out} does not end in .png")
    if out.is_dir() or not out.parent.is_dir():
        raise flags.Error(f"--out: {out} cannot be written; its folder must be there")
    if _is_inside(out, folder):
        raise flags.Error(f"--out: {out} is in the scene's folder; name a picture elsewhere")


def _is_inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())

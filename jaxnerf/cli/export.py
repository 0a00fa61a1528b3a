"""`jaxnerf export`: write a run's scene in the formats of other programs."""

import dataclasses
import difflib
import importlib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from absl import flags

from jaxnerf.cli import common
from jaxnerf.exports.files import Report
from jaxnerf.runs.run import load_run

# The kinds of exports. Each has a module with the class Settings, whose fields are flags, the function
# export, and SUFFIXES, the suffixes of its files; "" is a folder.
KINDS = {
    "page": "one HTML file that shows the scene in any browser, to be sent to somebody: .html",
    "cameras": "transforms.json of nerfstudio, or a folder with a model of COLMAP",
    "mesh": "surfaces as triangles with colours: .ply, .obj or .glb",
    "points": "points of surfaces with normals and colours: .ply, or points3D.txt or .bin of COLMAP",
    "splats": "Gaussians in the layout of 3D Gaussian splatting: .ply",
    "volume": "density and colour on a grid: .npz, .nii, .nii.gz, .nrrd or .vdb",
}

_HELP = """
usage: jaxnerf export RUN KIND --out FILE [flags]

Writes a run's scene in a format of other programs, from the run's folder alone, in the frame and unit of
your own files. KIND is one of:

{kinds}

The suffix of FILE determines its format. Meshes, NIfTI and NRRD need packages:
pip install 'jaxnerf[export]'.

Examples:
  jaxnerf export runs/lego page --out lego.html
  jaxnerf export runs/lego mesh --out lego.glb
  jaxnerf export runs/lego mesh --out lego.ply --resolution 512 --faces 0
  jaxnerf export runs/lego mesh --out lego.glb --texture 2048 --faces 100000
  jaxnerf export runs/lego points --out lego.ply --spacing 0.01
  jaxnerf export runs/lego splats --out splats.ply
  jaxnerf export runs/lego volume --out lego.nii.gz --box=-1,-1,-1,1,1,1
  jaxnerf export runs/lego cameras --out lego/transforms.json
"""


class _Lines(Report):
    """Shows an export's messages and progress on the terminal."""

    def __init__(self) -> None:
        self._line = common.LiveLine()

    def progress(self, what: str, done: int, total: int) -> None:
        self._line.show(f"{what} {common.bar(done, total)}", last=done == total)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "the output file, or folder", flag_values=values)
    for name, (kinds, field, about, kind) in _settings().items():
        shown = ",".join(map(str, field)) if isinstance(field, tuple) else field
        default = f" (default {shown})" if shown not in ("", 0, False) else ""
        _define(values, name, kind, f"{', '.join(kinds)}: {about}{default}")
    return values


def _settings() -> dict[str, tuple[list[str], Any, str, Any]]:
    """Every setting by name: the kinds that have it, its default, its description, and its type."""
    found: dict[str, tuple[list[str], Any, str, Any]] = {}
    for kind in KINDS:
        settings = _module(kind).Settings
        abouts = common._config_help(settings, "")
        types = typing.get_type_hints(settings)
        for field in dataclasses.fields(settings):
            about = abouts[field.name].partition("; ")[2].rstrip(".")
            new = ([], field.default, about, types[field.name])
            found.setdefault(field.name, new)[0].append(kind)
    return found


def _define(values: flags.FlagValues, name: str, kind: Any, about: str) -> None:
    if get_origin(kind) is Literal:
        flags.DEFINE_enum(name, None, list(get_args(kind)), about, flag_values=values)
    elif get_origin(kind) is tuple:
        flags.DEFINE_list(name, None, about, flag_values=values)
    else:
        define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
        define.get(kind, flags.DEFINE_string)(name, None, about, flag_values=values)


def _module(kind: str) -> Any:
    return importlib.import_module(
        "jaxnerf.viewer.page" if kind == "page" else f"jaxnerf.exports.{kind}"
    )


def main(arguments: Sequence[str]) -> None:
    """Export; see the help.

    Raises:
      RunError, SceneError, flags.Error: something is wrong; in one line.
    """
    values = _flags()
    kinds = "\n".join(f"  {name:9}{about}" for name, about in KINDS.items())
    folder, kind = common.parse(values, arguments, _HELP.format(kinds=kinds), ["RUN", "KIND"])
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(KINDS)}"
        raise flags.Error(f"nothing to export is called {kind!r}; {hint}")
    module = _module(kind)
    out = _file(values, module.SUFFIXES)
    settings = _chosen(values, kind, module.Settings)
    common.prepare_cpu(keep_memory=False)
    common.use_compilation_cache()
    try:
        module.export(load_run(folder), out, settings, _Lines())
    except ValueError as error:  # a wrong setting; the message begins with its name
        raise flags.Error(f"--{error}") from None
    print(f"wrote {out}")


def _file(values: flags.FlagValues, suffixes: tuple[str, ...]) -> Path:
    """The output file, after checking its name and folder."""
    endings = ", ".join(suffix or "nothing (a folder)" for suffix in suffixes)
    if not values.out:
        raise flags.Error(f"--out: name what is written; it ends in {endings}")
    out = Path(values.out)
    known = any(suffix and out.name.endswith(suffix) for suffix in suffixes)
    if not known and ("" not in suffixes or out.suffix):
        raise flags.Error(f"--out: {out} does not end in {endings}")
    if known and out.is_dir():
        raise flags.Error(f"--out: {out} is a folder")
    if known and "" not in suffixes and not out.parent.is_dir():
        raise flags.Error(f"--out: {out.parent}: no such folder")
    return out


def _chosen(values: flags.FlagValues, kind: str, settings: Any) -> Any:
    """The settings that are set by flags.

    Raises:
      flags.Error: a value is wrong, or the kind has no such setting.
    """
    given = {}
    for name, (kinds, _, _, type_) in _settings().items():
        value = values[name].value
        if value is None:
            continue
        if kind not in kinds:
            raise flags.Error(f"--{name}: has no effect on {kind}, only on {', '.join(kinds)}")
        given[name] = _numbers(name, value) if get_origin(type_) is tuple else value
    try:
        return settings(**given)
    except ValueError as error:
        raise flags.Error(f"--{error}") from None


def _numbers(name: str, texts: list[str]) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, texts))
    except ValueError:
        raise flags.Error(f"--{name}: {','.join(texts)} are not numbers") from None
    if not all(abs(number) < float("inf") for number in numbers):
        raise flags.Error(f"--{name}: {','.join(texts)} are not finite numbers")
    return numbers

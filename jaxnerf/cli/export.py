"""`jaxnerf export`: take a run away, in a file that other programs open."""

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxnerf.cli import common

# What can be made, and where `flags()`, `suffix` and `export(run, path, values)` for it are.
KINDS = {"page": "jaxnerf.cli.export_page"}

_HELP = """
usage: jaxnerf export RUN KIND [--out FILE] [flags]

Kinds:
  page     one HTML file that shows the scene in any browser, from disk, to be sent to somebody

Example:
  jaxnerf export runs/lego page --out lego.html
"""


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "the file; RUN/KIND.html by default", flag_values=values)
    return values


def main(arguments: Sequence[str]) -> None:
    """Export; see the help.

    Raises:
      RunError, flags.Error: in one line what is wrong.
    """
    values = _flags()
    folder, kind = common.parse(values, arguments, _HELP, ["RUN", "KIND"])
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(KINDS)}"
        raise flags.Error(f"no kind {kind!r} to export; {hint}")
    module = importlib.import_module(KINDS[kind])
    out = Path(values.out) if values.out else Path(folder) / f"{kind}{module.SUFFIX}"
    if out.suffix != module.SUFFIX:
        raise flags.Error(f"--out: {out} does not end in {module.SUFFIX}")
    if values.out and not out.parent.is_dir():
        raise flags.Error(f"--out: {out.parent}: no such folder")
    common.prepare_cpu()

    from jaxnerf.runs.run import load_run

    print(module.export(load_run(folder), out))

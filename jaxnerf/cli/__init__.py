"""The command `jaxnerf`: a verb, then absl flags."""

import difflib
import importlib
import io
import sys
from collections.abc import Sequence

from jaxnerf.cli.common import fail, report_errors

VERBS = {
    "process": "find the cameras of photographs or a video, for train",
    "check": "look for problems that would spoil training: poses, blur, missing files",
    "train": "train a scene on photographs",
    "eval": "measure a run on held-out photographs",
    "render": "render a camera path through a run, as a video or numbered pictures",
    "view": "show a run in the browser",
    "export": "write a run as page, mesh, points, splats, volume or cameras for other programs",
}


def usage() -> str:
    """The text of `jaxnerf --help`."""
    lines = [
        "jaxnerf turns photographs with known cameras into a scene that can be seen from anywhere.",
        "",
        "usage: jaxnerf VERB ...",
        "",
        *(f"  {verb:9}{purpose}" for verb, purpose in VERBS.items()),
        "",
        "`jaxnerf train` alone trains on the demo scene. `jaxnerf VERB --help` describes a verb.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0, or 1 after an error of one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from jaxnerf.runs.files import own_version

        print(f"jaxnerf {own_version()}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f": one of {', '.join(VERBS)}"
        return fail(f"no verb {verb!r}{hint}")
    with report_errors() as status:
        importlib.import_module(f"jaxnerf.cli.{verb}").main(rest)
    return status.code


def entry_point() -> None:
    """The function that the installed command calls."""
    # Names of files that are not UTF-8 are printed as they can be.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())

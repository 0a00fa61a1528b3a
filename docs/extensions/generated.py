"""What pages have from elsewhere: keys, presets, the help of verbs, tables of the README."""

import contextlib
import dataclasses
import inspect
import io
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from jaxnerf.cli import main
from jaxnerf.cli.common import _config_help
from jaxnerf.config import Config, flatten
from jaxnerf.config.presets import PRESETS

README = Path(__file__).parents[2] / "README.md"
_MARKER = re.compile(r"<!-- generated: (\w+) ?([^>]*?) -->")


def setup(app: Sphinx) -> dict[str, Any]:
    """Have the markers of pages replaced: <!-- generated: keys -->, presets, help VERB, table COLUMN."""
    app.connect("source-read", fill_in)
    return {"parallel_read_safe": True}


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the markers of a page."""
    made = {"keys": keys, "presets": presets, "help": verb_help, "table": readme_table}
    source[0], count = _MARKER.subn(lambda marker: made[marker[1]](marker[2]), source[0])
    if count:  # what it is made from may have changed, though the page has not
        app.env.note_reread()


def keys(_: str) -> str:
    """Every key of the configuration, under a heading for each section."""
    abouts, defaults = _config_help(Config, ""), flatten(Config())
    lines, heading = [], ""
    for key, default in defaults.items():
        kind, _, about = abouts[key].partition("; ")
        section = key.rpartition(".")[0]
        if heading != (section or key):
            heading = section or key
            lines += [f"## `{heading}`", "", _about(section), ""]
        lines += [f"::::{{confval}} {key}", f":type: `{kind}`", f":default: `{_shown(default)}`"]
        lines += ["", about[:1].upper() + about[1:], "::::", ""]
    return "\n".join(lines)


def _about(section: str) -> str:
    """The first line of a section's docstring."""
    config: Any = Config()
    for name in section.split(".") if section else ():
        config = getattr(config, name)
    return (inspect.getdoc(config) or "").partition("\n")[0] if section else ""


def presets(_: str) -> str:
    """What each preset is for, and what it changes of the defaults, as far as it has an effect."""
    lines, defaults = [], flatten(Config())
    for name, (about, config) in PRESETS.items():
        changed = [
            f"`{key}` {_shown(value)}"
            for key, value in flatten(config).items()
            if value != defaults[key] and config.has_effect(key)
        ]
        lines += [f"`{name}`", f": {about[:1].upper()}{about[1:]}."]
        lines += [f"  {', '.join(changed)}.", ""] if changed else ["  The defaults.", ""]
    return "\n".join(lines)


def verb_help(verb: str) -> str:
    """What `jaxnerf VERB --help` prints, without the keys of the configuration."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([verb, "--help"])
    text, keys, _ = said.getvalue().partition("\nPresets for --config:")
    return f"```text\n{text.strip()}\n```" + ("" if not keys else "\n")


def readme_table(column: str) -> str:
    """The README's table that has a column of this name; links into the repository become code."""
    tables = re.findall(r"(?:^\|.*\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)
    (found,) = [each for each in tables if f"| {column} |" in each.partition("\n")[0]]
    return re.sub(r"\[[^]]*\]\((?!https?:)([^)]*)\)", r"`\1`", found)


def _shown(value: Any) -> str:
    if dataclasses.is_dataclass(value) or value is None:
        return str(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)

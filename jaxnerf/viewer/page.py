"""One HTML file with a scene and the viewer that renders it."""

import base64
import dataclasses
import html
import json
import zlib
from importlib import resources
from pathlib import Path

from jaxnerf.exports.files import Report, whole_file
from jaxnerf.runs.run import Run
from jaxnerf.viewer.contents import contents_of

# In the order in which they are run: each uses only the scripts before it.
_SCRIPTS = (
    "vectors.js", "scene.js", "renderer.js", "navigator.js", "photographs.js", "controls.js",
    "path.js", "viewer.js",
)  # fmt: skip
_SHADERS = ("walk.glsl", "network.glsl", "detail.glsl", "look.glsl", "present.glsl")

SUFFIXES = (".html",)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the export of a page: there are none."""


def export(run: Run, out: Path, settings: Settings, report: Report = Report()) -> int:
    """Write a page; see `write_page`."""
    size = write_page(run, out)
    report.say(f"{size / 1e6:.1f} MB; open it in a browser")
    return size


def write_page(run: Run, path: str | Path) -> int:
    """Write a page that shows a run; the file is written completely or not at all.

    Args:
      run: a run of the fast field.
      path: the file, which should end in .html.

    Returns:
      The size of the file in bytes.

    Raises:
      RunError: a page cannot hold the run's field, or the file cannot be written.
    """
    text = page(run).encode(errors="replace")
    with whole_file(Path(path)) as partial:
        partial.write_bytes(text)
    return len(text)


def page(run: Run) -> str:
    """The page's text; see `write_page`.

    Raises:
      RunError: a page cannot hold the run's field.
    """
    static = resources.files("jaxnerf.viewer") / "static"

    def read(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    parts = {
        "TITLE": html.escape(run.scene.name),
        "STYLE": read("page.css"),
        "SHADERS": "\n".join(
            f'<script type="x-shader" id="{name}">\n{read(name)}</script>' for name in _SHADERS
        ),
        "SCRIPT": "\n".join(read(name) for name in _SCRIPTS),
        "SCENE": base64.b64encode(_container(run)).decode(),
    }
    before, *rest = read("page.html").split("{{")
    # Piece by piece, so that "{{" within an inserted part is not taken as the name of another.
    for piece in rest:
        name, _, after = piece.partition("}}")
        before += parts[name] + after
    return before


def _container(run: Run) -> bytes:
    """The scene in zlib's format: the length of the JSON, the JSON, and the arrays.

    All arrays begin at multiples of four bytes.
    """
    header, arrays = contents_of(run)
    offset, buffers, data = 0, {}, b""
    for name, array in arrays.items():
        raw = array.tobytes()
        buffers[name] = {"type": array.dtype.name, "offset": offset, "length": array.size}
        data += raw + bytes(-len(raw) % 4)
        offset = len(data)
    text = json.dumps({**header, "buffers": buffers}, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    return zlib.compress(len(text).to_bytes(4, "little") + text + data, 9)

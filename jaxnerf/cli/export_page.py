"""The kind `page` of `jaxnerf export`."""

from pathlib import Path

from jaxnerf.runs.run import Run
from jaxnerf.viewer.page import write_page

SUFFIX = ".html"


def export(run: Run, path: Path) -> str:
    """Write the file, and say so in a line.

    Raises:
      RunError: a page cannot hold the run's field, or the file cannot be written.
    """
    size = write_page(run, path)
    return f"left {path}: {size / 1e6:.1f} MB; open it in a browser"

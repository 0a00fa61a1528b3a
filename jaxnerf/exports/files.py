"""What all kinds of exports share: files that appear whole, and the packages that write them."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxnerf.runs.files import RunError, disk_errors, replacing


class Report:
    """What an export tells of itself: prints lines, and keeps quiet on how far it is."""

    def say(self, text: str) -> None:
        """Tell what a person should know."""
        print(text, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell how many of some things are done."""

    def of(self, what: str) -> Callable[[int, int], None]:
        """A function of (done, total) that tells of these things."""
        return lambda done, total: self.progress(what, done, total)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden name for a file until it is whole (`jaxnerf.runs.files.replacing`).

    Raises:
      RunError: the disk is full, or the folder cannot be written.
    """
    with disk_errors(path), replacing(path) as partial:
        yield partial


def package(name: str, installed_as: str = "") -> Any:
    """A module of the extra `export`, imported.

    Args:
      name: of the module.
      installed_as: what pip calls its package, where that differs.

    Raises:
      RunError: the package is not installed; the message says how to.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise RunError(
            f"the package {installed_as or name} is missing: pip install 'jaxnerf[export]'"
        ) from None

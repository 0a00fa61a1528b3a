"""Shared by all exports: messages, complete files, and optional packages."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxnerf.runs.files import RunError, disk_errors, replacing


class Report:
    """Receives the messages and the progress of an export; it prints messages and ignores progress."""

    def say(self, text: str) -> None:
        """Print a message for the user."""
        print(text, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Called with the number of things that are done."""

    def of(self, what: str) -> Callable[[int, int], None]:
        """A function of (done, total) that reports the progress of these things."""
        return lambda done, total: self.progress(what, done, total)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name for a file until it is complete (`jaxnerf.runs.files.replacing`).

    Raises:
      RunError: the disk is full, or the folder cannot be written.
    """
    with disk_errors(path), replacing(path) as partial:
        yield partial


def package(name: str, installed_as: str = "") -> Any:
    """Import a module of the extra `export`.

    Args:
      name: name of the module.
      installed_as: name of its package for pip, if it is another.

    Raises:
      RunError: the package is not installed; the message names it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise RunError(
            f"the package {installed_as or name} is missing: pip install 'jaxnerf[export]'"
        ) from None

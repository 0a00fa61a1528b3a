"""Shared by a run's files: writing completely or not at all, and the errors of writing."""

import contextlib
import errno
import importlib.metadata
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxnerf.errors import Error

# Remedy in messages of training about a full disk.
KEPT = " and resume the run (the last whole checkpoint is kept)"
# Prefix of the names of files that are being written.
PARTIAL = ".partial."


class RunError(Error):
    """A run's folder is missing, in use or wrong: a message of one line that names it."""


@contextlib.contextmanager
def disk_errors(folder: Path, remedy: str = "") -> Iterator[None]:
    """Turn errors of writing into a `RunError` of one line.

    Args:
      folder: the folder or file that is written.
      remedy: advice for a full disk, appended to the message.

    Raises:
      RunError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or any(
            sign in str(error) for sign in ("No space left", "RESOURCE_EXHAUSTED")
        )
        if full:
            raise RunError(f"{folder}: the disk is full; make room{remedy}") from None
        if isinstance(error, OSError):
            raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from None
        raise


def first_line(error: Exception) -> str:
    """An exception's message, cut to one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def own_version() -> str:
    """The installed version of jaxnerf; "not installed" if Python finds only its source."""
    try:
        return importlib.metadata.version("jaxnerf")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write_json(path: Path, contents: Any) -> None:
    """Write a JSON file completely or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(contents), indent=2, allow_nan=False) + "\n")


def _finite(contents: Any) -> Any:
    if isinstance(contents, dict):
        return {key: _finite(value) for key, value in contents.items()}
    if isinstance(contents, list | tuple):
        return [_finite(value) for value in contents]
    return None if isinstance(contents, float) and not math.isfinite(contents) else contents


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside another one; it is renamed to the other's name when the block has ended.

    After an exception in the block there is no new file, and an older file of that name is kept.

    Example::

      with replacing(Path("scene.ply")) as partial:
          partial.write_bytes(contents)
    """
    partial = path.with_name(PARTIAL + path.name)
    try:
        yield partial
        # Otherwise, if the machine stops, the renamed file may be empty.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)

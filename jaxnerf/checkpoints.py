"""What a run keeps while it trains: states that can be gone on from, and metrics."""

import asyncio
import contextlib
import errno
import json
import logging
import socket
import time
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.config import Config
from jaxnerf.evaluation import write_text
from jaxnerf.fitting import state_like

_KEPT = " and go on with --resume (the last whole checkpoint is kept)"
_SECONDS_BETWEEN_FLUSHES = 10.0


class RunError(Exception):
    """A run's folder is missing, in the way, or wrong: one line that names it."""


class Checkpoints:
    """The states of training in a run's folder, written by Orbax: whole or not at all.

    States are kept as a flat table of NumPy arrays by name, so that hosts need not agree on devices
    and a checkpoint of another configuration is recognised by its names and shapes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._manager: Any = None

    def save(self, state: Any) -> None:
        """Keep a state, and the one before it.

        Raises:
          RunError: it cannot be written; the checkpoints that were there stay.
        """
        import orbax.checkpoint as ocp

        table = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
        step = int(table["step"])
        with disk_errors(self.folder, _KEPT), _only_the_first_error():
            manager = self._open()
            if step not in manager.all_steps():
                manager.save(step, args=ocp.args.StandardSave(table))

    def restore(self, config: Config, step: int | None = None) -> Any:
        """The last state, or that of a step; None if there is none.

        Raises:
          RunError: it cannot be read or does not fit the configuration.
        """
        import orbax.checkpoint as ocp

        where = self.folder / "checkpoints"
        if not where.is_dir():
            return None
        with disk_errors(self.folder):
            manager = self._open()
        step = manager.latest_step() if step is None else step
        if step is None:
            return None
        if step not in manager.all_steps():
            known = ", ".join(map(str, sorted(manager.all_steps())))
            raise RunError(f"{where}: no checkpoint of step {step}, only of {known}")
        expected = state_like(config)
        names = _named_leaves(expected)
        try:
            with _only_the_first_error():
                kept = {
                    name: np.zeros(leaf.shape, leaf.dtype)
                    for name, leaf in manager.item_metadata(step).items()
                }
            stored = _names_as_stored(kept)
            metadata = {name: kept[old].shape for name, old in stored.items()}
        except Exception as error:  # whatever a damaged folder makes of Orbax
            raise RunError(self._damaged(step, error)) from None
        for name, leaf in names:
            found = metadata.get(name)
            if config.method == "voxels" and found is not None and len(found) == len(leaf.shape):
                continue  # these grow in training
            if found != leaf.shape:
                raise RunError(
                    f"{where}/{step}: a checkpoint of another configuration: {name} should be "
                    f"{leaf.shape}, is {found or 'missing'}"
                )
        for name in sorted(metadata.keys() - dict(names).keys()):
            raise RunError(
                f"{where}/{step}: a checkpoint of another configuration: {name} is not in this one"
            )
        target = kept | {stored[name]: np.zeros(metadata[name], leaf.dtype) for name, leaf in names}
        try:
            with _only_the_first_error():
                table = manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:
            raise RunError(self._damaged(step, error)) from None
        leaves = [jnp.asarray(table[stored[name]]) for name, _ in names]
        return jax.tree.unflatten(jax.tree.structure(expected), leaves)

    def _damaged(self, step: int, error: Exception) -> str:
        before = [other for other in self._open().all_steps() if other < step]
        remedy = f"; remove it to go back to step {max(before)}" if before else ""
        return f"{self.folder}/checkpoints/{step}: damaged{remedy} ({first_line(error)})"

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            # Orbax tells of every file that it opens, and of errors that it raises all the same.
            logging.getLogger("absl").setLevel(logging.CRITICAL)
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            where = (self.folder / "checkpoints").resolve()
            self._manager = ocp.CheckpointManager(
                where, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._manager


@contextlib.contextmanager
def _only_the_first_error() -> Iterator[None]:
    """Orbax raises its first error and closes its event loop; later ones would print tracebacks."""
    original = asyncio.new_event_loop

    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args, **kwargs):
            try:
                return super().call_soon_threadsafe(*args, **kwargs)
            except RuntimeError:
                if not self.is_closed():
                    raise

        def call_exception_handler(self, context):
            pass

    asyncio.new_event_loop = Loop
    try:
        yield
    finally:
        asyncio.new_event_loop = original


class MetricsLog:
    """metrics.jsonl and, where tensorboardX is installed, TensorBoard events of a run.

    The events go through tensorboardX's record writer alone: its SummaryWriter hands them to a
    thread, which dies of a full disk and leaves training waiting for it.

    Attributes:
      with_events: whether there are events.
    """

    def __init__(self, folder: Path, resume_from: int = 0):
        """Open for appending; lines after the step that training resumes from are dropped."""
        self.with_events = find_spec("tensorboardX") is not None
        path = folder / "metrics.jsonl"
        self._folder, self._flushed_at = folder, time.monotonic()
        with disk_errors(folder, _KEPT):
            rows = [row for row in read_metrics(folder) if row["step"] <= resume_from]
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
            self._file = path.open("a", encoding="utf-8")
            if self.with_events:
                self._open_events(resume_from)

    def _open_events(self, resume_from: int) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._events = RecordWriter(str(self._folder / name))
        self._event: Any = event_pb2.Event  # type: ignore[attr-defined]
        self._add(file_version="brain.Event:2")
        if resume_from:  # TensorBoard then drops what another process wrote from here on
            self._add(step=resume_from + 1, session_log={"status": "START"})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a report."""
        with disk_errors(self._folder, _KEPT):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            if not self.with_events:
                return
            from tensorboardX.summary import scalar

            for name, value in values.items():
                self._add(step=step, summary=scalar(name, value))
            if time.monotonic() - self._flushed_at > _SECONDS_BETWEEN_FLUSHES:
                self._events.flush()
                self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write what is left."""
        with disk_errors(self._folder, _KEPT):
            try:
                self._file.close()
            finally:
                if self.with_events:
                    self._events.close()

    def _add(self, **content: Any) -> None:
        self._events.write(self._event(wall_time=time.time(), **content).SerializeToString())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line cut off by a kill is left out."""
    path = folder / "metrics.jsonl"
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


@contextlib.contextmanager
def disk_errors(folder: Path, remedy: str = "") -> Iterator[None]:
    """Turn a failure to write into a `RunError` of one line.

    Args:
      folder: or the file that is written.
      remedy: what to do when there is room again.

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


def _names_as_stored(metadata: Collection[str]) -> dict[str, str]:
    """The names of a checkpoint's arrays today, with those that they are stored under.

    Up to version 0.2 the parameters of the fast field held its lattice too, and moments of what does not
    learn: those are left out. The first optimizer state of a run restored from there begins with the
    moments of what learns.
    """
    if "params.0.bricks" not in metadata:
        return {name: name for name in metadata}
    lattice = {"bricks": "bricks", "origin": "origin", "voxel": "spacing"}
    lattice["directional"] = "view_dependence"
    found = {}
    for name in metadata:
        group, _, last = name.rpartition(".")
        if group == "params.0" and last in lattice:
            found[f"field.{lattice[last]}"] = name
        elif not (group.startswith("optimizer") and last in lattice):
            found[name.replace("params.0.", "params.")] = name
    return found


def _named_leaves(state: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def first_line(error: Exception) -> str:
    """What an exception says, cut to one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

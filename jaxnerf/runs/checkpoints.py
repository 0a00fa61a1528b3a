"""Checkpoints: the states of training that a run stores, from which it can be resumed."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.config import Config
from jaxnerf.config.earlier_versions import names_as_stored
from jaxnerf.runs.files import KEPT, RunError, disk_errors, first_line
from jaxnerf.training.state import TrainState


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Orbax logs every file that it opens, and also errors that it raises."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class Checkpoints:
    """The states of training in a run's folder, written by Orbax: completely or not at all.

    States are stored as a flat table of NumPy arrays by name, so that the devices at saving and loading
    may differ, and a checkpoint of another configuration is recognised by its names and shapes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._manager: Any = None

    @_without_messages()
    def save(self, state: Any) -> None:
        """Store a state; only this one and the previous one are kept.

        Raises:
          RunError: it cannot be written; the previous checkpoints are kept.
        """
        import orbax.checkpoint as ocp

        table = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
        step = int(table["step"])
        with disk_errors(self.folder, KEPT), _only_the_first_error():
            manager = self._open()
            if step not in manager.all_steps():
                manager.save(step, args=ocp.args.StandardSave(table))

    @_without_messages()
    def restore(self, config: Config, like: TrainState, step: int | None = None) -> Any:
        """The last state, or that of a given step; None if there is none.

        Args:
          config: configuration of the run.
          like: structure of the state. If it has no optimizer's state, the stored one is not returned.
          step: step of the checkpoint; the last by default.

        Raises:
          RunError: the state cannot be read or does not fit the configuration.
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
        names = _named_leaves(like)
        try:
            with _only_the_first_error():
                kept = {
                    name: np.zeros(leaf.shape, leaf.dtype)
                    for name, leaf in manager.item_metadata(step).items()
                }
            stored = names_as_stored(kept, [name for name, _ in names])
            metadata = {name: kept[old].shape for name, old in stored.items()}
        except Exception as error:  # Orbax raises various exceptions for damaged folders
            raise RunError(self._damaged(step, error)) from None
        if "optimizer.mu.0.layers_0.kernel" in kept and config.scene.space != "bounded":
            raise RunError(
                f"{where}/{step}: of an older version, for an unbounded space; train again"
            )
        for name, leaf in names:
            found = metadata.get(name)
            if config.method == "voxels" and found is not None and len(found) == len(leaf.shape):
                continue  # shapes of the fast field change from stage to stage
            if found != leaf.shape:
                raise RunError(
                    f"{where}/{step}: a checkpoint of another configuration: {name} should be "
                    f"{leaf.shape}, is {found or 'missing'}"
                )
        surplus = metadata.keys() - dict(names).keys()
        if like.optimizer is None:
            surplus = {name for name in surplus if not name.startswith("optimizer.")}
        for name in sorted(surplus):
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
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _damaged(self, step: int, error: Exception) -> str:
        before = [other for other in self._open().all_steps() if other < step]
        remedy = f"; remove it to go back to step {max(before)}" if before else ""
        return f"{self.folder}/checkpoints/{step}: damaged{remedy} ({first_line(error)})"

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            where = (self.folder / "checkpoints").resolve()
            self._manager = ocp.CheckpointManager(
                where, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._manager


@contextlib.contextmanager
def _only_the_first_error() -> Iterator[None]:
    """Suppress errors after Orbax's first, when its event loop is closed: they would print tracebacks."""
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


def _named_leaves(state: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]

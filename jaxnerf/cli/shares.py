"""One path's frames, shared among processes."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxnerf.cli import common
from jaxnerf.exports.frames import Frames, render_frames
from jaxnerf.runs.files import RunError, disk_errors
from jaxnerf.runs.run import Run, load_run

_EVERY_SECONDS = 0.2


def render_in_processes(
    frames: Frames,
    run: Run,
    indices: Sequence[int],
    processes: int,
    progress: Callable[[int], None],
) -> None:
    """Render frames of a path, of which each process has every so-manyth.

    Args:
      frames: of a path; `jaxnerf.exports.frames.begin` has made their folder.
      run: that they show, which each process opens from its folder.
      indices: of the frames.
      processes: how many; no more than frames.
      progress: called with how many frames are new, now and then.

    Raises:
      RunError: a process failed. The frames that are whole stay.
    """
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    workers = [
        context.Process(
            target=_render_share,
            args=(run.folder, run.step, frames, indices[which::processes], cores, errors),
            daemon=True,
        )
        for which, cores in enumerate(_cores(processes))
    ]
    waiting = set(indices)
    try:
        for worker in workers:
            worker.start()
        running = True
        while running:
            running = any(worker.is_alive() for worker in workers)
            made = {index for index in waiting if frames.files(index)[0].exists()}
            waiting -= made
            if made:
                progress(len(made))
            for worker in workers:
                if worker.exitcode:
                    raise RunError(_why(frames.folder, worker.exitcode, errors))
            time.sleep(_EVERY_SECONDS if running else 0.0)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()


def _render_share(
    folder: Path,
    step: int,
    frames: Frames,
    indices: Sequence[int],
    cores: set[int],
    errors: Any,
) -> None:
    """What one process does. What a user can mend goes into the queue."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt from the terminal is for the parent
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that half a file is removed
    if cores:
        os.sched_setaffinity(0, cores)
    common.prepare_cpu()
    common.use_compilation_cache()
    parent = multiprocessing.parent_process()

    def check_parent() -> None:
        if parent is not None and not parent.is_alive():
            sys.exit(1)

    try:
        with disk_errors(frames.folder):
            render_frames(frames, load_run(folder, step), indices, check_parent)
    except RunError as error:
        errors.put(str(error))
        sys.exit(1)


def _cores(processes: int) -> list[set[int]]:
    """The cores of each process; none where the system does not divide them, or has too few."""
    if not hasattr(os, "sched_getaffinity"):
        return [set()] * processes
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[which::processes]) for which in range(processes)]


def _why(folder: Path, code: int, errors: Any) -> str:
    if not errors.empty():
        return errors.get()
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    hint = ", perhaps for want of memory (fewer --processes)" if code == -signal.SIGKILL else ""
    return f"{folder}: a process that rendered {ended}{hint}; the same command goes on"

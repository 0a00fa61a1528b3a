"""Rendering of a path's frames by several processes."""

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
    """Render frames of a path in several processes, each of which renders every n-th frame.

    Args:
      frames: the frames of a path; `jaxnerf.exports.frames.begin` has created their folder.
      run: the run that they show; each process opens it from its folder.
      indices: indices of the frames.
      processes: number of processes, at most that of frames.
      progress: called at intervals with the number of new frames.

    Raises:
      RunError: a process failed. Complete frames are kept.
    """
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    workers = [
        context.Process(
            target=_render_part,
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


def _render_part(
    folder: Path,
    step: int,
    frames: Frames,
    indices: Sequence[int],
    cores: set[int],
    errors: Any,
) -> None:
    """Render the frames of one process. Errors that a user can correct are put into the queue."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts from the terminal
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that partial files are removed
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
    """The cores of each process; an empty set if the process is not bound to cores."""
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

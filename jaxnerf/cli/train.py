"""`jaxnerf train`: train a radiance field on a scene."""

import contextlib
import functools
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from jaxnerf.cameras.paths import orbit_note, orbit_of
from jaxnerf.cli import common, render, watching
from jaxnerf.cli import eval as evaluation
from jaxnerf.cli.messages import describe_run, disagreement, how_fine, status
from jaxnerf.config import Config, ConfigError, override
from jaxnerf.config.adaptation import load_for
from jaxnerf.config.presets import DEFAULT_PRESET, describe_seconds, for_seconds
from jaxnerf.evaluation import psnr_of_error
from jaxnerf.exports.video import missing_encoder
from jaxnerf.kernels.memory import returning_freed
from jaxnerf.methods.fit import Session, follow, prepare
from jaxnerf.runs.folder import read_config
from jaxnerf.runs.metrics import MetricsLog, read_metrics
from jaxnerf.runs.run import run_of
from jaxnerf.runs.scene import read_scene
from jaxnerf.scenes import demo_path
from jaxnerf.training.loop import Progress
from jaxnerf.training.state import TrainState

_HELP = """
usage: jaxnerf train [--data DIR] [--out RUN] [--config PRESET] [flags]

Trains a radiance field on the photographs in DIR (by default the demo scene that comes with jaxnerf),
then measures it on the test views and renders a video around the scene. It writes in RUN:

  config.json, scene.json, checkpoints/    the run, from which the other verbs work
  metrics.jsonl, events.*                  metrics of training (the latter for TensorBoard)
  results.json, test_preds/, orbit.mp4     measurements, test views and the video

Examples:
  jaxnerf train
  jaxnerf train --data nerf_synthetic/lego --max_seconds 600
  jaxnerf train --data nerf_synthetic/lego --config nerf --training.rays_per_batch 8192
  jaxnerf train --out runs/lego --resume
"""


# Seconds for which the other processes wait while the first one measures and renders.
_PATIENCE = 24 * 3600


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "data", None, "folder of the scene; the demo scene by default", flag_values=values
    )
    flags.DEFINE_string(
        "out", None, "folder of the run; runs/NAME-OF-DATA by default", flag_values=values
    )
    flags.DEFINE_string(
        "config", DEFAULT_PRESET, "a preset's name, or a config.json", flag_values=values
    )
    flags.DEFINE_integer("seed", None, "same as --training.seed", flag_values=values, lower_bound=0)
    flags.DEFINE_float(
        "max_seconds",
        None,
        "same as --training.max_seconds; 0 for no limit. Without --config it also chooses the settings: "
        "those of minute, five_minutes and half_hour for their budgets, and interpolated settings "
        "between them. If it is not given, --max_steps removes the preset's limit, and a resumed run "
        "keeps its number of steps",
        flag_values=values,
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "max_steps", None, "same as --training.steps", flag_values=values, lower_bound=1
    )
    flags.DEFINE_bool("resume", False, "continue the run in RUN", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "replace the run in RUN", flag_values=values)
    flags.DEFINE_bool(
        "evaluate",
        True,
        "measure the test views and render an orbit at the end",
        flag_values=values,
    )
    flags.DEFINE_float(
        "checkpoint_seconds", 60.0, "time between checkpoints", flag_values=values, lower_bound=0.0
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "train together with other processes, on a cluster that JAX recognises (Slurm, TPU pods, ...) "
        "or as given by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment",
        flag_values=values,
    )
    watching.define_flags(values)
    common.define_scene_flags(values)
    common.define_config_flags(values)
    return values


def main(arguments: Sequence[str]) -> None:
    """Train; see the help.

    Raises:
      SceneError, RunError, ConfigError, FitError: something is wrong; in one line.
    """
    values = _flags()
    common.parse(values, arguments, _HELP)

    data = Path(values.data) if values.data else demo_path()
    out = Path(values.out) if values.out else Path("runs") / data.resolve().name
    if values.resume and values.overwrite:
        raise flags.Error("--resume and --overwrite exclude each other")
    watching.check(values)
    if values.resume:
        saved = read_config(out)
        data = data if values.data else read_scene(out).source
        base = None if values["config"].present else saved
    else:
        seconds = _seconds_that_choose(values)
        base = for_seconds(seconds) if seconds else None
    config = _with_shorthands(common.configuration(values, base), values)
    common.prepare_cpu(config.training.rays_per_batch)
    common.use_compilation_cache()
    if values.distributed:
        _join_cluster()
    _train(data, out, config, values)


def _with_shorthands(config: Config, values: flags.FlagValues) -> Config:
    seconds = values.max_seconds
    if _names(values, "max_steps", "training.steps") and not _names(
        values, "max_seconds", "training.max_seconds"
    ):
        seconds = 0.0
    changes = {
        "training.seed": values.seed,
        "training.steps": values.max_steps,
        "training.max_seconds": seconds,
    }
    return override(config, {key: value for key, value in changes.items() if value is not None})


def _names(values: flags.FlagValues, shorthand: str, key: str) -> bool:
    return values[shorthand].value is not None or bool(values[key].present)


def _seconds_that_choose(values: flags.FlagValues) -> float:
    """The time budget by which the configuration is chosen; 0 with a preset or a resumed run."""
    if values.resume or values["config"].present:
        return 0.0
    given = values.max_seconds
    if given is None:
        with contextlib.suppress(TypeError, ValueError):  # reported when all values are read
            given = float(str(values["training.max_seconds"].value))
    return given if given and 0.0 < given < float("inf") else 0.0


def _join_cluster() -> None:
    try:
        if "JAX_COORDINATOR_ADDRESS" in os.environ:
            jax.distributed.initialize(
                os.environ["JAX_COORDINATOR_ADDRESS"],
                int(os.environ["JAX_NUM_PROCESSES"]),
                int(os.environ["JAX_PROCESS_ID"]),
                shutdown_timeout_seconds=_PATIENCE,
            )
        else:
            jax.distributed.initialize(shutdown_timeout_seconds=_PATIENCE)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--distributed: cannot join the other processes: {error}") from None


def _train(data: Path, out: Path, config: Config, values: flags.FlagValues) -> None:
    _compile_seconds()
    leader = jax.process_index() == 0
    session = prepare(
        config,
        lambda: load_for(config, data, ("train",), values.allow_outside_paths),
        out,
        chosen=common.chosen(values),
        names_steps=_names(values, "max_steps", "training.steps"),
        names_seconds=_names(values, "max_seconds", "training.max_seconds"),
        resume=values.resume,
        overwrite=values.overwrite,
        prefix="--",
    )
    config, state = session.config, session.state
    first = int(state.step)
    if leader:
        print(describe_run(session.scene, config, state), flush=True)
        if seconds := _seconds_that_choose(values):
            print(describe_seconds(seconds), flush=True)
        if values.resume:
            step, total = int(state.step), int(state.total_steps)
            total = "as many as fit" if session.plans else total
            print(f"resuming {out} at step {step} of {total}", flush=True)
    with (
        _stop_on_signals() as stopped,
        watching.viewed(out, config, session.scene, values) as view,
    ):
        state = _follow(session, out, values.checkpoint_seconds, stopped, view)
    if stopped:
        if leader:
            folder = shlex.quote(str(out))
            print(f"stopped at step {int(state.step)}; go on with --out {folder} --resume")
        raise KeyboardInterrupt
    if leader:
        # Not read from the checkpoint: Orbax would need all processes to restore it.
        trained = int(state.step) > first
        run = run_of(out, config, read_scene(out), state)
        with returning_freed():  # Photographs, moments and gradients, which pictures do without.
            del session, state
        _finish(run, values, trained)


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[list[int]]:
    """On the first SIGINT or SIGTERM, let the current step finish; the list then contains the signal."""
    received: list[int] = []

    def stop(number: int, _) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(
    session: Session, out: Path, checkpoint_seconds: float, stopped: list[int], view: Any
) -> TrainState:
    """Train; log, print and show the progress."""
    step = int(session.state.step)

    def left() -> float:
        if stopped:
            return 0.0
        watched = view.training.seconds if view else 0.0
        ends = session.budget + watched if session.budget else float("inf")
        return ends - common.seconds_since_process_start()

    def between(state: Any, number: int) -> float:
        return view.training.between(state, number, lambda: bool(stopped))

    is_first = jax.process_index() == 0
    with contextlib.closing(MetricsLog(out, step)) if is_first else contextlib.nullcontext() as log:
        state = follow(
            session,
            seconds_left=left,
            checkpoint_seconds=checkpoint_seconds,
            report=_teller(session, out, log, left, view) if log else None,
            between=between if view else None,
        )
    if is_first and int(state.step) == step:
        print(f"nothing left to train: step {step} of {int(state.total_steps)}")
    return state


def _teller(
    session: Session, out: Path, log: MetricsLog, left: Callable[[], float], view: Any
) -> Callable[[Progress], None]:
    """The function that reports progress: to metrics.jsonl, on the terminal and in the live viewer."""
    plans, planned, line = session.plans, 0, common.LiveLine()
    strategy = session.trainer.strategy
    rows = read_metrics(out)  # those up to the step of resuming; the log has removed later ones
    begun = time.perf_counter() - (rows[-1].get("seconds", 0.0) if rows else 0.0)
    if not log.with_events:
        print("no TensorBoard events, which need the package tensorboardX")

    def tell(progress: Progress) -> None:
        nonlocal plans, planned
        quality = psnr_of_error(progress.metrics["mse"])
        measured = {
            **progress.metrics,
            "psnr": quality,
            "rays_per_second": progress.rays_per_second,
            "seconds": time.perf_counter() - begun,
            "seconds_since_process_start": common.seconds_since_process_start(),
            "compile_seconds": _compile_seconds()[0],
        }
        log.write(progress.step, measured)
        if view:
            view.panel.tell(progress.step, progress.total_steps, progress.metrics)
        # Said when it is decided: when the last stage begins, by the total that was planned until then.
        if plans and planned and strategy.stage == len(strategy.stages(planned)) - 1:
            plans = False
            if coarser := how_fine(session.config, planned):
                line.show(coarser, last=True)
        planned = progress.total_steps if progress.fixed else 0
        said = status(progress, quality, session.config, left())
        line.show(said, last=progress.step == progress.total_steps)

    return tell


@functools.cache
def _compile_seconds() -> list[float]:
    """A list with one number: the time that this process has spent on compiling so far."""
    total = [0.0]

    def listen(event: str, duration_secs: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            total[0] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total


def _finish(run, values: flags.FlagValues, trained: bool) -> None:
    out = run.folder
    made = [f"{out}/checkpoints"] if trained else []
    if values.evaluate:
        data = Path(values.data) if values.data else run.scene.source
        splits = evaluation.held_out_splits(run)
        if splits:
            scene = load_for(run.config, data, splits, values.allow_outside_paths)
            found = evaluation.evaluate_splits(run, scene, splits, run.config.evaluation.every)
            if test := found.get("test"):
                # Training is measured with each photograph's own colours, if it has them.
                quality = test.get("psnr_colour_corrected", test["psnr"])
                if said := disagreement(quality, read_metrics(out)):
                    print(said)
            made.append(f"{out}/results.json" if test else f"{out}/results_{splits[0]}.json")
            made += [f"{out}/{split}_preds/" for split in splits]
        else:
            print("no test views, so nothing is measured; see jaxnerf eval --split")
        frames = run.config.evaluation.orbit_frames
        if frames and (missing := missing_encoder(out / "orbit.mp4")):
            print(f"no orbit.mp4, which needs the package {missing}")
        elif frames:
            captured = np.asarray(run.cameras().camera_to_world)
            poses = orbit_of(captured, frames)
            if said := orbit_note(captured):
                print(said)
            render.render_video(
                run,
                render.path_cameras(run, poses, run.config.evaluation.orbit_size),
                out / "orbit.mp4",
            )
            made.append(f"{out}/orbit.mp4")
    if made:
        print(f"\nwrote in {out}: {', '.join(name.removeprefix(f'{out}/') for name in made)}")
    folder, video = shlex.quote(str(out)), shlex.quote(f"{out}/panels.mp4")
    print(
        f"after {common.duration(common.seconds_since_process_start())} in all. Next:\n"
        f"  jaxnerf render {folder} --path orbit --panels rgb,depth,normals --out {video}\n"
        f"  jaxnerf eval {folder}\n"
        f"  jaxnerf train --out {folder} --resume --max_steps {2 * run.step}"
    )

"""One session of training: a run begun or resumed in its folder, and followed to its end.

`jaxnerf.fit` and `jaxnerf train` both are `prepare` and `follow`, and differ in what they say meanwhile.
"""

import dataclasses
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnerf.config import Config, ConfigError, override
from jaxnerf.methods import first_state, state_like, trainer_of
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.folder import (
    check_free,
    check_same_scene,
    create_folder,
    read_config,
    refuse_changes,
    save_config,
)
from jaxnerf.runs.scene import read_scene
from jaxnerf.scenes import Scene
from jaxnerf.spaces import adapt_to_scene
from jaxnerf.training.loop import Progress, train
from jaxnerf.training.sharding import number_of_process_0
from jaxnerf.training.state import TrainState
from jaxnerf.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Method:
    """What is trained: by default what a configuration names (`jaxnerf.methods`)."""

    trainer: Callable[[Config, Scene], Trainer] = trainer_of
    first_state: Callable[[Config, Scene], TrainState] = first_state
    state_like: Callable[[Config], TrainState] = state_like


@dataclasses.dataclass(frozen=True)
class Session:
    """Training that is ready to begin or to go on.

    Attributes:
      config: adapted to the scene, as the run's folder has it.
      scene: with photographs.
      trainer: takes the steps.
      state: before the first step, or restored.
      checkpoints: of the run's folder; None keeps nothing.
      budget: seconds that training may take; 0 for no limit.
      plans: whether the total of steps is still to be fixed, by what fits into the budget.
    """

    config: Config
    scene: Scene
    trainer: Trainer
    state: TrainState
    checkpoints: Checkpoints | None
    budget: float
    plans: bool


def prepare(
    config: Config,
    read: Callable[[], Scene],
    out: Path | None,
    method: Method,
    *,
    chosen: Collection[str],
    names_steps: bool,
    names_seconds: bool,
    resume: bool,
    overwrite: bool,
    prefix: str = "",
) -> Session:
    """Begin a run, or resume it, on all processes at once; nothing is written before all is read.

    Args:
      config: what to train.
      read: gives the scene with its photographs.
      out, resume, overwrite: see `jaxnerf.fit`.
      method: that of the configuration, or of an own field.
      chosen: keys of the configuration that the user chose; see `jaxnerf.spaces.adapt_to_scene`.
      names_steps, names_seconds: whether the user says how long to train; else a resumed run takes the
        steps that were fixed before.
      prefix: how names of arguments begin in messages: "--" of flags.

    Raises:
      SceneError, RunError, ConfigError: in one line what is wrong.
    """
    rays, devices = config.training.rays_per_batch, jax.device_count()
    if rays % devices:
        raise ConfigError(f"training.rays_per_batch: {devices} devices do not divide {rays} rays")
    checkpoints, restored = Checkpoints(out) if out else None, None
    resumes = out and resume and (out / "config.json").exists()
    if checkpoints and resumes:
        config = _as_before(config, checkpoints.folder, chosen, names_steps)
        refuse_changes(checkpoints.folder, config, f"{prefix}resume")
        restored = checkpoints.restore(config, method.state_like(config))
    elif out:
        check_free(out, overwrite=overwrite, prefix=prefix)
    scene = read()
    if out and resumes:
        check_same_scene(out, read_scene(out), scene)
    else:
        config = adapt_to_scene(config, scene, chosen)
    trainer = method.trainer(config, scene)
    if out and jax.process_index() == 0:
        if resumes:
            save_config(out, config)
        else:
            create_folder(out, config, scene, overwrite=overwrite)
    number_of_process_0(0.0)  # the others wait for the folder
    state = method.first_state(config, scene) if restored is None else restored
    if names_steps:
        state = dataclasses.replace(state, total_steps=np.int32(config.training.steps))
    # A run that was killed before its first checkpoint still has its budget.
    budget = config.training.max_seconds if restored is None or names_seconds else 0.0
    plans = restored is None and budget > 0.0
    return Session(config, scene, trainer, state, checkpoints, budget, plans)


def _as_before(config: Config, out: Path, chosen: Collection[str], names_steps: bool) -> Config:
    """A configuration to go on with, in which the run's folder says what nobody chose."""
    saved = read_config(out).training
    kept: dict[str, Any] = {} if names_steps else {"training.steps": saved.steps}
    if config.training.background == "auto":
        kept["training.background"] = saved.background
    return adapt_to_scene(override(config, kept), read_scene(out), chosen)


def follow(
    session: Session,
    *,
    seconds_left: Callable[[], float],
    checkpoint_seconds: float,
    report: Callable[[Progress], bool | None] | None,
    **hooks: Any,
) -> TrainState:
    """Train to the end, with checkpoints; returns the last state, as the devices have it.

    Args:
      session: what to train.
      seconds_left: see `jaxnerf.training.loop.train`.
      checkpoint_seconds, report: see `jaxnerf.fit`; only a single process may be stopped by a report.
      hooks: `report_every` and `between`, see `jaxnerf.training.loop.train`.

    Raises:
      FitError: training has diverged.
      RunError: a checkpoint cannot be written.
    """
    state, trainer, saved_at = session.state, session.trainer, time.perf_counter()
    reports = train(state, trainer, seconds_left=seconds_left, plan=session.plans, **hooks)
    for progress in reports:
        state = progress.state
        stops = bool(report(progress)) if report else False
        done = stops or progress.step == progress.total_steps
        # No checkpoint before the steps are fixed: a resumed run would not know how many.
        spent = number_of_process_0(time.perf_counter() - saved_at)
        if session.checkpoints and (done or (progress.fixed and spent >= checkpoint_seconds)):
            session.checkpoints.save(trainer.to_host(state))
            saved_at = time.perf_counter()
        if done:
            break
    return state

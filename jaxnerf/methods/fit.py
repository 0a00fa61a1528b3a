"""Training runs: `jaxnerf.fit`, and the functions `prepare` and `follow` that it is made of.

`prepare` begins or resumes a run in its folder, and `follow` trains it to its end. The command
`jaxnerf train` uses both too; it differs from `fit` in its reports.
"""

import dataclasses
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxnerf.config import Config, ConfigError, flatten, override
from jaxnerf.config.adaptation import (
    COLOURS,
    READING,
    adapt_to_scene,
    as_read,
    find_points_for,
    load_for,
    with_bounds,
)
from jaxnerf.config.presets import preset, with_settings
from jaxnerf.fields import Field
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.methods import first_state, occupied, state_like, trainer_of
from jaxnerf.runs import folder
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run, run_of
from jaxnerf.runs.scene import read_scene
from jaxnerf.runs.structure import structure_of
from jaxnerf.scenes import Scene, without_photographs
from jaxnerf.training.loop import Progress, train
from jaxnerf.training.losses import Loss, PhotometricLoss
from jaxnerf.training.optimizers import field_optimizer
from jaxnerf.training.sharding import number_of_process_0, put_like
from jaxnerf.training.state import TrainState, with_optimizer
from jaxnerf.training.trainer import Trainer

_STEPS_OF_AN_OWN_FIELD = 2000
_OPACITY_LOSS = 0.1
_BACKGROUND, _TRANSMITTANCE = "training.background", "voxels.transmittance_loss"
# Settings whose defaults in unbounded scenes have changed: a run of an earlier version keeps its own.
_AS_BEGUN = ("voxels.optimizer.density_rate", "voxels.field.log2_detail")


def fit(
    field: Field | Config | str,
    scene: Scene | str | Path | None = None,
    out: str | Path | None = None,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 60.0,
    report: Callable[[Progress], bool | None] | None = None,
    report_every: int = 50,
    **settings: Any,
) -> Run:
    """Train on photographs: a field of one's own, or what a preset or a configuration says.

    A field with `init`, `density` and `colour` needs no more; an occupancy skips empty space. In an
    unbounded scene the field is evaluated in contracted space (a ball of radius 2), in a forward-facing
    one in normalised device coordinates (a cube from -1 to 1), and otherwise in the scene's own frame;
    see `jaxnerf.scenes.Scene`.

    Args:
      field: see `jaxnerf.Field`; or a preset's name, or a `jaxnerf.Config`, for what `jaxnerf train`
        trains.
      scene: its folder, which is read as the configuration says; None is the demo scene. Or a scene that
        was loaded with its training photographs, which is not read again.
      out: the run's folder, from which `jaxnerf.load_run(out)` renders, of an own field
        `jaxnerf.load_run(out, field=field)`; None keeps nothing.
      steps: number of training steps; by default that of the configuration, 2,000 for an own field.
      seconds: time budget from this call on: as many steps are made as fit, at most `steps`. By default
        that of the configuration if `steps` is not given, none for an own field.
      loss: (rendering, target) -> a number, or a number and a dict of metrics. For an own field only.
      optimizer: an optimizer of optax, for an own field only; None is Adam with a learning rate of 1e-2
        that decays to a tenth.
      resume: whether to continue from the last checkpoint in `out`, if there is one, to the same bits as
        without the interruption.
      overwrite: whether to replace a run in `out`.
      checkpoint_seconds: time between checkpoints.
      report: called after the first step, every `report_every` steps, and after the last; if it returns
        True, training stops with a checkpoint.
      report_every: number of steps between reports.
      settings: keys of the configuration, with "__" for a dot. For an own field: those of "occupancy";
        evaluation__chunk, evaluation__edge_supersampling; training__rays_per_batch, rays_per_pass,
        background, seed; scene__space, ball, near, far, find_points. In a scene without
        an end they stay as they are named here, where a configuration's give way to what it needs.

    Raises:
      SceneError, RunError, ConfigError, FitError: in one line what is wrong.

    Examples::

      run = jaxnerf.fit("minute", "photographs", "runs/place")
      run = jaxnerf.fit(MyField(), "photographs", "runs/mine", steps=3000)
      picture = run.render(run.cameras("test")[0]).colour
    """
    begun = time.perf_counter()
    named = {_key(name): value for name, value in settings.items()}
    config = _configuration(field, named, steps, seconds)
    own = config.method == "own"
    _check(field, config, out, resume=resume, brings=not own and (loss or optimizer))
    if report_every < 1:
        raise ConfigError(f"fit: report_every must be at least 1, got {report_every}")
    if isinstance(scene, Scene):
        scene, config = _as_loaded(scene, config, named)
    session = prepare(
        config,
        lambda: scene if isinstance(scene, Scene) else load_for(config, scene, ("train",)),
        None if out is None else Path(out),
        _of_own_field(field, loss, optimizer) if own else Method(),
        chosen=named,
        names_steps=steps is not None,
        names_seconds=seconds is not None,
        resume=resume,
        overwrite=overwrite,
    )
    ends = begun + session.budget if session.budget else float("inf")
    state = follow(
        session,
        seconds_left=lambda: ends - time.perf_counter(),
        checkpoint_seconds=checkpoint_seconds,
        report=report,
        report_every=report_every,
    )
    scene = without_photographs(session.scene)
    return run_of(Path(out or ""), session.config, scene, state)


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
      scene: the scene, with photographs.
      trainer: takes the steps.
      state: before the first step, or restored.
      checkpoints: those of the run's folder; None if nothing is stored.
      budget: seconds that training may take; 0 for no limit.
      plans: whether the total of steps is still to be fixed, by what fits into the budget.
      names_steps: whether the user named a number of steps, of which a plan takes at most so many.
    """

    config: Config
    scene: Scene
    trainer: Trainer
    state: TrainState
    checkpoints: Checkpoints | None
    budget: float
    plans: bool
    names_steps: bool


def prepare(
    config: Config,
    read: Callable[[], Scene],
    out: Path | None,
    method: Method = Method(),
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
      config: the configuration to train.
      read: gives the scene with its photographs.
      out, resume, overwrite: see `jaxnerf.fit`.
      method: that of the configuration, or of an own field.
      chosen: keys of the configuration that the user chose; see
        `jaxnerf.config.adaptation.adapt_to_scene`.
      names_steps, names_seconds: whether the user says how long to train; else a resumed run takes the
        steps that were fixed before.
      prefix: prefix of names of arguments in messages: "--" for flags.

    Raises:
      SceneError, RunError, ConfigError: in one line what is wrong.
    """
    rays, devices = config.training.rays_per_batch, jax.device_count()
    if rays % devices:
        raise ConfigError(f"training.rays_per_batch: {devices} devices do not divide {rays} rays")
    checkpoints, restored = Checkpoints(out) if out else None, None
    resumes = out and resume and (out / "config.json").exists()
    if checkpoints and resumes:
        lengths = names_steps, names_seconds
        config = _as_before(config, checkpoints.folder, chosen, *lengths)
        folder.refuse_changes(checkpoints.folder, config, f"{prefix}resume")
        restored = checkpoints.restore(config, method.state_like(config))
    elif out:
        folder.check_free(out, overwrite=overwrite, prefix=prefix)
    scene = find_points_for(config, read())
    if out and resumes:
        trained = read_scene(out)
        folder.check_same_scene(out, trained, scene)
        scene = dataclasses.replace(scene, near=trained.near)
    else:
        config = adapt_to_scene(config, scene, chosen)
    trainer = method.trainer(config, scene)
    # Before the folder is touched: an own field's `init` may fail.
    state = method.first_state(config, scene) if restored is None else restored
    if out and jax.process_index() == 0:
        if resumes:
            folder.update_folder(out, config, read_scene(out), scene.source)
        else:
            folder.create_folder(out, config, scene, overwrite=overwrite)
    number_of_process_0(0.0)  # the others wait for the folder
    # A run that ended before its steps were fixed still has its budget (see `follow`).
    begins = restored is None or not int(state.total_steps)
    if begins or names_steps:
        state = dataclasses.replace(state, total_steps=np.int32(config.training.steps))
    budget = config.training.max_seconds if begins or names_seconds else 0.0
    plans = begins and budget > 0.0
    return Session(config, scene, trainer, state, checkpoints, budget, plans, names_steps)


def _as_before(
    config: Config, out: Path, chosen: Collection[str], names_steps: bool, names_seconds: bool
) -> Config:
    """A configuration to go on with, in which the run's folder says what nobody chose."""
    saved = folder.read_config(out)
    kept: dict[str, Any] = {} if names_steps else {"training.steps": saved.training.steps}
    if not (names_steps or names_seconds):
        kept["training.max_seconds"] = saved.training.max_seconds
    # Of unbounded scenes the version that began the run chose these, and not the user's preset.
    is_unbounded = saved.scene.space != "bounded"
    was_random = is_unbounded and saved.training.background == "random"
    if config.training.background == "auto" or (was_random and _BACKGROUND not in chosen):
        kept[_BACKGROUND] = saved.training.background
    if config.method == "voxels" and is_unbounded:
        before = flatten(saved)
        kept |= {key: before[key] for key in _AS_BEGUN if key not in chosen}
        chosen = {*chosen, *_AS_BEGUN}
    if config.scene.find_points and "scene.find_points" not in chosen:
        kept["scene.find_points"] = saved.scene.find_points
    default = config.voxels.transmittance_loss == Config().voxels.transmittance_loss
    if default and _TRANSMITTANCE not in chosen:
        kept[_TRANSMITTANCE] = saved.voxels.transmittance_loss
    if not config.scene.ball:  # found from points, of which a run's folder has none
        kept["scene.ball"] = saved.scene.ball
    found = config.scene.space == "auto" or "scene.space" in chosen
    if found and COLOURS not in chosen and saved.voxels.calibration.affine_colour:
        kept[COLOURS] = True  # found from photographs, of which it has none either
    scene = read_scene(out)
    if config.scene.space == "auto" and saved.scene.space == "bounded":
        # Its photographs may have shown an object alone, and the folder has none of them.
        scene = dataclasses.replace(scene, unbounded=False)
    return adapt_to_scene(override(config, kept), scene, chosen)


def follow(
    session: Session,
    *,
    seconds_left: Callable[[], float],
    checkpoint_seconds: float,
    report: Callable[[Progress], bool | None] | None,
    report_every: int = 50,
    between: Callable[[Any, int], float] | None = None,
) -> TrainState:
    """Train to the end, with checkpoints; returns the last state, as the devices have it.

    Args:
      session: a session from `prepare`.
      seconds_left: see `jaxnerf.training.loop.train`.
      checkpoint_seconds, report: see `jaxnerf.fit`; only a single process may be stopped by a report.
      report_every, between: see `jaxnerf.training.loop.train`.

    Raises:
      FitError: training has diverged.
      RunError: a checkpoint cannot be written.
    """
    state, trainer, saved_at = session.state, session.trainer, time.perf_counter()
    when: dict[str, Any] = {"report_every": report_every, "between": between}
    for progress in train(state, trainer, seconds_left=seconds_left, plan=session.plans, **when):
        state = progress.state
        stops = bool(report(progress)) if report else False
        done = stops or progress.step == progress.total_steps
        # No checkpoint before the steps are fixed: a resumed run would not know how many.
        spent = number_of_process_0(time.perf_counter() - saved_at)
        if session.checkpoints and (done or (progress.fixed and spent >= checkpoint_seconds)):
            # A total of 0 says that it is still to be fixed. If time ended before, named steps stay.
            if not progress.fixed and (stops or not session.names_steps):
                unknown = put_like(np.int32(0), state.total_steps.sharding)
                state = dataclasses.replace(state, total_steps=unknown)
            session.checkpoints.save(trainer.to_host(state))
            saved_at = time.perf_counter()
        if done:
            break
    return state


def _of_own_field(
    field: Any, loss: Loss | None, optimizer: optax.GradientTransformation | None
) -> Method:
    chosen, by_rows = optimizer or field_optimizer(), optimizer is None
    loss = loss or PhotometricLoss(opacity=_OPACITY_LOSS)
    return Method(
        lambda config, scene: occupied.trainer(config, scene, loss, chosen, by_rows=by_rows),
        lambda config, scene: occupied.first_state(config, scene, field, chosen),
        lambda config: with_optimizer(structure_of(config, field), chosen),
    )


def _configuration(
    field: Any, named: dict[str, Any], steps: int | None, seconds: float | None
) -> Config:
    """What a field, a preset's name or a configuration says, with what is named beside it."""
    if seconds is not None and not 0.0 < seconds < float("inf"):
        raise ConfigError(f"fit: seconds must be more than 0 and finite, got {seconds:g}")
    given = preset(field) if isinstance(field, str) else field
    length: dict[str, Any] = {}
    if not isinstance(given, Config):
        _check_own(field, named)
        given = Config(method="own")
        if seconds is None and steps is None:
            steps = _STEPS_OF_AN_OWN_FIELD
    if steps is not None:
        length |= {"training.steps": steps, "training.max_seconds": 0.0}
    if seconds is not None:
        length["training.max_seconds"] = float(seconds)
    for key in ("training.steps", "training.max_seconds"):
        if key in named:
            raise ConfigError(f"fit: {key} has no effect here; give it as steps or seconds")
    return with_settings(given, length | named)


def _as_loaded(scene: Scene, config: Config, named: dict[str, Any]) -> tuple[Scene, Config]:
    """A scene that is loaded already, and the configuration that says how it was read."""
    for key in (f"scene.{name}" for name in READING):
        if key in named:
            raise ConfigError(f"fit: {key} has no effect on a scene that is loaded already")
    if scene.splits["train"].images is None:
        raise ConfigError("fit: the scene has no photographs; load it with images=('train',)")
    return with_bounds(config, scene), as_read(config, scene)


# What of a configuration `fit` listens to, beside the section "own".
_SETTINGS = frozenset(
    ["training.rays_per_batch", "training.rays_per_pass", "training.background", "training.seed"]
    + ["scene.space", "scene.ball", "scene.near", "scene.far", "scene.find_points"]
    + ["evaluation.chunk", "evaluation.edge_supersampling"]
)


def _key(name: str) -> str:
    """The configuration's key for a keyword: occupancy__cells is own.occupancy.cells."""
    key = name.replace("__", ".")
    return f"own.{key}" if key.startswith("occupancy.") else key


def _check_own(field: Any, named: dict[str, Any]) -> None:
    """Refuse what is no field, and settings that do nothing for one."""
    if isinstance(field, type):
        raise ConfigError(f"fit: {field.__name__} is a class; give a field, as {field.__name__}()")
    if isinstance(field, NoisyField):
        raise ConfigError("fit: density noise is for the paper's network (nerf.density_noise)")
    for name in ("init", "density", "colour"):
        if not callable(getattr(field, name, None)):
            raise ConfigError(f"fit: {type(field).__name__} is no field: it has no function {name}")
    for key in named:
        if key not in _SETTINGS and not key.startswith("own."):
            raise ConfigError(f"fit: {key} has no effect here")


def _check(field: Any, config: Config, out: Any, *, resume: bool, brings: Any) -> None:
    """Refuse in one line what would fail later, or do nothing."""
    if jax.process_count() > 1:
        raise ConfigError("fit: runs in one process, on all of its devices")
    if isinstance(field, Config) and config.method == "own":
        raise ConfigError("fit: a configuration of method own wants the field itself, and settings")
    if brings:
        raise ConfigError(
            f"fit: loss and optimizer are for fields of one's own; {config.method} has its settings"
        )
    if resume and out is None:
        raise RunError("fit: resume needs the run's folder, out")

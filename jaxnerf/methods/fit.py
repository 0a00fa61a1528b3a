"""Any field, trained fast: `fit` joins an own field with an occupancy, the loop, and a run's folder."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxnerf.config import Config, ConfigError, override
from jaxnerf.fields import Field
from jaxnerf.methods import occupied
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.files import RunError
from jaxnerf.runs.folder import create_folder, refuse_changes, save_config
from jaxnerf.runs.run import Run, run_of
from jaxnerf.runs.structure import structure_of
from jaxnerf.scenes import Scene, load_scene
from jaxnerf.spaces import adapt_to_scene, with_bounds
from jaxnerf.training.loop import Progress, train
from jaxnerf.training.losses import Loss, PhotometricLoss
from jaxnerf.training.optimizers import field_optimizer
from jaxnerf.training.state import with_optimizer


def fit(
    field: Field,
    scene: Scene | str | Path | None = None,
    out: str | Path | None = None,
    *,
    steps: int = 2000,
    loss: Loss = PhotometricLoss(opacity=0.1),
    optimizer: optax.GradientTransformation | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 60.0,
    report: Callable[[Progress], bool | None] | None = None,
    report_every: int = 50,
    **settings: Any,
) -> Run:
    """Train a field of one's own on photographs, with an occupancy that skips empty space.

    A field with `init`, `density` and `colour` needs no more. In a scene without an end it is asked in
    contracted space (a ball of radius 2) or in normalised device coordinates (a cube from -1 to 1), else
    in the scene's own frame; see `jaxnerf.scenes.Scene`.

    Args:
      field: see `jaxnerf.Field`.
      scene: loaded with its training photographs, or its folder; None is the demo scene.
      out: the run's folder, from which `jaxnerf.load_run(out, field=field)` renders; None keeps nothing.
      steps: of training.
      loss: (rendering, target) -> a number, or a number and a dict of metrics.
      optimizer: any of optax; None is Adam at 1e-2, which decays to a tenth of that.
      resume: go on from the last checkpoint in `out`, if there is one, to the same bits as without the
        interruption.
      overwrite: start anew where `out` holds a run.
      checkpoint_seconds: between checkpoints.
      report: called after the first step, every so many, and the last; where it returns True training
        stops, with a checkpoint.
      report_every: steps.
      settings: of `jaxnerf.Config`, with "__" for a dot: those of "occupancy"; evaluation__chunk,
        evaluation__edge_supersampling; training__rays_per_batch, rays_per_pass, background, seed;
        scene__space, ball, near, far.

    Raises:
      SceneError, RunError, ConfigError, FitError: in one line what is wrong.

    Example::

      run = jaxnerf.fit(MyField(), "photographs", "runs/mine", steps=3000)
      picture = run.render(run.cameras("test")[0]).colour
    """
    named = {_key(name): value for name, value in settings.items()}
    _check(field, named, out, resume)
    if not isinstance(scene, Scene):
        scene = load_scene(scene, images=("train",))
    if scene.splits["train"].images is None:
        raise ConfigError("fit: the scene has no photographs; load it with images=('train',)")
    config = override(Config(method="own"), {"training.steps": steps} | named)
    scene = with_bounds(config, scene)
    config = adapt_to_scene(config, scene, named)
    rays, devices = config.training.rays_per_batch, jax.device_count()
    if rays % devices:
        raise ConfigError(f"training.rays_per_batch: {devices} devices do not divide {rays} rays")
    by_rows, optimizer = optimizer is None, optimizer or field_optimizer()
    trainer = occupied.trainer(config, scene, loss, optimizer, by_rows=by_rows)
    folder, state = Path(out or ""), None
    checkpoints = Checkpoints(folder) if out is not None else None
    if checkpoints:
        if resume and (folder / "config.json").exists():
            refuse_changes(folder, config, "resume")
            save_config(folder, config)
            like = with_optimizer(structure_of(config, field), optimizer)
            state = checkpoints.restore(config, like)
        else:
            create_folder(folder, config, scene, overwrite=overwrite)
    if state is None:
        state = occupied.first_state(config, scene, field, optimizer)
    state = dataclasses.replace(state, total_steps=np.int32(steps))
    saved = time.perf_counter()
    for progress in train(state, trainer, report_every=report_every):
        state = progress.state
        stopped = bool(report(progress)) if report else False
        done = stopped or progress.step == progress.total_steps
        if checkpoints and (done or time.perf_counter() - saved >= checkpoint_seconds):
            checkpoints.save(trainer.to_host(state))
            saved = time.perf_counter()
        if done:
            break
    return run_of(folder, config, scene, trainer.to_host(state))


# What of a configuration `fit` listens to, beside the section "own".
_SETTINGS = frozenset(
    ["training.rays_per_batch", "training.rays_per_pass", "training.background", "training.seed"]
    + ["scene.space", "scene.ball", "scene.near", "scene.far"]
    + ["evaluation.chunk", "evaluation.edge_supersampling"]
)


def _key(name: str) -> str:
    """The configuration's key for a keyword: occupancy__cells is own.occupancy.cells."""
    key = name.replace("__", ".")
    return f"own.{key}" if key.startswith("occupancy.") else key


def _check(field: Any, named: dict[str, Any], out: Any, resume: bool) -> None:
    """Refuse in one line what would fail later, or do nothing."""
    if jax.process_count() > 1:
        raise ConfigError("fit: runs in one process, on all of its devices")
    for name in ("init", "density", "colour"):
        if not callable(getattr(field, name, None)):
            raise ConfigError(f"fit: {type(field).__name__} is no field: it has no function {name}")
    for key in named:
        if key not in _SETTINGS and not key.startswith("own."):
            raise ConfigError(f"fit: {key} has no effect here")
    if resume and out is None:
        raise RunError("fit: resume needs the run's folder, out")

"""The training loop, read top to bottom: batches in, reports out."""

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.adjustments import blank_adjustments
from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.config import Config, ConfigError, override
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields import Field
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.growing import blank_state
from jaxnerf.growth import create_growing_state
from jaxnerf.pacing import Pace, Paced, Plan
from jaxnerf.paths import focus_point
from jaxnerf.placement import put_like
from jaxnerf.reach import check_in_view
from jaxnerf.scenes import Scene
from jaxnerf.scenes.frames import NEAR
from jaxnerf.silhouettes import background_of
from jaxnerf.stages import GrowingTrainer
from jaxnerf.training import NerfTrainer, TrainingConfig, agreed, create_state

# A loop that never waits for a result can deadlock the all-reduce between CPU devices.
_STEPS_BETWEEN_WAITS = 8
# In radii of it, or distances of the near plane: where the paper's network sees no farther.
_HORIZON = 1000.0
# How far beyond the picture of the average camera a forward-facing scene may go, in half its size.
_MOST_REACH = 2.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training stands, as `fit` reports it.

    Attributes:
      state: after the step, as the devices have it: `Trainer.whole` is what can be kept and given to
        `fit` again. Its buffers are gone after the next step, so copy what is kept.
      step, total_steps: as Python numbers.
      metrics: of the last step.
      rays_per_second: since the last report.
      fixed: whether total_steps is, and not still waiting for the speed to be measured. A later plan, in
        the last stage, may move it.
    """

    state: Any
    step: int
    total_steps: int
    metrics: dict[str, float]
    rays_per_second: float
    fixed: bool


class FitError(Exception):
    """Training cannot go on; the message says why and what to do."""


@runtime_checkable
class Trainer(Paced, Protocol):
    """A way of training: `jaxnerf.training.NerfTrainer`, `jaxnerf.stages.GrowingTrainer`.

    Attributes:
      config: what all ways share.
      remedy: what to do when training diverges.
    """

    config: TrainingConfig
    remedy: str

    def place(self, state: Any) -> Any:
        """A state, on the devices as steps take and return it."""
        ...

    def whole(self, state: Any) -> Any:
        """The inverse of `place`: a state to keep, on which devices it was does not show.

        All hosts must call this at once.
        """
        ...

    def advance(self, state: Any, number: int, total: int) -> tuple[Any, dict[str, Any]]:
        """Take a step, the one with this number of so many, of and to a state on the devices."""
        ...


def trainer_of(config: Config, scene: Scene) -> Trainer:
    """The way of training that a configuration names, on a scene's photographs."""
    split, (near, far) = scene.splits["train"], bounds_of(config, scene)
    if config.method == "voxels":
        return GrowingTrainer(
            split, near, voxels=config.voxels, growing=config.growing, config=config.training
        )
    return NerfTrainer(
        split, near, far,
        fields=fields_of(config, scene), settings=config.render, config=config.training,
    )  # fmt: skip


def suited(config: Config, scene: Scene, chosen: Collection[str] = ()) -> Config:
    """A configuration for a scene: its space, what lies behind it, and what spaces without an end need.

    Where photographs have no bare background, fog before the cameras explains them as well as surfaces
    do at first: densities must begin low and grow slowly. Rays take ten times as many samples there, so
    one a voxel must do; and what few of them meet must not sink.

    Args:
      config: a preset, or what a user made of it.
      scene: to train on. Without photographs, a background that is "auto" stays so.
      chosen: keys that stay as they are, since a user chose them. With resolutions, what would change
        them (`voxels_for_steps`, `points`) is left out unless it is chosen too.

    Raises:
      ConfigError: the scene cannot be trained on in the chosen space.
    """
    space, begun = config.scene.space, config.scene.space == "auto"
    if space == "auto":
        space = "forward" if scene.ndc else "unbounded" if scene.unbounded else "bounded"
    if space == "forward" and scene.ndc is None:
        raise ConfigError("scene.space: the cameras do not all look the same way; not forward")
    if space == "bounded":
        check_in_view(scene)
    changes: dict[str, Any] = {"scene.space": space}
    split = scene.splits["train"]
    if config.training.background == "auto" and split.images is not None:
        chosen = set(chosen) - {"training.background"}
        changes["training.background"] = background_of(split) if space == "bounded" else "white"
    # A configuration that names its space is that of a run, unless the user names it now.
    if space != "bounded" and (begun or "scene.space" in chosen):
        needed = _WITHOUT_AN_END[config.method]
        changes |= {key: value for key, value in needed.items() if key not in chosen}
    if "growing.resolutions" in chosen:
        kept = {"growing.voxels_for_steps": 0.0, "growing.points": 0}
        changes |= {key: value for key, value in kept.items() if key not in chosen}
    return override(config, changes)


_WITHOUT_AN_END: dict[str, dict[str, Any]] = {
    "voxels": {
        "voxels.features": 3,
        "voxels.width": 32,
        "voxels.sh_degree": 2,
        "voxels.initial_opacity": 0.003,
        "voxels.density_rate": 0.2,
        "voxels.feature_rate": 0.3,
        "growing.finer": 1,
        "growing.points": 0,
        "growing.sinking": 0.0,
        "training.adam_beta1": 0.9,
        "training.background": "random",
        "evaluation.edge_supersampling": 0.0,
    },
    "nerf": {"render.spacing": "disparity"},
}


def fields_of(config: Config, scene: Scene) -> tuple[Field, ...]:
    """The networks of a suited configuration, as a renderer of the world asks them."""
    space = space_of(config, scene)
    return tuple(WarpedField(field, space) if space else field for field in config.fields())


def space_of(config: Config, scene: Scene) -> SphereContraction | NdcSpace | None:
    """The space that a suited configuration names, around a scene's cameras."""
    if config.scene.space == "forward":
        assert scene.ndc is not None
        ndc = (scene.ndc.focal, scene.ndc.size, scene.ndc.near, 1.0)
        space = NdcSpace(*(jnp.asarray(x, jnp.float32) for x in ndc))
        reach = _reach(space, scene.splits["train"].cameras)
        return dataclasses.replace(space, reach=jnp.float32(reach))
    if config.scene.space == "unbounded":
        poses = np.asarray(scene.splits["train"].cameras.camera_to_world)
        centre = focus_point(poses)
        distance = np.median(np.linalg.norm(poses[:, :, 3] - centre, axis=-1))
        radius = config.scene.ball * max(float(distance), 1e-6)
        return SphereContraction(jnp.asarray(centre, jnp.float32), jnp.float32(radius))
    return None


def bounds_of(config: Config, scene: Scene) -> tuple[float, float]:
    """The near and far of rays, from a scene's cameras, by a suited configuration.

    In spaces without an end rays begin at the scene's near, before which the fast field would explain
    each photograph by something of its own; or, in front of cameras that all look the same way, at the
    near plane. What bounds the fast field's rays in other scenes is the box that silhouettes leave,
    unless the user names a near. The fast field has no far: what lies beyond the scene's is as much part
    of it. The paper's network has one, in the spaces without an end so far away that it does not matter.
    """
    space, near = space_of(config, scene), scene.near
    if space is not None and not config.scene.near:
        if isinstance(space, NdcSpace):
            near = min(near, float(space.near))
        elif not scene.unbounded and scene.ndc is None:
            # Of a scene that was read as one that stands alone, near says nothing of what is around it.
            near = min(near, NEAR * float(space.radius) / config.scene.ball)
    if config.method == "voxels":
        return near if space is not None or config.scene.near else 0.0, math.inf
    if space is None:
        return near, scene.far
    unit = space.radius if isinstance(space, SphereContraction) else space.near
    return near, max(scene.far, _HORIZON * float(unit))


def _reach(frustum: NdcSpace, cameras: Camera) -> float:
    """How far to the sides of a frustum's cube the corners of pictures look."""
    width, height = (np.asarray(cameras.size)[:, axis].astype(np.float32) for axis in (0, 1))
    farthest = 1.0
    for right in (0.0, 1.0):
        for down in (0.0, 1.0):
            pixels = jnp.stack([right * width, down * height], axis=-1)
            rays = frustum.rays(cast_rays(cameras, pixels))
            for t in (0.0, 1.0):
                points = np.asarray(rays.origins + t * rays.directions)
                farthest = max(farthest, float(np.abs(points[:, :2]).max()))
    return min(farthest, _MOST_REACH)


def first_state(config: Config, scene: Scene) -> Any:
    """The state before the first step."""
    if config.method == "voxels":
        return create_growing_state(
            config.voxels, scene.splits["train"], config.growing, config.training,
            space_of(config, scene), bounds_of(config, scene)[0],
        )  # fmt: skip
    return create_state(config.fields(), config.training)


def state_like(config: Config) -> Any:
    """A state's structure: shapes and types, of which the fast field's change as it grows."""
    if config.method == "voxels":
        zeros: Any = np.zeros(3, np.float32)
        one: Any = np.float32(1.0)
        example = {
            "unbounded": SphereContraction(zeros, one),
            "forward": NdcSpace(zeros[:2], zeros[:2], one, one),
        }
        space = example.get(config.scene.space)

        def blank() -> Any:
            adjustments = blank_adjustments(
                config.training,
                colours=config.growing.affine_colour,
                motions=config.growing.refine_poses,
            )
            return blank_state(
                VoxelField.in_unit_cube(config.voxels), config.training, space, adjustments
            )

        return jax.eval_shape(blank)
    return jax.eval_shape(lambda: create_state(config.fields(), config.training))


def fit(
    state: Any,
    trainer: Trainer,
    *,
    seconds_left: Callable[[], float] = lambda: float("inf"),
    plan: bool = False,
    report_every: int = 50,
) -> Iterator[Progress]:
    """Train from wherever the state stands to its total of steps.

    With a plan the total is fixed early, so that stages and learning rates have a schedule, and mended
    up to twice in the last stage, from its own speed (`jaxnerf.pacing.Plan`): rates then jump to where
    they are in the new schedule, and no stage goes back. The total is part of the state. A run that is
    resumed without a plan goes on with the total of its checkpoint, to the bits of a run that was not
    interrupted if there was no plan after it, else to those of one whose last plan that was.

    Args:
      state: of the trainer's kind, before the first step or restored.
      trainer: what a step is.
      seconds_left: the time budget; training stops when less than a step is left.
      plan: whether to fix the total of steps, at most to the state's, by what fits into the time.
      report_every: steps between reports, which are also made after the first and the last step.

    Yields:
      `Progress`; the first after the first step.

    Raises:
      FitError: the loss or the gradient is not finite; no such state is reported.
    """
    config = trainer.config
    state = trainer.place(state)
    number, total = int(state.step), int(state.total_steps)
    reported, reported_at = number, time.perf_counter()
    begun, pace = number, Pace(number)
    planned = Plan(trainer, pace, total) if plan else None
    while number < total:
        state, metrics = trainer.advance(state, number, total)
        number += 1
        is_report = number == begun + 1 or number == total or number % report_every == 0
        if not is_report and number % _STEPS_BETWEEN_WAITS:
            continue
        values = {name: float(value) for name, value in metrics.items()}
        seconds_a_step, left = pace.arrive(number, trainer.load), agreed(seconds_left())
        if planned and (fits := planned.total(number, total, left)):
            total, is_report = fits, True
            there = state.total_steps.sharding
            state = dataclasses.replace(state, total_steps=put_like(np.int32(total), there))
        if left < seconds_a_step * _STEPS_BETWEEN_WAITS:
            total = number
        if not all(np.isfinite(value) for value in values.values()):
            raise FitError(
                f"step {number}: the loss is {values['loss']} and the gradient's norm "
                f"{values['gradient_norm']}: training has diverged. {trainer.remedy}"
            )
        if is_report or number == total:
            rays = values.get("rays", config.rays_per_batch) * (number - reported)
            rate = rays / max(time.perf_counter() - reported_at, 1e-9)
            yield Progress(state, number, total, values, rate, not planned or planned.made > 0)
            # Time that the caller spent on the report is not training's.
            reported, reported_at = number, time.perf_counter()
            pace.go_on()

"""From a configuration and a scene to what trains on it: field, sampler, loss, optimizer, strategy."""

import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.config import Config, ConfigError, override
from jaxnerf.contraction import BoxSpace, NdcSpace, SphereContraction
from jaxnerf.fields import Field, as_pytree
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.paths import focus_point
from jaxnerf.reach import check_in_view
from jaxnerf.rendering import rays_that_fit
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Scene, Split
from jaxnerf.scenes.frames import NEAR
from jaxnerf.silhouettes import background_of
from jaxnerf.training import PhotometricLoss, TrainState, begin
from jaxnerf.training.calibration import step_calibration
from jaxnerf.training.coarse_to_fine import CoarseToFine
from jaxnerf.training.growth import blank_state
from jaxnerf.training.growth import first_state as first_state_of_voxels
from jaxnerf.training.keep_occupancy import KeepOccupancy, Remembered, full_occupancy
from jaxnerf.training.losses import Loss
from jaxnerf.training.optimizers import (
    exponential_to,
    field_optimizer,
    learning_rate,
    network_optimizer,
    voxel_optimizer,
)
from jaxnerf.training.sharding import broadcast_from_process_0
from jaxnerf.training.strategy import Unchanged
from jaxnerf.training.trainer import Trainer

# Weights of a hash grid's losses beside colour; those of the fast field.
_OPACITY_LOSS, _DISTORTION_LOSS = 0.1, 0.01
# Evaluations of the field in one pass of training; see `rays_that_fit`.
_EVALUATIONS_ON_CPU = 1 << 11
# In radii of it, or distances of the near plane: where the paper's network sees no farther.
_HORIZON = 1000.0
# How far beyond the picture of the average camera a forward-facing scene may go, in half its size.
_MOST_REACH = 2.0


def trainer_of(config: Config, scene: Scene) -> Trainer:
    """What takes the steps that a configuration names, on a scene's photographs."""
    split, (near, far) = scene.splits["train"], bounds_of(config, scene)
    if config.method == "voxels":
        return voxel_trainer(config, split, near, space_of(config, scene) is not None)
    if config.method == "hash_grid":
        loss = PhotometricLoss(
            opacity=_OPACITY_LOSS,
            distortion=_DISTORTION_LOSS if config.scene.space != "bounded" else 0.0,
        )
        return own_trainer(config, scene, loss)
    if config.method == "own":
        raise ConfigError("method: own is that of jaxnerf.fit, which is given the field")
    return network_trainer(config, split, near, far)


def network_trainer(config: Config, split: Split, near: float, far: float) -> Trainer:
    """What takes the steps of the paper's network, of rays from near to far."""
    training = config.training
    passes = training.rays_per_pass or rays_that_fit(config.render.sampler(), _EVALUATIONS_ON_CPU)
    return Trainer(
        split,
        config=training,
        loss=PhotometricLoss(proposals=training.coarse_loss),
        optimizer=network_optimizer(training),
        strategy=Unchanged(split, training),
        near=near,
        far=far,
        rays_per_pass=passes,
        compositing=config.render.compositing,
        learning_rate=functools.partial(learning_rate, training),
        by_rows=True,
        remedy=f"Lower training.learning_rate (now {training.learning_rate}), or lengthen "
        "training.delay_steps",
    )


def own_trainer(
    config: Config,
    scene: Scene,
    loss: Loss,
    optimizer: optax.GradientTransformation | None = None,
) -> Trainer:
    """What takes the steps of a hash grid, or of any field, with an occupancy that is kept up to date.

    Args:
      config: suited to the scene.
      scene: with photographs.
      loss: see `jaxnerf.training.losses`.
      optimizer: None is `field_optimizer`'s.
    """
    split, (near, far) = scene.splits["train"], bounds_of(config, scene)
    return Trainer(
        split,
        config=config.training,
        loss=loss,
        optimizer=optimizer or field_optimizer(),
        strategy=KeepOccupancy(split, config.occupancy, config.training),
        near=near,
        far=far,
        rays_per_pass=config.training.rays_per_pass,
        by_rows=optimizer is None,
        remedy="Lower the learning rate",
    )


def voxel_trainer(config: Config, split: Split, near: float, unbounded: bool) -> Trainer:
    """What takes the steps of the fast field.

    Args:
      config: suited to the scene.
      split: with photographs.
      near: where rays begin.
      unbounded: whether the scene has no end, so that fog can hang before the cameras.
    """
    voxels, growing, training = config.voxels, config.growing, config.training
    decay = exponential_to(growing.final_rate)

    def calibrate(calibration, gradients, cameras, step, total):
        progress = step.astype(jnp.float32) / jnp.maximum(total, 1).astype(jnp.float32)
        rates = (
            growing.colour_rate * decay(step, total),
            growing.pose_rate * growing.pose_share(progress),
        )
        return step_calibration(calibration, gradients, cameras, rates, training)

    return Trainer(
        split,
        config=training,
        loss=PhotometricLoss(
            opacity=growing.opacity_loss,
            distortion=growing.distortion_loss if unbounded else 0.0,
        ),
        optimizer=voxel_optimizer(voxels, growing, training),
        strategy=CoarseToFine(split, growing, training, near),
        near=near,
        calibrate=calibrate,
        learning_rate=decay,
        by_rows=True,
        remedy=f"Lower voxels.density_rate (now {voxels.density_rate}) or voxels.feature_rate "
        f"(now {voxels.feature_rate})",
    )


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
    space, is_new = config.scene.space, config.scene.space == "auto"
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
    if space != "bounded" and (is_new or "scene.space" in chosen):
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
    "hash_grid": {"training.background": "random"},
    "own": {"training.background": "random"},
}


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
    if config.method != "nerf":
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


def first_state(
    config: Config,
    scene: Scene,
    field: Field | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      config: suited to the scene.
      scene: with photographs.
      field: the user's own; None for the methods that bring theirs.
      optimizer: the user's own, of that field.
    """
    if config.method == "voxels":
        return first_state_of_voxels(
            config.voxels, scene.splits["train"], config.growing, config.training,
            space_of(config, scene), bounds_of(config, scene)[0],
        )  # fmt: skip
    if config.method == "nerf":
        return network_state(config, space_of(config, scene))
    return own_state(config, scene, field or config.hash_grid, optimizer)


def own_state(
    config: Config,
    scene: Scene,
    field: Field,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """The state before the first step of a hash grid, or of any field, with an occupancy.

    An own field of a bounded scene is asked in the scene's frame; a hash grid in the cube that holds
    the scene.
    """
    training, space = config.training, space_of(config, scene)
    occupancy, remembered = full_occupancy(
        scene.splits["train"], config.occupancy, training.background, space
    )
    box = None
    if space is None and config.method == "hash_grid":
        side = occupancy.cell * occupancy.cells.shape[0]
        box = BoxSpace(occupancy.origin, side)
    params = jax.jit(field.init)(jax.random.key(training.seed))
    # Hosts' floats can differ in a last bit.
    params, occupancy, remembered, box = broadcast_from_process_0(
        (params, occupancy, remembered, box)
    )
    state = begin(
        _warped(field, space or box), params, config.occupancy.sampler(occupancy),
        optimizer or field_optimizer(), training.steps,
    )  # fmt: skip
    return dataclasses.replace(state, strategy=remembered)


def _warped(field: Field, space: Any) -> Any:
    field = as_pytree(field)
    return field if space is None else WarpedField(field, space)


def state_like(
    config: Config,
    field: Field | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """A state's structure: shapes and types, of which the fast field's change as it grows.

    Args:
      config: of the run.
      field: the user's own; None for the methods that bring theirs.
      optimizer: the user's own, of that field.
    """
    zeros: Any = np.zeros(3, np.float32)
    one: Any = np.float32(1.0)
    example = {
        "unbounded": SphereContraction(zeros, one),
        "forward": NdcSpace(zeros[:2], zeros[:2], one, one),
    }
    space = example.get(config.scene.space)
    if config.method == "voxels":
        blank = blank_state(config.voxels, config.growing, config.training, space)
        return jax.eval_shape(lambda: blank)
    if config.method == "nerf":
        return jax.eval_shape(lambda: network_state(config, space))
    return _own_state_like(config, field or config.hash_grid, space, optimizer)


def _own_state_like(config: Config, field: Field, space: Any, optimizer: Any) -> TrainState:
    size = config.occupancy.cells
    zeros: Any = np.zeros(3, np.float32)
    one: Any = np.float32(1.0)
    box = BoxSpace(zeros, one) if space is None and config.method == "hash_grid" else None
    cells: Any = np.zeros((size,) * 3, np.uint8)
    occupancy = Occupancy(cells, zeros, one, one, space)
    depths: Any = np.zeros((size,) * 3, np.float32)

    def blank() -> TrainState:
        params = field.init(jax.random.key(0))
        state = begin(
            _warped(field, space or box), params, config.occupancy.sampler(occupancy),
            optimizer or field_optimizer(), config.training.steps,
        )  # fmt: skip
        return dataclasses.replace(state, strategy=Remembered(depths))

    return jax.eval_shape(blank)


def network_state(config: Config, space: SphereContraction | NdcSpace | None = None) -> TrainState:
    """The state before the first step of the paper's network."""
    fields, training = config.fields(), config.training
    keys = jax.random.split(jax.random.key(training.seed), len(fields))
    # Together, since each of their layers would be compiled for itself.
    params = jax.jit(lambda keys: tuple(f.init(k) for f, k in zip(fields, keys, strict=True)))(keys)
    noise = config.render.density_noise
    placed = tuple(WarpedField(field, space) if space else field for field in fields)
    disturbed = tuple(NoisyField(field, None, noise) if noise else field for field in placed)
    return begin(
        disturbed, params, config.render.sampler(), network_optimizer(training), training.steps
    )

"""From a configuration and a scene to what trains on it: field, sampler, loss, optimizer, strategy."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnerf.config import Config, ConfigError
from jaxnerf.contraction import BoxSpace, NdcSpace, SphereContraction
from jaxnerf.fields import Field, as_pytree
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.rendering import rays_that_fit
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Scene, Split
from jaxnerf.spaces import bounds_of, space_of
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

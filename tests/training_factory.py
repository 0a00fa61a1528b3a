"""Configurations, trainers and states for tests of the fast field, from the parts that they vary."""

import dataclasses
from collections.abc import Callable, Hashable

from jaxnerf import Config
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.methods import voxels
from jaxnerf.scenes import Split
from jaxnerf.sections import VoxelsConfig
from jaxnerf.training.calibration import CalibrationConfig, first_calibration
from jaxnerf.training.coarse_to_fine import CoarseToFineConfig, stages
from jaxnerf.training.optimizers import VoxelOptimizerConfig
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.state import TrainState, from_process_0
from jaxnerf.training.trainer import Trainer

FIELD = VoxelSettings(width=8)
_STEPS: dict[Hashable, Callable] = {}


def voxel_config(
    config: CoarseToFineConfig,
    training: TrainingConfig,
    *,
    field: VoxelSettings = FIELD,
    optimizer: VoxelOptimizerConfig = VoxelOptimizerConfig(),
    calibration: CalibrationConfig = CalibrationConfig(),
    opacity_loss: float = 0.1,
) -> Config:
    """A configuration of the fast field."""
    section = VoxelsConfig(field, config, optimizer, calibration, opacity_loss)
    return Config(method="voxels", voxels=section, training=training)


def trainer_of_voxels(
    split: Split, config: CoarseToFineConfig, training: TrainingConfig, **more
) -> Trainer:
    """What trains the fast field in a bounded scene."""
    whole = voxel_config(config, training, **more)
    # What a step is does not depend on the stages.
    section = dataclasses.replace(whole.voxels, stages=CoarseToFineConfig())
    trainer = voxels.trainer_on(split, whole, unbounded=False)
    return with_one_step(trainer, section, training.rays_per_pass, len(split), voxels._FEW)


def with_one_step(trainer: Trainer, *settings: Hashable) -> Trainer:
    """The trainer, with the step of the first of those that have all that a step depends on in common.

    JAX traces and compiles a step once then, and not once for each of them.
    """
    trainer.one_step = _STEPS.setdefault(settings, trainer.one_step)
    return trainer


def first_state_of_voxels(
    split: Split,
    config: CoarseToFineConfig,
    training: TrainingConfig,
    space: SphereContraction | NdcSpace | None = None,
    near: float = 0.0,
    **more,
) -> TrainState:
    """The state before the first step of the fast field."""
    whole = voxel_config(config, training, **more)
    state = stages.first_state(
        split, whole.voxels.field, config, training, space=space, near=near,
        calibration=first_calibration(split.cameras, whole.voxels.calibration, space),
    )  # fmt: skip
    return from_process_0(state, voxels.optimizer(whole))

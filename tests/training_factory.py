"""Configurations, trainers and states for tests of the fast field, from the parts that they vary."""

from jaxnerf import Config
from jaxnerf.config.sections import VoxelsConfig
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.methods import voxels
from jaxnerf.scenes import Split
from jaxnerf.training.calibration import CalibrationConfig, first_calibration
from jaxnerf.training.coarse_to_fine import CoarseToFineConfig, StageInputs, stages
from jaxnerf.training.optimizers import VoxelOptimizerConfig
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.sharding import broadcast_from_process_0
from jaxnerf.training.state import TrainState, with_optimizer
from jaxnerf.training.trainer import Trainer

FIELD = VoxelSettings(width=8)


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
    return voxels.trainer_on(split, voxel_config(config, training, **more), unbounded=False)


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
        StageInputs(split, config, training, near), whole.voxels.field, space=space,
        calibration=first_calibration(split.cameras, whole.voxels.calibration, space),
    )  # fmt: skip
    return with_optimizer(broadcast_from_process_0(state), voxels.optimizer(whole))

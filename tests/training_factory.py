"""Trainers for tests, from the parts of a configuration."""

from jaxnerf import Config
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.methods.fitting import voxel_trainer
from jaxnerf.scenes import Split
from jaxnerf.training.growing import GrowingConfig
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.trainer import Trainer


def voxel_config(voxels: VoxelSettings, growing: GrowingConfig, config: TrainingConfig) -> Config:
    """A configuration of the fast field."""
    return Config(method="voxels", voxels=voxels, growing=growing, training=config)


def trainer_of_voxels(
    split: Split, voxels: VoxelSettings, growing: GrowingConfig, config: TrainingConfig
) -> Trainer:
    """What trains the fast field in a bounded scene."""
    return voxel_trainer(voxel_config(voxels, growing, config), split, 0.0, False)

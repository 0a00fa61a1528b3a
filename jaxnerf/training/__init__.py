"""Training: one state, one step, one loop, for every field, sampler, loss and optimizer."""

from jaxnerf.training.batches import sample_batch
from jaxnerf.training.losses import PhotometricLoss, mean_over_rays, squared_error
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.state import Batch, Target, TrainState, begin
from jaxnerf.training.step import train_step

__all__ = [
    "Batch",
    "PhotometricLoss",
    "Target",
    "TrainState",
    "TrainingConfig",
    "begin",
    "mean_over_rays",
    "sample_batch",
    "squared_error",
    "train_step",
]

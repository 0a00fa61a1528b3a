"""Training: one state, one step, one loop, for every field, sampler, loss and optimizer."""

from typing import TYPE_CHECKING, Any

from jaxnerf.training.batches import sample_batch
from jaxnerf.training.losses import PhotometricLoss, mean_over_rays, squared_error
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.state import Batch, Target, TrainState, begin

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """Import the step when a name needs it: configurations and runs have settings and states alone."""
    if name == "train_step":
        from jaxnerf.training.step import train_step

        return train_step
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

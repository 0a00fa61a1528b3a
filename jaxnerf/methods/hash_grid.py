"""The hash grid: a `HashGridField` with an occupancy that is kept up to date."""

import optax

from jaxnerf.config import Config
from jaxnerf.config.adaptation import space_of
from jaxnerf.methods import occupied
from jaxnerf.scenes import Scene
from jaxnerf.training import PhotometricLoss, TrainState
from jaxnerf.training.optimizers import field_optimizer
from jaxnerf.training.trainer import Trainer


def trainer(config: Config, scene: Scene) -> Trainer:
    """See `jaxnerf.methods.trainer_of`."""
    unbounded = space_of(config, scene) is not None
    loss = PhotometricLoss(
        opacity=config.hash_grid.opacity_loss,
        distortion=config.hash_grid.distortion_loss if unbounded else 0.0,
    )
    rate = config.hash_grid.optimizer.learning_rate
    return occupied.trainer(
        config, scene, loss, optimizer(config), by_rows=True,
        divergence_hint=f"Lower hash_grid.optimizer.learning_rate (now {rate})",
    )  # fmt: skip


def first_state(config: Config, scene: Scene) -> TrainState:
    """See `jaxnerf.methods.first_state`."""
    return occupied.first_state(config, scene, config.hash_grid.field, optimizer(config))


def optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer."""
    return field_optimizer(config.hash_grid.optimizer)

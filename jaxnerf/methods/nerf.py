"""The paper's method: a `NerfField` for each level of a `Hierarchical` sampler, or one for all."""

import functools

import jax
import optax

from jaxnerf.config import Config
from jaxnerf.config.adaptation import bounds_of, space_of
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.rendering import rays_that_fit
from jaxnerf.scenes import Scene, Split
from jaxnerf.training import PhotometricLoss, TrainState, begin
from jaxnerf.training.optimizers import learning_rate, network_optimizer
from jaxnerf.training.sharding import broadcast_from_process_0
from jaxnerf.training.step import Step
from jaxnerf.training.strategy import Unchanged
from jaxnerf.training.trainer import Trainer

# Evaluations of the field in one pass of training; see `rays_that_fit`.
_EVALUATIONS_ON_CPU = 1 << 11


def trainer(config: Config, scene: Scene) -> Trainer:
    """See `jaxnerf.methods.trainer_of`."""
    return trainer_on(scene.splits["train"], config, *bounds_of(config, scene))


def trainer_on(split: Split, config: Config, near: float, far: float) -> Trainer:
    """The trainer of the paper's network on photographs, with rays from near to far; see `Trainer`."""
    nerf = config.nerf
    most = rays_that_fit(nerf.sampler(), _EVALUATIONS_ON_CPU)
    step = Step(
        PhotometricLoss(proposals=nerf.coarse_loss), optimizer(config), near, far,
        config.training.rays_per_pass or most, nerf.compositing,
        learning_rate=functools.partial(learning_rate, nerf.optimizer), by_rows=True,
    )  # fmt: skip
    return Trainer(
        split,
        config=config.training,
        step=step,
        strategy=Unchanged(split, config.training, one_image=nerf.one_image_per_batch),
        divergence_hint="Lower nerf.optimizer.learning_rate (now "
        f"{nerf.optimizer.learning_rate}), or lengthen nerf.optimizer.delay_steps",
    )


def first_state(config: Config, scene: Scene) -> TrainState:
    """See `jaxnerf.methods.first_state`."""
    # Hosts' floats can differ in a last bit.
    return broadcast_from_process_0(first_state_in(space_of(config, scene), config))


def first_state_in(space: SphereContraction | NdcSpace | None, config: Config) -> TrainState:
    """The state before the first step, of fields in a space; None is the world."""
    fields = config.nerf.fields()
    keys = jax.random.split(jax.random.key(config.training.seed), len(fields))
    # Together, since each of their layers would be compiled for itself.
    params = jax.jit(lambda keys: tuple(f.init(k) for f, k in zip(fields, keys, strict=True)))(keys)
    return begin(
        config.nerf.placed_fields(space), params, config.nerf.sampler(),
        optimizer(config), config.training.steps,
    )  # fmt: skip


def optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer."""
    return network_optimizer(config.nerf.optimizer)

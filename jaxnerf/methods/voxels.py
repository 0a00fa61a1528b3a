"""The fast field: a `VoxelField`, coarse to fine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from jaxnerf.config import Config
from jaxnerf.config.adaptation import bounds_of, space_of
from jaxnerf.fields.voxels import smoothed
from jaxnerf.scenes import Scene, Split
from jaxnerf.scenes.sightings import Sightings, sightings_of
from jaxnerf.training import PhotometricLoss, TrainState
from jaxnerf.training.calibration import first_calibration, step_calibration
from jaxnerf.training.coarse_to_fine import CoarseToFine, StageInputs, stages
from jaxnerf.training.optimizers import exponential_to, progress_of, voxel_optimizer
from jaxnerf.training.sharding import broadcast_from_process_0
from jaxnerf.training.state import with_optimizer
from jaxnerf.training.step import Step
from jaxnerf.training.trainer import Trainer

# Smoothing is applied every 20 steps, since it takes as long as a step or two. It ends in the middle of
# training, when geometry has formed: later it would remove detail. With more than _FEW photographs it is
# reduced in proportion: full smoothing costs 0.25 dB with the 161 photographs of a garden, where captures
# of 17 to 43 photographs gain 0.25 to 1 dB (experiments/captures).
_SMOOTH_EVERY, _SMOOTH_UNTIL, _FEW = 20, 0.5, 40


def trainer(config: Config, scene: Scene) -> Trainer:
    """See `jaxnerf.methods.trainer_of`."""
    near, _ = bounds_of(config, scene)
    split, sightings = scene.splits["train"], None
    if scene.points is not None and config.voxels.depth_loss > 0.0:
        seen = sightings_of(scene.points, split.cameras, scene.tracks)
        # Hosts' floats can differ in a last bit, and so in which points are just inside of a picture.
        parts = broadcast_from_process_0((seen.camera, seen.pixel, seen.depth))
        sightings = Sightings(*parts) if len(parts[0]) else None
    unbounded = space_of(config, scene) is not None
    return trainer_on(split, config, near, unbounded=unbounded, sightings=sightings)


def trainer_on(
    split: Split,
    config: Config,
    near: float = 0.0,
    *,
    unbounded: bool,
    sightings: Sightings | None = None,
) -> Trainer:
    """The trainer of the fast field on photographs.

    Args:
      split: a split with photographs.
      config: its sections voxels and training.
      near: t at which rays begin.
      unbounded: whether the scene is unbounded or forward-facing, for which the losses of distortion and
        transmittance are used.
      sightings: points of known depth in the photographs.
    """
    voxels = config.voxels
    rates = voxels.optimizer
    decay = exponential_to(rates.final_fraction)

    def calibrate(calibration, gradients, cameras, step, total):
        colours = voxels.calibration.colour_rate * decay(step, total)
        motions = voxels.calibration.pose_rate_after(progress_of(step, total))
        return step_calibration(calibration, gradients, cameras, (colours, motions))

    def smooth(most, field, params, step, total):
        left = jnp.maximum(1.0 - progress_of(step, total) / _SMOOTH_UNTIL, 0.0)
        by = most * left * decay(step, total)
        return jax.lax.cond(
            (step % _SMOOTH_EVERY == 0) & (left > 0.0),
            lambda params: smoothed(stages.voxels_of(field), params, by),
            lambda params: params,
            params,
        )

    most = np.float32(rates.smoothing * min(1.0, _FEW / len(split)))
    step = Step(
        loss=PhotometricLoss(
            opacity=voxels.opacity_loss,
            distortion=voxels.distortion_loss if unbounded else 0.0,
            transmittance=voxels.transmittance_loss if unbounded else 0.0,
            depth=voxels.depth_loss if sightings is not None else 0.0,
        ),
        optimizer=optimizer(config),
        near=near,
        rays_per_pass=config.training.rays_per_pass,
        constrain=Partial(smooth, most) if rates.smoothing else None,
        calibrate=calibrate,
        learning_rate=lambda step, total: rates.density_rate * decay(step, total),
        by_rows=True,
    )
    strategy = CoarseToFine(
        StageInputs(split, voxels.stages, config.training, near),
        unbounded=unbounded, log2_detail=voxels.field.log2_detail, sightings=sightings,
    )  # fmt: skip
    return Trainer(
        split,
        config=config.training,
        step=step,
        strategy=strategy,
        divergence_hint=f"Lower voxels.optimizer.density_rate (now {rates.density_rate}) or "
        f"voxels.optimizer.feature_rate (now {rates.feature_rate})",
    )


def first_state(config: Config, scene: Scene) -> TrainState:
    """See `jaxnerf.methods.first_state`."""
    voxels, split = config.voxels, scene.splits["train"]
    space, (near, _) = space_of(config, scene), bounds_of(config, scene)
    state = stages.first_state(
        StageInputs(split, voxels.stages, config.training, near),
        voxels.field,
        calibration=first_calibration(split.cameras, voxels.calibration, space),
        space=space,
    )
    return with_optimizer(broadcast_from_process_0(state), optimizer(config))


def optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer."""
    return voxel_optimizer(config.voxels.optimizer)

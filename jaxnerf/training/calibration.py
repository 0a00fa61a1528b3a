"""Colour corrections of photographs and corrections of camera poses, learned together with the field.

Colour: photographs differ in exposure and white balance. Where the scene has the colour c, photograph i
shows A_i c + b_i. Poses: the true pose of camera i is the given one after a small rigid motion, which is
a rotation about a pivot in the middle of the scene and then a translation. (In the image a rotation about
the camera itself is nearly a translation, and Adam, which scales each number separately, does not
separate the two.)

Corrections that all photographs have in common are ambiguous: the scene could have other colours, or be
moved, rotated or scaled. So they are removed after each step: to first order, the scene keeps the mean of
the photographs' colours and the frame of the given cameras.
"""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxnerf.cameras import Camera
from jaxnerf.cameras.paths import focus_point
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.geometry import rotations

# The rates were found with these moments.
_ADAM = optax.scale_by_adam(0.9, 0.99, 1e-12)
# Poses move when there is something to be seen, and their rate decays to this fraction of itself.
_FIRST_POSE_STEP, _FINAL_POSE_RATE = 0.02, 0.1


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """Whether colour corrections and camera poses are learned.

    Attributes:
      affine_colour: learn for each training photograph a 3 x 3 matrix and an offset that map the scene's
        colours to the photograph's, for different exposures and white balances. Rendered images show the
        scene's colours.
      refine_poses: learn a correction of each training camera's pose.
      colour_rate, pose_rate: initial learning rates of these two. Poses are fixed for the first fiftieth
        of the steps, and their learning rate decays to a tenth.
    """

    affine_colour: bool = False
    refine_poses: bool = False
    colour_rate: float = 5e-3
    pose_rate: float = 1e-3

    def pose_rate_after(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """The learning rate of poses after a fraction of the steps, without the field's own decay."""
        since = (progress - _FIRST_POSE_STEP) / (1.0 - _FIRST_POSE_STEP)
        return self.pose_rate * jnp.where(since < 0.0, 0.0, jnp.float32(_FINAL_POSE_RATE) ** since)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Calibration:
    """Corrections of each training photograph and of its camera. A pytree.

    Attributes:
      colours: [A - I | b] of each photograph; None if colours are not corrected.
      motions: motion of each camera, in the world's axes: a rotation vector (axis times angle in
        radians) and a translation in units of `unit`; None if poses are not refined.
      pivot: the point in the world about which cameras are rotated.
      unit: the unit of translations, as a length in the world.
      optimizer: Adam's moments of colours and motions.
    """

    colours: Float[Array, "N 3 4"] | None
    motions: Float[Array, "N 6"] | None
    pivot: Float[Array, "3"]
    unit: Float[Array, ""]
    optimizer: Any

    @property
    def learned(self) -> Any:
        """What gradients are for."""
        return self.colours, self.motions

    def with_learned(self, values: Any) -> "Calibration":
        """The same with other colours and motions."""
        colours, motions = values
        return dataclasses.replace(self, colours=colours, motions=motions)

    def cameras(self, cameras: Camera) -> Camera:
        """The training cameras with refined poses.

        Args:
          cameras: all of them, as given; in the scene's frame.
        """
        if self.motions is None:
            return cameras
        pose = jnp.asarray(cameras.camera_to_world)[:, :3, :]
        turn = rotations(jnp.asarray(self.motions)[:, :3])
        arm = (pose[:, :, 3] - jnp.asarray(self.pivot)[None, :])[:, :, None]
        # Sums of products, and not matmuls, which an accelerator would round to bfloat16.
        moved = jnp.concatenate([pose[:, :, :3], arm], axis=-1)
        moved = jnp.sum(turn[:, :, :, None] * moved[:, None, :, :], axis=2)
        shift = jnp.asarray(self.unit) * self.motions[:, 3:] + jnp.asarray(self.pivot)[None, :]
        moved = moved.at[:, :, 3].add(shift)
        return dataclasses.replace(cameras, camera_to_world=moved)

    def colour(
        self,
        image: Int[Array, "*batch"],
        colour: Float[Array, "*batch 3"],
        covered: Float[Array, "*batch"] | float,
        behind: Float[Array, "*batch 3"] | float,
    ) -> Float[Array, "*batch 3"]:
        """Map the scene's colours to those of photographs.

        Args:
          image: index of each ray's photograph.
          colour: the scene's colours, composited over the background.
          covered: the fraction of each ray's colour that the photograph recorded. The rest is background
            that was added by blending, and is not corrected.
          behind: the contribution of that background to `colour`.
        """
        if self.colours is None:
            return colour
        affine = self.colours[image]
        own = colour - behind
        change = jnp.sum(affine[..., :3] * own[..., None, :], axis=-1)
        return colour + change + affine[..., 3] * jnp.asarray(covered)[..., None]


def first_calibration(
    cameras: Camera,
    config: CalibrationConfig,
    space: SphereContraction | NdcSpace | None = None,
) -> Calibration | None:
    """The calibration before training, without any correction; None if nothing is to be learned.

    Args:
      cameras: cameras of the training photographs.
      config: settings that say which corrections are learned.
      space: the scene's space; None for the world.
    """
    if not (config.affine_colour or config.refine_poses):
        return None
    return _at_rest(len(cameras), config, *_pivot(np.asarray(cameras.camera_to_world), space))


def blank_calibration(config: CalibrationConfig) -> Calibration | None:
    """The structure of `first_calibration`, for a single photograph."""
    if not (config.affine_colour or config.refine_poses):
        return None
    return _at_rest(1, config, np.zeros(3), 1.0)


def _at_rest(count: int, config: CalibrationConfig, pivot: np.ndarray, unit: float) -> Calibration:
    learned: Any = (
        jnp.zeros((count, 3, 4)) if config.affine_colour else None,
        jnp.zeros((count, 6)) if config.refine_poses else None,
    )
    return Calibration(
        *learned,
        pivot=jnp.asarray(pivot, jnp.float32),
        unit=jnp.asarray(unit, jnp.float32),
        optimizer=_ADAM.init(learned),
    )


def step_calibration(
    calibration: Calibration,
    gradients: Any,
    cameras: Camera,
    rates: tuple[Float[Array, ""], Float[Array, ""]],
) -> Calibration:
    """A step of Adam, after which the corrections that all photographs have in common are removed.

    Args:
      calibration: before.
      gradients: gradients with respect to `Calibration.learned`.
      cameras: the training cameras as given.
      rates: learning rates of colours and motions.
    """
    updates: Any
    with jax.numpy_dtype_promotion("standard"):  # see `sharding.update`
        updates, optimizer = _ADAM.update(gradients, calibration.optimizer)
    colours, motions = (
        None if value is None else value - rate * update
        for value, update, rate in zip(calibration.learned, updates, rates, strict=True)
    )
    if colours is not None:
        colours = colours - jnp.mean(colours, axis=0, keepdims=True)
    if motions is not None:
        position = jnp.asarray(cameras.camera_to_world)[:, :3, 3]
        arms = (position - calibration.pivot[None, :]) / calibration.unit
        motions = without_common(motions, arms)
    return dataclasses.replace(calibration, colours=colours, motions=motions, optimizer=optimizer)


def without_common(motions: Float[Array, "N 6"], arms: Float[Array, "N 3"]) -> Float[Array, "N 6"]:
    """Motions without what turns, shifts or scales all cameras as one, to first order.

    Args:
      motions: motions of cameras.
      arms: the cameras' positions relative to the pivot, in units.
    """
    motions = motions - jnp.mean(motions, axis=0, keepdims=True)
    away = arms - jnp.mean(arms, axis=0, keepdims=True)
    growth = jnp.sum(motions[:, 3:] * away) / jnp.maximum(jnp.sum(away * away), 1e-12)
    return motions.at[:, 3:].add(-growth * away)


def _pivot(
    poses: np.ndarray, space: SphereContraction | NdcSpace | None
) -> tuple[np.ndarray, float]:
    """A point in the midst of the scene, and a length that fits it."""
    if isinstance(space, SphereContraction):
        return np.asarray(space.centre), float(space.radius)
    if isinstance(space, NdcSpace):  # axes that are nearly parallel meet nowhere in particular
        return poses[:, :, 3].mean(axis=0), float(space.near)
    pivot = focus_point(poses)
    distance = np.linalg.norm(poses[:, :, 3] - pivot, axis=-1)
    return pivot, max(float(np.median(distance)), 1e-6)

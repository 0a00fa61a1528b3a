"""`Trainer`: moves batches to the devices, runs steps there, and applies the strategy between steps."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from jaxnerf.cameras import Camera
from jaxnerf.kernels.memory import delete, returning_freed
from jaxnerf.scenes import Split
from jaxnerf.training import sharding
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.state import TrainState, with_optimizer
from jaxnerf.training.step import Step
from jaxnerf.training.strategy import Strategy

# Mapped axes of a `TrainState` under `pmap`: only the optimizer's state differs between devices.
_AXES: dict[str, Any] = dict.fromkeys(part.name for part in dataclasses.fields(TrainState))
_AXES["optimizer"] = 0
AXES = TrainState(**_AXES)


# Cameras are padded to so many, or to a power of two.
_FEWEST_CAMERAS = 64


class Trainer:
    """Takes steps of `jaxnerf.training.train_step` on all devices of all hosts.

    Attributes:
      config: the settings that all methods share.
      strategy: changes the state between steps, and draws batches.
      one_step: the step of one device, which is mapped.
      divergence_hint: advice for the error when training diverges.
    """

    def __init__(
        self,
        split: Split,
        *,
        config: TrainingConfig,
        step: Step,
        strategy: Strategy,
        divergence_hint: str = "Lower the learning rate",
    ):
        """Prepare.

        Args:
          split: a split with photographs.
          config, strategy, divergence_hint: see the attributes.
          step: what each step does. Arrays that are arguments of a `jax.tree_util.Partial` in
            `constrain` are arguments of the compiled step too.
        """
        self.config, self.strategy, self.divergence_hint = config, strategy, divergence_hint
        self._split, self._optimizer, self._by_rows = split, step.optimizer, step.by_rows
        self.one_step = dataclasses.replace(step, axis_name=sharding.AXIS)
        self._devices: tuple[Any, ...] = ()
        # What differs between scenes is an argument of the compiled step and none of its constants, so
        # that the programs of one run serve the next (`jaxnerf.cli.common.use_compilation_cache`).
        self._of_scene: dict[str, Any] = {"near": np.float32(step.near)}
        if np.isfinite(step.far):
            self._of_scene["far"] = np.float32(step.far)
        if isinstance(step.constrain, Partial):
            self._of_scene["constrain"] = step.constrain

    def to_devices(self, state: TrainState) -> TrainState:
        """A state on the devices, as steps take and return it."""
        state = self.strategy.resumed(state)
        return self._placed(state)

    def _placed(self, state: TrainState) -> TrainState:
        largest = max(np.size(x) * x.dtype.itemsize for x in jax.tree.leaves(state.params))
        chosen = sharding.devices_for(largest)
        if chosen != self._devices:
            self._devices = chosen
            shapes = functools.partial(gradients_of, devices=len(chosen), by_rows=self._by_rows)
            axes = self._axes(chosen)
            self._step = sharding.parallel(self._on_scene, chosen, axes=axes, gradients=shapes)
            # Padded, so that scenes share a program; but a calibration has a row for each camera.
            cameras = self._split.cameras
            cameras = _padded(cameras) if state.calibration is None else cameras
            key = jax.random.key_data(jax.random.key(self.config.seed))
            constant = self._of_scene | {"cameras": cameras}, key
            self._constant, key = sharding.replicate(constant, chosen)
            self._key = jax.random.wrap_key_data(key)
        self._step.gradients = None  # those of the next state may have other shapes
        if self._axes(chosen) is None:
            return sharding.replicate(self.to_host(state), chosen)
        moments = sharding.divided(self.to_host(state).optimizer, chosen)
        placed = sharding.replicate(dataclasses.replace(state, optimizer=None), chosen)
        return dataclasses.replace(placed, optimizer=moments)

    def _on_scene(self, state: TrainState, batch: Any, key: Any, constant: dict[str, Any]) -> Any:
        of_scene = dict(constant)
        cameras = of_scene.pop("cameras")
        return dataclasses.replace(self.one_step, **of_scene)(state, batch, key, cameras)

    def _axes(self, devices: tuple[Any, ...]) -> TrainState | None:
        return axes_on(len(devices), self._by_rows)

    def to_host(self, state: TrainState) -> TrainState:
        """A state to keep, which does not show on which devices it was; the inverse of `to_devices`.

        All hosts must call this at once.
        """
        if not self._by_rows:
            return state
        like = jax.eval_shape(self._optimizer.init, state.params)
        return dataclasses.replace(state, optimizer=sharding.whole(state.optimizer, like))

    def step(self, state: TrainState, number: int, total: int) -> tuple[TrainState, dict]:
        """Take the step of this number of so many, after what is due before it."""
        is_due = self.strategy.is_due(number, total)
        if is_due:
            state = self._changed(state, number, total)
        begins = is_due or self._step.gradients is None
        batch = sharding.local_part(self.strategy.batch(state, number, total), self._devices)
        # No step reads the strategy's state: the step is not compiled anew where its shapes change.
        strategy, state = state.strategy, dataclasses.replace(state, strategy=())
        state, metrics = self._step(state, batch, self._key, self._constant)
        state = dataclasses.replace(state, strategy=strategy)
        if begins:  # compilation frees much
            with returning_freed():
                jax.block_until_ready(metrics)
        return state, metrics

    @returning_freed()
    def _changed(self, state: TrainState, number: int, total: int) -> TrainState:
        """The state after what the strategy changes before a step; parameters that stay are not moved."""
        # Asked before the change, with which the stage begins.
        moments, resets = state.optimizer, self.strategy.resets_optimizer(number, total)
        # The first device's copy, which is not copied to the host unless it is asked for there.
        own = jax.tree.map(lambda x: x.addressable_data(0), state.params)
        given = jax.tree.leaves(own)
        bare = local(dataclasses.replace(state, optimizer=None, params=None))
        if resets:
            # Their memory is freed before the new state is made.
            self._step.gradients, moments = None, None
            delete(state.optimizer)
        changed = self.strategy.change(dataclasses.replace(bare, params=own), number, total)
        keeps = not resets and _same(changed.params, given)
        if sharding.number_of_process_0(float(keeps)):
            others = sharding.broadcast_from_process_0(dataclasses.replace(changed, params=None))
            after = sharding.replicate(others, self._devices)
            after = dataclasses.replace(after, params=state.params, optimizer=moments)
            changed = dataclasses.replace(others, params=own)
        elif resets:
            changed = sharding.broadcast_from_process_0(changed)
            after = self._placed(with_optimizer(changed, self._optimizer))
        else:
            changed = sharding.broadcast_from_process_0(changed)
            after = sharding.replicate(changed, self._devices)
            after = dataclasses.replace(after, optimizer=moments)
        self.strategy.changed(changed)
        return jax.block_until_ready(after)


def _same(params: Any, given: list[Any]) -> bool:
    """Whether the arrays of parameters are these, of which none was exchanged."""
    leaves = jax.tree.leaves(params)
    return len(leaves) == len(given) and all(map(operator.is_, leaves, given))


def _padded(cameras: Camera) -> Camera:
    """More cameras, of which the last is repeated: 64, or the next power of two."""
    more = max(_FEWEST_CAMERAS, 1 << (len(cameras) - 1).bit_length()) - len(cameras)

    def padded(x: Any) -> np.ndarray:
        return np.pad(x, [(0, more), *[(0, 0)] * (np.ndim(x) - 1)], mode="edge")

    return jax.tree.map(padded, cameras)


def axes_on(devices: int, by_rows: bool = True) -> TrainState | None:
    """Which arrays of a `TrainState` differ between so many devices, as `sharding.parallel` takes it.

    With `by_rows` the optimizer's state differs: each device has that of a part of the rows. None if no
    array differs. On a single device none does: if its optimizer's state had the leading dimension of
    arrays that differ, XLA:CPU would copy the table at each step (37 instead of 29 ms with 1.6 million
    rows of the fast field).

    Args:
      devices: number of devices that take a step together.
      by_rows: as for `Trainer`.
    """
    return AXES if by_rows and devices > 1 else None


def local(state: Any) -> Any:
    """Arrays that are the same on all devices, as NumPy's."""
    return jax.tree.map(np.asarray, state)


def gradients_of(state: TrainState, devices: int, by_rows: bool = True) -> Any:
    """Shapes of a step's gradients: of one device; with several also of its part of their sum."""
    others = None if state.calibration is None else state.calibration.learned
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state.params, others))
    if devices == 1:
        return shapes
    if not by_rows:
        return shapes, shapes
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(sharding.part_shape(x.shape, devices), x.dtype), shapes[0]
    )
    return shapes, (params, shapes[1])

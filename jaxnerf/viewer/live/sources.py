"""Sources of the run that is shown: a trained run, or a run in training."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnerf.config import Config
from jaxnerf.runs.run import Run, run_of
from jaxnerf.scenes import Scene
from jaxnerf.viewer.live.turns import Turns

# Seconds for which paused training waits for a request of the devices.
_PATIENCE = 0.1


def on_devices(run: Run) -> Run:
    """A run with parameters and field on all local devices, so that images need no further copies."""
    everywhere = NamedSharding(Mesh(np.asarray(jax.local_devices()), ("rays",)), P())

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, everywhere) if isinstance(leaf, np.ndarray) else leaf

    params, field = jax.tree.map(put, (run.params, run.field))
    return dataclasses.replace(run, params=params, field=field)


class Trained:
    """A run that does not change. Implements `jaxnerf.viewer.live.painter.Source`."""

    age, is_training = 0, False

    def __init__(self, run: Run):
        """Copy the run to the devices."""
        self._run = on_devices(run)

    def run(self) -> Run:
        """The run."""
        return self._run


class Training:
    """A run in training. Implements `jaxnerf.viewer.live.painter.Source`.

    Training calls `between` after each step, in its own thread.

    Attributes:
      turns: gives access to the devices.
      is_paused: whether training is paused.
      age: number of steps so far.
      seconds: time that training has waited for images, and while it was paused.
    """

    def __init__(self, folder: Path, config: Config, scene: Scene, is_watched: Callable[[], bool]):
        """Create the source; training then calls `between`.

        Args:
          folder: folder of the run.
          config: configuration of the run.
          scene: scene of the run, without photographs.
          is_watched: whether there are clients.
        """
        self.turns, self.is_paused, self.age, self.seconds = Turns(), False, 0, 0.0
        self._parts, self._is_watched = (folder, config, scene), is_watched
        self._state: Any = None
        self._run: Run | None = None
        self._ends = False

    @property
    def is_training(self) -> bool:
        """Whether the run will change soon."""
        return not (self.is_paused or self._ends)

    def between(self, state: Any, number: int, stops: Callable[[], bool] = lambda: False) -> float:
        """Lend the devices to the painter, if it is time; and wait while training is paused.

        Args:
          state: state of training, on the devices.
          number: number of steps so far.
          stops: whether training is to end, also while it is paused.

        Returns:
          The seconds that it took, which are not part of training's time.
        """
        self.age, spent = number, 0.0
        if not self.is_paused and not (self._is_watched() and self.turns.is_due):
            return 0.0
        # Wait for the steps, so that their time is not included in the time of images.
        jax.block_until_ready(state.params)
        self._state = state
        while self.is_paused and not stops():
            spent += self.turns.lend(always=True, wait=_PATIENCE)
        spent += self.turns.lend()
        self._state = None
        self.seconds += spent
        return spent

    def run(self) -> Run:
        """A copy of the current run."""
        if self._state is not None and (self._run is None or self._run.step != self.age):
            now = run_of(*self._parts, self._state)
            # A copy, since the next step overwrites the arrays on the devices.
            copied = jax.tree.map(
                lambda x: np.array(x) if isinstance(x, np.ndarray) else x,
                (now.params, now.field, now.occupancy, now.calibration),
            )
            params, field, occupancy, calibration = copied
            self._run = on_devices(
                dataclasses.replace(
                    now, params=params, field=field, occupancy=occupancy, calibration=calibration
                )
            )
        assert self._run is not None
        return self._run

    def finish(self) -> None:
        """Record that training has ended."""
        self._ends = True

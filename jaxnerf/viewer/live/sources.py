"""The run that is shown: one that was trained, or one that trains."""

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

# While training pauses: until somebody wants to see something else.
_PATIENCE = 0.1


def on_devices(run: Run) -> Run:
    """A run with parameters and structure on all local devices: no picture moves them there again."""
    everywhere = NamedSharding(Mesh(np.asarray(jax.local_devices()), ("rays",)), P())

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, everywhere) if isinstance(leaf, np.ndarray) else leaf

    params, field = jax.tree.map(put, (run.params, run.field))
    return dataclasses.replace(run, params=params, field=field)


class Trained:
    """A run that changes no more. Implements `jaxnerf.viewer.live.painter.Source`."""

    age, is_training = 0, False

    def __init__(self, run: Run):
        """Show a run."""
        self._run = on_devices(run)

    def run(self) -> Run:
        """The run."""
        return self._run


class Training:
    """The run that training makes. Implements `jaxnerf.viewer.live.painter.Source`.

    Training calls `between` after each step, in its own thread.

    Attributes:
      turns: who has the devices.
      is_paused: whether training waits.
      age: the steps that were taken.
      seconds: that training waited for pictures, and while it was paused.
    """

    def __init__(self, folder: Path, config: Config, scene: Scene, is_watched: Callable[[], bool]):
        """Prepare.

        Args:
          folder: of the run.
          config: of the run.
          scene: the run's, without photographs.
          is_watched: whether anybody looks.
        """
        self.turns, self.is_paused, self.age, self.seconds = Turns(), False, 0, 0.0
        self._parts, self._is_watched = (folder, config, scene), is_watched
        self._state: Any = None
        self._run: Run | None = None
        self._ends = False

    @property
    def is_training(self) -> bool:
        """Whether the run soon changes."""
        return not (self.is_paused or self._ends)

    def between(self, state: Any, number: int, stops: Callable[[], bool] = lambda: False) -> float:
        """Lend the devices to those who look, if it is time; and wait while training is paused.

        Args:
          state: of training, on the devices.
          number: of steps taken.
          stops: whether training shall end, also while it is paused.

        Returns:
          The seconds that it took, which are not training's.
        """
        self.age, spent = number, 0.0
        if not self.is_paused and not (self._is_watched() and self.turns.is_due):
            return 0.0
        # Until here steps were training's: what they still compute shall not count as a picture's.
        jax.block_until_ready(state.params)
        self._state = state
        while self.is_paused and not stops():
            spent += self.turns.lend(always=True, wait=_PATIENCE)
        spent += self.turns.lend()
        self._state = None
        self.seconds += spent
        return spent

    def run(self) -> Run:
        """A copy of the run as it is now."""
        if self._state is not None and (self._run is None or self._run.step != self.age):
            now = run_of(*self._parts, self._state)
            # The next step writes over what the devices have.
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
        """Training has ended."""
        self._ends = True

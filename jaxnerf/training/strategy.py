"""The protocol of strategies, which change field, sampler and batches between steps; and `Unchanged`."""

from typing import Protocol, runtime_checkable

from jaxnerf.scenes import Split
from jaxnerf.training.batches import sample_batch
from jaxnerf.training.budget import Paced, Stage
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.state import Batch, TrainState


@runtime_checkable
class Strategy(Paced, Protocol):
    """Changes the field's structure and its sampler between steps, and draws the batches.

    When changes happen is a function of the step number and the total of steps alone, so that a resumed
    run makes the same changes. `Unchanged` is for fields of fixed structure, `CoarseToFine` for the fast
    field, `KeepOccupancy` for any field that is sampled by an occupancy.
    """

    def resumed(self, state: TrainState) -> TrainState:
        """The state from which training begins or goes on. Takes and returns arrays of the host."""
        ...

    def is_due(self, number: int, total: int) -> bool:
        """Whether something is to be changed before a step of so many."""
        ...

    def resets_optimizer(self, number: int, total: int) -> bool:
        """Whether the change gives the parameters other shapes, which resets the optimizer's state."""
        ...

    def change(self, state: TrainState, number: int, total: int) -> TrainState:
        """What is due before a step.

        Takes and returns a state without the optimizer's: arrays of the host, and the parameters on the
        first device. Parameters that are returned as they were given are not moved.
        """
        ...

    def changed(self, state: TrainState) -> None:
        """Called with the changed state, as broadcast from process 0.

        Its arrays may be kept, except for the parameters, which the next step overwrites.
        """
        ...

    def batch(self, state: TrainState, number: int, total: int) -> Batch:
        """The batch of a step of so many; a function of the seed, both, and of what was changed."""
        ...


class Unchanged:
    """Nothing is changed: the strategy of the paper's network, and of any field of fixed structure."""

    stage, step_cost = 0, 1.0

    def __init__(self, split: Split, config: TrainingConfig, *, one_image: bool = False):
        """Prepare.

        Args:
          split: a split with photographs.
          config: the settings.
          one_image: whether the rays of a batch are all from one photograph.
        """
        self._split, self._config, self._one_image = split, config, one_image

    def stages(self, total: int) -> tuple[Stage]:
        """See `jaxnerf.training.budget.Paced`."""
        return (Stage(first_step=0, step_cost=1.0),)

    def resumed(self, state: TrainState) -> TrainState:
        """The state as it is."""
        return state

    def is_due(self, number: int, total: int) -> bool:
        """Never."""
        return False

    def resets_optimizer(self, number: int, total: int) -> bool:
        """Never."""
        return False

    def change(self, state: TrainState, number: int, total: int) -> TrainState:
        """The state as it is."""
        return state

    def changed(self, state: TrainState) -> None:
        """Nothing to note."""

    def batch(self, state: TrainState, number: int, total: int) -> Batch:
        """Single pixels, drawn evenly from all that count."""
        config = self._config
        return sample_batch(
            self._split, config.rays_per_batch, config.seed, number,
            background=config.background, one_image=self._one_image,
        )  # fmt: skip

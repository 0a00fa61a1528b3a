"""The strategy of the fast field: stages, each with a finer lattice on what is occupied.

`settings` says when and how fine, `strategy` is what the loop calls, `stages` what it does to a state
between steps, `probing` what it measures for that.
"""

from jaxnerf.training.coarse_to_fine.settings import CoarseToFineConfig, StageInputs, StageState
from jaxnerf.training.coarse_to_fine.strategy import CoarseToFine

__all__ = ["CoarseToFine", "CoarseToFineConfig", "StageInputs", "StageState"]

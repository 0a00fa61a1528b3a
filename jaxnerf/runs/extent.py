"""Where a run's scene may hold something: cells of its occupancy, or of its space."""

import dataclasses
from typing import Any

import numpy as np

from jaxnerf.contraction import NdcSpace
from jaxnerf.sampling.cells import Cells
from jaxnerf.scenes.silhouettes import scene_cube
from jaxnerf.spaces import space_of


def scene_cells(run: Any, count: int) -> Cells:
    """The cells of a run that may hold what its cameras look at, in the scene's frame.

    Those of its occupancy; of all of space those in the ball that keeps its shape, of a forward-facing
    scene those up to the scene's far. Where a run keeps no occupancy they fill the cube that the cameras
    look at, or what its space holds there.

    Args:
      run: a `Run`.
      count: of cells along a side, where the run keeps no occupancy.
    """
    space = space_of(run.config, run.scene)
    if run.occupancy is not None:
        cells = Cells.of(run.occupancy)
    elif space is None:
        origin, side = scene_cube(run.scene.splits["train"])
        cells = Cells(np.ones((count,) * 3, bool), np.asarray(origin, np.float64), side / count)
    else:
        origin, side, mask = space.cells(count)
        cells = Cells(mask, np.asarray(origin, np.float64), side / count, space)
    if isinstance(cells.space, NdcSpace):
        near = float(cells.space.near)
        farthest = 1.0 - 2.0 * near / max(run.scene.far, 2.0 * near)
        cells = dataclasses.replace(cells, farthest=farthest)
    return cells.in_the_middle()

"""The cells that may be occupied in a run's scene: those of its occupancy grid, or of its space."""

import dataclasses
from typing import Any

import numpy as np

from jaxnerf.config.adaptation import space_of
from jaxnerf.contraction import NdcSpace
from jaxnerf.sampling.cells import Cells
from jaxnerf.scenes.silhouettes import scene_cube


def scene_cells(run: Any, count: int) -> Cells:
    """The cells of a run that may be occupied and are in view of its cameras, in the scene's frame.

    They are the occupied cells of the occupancy grid: in an unbounded scene those in the uncontracted
    ball, in a forward-facing scene those up to the scene's far. If a run has no occupancy grid, they are
    all cells of the cube that the cameras look at, or of its space in that region.

    Args:
      run: a `Run`.
      count: number of cells along a side, if the run has no occupancy grid.
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

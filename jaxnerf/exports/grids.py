"""The bounding box of a run's scene for exports."""

from jaxnerf.rendering.boxes import Box
from jaxnerf.runs.extent import scene_cells
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run

# Cells along each side of an unbounded scene in which occupancy is computed, if the run has none.
_CELLS = 32


def box_of(run: Run, named: tuple[float, ...] = ()) -> Box:
    """The box that is exported: the given one, or that of the scene.

    The scene's box encloses all cells that may be occupied; see `jaxnerf.runs.extent.scene_cells`.

    Args:
      run: the run.
      named: x0, y0, z0, x1, y1, z1 in the user's frame, or nothing.

    Raises:
      RunError: no cell is occupied.
      ValueError: the given box is not valid.
    """
    if named:
        return Box.named(named)
    cells = scene_cells(run, _CELLS)
    if not cells.mask.any():
        raise RunError(f"{run.folder}: the scene has no surface: no cell is occupied")
    corners = run.scene.to_user.points(cells.corners())
    return Box(corners.min(axis=0), corners.max(axis=0))

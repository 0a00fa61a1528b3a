"""The box around what a run's scene holds, as far as it is exported."""

from jaxnerf.rendering.boxes import Box
from jaxnerf.runs.extent import scene_cells
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run

# Cells along a space without an end, where a run keeps no occupancy of it.
_CELLS = 32


def box_of(run: Run, named: tuple[float, ...] = ()) -> Box:
    """The box that is exported: the one that is named, or that of the scene.

    The scene's is that of all cells that may hold something; see `jaxnerf.runs.extent.scene_cells`.

    Args:
      run: whose scene it is.
      named: x0, y0, z0, x1, y1, z1 in the user's frame, or nothing.

    Raises:
      RunError: no cell is occupied.
      ValueError: the named box is none.
    """
    if named:
        return Box.named(named)
    cells = scene_cells(run, _CELLS)
    if not cells.mask.any():
        raise RunError(f"{run.folder}: the scene has no surface: no cell is occupied")
    corners = run.scene.to_user.points(cells.corners())
    return Box(corners.min(axis=0), corners.max(axis=0))

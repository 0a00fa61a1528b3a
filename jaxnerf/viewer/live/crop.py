"""The crop of the live viewer's images: sliders for a box, and the box's edges in the image."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnerf.exports.grids import box_of
from jaxnerf.rendering.boxes import Box
from jaxnerf.runs.files import RunError
from jaxnerf.viewer.live.server import LiveViewer
from jaxnerf.viewer.live.views import CropBox

# The margin by which a box can extend beyond the scene's, as a fraction of the longest side; and the
# number of steps of a slider along the longest side.
_BESIDE, _STEPS = 0.25, 200
# Axes with the usual colours of 3D programs; and the pairs of corners of the edges along each axis.
_AXES = {"X": (235, 80, 90), "Y": (110, 200, 80), "Z": (80, 140, 245)}
_EDGES = np.array(
    [[(low, low | 1 << axis) for low in range(8) if not low & 1 << axis] for axis in range(3)]
)


def scene_box(viewer: LiveViewer) -> Box:
    """The bounding box of the scene, in the user's frame."""
    try:
        return box_of(viewer.run)
    except RunError:  # no cell is occupied
        stage = viewer.stage
        return Box(stage.middle - 0.5 * stage.size, stage.middle + 0.5 * stage.size)


class CropPanel:
    """The panel in which a box of the scene is chosen."""

    def __init__(self, viewer: LiveViewer, changed: Callable[[], None]):
        """Add the panel.

        Args:
          viewer: the viewer to which it is added.
          changed: called when the box changes, or cropping is switched on or off.
        """
        self._viewer, self._changed, gui = viewer, changed, viewer.server.gui
        box = scene_box(viewer)
        longest = float(box.size.max())
        self._step = float(f"{longest / _STEPS:.0e}")
        with gui.add_folder("Crop", expand_by_default=False):
            self._crops = gui.add_checkbox(
                "Only a box", initial_value=False, hint="leave out what lies outside of it"
            )
            self._sides = [self._side(name, axis, box) for axis, name in enumerate(_AXES)]
            again = gui.add_button("Whole scene", hint="make the box as large as the scene")
            self._words = gui.add_markdown("")
        self._first = [(low.value, high.value) for low, high in self._sides]
        self._crops.on_update(lambda _: self._change())
        for low, high in self._sides:
            low.on_update(lambda _, low=low, high=high: self._drag(low, high, 1.0))
            high.on_update(lambda _, low=low, high=high: self._drag(high, low, -1.0))
        again.on_click(lambda _: self._begin_again())
        self._draw()

    @property
    def crop(self) -> CropBox | None:
        """The box, in the user's frame; None for the whole scene."""
        return self._box if self._crops.value else None

    @property
    def _box(self) -> CropBox:
        (x0, x1), (y0, y1), (z0, z1) = ((low.value, high.value) for low, high in self._sides)
        return CropBox((x0, y0, z0), (x1, y1, z1))

    def _side(self, name: str, axis: int, box: Box) -> tuple[Any, Any]:
        """Sliders for the limits along an axis, in whole steps, so that numbers are short."""
        step, wide = self._step, box.grown(_BESIDE * float(box.size.max()))
        least, low = (round(np.floor(x / step) * step, 9) for x in (wide.low[axis], box.low[axis]))
        most, high = (round(np.ceil(x / step) * step, 9) for x in (wide.high[axis], box.high[axis]))
        gui, hint = self._viewer.server.gui, "in the frame and unit of your files"
        return (
            gui.add_slider(f"{name} from", float(least), float(most), step, float(low), hint=hint),
            gui.add_slider(f"{name} to", float(least), float(most), step, float(high), hint=hint),
        )

    def _drag(self, end: Any, other: Any, sign: float) -> None:
        """Handle a change of one limit; the other is moved if the box would have no volume."""
        if sign * (other.value - end.value) < 0.5 * self._step:
            wanted = round(end.value + sign * self._step, 9)
            other.value = float(np.clip(wanted, other.min, other.max))
            if other.value != wanted:  # the other one is at the end of its slider
                end.value = float(round(other.value - sign * self._step, 9))
        self._change()

    def _begin_again(self) -> None:
        for (low, high), first in zip(self._sides, self._first, strict=True):
            low.value, high.value = first
        self._change()

    def _change(self) -> None:
        self._draw()
        self._changed()

    def _draw(self) -> None:
        """Show the edges of the box on the stage, and its limits as an argument of `jaxnerf export`."""
        box, stage = self._box, self._viewer.stage
        ends = np.array([box.low, box.high])
        corners = np.array([[ends[n >> axis & 1, axis] for axis in range(3)] for n in range(8)])
        corners = ((corners - stage.middle) / stage.size).astype(np.float32)
        colours = np.repeat(np.array([*_AXES.values()], np.uint8), 8, axis=0)
        self._viewer.server.scene.add_line_segments(
            "/crop", corners[_EDGES].reshape(12, 2, 3), colours.reshape(12, 2, 3), thickness=2.0,
            thickness_units="screen", visible=bool(self._crops.value),
        )  # fmt: skip
        numbers = ",".join(f"{number:.9g}" for number in (*box.low, *box.high))
        self._words.content = f"`jaxnerf export` takes it as  \n`--box={numbers}`"

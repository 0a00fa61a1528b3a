"""Images of a run for the live viewer: layers, crops, and comparisons with photographs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxnerf.cameras import Camera
from jaxnerf.config import override
from jaxnerf.evaluation import blend, to_8bit
from jaxnerf.exports.video import colour_depth, colour_normals
from jaxnerf.fields.cropped import CroppedField, Region
from jaxnerf.rendering import Rendering
from jaxnerf.runs.run import Run
from jaxnerf.sampling.cropping import cropped_occupancy
from jaxnerf.scenes import Split
from jaxnerf.viewer.live.views import CropBox, View

# Colours of depth vary between these percentiles of an image's depths.
_PERCENTILES = (2.0, 98.0)
# Factor by which differences are amplified.
DIFFERENCE = 4.0
_THUMBNAIL = 96  # longer side in pixels
# Grey level beside a photograph whose aspect ratio is not the window's.
_MARGIN = 0.1


class AbandonedError(Exception):
    """Rendering of an image was stopped, since it is no longer needed."""


def cropped(run: Run, box: CropBox) -> Run:
    """A run whose field is empty outside of a box of the user's frame.

    Raises:
      ValueError: the box has no volume.
    """
    regions = (Region.box(box.low, box.high).placed(run.scene.to_user.inverse()),)

    def cut(field: Any) -> CroppedField:
        return CroppedField(field, regions)

    field, occupancy = run.field, run.occupancy
    if occupancy is not None:
        occupancy = cropped_occupancy(occupancy, cut(field))
    field = tuple(map(cut, field)) if isinstance(field, tuple) else cut(field)
    return dataclasses.replace(run, field=field, occupancy=occupancy)


def picture(
    run: Run,
    view: View,
    size: tuple[int, int],
    *,
    photographs: Split | None = None,
    is_fine: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The image of a view.

    Args:
      run: the run; `cropped` already, if the view's style has a crop.
      view: camera and style.
      size: (width, height) of the image.
      photographs: the photographs of the run's training split, for comparisons.
      is_fine: whether edges are supersampled, if the run's configuration enables it.
      progress: as for `Run.render`; an exception that it raises ends the rendering.
    """
    style = view.style
    if not is_fine:
        config = override(run.config, {"evaluation.edge_supersampling": 0.0})
        run = dataclasses.replace(run, config=config)
    background = run.background if style.background is None else style.background
    if view.compares and photographs is not None:
        return to_8bit(_compared(run, view, size, photographs, background, progress))
    seen = run.render(
        view.camera(size),
        background=background,
        normals=style.layer == "normals",
        progress=progress,
    )
    return to_8bit(_layer(seen, view))


def _layer(seen: Rendering, view: View) -> np.ndarray:
    opacity, layer = np.asarray(seen.opacity), view.style.layer
    if layer == "normals":
        return colour_normals(np.asarray(seen.normals), opacity)
    if layer == "opacity":
        return np.repeat(opacity[..., None], 3, axis=-1)
    if layer == "depth":
        depth = np.asarray(seen.depth)
        shown = depth[opacity > 0.5]
        low, high = np.percentile(shown, _PERCENTILES) if shown.size else (0.0, 1.0)
        return colour_depth(depth, opacity, float(low), max(float(high), float(low) * 1.001, 1e-9))
    return np.asarray(seen.colour)


def _compared(
    run: Run,
    view: View,
    size: tuple[int, int],
    photographs: Split,
    background: tuple[float, float, float],
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """A photograph, or its difference from the run, centred in an image of the window's size."""
    assert view.photograph is not None
    camera = run.cameras()[view.photograph]
    inner = _inside(camera, size)
    taken = photograph(photographs, view.photograph, inner, background)
    if view.style.comparison == "difference":
        seen = run.render(camera.resized(*inner), background=background, progress=progress)
        taken = DIFFERENCE * np.abs(np.asarray(seen.colour) - taken)
    whole = np.full((size[1], size[0], 3), _MARGIN, np.float32)
    left, top = ((outer - side) // 2 for outer, side in zip(size, inner, strict=True))
    whole[top : top + inner[1], left : left + inner[0]] = taken
    return whole


def _inside(camera: Camera, size: tuple[int, int]) -> tuple[int, int]:
    """The largest size with the aspect ratio of a camera's image that fits into another size."""
    width, height = (int(side) for side in np.asarray(camera.size))
    scale = min(size[0] / width, size[1] / height)
    return (
        min(max(round(width * scale), 1), size[0]),
        min(max(round(height * scale), 1), size[1]),
    )


def photograph(
    photographs: Split,
    number: int,
    size: tuple[int, int],
    background: tuple[float, float, float] | float,
) -> Float[np.ndarray, "height width 3"]:
    """A photograph resized to another size, on a background."""
    from PIL import Image

    assert photographs.images is not None
    width, height = (int(side) for side in np.asarray(photographs.cameras.size)[number])
    rgba = blend(np.asarray(photographs.images[number][:height, :width]), background)
    picture = Image.fromarray(to_8bit(rgba)).resize(size, Image.Resampling.BOX)
    return np.asarray(picture, np.float32) / np.float32(255.0)


def thumbnail(photographs: Split, number: int) -> UInt8[np.ndarray, "height width 3"]:
    """A small version of a photograph, on white."""
    size = np.asarray(photographs.cameras.size)[number]
    scale = min(1.0, _THUMBNAIL / float(size.max()))
    width, height = (max(round(float(side) * scale), 1) for side in size)
    return to_8bit(photograph(photographs, number, (width, height), 1.0))

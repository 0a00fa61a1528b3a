"""The image of a frame of a camera path: colour, depth and normals, for one eye or two."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.cameras.stereo import eyes, omnidirectional_eye
from jaxnerf.config import override
from jaxnerf.exports.scans import Scan
from jaxnerf.exports.video import colour_depth, colour_normals
from jaxnerf.rendering import Rendering
from jaxnerf.runs.run import Run

# What frames are rendered from: a run, or a scanner's volume.
Shown = Run | Scan
Panel = Literal["rgb", "depth", "normals"]
Eyes = Literal["one", "side_by_side", "omnidirectional"]

# In unbounded scenes the range of depth's colours is given by these percentiles of the depths in an image
# with at most _SMALL pixels along a side.
_PERCENTILES, _SMALL = (2.0, 98.0), 96


@dataclasses.dataclass(frozen=True)
class Look:
    """How the frames of a path are rendered.

    Attributes:
      panels: the images side by side in a frame.
      eyes: "one"; "side_by_side", with the left eye's image at the left; or "omnidirectional", for
        equirectangular cameras, with the left eye's image above.
      eye_distance: distance between the eyes, in the user's unit.
      supersampling: number of rays along a pixel's side; a pixel is the mean of its squared number of
        rays. 0 is one ray, and at edges the supersampling of the run's configuration.
      depth_range: the depths that have the lightest and the darkest colour in panels of depth, in the
        user's unit.
    """

    panels: tuple[Panel, ...] = ("rgb",)
    eyes: Eyes = "one"
    eye_distance: float = 0.0
    supersampling: int = 0
    depth_range: tuple[float, float] = (0.0, 1.0)


def look_through(run: Shown, camera: Camera, look: Look) -> Rendering:
    """Render a camera of a path, for both eyes if there are two; in the user's frame and unit.

    Args:
      run: a run from `jaxnerf.load_run`, or a volume.
      camera: a single camera; its position is the middle between the eyes.
      look: how the frames are rendered.

    Returns:
      A `Rendering` of NumPy arrays [height, width, ...], with normals if a panel shows them.
    """
    rays = look.supersampling
    if rays and isinstance(run, Run):
        config = override(run.config, {"evaluation.edge_supersampling": 0.0})
        run = dataclasses.replace(run, config=config)
    width, height = (int(side) for side in np.asarray(camera.size))
    camera = camera.resized(width * max(rays, 1), height * max(rays, 1))
    cameras = (camera,)
    if look.eyes == "side_by_side":
        cameras = eyes(camera, look.eye_distance)
    elif look.eyes == "omnidirectional":
        half = 0.5 * look.eye_distance
        cameras = (omnidirectional_eye(camera, -half), omnidirectional_eye(camera, half))
    seen = [run.render(each, normals="normals" in look.panels) for each in cameras]
    axis = 0 if look.eyes == "omnidirectional" else 1
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=axis), *seen)
    return _averaged(whole, rays) if rays > 1 else whole


def frame_size(camera: Camera, look: Look) -> tuple[int, int]:
    """The (width, height) of a camera's frame, with all panels and eyes."""
    width, height = (int(side) for side in np.asarray(camera.size))
    across = len(look.panels) * (2 if look.eyes == "side_by_side" else 1)
    return width * across, height * (2 if look.eyes == "omnidirectional" else 1)


def panels_of(seen: Rendering, look: Look) -> Float[np.ndarray, "height width 3"]:
    """The frame of a rendering: the panels side by side, with values in [0, 1].

    Args:
      seen: a rendering from `look_through`.
      look: how the frames are rendered.
    """
    depth, opacity, normals = (
        np.asarray(values) for values in (seen.depth, seen.opacity, seen.normals)
    )
    pictures: dict[str, Callable[[], Any]] = {
        "rgb": lambda: seen.colour,
        "depth": lambda: colour_depth(depth, opacity, *look.depth_range),
        "normals": lambda: colour_normals(normals, opacity),
    }
    return np.concatenate([pictures[panel]() for panel in look.panels], axis=1)


def surface_depth(seen: Rendering) -> Float[np.ndarray, "height width"]:
    """The median depth of each pixel; 0 where the opacity is below a half.

    Depths are along the axis for pinhole cameras, and along the ray for lenses that are not flat.

    Args:
      seen: a rendering from `look_through`.
    """
    return np.where(seen.opacity >= 0.5, seen.depth_median, 0.0).astype(np.float32)


def depth_range(run: Shown, camera: Camera) -> tuple[float, float]:
    """The depths between which colours of depth vary, in the user's unit.

    They are near and far of the scene. In an unbounded scene they are percentiles of the depths in a
    small image of the camera.

    Args:
      run: a run from `jaxnerf.load_run`, or a volume.
      camera: a single camera: the first of a path.
    """
    if isinstance(run, Scan):
        return run.depths(camera)
    scale = run.scene.to_user.scale
    low, high = run.scene.near * scale, run.scene.far * scale
    if run.scene.unbounded:
        width, height = (int(side) for side in np.asarray(camera.size))
        small = min(1.0, _SMALL / max(width, height))
        seen = run.render(camera.resized(*(max(1, round(x * small)) for x in (width, height))))
        shown = seen.depth[seen.opacity > 0.5]
        if shown.size:
            # Rounded, so that frames made on different machines have the same range.
            low, high = (float(f"{x:.3g}") for x in np.percentile(shown, _PERCENTILES))
    return low, max(high, low * 1.001)


def _averaged(seen: Rendering, rays: int) -> Rendering:
    """Squares of rays x rays pixels as one pixel: their mean, and for distances their median."""

    def squares(values: Any) -> np.ndarray:
        height, width = (side // rays for side in values.shape[:2])
        cut = np.asarray(values).reshape(height, rays, width, rays, *values.shape[2:])
        return cut.swapaxes(1, 2).reshape(height, width, rays * rays, *values.shape[2:])

    def mean(values: Any) -> np.ndarray:
        return squares(values).mean(axis=2)

    def middle(values: Any) -> np.ndarray:
        return np.sort(squares(values), axis=2)[:, :, (rays * rays - 1) // 2]

    arrays: dict[str, Any] = {
        name: (mean if name in ("colour", "opacity") else middle)(getattr(seen, name))
        for name in ("colour", "opacity", "depth", "depth_median", "distance")
    }
    if seen.normals is not None:
        normals = mean(seen.normals)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        arrays["normals"] = normals / np.maximum(length, 1e-12)
    return Rendering(**arrays, extras=jax.tree.map(mean, seen.extras))

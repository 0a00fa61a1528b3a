"""A scanner's volume with the interface of a run, for the frames of a camera path."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxnerf.cameras import Camera
from jaxnerf.cameras.paths import orbit
from jaxnerf.compositing import Compositing
from jaxnerf.fields.transfer import TransferFunction
from jaxnerf.fields.volume import VolumeField
from jaxnerf.rendering import Rendering, render_image
from jaxnerf.sampling import Occupancy, OccupancySampler
from jaxnerf.sampling.occupancy import occupied
from jaxnerf.scenes import SceneError
from jaxnerf.scenes.volume_files import VolumeFile, read_volume

# The default cameras: image side in pixels, field of view and elevation in degrees, and their number.
_SIDE, _DEGREES, _ELEVATION, _AROUND = 512, 40.0, 15.0, 60
# The default window ends at the second of these percentiles of the voxels' values, and begins at this
# fraction of the way from the first to the second.
_PERCENTILES, _FIRST = (1.0, 99.5), 0.2
_SAMPLED = 1 << 20
# The default opacity, at the window's end, of a hundredth of the longest side of the volume.
OPACITY: dict[Compositing, float] = {"volume": 0.6, "mean": 0.03, "attenuation": 0.03}
# Colours from the window's beginning to its end: those of tissue, and those of a film.
_TISSUE = ((0.45, 0.16, 0.1), (0.9, 0.65, 0.45), (1.0, 1.0, 0.94))
_FILM = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Scan:
    """A volume and its display settings, rendered like a `jaxnerf.Run`, in its file's frame and unit.

    Attributes:
      folder: the volume's file.
      field, params, occupancy: the volume as a field.
      compositing: the compositing mode; the background is white for "attenuation", else black.
      centre, radius: a ball around all occupied cells.
      step: 0, since the volume was not trained.
    """

    folder: Path
    field: VolumeField
    params: Any
    occupancy: Occupancy
    compositing: Compositing
    centre: np.ndarray
    radius: float
    step: int = 0

    def render(self, camera: Camera, *, normals: bool = False) -> Rendering:
        """Render the image of a camera.

        Args:
          camera: a single camera.
          normals: whether to compute normals.

        Returns:
          A `Rendering` of NumPy arrays [height, width, ...].
        """
        return render_image(
            self.field,
            self.params,
            camera,
            self.sampler,
            horizon=self.farthest(camera),
            background=1.0 if self.compositing == "attenuation" else 0.0,
            normals=normals,
            compositing=self.compositing,
        )

    @property
    def sampler(self) -> OccupancySampler:
        """The sampler of images, with limits that are enough for most rays of an image."""
        return OccupancySampler(self.occupancy)

    def cameras(self) -> Camera:
        """Cameras in a circle around the volume, with a field of view that contains all of it."""
        away = 1.02 * self.radius / math.sin(math.radians(0.5 * _DEGREES))
        poses = orbit(self.centre, away, _ELEVATION, _AROUND)
        focal = 0.5 * _SIDE / math.tan(math.radians(0.5 * _DEGREES))
        return Camera.pinhole(poses, focal, _SIDE, _SIDE)

    def farthest(self, cameras: Camera) -> float:
        """A distance beyond which no camera sees any occupied cell."""
        positions = np.reshape(np.asarray(cameras.camera_to_world, np.float64), (-1, 3, 4))[:, :, 3]
        return float(np.linalg.norm(positions - self.centre, axis=-1).max() + self.radius)

    def depths(self, camera: Camera) -> tuple[float, float]:
        """The range of depths in which a camera can see occupied cells."""
        far = self.farthest(camera)
        return max(far - 2.0 * self.radius, 1e-3 * far), far


def open_scan(
    path: Path,
    compositing: Compositing = "volume",
    window: tuple[float, float] | None = None,
    opacity: float | None = None,
) -> tuple[Scan, tuple[str, ...]]:
    """Open a volume's file for display.

    Args:
      path: see `jaxnerf.scenes.volume_files.read_volume`.
      compositing: see `jaxnerf.render_rays`.
      window: the values between which density rises from 0 and colour from dark to bright; by default
        from percentiles. Colours of an .npz are shown as they are, and its densities too, unless
        there is a window.
      opacity: the opacity of a hundredth of the volume's longest side, where values are at the window's
        end or above; the default depends on the compositing mode.

    Returns:
      The scan, and notes for the user.

    Raises:
      SceneError: the file cannot be read as a volume, or all of it is transparent.
    """
    found = read_volume(path)
    sides = " x ".join(map(str, found.values.shape))
    notes = [f"{path.name}: {sides} voxels of {found.values.dtype}; {'; '.join(found.notes)}"]
    try:
        field, params = VolumeField.from_array(found.values, found.colours, None, found.to_world)
    except ValueError as error:
        raise SceneError(f"{path}: {error}") from None
    if found.colours is None or window is not None:
        found = dataclasses.replace(found, values=field.values_of(params))
        transfer, said = _transfer(found, compositing, window, opacity)
        notes.append(said)
        field, params = VolumeField.from_array(
            found.values, found.colours, transfer, found.to_world
        )
    occupancy = field.occupancy(params)
    full = np.argwhere(np.asarray(occupied(occupancy)))
    if not len(full):
        raise SceneError(
            f"{path}: nothing shows: no value is above the window's beginning (--window)"
        )
    cell, origin = float(occupancy.cell), np.asarray(occupancy.origin, np.float64)
    low, high = origin + full.min(axis=0) * cell, origin + (full.max(axis=0) + 1) * cell
    radius = 0.5 * float(np.linalg.norm(high - low))
    return Scan(path, field, params, occupancy, compositing, 0.5 * (low + high), radius), tuple(
        notes
    )


def default_window(values: np.ndarray) -> tuple[float, float]:
    """The default window of a volume's values, from two percentiles; see `_PERCENTILES`.

    Args:
      values: values of all voxels, of which about a million, evenly spread, are used.
    """
    flat = values.reshape(-1) if values.flags.c_contiguous else values.ravel(order="K")
    some = np.asarray(flat[:: max(1, flat.size // _SAMPLED)], np.float64)
    low, high = (float(each) for each in np.percentile(some, _PERCENTILES))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return low + _FIRST * (high - low), high


def _transfer(
    found: VolumeFile,
    compositing: Compositing,
    window: tuple[float, float] | None,
    opacity: float | None,
) -> tuple[TransferFunction, str]:
    """The transfer function from values to density and colour, and a note on it."""
    low, high = default_window(found.values) if window is None else window
    if not high > low:  # all values are equal
        low, high = low - 1.0, low
    lengths = np.linalg.norm(found.to_world[:3, :3], axis=0)
    longest = float(np.max(lengths * found.values.shape))
    said = f"window {low:.6g},{high:.6g}" + (" (--window)" if window is None else "")
    if compositing in OPACITY:
        each = OPACITY[compositing] if opacity is None else opacity
        density = -math.log1p(-each) * 100.0 / longest
        said += f", opacity {each:g} a hundredth of the longest side"
        said += " (--opacity)" if opacity is None else ""
    else:
        # A surface is where a voxel's opacity is a half: in the middle of the window.
        density = 2.0 * math.log(2.0) / float(lengths.min())
    colours = None
    if found.colours is None:
        colours = _TISSUE if compositing in ("volume", "surface") else _FILM
    middle = 0.5 * (low + high)
    return TransferFunction.of([low, middle, high], [0.0, 0.5 * density, density], colours), said

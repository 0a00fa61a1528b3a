"""A run's surfaces as points with normals and colours: PLY, or COLMAP's points3D, in the user's frame."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxnerf.errors import in_range
from jaxnerf.exports.files import Report, whole_file
from jaxnerf.exports.grids import box_of
from jaxnerf.exports.ply import coloured_points, write_ply
from jaxnerf.exports.views import Views, agreement, render_views
from jaxnerf.rendering.boxes import Box
from jaxnerf.rendering.chunks import in_chunks, replicated
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run
from jaxnerf.scenes.colmap_files import ModelPoints
from jaxnerf.scenes.colmap_writing import points_file

SUFFIXES = (".ply", ".txt", ".bin")
# Cubes along the longest side of the box, each with at most one point.
_RESOLUTION = 512
# A view sees a point that is within this many cubes of the view's depth.
_REACH = 2.0
# Largest number of cubes of a box: their indices are integers of 64 bits.
_MOST_CUBES = 2.0**62
# Number of rows of partial sums above which they are merged.
_WAITING = 1 << 22


@dataclasses.dataclass(frozen=True)
class Settings:
    """How points are made.

    Attributes:
      spacing: side of the cubes in each of which all points are averaged to one, in the unit of your
        files; 0 for a 512th of the box's longest side.
      box: x0,y0,z0,x1,y1,z1 in the frame and unit of your files; by default a box around the scene.
      views: number of training cameras from which the scene is rendered; 0 for all.
    """

    spacing: float = 0.0
    box: tuple[float, ...] = ()
    views: int = 0

    def __post_init__(self) -> None:
        in_range(self, spacing=(0.0, 1e9), views=(0, 1 << 30))


@dataclasses.dataclass(frozen=True)
class Points:
    """Points of surfaces, in the user's unit.

    Attributes:
      positions: positions relative to the origin.
      normals: unit vectors in the user's frame that point out of the surface.
      colours: 8-bit sRGB.
      origin: the origin in the user's frame.
      spacing: side of the cubes, each of which has at most one point.
    """

    positions: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    colours: UInt8[np.ndarray, "N 3"]
    origin: Float[np.ndarray, "3"]
    spacing: float

    def __len__(self) -> int:
        return len(self.positions)


def export(run: Run, out: Path, settings: Settings, report: Report = Report()) -> Points:
    """Write the points that a run's training cameras see, as PLY or as COLMAP's points3D.

    Other programs read COLMAP's points under the names points3D.txt and points3D.bin.

    Args:
      run: a run from `jaxnerf.load_run`.
      out: the file, whose suffix is one of `SUFFIXES`.
      settings: settings of the export.
      report: receives messages and progress.

    Raises:
      RunError: the scene has no surface, or the file cannot be written.
      ValueError: a setting is wrong; the message begins with its name.
    """
    box = box_of(run, settings.box)
    spacing = settings.spacing or float(box.size.max()) / _RESOLUTION
    _cubes(box.size, spacing)  # raises before the views are rendered
    views = render_views(
        run,
        0.5 * (box.low + box.high),
        count=settings.views,
        with_normals=True,
        report=report,
    )
    points = thinned(views, box, spacing)
    if not len(points):
        raise RunError(f"{run.folder}: the scene has no surface in the box that is looked at")
    positions = points.positions + points.origin
    with whole_file(out) as partial:
        if out.suffix == ".ply":
            write_ply(partial, coloured_points(positions, points.normals, points.colours))
        else:
            numbers = np.arange(1, len(positions) + 1)
            model = ModelPoints(numbers, positions, points.colours, np.zeros(len(positions)))
            partial.write_bytes(points_file(model, text=out.suffix == ".txt"))
    report.say(f"{len(points):,} points, {points.spacing:.4g} apart in the unit of your files")
    return points


def thinned(views: Views, box: Box, spacing: float) -> Points:
    """The surface points of the pixels of views in a box, averaged within each cube.

    A point that more views see through than see is removed: it is a floater, or the interpolation of
    depths across an edge.

    Args:
      views: views with normals.
      box: box in the user's frame.
      spacing: side of a cube.

    Raises:
      ValueError: there are too many cubes; the message begins with the setting's name.
    """
    assert views.normals is not None
    low, high = box.low - views.origin, box.high - views.origin
    count = _cubes(high - low, spacing)
    sums: list[tuple[np.ndarray, np.ndarray]] = []
    for number, shown, places in views.surface():
        inside = ((places >= low) & (places <= high)).all(axis=-1)
        values = [np.ones_like(places[:, :1]), places, views.normals[number][shown]]
        rows = np.concatenate([*values, views.colour[number][shown]], axis=-1)[inside]
        x, y, z = np.floor((places[inside] - low) / spacing).astype(np.int64).T
        sums.append(_summed((x * count[1] + y) * count[2] + z, rows))
        if sum(len(keys) for keys, _ in sums) > _WAITING:
            sums = [_merged(sums)]
    _, total = _merged(sums)
    mean = total / total[:, :1]
    length = np.linalg.norm(mean[:, 4:7], axis=-1, keepdims=True)
    normals = mean[:, 4:7] / np.maximum(length, 1e-12)
    positions = mean[:, 1:4].astype(np.float32)
    pictures = replicated((views.cameras, views.depth))
    reach = jnp.float32(max(_REACH * spacing, views.footprint()))
    here, beyond = in_chunks(lambda p: agreement(pictures, reach, p), positions)
    kept = here > beyond
    return Points(
        positions[kept],
        normals[kept].astype(np.float32),
        np.rint(mean[kept, 7:10]).astype(np.uint8),
        views.origin,
        spacing,
    )


def _cubes(size: Float[np.ndarray, "3"], spacing: float) -> Int[np.ndarray, "3"]:
    """The number of cubes along each side of a box."""
    count = np.ceil(size / spacing) + 1.0
    if np.prod(count) > _MOST_CUBES:
        raise ValueError(f"spacing: {spacing:g} is too small for a box {size.max():.4g} wide")
    return count.astype(np.int64)


def _merged(sums: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys, rows = zip(*sums, strict=True)
    return _summed(np.concatenate(keys), np.concatenate(rows))


def _summed(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the rows with equal keys."""
    kept, which = np.unique(keys, return_inverse=True)
    columns = [np.bincount(which, column, len(kept)) for column in rows.T]
    return kept, np.stack(columns, axis=-1)

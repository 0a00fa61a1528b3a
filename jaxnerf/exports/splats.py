"""A run's surfaces as Gaussians, in the PLY layout of 3D Gaussian splatting.

Kerbl et al., "3D Gaussian splatting for real-time radiance field rendering", SIGGRAPH 2023. One Gaussian
represents the surface points that the training cameras see in one voxel: it lies at their mean, is flat
along their normal, and its colours are fitted to the views as spherical harmonics of the direction.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnerf.cameras import Camera
from jaxnerf.encoding import spherical_harmonics
from jaxnerf.errors import in_range
from jaxnerf.evaluation import psnr
from jaxnerf.exports.files import Report, whole_file
from jaxnerf.exports.grids import box_of
from jaxnerf.exports.ply import write_ply
from jaxnerf.exports.points import Points, thinned
from jaxnerf.exports.splat_drawing import draw
from jaxnerf.exports.views import Views, render_views, seen_by
from jaxnerf.rendering.boxes import check_resolution
from jaxnerf.rendering.chunks import in_chunks
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run

SUFFIXES = (".ply",)
# Degree of the harmonics in the file, which all readers of the layout support; harmonics of higher degree
# than the fitted ones are 0.
DEGREE = 3
# The standard deviations in voxels, along the surface and across it, and the opacity. Neighbouring
# Gaussians overlap: with larger values silhouettes grow, which costs 2 dB on the demo scene; with smaller
# ones surfaces are transparent.
_ALONG, _ACROSS, _OPACITY = 0.5, 0.1, 0.7
# Strength of the ridge regularisation of the harmonics, as a number of views.
_RIDGE = 1.0
# A view sees a Gaussian that is within this many voxels of the view's depth.
_REACH = 2.0
# Number of images that are compared with the field's, and the pixels along their longer side.
_COMPARED, _SIDE = 2, 400


@dataclasses.dataclass(frozen=True)
class Settings:
    """How Gaussians are made.

    Attributes:
      resolution: voxels along the longest side of the box.
      box: x0,y0,z0,x1,y1,z1 in the frame and unit of your files; by default a box around the scene.
      views: number of training cameras from which the scene is rendered; 0 for all.
      sh_degree: degree of the spherical harmonics that are fitted, from 0 to 3.
    """

    resolution: int = 256
    box: tuple[float, ...] = ()
    views: int = 0
    sh_degree: int = 2

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        in_range(self, sh_degree=(0, DEGREE), views=(0, 1 << 30))


@dataclasses.dataclass(frozen=True)
class Splats:
    """Gaussians, in the user's unit.

    Attributes:
      positions: centres of the Gaussians, relative to the origin.
      normals: unit vectors.
      scales: standard deviations along the Gaussian's own axes.
      rotations: unit quaternions (w, x, y, z) that rotate those axes to the user's.
      opacities: opacities in (0, 1).
      harmonics: coefficients of red, green and blue; the colour is 0.5 plus the sum of the harmonics.
      origin: origin of the positions in the user's frame.
    """

    positions: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    scales: Float[np.ndarray, "N 3"]
    rotations: Float[np.ndarray, "N 4"]
    opacities: Float[np.ndarray, " N"]
    harmonics: Float[np.ndarray, "N 16 3"]
    origin: Float[np.ndarray, "3"]

    def __len__(self) -> int:
        return len(self.positions)

    def colours(
        self, directions: Float[np.ndarray, "M 3"], which: Any = slice(None)
    ) -> Float[np.ndarray, "M 3"]:
        """sRGB of all Gaussians, or of some indices, seen along unit directions from the camera."""
        values = np.asarray(harmonics(jnp.asarray(directions, jnp.float32), DEGREE))
        return np.maximum(0.5 + np.einsum("nh,nhc->nc", values, self.harmonics[which]), 0.0)


def export(run: Run, out: Path, settings: Settings, report: Report = Report()) -> Splats:
    """Write a run's surfaces as Gaussians, and report the PSNR of their images against the field's.

    Args:
      run: a run from `jaxnerf.load_run`.
      out: the file, a .ply.
      settings: settings of the export.
      report: receives messages and progress.

    Raises:
      RunError: the scene has no surface, or the file cannot be written.
      ValueError: a setting is wrong; the message begins with its name.
    """
    splats = splats_of(run, settings, report)
    with whole_file(out) as partial:
        write_splats(splats, partial)
    loss, count = compared(run, splats)
    report.say(f"{len(splats):,} Gaussians, {loss:.2f} dB from the field in {count} pictures")
    rounding = np.abs(splats.origin).max() * 2.0**-24
    if rounding > 0.1 * splats.scales.max():
        report.say(
            f"positions are rounded to {rounding:.2g} of your unit, since the layout has float32 alone"
        )
    return splats


def splats_of(run: Run, settings: Settings = Settings(), report: Report = Report()) -> Splats:
    """The Gaussians of a run's surfaces.

    Raises:
      RunError: the scene has no surface in the box.
      ValueError: a setting is wrong; the message begins with its name.
    """
    box = box_of(run, settings.box)
    middle = 0.5 * (box.low + box.high)
    views = render_views(run, middle, count=settings.views, with_normals=True, report=report)
    points = thinned(views, box, float(box.size.max()) / settings.resolution)
    if not len(points):
        raise RunError(f"{run.folder}: the scene has no surface in the box that is looked at")
    count = len(points)
    return Splats(
        points.positions,
        points.normals,
        np.tile(np.array([_ALONG, _ALONG, _ACROSS]) * points.spacing, (count, 1)).astype(
            np.float32
        ),
        turned_to(points.normals),
        np.full(count, _OPACITY, np.float32),
        fitted(views, points, settings.sh_degree),
        points.origin,
    )


def turned_to(normals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions (w, x, y, z) of the smallest rotations from +z to unit vectors."""
    x, y, z = normals.T
    turns = np.stack([1.0 + z, -y, x, np.zeros_like(z)], axis=-1)
    turns = np.where((z < -0.999999)[:, None], [0.0, 1.0, 0.0, 0.0], turns)
    return (turns / np.linalg.norm(turns, axis=-1, keepdims=True)).astype(np.float32)


def harmonics(directions: Float[Array, "*batch 3"], degree: int) -> Float[Array, "*batch H"]:
    """The spherical harmonics of the layout: those of jaxnerf with the Condon-Shortley phase."""
    order = np.concatenate([np.arange(-level, level + 1) for level in range(degree + 1)])
    phase = jnp.asarray((-1.0) ** np.abs(order), directions.dtype)
    values = spherical_harmonics(directions, degree)
    return values * jnp.broadcast_to(phase, values.shape)


def fitted(views: Views, points: Points, degree: int) -> Float[np.ndarray, "N 16 3"]:
    """Harmonics of the colours of points, fitted to the views by least squares.

    Harmonics that vary with the direction are regularised, so that they are small for points in few
    views. A point that no view sees keeps its own colour.

    Args:
      views: views of the surfaces.
      points: points of the surfaces, around the same origin.
      degree: degree of the harmonics that are fitted; the others are 0.
    """
    seen = jax.device_put((views.cameras, views.depth, views.colour))
    reach = jnp.float32(_REACH * points.spacing)
    own = points.colours.astype(np.float32) / 255.0
    solve = functools.partial(_least_squares, degree, seen, reach)
    found = in_chunks(solve, points.positions, own, on_one=True)
    whole = np.zeros((len(points), (DEGREE + 1) ** 2, 3), np.float32)
    whole[:, : found.shape[1]] = found
    return whole


@functools.partial(jax.jit, static_argnums=0)
def _least_squares(
    degree: int, views: tuple[Camera, Array, Array], reach: Array, points: Array, own: Array
) -> Array:
    count = (degree + 1) ** 2

    def add(carry, view):
        squares, products = carry
        camera, depth, colour = view
        shade, visible = seen_by(camera, depth, colour, points, reach)
        along = points - jnp.broadcast_to(camera.camera_to_world[:, 3], points.shape)
        along = along / jnp.linalg.norm(along, axis=-1, keepdims=True)
        values = jnp.where(visible[:, None], harmonics(along, degree), 0.0)
        squares = squares + values[:, :, None] * values[:, None, :]
        return (squares, products + values[:, :, None] * (shade - own)[:, None, :]), None

    zeros = (len(points), count)
    start = jnp.zeros((*zeros, count)), jnp.zeros((*zeros, 3))
    (squares, products), _ = jax.lax.scan(add, start, views)
    # A harmonic's mean square is 1 / 4 pi. The first has a small ridge too, for points that no view sees.
    ridge = jnp.diag(jnp.where(jnp.arange(count) == 0, 1e-3, _RIDGE) / (4.0 * jnp.pi))
    found = jnp.linalg.solve(squares + jnp.broadcast_to(ridge, squares.shape), products)
    constant = (own - 0.5) * jnp.sqrt(4.0 * jnp.pi)
    return found.at[:, 0].add(constant)


def write_splats(splats: Splats, path: Path) -> None:
    """Write Gaussians in the layout of 3D Gaussian splatting, with harmonics of degree 3.

    Raises:
      OSError: it cannot be written.
    """
    rest = splats.harmonics[:, 1:].transpose(0, 2, 1).reshape(len(splats), -1)
    logits = np.log(splats.opacities / (1.0 - splats.opacities))
    parts = {
        "xyz": splats.positions + splats.origin,
        "normal": splats.normals,
        "f_dc": splats.harmonics[:, 0],
        "f_rest": rest,
        "opacity": logits[:, None],
        "scale": np.log(splats.scales),
        "rot": splats.rotations,
    }
    named = {"xyz": list("xyz"), "normal": ["nx", "ny", "nz"], "opacity": ["opacity"]}
    names = [
        name
        for key, part in parts.items()
        for name in named.get(key, [f"{key}_{index}" for index in range(part.shape[1])])
    ]
    rows = np.concatenate(list(parts.values()), axis=1).astype(np.float32)
    vertices = np.empty(len(rows), [(name, "f4") for name in names])
    for name, column in zip(names, rows.T, strict=True):
        vertices[name] = column
    write_ply(path, vertices)


def compared(run: Run, splats: Splats) -> tuple[float, int]:
    """The mean PSNR of the Gaussians' images against the field's, on white, and the number of images.

    The images are those of two test views, or of training views if there are none, with 400 pixels along
    the longer side and without the lens's distortion, which splats do not have.
    """
    cameras = run.cameras("test" if len(run.scene.splits.get("test", ())) else "train")
    chosen = np.linspace(0, len(cameras) - 1, min(_COMPARED, len(cameras))).astype(int)
    values = []
    for index in chosen:
        camera = dataclasses.replace(cameras[index], lens="pinhole")
        width, height = (int(side) for side in np.asarray(camera.size))
        scale = _SIDE / max(width, height)
        camera = camera.resized(max(1, round(width * scale)), max(1, round(height * scale)))
        field = np.asarray(run.render(camera, background=1.0).colour)
        values.append(psnr(draw(splats, camera), field))
    return float(np.mean(values)), len(values)

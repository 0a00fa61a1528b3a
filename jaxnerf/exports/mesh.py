"""A run's surfaces as triangles: PLY, OBJ or GLB, in the frame and unit of the user's files."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxnerf.cameras.paths import up_of
from jaxnerf.errors import in_range
from jaxnerf.exports import surfaces
from jaxnerf.exports.files import Report, package
from jaxnerf.exports.grids import box_of
from jaxnerf.exports.mesh_files import SUFFIXES as SUFFIXES
from jaxnerf.exports.mesh_files import Mesh, vertex_normals, write_mesh
from jaxnerf.exports.texture import Paint, check_size, textured
from jaxnerf.exports.views import Views, fused_distance, render_views, seen_colours
from jaxnerf.rendering.boxes import Box, Grid, check_resolution
from jaxnerf.rendering.chunks import in_chunks, replicated
from jaxnerf.runs.files import RunError
from jaxnerf.runs.probing import Probe, finest_voxel
from jaxnerf.runs.run import Run

# In voxels: the truncation of distances, and the smallest distance from the views' depths up to which the
# surface is searched for.
_TRUNCATION, _REACH = 5.0, 2.0
# Margin of the box around the points that the views see, in voxels.
_MARGIN = 3.0
# Number of views from which on a fused distance is known.
_LEAST_VIEWS = 1.0
_LN2 = float(np.log(2.0))


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a mesh is made.

    Attributes:
      how: "tsdf", truncated signed distances fused from the median depths that the training cameras see;
        or "density", marching cubes on the density.
      resolution: voxels along the longest side of the box.
      box: x0,y0,z0,x1,y1,z1 in the frame and unit of your files; by default a box around the scene.
      faces: number of triangles to which a finer mesh is decimated; 0 keeps all.
      threshold: density at the surface with how=density, in 1/unit of your files; 0 chooses the density
        at which a voxel of the field has an opacity of one half.
      floaters: connected parts with fewer triangles than this fraction of the largest part's are removed.
      views: number of training cameras from which the scene is rendered; 0 for all.
      texture: texels along a side of the texture of an .obj or .glb; 0 for colours of vertices.
      metres: the length of your unit in metres, by which a GLB is scaled.
      up: x,y,z, the upward direction of a GLB; by default as the cameras were held.
    """

    how: Literal["tsdf", "density"] = "tsdf"
    resolution: int = 256
    box: tuple[float, ...] = ()
    faces: int = 300_000
    threshold: float = 0.0
    floaters: float = 0.01
    views: int = 0
    texture: int = 0
    metres: float = 1.0
    up: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        check_size(self.texture)
        in_range(self, floaters=(0.0, 1.0), metres=(1e-9, 1e9), threshold=(0.0, 1e12))
        in_range(self, faces=(0, 1 << 31), views=(0, 1 << 31))
        if self.up and (len(self.up) != 3 or not np.linalg.norm(self.up) > 0.0):
            raise ValueError(f"up: {','.join(map(str, self.up))} is not x,y,z, a direction")
        if self.threshold and self.how != "density":
            raise ValueError("threshold: has no effect on fused distances, only with how=density")


def export(run: Run, out: Path, settings: Settings, report: Report = Report()) -> Mesh:
    """Write a mesh of a run, and report its size.

    A PLY and an OBJ have the coordinates of the user's files; the image of an OBJ with a texture is
    written beside it as NAME.png, with the material NAME.mtl. A GLB has metres and +y up: its vertices
    are relative to `Mesh.origin` along the axes of the user's files, and the node of the mesh rotates
    the scene's up to +y, scales by `Settings.metres` and moves the origin to its position. Blender
    rotates glTF's +y to its +z, so that a scene whose up is +z has the coordinates of its files there.
    Colours are sRGB in PLY, OBJ and images, and linear at the vertices of a GLB, as the formats define
    them.

    Colours are those that the run renders at its training cameras, and not those of the photographs: only
    the run's folder is needed, and differences of exposure that were learned are removed.

    Args:
      run: a run from `jaxnerf.load_run`.
      out: the file, whose suffix is one of `SUFFIXES`.
      settings: settings of the export.
      report: receives messages and progress.

    Raises:
      RunError: a package is missing, the scene has no surface, or the file cannot be written.
      ValueError: a setting is wrong; the message begins with its name.
    """
    if out.suffix != ".ply":
        package("trimesh")
    elif settings.texture:
        raise ValueError("texture: has no effect on .ply, only on .glb and .obj")
    for name in ("metres", "up"):
        if out.suffix != ".glb" and getattr(settings, name) != getattr(Settings(), name):
            raise ValueError(f"{name}: has no effect on {out.suffix}, only on .glb")
    mesh = mesh_of(run, settings, report)
    write_mesh(mesh, out, _root(run, settings, mesh.origin))
    size = " x ".join(f"{side:.4g}" for side in mesh.size)
    report.say(
        f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces, {size} in the unit of your files"
    )
    return mesh


def mesh_of(run: Run, settings: Settings = Settings(), report: Report = Report()) -> Mesh:
    """The mesh of a run's surfaces.

    Raises:
      RunError: a package is missing, or the scene has no surface in the box.
      ValueError: a setting is wrong; the message begins with its name.
    """
    package("skimage.measure", "scikit-image")
    package("fast_simplification", "fast-simplification")
    if settings.texture:
        package("xatlas")
    box = box_of(run, settings.box)
    views = render_views(run, 0.5 * (box.low + box.high), count=settings.views, report=report)
    if not settings.box:
        box = _seen_part(run, views, box, settings.resolution)
    grid = Grid.of(box, settings.resolution)
    make = _fused if settings.how == "tsdf" else _dense
    vertices, faces = make(run, views, grid, settings, report)
    vertices, faces, floaters = surfaces.without_floaters(vertices, faces, settings.floaters)
    if not len(faces):
        raise RunError(f"{run.folder}: the scene has no surface in the box that is looked at")
    if floaters:
        report.say(f"{floaters} small parts that float apart are left out (--floaters)")
    if settings.faces:
        vertices, faces = surfaces.decimated(vertices, faces, settings.faces)
    vertices = (vertices * grid.voxel + (grid.origin - views.origin)).astype(np.float32)
    normals, paint = vertex_normals(vertices, faces), _paint(run, views, grid.voxel)
    colours = np.rint(np.clip(paint(vertices, normals), 0.0, 1.0) * 255.0).astype(np.uint8)
    texture, size = None, settings.texture
    if size:
        report.say(f"{len(faces):,} faces to unfold, which takes minutes where many (--faces)")
        texture = textured(vertices, faces, normals, size, paint, report.of("face"))
    return Mesh(vertices, faces, colours, views.origin, texture)


def _seen_part(run: Run, views: Views, box: Box, resolution: int) -> Box:
    """The part of a box in which views see surfaces, with a margin of a few voxels.

    Raises:
      RunError: the views see no surface in the box.
    """
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    around = Box(box.low - views.origin, box.high - views.origin)
    for _, _, points in views.surface():
        inside = ((points >= around.low) & (points <= around.high)).all(axis=-1)
        low = np.minimum(low, points[inside].min(axis=0, initial=np.inf))
        high = np.maximum(high, points[inside].max(axis=0, initial=-np.inf))
    if not (low < high).all():
        raise RunError(f"{run.folder}: the scene has no surface: no training camera sees one")
    seen = Box(low + views.origin, high + views.origin)
    return seen.grown(_MARGIN * float(seen.size.max()) / resolution)


def _fused(
    run: Run, views: Views, grid: Grid, settings: Settings, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the level set 0 of the fused distance, in voxels."""
    bricks = _bricks(grid)
    offset = (grid.origin - views.origin).astype(np.float32)
    # If voxels are smaller than pixels, there are bricks between the surface points of adjacent pixels.
    reach = max(_REACH, 0.5 * views.footprint() / grid.voxel)
    for _, _, points in views.surface():
        places = (points - offset) / np.float32(grid.voxel)
        surfaces.bricks_around(places, min(reach, surfaces.BRICK), bricks)
    bricks = surfaces.grown(bricks, int(reach / surfaces.BRICK))
    seen = replicated((views.cameras, views.depth))
    truncation = jnp.float32(_TRUNCATION * grid.voxel)

    def level(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = places * np.float32(grid.voxel) + offset
        value, weight = in_chunks(lambda p: fused_distance(seen, truncation, p), points)
        return value, weight >= _LEAST_VIEWS

    return surfaces.extract(level, bricks, grid.shape, report.of("block"))


def _dense(
    run: Run, views: Views, grid: Grid, settings: Settings, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the level set of the density at the threshold, in voxels.

    The interpolated value is log(exp(density ln 2 / threshold) - 1), which is 0 at the threshold. With
    the default threshold it is the logit that the fast field interpolates.
    """
    threshold = settings.threshold or _LN2 / (finest_voxel(run) or grid.voxel)
    report.say(f"surface at a density of {threshold:.4g} (--threshold)")
    probe = Probe(run, grid.origin)

    def level(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scaled = probe.density(places * np.float32(grid.voxel)) * np.float32(_LN2 / threshold)
        logit = np.log(np.maximum(np.expm1(np.minimum(scaled, 20.0)), 1e-6))
        return -logit.astype(np.float32), np.ones(len(places), bool)

    return surfaces.extract(level, np.ones_like(_bricks(grid)), grid.shape, report.of("block"))


def _bricks(grid: Grid) -> Bool[np.ndarray, "X Y Z"]:
    return np.zeros([-(-side // surfaces.BRICK) for side in grid.shape], bool)


def _paint(run: Run, views: Views, voxel: float) -> Paint:
    """The colour of surface points in the views that see them; else the field's, seen from outside."""
    seen = replicated((views.cameras, views.depth, views.colour))
    reach = jnp.float32(max(_TRUNCATION * voxel, 2.0 * views.footprint()))
    probe = Probe(run, views.origin)

    def paint(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        colours, weight = in_chunks(lambda p, n: seen_colours(seen, reach, p, n), points, normals)
        unseen = weight <= 0.0
        if unseen.any():
            colours[unseen] = probe.colour(points[unseen], -normals[unseen])
        return colours

    return paint


def _root(run: Run, settings: Settings, origin: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """The matrix from the coordinates of a mesh to glTF's, with +y up and metres as the unit."""
    poses = np.asarray(run.cameras().camera_to_world)
    up = np.asarray(settings.up, np.float64) if settings.up else up_of(poses)
    matrix = np.eye(4)
    matrix[:3, :3] = settings.metres * turn_to_y(up / np.linalg.norm(up))
    matrix[:3, 3] = matrix[:3, :3] @ origin
    return matrix


def turn_to_y(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation from a unit vector to +y; for +z the one that glTF's readers invert."""
    cosine = up[1]
    axis = np.cross(up, [0.0, 1.0, 0.0])
    if np.linalg.norm(axis) < 1e-9:
        return np.eye(3) if cosine > 0.0 else np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1.0 + cosine)

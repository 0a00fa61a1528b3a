"""A run's surfaces as triangles: PLY, OBJ or GLB, in the frame and unit of the user's files."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxnerf.checks import in_range
from jaxnerf.exports import surfaces
from jaxnerf.exports.files import Report, package, whole_file
from jaxnerf.exports.grids import box_of
from jaxnerf.exports.ply import coloured_points, write_ply
from jaxnerf.exports.views import Views, fused_distance, render_views, seen_colours
from jaxnerf.paths import up_of
from jaxnerf.rendering.boxes import Box, Grid, check_resolution
from jaxnerf.rendering.chunks import in_chunks, replicated
from jaxnerf.runs.files import RunError
from jaxnerf.runs.probing import Probe, finest_voxel
from jaxnerf.runs.run import Run

SUFFIXES = (".ply", ".obj", ".glb")
# Voxels: where distances are cut, and how far at least from the depths of views a surface is looked for.
_TRUNCATION, _REACH = 5.0, 2.0
# The extent of a mesh in voxels beyond the points that the views see.
_MARGIN = 3.0
_LEAST_VIEWS = 1.0
_LN2 = float(np.log(2.0))


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a mesh is made.

    Attributes:
      how: "tsdf", truncated signed distances fused from the median depths that the training cameras see;
        or "density", marching cubes on the density.
      resolution: voxels along the longest side of the box.
      box: x0,y0,z0,x1,y1,z1 in the frame and unit of your files; by default where the scene is.
      faces: triangles at most; 0 for all that are found.
      threshold: of the density, in 1/unit of your files; 0 for ln 2 a voxel of the field, which stops
        half of the light.
      floaters: connected parts with a smaller share of the largest one's triangles are left out.
      views: training cameras that are looked from; 0 for all.
      metres: the length of your unit in metres, by which a GLB is scaled.
      up: x,y,z, the direction that is up, for a GLB; by default that of the cameras.
    """

    how: Literal["tsdf", "density"] = "tsdf"
    resolution: int = 256
    box: tuple[float, ...] = ()
    faces: int = 300_000
    threshold: float = 0.0
    floaters: float = 0.01
    views: int = 0
    metres: float = 1.0
    up: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        in_range(self, floaters=(0.0, 1.0), metres=(1e-9, 1e9), threshold=(0.0, 1e12))
        in_range(self, faces=(0, 1 << 31), views=(0, 1 << 31))
        if self.up and (len(self.up) != 3 or not np.linalg.norm(self.up) > 0.0):
            raise ValueError(f"up: {','.join(map(str, self.up))} is not x,y,z, a direction")
        if self.threshold and self.how != "density":
            raise ValueError("threshold: has no effect on fused distances, only with how=density")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles, coloured, in the user's frame.

    Attributes:
      vertices: around the origin, in the user's unit.
      faces: indices of vertices, counter-clockwise seen from outside.
      colours: 8-bit sRGB of each vertex.
      origin: in the user's frame.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    colours: UInt8[np.ndarray, "V 3"]
    origin: Float[np.ndarray, "3"]

    @property
    def normals(self) -> Float[np.ndarray, "V 3"]:
        """Unit normals of the vertices: the mean of the triangles' around them, by area."""
        return vertex_normals(self.vertices, self.faces)

    @property
    def size(self) -> Float[np.ndarray, "3"]:
        """The mesh's extent along the user's axes."""
        return np.ptp(self.vertices.astype(np.float64), axis=0)


def export(run: Run, out: Path, settings: Settings, report: Report = Report()) -> Mesh:
    """Write a mesh of a run, and say its size.

    A PLY and an OBJ have the coordinates of the user's files. In a GLB, which has metres and +y up,
    vertices lie around `Mesh.origin` along the axes of the user's files, and the node of the mesh turns
    the scene's up to +y, scales by `Settings.metres` and brings the origin to its place: a scene whose up
    is +z comes into Blender, which turns glTF's +y to its +z, with the coordinates of its files. Colours
    are sRGB in PLY and OBJ, and linear in a GLB, as each has them.

    Args:
      run: from `jaxnerf.load_run`.
      out: the file, whose suffix is one of `SUFFIXES`.
      settings: how.
      report: told what a person should know.

    Raises:
      RunError: a package is missing, the scene has no surface, or the file cannot be written.
      ValueError: a setting is wrong; the message begins with its name.
    """
    if out.suffix != ".ply":
        package("trimesh")
    for name in ("metres", "up"):
        if out.suffix != ".glb" and getattr(settings, name) != getattr(Settings(), name):
            raise ValueError(f"{name}: has no effect on {out.suffix}, only on .glb")
    mesh = mesh_of(run, settings, report)
    with whole_file(out) as partial:
        write_mesh(mesh, partial, _root(run, settings, mesh.origin))
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
    for name, pip in (("skimage.measure", "scikit-image"), ("fast_simplification", "")):
        package(name, pip or name.replace("_", "-"))
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
    colours = _colours(run, views, vertices, vertex_normals(vertices, faces), grid.voxel)
    return Mesh(vertices, faces, colours, views.origin)


def _seen_part(run: Run, views: Views, box: Box, resolution: int) -> Box:
    """The part of a box where views see surfaces, and a few voxels around it.

    Raises:
      RunError: they see none.
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
    """Vertices and faces, in voxels, where the fused distance is 0."""
    bricks = _bricks(grid)
    offset = (grid.origin - views.origin).astype(np.float32)
    # Between neighbouring pixels there are bricks of a fine grid that no pixel hits.
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
    """Vertices and faces, in voxels, where the density has the threshold.

    What is interpolated is log(exp(density ln 2 / threshold) - 1): the number that the fast field's
    lattice holds, and 0 at the threshold.
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


def _colours(
    run: Run, views: Views, vertices: np.ndarray, normals: np.ndarray, voxel: float
) -> UInt8[np.ndarray, "V 3"]:
    """What the views that see vertices show there; of others the field's colour, seen from outside."""
    seen = replicated((views.cameras, views.depth, views.colour))
    reach = jnp.float32(max(_TRUNCATION * voxel, 2.0 * views.footprint()))
    colours, weight = in_chunks(lambda p, n: seen_colours(seen, reach, p, n), vertices, normals)
    unseen = weight <= 0.0
    if unseen.any():
        probe = Probe(run, views.origin)
        colours[unseen] = probe.colour(vertices[unseen], -normals[unseen])
    return np.rint(np.clip(colours, 0.0, 1.0) * 255.0).astype(np.uint8)


def vertex_normals(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "V 3"]:
    """Unit normals of vertices: the mean of the faces' around them, by area; +z where none has any."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    areas = np.cross(b - a, c - a)
    total = np.stack(
        [
            np.bincount(faces.reshape(-1), areas[:, axis].repeat(3), len(vertices))
            for axis in range(3)
        ],
        axis=-1,
    )
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    upright = np.broadcast_to([0.0, 0.0, 1.0], total.shape)
    return np.where(length > 0.0, total / np.maximum(length, 1e-30), upright).astype(np.float32)


def write_mesh(mesh: Mesh, path: Path, root: Float[np.ndarray, "4 4"] | None = None) -> None:
    """Write a mesh as PLY, OBJ or GLB, as the name ends.

    Args:
      mesh: to write.
      path: where to.
      root: of a GLB: from the mesh's own frame, around its origin, to glTF's.

    Raises:
      RunError: trimesh is not installed, which OBJ and GLB need.
      OSError: it cannot be written.
    """
    if path.suffix == ".ply":
        positions = mesh.vertices + mesh.origin
        write_ply(path, coloured_points(positions, mesh.normals, mesh.colours), mesh.faces)
        return
    trimesh = package("trimesh")
    positions, colours = mesh.vertices, mesh.colours
    if path.suffix == ".obj":
        positions = positions + mesh.origin
    else:
        colours = _linear(colours)
    body: Any = trimesh.Trimesh(
        positions,
        mesh.faces,
        vertex_normals=mesh.normals,
        vertex_colors=colours,
        process=False,
        validate=False,
    )
    if path.suffix == ".obj":
        path.write_text(body.export(file_type="obj", include_normals=True), encoding="ascii")
        return
    scene = trimesh.Scene()
    scene.add_geometry(body, node_name="scene", geom_name="scene", transform=root)
    path.write_bytes(
        scene.export(file_type="glb", include_normals=True, tree_postprocessor=_with_material)
    )


def _with_material(tree: dict[str, Any]) -> None:
    """Give a glTF's meshes a matte material seen from both sides: without one they are metal."""
    matte = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"] = [{"pbrMetallicRoughness": matte, "doubleSided": True}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


def _linear(colours: UInt8[np.ndarray, "V 3"]) -> UInt8[np.ndarray, "V 3"]:
    """8-bit sRGB as 8-bit linear RGB, which glTF has (IEC 61966-2-1)."""
    levels = np.arange(256) / 255.0
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return np.rint(255.0 * linear).astype(np.uint8)[colours]


def _root(run: Run, settings: Settings, origin: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """From around an origin in the user's frame to glTF's: +y is up, the unit a metre."""
    poses = np.asarray(run.cameras().camera_to_world)
    up = np.asarray(settings.up, np.float64) if settings.up else up_of(poses)
    matrix = np.eye(4)
    matrix[:3, :3] = settings.metres * turn_to_y(up / np.linalg.norm(up))
    matrix[:3, 3] = matrix[:3, :3] @ origin
    return matrix


def turn_to_y(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation that takes a unit vector to +y by the shortest way; +z as readers of glTF undo it."""
    cosine = up[1]
    axis = np.cross(up, [0.0, 1.0, 0.0])
    if np.linalg.norm(axis) < 1e-9:
        return np.eye(3) if cosine > 0.0 else np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1.0 + cosine)

"""Meshes, and writers of PLY, OBJ and GLB files."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxnerf.exports.colours import linear_levels
from jaxnerf.exports.files import package, whole_file
from jaxnerf.exports.ply import coloured_points, write_ply
from jaxnerf.exports.texture import Texture

SUFFIXES = (".ply", ".obj", ".glb")
# Properties of a matte material: without them, glTF's default material is metallic.
_MATTE = {"metallicFactor": 0.0, "roughnessFactor": 1.0}


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A mesh of coloured triangles, in the user's frame.

    Attributes:
      vertices: positions relative to the origin, in the user's unit.
      faces: indices of vertices, counter-clockwise seen from outside.
      colours: 8-bit sRGB of each vertex.
      origin: origin of the vertices in the user's frame.
      texture: an image with the colours at a higher resolution, or None.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    colours: UInt8[np.ndarray, "V 3"]
    origin: Float[np.ndarray, "3"]
    texture: Texture | None = None

    @property
    def normals(self) -> Float[np.ndarray, "V 3"]:
        """Unit normals of the vertices: the mean of the adjacent triangles' normals, weighted by area."""
        return vertex_normals(self.vertices, self.faces)

    @property
    def size(self) -> Float[np.ndarray, "3"]:
        """The mesh's extent along the user's axes."""
        return np.ptp(self.vertices.astype(np.float64), axis=0)


def vertex_normals(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "V 3"]:
    """Unit normals of vertices: the mean of the adjacent faces' normals by area; +z if that is 0."""
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
    """Write a mesh as PLY, OBJ or GLB, by the suffix; the file is written completely or not at all.

    A texture is stored in a GLB, and beside an OBJ as NAME.png, to which NAME.mtl refers; a PLY has the
    colours of vertices.

    Args:
      mesh: the mesh.
      path: the file.
      root: for a GLB: from the mesh's coordinates, relative to its origin, to glTF's.

    Raises:
      RunError: trimesh is not installed, which OBJ and GLB need; or a file cannot be written.
    """
    if path.suffix == ".ply":
        positions = mesh.vertices + mesh.origin
        with whole_file(path) as partial:
            write_ply(partial, coloured_points(positions, mesh.normals, mesh.colours), mesh.faces)
        return
    files = _obj(mesh, path) if path.suffix == ".obj" else {path.name: _glb(mesh, root)}
    with contextlib.ExitStack() as stack:
        for name, contents in files.items():
            stack.enter_context(whole_file(path.with_name(name))).write_bytes(contents)


def _obj(mesh: Mesh, path: Path) -> dict[str, bytes]:
    """The contents of files by name; the OBJ itself is the last."""
    trimesh = package("trimesh")
    white, black = [255] * 4, [0, 0, 0, 255]

    def material(image: Any) -> Any:
        return trimesh.visual.material.SimpleMaterial(
            image, name=path.stem, diffuse=white, ambient=white, specular=black
        )

    body = _body(mesh, mesh.vertices + mesh.origin, mesh.colours, material)
    text, beside = trimesh.exchange.obj.export_obj(
        body, include_normals=True, return_texture=True, mtl_name=f"{path.stem}.mtl"
    )
    return {**beside, path.name: text.encode()}


def _glb(mesh: Mesh, root: Any) -> bytes:
    trimesh = package("trimesh")

    def material(image: Any) -> Any:
        return trimesh.visual.material.PBRMaterial(
            name="scene", baseColorTexture=image, doubleSided=True, **_MATTE
        )

    scene = trimesh.Scene()
    # At vertices glTF has linear RGB.
    colours = np.rint(255.0 * linear_levels()).astype(np.uint8)[mesh.colours]
    body = _body(mesh, mesh.vertices, colours, material)
    scene.add_geometry(body, node_name="scene", geom_name="scene", transform=root)
    finish = _with_material if mesh.texture is None else None
    return scene.export(file_type="glb", include_normals=True, tree_postprocessor=finish)


def _body(mesh: Mesh, positions: np.ndarray, colours: np.ndarray, material: Any) -> Any:
    """A trimesh mesh with a texture or with colours of vertices."""
    trimesh = package("trimesh")
    as_is = {"process": False, "validate": False}
    if mesh.texture is None:
        return trimesh.Trimesh(
            positions, mesh.faces, vertex_normals=mesh.normals, vertex_colors=colours, **as_is
        )
    from PIL import Image

    corners = mesh.texture.corners
    visual = trimesh.visual.TextureVisuals(
        uv=mesh.texture.uv, material=material(Image.fromarray(mesh.texture.image))
    )
    # Normals are those of the mesh before it was cut, so that shading is continuous across seams.
    return trimesh.Trimesh(
        positions[corners], mesh.texture.faces,
        vertex_normals=mesh.normals[corners], visual=visual, **as_is,
    )  # fmt: skip


def _with_material(tree: dict[str, Any]) -> None:
    """Set a matte, double-sided material for the meshes of a glTF."""
    matte = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], **_MATTE}
    tree["materials"] = [{"pbrMetallicRoughness": matte, "doubleSided": True}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0

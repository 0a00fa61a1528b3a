"""Textures of bodies whose colour is a formula: read back from files by what their formats say."""

import functools
import io
import json

import numpy as np
import pytest
import trimesh
from ball import RADIUS
from ball_run import FRAME, ball_run, centre
from PIL import Image

from jaxnerf.exports.mesh import Settings, export
from jaxnerf.exports.mesh_files import Mesh, vertex_normals, write_mesh
from jaxnerf.exports.texture import Texture, texels_of, textured
from jaxnerf.runs.files import RunError

BODIES = {
    "box": trimesh.creation.box(extents=(1.0, 0.7, 0.5)),
    "ball": trimesh.creation.icosphere(4, 0.6),
}


def colour_of(points) -> np.ndarray:
    """A smooth colour of places, which no two sides of a body share."""
    return 0.5 + 0.4 * np.sin(3.0 * points + [0.0, 1.0, 2.0])


@functools.cache
def painted(name: str, size: int = 256) -> tuple[Mesh, Texture]:
    body = BODIES[name]
    vertices, faces = body.vertices.astype(np.float32), body.faces.astype(np.int32)
    normals = vertex_normals(vertices, faces)
    texture = textured(vertices, faces, normals, size, lambda points, _: colour_of(points))
    grey = np.full((len(vertices), 3), 128, np.uint8)
    return Mesh(vertices, faces, grey, np.array([5.0, 6.0, 7.0]), texture), texture


def looked_up(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Colours between texels, whose middles lie at halves; places (x, y) begin at the upper left."""
    high, wide = image.shape[:2]
    left = np.floor(places - 0.5).astype(int)
    part = places - 0.5 - left
    total = np.zeros((len(places), 3))
    for down, right in np.ndindex(2, 2):
        x, y = (left + [right, down]).T
        weight = np.abs(1 - right - part[:, 0]) * np.abs(1 - down - part[:, 1])
        total += weight[:, None] * image[y.clip(0, high - 1), x.clip(0, wide - 1)] / 255.0
    return total


def places_on(faces: int, random: np.random.Generator) -> np.ndarray:
    """Shares of the corners of faces: within, on their edges, and at their corners."""
    within = random.dirichlet(np.ones(3), size=faces)
    on_edges = within.copy()
    on_edges[np.arange(faces), random.integers(3, size=faces)] = 0.0
    on_edges /= on_edges.sum(axis=-1, keepdims=True)
    return np.stack([within, on_edges, np.eye(3)[random.integers(3, size=faces)]])


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("smaller", [1, 2, 4])
def test_places_have_their_colours_on_seams_and_in_smaller_pictures_too(name, smaller):
    mesh, texture = painted(name)
    size = 256 // smaller
    image = texture.image.reshape(size, smaller, size, smaller, 3).mean(axis=(1, 3))
    random = np.random.default_rng(0)
    face = random.integers(len(mesh.faces), size=3000)
    uv = texture.uv[texture.faces[face]]
    texel = np.sqrt(BODIES[name].area / 256**2 / 0.4)  # charts fill 40% of the picture at least
    for share in places_on(3000, random):
        points = np.einsum("nk,nkx->nx", share, mesh.vertices[mesh.faces[face]])
        place = np.einsum("nk,nkx->nx", share, uv) * [1, -1] + [0, 1]
        off = np.abs(looked_up(image, place * size) - colour_of(points))
        # A colour changes by 1.2 at most along a unit, and comes from a texel's width away at most.
        assert off.max() < 1.2 * 1.5 * texel * smaller + 0.5 / 255


def test_faces_stand_in_the_picture_apart_and_no_smaller_than_on_the_body():
    mesh, texture = painted("box")
    np.testing.assert_array_equal(texture.corners[texture.faces], mesh.faces)
    assert texture.uv.min() >= 0.0
    assert texture.uv.max() <= 1.0
    places = np.concatenate([texel for texel, _, _ in texels_of(texture.uv, texture.faces, 256)])
    # Only texels on the diagonals of the box's sides lie in two faces.
    assert len(np.unique(places)) > 0.97 * len(places)
    assert len(np.unique(places)) > 0.4 * 256**2
    a, b, c = (texture.uv[texture.faces[:, corner]] for corner in range(3))
    flat = np.abs(np.linalg.det(np.stack([b - a, c - a], axis=-1))) / 2.0
    np.testing.assert_allclose(flat / flat.sum(), BODIES["box"].area_faces / BODIES["box"].area,
                               rtol=0.05)  # fmt: skip


def test_texels_are_those_whose_middles_lie_in_a_triangle():
    random, size = np.random.default_rng(1), 20
    uv = random.uniform(-0.1, 1.1, size=(60, 2)).astype(np.float32)
    faces = np.concatenate([np.arange(60).reshape(20, 3), [[0, 0, 1]]]).astype(np.int32)
    found = set()
    for texel, face, share in texels_of(uv, faces, size):
        middles = np.stack([texel % size, texel // size], axis=-1) + 0.5
        places = np.einsum("nk,nkx->nx", share, uv[faces[face]] * [1, -1] + [0, 1]) * size
        np.testing.assert_allclose(places, middles, atol=1e-3)
        found |= set(zip(texel.tolist(), face.tolist(), strict=True))
    expected = set()
    for number, corners in enumerate(uv[faces].astype(float) * [1, -1] + [0, 1]):
        for texel in range(size * size):
            middle = (np.array([texel % size, texel // size]) + 0.5) / size
            pairs = [(corners[(k + 1) % 3] - corners[k], middle - corners[k]) for k in range(3)]
            sides = [a[0] * b[1] - a[1] * b[0] for a, b in pairs]
            if abs(sum(sides)) > 1e-9 and (min(sides) > 0.0 or max(sides) < 0.0):
                expected.add((texel, number))
    assert found == expected


def chunks_of(contents: bytes) -> tuple[dict, bytes]:
    """The JSON and the binary part of a GLB."""
    length = int.from_bytes(contents[12:16], "little")
    return json.loads(contents[20 : 20 + length]), contents[28 + length :]


def test_a_glb_has_its_picture_as_gltf_says(tmp_path):
    """(0, 0) is the upper left corner; the colour is sRGB, and nothing is multiplied to it."""
    mesh, _ = painted("ball")
    write_mesh(mesh, tmp_path / "ball.glb", np.eye(4))
    tree, binary = chunks_of((tmp_path / "ball.glb").read_bytes())
    (primitive,) = tree["meshes"][0]["primitives"]
    assert {*primitive["attributes"]} == {"POSITION", "NORMAL", "TEXCOORD_0"}

    def array(name: str, width: int) -> np.ndarray:
        accessor = tree["accessors"][primitive["attributes"][name]]
        view = tree["bufferViews"][accessor["bufferView"]]
        begin = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        count = accessor["count"] * width
        return np.frombuffer(binary, "<f4", count, begin).reshape(-1, width)

    material = tree["materials"][primitive["material"]]
    surface = material["pbrMetallicRoughness"]
    assert (surface["metallicFactor"], material["doubleSided"]) == (0.0, True)
    assert surface.get("baseColorFactor", [1, 1, 1, 1]) == [1, 1, 1, 1]
    picture = tree["images"][tree["textures"][surface["baseColorTexture"]["index"]]["source"]]
    assert picture["mimeType"] == "image/png"
    view = tree["bufferViews"][picture["bufferView"]]
    begin = view.get("byteOffset", 0)
    image = Image.open(io.BytesIO(binary[begin : begin + view["byteLength"]]))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (256, 256))
    shown = looked_up(np.asarray(image), array("TEXCOORD_0", 2) * 256)
    assert np.abs(shown - colour_of(array("POSITION", 3))).max() < 0.03
    # Across seams normals are those of the whole ball.
    outward = array("POSITION", 3) / 0.6
    np.testing.assert_allclose(array("NORMAL", 3), outward, atol=0.01)


def test_an_obj_names_its_picture(tmp_path):
    """(0, 0) is the lower left corner; the material is neither dark nor shiny."""
    mesh, _ = painted("box")
    write_mesh(mesh, tmp_path / "box.obj")
    assert {path.name for path in tmp_path.iterdir()} == {"box.obj", "box.mtl", "box.png"}
    lines = [line.split() for line in (tmp_path / "box.obj").read_text().splitlines() if line]
    assert ["mtllib", "box.mtl"] in lines
    material = [line.split() for line in (tmp_path / "box.mtl").read_text().splitlines() if line]
    values = {name: rest for name, *rest in material}
    assert values["map_Kd"] == ["box.png"]
    assert [["usemtl", *values["newmtl"]]] == [line for line in lines if line[0] == "usemtl"]
    assert [float(x) for x in values["Kd"] + values["Ks"]] == [1, 1, 1, 0, 0, 0]
    numbers = {
        kind: np.array([line[1:] for line in lines if line[0] == kind], float)
        for kind in ("v", "vt")
    }
    places = numbers["vt"] * [1, -1] + [0, 1]
    image = np.asarray(Image.open(tmp_path / "box.png"))
    shown = looked_up(image, places * 256)
    assert np.abs(shown - colour_of(numbers["v"] - mesh.origin)).max() < 0.03
    corners = [line[1:] for line in lines if line[0] == "f"]
    assert all(corner.split("/")[0] == corner.split("/")[1] for face in corners for corner in face)


def test_trimesh_reads_both_as_the_same_body(tmp_path):
    mesh, _ = painted("ball")
    for name, shift in (("ball.glb", 0.0), ("ball.obj", mesh.origin)):
        write_mesh(mesh, tmp_path / name, np.eye(4))
        (found,) = trimesh.load_scene(tmp_path / name, process=False).geometry.values()
        # Its lookup puts the middles of texels at the picture's border: half a texel off.
        shown = found.visual.to_color().vertex_colors[:, :3] / 255.0
        assert np.abs(shown - colour_of(found.vertices - shift)).max() < 0.06
        assert found.area == pytest.approx(BODIES["ball"].area, rel=1e-5)


@pytest.mark.slow
def test_a_runs_texture_has_the_colours_that_its_views_see(tmp_path):
    settings = Settings(resolution=40, faces=2000, texture=128)
    made = export(ball_run(count=12), tmp_path / "ball.obj", settings)
    assert made.texture is not None
    (found,) = trimesh.load_scene(tmp_path / "ball.obj", process=False).geometry.values()
    points, face = trimesh.sample.sample_surface(found, 4000, seed=0)[:2]
    share = trimesh.triangles.points_to_barycentric(found.triangles[face], points)
    uv = np.einsum("nk,nkx->nx", share, found.visual.uv[found.faces[face]])
    image = np.asarray(found.visual.material.image)
    shown = looked_up(image, (uv * [1, -1] + [0, 1]) * 128)
    normal = (points - centre()) / (RADIUS * FRAME.scale) @ FRAME.rotation
    off = np.abs(shown - (0.5 + 0.35 * normal))
    # The mean over views that look at a point is half of the sheen at most off; as of vertices.
    assert np.median(off) < 0.08
    assert np.quantile(off, 0.999) < 0.15


def test_an_obj_and_what_lies_beside_it_appear_together_or_not_at_all(tmp_path):
    mesh, _ = painted("box", 64)
    for name in ("box.obj", "box.mtl", "box.png"):
        (tmp_path / name).write_text("before")
    (tmp_path / ".partial.box.obj").symlink_to("/dev/full")
    with pytest.raises(RunError, match="the disk is full"):
        write_mesh(mesh, tmp_path / "box.obj")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"before"}
    assert len(list(tmp_path.iterdir())) == 3

"""Meshes of surfaces that are known by formulas: radius, size, normals, colours, and what files hold."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from ball import RADIUS
from ball_run import FRAME, INSIDE, SHARPNESS, STEP, ball_run, centre
from scipy.spatial.transform import Rotation
from skimage import measure

from jaxnerf.cameras import Camera
from jaxnerf.cameras.paths import up_of
from jaxnerf.contraction import SphereContraction
from jaxnerf.exports import surfaces
from jaxnerf.exports.grids import box_of
from jaxnerf.exports.mesh import (
    Mesh,
    Settings,
    export,
    mesh_of,
    turn_to_y,
    vertex_normals,
    write_mesh,
)
from jaxnerf.exports.views import fused_distance
from jaxnerf.rendering.boxes import Box, Grid
from jaxnerf.runs.files import RunError
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Similarity

SIZE = RADIUS * FRAME.scale


def body_of(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices + mesh.origin, mesh.faces, process=False)


@pytest.fixture(scope="module")
def fused() -> Mesh:
    return mesh_of(ball_run(), Settings(resolution=64, faces=0))


def test_the_fused_mesh_is_the_ball_in_the_users_frame(fused):
    body, voxel = body_of(fused), 2.2 * SIZE / 64
    assert body.is_watertight
    assert body.euler_number == 2
    off = np.linalg.norm(body.vertices - centre(), axis=-1) - SIZE
    assert np.median(np.abs(off)) < STEP * FRAME.scale
    # Rays that pass by see a surface up to 0.0074 above the radius (see the test of points).
    assert np.abs(off).max() < voxel + 0.0074 * FRAME.scale
    assert body.volume == pytest.approx(4 / 3 * np.pi * SIZE**3, rel=0.02)
    np.testing.assert_allclose(fused.size, 2 * SIZE, rtol=0.02)


def test_its_normals_point_outward_and_its_colours_are_those_of_the_ball(fused):
    outward = (fused.vertices + fused.origin - centre()) / SIZE
    assert np.median((outward * fused.normals).sum(axis=-1)) > 0.97
    # The mean over views that look at a point is half of the sheen at most off.
    normal = outward @ FRAME.rotation
    off = fused.colours / 255.0 - (0.5 + 0.35 * normal)
    assert np.abs(off).max() < 0.15
    assert np.median(np.abs(off)) < 0.08


@pytest.mark.parametrize("threshold", [0.0, 20.0])
def test_the_mesh_of_a_density_lies_where_the_density_has_the_threshold(threshold):
    mesh = mesh_of(
        ball_run(count=6),
        Settings(how="density", resolution=100, faces=0, threshold=threshold),
    )
    body = body_of(mesh)
    assert body.is_watertight
    # ln 2 a voxel, here one of the grid, or what is named.
    voxel = float(np.ptp(mesh.vertices, axis=0).max()) / 94
    level = (threshold or np.log(2.0) / voxel) * FRAME.scale
    radius = RADIUS - np.log(level / (INSIDE - level)) / SHARPNESS
    found = np.linalg.norm(body.vertices - centre(), axis=-1) / FRAME.scale
    # The sigmoid falls within a cell, where it is interpolated as if it were the field's logit.
    assert found == pytest.approx(radius, abs=0.25 * voxel / FRAME.scale)


def level_of_ball(places):
    """A ball of 50.2 voxels that lies across many blocks."""
    away = np.linalg.norm(places - np.array([70.3, 64.2, 66.1], np.float32), axis=-1)
    return np.clip((away - 50.2) / 5.0, -1.0, 1.0), np.ones(len(places), bool)


def test_blocks_are_joined_without_a_seam():
    shape = (150, 140, 141)
    bricks = np.ones([-(-side // surfaces.BRICK) for side in shape], bool)
    vertices, faces = surfaces.extract(level_of_ball, bricks, shape)
    body = trimesh.Trimesh(vertices, faces, process=False)
    assert body.is_watertight
    assert body.euler_number == 2
    assert body.volume == pytest.approx(4 / 3 * np.pi * 50.2**3, rel=1e-3)
    places = np.indices([side + 1 for side in shape]).reshape(3, -1).T.astype(np.float32)
    whole = level_of_ball(places)[0].reshape([side + 1 for side in shape])
    expected, triangles, _, _ = measure.marching_cubes(whole, 0.0)
    assert (len(vertices), len(faces)) == (len(expected), len(triangles))
    away = np.linalg.norm(vertices - np.array([70.3, 64.2, 66.1]), axis=-1)
    assert np.abs(away - 50.2).max() < 0.01


def test_a_surface_ends_where_it_is_not_known():
    def half(places):
        values, known = level_of_ball(places)
        return values, known & (places[:, 0] <= 70.0)

    shape = (150, 140, 141)
    bricks = np.ones([-(-side // surfaces.BRICK) for side in shape], bool)
    vertices, faces = surfaces.extract(half, bricks, shape)
    assert vertices[:, 0].max() == pytest.approx(70.0)
    assert trimesh.Trimesh(vertices, faces, process=False).area == pytest.approx(
        2 * np.pi * 50.2**2, rel=0.02
    )


def test_small_parts_are_left_out_and_faces_are_as_many_as_wanted():
    large, small = trimesh.creation.icosphere(4), trimesh.creation.icosphere(1)
    small.apply_translation([3.0, 0.0, 0.0])
    both = trimesh.util.concatenate([small, large])
    vertices, faces = both.vertices.astype(np.float32), both.faces.astype(np.int32)
    kept, triangles, removed = surfaces.without_floaters(vertices, faces, 0.1)
    assert (len(kept), len(triangles), removed) == (len(large.vertices), len(large.faces), 1)
    assert surfaces.without_floaters(vertices, faces, 0.0)[2] == 0
    fewer, triangles = surfaces.decimated(kept, triangles, 500)
    assert 400 <= len(triangles) <= 500
    body = trimesh.Trimesh(fewer, triangles, process=False)
    assert body.is_watertight
    assert body.volume == pytest.approx(large.volume, rel=0.03)


def test_vertices_of_a_cell_are_made_one_at_their_mean():
    ball = trimesh.creation.icosphere(5, 50.0)
    vertices, faces = ball.vertices.astype(np.float32), ball.faces.astype(np.int32)
    fewer, triangles = surfaces.clustered(vertices, faces, 6.0)
    assert len(triangles) < 0.4 * len(faces)
    # The mean of a cell's vertices lies within the ball, by no more than the cap that fits into a cell.
    assert np.linalg.norm(fewer, axis=-1) == pytest.approx(50.0, abs=6.0**2 * 3 / 8 / 50.0)
    body = trimesh.Trimesh(fewer, triangles, process=False)
    assert body.volume == pytest.approx(ball.volume, rel=0.02)


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_the_distance_is_measured_along_the_rays_of_a_wall(lens):
    """A wall at depth 4, before a camera at the origin that looks along -z."""
    camera = Camera.pinhole(np.eye(4)[:3], 50.0, 64, 64)
    camera = dataclasses.replace(camera, lens=lens, camera_to_world=np.float32(np.eye(4)[:3]))
    y, x = np.indices((64, 64)) + 0.5
    flat = np.stack([x - 32, y - 32], axis=-1) / 50.0
    stretch = np.linalg.norm(np.concatenate([flat, np.ones((64, 64, 1))], axis=-1), axis=-1)
    angle = np.linalg.norm(flat, axis=-1)
    depth = np.full((64, 64), 4.0) if lens == "pinhole" else 4.0 / np.cos(angle)
    depth[:, :8] = np.nan
    depth[:, 56:] = np.inf
    views = [Camera(**{f.name: np.asarray(getattr(camera, f.name))[None]
                       for f in dataclasses.fields(camera) if f.name != "lens"}, lens=lens),
             depth[None].astype(np.float32)]  # fmt: skip
    pixels = np.array(
        [[32.0, 32.0], [20.0, 40.0], [32.0, 32.0], [32.0, 32.0], [4.0, 32.0], [60.0, 32.0]]
    )
    before = np.array([0.3, -0.2, 0.7, -0.6, 0.1, 0.1])  # in depth, of the wall
    plane = (pixels - 32) / 50.0
    r = np.linalg.norm(plane, axis=-1)
    slope = plane if lens == "pinhole" else plane * (np.tan(r) / np.maximum(r, 1e-9))[:, None]
    points = (4.0 - before)[:, None] * np.concatenate([slope * [1, -1], -np.ones((6, 1))], axis=-1)
    value, weight = fused_distance(
        (views[0], jnp.asarray(views[1])), jnp.float32(0.5), jnp.asarray(points, jnp.float32)
    )
    length = np.linalg.norm(np.concatenate([slope, np.ones((6, 1))], axis=-1), axis=-1)
    expected = np.clip(before * length / 0.5, -1.0, 1.0)
    assert stretch.shape == (64, 64)
    np.testing.assert_allclose(value[:3], expected[:3], rtol=0, atol=2e-3)
    # Too deep behind the wall, where the view is not sure, and where it sees nothing at all.
    np.testing.assert_array_equal(weight, [1, 1, 1, 0, 0, 1])
    assert float(value[5]) == 1.0


def test_files_hold_the_mesh(tmp_path, monkeypatch):
    run = ball_run(count=6, pixels=24)
    small = mesh_of(run, Settings(resolution=40, faces=2000))
    monkeypatch.setattr("jaxnerf.exports.mesh.mesh_of", lambda *given: small)
    for name in ("ball.ply", "ball.obj", "ball.glb"):
        unit = {"metres": 0.01} if name.endswith("glb") else {}
        made = export(run, tmp_path / name, Settings(resolution=40, faces=2000, **unit))
        found = trimesh.load(tmp_path / name, process=False)
        if name.endswith("glb"):
            assert isinstance(found, trimesh.Scene)
            (one,) = found.geometry.values()
            shown = one.visual.vertex_attributes["color"]
            found = found.to_geometry()
            # The cameras' up is mapped to +y, and the unit is a centimetre.
            up = up_of(run.cameras().camera_to_world)
            turn = turn_to_y(up)
            np.testing.assert_allclose(turn @ up, [0, 1, 0], atol=1e-12)
            expected = 0.01 * (made.vertices + made.origin) @ turn.T
            levels = np.where(
                (c := made.colours / 255) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4
            )
            colours = np.rint(255 * levels)
        else:
            expected, colours = made.vertices + made.origin, made.colours
            shown = found.visual.vertex_colors
        assert len(found.faces) == len(made.faces) <= 2000
        np.testing.assert_allclose(found.vertices, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found.faces, made.faces)
        np.testing.assert_allclose(np.asarray(shown, float)[:, :3], colours, atol=1)


def test_a_glb_is_matte_and_keeps_the_users_axes_in_its_data(tmp_path):
    box = trimesh.creation.box()
    white = np.full((len(box.vertices), 3), 255, np.uint8)
    mesh = Mesh(
        box.vertices.astype(np.float32),
        box.faces.astype(np.int32),
        white,
        np.array([1.0, 2.0, 3.0]),
    )
    root = np.diag([2.0, 2.0, 2.0, 1.0])
    write_mesh(mesh, tmp_path / "box.glb", root)
    contents = (tmp_path / "box.glb").read_bytes()
    length = int.from_bytes(contents[12:16], "little")
    tree = json.loads(contents[20 : 20 + length])
    (primitive,) = tree["meshes"][0]["primitives"]
    assert {"POSITION", "NORMAL", "COLOR_0"} <= primitive["attributes"].keys()
    material = tree["materials"][primitive["material"]]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert material["doubleSided"]
    assert tree["accessors"][primitive["attributes"]["POSITION"]]["max"] == [0.5, 0.5, 0.5]
    assert tree["nodes"][0]["matrix"] == root.T.reshape(-1).tolist()


def test_a_mesh_at_survey_coordinates_keeps_its_shape(tmp_path):
    far = Similarity(2.0, np.eye(3), np.array([455_000.0, 5_411_000.0, 212.0]))
    export(ball_run(far, count=8), tmp_path / "far.ply", Settings(resolution=40, faces=0))
    found = trimesh.load(tmp_path / "far.ply", process=False)
    off = np.linalg.norm(found.vertices - centre(far), axis=-1) - 2.0 * RADIUS
    assert np.median(np.abs(off)) < 0.01


@pytest.mark.parametrize("axis", np.concatenate([np.eye(3), -np.eye(3)]))
def test_up_becomes_y(axis):
    turn = turn_to_y(axis)
    np.testing.assert_allclose(turn @ axis, [0, 1, 0], atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1.0)
    if axis[2] == 1.0:  # (x, y, z) -> (x, z, -y), which Blender undoes
        np.testing.assert_allclose(turn, [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)


def test_normals_of_a_box_are_means_by_area():
    box = trimesh.creation.box()
    found = vertex_normals(box.vertices.astype(np.float32), box.faces.astype(np.int32))
    assert ((found * box.vertices).sum(axis=-1) > 0.7).all()
    turned = Rotation.from_rotvec([0.3, 0.2, 0.1]).as_matrix()
    again = vertex_normals((box.vertices @ turned.T).astype(np.float32), box.faces.astype(np.int32))
    np.testing.assert_allclose(again, found @ turned.T, atol=1e-6)


def test_the_box_of_endless_space_is_that_of_the_cells_in_its_ball():
    space = SphereContraction(jnp.array([1.0, 0.0, 0.0]), jnp.float32(2.0))
    cells = np.zeros((16, 16, 16), bool)
    cells[8, 8, 9] = cells[10, 7, 8] = True  # in the ball
    cells[15, 8, 8] = True  # far away
    occupancy = Occupancy.of(cells, np.full(3, -2.0), 0.25, 0.1, space)
    run = dataclasses.replace(ball_run(), occupancy=occupancy)
    box = box_of(run)
    low, high = np.array([[0, -0.25, 0], [0.75, 0.25, 0.5]]) * 2.0 + [1.0, 0.0, 0.0]
    corners = np.array([low, high])[np.array(list(np.ndindex(2, 2, 2))), range(3)]
    corners = FRAME.points(corners)
    assert (box.low >= corners.min(axis=0) - 1e-5).all()
    assert (box.high <= corners.max(axis=0) + 1e-5).all()
    assert box_of(run, (0.0, 0.0, 0.0, 1.0, 2.0, 3.0)).high.tolist() == [1.0, 2.0, 3.0]


def test_a_grid_has_cubes_and_covers_its_box():
    grid = Grid.of(Box(np.zeros(3), np.array([1.0, 0.55, 0.2])), 10)
    assert (grid.voxel, grid.shape) == (0.1, (10, 6, 2))
    np.testing.assert_allclose(grid.affine @ [0, 0, 0, 1], [0.05, 0.05, 0.05, 1])


def test_a_scene_without_a_surface_is_one_line():
    with pytest.raises(RunError, match="no surface"):
        mesh_of(ball_run(count=6, pixels=24, empty=True), Settings(resolution=16))
    nothing = Occupancy.of(np.zeros((4, 4, 4), bool), np.zeros(3), 0.5, 0.1)
    with pytest.raises(RunError, match="no surface: no cell"):
        mesh_of(dataclasses.replace(ball_run(), occupancy=nothing), Settings(resolution=16))
    with pytest.raises(RunError, match="no surface"):  # a box beside the ball
        mesh_of(
            ball_run(count=6, pixels=24),
            Settings(resolution=16, box=(0.0, 0.0, 0.0, 1.0, 1.0, 1.0)),
        )

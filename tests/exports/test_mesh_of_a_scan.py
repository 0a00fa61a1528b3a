"""From a DTU scan in millimetres to files in millimetres, by the commands that a user would type."""

import json
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import trimesh
from ball import CENTRE, FOCAL, RADIUS, SIDE, photographs
from PIL import Image
from plyfile import PlyData
from scene_factory import command_environment  # noqa: F401
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from jaxnerf.cli import main
from jaxnerf.scenes import Similarity

# From the frame of the painted ball to the scanner's, where it is 75 mm wide and 0.6 m away.
MILLIMETRES = Similarity(
    75.0, Rotation.from_rotvec([0.4, 1.2, -0.7]).as_matrix(), np.array([12.0, -34.0, 620.0])
)
WIDE, MIDDLE = 2.0 * RADIUS * MILLIMETRES.scale, MILLIMETRES.points(CENTRE)
# The sphere that holds the object: neither as large as it, nor around its middle.
SPHERE = np.diag([56.0, 56.0, 56.0, 1.0])
SPHERE[:3, 3] = MIDDLE + [5.0, -7.0, 4.0]


def world_to_pixels(pose: np.ndarray) -> np.ndarray:
    """K [R | t] of a pose in the painter's frame, from millimetres; pixels have whole coordinates."""
    inner = np.eye(4)
    inner[:3, :3] = [[FOCAL, 0, SIDE / 2 - 0.5], [0, FOCAL, SIDE / 2 - 0.5], [0, 0, 1]]
    turn = (MILLIMETRES.rotation @ pose[:, :3] * [1.0, -1.0, -1.0]).T
    outer = np.eye(4)
    outer[:3] = np.column_stack([turn, -turn @ MILLIMETRES.points(pose[:, 3])])
    return inner @ outer


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """The ball before noise, which its masks cut away, and the matrices."""
    folder, split = tmp_path_factory.mktemp("dtu") / "scan1", photographs(20)
    random, matrices = np.random.default_rng(0), {}
    for name in ("image", "mask"):
        (folder / name).mkdir(parents=True)
    poses = np.asarray(split.cameras.camera_to_world, np.float64)
    assert split.images is not None
    for index, (pose, picture) in enumerate(zip(poses, split.images, strict=True)):
        noise = random.integers(0, 256, picture[..., :3].shape, np.uint8)
        seen = np.where(picture[..., 3:] > 0, picture[..., :3], noise)
        Image.fromarray(seen).save(folder / f"image/{index:06d}.png")
        Image.fromarray(picture[..., 3]).save(folder / f"mask/{index:03d}.png")
        matrices |= {f"world_mat_{index}": world_to_pixels(pose), f"scale_mat_{index}": SPHERE}
    np.savez(folder / "cameras_sphere.npz", **matrices)
    return folder


@pytest.fixture(scope="module")
def run(scan) -> Path:
    """What was learned of it."""
    run = scan.with_name("run")
    small = ["--voxels.stages.resolutions=24,48", "--voxels.stages.fractions=0.4",
             "--voxels.stages.cells=24", "--training.rays_per_batch=1024"]  # fmt: skip
    arguments = [f"--data={scan}", f"--out={run}", "--max_steps=200", "--noevaluate", *small]
    assert main(["train", *arguments]) == 0
    return run


@pytest.fixture(scope="module")
def mesh(run) -> Path:
    out = run.with_name("ball.ply")
    assert main(["export", str(run), "mesh", f"--out={out}", "--resolution=48"]) == 0
    return out


@pytest.mark.slow
def test_a_mesh_has_the_size_and_the_place_in_millimetres(run, tmp_path, capsys):
    out = tmp_path / "ball.ply"
    assert main(["export", str(run), "mesh", f"--out={out}", "--resolution=48"]) == 0
    ball = trimesh.load(out, process=False)
    np.testing.assert_allclose(ball.extents, WIDE, rtol=0.03)
    np.testing.assert_allclose(ball.bounds.mean(axis=0), MIDDLE, rtol=0, atol=0.01 * WIDE)
    # Half of the light is stopped somewhat below the surface: a voxel is 1.6 mm, a pixel 2.8 mm.
    away = np.linalg.norm(ball.vertices - MIDDLE, axis=-1)
    assert np.median(away) == pytest.approx(0.5 * WIDE, abs=2.0)
    # What the command says of the size is what the file has.
    said = capsys.readouterr().out.splitlines()[-2]
    size = [float(side) for side in said.split(" faces, ")[1].split(" in the unit")[0].split(" x ")]
    np.testing.assert_allclose(size, ball.extents, rtol=1e-3)


def of_mesh(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Places, and colours in [0, 1]."""
    found = trimesh.load(file, process=False)
    return np.asarray(found.vertices), found.visual.vertex_colors[:, :3] / 255.0


def of_points(run: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    assert main(["export", str(run), "points", f"--out={folder}/points.ply", "--spacing=1.5"]) == 0
    vertex = PlyData.read(folder / "points.ply")["vertex"]
    places, colours = (
        np.stack([vertex[name] for name in names], axis=-1).astype(np.float64)
        for names in (("x", "y", "z"), ("red", "green", "blue"))
    )
    return places, colours / 255.0


def of_splats(run: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    flags = [f"--out={folder}/splats.ply", "--resolution=48", "--sh_degree=0"]
    assert main(["export", str(run), "splats", *flags]) == 0
    vertex = PlyData.read(folder / "splats.ply")["vertex"]
    places, harmonics = (
        np.stack([vertex[name] for name in names], axis=-1).astype(np.float64)
        for names in (("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2"))
    )
    return places, 0.5 + harmonics / np.sqrt(4.0 * np.pi)


def of_depth(run: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """What pictures with depth, from the cameras that were exported, show where.

    They are read by the conventions of transforms.json alone: +x right, +y up, looking along -z.
    """
    path = folder / "transforms.json"
    assert main(["export", str(run), "cameras", f"--out={path}"]) == 0
    render = ["render", str(run), f"--path={path}", f"--out={folder}/frames", "--depth=exr"]
    assert main(render) == 0
    contents, places, colours = json.loads(path.read_text()), [], []
    for number, frame in enumerate(contents["frames"]):
        lens = {**contents, **frame}
        with OpenEXR.File(f"{folder}/frames/depth/{number:04d}.exr") as file:
            depth = file.channels()["Z"].pixels.astype(np.float64)
        picture = np.asarray(Image.open(folder / f"frames/{number:04d}.png"), np.float64) / 255.0
        rows, columns = np.nonzero(depth > 0.0)
        local = np.stack(
            [
                (columns + 0.5 - lens["cx"]) / lens["fl_x"],
                -(rows + 0.5 - lens["cy"]) / lens["fl_y"],
                np.full(rows.shape, -1.0),
            ],
            axis=-1,
        )
        pose = np.array(frame["transform_matrix"])
        along = (depth[rows, columns, None] * local) @ pose[:3, :3].T
        places.append(along + pose[:3, 3])
        colours.append(picture[rows, columns])
    return np.concatenate(places), np.concatenate(colours)


@pytest.mark.slow
def test_all_that_leaves_agrees_in_the_frame_of_the_files(run, mesh, tmp_path):
    """Mesh, points, Gaussians, cameras and depth show the same colours in the same places.

    A ball has one shape however it is turned: its colours, which are those of its normals, tell.
    """
    surfaces = {
        "mesh": of_mesh(mesh),
        "points": of_points(run, tmp_path),
        "splats": of_splats(run, tmp_path),
        "depth": of_depth(run, tmp_path),
    }
    for name, (places, colours) in surfaces.items():
        assert len(places) > 1000, name
        outward = places - MIDDLE
        away = np.linalg.norm(outward, axis=-1, keepdims=True)
        # A little below the surface, as above.
        assert np.median(away) == pytest.approx(0.5 * WIDE, abs=3.0), name
        shade = 0.5 + 0.5 * (outward / away) @ MILLIMETRES.rotation
        assert np.median(np.abs(colours - shade)) < 0.03, name
    for name, (places, colours) in surfaces.items():
        for other, (there, shown) in surfaces.items():
            apart, nearest = KDTree(there).query(places)
            # As far as pixels are apart; Gaussians are 3 mm from one another.
            assert np.median(apart) < 2.5, (name, other)
            assert np.quantile(apart, 0.95) < 4.0, (name, other)
            assert np.median(np.abs(colours - shown[nearest])) < 0.03, (name, other)


@pytest.mark.slow
def test_cameras_leave_where_they_stood(run, tmp_path):
    assert main(["export", str(run), "cameras", f"--out={tmp_path}/transforms.json"]) == 0
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    found = {frame["file_path"]: np.array(frame["transform_matrix"])[:3] for frame in frames}
    poses = MILLIMETRES.poses(np.asarray(photographs(20).cameras.camera_to_world, np.float64))
    for index, pose in enumerate(poses):
        there = found[f"image/{index:06d}.png"]
        np.testing.assert_allclose(there[:, :3], pose[:, :3], rtol=0, atol=1e-5)
        np.testing.assert_allclose(there[:, 3], pose[:, 3], rtol=0, atol=1e-5 * WIDE)

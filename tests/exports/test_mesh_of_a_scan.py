"""From a DTU scan in millimetres to a mesh in millimetres, by the commands that a user would type."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from ball import CENTRE, FOCAL, RADIUS, SIDE, photographs
from PIL import Image
from scene_factory import command_environment  # noqa: F401
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


def test_a_mesh_has_the_size_and_the_place_in_millimetres(scan, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "ball.ply"
    small = ["--voxels.stages.resolutions=24,48", "--voxels.stages.fractions=0.4",
             "--voxels.stages.cells=24", "--training.rays_per_batch=1024"]  # fmt: skip
    arguments = [f"--data={scan}", f"--out={run}", "--max_steps=200", "--noevaluate", *small]
    assert main(["train", *arguments]) == 0
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

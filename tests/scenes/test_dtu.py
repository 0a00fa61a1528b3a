"""DTU's scans as NeuS and IDR have them: against the matrices that were multiplied together."""

import shutil
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scene_factory import CENTRES, COLOURS, RADIUS, camera_axes, eyes, paint
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import project
from jaxnerf.scenes import SceneError, load_scene
from jaxnerf.scenes.dtu import decompose

WIDTH, HEIGHT, FOCAL = 48, 40, 56.7
# The sphere of the objects: 2.5 large, in a world of its own.
SPHERE = np.diag([2.5, 2.5, 2.5, 1.0])
SPHERE[:3, 3] = [0.5, -0.2, 0.3]


def projection(eye: np.ndarray) -> np.ndarray:
    """K [R | t], with pixels that have whole coordinates."""
    right, up, forward = camera_axes(eye)
    rotation = np.stack([right, -up, forward])
    world = np.eye(4)
    world[:3] = np.concatenate([rotation, -rotation @ eye[:, None]], axis=1)
    inner = np.eye(4)
    inner[:3, :3] = [[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]]
    return inner @ world


def matrices(count: int) -> dict[str, np.ndarray]:
    return {f"world_mat_{i}": projection(eye) for i, eye in enumerate(eyes(count))} | {
        f"scale_mat_{i}": SPHERE for i in range(count)
    }


def write_scan(folder: Path, count: int = 9, names=("image", "mask")) -> Path:
    """Photographs with backgrounds, masks of other names, and the matrices."""
    for name in names:
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index, eye in enumerate(eyes(count)):
        picture = paint(eye, WIDTH, HEIGHT)
        photograph = picture[..., :3].copy()
        outside = picture[..., 3] == 0
        photograph[outside] = rng.integers(0, 256, (outside.sum(), 3))
        Image.fromarray(photograph).save(folder / names[0] / f"{index:06d}.png")
        if len(names) > 1:
            mask = np.repeat(picture[..., 3:], 3, axis=-1)
            Image.fromarray(mask).save(folder / names[1] / f"{index:03d}.png")
    np.savez(folder / "cameras_sphere.npz", **matrices(count))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scan(tmp_path_factory.mktemp("dtu") / "scan9")


def test_a_scan_is_read_in_the_frame_of_its_sphere(folder):
    scene = load_scene(folder, images=("train", "test"))
    assert (scene.name, scene.format, scene.notes) == ("scan9", "dtu", ())
    assert scene.splits["test"].names == ("image/000000.png", "image/000008.png")
    np.testing.assert_allclose(scene.to_user.points(np.zeros(3)), SPHERE[:3, 3], atol=1e-12)
    np.testing.assert_allclose(scene.to_user.scale, 2.5)
    every = eyes(9)
    indices = {"train": range(1, 8), "test": (0, 8)}
    for name, split in scene.splits.items():
        np.testing.assert_allclose(split.cameras.focal, FOCAL, rtol=1e-5)
        np.testing.assert_allclose(split.cameras.centre, [[24, 20]] * len(split), rtol=1e-5)
        for index, camera, image in zip(indices[name], split.cameras, split.images, strict=True):
            right, up, forward = camera_axes(every[index])
            pose = scene.to_user.poses(camera.camera_to_world)
            wanted = np.stack([right, up, -forward, every[index]], axis=-1)
            np.testing.assert_allclose(pose, wanted, atol=1e-5)
            truth = paint(every[index], WIDTH, HEIGHT)
            np.testing.assert_array_equal(image[..., 3], truth[..., 3])
            shown = truth[..., 3] > 0
            np.testing.assert_array_equal(image[shown], truth[shown])
    # The sphere, of which nothing is nearer or farther.
    distance = [(eye - SPHERE[:3, 3]) @ eye / 4.0 / 2.5 for eye in every]
    np.testing.assert_allclose(scene.near, min(distance) - 1.0, rtol=1e-5)
    np.testing.assert_allclose(scene.far, max(distance) + 1.0, rtol=1e-5)


def test_pixels_are_where_the_matrices_put_them_and_half_a_pixel_on(folder):
    scene = load_scene(folder)
    world = np.random.default_rng(1).uniform(-1, 1, (20, 3))
    points = jnp.asarray(scene.to_user.inverse().points(world), jnp.float32)
    for index, camera in zip(range(1, 8), scene.splits["train"].cameras, strict=True):
        homogeneous = np.append(world, np.ones((20, 1)), axis=1) @ projection(eyes(9)[index]).T
        expected = homogeneous[:, :2] / homogeneous[:, 2:3] + 0.5
        np.testing.assert_allclose(project(camera, points)[0], expected, atol=2e-3)


def test_the_centres_of_the_balls_show_their_colours(folder):
    scene = load_scene(folder)
    centres = scene.to_user.inverse().points(CENTRES)
    split = scene.splits["train"]
    for camera, image in zip(split.cameras, split.images, strict=True):
        pixels, depth = (np.asarray(v) for v in project(camera, jnp.asarray(centres, jnp.float32)))
        nearest = depth.argmin()
        x, y = pixels[nearest].astype(int)
        assert image[y, x].tolist() == [*COLOURS[nearest], 255]
        assert (scene.near < depth - RADIUS / 2.5).all()
        assert (depth + RADIUS / 2.5 < scene.far).all()


@pytest.mark.parametrize("names", [("images", "masks"), ("rgb",)])
def test_other_names_of_folders_are_read_and_masks_are_optional(tmp_path, names):
    folder = write_scan(tmp_path, 3, names)
    (folder / "cameras_sphere.npz").rename(folder / "cameras.npz")
    (folder / names[0] / "notes.txt").write_text("not a picture")
    scene = load_scene(folder)
    images = scene.splits["train"].images
    if len(names) > 1:
        assert 0.05 < (images[..., 3] == 255).mean() < 0.95
    else:
        assert (images[..., 3] == 255).all()
        assert scene.notes == ("no masks of the object",)


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_projections_are_decomposed(seed):
    rng = np.random.default_rng(seed)
    inner = np.array(
        [
            [rng.uniform(100, 3000), rng.uniform(-5, 5), rng.uniform(0, 2000)],
            [0, rng.uniform(100, 3000), rng.uniform(0, 2000)],
            [0, 0, 1],
        ]
    )
    rotation = Rotation.random(rng=rng).as_matrix()
    position = rng.normal(size=3) * 100
    whole = inner @ np.concatenate([rotation, -rotation @ position[:, None]], axis=1)
    found, pose = decompose(whole * rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(-6, 6))
    np.testing.assert_allclose(found, inner, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(pose[:, :3], rotation.T * [1, -1, -1], atol=1e-9)
    np.testing.assert_allclose(pose[:, 3], position, rtol=1e-9, atol=1e-7)


def change(folder: Path, **arrays) -> None:
    with np.load(folder / "cameras_sphere.npz") as old:
        kept = {name: old[name] for name in old.files}
    kept |= arrays
    kept = {name: array for name, array in kept.items() if array is not None}
    np.savez(folder / "cameras_sphere.npz", **kept)


SKEWED = projection(eyes(9)[1])
SKEWED[0] += 2.0 * SKEWED[1] / FOCAL
WRONG = {
    "no matrix": ({"world_mat_8": None}, "8 matrices world_mat_0"),
    "no sphere": ({"scale_mat_3": None}, "scale_mat_3 is missing"),
    "another sphere": ({"scale_mat_3": 2.0 * SPHERE}, "scale_mat_3 is not the same"),
    "a stretched sphere": ({"scale_mat_0": np.diag([1.0, 2, 1, 1])}, "scale_mat_0: not a sim"),
    "a mirrored sphere": ({"scale_mat_0": np.diag([-1.0, 1, 1, 1])}, "scale_mat_0: not a sim"),
    "a flat sphere": ({"scale_mat_0": np.diag([0.0, 0, 0, 1])}, "scale_mat_0: not a sim"),
    "a projective sphere": ({"scale_mat_0": np.diag([1.0, 1, 1, 2])}, "scale_mat_0: its last"),
    "not a camera": ({"world_mat_2": np.zeros((4, 4))}, "world_mat_2: not the projection"),
    "not finite": ({"world_mat_2": np.full((4, 4), np.nan)}, "world_mat_2 has values"),
    "too large": ({"world_mat_2": np.full((4, 4), 1e30)}, "world_mat_2 has values"),
    "3 x 3": ({"world_mat_2": np.eye(3)}, r"world_mat_2: must be 4 x 4"),
    "texts": ({"world_mat_2": np.full((4, 4), "a")}, "world_mat_2: must be 4 x 4"),
    "integers": ({"world_mat_2": np.eye(4, dtype=int)}, "world_mat_2: must be 4 x 4"),
    "enormous": ({"world_mat_2": np.zeros((300, 300))}, "world_mat_2: too large for 4 x 4"),
    "8 x 8": ({"world_mat_2": np.eye(8)}, "world_mat_2: must be 4 x 4"),
    "skewed": ({"world_mat_1": SKEWED}, "world_mat_1: a camera whose pixels are skewed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_matrices_are_refused_by_name(folder, tmp_path, case):
    arrays, message = WRONG[case]
    shutil.copytree(folder, tmp_path / "s")
    change(tmp_path / "s", **arrays)
    with pytest.raises(SceneError, match=f"cameras_sphere.npz: {message}"):
        load_scene(tmp_path / "s")


class Pickled:
    def __reduce__(self):
        return (pytest.fail, ("what was pickled was run",))


def test_what_is_pickled_is_not_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s")
    change(tmp_path / "s", world_mat_0=np.array([[Pickled()] * 4] * 4, object))
    with pytest.raises(SceneError, match="world_mat_0"):
        load_scene(tmp_path / "s")


def test_damaged_files_and_missing_pictures_are_refused_by_name(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s")
    (tmp_path / "s/mask/003.png").unlink()
    with pytest.raises(SceneError, match="mask: 8 masks for 9 photographs"):
        load_scene(tmp_path / "s")
    shutil.rmtree(tmp_path / "s/mask")
    (tmp_path / "s/image/000002.png").unlink()
    with pytest.raises(
        SceneError, match=r"cameras_sphere.npz: 9 matrices .* 8 photographs in image"
    ):
        load_scene(tmp_path / "s")
    shutil.rmtree(tmp_path / "s/image")
    with pytest.raises(SceneError, match="no photographs in image, images, rgb"):
        load_scene(tmp_path / "s")
    shutil.copytree(folder / "image", tmp_path / "s/image")
    shutil.copytree(folder / "mask", tmp_path / "s/mask")
    Image.new("L", (WIDTH, HEIGHT - 1)).save(tmp_path / "s/mask/004.png")
    with pytest.raises(SceneError, match=r"004.png: a mask of 48 x 39"):
        load_scene(tmp_path / "s")
    whole = (folder / "cameras_sphere.npz").read_bytes()
    for contents in (b"", b"nothing", whole[:1000], whole[:-100]):
        (tmp_path / "s/cameras_sphere.npz").write_bytes(contents)
        with pytest.raises(SceneError, match=r"cameras_sphere.npz: not an .npz file"):
            load_scene(tmp_path / "s")


def test_a_bomb_is_not_unpacked(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "s/cameras_sphere.npz") as old:
        kept = {name: old.read(name) for name in old.namelist()}
    kept["world_mat_4.npy"] += b"\0" * 150_000_000
    with zipfile.ZipFile(tmp_path / "s/cameras_sphere.npz", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, contents in kept.items():
            bomb.writestr(name, contents)
    assert (tmp_path / "s/cameras_sphere.npz").stat().st_size < 300_000
    with pytest.raises(SceneError, match="world_mat_4: too large"):
        load_scene(tmp_path / "s")

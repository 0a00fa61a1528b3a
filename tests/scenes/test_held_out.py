"""Points that are kept out of training, and the errors of depths at them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capture_factory import HEIGHT, WIDTH, around, poses_of, write_nerfstudio, write_pictures
from colmap_factory import pinhole, write_model
from scene_factory import (
    CENTRES,
    command_environment,  # noqa: F401
)

from jaxnerf import Camera, Stratified, cast_rays, load_run, render_rays
from jaxnerf.cameras import look_at_pose
from jaxnerf.cli import main
from jaxnerf.evaluation import depth_errors
from jaxnerf.rendering import render_places
from jaxnerf.scenes import Scene, Split, load_scene
from jaxnerf.scenes.held_out import held_out_sightings, with_points
from jaxnerf.scenes.sightings import Sightings


def empty_scene(cameras: Camera | None = None, **splits) -> Scene:
    cameras = cameras or Camera.pinhole(np.eye(3, 4)[None], 60.0, 64, 48)
    split = Split(tuple(map(str, range(len(cameras)))), cameras, **splits)
    return Scene("s", Path(), "test", {"train": split, "test": split}, 0.1, 10.0)


def test_every_10th_point_is_held_out_and_tracks_follow():
    random = np.random.default_rng(0)
    points = random.normal(size=(130, 3))
    tracks = {
        split: np.unique(random.integers((4, 130), size=(300, 2)), axis=0)
        for split in ("train", "test")
    }
    scene = with_points(empty_scene(), points, tracks)
    np.testing.assert_array_equal(scene.held_out.positions, points[::10])
    np.testing.assert_array_equal(np.sort(scene.all_points, axis=0), np.sort(points, axis=0))

    def sighted(pairs, positions):
        return {(int(camera), *positions[point]) for camera, point in pairs}

    trained = {(int(c), *points[p]) for c, p in tracks["train"] if p % 10}
    tested = {(int(c), *points[p]) for c, p in tracks["test"] if not p % 10}
    assert sighted(scene.tracks, scene.points) == trained
    assert sighted(scene.held_out.tracks["test"], scene.held_out.positions) == tested


def test_of_few_points_none_is_held_out():
    scene = with_points(empty_scene(), np.ones((99, 3)))
    assert scene.held_out is None
    assert len(scene.points) == 99
    assert held_out_sightings(scene, "test") is None
    assert with_points(empty_scene(), np.zeros((0, 3))).points is None


def test_without_tracks_points_of_training_stand_before_those_that_are_held_out():
    random = np.random.default_rng(1)
    front = np.concatenate([np.full((40_000, 1), 1.0), random.uniform(-2.5, 2.5, (40_000, 2))], 1)
    front[::10] -= [3.0, 0.0, 0.0]  # the held out ones are behind the others
    eye = Camera.pinhole(look_at_pose((4.0, 0.0, 0.0), (0, 0, 0))[None], 60.0, 64, 48)
    assert held_out_sightings(with_points(empty_scene(eye), front), "test") is None
    front[::10] += [4.0, 0.0, 0.0]
    seen = held_out_sightings(with_points(empty_scene(eye), front), "test")
    assert len(seen) > 500
    np.testing.assert_allclose(seen.depth, 2.0, atol=1e-4)
    masks = np.zeros((1, 48, 64), bool)
    masks[:, :, 32:] = True
    counted = held_out_sightings(with_points(empty_scene(eye, masks=masks), front), "test")
    assert (counted.pixel[:, 0] >= 32.0).all()
    assert len(counted) == np.count_nonzero(seen.pixel[:, 0] >= 32.0)


def test_points_of_a_model_are_held_out_with_what_its_images_see(tmp_path):
    points = np.random.default_rng(3).uniform(-0.5, 0.5, (120, 3))
    poses = poses_of(around(9))
    names = write_pictures(tmp_path / "images", around(9))
    images = [(i + 1, name, 1, poses[i]) for i, name in enumerate(names)]
    model = tmp_path / "sparse/0"
    write_model(model, {1: pinhole(WIDTH, HEIGHT)}, images)
    # In place of the factory's three points.
    features = " ".join(f"1.5 2.5 {number}" for number in range(1, 121))
    lines = (model / "images.txt").read_text().splitlines()
    lines = [features if line.startswith("1.5 2.5") else line for line in lines]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [
        f"{number} {' '.join(map(repr, place.tolist()))} 9 9 9 0.5 "
        + " ".join(f"{image} {number - 1}" for image in range(1, 10))
        for number, place in enumerate(points, 1)
    ]
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")
    scene = load_scene(tmp_path)
    np.testing.assert_allclose(
        scene.to_user.points(scene.held_out.positions), points[::10], atol=1e-9
    )
    # Every image of it sees all points.
    for split in ("train", "test"):
        pairs = {
            (camera, point) for camera in range(len(scene.splits[split])) for point in range(12)
        }
        assert set(map(tuple, scene.held_out.tracks[split].tolist())) == pairs
    assert len(scene.tracks) == 7 * 108
    assert len(held_out_sightings(scene, "test")) == 2 * 12


def test_errors_of_depths_are_medians_and_shares_where_there_is_something():
    depth = np.linspace(1.0, 5.0, 100).astype(np.float32)
    seen = Sightings(np.arange(100, dtype=np.int32) // 40, np.zeros((100, 2), np.float32), depth)
    opacity = np.where(np.arange(100) % 4 == 0, 0.5, 1.0)

    def render(camera, places):
        own = slice(40 * camera, 40 * camera + 40)
        assert len(places) == len(depth[own])
        known = depth[own]
        far = np.where(np.arange(len(known)) % 2 == 0, 1.02 * known, 0.5 * known)
        return {
            "exact": (known, opacity[own]),
            "shifted": (1.1 * known, opacity[own]),
            "mixed": (far, np.ones(len(known))),
            "nothing": (np.full(len(known), np.inf), np.zeros(len(known))),
        }

    found = depth_errors(render, seen)
    assert found["exact"] == {"median": 0.0, "within_5_percent": 1.0, "opaque": 0.75}
    assert found["shifted"]["median"] == pytest.approx(0.1, abs=1e-6)
    assert found["shifted"]["within_5_percent"] == 0.0
    assert found["mixed"]["within_5_percent"] == 0.5
    assert found["mixed"]["median"] == pytest.approx(0.5 * (0.02 + 0.5), abs=1e-6)
    assert found["nothing"] == {"median": np.inf, "within_5_percent": 0.0, "opaque": 0.0}
    assert found["protocol"]["sightings"] == 100


class Fog:
    """Of one density everywhere, so that half of the light is stopped at ln 2 / density."""

    def init(self, key):
        return {"density": jnp.float32(0.7)}

    def density(self, params, positions):
        return jnp.full(positions.shape[:-1], params["density"]), positions[..., :0]

    def colour(self, params, features, directions):
        return jnp.ones((*features.shape[:-1], 3))


class Wall(Fog):
    """Opaque where x is less than 1."""

    def density(self, params, positions):
        return jnp.where(positions[..., 0] < 1.0, 1e4, 0.0), positions[..., :0]


def camera() -> Camera:
    return Camera.pinhole(look_at_pose((4.0, 0.3, 0.2), (0, 0, 0))[None], 60.0, 64, 48)


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_depths_of_fog_and_of_a_wall_are_those_of_their_closed_forms(shift):
    places = np.random.default_rng(0).uniform(1.0, 47.0, (300, 2)).astype(np.float32)

    def errors(field, known, name):
        params = field.init(None)

        def render(index, own):
            seen = [
                render_places(
                    field, params, camera()[index], own, Stratified(2048),
                    near=0.01, far=20.0, compositing=how,
                )
                for how in ("volume", "surface")
            ]  # fmt: skip
            return {
                "mean": (seen[0].depth, seen[0].opacity),
                "half": (seen[0].depth_median, seen[0].opacity),
                "surface": (seen[1].depth, seen[1].opacity),
            }

        depth = ((1.0 + shift) * known).astype(np.float32)
        return depth_errors(render, Sightings(np.zeros(300, np.int32), places, depth))[name]

    rays = cast_rays(camera()[0], places)
    lengths = np.linalg.norm(rays.directions, axis=-1)
    known = 0.01 + np.log(2.0) / 0.7 / lengths
    away = shift / (1.0 + shift)
    assert errors(Fog(), known, "half")["median"] == pytest.approx(away, abs=1e-4)
    met = np.asarray((1.0 - rays.origins[..., 0]) / rays.directions[..., 0])
    for name in ("mean", "half", "surface"):
        found = errors(Wall(), met, name)
        assert found["median"] == pytest.approx(away, abs=3e-3)  # a sample is 0.01 long
        assert found["within_5_percent"] == float(shift == 0.0)
        assert found["opaque"] == 1.0


@pytest.mark.release
def test_a_run_says_how_far_its_depths_are_from_points_it_never_saw(tmp_path, capsys):
    random = np.random.default_rng(2)
    directions = random.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    points = CENTRES[np.arange(400) % len(CENTRES)] + 0.3 * directions
    folder = write_nerfstudio(tmp_path / "s", around(9), ply_file_path="points.ply")
    header = "ply\nformat ascii 1.0\nelement vertex 400\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    text = "\n".join(" ".join(map(str, point)) for point in points)
    (folder / "points.ply").write_text(f"{header}end_header\n{text}\n")
    run = tmp_path / "run"
    command = ["train", f"--data={folder}", f"--out={run}", "--config=minute", "--max_steps=4"]
    command += ["--voxels.stages.resolutions=16,24", "--voxels.stages.fractions=0.5"]
    command += ["--voxels.stages.cells=16", "--training.rays_per_batch=256"]
    assert main([*command, "--evaluation.orbit_frames=0", "--evaluation.every=1"]) == 0
    printed = capsys.readouterr().out
    assert "360 points of the scene's files hold depths" in printed
    results = json.loads((run / "results.json").read_text())["depth"]
    assert f"depth at {results['protocol']['sightings']} sightings" in printed
    # Each sighting by a ray of its own.
    trained, scene = load_run(run), load_scene(folder)
    np.testing.assert_allclose(
        scene.to_user.points(scene.held_out.positions), points[::10], atol=1e-5
    )
    seen = held_out_sightings(scene, "test")
    assert results["protocol"]["sightings"] == len(seen) > 20
    cameras = trained.cameras("test")
    errors = {"mean": [], "half": []}
    render = jax.jit(render_rays)
    for index, pixel, depth in zip(seen.camera, seen.pixel, seen.depth, strict=True):
        rays = trained.rays(cameras[index], jnp.asarray(pixel[None]))
        found = render(trained.field, trained.params, rays, trained.sampler)
        if found.opacity[0] > 0.5:
            errors["mean"].append(abs(float(found.depth[0]) / depth - 1.0))
            errors["half"].append(abs(float(found.depth_median[0]) / depth - 1.0))
    for name, each in errors.items():
        assert results[name]["opaque"] == pytest.approx(len(each) / len(seen), abs=0.02)
        if each:
            assert results[name]["median"] == pytest.approx(np.median(each), rel=0.02, abs=1e-3)

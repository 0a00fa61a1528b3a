"""The experiments whose programs search, sample and choose: that their parts are right, and they run."""

import dataclasses
import functools
import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import Sphere
from ball import photographs as ball_photographs
from ball_run import ball_run
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxnerf import Camera, cast_rays, render_rays
from jaxnerf.compositing import distortion_of
from jaxnerf.evaluation import psnr
from jaxnerf.sampling import Stratified
from jaxnerf.scenes import Similarity, load_scene
from jaxnerf.training import PhotometricLoss, Target, sample_batch

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "experiments"
SAME = Similarity(1.0, np.eye(3), np.zeros(3))


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that imports an experiment, which then leaves its files in a folder of the test's."""

    def loaded(name: str, program: str = ""):
        path = FOLDER / name / f"{program or name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "HERE", tmp_path)
        monkeypatch.setattr(sys, "argv", [name])
        return module

    return loaded


def pose_away() -> np.ndarray:
    """A camera four units from the origin, at which it looks."""
    turn = Rotation.from_euler("xyz", [50.0, -20.0, 130.0], degrees=True).as_matrix()
    return np.concatenate([turn, 4.0 * turn[:, 2:]], axis=1)


def test_searches_start_as_far_away_as_they_say_and_a_move_is_a_turn_about_the_middle(load):
    where = load("where_was_i")
    truth = pose_away()
    starts = where.beside(truth, seed=3)
    away = where.errors(starts, truth)
    np.testing.assert_allclose(away, np.broadcast_to([10.0, 10.0], (20, 2)), rtol=1e-4)
    assert np.unique(starts[:, :, 3], axis=0).shape == (20, 3)
    axis = np.array([0.3, -0.5, 0.8]) / np.sqrt(0.98)
    by = np.concatenate([np.deg2rad(7.0) * axis, [0.0, 0.0, 0.05]])
    moved = where.moved(jnp.asarray(truth, jnp.float32), jnp.asarray(by, jnp.float32))
    turn = Rotation.from_rotvec(truth[:, :3] @ by[:3]).as_matrix()
    np.testing.assert_allclose(moved[:, :3], turn @ truth[:, :3], atol=1e-6)
    # It still looks at the origin, from a twentieth farther away.
    np.testing.assert_allclose(moved[:, 3], 1.05 * turn @ truth[:, 3], atol=1e-5)


@pytest.fixture
def as_users_compute():
    """Optax raises a number to the power of a count of steps."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("as_users_compute")
def test_searches_come_to_see_what_the_photograph_shows(load, monkeypatch):
    where, run = load("where_was_i"), ball_run(SAME, pixels=32)
    stages = [{"pixels": "whole", "blur": 0.0, "steps": 80, "rate": 0.005}]
    small = {"starts": 2, "degrees": 5.0, "percent": 5.0, "side": 16, "mean_samples": 96.0}
    monkeypatch.setattr(where, "CONFIG", where.CONFIG | small | {"stages": stages})
    camera = run.scene.splits["train"].cameras[5]
    truth = np.asarray(camera.camera_to_world, np.float64)
    photograph = where.picture(run, camera, truth)
    poses, losses, crowded = where.search(run, camera, photograph, where.beside(truth, seed=0))
    assert crowded == 0.0
    np.testing.assert_allclose(where.errors(poses, truth)[0], 5.0, rtol=1e-3)
    # Where one stands a ball of one size hardly says: it looks alike from many sides.
    assert (losses[-1] < 0.6 * losses[0]).all()


@pytest.mark.usefixtures("as_users_compute")
def test_a_search_is_told_drawn_and_filmed(load, demo, tmp_path, monkeypatch):
    where = load("where_was_i")
    stages = [dict(stage, steps=1) for stage in where.CONFIG["stages"][1:3]]
    small = {"starts": 2, "side": 8, "stages": stages}
    monkeypatch.setattr(where, "CONFIG", where.CONFIG | small)
    monkeypatch.setattr(where, "FRAMES", 2)
    monkeypatch.setattr(sys, "argv", ["where_was_i", "--run", str(demo / "runs/demo")])
    where.main()
    told = json.loads((tmp_path / "results.json").read_text())
    assert (told["found"], told["of"]) == (0, 2)
    # One step of Adam at a small rate is at most half a degree.
    assert all(5.0 < row["degrees"] < 15.0 for row in told["searches"])
    assert (tmp_path / "errors.png").is_file()
    assert (tmp_path / "search.webp").is_file()


def test_a_close_up_looks_through_the_same_places(load):
    both = load("network_or_voxels")
    camera = ball_run(SAME, pixels=64).scene.splits["train"].cameras[2]
    near = both.near_camera(camera, {"times": 8, "pixels": 96, "middle": [40, 20]})
    assert near.size.tolist() == [96, 96]
    corner = np.array([40.0 - 6.0, 20.0 - 6.0], np.float32)
    inside = np.array([[0.5, 0.5], [48.0, 48.0], [95.0, 3.0]], np.float32)
    seen, same = (cast_rays(*each) for each in ((near, inside), (camera, corner + inside / 8)))
    np.testing.assert_allclose(seen.directions, same.directions, atol=1e-6)


def test_a_dense_lattice_has_a_row_for_every_point_of_its_cube(load):
    both = load("network_or_voxels")
    box = both.cube(ball_run(SAME))
    field = both.dense(box, 30)
    assert (np.asarray(field.bricks) > 0).sum() >= (31 / 4) ** 3
    points = np.stack(np.meshgrid(*[np.linspace(0.0, 0.999, 9)] * 3), axis=-1)
    places = (box.low + box.size * points).astype(np.float32)
    params = field.init(both.jax.random.key(0))
    density, _ = field.density(params, jnp.asarray(places))
    # Every point has the opacity with which training begins: 3% a voxel.
    np.testing.assert_allclose(density * float(field.spacing), 0.03, rtol=1e-4)


def test_a_run_sampled_on_a_grid_shows_what_the_run_shows(load):
    both, run = load("network_or_voxels"), ball_run(SAME, pixels=48)
    camera = run.scene.splits["train"].cameras[3]
    truth = both.eye_of(run)(camera)
    found = []
    for resolution in (16, 96):
        field, params = both.sampled(run, both.cube(run), resolution)
        assert both.bytes_of(field.values, field.colours) == 4 * resolution**3
        found.append(psnr(both.eye_of_grid(field, params, run.scene)(camera), truth))
    assert found[0] < found[1] - 3.0
    assert found[1] > 28.0


def test_networks_and_voxels_are_trained_and_measured(load, tmp_path, monkeypatch):
    both = load("network_or_voxels")
    trained = {
        "fast field": {"steps": 20},
        "dense 16": {"steps": 2, "training__rays_per_batch": 64},
    }
    small = {"trained": trained, "sampled": [16], "every": 40}
    close = both.CONFIG["close_up"] | {"pixels": 16, "middle": [30, 30]}
    monkeypatch.setattr(both, "load_scene", functools.partial(load_scene, downscale=4))
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # not so much is compiled here
    monkeypatch.setattr(both, "CONFIG", both.CONFIG | small | {"close_up": close})
    arguments = ["network_or_voxels", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", arguments)
    both.main()
    first = json.loads((tmp_path / "results.json").read_text())["rows"]
    both.main()  # finds both trained
    again = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert again == first
    assert [row["name"] for row in first] == ["fast field", "16 cubed", "dense 16"]
    assert first[0]["psnr"] > 15.0
    for name in ("bytes.png", "close_up.webp"):
        assert (tmp_path / name).is_file()


def test_photographs_spread_are_the_farthest_from_one_another(load):
    one = load("one_photograph")
    split = ball_run(SAME, count=40).scene.splits["train"]
    places = one.directions(split)
    chosen = one.spread(split, 6, seed=1)
    for count in range(1, 6):
        to_chosen = np.linalg.norm(places[:, None] - places[chosen[:count]][None], axis=-1)
        nearest = to_chosen.min(axis=1)
        assert nearest[chosen[count]] == pytest.approx(nearest.max())
    drawn = one.at_random(split, 6, seed=1)
    assert len(set(drawn.tolist())) == 6
    assert (one.at_random(split, 6, seed=2) != drawn).any()


def test_one_photograph_and_two_are_told_and_drawn(load, tmp_path, monkeypatch):
    one = load("one_photograph")
    monkeypatch.setattr(one, "COUNTS", (2, 100))
    monkeypatch.setattr(
        one, "load_scene", lambda downscale, **more: load_scene(downscale=8, **more)
    )
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # not so much is compiled here
    monkeypatch.setattr(one, "MEASURED", 1)
    settings = {"training__rays_per_batch": 64, "voxels__stages__resolutions": (16, 20)}
    monkeypatch.setattr(one, "SETTINGS", one.SETTINGS | settings)
    monkeypatch.setattr(sys, "argv", ["one_photograph", "--steps", "4", "--seeds", "1"])
    runs, fitted = [], one.train
    monkeypatch.setattr(one, "train", lambda *given: runs.append(fitted(*given)) or runs[-1])
    one.main()
    rows = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [row["which"] for row in rows] == ["spread", "random", "all"]
    assert all(row["seen_psnr"] > 5.0 and row["new_psnr"] > 5.0 for row in rows)
    assert (tmp_path / "one_photograph.png").is_file()
    with Image.open(tmp_path / "more.png") as picture:
        assert picture.width == 2 * picture.height
    # What is there stays, and a call with more seeds adds theirs.
    monkeypatch.setattr(sys, "argv", ["one_photograph", "--steps", "4", "--seeds", "2"])
    trained = []
    monkeypatch.setattr(one, "train", lambda *given: trained.append(given[3]) or runs[0])
    one.main()
    more = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [row["which"] for row in more] == ["spread"] * 2 + ["random"] * 2 + ["all"] * 2
    assert trained == [1] * 3
    assert [row for row in more if row["seed"] == 0] == rows


@dataclasses.dataclass(frozen=True)
class Wall:
    """Opaque below the plane z = 0, where density rises within some hundredths."""

    def init(self, key):
        return {}

    def density(self, params, positions):
        return 200.0 * jax.nn.sigmoid(-300.0 * positions[..., 2]), positions

    def colour(self, params, features, view_directions):
        return jnp.full_like(features, 0.5)


def squares_of_a_wall(load, turn: Rotation):
    """Squares of a batch's rays on the wall, which a camera sees from a side."""
    flat = load("mesh_quality", "regularisers")
    pose = np.concatenate([turn.as_matrix(), 3.0 * turn.as_matrix()[:, 2:]], axis=1)
    camera = Camera.pinhole(pose, 60.0, 32, 32)
    x, y = np.random.default_rng(0).integers(4, 26, (2, 3)) + 0.5
    first = np.stack([x, y], axis=-1)[:, None]
    corners = first + 2.0 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    pixels = np.concatenate([corners, corners], axis=1).reshape(-1, 2)
    rays = cast_rays(camera, jnp.asarray(pixels, jnp.float32), 2.0, 4.5)
    return flat, rays


def test_rendered_normals_and_those_of_depth_are_those_of_a_wall(load):
    turn = Rotation.from_euler("xyz", [35.0, 20.0, 110.0], degrees=True)
    flat, rays = squares_of_a_wall(load, turn)
    field = flat.WithSurface(Wall())
    seen = render_rays(field, {}, rays, Stratified(600))
    np.testing.assert_allclose(seen.opacity, 1.0, atol=1e-4)
    normal, place = seen.extras
    np.testing.assert_allclose(normal, [[0.0, 0.0, 1.0]] * len(normal), atol=1e-4)
    expected = rays.origins + seen.depth[:, None] * rays.directions
    np.testing.assert_allclose(place, expected, atol=1e-4)
    # Seen from a side the mean place is a little deeper in the distance.
    found, counts = flat.disagreement(seen)
    assert counts.all()
    np.testing.assert_allclose(found, 0.0, atol=2e-4)
    # Whatever the normals are: by a loop over squares.
    other = np.random.default_rng(1).normal(size=(len(normal), 3)).astype(np.float32)
    seen = dataclasses.replace(seen, extras=(jnp.asarray(other), place))
    found, _ = flat.disagreement(seen)
    for square, value in enumerate(found):
        upper = other[8 * square : 8 * square + 4].mean(axis=0)
        assert value == pytest.approx(1.0 - upper[2], abs=2e-2)


def test_squares_that_an_edge_crosses_or_that_show_nothing_do_not_count(load):
    flat, rays = squares_of_a_wall(load, Rotation.from_euler("x", 20.0, degrees=True))
    seen = render_rays(flat.WithSurface(Wall()), {}, rays, Stratified(600))
    depth, opacity = seen.depth.at[3].add(0.9), seen.opacity.at[9].set(0.4)
    normal, place = seen.extras
    place = place.at[3].add(0.9 * rays.directions[3])
    broken = dataclasses.replace(seen, depth=depth, opacity=opacity, extras=(normal, place))
    found, counts = flat.disagreement(broken)
    assert counts.tolist() == [False, False, True]
    assert found[:2].tolist() == [0.0, 0.0]

    def of_nothing(params):
        nothing = render_rays(flat.WithSurface(Sphere()), params, rays, Stratified(8))
        return jnp.sum(flat.disagreement(nothing)[0])

    away = Sphere().init(None) | {"centre": jnp.full(3, 40.0)}
    gradient = jax.grad(of_nothing)(away)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_light_is_concentrated_where_all_of_it_or_none_is_left(load):
    flat, rays = squares_of_a_wall(load, Rotation.from_euler("x", 20.0, degrees=True))
    seen = render_rays(Wall(), {}, rays, Stratified(50))
    opacity = jnp.linspace(0.0, 1.0, seen.opacity.size)
    seen = dataclasses.replace(seen, opacity=opacity)
    expected = [(1.0 - o) ** 2 * o**2 for o in opacity.tolist()]
    np.testing.assert_allclose(flat.concentration(seen), expected, rtol=1e-4, atol=1e-7)
    white = jnp.ones_like(seen.colour)
    target = Target(white, None, white, jnp.zeros(len(white), jnp.int32))
    base = PhotometricLoss()
    spread = float(np.mean(distortion_of(seen.samples, seen.weights)))
    for begun in (0.0, 1.0):
        loss = flat.loss_of(base, flat.Added(distortion=0.3, concentration=0.5), jnp.float32(begun))
        more = float(loss(seen, target)[0] - base(seen, target)[0])
        added = begun * (0.3 * spread + 0.5 * np.mean(expected))
        assert more == pytest.approx(added, abs=1e-6)


def test_squares_have_the_pixels_of_their_places(load):
    flat, split = load("mesh_quality", "regularisers"), ball_photographs(5)
    batch = sample_batch(split, 40, seed=3, step=2, block=2)
    squares = flat.with_squares(batch, split)
    for ray in range(40):
        (x, y), camera = (squares.middle[ray] - 1.0).astype(int), squares.camera[ray]
        expected = split.images[camera, y : y + 2, x : x + 2].reshape(4, 4)
        np.testing.assert_array_equal(squares.pixels[ray], expected)
        if ray % 8 >= 4:
            np.testing.assert_array_equal(squares.middle[ray], batch.middle[ray])
        else:
            first = squares.middle[ray - ray % 8]
            step = [2.0 * (ray % 8 % 2), 2.0 * (ray % 8 // 2)]
            np.testing.assert_array_equal(squares.middle[ray], first + np.float32(step))
            assert camera == batch.camera[ray - ray % 8]
    with pytest.raises(ValueError, match="12 rays on a device are no groups of 8"):
        flat.corners(jnp.zeros(12))


@pytest.mark.usefixtures("as_users_compute")
def test_losses_are_added_and_measured(load, tmp_path, monkeypatch):
    flat = load("mesh_quality", "regularisers")
    small = {"training.rays_per_batch": 64, "voxels.stages.resolutions": (16, 20)}
    small |= {"voxels.stages.fractions": (0.3,), "voxels.stages.cells": 16}
    monkeypatch.setattr(flat, "SETTINGS", small)
    monkeypatch.setattr(flat, "EVERY", 40)
    monkeypatch.setattr(flat, "of_mesh", lambda folder: {"f_score": 0.5, "chamfer": 0.1})
    rows = "nothing,normals 0.01"
    arguments = ["--runs", str(tmp_path / "runs"), "--steps", "4", "--rows", rows]
    monkeypatch.setattr(sys, "argv", ["regularisers", *arguments])
    flat.main()
    first = json.loads((tmp_path / "regularisers.json").read_text())
    monkeypatch.setattr(flat, "of_pictures", None)
    flat.main()  # finds what was done
    assert json.loads((tmp_path / "regularisers.json").read_text()) == first
    assert [row["added"] for row in first] == rows.split(",")
    assert len({row["psnr"] for row in first}) == 2
    assert all(row["psnr"] > 5.0 and 0.0 < row["normals"] < 180.0 for row in first)

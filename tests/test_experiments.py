"""The experiments whose programs search, sample and choose: that their parts are right, and they run."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball_run import ball_run
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxnerf import cast_rays
from jaxnerf.evaluation import psnr
from jaxnerf.scenes import Similarity

FOLDER = Path(__file__).parents[1] / "experiments"
SAME = Similarity(1.0, np.eye(3), np.zeros(3))


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that imports an experiment, which then leaves its files in a folder of the test's."""

    def loaded(name: str):
        path = FOLDER / name / f"{name}.py"
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
    close = both.CONFIG["close_up"] | {"pixels": 16}
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
    monkeypatch.setattr(one, "MEASURED", 1)
    settings = {"training__rays_per_batch": 64, "voxels__stages__resolutions": (16, 20)}
    monkeypatch.setattr(one, "SETTINGS", one.SETTINGS | settings)
    monkeypatch.setattr(sys, "argv", ["one_photograph", "--steps", "4", "--seeds", "1"])
    one.main()
    rows = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [row["which"] for row in rows] == ["spread", "random", "all"]
    assert all(row["seen_psnr"] > 5.0 and row["new_psnr"] > 5.0 for row in rows)
    assert (tmp_path / "one_photograph.png").is_file()
    picture = Image.open(tmp_path / "more.png")
    assert picture.width == 2 * picture.height
    # What is there stays, and a call with more seeds adds theirs.
    monkeypatch.setattr(sys, "argv", ["one_photograph", "--steps", "4", "--seeds", "2"])
    trained = []
    monkeypatch.setattr(one, "train", lambda *a, of=one.train: (trained.append(a[3]), of(*a))[1])
    one.main()
    more = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [row["which"] for row in more] == ["spread"] * 2 + ["random"] * 2 + ["all"] * 2
    assert trained == [1] * 3
    assert [row for row in more if row["seed"] == 0] == rows

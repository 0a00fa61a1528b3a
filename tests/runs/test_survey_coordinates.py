"""A scene at survey coordinates, millions of units from the origin, against the same at the origin."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scene_factory import edit_json, write_scene
from test_runs import CONFIG, state_at

from jaxnerf.cameras import Camera, cast_rays, paths, project
from jaxnerf.cli.eval import evaluate
from jaxnerf.cli.render import path_cameras
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.folder import create_folder
from jaxnerf.runs.run import load_run
from jaxnerf.scenes import Similarity, load_scene
from jaxnerf.scenes.frames import normalising

SHIFT = np.array([455_000.0, 5_411_000.0, 212.0])


def moved(poses):
    poses = np.array(poses, np.float64)
    poses[..., :3, 3] += SHIFT
    return poses


def assert_moved(there, here, atol=1e-6):
    """Poses are the others, shifted."""
    assert np.asarray(there).dtype == np.float64
    back = np.array(there)
    back[..., :3, 3] -= SHIFT
    np.testing.assert_allclose(back, here, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = write_scene(tmp_path_factory.mktemp("survey") / "balls", 12, 10)
    return load_scene(folder, images=("train", "test"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, scene):
    """A run, and the same run of the scene that was shifted."""
    found = []
    for name, shift in (("here", np.zeros(3)), ("there", SHIFT)):
        folder = tmp_path_factory.mktemp("survey") / name
        create_folder(folder, CONFIG, scene)
        edit_json(
            folder / "scene.json", lambda s, t=shift: s["to_user"].update(translation=t.tolist())
        )
        Checkpoints(folder).save(state_at(5))
        found.append(load_run(folder))
    return found


def test_a_runs_cameras_and_their_paths_are_only_shifted(runs):
    here, there = (run.cameras().camera_to_world for run in runs)
    assert_moved(there, here)
    for path in (
        lambda poses: paths.orbit_of(poses, 7),
        lambda poses: paths.spiral(poses, 4.0, 7),
        lambda poses: paths.spline(poses, 7),
        lambda poses: paths.spline(poses, 7, loop=True),
    ):
        assert_moved(path(there), path(here))
    cameras = [path_cameras(run, paths.orbit_of(run.cameras().camera_to_world, 5)) for run in runs]
    assert_moved(cameras[1].camera_to_world, cameras[0].camera_to_world)
    wide = path_cameras(runs[1], moved(cameras[0].camera_to_world), width=6)
    assert_moved(wide.camera_to_world, cameras[0].camera_to_world)


def test_orbits_and_look_at_are_only_shifted():
    assert_moved(paths.orbit(SHIFT, 3.0, frames=9), paths.orbit(radius=3.0, frames=9))
    eye = np.array([1.0, -3.0, 2.0])
    here, there = (
        Camera.look_at(tuple(eye + shift), tuple(shift), width=64, height=48)
        for shift in (np.zeros(3), SHIFT)
    )
    assert_moved(there.camera_to_world, here.camera_to_world)


def test_a_run_renders_the_same(runs):
    here = Camera.look_at((3.0, 2.0, 1.5), width=8, height=6)
    there = dataclasses.replace(here, camera_to_world=moved(here.camera_to_world))
    one, other = (run.render(camera) for run, camera in zip(runs, (here, there), strict=True))
    assert np.ptp(one.colour) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)


def test_evaluation_measures_the_same(runs, scene):
    one, other = (
        evaluate(run, dataclasses.replace(scene, to_user=Similarity(translation=shift)))
        for run, shift in zip(runs, (np.zeros(3), SHIFT), strict=True)
    )
    assert other["psnr"] == pytest.approx(one["psnr"], abs=1e-4)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_points_are_projected_to_the_same_pixels(batch):
    random = np.random.default_rng(0)
    points = random.uniform(-1.0, 1.0, (5, 3))
    poses = np.stack([Camera.look_at(tuple(e), width=8, height=8).camera_to_world
                      for e in random.normal(size=(5, 3)) * 2.0 + 3.0])  # fmt: skip
    here = Camera.pinhole(poses if batch else poses[0], 1200.0, 1600, 1200)
    there = dataclasses.replace(here, camera_to_world=moved(here.camera_to_world))
    expected, deep = project(here, points)
    pixels, depths = project(there, points + SHIFT)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-2)
    np.testing.assert_allclose(depths, deep, rtol=0, atol=2e-6)
    assert pixels.dtype == depths.dtype == jnp.float32


def test_focus_and_frame_are_only_shifted_where_axes_nearly_meet_nowhere():
    random = np.random.default_rng(1)
    eyes = random.normal(size=(9, 3)) * [0.02, 0.0, 0.02]
    target = np.array([0.0, 8.0, 0.0])
    poses = np.stack([Camera.look_at(tuple(e), tuple(target), width=8, height=8).camera_to_world
                      for e in eyes])  # fmt: skip
    found = paths.focus_point(moved(poses)) - SHIFT
    np.testing.assert_allclose(found, paths.focus_point(poses), rtol=0, atol=1e-5)
    around = paths.orbit(radius=3.0, frames=9)
    one, other = normalising(around).poses(around), normalising(moved(around)).poses(moved(around))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


def test_double_precision_poses_work_where_jax_has_none_and_stay_where_it_does():
    camera = Camera.look_at((1.0, -3.0, 2.0), width=8, height=8)
    assert camera.camera_to_world.dtype == np.float64
    pixels = np.array([[1.5, 2.5], [7.0, 3.0]], np.float32)
    for cast in (cast_rays, jax.jit(cast_rays)):
        assert {leaf.dtype for leaf in jax.tree.leaves(cast(camera, pixels))} == {jnp.dtype("f4")}
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: leaf.astype(np.float64), camera)
        rays = cast_rays(double, pixels.astype(np.float64))
        assert {leaf.dtype for leaf in jax.tree.leaves(rays)} == {jnp.dtype("f8")}
        seen, _ = project(double, np.asarray(rays.at(jnp.full((2, 1), 3.0)))[:, 0])
        np.testing.assert_allclose(seen, pixels, rtol=0, atol=1e-12)


def test_poses_of_four_rows_are_as_good_as_those_of_three(runs):
    three = Camera.look_at((3.0, 2.0, 1.5), width=8, height=6)
    last = np.array([[0.0, 0.0, 0.0, 1.0]])
    four = dataclasses.replace(three, camera_to_world=np.concatenate([three.camera_to_world, last]))
    pixels, points = jnp.array([[1.5, 2.5], [7.0, 3.0]]), jnp.array([[0.1, 0.2, 0.3]] * 2)
    batches = [jax.tree.map(lambda leaf: np.stack([leaf] * 2), c) for c in (three, four)]
    for one, other in (
        (cast_rays(three, pixels), cast_rays(four, pixels)),
        (cast_rays(batches[0], pixels), cast_rays(batches[1], pixels)),
        (cast_rays(batches[0][1], pixels), cast_rays(batches[1][1], pixels)),
        (project(three, points), project(four, points)),
        (project(three, np.asarray(points)), project(four, np.asarray(points))),
        (runs[0].render(three), runs[0].render(four)),
        (three.camera_to_world, Camera.pinhole(four.camera_to_world, 9.0, 8, 6).camera_to_world),
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    ring = paths.orbit(radius=3.0, frames=9)
    fours = np.concatenate([ring, np.broadcast_to(last, (9, 1, 4))], axis=1)
    for path in (
        lambda poses: paths.orbit_of(poses, 5),
        lambda poses: paths.spiral(poses[:3], 2.0, 5),
        lambda poses: paths.spline(poses, 5),
        paths.focus_point,
        Similarity(scale=2.0).poses,
    ):
        np.testing.assert_array_equal(path(fours), path(ring))

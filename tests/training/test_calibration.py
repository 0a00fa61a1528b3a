"""Photographs that disagree: what they and their cameras are off by is found, and kept apart."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import photographs
from disturbed import colour_error, disturb_colours, disturb_poses, pose_errors, rotation
from training_factory import first_state_of_voxels, trainer_of_voxels, voxel_config

from jaxnerf import Config, OccupancySampler
from jaxnerf.cli.eval import evaluate
from jaxnerf.config import override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import preset
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.evaluation import blend, corrected, psnr
from jaxnerf.methods import first_state, state_like, trainer_of
from jaxnerf.rendering import render_image
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.files import RunError
from jaxnerf.runs.folder import create_folder
from jaxnerf.runs.run import load_run
from jaxnerf.scenes import Scene, Similarity, Split, load_scene
from jaxnerf.training import sharding
from jaxnerf.training.batches import sample_batch
from jaxnerf.training.calibration import (
    Calibration,
    CalibrationConfig,
    first_calibration,
    rotations,
    step_calibration,
    without_common,
)
from jaxnerf.training.coarse_to_fine.settings import CoarseToFineConfig, StageInputs
from jaxnerf.training.coarse_to_fine.stages import with_limits
from jaxnerf.training.loop import train as train_with
from jaxnerf.training.optimizers import VoxelOptimizerConfig
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.trainer import AXES, gradients_of, local

GROWING = CoarseToFineConfig(
    resolutions=(16, 32), fractions=(0.25,), cells=16, samples=40, max_steps=60, mean_samples=12.0,
    refresh_every=50,
)  # fmt: skip
RATES = VoxelOptimizerConfig(beta1=0.9)
NEITHER = CalibrationConfig(colour_rate=1e-2, pose_rate=3e-3)
COLOURS = dataclasses.replace(NEITHER, affine_colour=True)
POSES = dataclasses.replace(NEITHER, refine_poses=True)
BOTH = dataclasses.replace(COLOURS, refine_poses=True)
CONFIG = TrainingConfig(steps=60, rays_per_batch=256, seed=3)
OF_BOTH: dict = {"optimizer": RATES, "calibration": BOTH}


def adjusted(split: Split, motions: np.ndarray, space=None) -> Calibration:
    found = first_calibration(split.cameras, POSES, space)
    assert found is not None
    return dataclasses.replace(found, motions=jnp.asarray(motions, jnp.float32))


def test_rotations_are_exponentials_and_smooth_at_none(float64):
    random = np.random.default_rng(0)
    turns = random.normal(size=(20, 3)) * np.geomspace(1e-9, 2.0, 20)[:, None]
    expected = np.stack([rotation(turn) for turn in turns])
    np.testing.assert_allclose(rotations(jnp.asarray(turns)), expected, atol=1e-12)
    # At none, the derivative in w is the cross product's matrix.
    slope = jax.jacobian(rotations)(jnp.zeros(3))
    axis = np.array([0.3, -0.5, 0.7])
    point = np.array([1.0, 2.0, -1.0])
    turned = np.einsum("ijk,k,j->i", slope, axis, point)
    np.testing.assert_allclose(turned, np.cross(axis, point), atol=1e-12)


@pytest.mark.parametrize("space", ["none", "ball", "frustum"])
def test_cameras_turn_about_the_pivot_and_shift(space):
    split = photographs(5)
    near = np.float32(0.7)
    given = {
        "none": None,
        "ball": SphereContraction(np.array([1.0, 0.5, 0.0], np.float32), np.float32(2.0)),
        "frustum": NdcSpace(np.ones(2, np.float32), np.ones(2, np.float32), near, near),
    }[space]
    motions = np.random.default_rng(1).normal(size=(5, 6)) * 0.2
    poses = np.asarray(split.cameras.camera_to_world, np.float64)
    pivot, unit = {
        "none": (np.zeros(3), 3.0),
        "ball": (np.array([1.0, 0.5, 0.0]), 2.0),
        "frustum": (poses[:, :, 3].mean(axis=0), near),
    }[space]
    found = adjusted(split, motions, given).cameras(split.cameras)
    assert found.lens == split.cameras.lens
    for pose, moved, motion in zip(poses, found.camera_to_world, motions, strict=True):
        turn = rotation(motion[:3])
        np.testing.assert_allclose(moved[:, :3], turn @ pose[:, :3], atol=1e-5)
        position = pivot + turn @ (pose[:, 3] - pivot) + unit * motion[3:]
        np.testing.assert_allclose(moved[:, 3], position, atol=1e-5)


def test_what_moves_all_cameras_as_one_is_taken_out_and_nothing_else():
    random = np.random.default_rng(2)
    arms = random.normal(size=(9, 3)) + 1.0
    common = np.zeros((7, 9, 6))
    for axis in range(6):
        common[axis, :, axis] = 1.0
    common[6, :, 3:] = arms
    for motion in common:
        left = without_common(jnp.asarray(motion, jnp.float32), jnp.asarray(arms, jnp.float32))
        np.testing.assert_allclose(left, np.zeros((9, 6)), atol=1e-5)
    motions = random.normal(size=(9, 6))
    left = without_common(jnp.asarray(motions, jnp.float32), jnp.asarray(arms, jnp.float32))
    basis = common.reshape(7, -1).T
    part = basis @ np.linalg.lstsq(basis, motions.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(left, motions - part.reshape(9, 6), atol=1e-5)


def test_colours_are_learned_with_momentum_where_the_field_is_not():
    split = photographs(4)
    found = first_calibration(split.cameras, COLOURS)
    assert found is not None
    slopes = np.random.default_rng(4).normal(size=(3, *found.colours.shape))
    slopes -= slopes.mean(axis=1, keepdims=True)
    expected = np.asarray(found.colours, np.float64)
    first = second = 0.0
    for count, slope in enumerate(slopes, 1):
        gradients = jnp.asarray(slope, jnp.float32), None
        rates = jnp.float32(0.01), jnp.float32(0.0)
        found = step_calibration(found, gradients, split.cameras, rates)
        # Kingma and Ba, "Adam", algorithm 1, with beta1 = 0.9 and beta2 = 0.99.
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope**2
        mean, square = first / (1.0 - 0.9**count), second / (1.0 - 0.99**count)
        expected = expected - 0.01 * mean / np.sqrt(square)
        expected -= expected.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(found.colours, expected, atol=1e-5)


def test_colours_are_mapped_but_not_the_background_that_alpha_lets_through():
    random = np.random.default_rng(3)
    found = first_calibration(photographs(4).cameras, COLOURS)
    assert found is not None
    assert found.motions is None
    off = random.normal(size=(4, 3, 4)).astype(np.float32)
    found = dataclasses.replace(found, colours=jnp.asarray(off))
    image = np.array([2, 0, 3])
    own, opacity, background = random.random((3, 3)), random.random(3), random.random((3, 3))
    behind = (1.0 - opacity)[:, None] * background
    shown = found.colour(
        jnp.asarray(image),
        *(jnp.asarray(x, jnp.float32) for x in (opacity[:, None] * own + behind, opacity, behind)),
    )
    for ray in range(3):
        affine = np.eye(3, 4) + off[image[ray]]
        mapped = affine[:, :3] @ own[ray] + affine[:, 3]
        expected = opacity[ray] * mapped + behind[ray]
        np.testing.assert_allclose(shown[ray], expected, atol=1e-5)


def train(split: Split, growing: CoarseToFineConfig, steps: int, calibration, config=CONFIG):
    config = dataclasses.replace(config, steps=steps)
    how = {"optimizer": RATES, "calibration": calibration}
    state = first_state_of_voxels(split, growing, config, **how)
    way = trainer_of_voxels(split, growing, config, **how)
    *_, last = train_with(state, way, report_every=steps)
    return local(way.to_host(last.state))


def quality(state, test: Split, frame: Similarity | None = None) -> float:
    """Mean PSNR of views from cameras that are given in the frame that the similarity leads to."""
    assert test.images is not None
    found = []
    for index in range(len(test)):
        pose = np.asarray(test.cameras.camera_to_world[index])
        pose = pose if frame is None else frame.inverse().poses(pose).astype(np.float32)
        camera = dataclasses.replace(test.cameras[index], camera_to_world=pose)
        sampler = OccupancySampler(state.sampler.occupancy, None, 96, 160, 12.0, 2)
        seen = render_image(state.field, state.params, camera, sampler)
        found.append(psnr(np.clip(seen.colour, 0.0, 1.0), blend(test.images[index], 1.0)))
    return float(np.mean(found))


@pytest.fixture(scope="module")
def views() -> tuple[Split, Split]:
    """Some to train on, and others between them."""
    return photographs(24), photographs(7)


@pytest.mark.slow
def test_known_colours_are_found_and_leave_the_scene_its_own(views):
    split, truth = disturb_colours(views[0], 0.15)
    found = train(split, GROWING, 250, COLOURS)
    affine = np.eye(3, 4) + found.calibration.colours
    at_first = colour_error(np.tile(np.eye(3, 4), (24, 1, 1)), truth, views[0].images)
    assert colour_error(affine, truth, views[0].images) < 0.75 * at_first
    np.testing.assert_allclose(affine.mean(axis=0), np.eye(3, 4), atol=1e-5)


def striped(split: Split) -> Split:
    """The ball with colours that tell how it is turned: its own, which are its normals, hardly do."""
    images = np.array(split.images)
    shown = images[..., 3] > 0
    normal = images[..., :3][shown] / 127.5 - 1.0
    images[..., :3][shown] = np.uint8(127.5 + 110.0 * np.sin(7.0 * normal))
    return dataclasses.replace(split, images=images)


@pytest.mark.release
def test_refined_poses_are_nearer_the_true_ones_and_make_better_pictures(views):
    training, test = (striped(split) for split in views)
    split = disturb_poses(training, 1.5, 0.02)
    truth = training.cameras.camera_to_world
    growing = dataclasses.replace(
        GROWING,
        resolutions=(32, 64),
        cells=32,
        samples=64,
        max_steps=96,
        mean_samples=24.0,
    )
    slower = dataclasses.replace(POSES, pose_rate=2e-3)
    config = dataclasses.replace(CONFIG, rays_per_batch=1024)
    plain = train(split, growing, 400, NEITHER, config)
    found = train(split, growing, 400, slower, config)
    angle_given, distance_given, as_given = pose_errors(split.cameras.camera_to_world, truth)
    cameras = jax.tree.map(np.asarray, found.calibration.cameras(split.cameras))
    angle, distance, frame = pose_errors(cameras.camera_to_world, truth)
    # A camera that circles a ball of 40 pixels by a degree moves what it shows by a third of a pixel.
    assert angle < 0.75 * angle_given
    assert distance < 0.75 * distance_given
    assert quality(found, test, frame) > quality(plain, test, as_given) + 2.0


@pytest.mark.release
def test_the_demo_s_disturbed_poses_and_colours_are_found(capsys):
    scene = load_scene(images=("train",))
    truth = scene.splits["train"]
    split, affine = disturb_colours(truth, 0.15)
    split = disturb_poses(split, 1.0, 0.015)
    scene = dataclasses.replace(scene, splits={"train": split})
    config = override(
        preset("minute"),
        {"training.steps": 700, "training.max_seconds": 0.0}
        | {"voxels.calibration.affine_colour": True, "voxels.calibration.refine_poses": True},
    )
    config = adapt_to_scene(config, scene)
    *_, last = train_with(first_state(config, scene), trainer_of(config, scene), report_every=700)
    found = local(last.state).calibration
    cameras = jax.tree.map(np.asarray, found.cameras(split.cameras))
    rows = []
    for poses, colours in (
        (split.cameras.camera_to_world, np.zeros_like(affine)),
        (cameras.camera_to_world, found.colours),
    ):
        angle, distance, _ = pose_errors(poses, truth.cameras.camera_to_world)
        rows.append([angle, distance, colour_error(np.eye(3, 4) + colours, affine, truth.images)])
    with capsys.disabled():
        print(f"\ndegrees, share of distance, colour: {np.round(rows, 4).tolist()}")
    assert (np.array(rows[1]) < [0.2 * rows[0][0], 0.2 * rows[0][1], 0.4 * rows[0][2]]).all()


@pytest.mark.slow
def test_poses_are_still_at_first_and_nothing_is_kept_where_nothing_is_adjusted(
    views,
):
    split = views[0]
    state = first_state_of_voxels(split, GROWING, CONFIG, **OF_BOTH)
    way = trainer_of_voxels(split, GROWING, CONFIG, **OF_BOTH)
    for report in train_with(state, way, report_every=1):
        moved = np.abs(np.asarray(report.state.calibration.motions)).max()
        coloured = np.abs(np.asarray(report.state.calibration.colours)).max()
        assert coloured > 0.0
        assert (moved > 0.0) == (report.step > 2)  # of 60
    assert first_state_of_voxels(split, GROWING, CONFIG).calibration is None


def test_two_devices_find_the_gradients_of_one(views):
    # Room for all samples: which rays overflow depends on the devices.
    growing = dataclasses.replace(GROWING, mean_samples=40.0)
    split = views[0]
    assert split.images is not None
    tiles = np.argwhere(np.ones((24, 8, 8), bool)).astype(np.int32)
    batch = sample_batch(
        split, CONFIG.rays_per_batch, CONFIG.seed, 0, tiles=tiles, block=2, transparent=True
    )
    cameras = jax.tree.map(jnp.asarray, split.cameras)
    moments = []
    for count in (1, 2):
        devices = jax.devices()[:count]
        way = trainer_of_voxels(split, growing, CONFIG, **OF_BOTH)
        shapes = functools.partial(gradients_of, devices=count)
        step = sharding.parallel(way.one_step, devices, axes=AXES, gradients=shapes)
        parts = jax.tree.map(lambda x, n=count: x.reshape(n, -1, *x.shape[1:]), batch)
        state = with_limits(
            first_state_of_voxels(split, GROWING, CONFIG, **OF_BOTH),
            StageInputs(split, growing, CONFIG),
        )
        state = dataclasses.replace(state, optimizer=sharding.divided(state.optimizer, devices))
        after, _ = step(state, parts, jax.random.key(0), cameras)
        moments.append(jax.tree.map(np.asarray, after.calibration.optimizer.mu))
    for one, two in zip(*moments, strict=True):
        assert np.abs(one).max() > 0.0
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4 * np.abs(one).max())


def configuration(calibration: CalibrationConfig) -> Config:
    return voxel_config(GROWING, CONFIG, optimizer=RATES, calibration=calibration)


@pytest.mark.slow
def test_a_run_with_both_goes_on_from_a_checkpoint_as_if_nothing_had_been(views, tmp_path):
    split = disturb_poses(views[0], 1.0, 0.01)
    state = first_state_of_voxels(split, GROWING, CONFIG, **OF_BOTH)
    way = trainer_of_voxels(split, GROWING, CONFIG, **OF_BOTH)
    states = {}
    for report in train_with(state, way, report_every=10):
        states[report.step] = local(way.to_host(report.state))
    Checkpoints(tmp_path).save(states[30])
    restored = Checkpoints(tmp_path).restore(configuration(BOTH), state_like(configuration(BOTH)))
    *_, last = train_with(
        restored, trainer_of_voxels(split, GROWING, CONFIG, **OF_BOTH), report_every=60
    )
    jax.tree.map(np.testing.assert_array_equal, local(way.to_host(last.state)), states[60])
    with pytest.raises(RunError, match="another configuration: calibration"):
        Checkpoints(tmp_path).restore(configuration(NEITHER), state_like(configuration(NEITHER)))


@pytest.mark.slow
def test_a_run_gives_the_refined_cameras_and_says_so(views, tmp_path):
    training, test = views
    split = disturb_poses(training, 1.0, 0.01)
    scene = Scene(
        "ball", tmp_path, "blender", {"train": split, "test": test}, 1.0, 5.0,
        Similarity(2.0, rotation(np.array([0.1, 0.2, 0.3])), np.array([1.0, 2.0, 3.0])),
    )  # fmt: skip
    config = override(configuration(BOTH), {"scene.space": "bounded"})
    state = train(split, GROWING, 30, BOTH)
    create_folder(tmp_path / "run", config, scene)
    Checkpoints(tmp_path / "run").save(state)
    run = load_run(tmp_path / "run")
    refined = np.asarray(state.calibration.cameras(split.cameras).camera_to_world)
    expected = scene.to_user.poses(refined)
    np.testing.assert_allclose(run.cameras().camera_to_world, expected, atol=1e-5)
    given = scene.to_user.poses(np.asarray(split.cameras.camera_to_world))
    assert np.abs(run.cameras().camera_to_world - given).max() > 1e-3
    np.testing.assert_allclose(
        run.cameras("test").camera_to_world,
        scene.to_user.poses(np.asarray(test.cameras.camera_to_world)),
        atol=1e-5,
    )
    evaluate(run, scene, every=3)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "as given" in results["protocol"]["poses"]
    assert "own" in results["protocol"]["colours"]
    assert results["psnr_colour_corrected"] >= results["psnr"] - 1e-6
    evaluate(run, scene, "train", every=12)
    results = json.loads((tmp_path / "run" / "results_train.json").read_text())
    assert "refined" in results["protocol"]["poses"]
    # Another scene's run: as many motions as it has cameras, or none can be said to be whose.
    fewer = jax.tree.map(lambda x: x[:5] if np.ndim(x) > 1 else x, state.calibration)
    other = tmp_path / "other"
    create_folder(other, config, scene)
    Checkpoints(other).save(dataclasses.replace(state, calibration=fewer))
    with pytest.raises(RunError, match="5 photographs"):
        load_run(other)


def test_colours_are_corrected_by_the_nearest_affine_map():
    random = np.random.default_rng(5)
    picture = random.random((200, 3))
    affine = np.eye(3) * 0.8 + 0.05 * random.random((3, 3))
    truth = picture @ affine.T + 0.02
    np.testing.assert_allclose(corrected(picture, truth), truth, atol=1e-9)
    noisy = truth + 0.05 * random.normal(size=truth.shape)
    assert psnr(corrected(picture, noisy), noisy) > psnr(picture, noisy)

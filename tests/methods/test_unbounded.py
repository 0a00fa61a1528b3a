"""Unbounded scenes: what is chosen for them, and that they are learned with their distances."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ball import CENTRE, FOCAL, RADIUS, SIDE, photographs, with_surroundings

from jaxnerf.cameras import Camera, cast_rays, look_at_pose
from jaxnerf.cli.messages import region
from jaxnerf.config import Config, ConfigError, SceneConfig, flatten, override, to_json
from jaxnerf.config.adaptation import adapt_to_scene, bounds_of, space_of
from jaxnerf.config.presets import preset
from jaxnerf.config.sections import VoxelsConfig
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.methods import first_state, trainer_of
from jaxnerf.runs.files import RunError
from jaxnerf.runs.folder import read_config
from jaxnerf.runs.run import Run, run_of
from jaxnerf.sampling.occupancy import Occupancy
from jaxnerf.scenes import NdcFrame, Scene, Similarity, Split
from jaxnerf.training.coarse_to_fine.settings import CoarseToFineConfig
from jaxnerf.training.loop import train
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.trainer import local


def scene_of(split: Split, **what) -> Scene:
    return Scene("balls", Path("."), "test", {"train": split}, 0.05, 1000.0, **what)


CONFIG = Config(
    method="voxels",
    scene=SceneConfig(ball=0.5),  # so few voxels as here must not be spent on what lies between
    voxels=VoxelsConfig(
        VoxelSettings(width=8),
        CoarseToFineConfig(
            resolutions=(32, 64), fractions=(0.5,), cells=32, samples=64, max_steps=96,
            mean_samples=24.0, refresh_every=50,
        ),
    ),
    training=TrainingConfig(steps=240, rays_per_batch=1024, seed=1),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> Run:
    scene = scene_of(with_surroundings(photographs(24, one_side=True)), unbounded=True)
    config = adapt_to_scene(CONFIG, scene)
    *_, last = train(first_state(config, scene), trainer_of(config, scene))
    state = local(last.state)
    return run_of(Path("run"), config, scene, state)


@pytest.mark.slow
def test_the_ball_and_what_is_far_behind_it_are_where_they_are(trained):
    split = trained.scene.splits["train"]
    camera = split.cameras[3]
    seen = trained.render(camera)
    truth = split.images[3][..., :3] / 255.0
    assert -10.0 * np.log10(np.mean((seen.colour - truth) ** 2)) > 20.0
    eye = np.asarray(camera.camera_to_world)[:, 3]
    to_ball = np.linalg.norm(CENTRE - eye)
    offset = (CENTRE - eye) @ np.asarray(camera.camera_to_world)[:, :3]
    column, row = (
        FOCAL * offset[0] / -offset[2] + SIDE / 2,
        -FOCAL * offset[1] / -offset[2] + SIDE / 2,
    )
    # Of the median, which fog before the camera does not move.
    distance = seen.depth_median * seen.distance / seen.depth
    assert abs(distance[int(row), int(column)] - (to_ball - RADIUS)) < RADIUS
    # Farther than the far side of the ball; how far, so few and so small pictures do not tell.
    behind = photographs(24, one_side=True).images[3][..., 3] == 0
    assert np.median(distance[behind]) > to_ball + RADIUS


@pytest.mark.slow
def test_surface_points_go_with_the_frame_of_the_files(trained):
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    files = Similarity(3.7, turn, random.normal(size=3) * 20.0)
    moved = dataclasses.replace(trained, scene=dataclasses.replace(trained.scene, to_user=files))
    points = []
    for run in (trained, moved):
        camera = run.cameras()[5].resized(16, 16)
        seen, pixels = run.render(camera), np.stack(np.meshgrid(*[np.arange(16) + 0.5] * 2), -1)
        rays = cast_rays(camera, jnp.asarray(pixels.reshape(-1, 2), jnp.float32))
        depth = seen.depth.reshape(-1, 1)
        points.append(np.asarray(rays.origins) + depth * np.asarray(rays.directions))
    size = np.abs(points[0]).max()
    assert np.abs(files.inverse().points(points[1]) - points[0]).max() < 1e-4 * size


def test_a_frustum_holds_all_that_its_cameras_see():
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (3, 1, 1))
    poses[:, 0, 3] = [-0.5, 0.0, 0.5]
    cameras = Camera.pinhole(poses, 40.0, 64, 48)
    split = Split(("a", "b", "c"), cameras, np.zeros((3, 48, 64, 4), np.uint8))
    scene = scene_of(split, ndc=NdcFrame((40.0, 40.0), (64, 48), 1.0))
    config = adapt_to_scene(CONFIG, scene)
    space = space_of(config, scene)
    assert config.scene.space == "forward"
    assert isinstance(space, NdcSpace)
    # On the near plane, half a unit aside: 40 * 0.5 = 20 of 32 pixels beyond the middle one's edge.
    np.testing.assert_allclose(space.reach, 1.0 + 20.0 / 32.0, rtol=1e-5)


def test_longer_runs_have_a_finer_stage_which_a_user_s_stages_are_not():
    capture, alone = (
        scene_of(with_surroundings(photographs()), unbounded=True),
        scene_of(photographs()),
    )
    long = preset("five_minutes")
    stages = adapt_to_scene(long, capture).voxels.stages
    before = long.voxels.stages
    assert stages.resolutions[:-1] == before.resolutions
    assert stages.resolutions[-1] > before.resolutions[-1]
    assert stages.fractions[:-1] == before.fractions
    assert before.fractions[-1] < stages.fractions[-1] < 1.0
    assert adapt_to_scene(long, alone).voxels.stages == before
    short = preset("minute")
    assert adapt_to_scene(short, capture).voxels.stages.resolutions == (
        short.voxels.stages.resolutions
    )
    # A run that goes on has the stage already, and gets no other.
    adapted = adapt_to_scene(long, capture)
    assert adapt_to_scene(adapted, capture, {"scene.space"}) == adapted
    for key, value in (("resolutions", (32, 64, 96)), ("fractions", (0.2, 0.4))):
        own = override(long, {f"voxels.stages.{key}": value})
        kept = adapt_to_scene(own, capture, {f"voxels.stages.{key}"}).voxels.stages
        assert (kept.resolutions, kept.fractions) == (
            own.voxels.stages.resolutions,
            own.voxels.stages.fractions,
        )


@pytest.mark.parametrize("ball", [0.5, 1.0])
def test_the_ball_is_as_large_as_the_cameras_are_far_times_what_is_configured(ball):
    scene = scene_of(with_surroundings(photographs()), unbounded=True)
    space = space_of(adapt_to_scene(override(CONFIG, {"scene.ball": ball}), scene), scene)
    assert isinstance(space, SphereContraction)
    np.testing.assert_allclose(space.centre, 0.0, atol=1e-5)
    np.testing.assert_allclose(space.radius, 3.0 * ball, rtol=1e-5)


def ring(radius: float, looks: float, count: int = 12) -> Camera:
    """Cameras in a level ring that look inwards (1) or outwards (-1), with pictures 90 degrees wide."""
    angles = 2.0 * np.pi * np.arange(count) / count
    away = np.stack([np.cos(angles), np.sin(angles), 0.0 * angles], axis=-1)
    poses = np.stack([look_at_pose(radius * out, (1.0 - looks) * radius * out) for out in away])
    return Camera.pinhole(poses, 16.0, 32, 32)


def around(radius: float) -> np.ndarray:
    """Points on a ball, evenly."""
    points = np.random.default_rng(0).normal(size=(400, 3))
    return radius * points / np.linalg.norm(points, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("looks", "points", "ball"),
    [
        (1.0, None, 1.0),
        (-1.0, None, 3.0),
        # In the cameras' midst; walls around them, which some of the points do not hide; far away.
        (1.0, around(1.0), 1.0),
        (1.0, np.concatenate([around(1.0)[:20], around(4.0)]), 2.0),
        (-1.0, around(4.5), 2.25),
        (-1.0, around(100.0), 3.0),
        (1.0, np.zeros((0, 3)), 1.0),
    ],
)
def test_the_ball_suits_what_the_cameras_see(looks, points, ball):
    """In distances of the cameras, which is 2: what the points' shells are drawn with."""
    scene = scene_of(Split(("",) * 12, ring(2.0, looks), None), unbounded=True, points=points)
    config = adapt_to_scene(override(CONFIG, {"scene.ball": 0.0}), scene)
    assert config.scene.ball == pytest.approx(ball, rel=1e-5)
    assert space_of(config, scene).radius == pytest.approx(2.0 * ball, rel=1e-5)
    # What was chosen is kept, also by a run that goes on with other points.
    kept = adapt_to_scene(config, dataclasses.replace(scene, points=around(3.0)))
    assert kept.scene.ball == config.scene.ball
    assert adapt_to_scene(CONFIG, scene).scene.ball == 0.5


def test_rays_of_captures_begin_at_near_and_the_fast_field_s_have_no_end():
    capture, alone = (
        scene_of(with_surroundings(photographs()), unbounded=True),
        scene_of(photographs()),
    )
    assert bounds_of(adapt_to_scene(CONFIG, capture), capture) == (0.05, np.inf)
    assert bounds_of(adapt_to_scene(CONFIG, alone), alone) == (0.0, np.inf)
    named = override(CONFIG, {"scene.near": 0.05})
    assert bounds_of(adapt_to_scene(named, alone), alone) == (0.05, np.inf)
    network = adapt_to_scene(preset("nerf_small"), capture)
    assert bounds_of(network, capture) == (0.05, pytest.approx(3000.0))
    assert bounds_of(adapt_to_scene(preset("nerf_small"), alone), alone) == (0.05, 1000.0)


def test_what_suits_a_scene_is_chosen_but_not_against_the_user():
    split, start = photographs(2), preset("minute")
    assert adapt_to_scene(start, scene_of(split)) == override(
        start, {"scene.space": "bounded", "training.background": "white"}
    )
    open_end = scene_of(with_surroundings(split), unbounded=True)
    changed = adapt_to_scene(start, open_end)
    assert changed.voxels.optimizer.density_rate < start.voxels.optimizer.density_rate
    assert (start.voxels.optimizer.beta1, changed.voxels.optimizer.beta1) == (0.0, 0.9)
    assert (start.voxels.optimizer.feature_rate, changed.voxels.optimizer.feature_rate) == (
        0.1,
        0.3,
    )
    mine = override(start, {"voxels.optimizer.density_rate": 0.4})
    kept = adapt_to_scene(mine, open_end, ["voxels.optimizer.density_rate"])
    assert kept.voxels.optimizer.density_rate == 0.4
    assert kept.voxels.field.initial_opacity == changed.voxels.field.initial_opacity
    fine, bounded = preset("five_minutes"), scene_of(split)
    short = dataclasses.replace(fine.voxels.stages, resolutions=(64, 128, 200))
    short = dataclasses.replace(fine, voxels=dataclasses.replace(fine.voxels, stages=short))
    adapted = adapt_to_scene(short, open_end).voxels.stages
    assert short.voxels.stages.target_vertices > adapted.target_vertices == 0
    details = [adapt_to_scene(each, open_end).voxels.field.log2_detail for each in (short, fine)]
    assert details == [0, 20]
    own = adapt_to_scene(fine, open_end, ["voxels.stages.resolutions", "voxels.stages.fractions"])
    assert own.voxels.field.log2_detail == 0
    assert adapt_to_scene(fine, bounded).voxels == fine.voxels
    named = adapt_to_scene(fine, bounded, ["voxels.stages.resolutions"]).voxels.stages
    assert named.target_vertices == named.voxels_for_steps == 0
    both = adapt_to_scene(
        fine, bounded, ["voxels.stages.resolutions", "voxels.stages.target_vertices"]
    ).voxels.stages
    assert (both.target_vertices, both.voxels_for_steps) == (fine.voxels.stages.target_vertices, 0)
    # What a run was trained with is not changed when it goes on.
    saved = override(changed, {"voxels.field.initial_opacity": 0.05})
    assert flatten(adapt_to_scene(saved, open_end)) == flatten(saved)


def test_cameras_that_look_everywhere_are_not_forward():
    scene = scene_of(photographs(2), unbounded=True)
    with pytest.raises(ConfigError, match=r"scene\.space"):
        adapt_to_scene(override(preset("minute"), {"scene.space": "forward"}), scene)


@pytest.mark.parametrize("space", ["unbounded", "forward"])
def test_the_paper_s_network_learns_in_any_space(space):
    split = with_surroundings(photographs(4))
    ndc = NdcFrame((FOCAL, FOCAL), (SIDE, SIDE), 0.5) if space == "forward" else None
    if ndc:
        poses = np.tile(np.eye(3, 4, dtype=np.float32), (4, 1, 1))
        poses[:, 0, 3] = np.linspace(-0.1, 0.1, 4)
        cameras = dataclasses.replace(split.cameras, camera_to_world=poses)
        split = dataclasses.replace(split, cameras=cameras)
    scene = dataclasses.replace(scene_of(split), ndc=ndc, unbounded=ndc is None)
    small = {
        "nerf.field.depth": 2, "nerf.field.width": 16, "nerf.field.skip_after": 0,
        "nerf.field.view_width": 8,
        "nerf.samples": (16, 8), "training.rays_per_batch": 256, "training.steps": 60,
        "nerf.optimizer.learning_rate": 5e-3, "nerf.optimizer.delay_steps": 0,
    }  # fmt: skip
    config = adapt_to_scene(override(preset("nerf"), small), scene)
    assert config.nerf.spacing == "disparity"
    first, *_, last = train(first_state(config, scene), trainer_of(config, scene), report_every=1)
    assert last.metrics["loss"] < 0.7 * first.metrics["loss"]
    run = run_of(Path("run"), config, scene, local(last.state))
    seen = run.render(split.cameras[1].resized(8, 8), normals=True)
    assert np.isfinite(seen.colour).all()
    assert (seen.depth > 0.05).all()
    np.testing.assert_allclose(np.linalg.norm(seen.normals, axis=-1), 1.0, atol=1e-3)


def test_where_the_field_is_is_told_in_the_frame_of_the_files():
    turned = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    scene = scene_of(photographs(3), to_user=Similarity(2.0, turned, np.array([1.0, 2.0, 3.0])))
    cells, origin, cell = jnp.zeros((4, 4, 4), jnp.uint8), jnp.float32([0.5, -1.5, -0.5]), 0.25
    grid = Occupancy(cells, origin, jnp.float32(cell), jnp.float32(cell))
    # The middle (1, -1, 0) is turned to (1, 1, 0), scaled to (2, 2, 0) and shifted.
    assert region(scene, grid) == "in a cube of 2 around (3, 4, 3); "
    ball = SphereContraction(jnp.float32([1.0, -3.0, 0.0]), jnp.float32(0.5))
    found = region(scene, dataclasses.replace(grid, space=ball))
    assert found == "contracted beyond 1 from (7, 4, 3); "
    assert region(scene, None) == ""


@pytest.mark.parametrize("space", ["unbounded", "forward", "bounded"])
def test_a_run_whose_densities_meant_something_else_is_refused(tmp_path, space):
    """Of before `scene.ball`: in unbounded spaces its pictures would be silently wrong."""
    values = json.loads(to_json(override(CONFIG, {"scene.space": space})))
    del values["scene"]["ball"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    if space == "bounded":
        assert read_config(tmp_path).scene.space == "bounded"
    else:
        with pytest.raises(RunError, match=r"config\.json: of an older version.*train again"):
            read_config(tmp_path)


@pytest.mark.parametrize("space", ["auto", "bounded", "unbounded"])
@pytest.mark.parametrize("count", [1, 3])
def test_photographs_from_one_place_are_refused(space, count):
    split = photographs()
    cameras = split.cameras[np.arange(count)]
    poses = np.array(cameras.camera_to_world)
    poses[:, :, 3] = poses[0, :, 3]
    assert split.images is not None
    alone = Split(
        split.names[:count],
        dataclasses.replace(cameras, camera_to_world=poses),
        split.images[:count],
    )
    scene = Scene("ball", Path("ball"), "test", {"train": alone}, 1.0, 5.0)
    config = dataclasses.replace(preset("minute"), scene=SceneConfig(space=space))
    said = "one photograph to train" if count == 1 else "3 photographs to train on, from one place"
    with pytest.raises(ConfigError, match=said):
        adapt_to_scene(config, scene)
    if count == 3:  # as they were
        apart = dataclasses.replace(alone, cameras=cameras)
        adapt_to_scene(config, dataclasses.replace(scene, splits={"train": apart}))

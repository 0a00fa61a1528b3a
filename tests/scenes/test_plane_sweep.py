"""Points found in photographs, against the surfaces that were painted."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from painted_views import FOCAL, HEIGHT, WIDTH, arc, paint, poses, textures

import jaxnerf
from jaxnerf.cameras import Camera, project
from jaxnerf.config import Config, ConfigError, SceneConfig, override, to_json
from jaxnerf.config.adaptation import adapt_to_scene, ball_of, find_points_for
from jaxnerf.config.presets import preset
from jaxnerf.runs.folder import read_config
from jaxnerf.scenes import HeldOutPoints, Scene, Split, plane_sweep
from jaxnerf.scenes.plane_sweep import FoundPoints, find_points, with_found_points

FISHEYE = 260.0


@pytest.fixture(autouse=True, scope="module")
def few_patches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plane_sweep, "_PATCHES", 900)
        yield


@functools.cache
def painted(fisheye: float | None = None) -> Split:
    views = poses(arc(9))
    pictures = np.stack([paint(pose, textures(), fisheye) for pose in views])
    alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
    focal = np.full((9, 2), FOCAL if fisheye is None else fisheye)
    cameras = Camera(
        views.astype(np.float32), focal.astype(np.float32),
        np.full((9, 2), [WIDTH / 2, HEIGHT / 2], np.float32), np.zeros((9, 6), np.float32),
        np.full((9, 2), [WIDTH, HEIGHT], np.int32), "pinhole" if fisheye is None else "fisheye",
    )  # fmt: skip
    names = tuple(f"{index:02d}.png" for index in range(9))
    return Split(names, cameras, np.concatenate([pictures, alpha], axis=-1))


@functools.cache
def found_in(fisheye: float | None = None) -> FoundPoints:
    found = find_points(painted(fisheye))
    assert found is not None
    return found


def scene(split: Split, **what) -> Scene:
    return Scene("box", Path("box"), "test", {"train": split}, 0.05, 1000.0, unbounded=True, **what)


def away(points: np.ndarray) -> np.ndarray:
    """The distance of points from the box or the floor, whichever is nearer."""
    x, y, z = np.abs(points - [0.0, 0.0, 0.4]).T
    outside = np.stack([x - 0.5, y - 0.5, z - 0.4], axis=-1)
    to_box = np.linalg.norm(np.maximum(outside, 0.0), axis=-1) + np.minimum(
        outside.max(axis=-1), 0.0
    )
    return np.minimum(np.abs(to_box), np.abs(points[:, 2]))


@pytest.mark.parametrize("fisheye", [None, FISHEYE])
def test_points_lie_on_the_surfaces_that_were_painted(fisheye):
    found = found_in(fisheye)
    assert len(found.positions) > 150
    # The cameras are 4 from the origin.
    wrong = away(found.positions)
    assert np.median(wrong) < 0.015
    assert np.mean(wrong < 0.05) > 0.93
    # On the floor, on top of the box, and on its sides.
    height = found.positions[:, 2]
    for low, high in ((-0.05, 0.05), (0.1, 0.7), (0.75, 0.85)):
        assert np.mean((height > low) & (height < high)) > 0.01
    assert (found.nearest is None) == (fisheye is not None)


def test_tracks_are_of_cameras_in_whose_pictures_points_lie():
    split, found = painted(), found_in()
    count = np.bincount(found.tracks[:, 1], minlength=len(found.positions))
    assert count.min() >= 3
    for index in range(len(split)):
        seen = found.positions[found.tracks[found.tracks[:, 0] == index, 1]]
        pixel, depth = (np.asarray(x) for x in project(split.cameras[index], seen))
        assert (depth > 0.0).all()
        assert (pixel >= 0.0).all()
        assert (pixel < [WIDTH, HEIGHT]).all()


def test_masked_pixels_and_padding_have_no_points():
    whole = painted()
    assert whole.images is not None
    masks = np.zeros(whole.images.shape[:3], bool)
    masks[:, :, : WIDTH // 2] = True
    sizes = np.full((9, 2), [WIDTH, HEIGHT - 80], np.int32)
    cameras = dataclasses.replace(whole.cameras, size=sizes)
    found = find_points(dataclasses.replace(whole, masks=masks, cameras=cameras))
    assert found is not None
    for index in range(9):
        seen = found.positions[found.tracks[found.tracks[:, 0] == index, 1]]
        pixel = np.asarray(project(whole.cameras[index], seen)[0])
        assert (pixel[:, 0] < WIDTH / 2).all()
        assert (pixel[:, 1] < HEIGHT - 80).all()


def test_where_photographs_do_not_agree_nothing_is_found():
    split = painted()
    assert split.images is not None
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, split.images.shape).astype(np.uint8)
    noise[..., 3] = 255
    even = np.full_like(split.images, 255)
    mixed_up = split.images[[4, 0, 7, 2, 8, 5, 1, 6, 3]]
    for images in (noise, even, mixed_up):
        assert find_points(dataclasses.replace(split, images=images)) is None
    clear = split.images.copy()
    clear[..., 3] = 0
    assert find_points(dataclasses.replace(split, images=clear)) is None


@pytest.mark.parametrize("chosen", [[0], [0, 1], [0, 0, 0]])
def test_two_places_are_not_enough(chosen):
    split = painted()
    assert split.images is not None
    names = tuple(split.names[index] for index in chosen)
    assert find_points(Split(names, split.cameras[np.array(chosen)], split.images[chosen])) is None


def test_a_camera_that_nobody_stands_beside_does_not_matter():
    split = painted()
    turned = np.array(split.cameras.camera_to_world)
    turned[4, :, [0, 2]] *= -1.0
    alone = dataclasses.replace(split.cameras, camera_to_world=turned)
    found = find_points(dataclasses.replace(split, cameras=alone))
    assert found is not None
    assert 4 not in found.tracks[:, 0]


def test_far_from_the_origin_the_same_points_are_found():
    split, far = painted(), np.array([3e6, -1e6, 2e5])
    poses = np.array(split.cameras.camera_to_world, np.float64)
    poses[:, :, 3] += far
    moved = dataclasses.replace(split.cameras, camera_to_world=poses)
    found = find_points(dataclasses.replace(split, cameras=moved))
    assert found is not None
    np.testing.assert_allclose(found.positions - far, found_in().positions, atol=1e-3)


def test_a_scene_gets_points_and_a_near_where_files_have_none():
    found = with_found_points(scene(painted()))
    assert found.points_found
    assert found.points is not None
    assert found.tracks is not None
    assert found.held_out is None
    # The nearest surface is 2.8 from the cameras.
    assert 1.2 < found.near < 2.8
    named = with_found_points(dataclasses.replace(scene(painted()), near=0.3))
    assert named.near == 0.3
    points = np.zeros((1, 3))
    read = scene(painted(), points=points, held_out=HeldOutPoints(points))
    assert with_found_points(read) is read


def test_points_are_found_where_a_configuration_wants_them():
    known = scene(painted())
    assert find_points_for(Config(), known).points_found
    forward = Config(method="nerf", scene=SceneConfig(space="forward"))
    assert find_points_for(forward, known) is known
    named = SceneConfig(near=known.near)
    assert find_points_for(Config(scene=named), known).near == known.near
    for how in (SceneConfig(find_points=False), SceneConfig(space="bounded")):
        assert find_points_for(Config(scene=how), known) is known


def test_of_points_that_were_found_cameras_that_look_outwards_have_the_largest_ball():
    turns = np.arange(12) * np.pi / 6.0
    forward = np.stack([np.cos(turns), np.sin(turns), np.zeros(12)], axis=-1)
    right = np.stack([np.sin(turns), -np.cos(turns), np.zeros(12)], axis=-1)
    up = np.tile([0.0, 0.0, 1.0], (12, 1))
    outward = np.stack([right, up, -forward, 0.5 * forward], axis=-1).astype(np.float32)
    cameras = dataclasses.replace(painted().cameras[np.arange(12) % 9], camera_to_world=outward)
    near = 0.9 * np.concatenate([forward, forward + 0.01])
    split = Split(("",) * 12, cameras)
    assert ball_of(scene(split, points=near, points_found=True)) == 3.0
    assert ball_of(scene(split, points=near)) < 2.0


def test_a_run_of_a_version_that_found_no_points_goes_on_without(tmp_path):
    now = json.loads(to_json(Config()))
    (tmp_path / "config.json").write_text(json.dumps(now))
    assert read_config(tmp_path).scene.find_points
    del now["scene"]["find_points"]
    (tmp_path / "config.json").write_text(json.dumps(now))
    assert not read_config(tmp_path).scene.find_points


@pytest.mark.slow
def test_a_resumed_run_has_the_points_of_the_run_that_it_goes_on_with(tmp_path):
    how = {"training__rays_per_batch": 512, "voxels__stages__resolutions": "24,32"}
    how |= {"voxels__stages__fractions": "0.4"}
    begun = jaxnerf.fit("minute", scene(painted()), tmp_path / "run", steps=4, **how)
    assert begun.scene.points_found
    ended = jaxnerf.fit("minute", scene(painted()), tmp_path / "run", steps=6, resume=True, **how)
    assert ended.step == 6
    np.testing.assert_array_equal(ended.scene.points, begun.scene.points)
    assert ended.scene.near == begun.scene.near == jaxnerf.load_run(tmp_path / "run").scene.near
    assert ended.config.scene.ball == begun.config.scene.ball


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_with_its_background_loss_and_rate(tmp_path):
    train = functools.partial(jaxnerf.fit, scene=scene(painted()), out=tmp_path / "run")
    small = override(preset("five_minutes"), {"training.rays_per_batch": 512})
    begun = train(small, steps=4, voxels__field__log2_detail=0).config
    assert begun.voxels.transmittance_loss > 0.0
    assert adapt_to_scene(small, scene(painted())).voxels.field.log2_detail == 20
    path = tmp_path / "run" / "config.json"
    before = json.loads(path.read_text())
    del before["voxels"]["transmittance_loss"]
    before["training"]["background"] = "random"
    assert before["voxels"]["optimizer"]["density_rate"] == 0.3
    before["voxels"]["optimizer"]["density_rate"] = 0.2
    del before["voxels"]["field"]["log2_detail"], before["voxels"]["field"]["detail_finer"]
    path.write_text(json.dumps(before))
    grey = override(
        small, {"training.background": "#808080"}
    )  # which an unbounded scene did not heed
    for config in (small, grey):
        ended = train(config, steps=6, resume=True).config
        assert ended.training.background == "random"
        assert ended.voxels.transmittance_loss == 0.0
        assert ended.voxels.optimizer.density_rate == 0.2
        assert ended.voxels.field.log2_detail == 0
    more = override(small, {"voxels.transmittance_loss": 0.02})
    with pytest.raises(ConfigError, match=r"trained with voxels\.transmittance_loss=0\.0"):
        train(more, steps=8, resume=True)

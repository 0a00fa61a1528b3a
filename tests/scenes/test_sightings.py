"""Points that cameras see: where, how deep, and what they do to a step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import CENTRE, RADIUS, photographs
from colmap_factory import write_project
from scene_factory import CENTRES
from training_factory import first_state_of_voxels, voxel_config

from jaxnerf import Camera, OccupancySampler, cast_rays, load_scene, render_rays
from jaxnerf.cameras import look_at_pose
from jaxnerf.compositing import deviation_of, volume_weights
from jaxnerf.methods import voxels
from jaxnerf.sampling import dense_samples
from jaxnerf.scenes.sightings import Sightings, sightings_of
from jaxnerf.training.batches import sample_batch, usable_sightings
from jaxnerf.training.coarse_to_fine import CoarseToFine, CoarseToFineConfig, StageInputs
from jaxnerf.training.loop import train
from jaxnerf.training.settings import TrainingConfig


def cameras(lens: str = "pinhole") -> Camera:
    poses = np.stack([look_at_pose((4.0, 0.5 * k - 1.0, 1.0), (0, 0, 0)) for k in range(4)])
    camera = Camera.pinhole(poses, 60.0, 64, 48)
    return dataclasses.replace(camera, lens=lens)


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_a_ray_through_the_pixel_meets_the_point_at_the_depth(lens):
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 3))
    tracks = np.stack(np.meshgrid(np.arange(4), np.arange(50)), axis=-1).reshape(-1, 2)
    found = sightings_of(points, cameras(lens), tracks)
    assert len(found) > 150
    rays = cast_rays(cameras(lens)[found.camera], jnp.asarray(found.pixel))
    met = np.asarray(rays.at(jnp.asarray(found.depth)[:, None]))[:, 0]
    assert np.abs(met - points[found.point]).max() < 1e-3
    assert (found.pixel >= 0.0).all()
    assert (found.pixel < [64, 48]).all()


def test_only_the_tracks_that_are_known_count():
    points = np.array([[0.0, 0.0, 0.0], [0.1, 0.1, 0.0]])
    found = sightings_of(points, cameras(), np.array([[2, 1], [0, 0]]))
    assert (found.camera.tolist(), found.point.tolist()) == ([0, 2], [0, 1])


def test_without_tracks_points_behind_others_are_not_seen():
    random = np.random.default_rng(1)
    front = np.concatenate([np.full((30_000, 1), 1.0), random.uniform(-2.5, 2.5, (30_000, 2))], 1)
    behind = front[:4000] * [0.0, 1.0, 1.0] - [3.0, 0.0, 0.0]
    eye = Camera.pinhole(look_at_pose((4.0, 0.0, 0.0), (0, 0, 0))[None], 60.0, 64, 48)
    alone = sightings_of(behind, eye)
    assert len(alone) > 500
    both = sightings_of(np.concatenate([front, behind]), eye)
    np.testing.assert_allclose(both.depth, 3.0, atol=1e-4)
    assert (both.point < len(front)).all()
    assert len(both) > 500


def test_light_that_is_stopped_elsewhere_deviates():
    t = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    samples = dense_samples(cast_rays(cameras()[:1], jnp.full((1, 2), 20.0), 1.0, 4.0), t)
    density = jnp.array([[0.2, 0.5, 3.0]])
    weights = volume_weights(density, t)
    found = float(deviation_of(samples, weights, jnp.array([2.5]))[0])
    # By a slow sum: middles of the intervals, and the light that is left.
    light, expected = 1.0, 0.0
    for middle, sigma in zip((1.5, 2.5, 3.5), (0.2, 0.5, 3.0), strict=True):
        weight = light * (1.0 - np.exp(-sigma))
        expected += weight * min(abs(middle / 2.5 - 1.0), 1.0)
        light -= weight
    assert found == pytest.approx(expected + light, rel=1e-5)
    assert float(deviation_of(samples, 0.0 * weights, jnp.array([2.5]))[0]) == 1.0


@pytest.mark.parametrize("block", [1, 4])
def test_every_8th_square_shows_a_known_point_and_the_others_are_drawn_as_ever(block):
    split = photographs(3)
    places = np.random.default_rng(2).uniform(2.0, 60.0, (40, 2)).astype(np.float32)
    seen = Sightings(
        np.arange(40, dtype=np.int32) % 3, places, np.linspace(1.0, 5.0, 40).astype(np.float32)
    )
    plain = sample_batch(split, 160, 1, 5, block=block)
    batch = sample_batch(split, 160, 1, 5, block=block, sightings=seen, certainty=0.5)
    assert plain.depth is None
    known = np.asarray(batch.certainty) > 0.0
    np.testing.assert_array_equal(np.flatnonzero(known), np.arange(0, 160, 8))
    for which in np.flatnonzero(known):
        near = np.abs(places - batch.middle[which]).max(axis=-1) <= 0.5 * block + 0.5
        assert (
            near & (seen.camera == batch.camera[which]) & (seen.depth == batch.depth[which])
        ).any()
        x, y = (batch.middle[which] - 0.5 * block).astype(int)
        patch = split.images[batch.camera[which], y : y + block, x : x + block].reshape(-1, 4)
        np.testing.assert_array_equal(batch.pixels[which], patch)
    for name in ("camera", "middle", "pixels"):
        np.testing.assert_array_equal(getattr(plain, name)[~known], getattr(batch, name)[~known])
    none = sample_batch(split, 160, 1, 5, block=block, sightings=seen, certainty=0.0)
    np.testing.assert_array_equal(none.pixels, plain.pixels)
    assert not np.asarray(none.certainty).any()


def test_pixels_that_do_not_count_are_not_trained_on_because_a_point_is_there():
    split = photographs(3)
    masks = np.ones(split.images.shape[:3], bool)
    masks[:, :, 30:] = False
    split = dataclasses.replace(split, masks=masks)
    places = np.random.default_rng(4).uniform(4.0, 60.0, (40, 2)).astype(np.float32)
    seen = Sightings(np.arange(40, dtype=np.int32) % 3, places, np.ones(40, np.float32))
    usable = usable_sightings(split, seen, 4)
    assert (usable.pixel[:, 0] < 29.0).all()
    batch = sample_batch(split, 400, 1, 5, block=4, sightings=usable, certainty=1.0)
    assert (batch.middle[:, 0] <= 28.0).all()
    whole = usable_sightings(photographs(3), seen, 4)
    np.testing.assert_array_equal(whole.pixel, seen.pixel)
    nothing = dataclasses.replace(split, masks=np.zeros_like(masks))
    assert usable_sightings(nothing, seen, 4) is None


def test_tracks_of_a_model_name_photographs_of_training_and_points(tmp_path):
    folder = write_project(tmp_path / "s")
    scene = load_scene(folder)
    # Every image of it sees all three balls.
    count = len(scene.splits["train"])
    assert count >= 3
    expected = {(camera, point) for camera in range(count) for point in range(len(CENTRES))}
    assert set(map(tuple, scene.tracks.tolist())) == expected
    found = sightings_of(scene.points, scene.splits["train"].cameras, scene.tracks)
    assert len(found) == len(expected)


def test_points_whose_error_is_unknown_are_relied_on_by_their_tracks(tmp_path):
    folder = write_project(tmp_path / "s")
    points = folder / "sparse/0/points3D.txt"
    known = load_scene(folder).tracks
    first, *others = points.read_text().splitlines()
    for lines in (
        [line.replace(" 0.5 ", " -1 ") for line in (first, *others)],
        [first.replace(" 0.5 ", " -1 "), *others],
    ):
        points.write_text("\n".join(lines) + "\n")
        np.testing.assert_array_equal(load_scene(folder).tracks, known)
    points.write_text("\n".join([first.replace(" 0.5 ", " 1.5 "), *others]) + "\n")
    assert len(load_scene(folder).tracks) == len(known) * 2 // 3


def test_known_depths_count_less_and_less_and_are_learned():
    split = photographs(12)
    # Places on the ball: where rays through its middle meet it.
    random = np.random.default_rng(3)
    normals = random.normal(size=(400, 3))
    points = CENTRE + RADIUS * normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    poses = np.asarray(split.cameras.camera_to_world)
    towards = np.einsum("cpi,pi->cp", poses[:, None, :, 3] - points[None], points - CENTRE)
    seen = sightings_of(points, split.cameras, np.argwhere(towards > 0.1))
    stages = CoarseToFineConfig(resolutions=(16,), fractions=(), cells=16, samples=24, max_steps=40)
    training = TrainingConfig(steps=60, rays_per_batch=256, seed=3)
    strategy = CoarseToFine(StageInputs(split, stages, training), sightings=seen)
    state = strategy.resumed(first_state_of_voxels(split, stages, training))
    counts = [np.asarray(strategy.batch(state, step, 60).certainty).max() for step in (0, 15, 30)]
    np.testing.assert_allclose(counts, [1.0, 0.5, 0.0])
    away = []
    for weight in (0.0, 1.0):
        config = voxel_config(stages, training)
        config = dataclasses.replace(
            config, voxels=dataclasses.replace(config.voxels, depth_loss=weight)
        )
        trainer = voxels.trainer_on(split, config, unbounded=False, sightings=seen)
        *_, last = train(first_state_of_voxels(split, stages, training), trainer)
        after = trainer.to_host(last.state)
        rays = cast_rays(split.cameras[seen.camera], jnp.asarray(seen.pixel))
        seen_now = jax.jit(render_rays)(
            after.field, after.params, rays, OccupancySampler(after.sampler.occupancy)
        )
        away.append(np.abs(np.asarray(seen_now.depth) - seen.depth).mean())
    assert away[1] < 0.9 * away[0]

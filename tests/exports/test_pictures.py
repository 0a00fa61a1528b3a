"""What frames of a path hold: a room of known walls, in the frame of a user whose files were moved."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxnerf import Camera, Config, Run, Scene
from jaxnerf.cameras import cast_rays, look_at_pose, pixel_centres
from jaxnerf.cameras.stereo import panorama
from jaxnerf.config import override
from jaxnerf.exports.frames import Frames, begin, render_frames
from jaxnerf.exports.pictures import Look, depth_range, frame_size, look_through, panels_of
from jaxnerf.scenes import Similarity, Split

HALF = np.array([0.9, 1.2, 0.8])  # of the room, around the origin of the scene's frame
EYE = np.array([0.2, -0.3, 0.1])


class Room:
    """All that is outside of a box, coloured by place."""

    def init(self, key):
        return {}

    def density(self, params, positions):
        half = jnp.asarray(HALF, jnp.float32).reshape((1,) * (positions.ndim - 1) + (3,))
        return jnp.where(jnp.any(jnp.abs(positions) > half, axis=-1), 1e4, 0.0), positions

    def colour(self, params, features, view_directions):
        return 0.5 + 0.3 * features


def similarity(seed: int) -> Similarity:
    random = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix()
    return Similarity(float(random.uniform(0.1, 50.0)), rotation, random.normal(size=3) * 20.0)


def room(to_user: Similarity) -> Run:
    """A run of the room, and cameras around it that look at its middle."""
    eyes = [4.0 * np.array([np.cos(a), np.sin(a), 0.2]) for a in np.arange(6) * np.pi / 3]
    poses = np.stack([look_at_pose(eye, (0.0, 0.0, 0.0)) for eye in eyes])
    split = Split(tuple(f"{i}.png" for i in range(6)), Camera.pinhole(poses, 40.0, 32, 24))
    scene = Scene("room", Path("room"), "test", {"train": split}, 2.0, 6.0, to_user=to_user)
    config = override(Config(method="nerf"), {"scene.space": "bounded", "nerf.samples": (256, 256)})
    return Run(Path("room"), config, scene, (Room(), Room()), ({}, {}), 1)


def to_walls(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """By how many lengths of a direction the walls are away, in the scene's frame."""
    with np.errstate(divide="ignore"):
        ends = (np.sign(directions) * HALF - origins) / directions
    return ends.min(axis=-1)


def seen_by(cameras: Camera, to_user: Similarity, width: int, height: int) -> np.ndarray:
    """The true depths of a camera's picture, in the user's unit."""
    rays = cast_rays(cameras, pixel_centres(width, height))
    back = to_user.inverse()
    origins = back.points(np.asarray(rays.origins, np.float64))
    directions = np.asarray(rays.directions, np.float64) @ back.rotation.T
    return to_user.scale * to_walls(origins, directions)


def upright(to_user: Similarity) -> np.ndarray:
    """A pose within the room, in the user's frame."""
    pose = look_at_pose(EYE, EYE + [0.3, 1.0, 0.0], (0.0, 0.0, 1.0))
    return to_user.poses(pose)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_panorama_s_directions_meet_the_walls_and_files_have_their_depths(seed, tmp_path):
    import OpenEXR

    to_user = similarity(seed)
    run = room(to_user)
    cameras = panorama(upright(to_user)[None], 40, 20)
    true = seen_by(cameras[0], to_user, 40, 20)
    level = 1e-4 * to_user.scale
    for kind in ("exr", "png"):
        frames = Frames(tmp_path / kind, cameras, depth=kind, depth_level=level)
        render_frames(frames, run, begin(frames, run))
        _, file = frames.files(0)
        if kind == "exr":
            with OpenEXR.File(str(file)) as read:
                depth = read.channels()["Z"].pixels
            assert depth.dtype == np.float32
        else:
            with Image.open(file) as image:
                assert image.mode.startswith("I;16")
                depth = np.asarray(image).astype(np.float64) * level
                assert f"levels of {level:g};" in image.info["Description"]
        # A sample's interval, and what rounding makes of it.
        np.testing.assert_allclose(depth, true, atol=0.01 * to_user.scale)
    # Upright, and the middle column looks ahead: above is the ceiling, below the floor.
    picture = np.asarray(Image.open(frames.files(0)[0]), np.float64) / 255.0
    places = (picture - 0.5) / 0.3
    np.testing.assert_allclose(places[0, :, 2], HALF[2], atol=0.02)
    np.testing.assert_allclose(places[-1, :, 2], -HALF[2], atol=0.02)
    assert (places[9:11, 19:21, 1] > HALF[1] - 0.02).all()
    # To the right of a heading of +y is +x.
    assert (places[9:11, 28:30, 0] > HALF[0] - 0.02).all()


def test_two_eyes_see_the_wall_at_places_that_differ_by_the_disparity():
    """Ahead is the wall y = 1.2, flat across the axis: one depth, one disparity for the whole picture."""
    to_user, focal, width = similarity(3), 120.0, 48
    pose = to_user.poses(look_at_pose(EYE, EYE + [0.0, 1.0, 0.0], (0.0, 0.0, 1.0)))
    camera, distance = Camera.pinhole(pose, focal, width, 9), 0.1 * to_user.scale
    seen = look_through(room(to_user), camera, Look(eyes="side_by_side", eye_distance=distance))
    assert seen.colour.shape == (9, 2 * width, 3)
    away = to_user.scale * (HALF[1] - EYE[1])
    np.testing.assert_allclose(seen.depth_median, away, atol=0.01 * to_user.scale)
    disparity = focal * distance / away
    assert disparity == pytest.approx(8.0)  # whole pixels
    left, right = np.split(np.asarray(seen.colour), 2, axis=1)
    np.testing.assert_allclose(left[:, 8:], right[:, :-8], atol=2e-3)
    assert np.abs(left[:, 8:, 0] - right[:, 8:, 0]).mean() > 0.02


def test_the_left_eye_s_panorama_is_above_and_its_rays_begin_at_the_left():
    to_user = similarity(4)
    camera, distance = panorama(upright(to_user), 32, 16), 0.2 * to_user.scale
    look = Look(eyes="omnidirectional", eye_distance=distance)
    seen = look_through(room(to_user), camera, look)
    assert seen.depth.shape == (32, 32)
    assert frame_size(camera, look) == (32, 32)
    for part, side in ((seen.depth_median[:16], -0.1), (seen.depth_median[16:], 0.1)):
        x, y = (pixel_centres(32, 16).astype(np.float64) / [32, 16]).transpose(2, 0, 1)
        theta, phi = 2 * np.pi * x - np.pi, 0.5 * np.pi - np.pi * y
        axes = look_at_pose(EYE, EYE + [0.3, 1.0, 0.0])[:, :3]
        start = side * np.stack([np.cos(theta), 0 * theta, np.sin(theta)], -1) @ axes.T + EYE
        ahead = np.stack(
            [np.sin(theta) * np.cos(phi), np.sin(phi), -np.cos(theta) * np.cos(phi)], -1
        )
        true = to_user.scale * to_walls(start, ahead @ axes.T)
        np.testing.assert_allclose(part, true, atol=0.01 * to_user.scale)


def test_supersampling_is_the_mean_of_the_finer_picture():
    to_user = similarity(5)
    run, camera = room(to_user), Camera.pinhole(upright(to_user), 8.0, 6, 4)
    plain = override(run.config, {"evaluation.edge_supersampling": 0.0})
    fine = Run(run.folder, plain, run.scene, run.field, run.params, 1).render(
        camera.resized(18, 12)
    )
    seen = look_through(run, camera, Look(("rgb", "normals"), supersampling=3))
    for row in range(4):
        for column in range(6):
            block = np.s_[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            expected = fine.colour[block].reshape(9, 3).mean(axis=0)
            np.testing.assert_allclose(seen.colour[row, column], expected, atol=1e-5)
            assert seen.depth_median[row, column] == np.median(fine.depth_median[block])


def test_depth_is_0_where_nothing_is_and_what_is_beyond_the_levels_is_the_last(tmp_path):
    to_user = similarity(6)
    run = room(to_user)
    # From afar the picture's margin sees the room's outside, which is solid, at every pixel; from
    # within, walls at all depths: levels too fine for the farther ones.
    cameras = panorama(upright(to_user)[None], 16, 8)
    true = seen_by(cameras[0], to_user, 16, 8)
    level = float(np.median(true)) / 65_535
    frames = Frames(tmp_path / "frames", cameras, depth="png", depth_level=level)
    render_frames(frames, run, begin(frames, run))
    levels = np.asarray(Image.open(frames.files(0)[1]))
    beyond = true > 1.02 * level * 65_535
    assert beyond.any()
    assert (levels[beyond] == 65_535).all()
    assert (levels[true < 0.98 * level * 65_535] < 65_535).all()


def test_panels_of_depth_span_near_and_far_of_the_scene_in_the_users_unit():
    to_user = similarity(7)
    run, camera = room(to_user), Camera.pinhole(upright(to_user), 8.0, 6, 4)
    low, high = depth_range(run, camera)
    np.testing.assert_allclose([low, high], [2.0 * to_user.scale, 6.0 * to_user.scale])
    look = Look(("rgb", "depth"), depth_range=(low, high))
    assert panels_of(look_through(run, camera, look), look).shape == (4, 12, 3)

"""Camera paths in files: every field that is honoured changes the rays as it says; others are refused."""

import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scene_factory import eyes, matrix
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.scenes import SceneError, demo_path
from jaxnerf.scenes.path_files import flight, read_path

TRAINING = Camera.pinhole(np.array(matrix(eyes(1)[0]))[:3], 50.0, 40, 30)
POSES = np.stack([np.array(matrix(eye)) for eye in eyes(3)])


def transforms(path: Path, *own: dict, **shared) -> Path:
    own = own or ({},) * len(POSES)
    frames = [
        {"transform_matrix": pose.tolist(), **each} for pose, each in zip(POSES, own, strict=True)
    ]
    path.write_text(json.dumps({"frames": frames, **shared}))
    return path


def nerfstudio(path: Path, *own: dict, **shared) -> Path:
    own = own or ({},) * len(POSES)
    cameras = [
        {"camera_to_world": pose.ravel().tolist(), "fov": 60.0, "aspect": 1.7, **each}
        for pose, each in zip(POSES, own, strict=True)
    ]
    contents = {"camera_path": cameras, "render_width": 40, "render_height": 30, "keyframes": [1]}
    contents |= {"camera_type": "perspective", "is_cycle": False, "crop": None}
    path.write_text(json.dumps(contents | shared))
    return path


def ray(camera: Camera, x: float, y: float) -> np.ndarray:
    """The direction of a pixel in the camera's own axes."""
    seen = np.asarray(cast_rays(camera, jnp.array([x, y])).view_directions, np.float64)
    return seen @ np.asarray(camera.camera_to_world)[:, :3]


def towards(right: float, up: float) -> np.ndarray:
    direction = np.array([right, up, -1.0])
    return direction / np.linalg.norm(direction)


def test_without_intrinsics_pictures_are_those_of_the_training_cameras(tmp_path):
    found = read_path(transforms(tmp_path / "p.json"), TRAINING)
    np.testing.assert_allclose(found.cameras.camera_to_world, POSES[:, :3], atol=1e-6)
    np.testing.assert_array_equal(found.cameras.focal, [[50.0, 50.0]] * 3)
    np.testing.assert_array_equal(found.cameras.size, [[40, 30]] * 3)
    assert (found.frames_per_second, found.notes) == (None, ())


PROJECTIVE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0.5, 1]]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("values", "size", "edge"),
    [
        # The middle of the right side, then of the upper one: tangents.
        ({"camera_angle_x": 1.0}, (40, 30), (math.tan(0.5), math.tan(0.5) * 30 / 40)),
        ({"camera_angle_y": 1.0}, (40, 30), (math.tan(0.5) * 40 / 30, math.tan(0.5))),
        ({"fl_x": 20.0}, (40, 30), (1.0, 0.75)),
        ({"fl_x": 20.0, "fl_y": 10.0, "w": 10, "h": 20}, (10, 20), (0.25, 1.0)),
        ({"camera_angle_x": 1.0, "w": 80, "h": 20}, (80, 20), (math.tan(0.5), math.tan(0.5) / 4)),
        ({"fl_x": 20.0, "cx": 10.0, "cy": 5.0}, (40, 30), (1.5, 0.25)),
        ({"w": 80, "h": 60}, (80, 60), (0.4, 0.3)),
    ],
)
def test_what_a_transforms_file_says_of_the_camera_is_what_is_seen(
    tmp_path, values, size, edge, shared
):
    path = tmp_path / "p.json"
    transforms(path, **values) if shared else transforms(path, *[values] * 3)
    found = read_path(path, TRAINING).cameras
    np.testing.assert_array_equal(found.size, [size] * 3)
    middle = np.asarray(found.centre[1])
    np.testing.assert_allclose(ray(found[1], size[0], middle[1]), towards(edge[0], 0), atol=1e-6)
    np.testing.assert_allclose(ray(found[1], middle[0], 0.0), towards(0, edge[1]), atol=1e-6)


def test_a_frame_goes_before_the_file_and_lenses_are_undone(tmp_path):
    own = ({"fl_x": 10.0}, {}, {"camera_angle_x": 2.0})
    found = read_path(transforms(tmp_path / "p.json", *own, fl_x=20.0, fps=12), TRAINING)
    expected = [10.0, 20.0, 20.0 / math.tan(1.0)]
    np.testing.assert_allclose(np.asarray(found.cameras.focal)[:, 0], expected, rtol=1e-6)
    assert found.frames_per_second == 12
    bent = read_path(transforms(tmp_path / "p.json", fl_x=20.0, k1=0.1), TRAINING).cameras
    # At tangent 1/2 the lens shows (1 + 0.1 / 4) / 2.
    seen = ray(bent[0], 20.0 + 20.0 * 0.5 * (1 + 0.1 * 0.25), 15.0)
    np.testing.assert_allclose(seen, towards(0.5, 0.0), atol=1e-5)
    round_lens = read_path(transforms(tmp_path / "p.json", fl_x=20.0, is_fisheye=True), TRAINING)
    np.testing.assert_allclose(
        ray(round_lens.cameras[0], 30.0, 15.0), [math.sin(0.5), 0.0, -math.cos(0.5)], atol=1e-6
    )


def test_nerfstudios_field_of_view_is_vertical_and_in_degrees(tmp_path):
    own = ({"fov": 90.0}, {"fov": 60.0}, {"fov": 30.0})
    found = read_path(nerfstudio(tmp_path / "camera_path.json", *own, fps=24), TRAINING)
    np.testing.assert_allclose(found.cameras.camera_to_world, POSES[:, :3], atol=1e-6)
    for camera, each in zip(found.cameras, own, strict=True):
        up = math.tan(math.radians(each["fov"] / 2))
        np.testing.assert_allclose(ray(camera, 20.0, 0.0), towards(0.0, up), atol=1e-6)
        np.testing.assert_allclose(ray(camera, 40.0, 15.0), towards(up * 4 / 3, 0.0), atol=1e-6)
    assert found.frames_per_second == 24
    assert "frame of the scene's own files" in found.notes[0]
    timed = read_path(nerfstudio(tmp_path / "camera_path.json", fps=24, seconds=1.5), TRAINING)
    assert (timed.frames_per_second, timed.seconds, found.seconds) == (2.0, 1.5, None)


def test_nerfstudios_other_lenses(tmp_path):
    path = nerfstudio(tmp_path / "p.json", camera_type="equirectangular", render_height=20)
    sphere = read_path(path, TRAINING).cameras[0]
    for x, y, direction in [
        (20.0, 10.0, [0, 0, -1]),
        (30.0, 10.0, [1, 0, 0]),
        (20.0, 0.0, [0, 1, 0]),
        (40.0, 10.0, [0, 0, 1]),
    ]:
        np.testing.assert_allclose(ray(sphere, x, y), direction, atol=1e-6)
    fisheye = read_path(nerfstudio(path, camera_type="fisheye"), TRAINING).cameras[0]
    focal = 15.0 / math.tan(math.radians(30.0))
    angle = 10.0 / focal
    np.testing.assert_allclose(
        ray(fisheye, 30.0, 15.0), [math.sin(angle), 0.0, -math.cos(angle)], atol=1e-6
    )


@pytest.mark.parametrize(("kind", "picture"), [("omnidirectional", "ods"), ("vr180", "vr180")])
def test_nerfstudios_pictures_for_headsets(tmp_path, kind, picture):
    path = nerfstudio(tmp_path / "p.json", camera_type=kind, render_height=20)
    found = read_path(path, TRAINING)
    assert (found.picture, found.cameras.lens) == (picture, "equirectangular")
    quarter = 10.0 if picture == "ods" else 20.0  # a quarter of a turn, of 40 pixels
    np.testing.assert_allclose(ray(found.cameras[0], 20.0 + quarter, 10.0), [1, 0, 0], atol=1e-6)


def test_a_flight_goes_through_its_keys_and_back_if_it_is_a_cycle(tmp_path):
    own = ({"fov": 90.0}, {"fov": 60.0}, {"fov": 30.0})
    found = read_path(nerfstudio(tmp_path / "p.json", *own, is_cycle=True), TRAINING)
    assert found.cycle
    straight, around = flight(found.cameras, 5), flight(found.cameras, 6, cycle=True)
    for some, keys in ((straight, [0, 2, 4]), (around, [0, 2, 4])):
        np.testing.assert_allclose(some.camera_to_world[keys], POSES[:, :3], atol=1e-5)
        np.testing.assert_allclose(some.focal[keys], found.cameras.focal, rtol=1e-6)
    halfway = 0.5 * (np.asarray(found.cameras.focal[0]) + np.asarray(found.cameras.focal[2]))
    np.testing.assert_allclose(around.focal[5], halfway, rtol=1e-6)
    turned = Rotation.from_matrix(np.asarray(straight.camera_to_world[1, :, :3], np.float64))
    assert turned.magnitude() > 0.0


@pytest.mark.parametrize(
    ("kind", "own", "shared", "message"),
    [
        (
            transforms,
            {"w": 50, "h": 30},
            {},
            "frames[1]: w and h are 50 x 30, frames[0] has 40 x 30",
        ),
        (transforms, {}, {"w": 50, "h": 30}, "of another shape than the photographs' 40 x 30"),
        (transforms, {}, {"w": 50}, "h is missing"),
        (transforms, {}, {"fl_x": 9, "w": 1e6, "h": 1}, "not whole numbers from 1 to 16,384"),
        (transforms, {"cx": 3.0}, {}, "neither fl_x nor camera_angle_x"),
        (transforms, {"rolling_shutter": [0, 0, 1]}, {}, "frames[1]: 'rolling_shutter' is not"),
        (transforms, {}, {"camera_model": "OMNI", "fl_x": 9}, "camera_model 'OMNI' is not one of"),
        (transforms, {}, {"fl_x": 9, "fps": -1}, "fps -1 is not above 0"),
        (transforms, {"is_fisheye": True}, {"fl_x": 9}, "mixes fisheye and pinhole"),
        (nerfstudio, {}, {"camera_type": "orthophoto"}, "camera_type 'orthophoto' is not one of"),
        (nerfstudio, {}, {"crop": {"crop_scale": [1, 1, 1]}}, "'crop' is not honoured"),
        (nerfstudio, {"fov": 0}, {}, "camera_path[1]: fov 0 is not between"),
        (nerfstudio, {"camera_to_world": [1, 2]}, {}, "camera_path[1]: camera_to_world must be"),
        (nerfstudio, {"camera_to_world": PROJECTIVE}, {}, "the last row of camera_to_world is not"),
        (nerfstudio, {"lens_shift": 0.1}, {}, "camera_path[1]: 'lens_shift' is not honoured"),
        (nerfstudio, {}, {"render_width": 0}, "render_width 0 is not a whole number"),
        (nerfstudio, {}, {"camera_path": []}, "'camera_path' must be a list"),
        (nerfstudio, {}, {"is_cycle": 1}, "is_cycle must be true or false"),
        (nerfstudio, {"fov": math.nan}, {}, "camera_path[1]: fov is not finite"),
        (nerfstudio, {}, {"fps": math.nan}, "fps is not finite"),
        (nerfstudio, {}, {"seconds": math.inf}, "seconds is not finite"),
        (nerfstudio, {}, {"render_height": math.nan}, "render_height is not finite"),
        (transforms, {"fl_x": math.nan}, {"fl_x": 9}, "frames[1]: fl_x is not finite"),
        (transforms, {"k1": math.nan}, {"fl_x": 9}, "k1 is not finite"),
        (transforms, {}, {"fl_x": 9, "w": math.nan, "h": 1}, "w is not finite"),
        (transforms, {}, {"fl_x": 9, "fps": math.nan}, "fps is not finite"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(tmp_path, kind, own, shared, message):
    path = kind(tmp_path / "p.json", {}, own, {}, **shared)
    with pytest.raises(SceneError) as caught:
        read_path(path, TRAINING)
    text = str(caught.value)
    assert message in text
    assert text.startswith(str(path))
    assert "\n" not in text


def test_a_scenes_own_file_is_a_path():
    found = read_path(demo_path() / "transforms_test.json", TRAINING)
    assert len(found.cameras) == 40


@pytest.mark.parametrize("write", [transforms, nerfstudio])
def test_poses_in_survey_coordinates_keep_their_precision(tmp_path, write, monkeypatch):
    far = POSES.copy()
    far[:, :2, 3] += (500_000.123, 5_400_000.123)
    monkeypatch.setitem(globals(), "POSES", far)
    shared = {"camera_angle_x": 0.7} if write is transforms else {}
    found = read_path(write(tmp_path / "p.json", **shared), TRAINING)
    np.testing.assert_allclose(found.cameras.camera_to_world, far[:, :3], rtol=0.0, atol=1e-6)


def test_a_focal_length_in_pixels_of_pictures_without_a_size_is_said(tmp_path):
    for shared in ({"fl_x": 80.0}, {"fl_x": 80.0, "w": 80, "h": 60}, {"camera_angle_x": 1.0}):
        found = read_path(transforms(tmp_path / "p.json", **shared), TRAINING)
        said = "fl_x is taken for pictures of 40 x 30; w and h would say"
        assert found.notes == ((said,) if shared == {"fl_x": 80.0} else ())

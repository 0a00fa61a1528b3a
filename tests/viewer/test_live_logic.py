"""The live viewer without a browser: what is drawn when, who has the devices, where things are."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from viewer_factory import KINDS, run_of

from jaxnerf.cameras import Camera, look_at_pose
from jaxnerf.cameras.paths import up_of
from jaxnerf.runs.files import RunError
from jaxnerf.scenes import SceneError
from jaxnerf.scenes.path_files import read_path
from jaxnerf.viewer.live import pacing
from jaxnerf.viewer.live.guard import free_port, guarded, is_known
from jaxnerf.viewer.live.key_frames import KeyFrames
from jaxnerf.viewer.live.pacing import Order, Watcher
from jaxnerf.viewer.live.turns import FRACTION, Turns
from jaxnerf.viewer.live.views import Style, View, angle_around, between, rows, stage_of

POSES = [
    look_at_pose(eye, (0.0, 0.0, 0.0)) for eye in ((3, 0, 1), (0, 3, 1), (-3, 1, 2), (0, -3, 1))
]


def view(number: int = 0, size=(800, 600)) -> View:
    return View(rows(POSES[number]), 0.7, size)


def following(watcher: Watcher, now: float, **how) -> Order:
    """The picture to draw, where there must be one."""
    order = watcher.next(now, **how)
    assert order is not None
    return order


def rest(watcher: Watcher, now: float, speed: float, **how) -> list:
    """All that a resting camera is shown, by a machine that renders so many rays a second."""
    orders = []
    while (order := watcher.next(now, **how)) is not None:
        seconds = order.size[0] * order.size[1] / speed
        now += seconds
        watcher.showed(order, seconds)
        orders.append(order)
        assert len(orders) < 20
    return orders


@pytest.mark.parametrize("speed", [3e3, 1e5, 1e8])
def test_a_camera_that_rests_is_shown_a_small_picture_at_once_and_then_all_pixels(speed):
    watcher = Watcher()
    watcher.look(view(), 0.0)
    for number in range(1, 30):  # it moves, and the speed becomes known
        order = watcher.next(0.01 * number)
        assert order is not None
        watcher.showed(order, order.size[0] * order.size[1] / speed)
        assert watcher.next(0.01 * number) is None, "one picture of a view while it moves"
        watcher.look(view(number % 4), 0.01 * number)
    quick, *finer = rest(watcher, 0.4, speed) + rest(watcher, 1.0, speed)
    seconds = quick.size[0] * quick.size[1] / speed
    assert quick.is_quick
    least = max(quick.size) / pacing.LEAST_SIDE
    assert seconds < 1.4 * pacing.QUICK or least < 1.25
    assert least >= 1.0
    sizes = [order.size for order in (quick, *finer)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == (800, 600)
    assert [order.is_last for order in (quick, *finer)] == [False] * len(finer) + [True]
    # All the pictures on the way take little more than the last one alone.
    assert sum(w * h for w, h in sizes) < 1.6 * 800 * 600


def test_a_camera_that_moves_abandons_fine_pictures_but_not_quick_ones():
    watcher = Watcher()
    watcher.look(view(), 0.0)
    quick = following(watcher, 0.0)
    watcher.showed(quick, 1.0)
    fine = following(watcher, 1.0)
    assert quick.is_quick
    assert not fine.is_quick
    assert watcher.is_wanted(fine)
    assert not watcher.look(view(), 1.1), "the same view is no motion"
    assert watcher.is_wanted(fine)
    assert watcher.look(view(1), 1.2)
    assert not watcher.is_wanted(fine)
    assert watcher.is_wanted(quick)
    assert following(watcher, 1.2).is_quick


def test_pictures_of_training_are_new_ones_and_coarser():
    watcher = Watcher()
    watcher.look(view(), 0.0)
    first = rest(watcher, 1.0, 1e5, age=1, is_training=True)
    pixels = first[-1].size[0] * first[-1].size[1]
    assert 0.5 * pacing.WHILE_TRAINING < pixels / 1e5 < 1.5 * pacing.WHILE_TRAINING
    again = following(watcher, 9.0, age=2, is_training=True)
    assert (again.size, again.age) == (first[-1].size, 2)
    watcher.showed(again, pixels / 1e5)
    assert watcher.next(9.5, age=2, is_training=True) is None
    # Training pauses: all pixels.
    assert rest(watcher, 10.0, 1e5, age=2)[-1].size == (800, 600)


def test_pictures_take_a_quarter_of_the_time_however_long_they_are():
    now = [0.0]
    turns = Turns(clock=lambda: now[0])

    def paint(seconds: float) -> None:
        turns.acquire()
        now[0] += seconds
        turns.release()

    def lend(seconds: float) -> float:
        painter = threading.Thread(target=paint, args=(seconds,))
        painter.start()
        spent = turns.lend(wait=10.0)
        painter.join()
        return spent

    assert turns.lend() == 0.0, "nobody wants anything"
    for seconds in (0.5, 4.0, 0.1):
        begun = now[0]
        assert lend(seconds) == pytest.approx(seconds)
        turns._wanted = True
        assert not turns.is_due
        now[0] = begun + seconds / FRACTION - 1e-6
        assert not turns.is_due
        assert turns.lend() == 0.0
        now[0] = begun + seconds / FRACTION + 1e-6
        assert turns.is_due
        turns._wanted = False
    begun = now[0]
    assert lend(0.2) == pytest.approx(0.2)
    painter = threading.Thread(target=paint, args=(0.3,))
    painter.start()
    assert turns.lend(always=True, wait=10.0) == pytest.approx(0.3), "while training pauses"
    painter.join()


def test_a_long_picture_gives_the_devices_back_and_goes_on_later():
    now, log = [0.0], []
    turns = Turns(clock=lambda: now[0])

    def paint() -> None:
        turns.acquire()
        for part in range(4):
            now[0] += 0.08  # two of these are more than is lent at a time
            log.append(part)
            turns.pause()
        turns.release()

    painter = threading.Thread(target=paint)
    painter.start()
    while painter.is_alive():
        if turns.lend(wait=0.5):
            log.append("step")
            now[0] += 10.0
    assert log == [0, 1, "step", 2, 3, "step"] or log == [0, 1, "step", 2, 3, "step", "step"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_stage_is_the_users_frame_near_one(kind):
    run = run_of(kind)
    stage, cameras = stage_of(run), run.cameras()
    up = up_of(np.asarray(cameras.camera_to_world))
    np.testing.assert_allclose(stage.up, up, atol=1e-12)
    for pose in np.asarray(cameras.camera_to_world):
        quaternion, position = stage.placed(pose)
        np.testing.assert_allclose(stage.pose(quaternion, position), pose, atol=1e-9)
        assert np.linalg.norm(position) < 3.0
        # viser looks along +z with y down.
        turn = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()
        np.testing.assert_allclose(turn, pose[:, :3] * [1, -1, -1], atol=1e-9)
        position, point, up = stage.orbit(pose)
        ahead = (point - position) / np.linalg.norm(point - position)
        np.testing.assert_allclose(ahead, -pose[:, 2], atol=1e-9)
        # Looked at with this up, the picture's right is the pose's.
        right = np.cross(ahead, up) / np.linalg.norm(np.cross(ahead, up))
        np.testing.assert_allclose(right, pose[:, 0], atol=1e-9)
        if abs(pose[:, 0] @ stage.up) < 1e-9:  # a camera that was held level
            np.testing.assert_allclose(up, stage.up, atol=1e-9)
    # The first view is level, and looks at what lies in the middle.
    assert abs(stage.home[:, 0] @ stage.up) < (1e-6 if kind != "forward" else 0.1)
    point = stage.home[:, 3] - stage.distance * stage.home[:, 2]
    assert np.linalg.norm(point - stage.middle) < 0.2 * stage.size


def test_a_window_of_any_shape_shows_all_of_a_photograph():
    camera = Camera.pinhole(POSES[0], 100.0, 80, 60)
    across, down = 40 / 100, 30 / 100
    for size in ((800, 600), (1600, 600), (300, 600)):
        half = np.tan(0.5 * angle_around(camera, size))
        aspect = size[0] / size[1]
        assert half >= down - 1e-6
        assert half * aspect >= across - 1e-6
        assert np.isclose(half, down) or np.isclose(half * aspect, across)


def test_half_of_a_flight_is_half_of_the_turn():
    first = np.eye(4)[:3]
    last = np.column_stack([Rotation.from_rotvec([0, 0, 1.2]).as_matrix(), [2.0, 0.0, 4.0]])
    half = between(first, last, 0.5)
    expected = Rotation.from_rotvec([0, 0, 0.6]).as_matrix()
    np.testing.assert_allclose(half, np.column_stack([expected, [1.0, 0.0, 2.0]]), atol=1e-12)


@pytest.mark.parametrize("cycle", [False, True])
def test_a_recorded_path_comes_back_from_its_file(tmp_path, cycle):
    keys = KeyFrames(seconds=0.5, frames_per_second=8.0, cycle=cycle)
    angles = [0.6, 0.8, 1.0]
    for pose, angle in zip(POSES, angles, strict=False):
        keys = keys.with_key(rows(pose), angle)
    assert len(keys) == (12 if cycle else 8)
    cameras = keys.cameras(64, 48)
    path = tmp_path / "camera_path.json"
    path.write_bytes(keys.to_json(64, 48))
    found = read_path(path, Camera.pinhole(POSES[0], 10.0, 5, 5))
    assert (found.cycle, found.frames_per_second) == (cycle, 8.0)
    np.testing.assert_allclose(found.cameras.camera_to_world, cameras.camera_to_world, atol=1e-12)
    np.testing.assert_allclose(found.cameras.focal, cameras.focal, rtol=1e-6)
    np.testing.assert_array_equal(found.cameras.size, [[64, 48]] * len(keys))
    # The flight comes by its keys, with their angles.
    at = [0, 4, 8] if cycle else [0, -1]
    known = [0, 1, 2] if cycle else [0, 2]
    np.testing.assert_allclose(cameras.camera_to_world[at], np.stack(POSES)[known], atol=1e-9)
    said = json.loads(path.read_bytes())
    first = said["keyframes"][1]
    np.testing.assert_allclose(np.reshape(first["matrix"], (4, 4))[:3], POSES[1], atol=1e-12)
    assert first["fov"] == pytest.approx(np.rad2deg(0.8))
    assert said["seconds"] == pytest.approx(len(keys) / 8.0)
    pose, angle = keys.at(0.0)
    np.testing.assert_allclose(pose, POSES[0], atol=1e-9)
    assert angle == pytest.approx(0.6)
    # And is gone on with, where it is opened.
    again, size = KeyFrames.of_json("camera_path.json", path.read_bytes())
    assert size == (64, 48)
    assert dataclasses.replace(again, keys=()) == dataclasses.replace(keys, keys=())
    for (pose, angle), (known, seen) in zip(again.keys, keys.keys, strict=True):
        np.testing.assert_allclose(pose, known, atol=1e-12)
        assert angle == pytest.approx(seen)


WRONG_KEYS = {
    "broken JSON": lambda path: "{",
    "must hold a JSON object": lambda path: [],
    "'keyframes' must be a list": lambda path: path | {"keyframes": []},
    "1,001 key frames are more": lambda path: path | {"keyframes": path["keyframes"] * 1001},
    "keyframes[0] must be an object": lambda path: path | {"keyframes": [3]},
    "keyframes[0]: matrix has values that are not finite": lambda path: (
        path | {"keyframes": [path["keyframes"][0] | {"matrix": [np.nan, *[0.0] * 15]}]}
    ),
    "keyframes[0]: fov 0 is not from": lambda path: (
        path | {"keyframes": [path["keyframes"][0] | {"fov": 0.0}]}
    ),
    "keyframes[0]: override_transition_enabled": lambda path: (
        path | {"keyframes": [path["keyframes"][0] | {"override_transition_enabled": True}]}
    ),
    "camera_type 'fisheye' is not": lambda path: path | {"camera_type": "fisheye"},
    "is_cycle must be": lambda path: path | {"is_cycle": 1},
    "fps is not finite": lambda path: path | {"fps": np.nan},
    "default_transition_sec 0 is not from 0.1 to 600": lambda path: (
        path | {"default_transition_sec": 0.0}
    ),
    "render_width 0 is not from 1 to 16384": lambda path: path | {"render_width": 0},
}


@pytest.mark.parametrize("said", WRONG_KEYS)
def test_a_file_that_is_no_recorded_path_is_refused_by_name(said):
    whole = KeyFrames().with_key(rows(POSES[0]), 0.5).contents(6, 4)
    wrong = WRONG_KEYS[said](whole)
    data = wrong if isinstance(wrong, str) else json.dumps(wrong)
    with pytest.raises(SceneError) as caught:
        KeyFrames.of_json("path.json", data.encode())
    assert str(caught.value).startswith("path.json: ")
    assert said in str(caught.value)


def test_one_key_frame_is_a_path_of_one_picture(tmp_path):
    keys = KeyFrames().with_key(rows(POSES[0]), 0.5)
    assert len(keys) == 1
    path = tmp_path / "camera_path.json"
    path.write_bytes(keys.to_json(6, 4))
    found = read_path(path, Camera.pinhole(POSES[0], 10.0, 5, 5)).cameras
    np.testing.assert_allclose(found.camera_to_world, [POSES[0]], atol=1e-12)


def test_who_is_known():
    for host in ("127.0.0.1:7007", "localhost:7007"):
        for origin in (None, "http://127.0.0.1:7007", "http://localhost:7007"):
            assert is_known(host, origin, 7007)
        for origin in (
            "http://evil.example",
            "null",
            "https://127.0.0.1:7007",
            "http://127.0.0.1:1",
        ):
            assert not is_known(host, origin, 7007)
    for host in (None, "", "127.0.0.1", "evil.example:7007", "127.0.0.1:7008", "127.0.0.1:7007.a"):
        assert not is_known(host, None, 7007)


def test_a_viser_that_begins_its_server_in_another_way_is_refused():
    pytest.importorskip("websockets")
    with pytest.raises(RunError, match="cannot be checked"), guarded():
        pass


def test_ports_that_are_no_more(monkeypatch):
    assert free_port(0) == 0
    monkeypatch.setattr("jaxnerf.viewer.live.guard._PORTS", 0)
    with pytest.raises(RunError, match=r"--port: 127\.0\.0\.1:7007: taken"):
        free_port(7007)


def test_a_view_compares_only_where_a_photograph_was_taken():
    photograph = Style(comparison="photograph")
    assert not dataclasses.replace(view(), style=photograph).compares
    assert dataclasses.replace(view(), style=photograph, photograph=0).compares
    assert not dataclasses.replace(view(), photograph=0).compares

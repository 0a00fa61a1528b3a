"""The live viewer in a browser, and who may ask it."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from live_pages import (
    CLEAR,
    HEIGHT,
    WIDTH,
    clear_part,
    decibels,
    press,
    rest,
    shot,
    show_cameras,
    until,
    visiting,
)
from scene_factory import TINY, write_scene
from scipy.spatial import ConvexHull
from viewer_factory import run_of

from jaxnerf.cameras import project
from jaxnerf.cli import main
from jaxnerf.evaluation import to_8bit
from jaxnerf.scenes.path_files import read_path
from jaxnerf.viewer.live import panels
from jaxnerf.viewer.live.show import live_view

pytestmark = pytest.mark.slow

pytest.importorskip("viser", reason="needs the package viser")
NERF = Path(__file__).parents[1] / "runs" / "old_runs" / "nerf"


@pytest.fixture(scope="module")
def run():
    return run_of("bounded")


@pytest.fixture(scope="module")
def viewer(run):
    # Photographs are the run's own pictures, so that it differs from them in nothing.
    train = run.scene.splits["train"]
    pictures = [
        to_8bit(run.render(camera).colour) for camera in map(run.cameras().__getitem__, range(7))
    ]
    images = np.concatenate([np.stack(pictures), np.full((7, 96, 96, 1), 255, np.uint8)], axis=-1)
    with live_view(run, port=0, photographs=dataclasses.replace(train, images=images)) as viewer:
        yield viewer


@pytest.fixture
def page(viewer, browser):
    """The viewer's page, with all of its picture; nothing may have complained, or left this machine."""
    with visiting(viewer, browser) as page:
        rest(viewer, page)
        yield page


def stand_behind(viewer, client, page) -> None:
    """From behind, above and aside, where all frusta are in the clear part of the page."""
    far = viewer.stage.home.copy()
    far[:, 3] += viewer.stage.size * (far[:, :3] @ [1.2, 0.6, 2.5])
    viewer.fly(client, far, viewer.stage.angle)
    rest(viewer, page)


def seen_frusta(viewer, client) -> dict[int, np.ndarray]:
    """Of the frusta in the clear part of the page, where their cameras and the corners of their pictures
    are, in pixels [5, 2]; those before others first."""
    view, found = viewer.view_of(client).camera(), {}
    deep = panels._FRUSTUM * viewer.stage.size
    for number in range(7):
        camera = viewer.run.cameras()[number]
        across, down = 0.5 * np.asarray(camera.size) / np.asarray(camera.focal)
        corners = [[x * across, y * down, -1.0] for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        local = np.array([[0.0, 0.0, 0.0], *corners])
        pose = np.asarray(camera.camera_to_world, np.float64)
        places, depths = project(view, deep * local @ pose[:, :3].T + pose[:, 3])
        places = np.asarray(places)
        inside = (places > 5) & (places < [295, HEIGHT - 5]) & (places[:, 1:] > 185)
        if inside.all():
            found[number] = float(np.min(depths)), places
    return {number: places for number, (_, places) in sorted(found.items(), key=lambda x: x[1][0])}


def test_the_picture_is_the_runs(run, viewer, page):
    (client,) = viewer.clients()
    view = viewer.view_of(client)
    show_cameras(viewer, False, page)
    np.testing.assert_allclose(view.pose, viewer.stage.home, atol=1e-5)
    assert view.size == (WIDTH, HEIGHT)
    expected = run.render(view.camera()).colour[CLEAR]
    assert decibels(shot(page), expected) > 45.0
    show_cameras(viewer, True, page)


@pytest.mark.parametrize("kind", ["unbounded", "forward"])
def test_a_drag_moves_the_camera_and_a_rest_shows_what_the_run_does(kind, browser):
    run = run_of(kind)
    with live_view(run, port=0) as viewer, visiting(viewer, browser) as page:
        (client,) = viewer.clients()
        show_cameras(viewer, False, page)
        rest(viewer, page)
        part = clear_part(viewer.view_of(client))
        first = shot(page, part)
        page.mouse.move(150, 300)
        page.mouse.down()
        page.mouse.move(190, 290, steps=4)
        page.mouse.up()
        until(
            lambda: not np.allclose(viewer.view_of(client).pose, viewer.stage.home, atol=1e-2), page
        )
        rest(viewer, page)
        view = viewer.view_of(client)
        seen, expected = shot(page, part), run.render(view.camera()).colour[part]
        assert decibels(seen, expected) > 40.0
        assert decibels(seen, first) < decibels(seen, expected)


def test_a_camera_that_is_clicked_is_flown_to_and_a_path_recorded(run, viewer, page, tmp_path):
    (client,) = viewer.clients()
    poses = np.asarray(run.cameras().camera_to_world)
    stand_behind(viewer, client, page)
    number, outline = next(iter(seen_frusta(viewer, client).items()))
    page.mouse.click(*outline.mean(axis=0).tolist(), delay=30)
    until(lambda: viewer.view_of(client).photograph is not None, page)
    rest(viewer, page)
    here = viewer.view_of(client)
    assert here.photograph == number
    np.testing.assert_allclose(here.pose, poses[number], atol=1e-5)
    press(page, "Add key frame")
    page.wait_for_timeout(300)
    press(page, "First view")
    until(lambda: viewer.view_of(client).photograph is None, page)
    rest(viewer, page)
    there = viewer.view_of(client)
    np.testing.assert_allclose(there.pose, viewer.stage.home, atol=1e-5)
    press(page, "Add key frame")
    page.wait_for_timeout(300)

    with page.expect_download() as saved:
        press(page, "Save JSON")
    path = tmp_path / "camera_path.json"
    saved.value.save_as(path)
    cameras = read_path(path, run.cameras()[0]).cameras
    ends = [here.pose, there.pose]
    np.testing.assert_allclose(cameras.camera_to_world[[0, -1]], ends, atol=1e-6)
    np.testing.assert_array_equal(cameras.size, [[96, 96]] * 60)


def test_a_frustum_is_clicked_where_it_is_seen(viewer, page):
    """Within its outline, to three pixels, and not beside it."""
    (client,) = viewer.clients()
    stand_behind(viewer, client, page)
    frusta, here = seen_frusta(viewer, client), viewer.view_of(client)
    hull = ConvexHull(next(iter(frusta.values())))
    others = [ConvexHull(points) for points in [*frusta.values()][1:]]
    assert others, "more than one is in view"

    def inside(hull, place, by) -> bool:
        return bool((hull.equations @ [*place, 1.0] < -by).all())

    corners = hull.points[hull.vertices]
    middles = 0.5 * (corners + np.roll(corners, -1, axis=0))
    outwards = middles - corners.mean(axis=0)
    outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
    tried = 0
    for middle, outward in zip(middles, outwards, strict=True):
        outside = middle + 4.0 * outward
        if inside(hull, outside, -3.0) or any(inside(other, outside, -3.0) for other in others):
            continue
        tried += 1
        page.mouse.click(*outside.tolist(), delay=30)
        page.wait_for_timeout(300)
        np.testing.assert_allclose(viewer.view_of(client).pose, here.pose, atol=1e-4)
    assert tried > 0
    page.mouse.click(*(middles[0] - 4.0 * outwards[0]).tolist(), delay=30)
    until(lambda: viewer.view_of(client).photograph is not None, page)
    assert viewer.view_of(client).photograph == next(iter(frusta))


def test_a_frustum_without_a_photograph_is_clicked_too(run, browser):
    with live_view(run, port=0) as viewer, visiting(viewer, browser) as page:
        (client,) = viewer.clients()
        stand_behind(viewer, client, page)
        number, outline = next(iter(seen_frusta(viewer, client).items()))
        page.mouse.click(*outline.mean(axis=0).tolist(), delay=30)
        until(lambda: viewer.view_of(client).photograph == number, page)


def test_a_photograph_and_its_difference(run, viewer, page):
    (client,) = viewer.clients()
    show_cameras(viewer, False, page)
    viewer.fly_to(client, 2)
    side = HEIGHT  # the photograph is square, and in the middle
    left = (WIDTH - side) // 2
    rest(viewer, page)
    inside = (slice(None), slice(left + 2, 300))
    seen = {}
    for comparison in ("render", "photograph", "difference"):
        viewer.restyle(dataclasses.replace(viewer.style, comparison=comparison))
        rest(viewer, page)
        seen[comparison] = shot(page)[inside]
    assert decibels(seen["render"], seen["photograph"]) > 30.0
    assert seen["difference"].mean() < 0.02
    viewer.restyle(dataclasses.replace(viewer.style, comparison="render"))
    press(page, "First view")
    until(lambda: viewer.view_of(client).photograph is None, page)


def ask(port: int, *lines: str) -> bytes:
    """The first bytes of what a server answers."""
    text = "\r\n".join([*lines, "", ""])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text.encode())
        return connection.recv(4096)


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@pytest.mark.parametrize("more", [(), UPGRADE])
def test_requests_of_other_pages_are_refused(viewer, more):
    port = viewer.port
    ours = f"Host: 127.0.0.1:{port}"
    good = b"101" if more else b"200"
    for headers in (
        [ours],
        [ours, f"Origin: http://127.0.0.1:{port}"],
        [f"Host: localhost:{port}"],
    ):
        assert ask(port, "GET / HTTP/1.1", *headers, *more).split()[1] == good
    for headers in (
        [],
        ["Host: evil.example"],
        [f"Host: evil.example:{port}"],
        [ours, "Host: evil.example"],
        [ours, "Origin: http://evil.example"],
        [ours, "Origin: null"],
        [ours, f"Origin: http://127.0.0.1:{port}", "Origin: http://evil.example"],
    ):
        answer = ask(port, "GET / HTTP/1.1", *headers, *more)
        assert answer.split()[1] == b"403", headers
        assert b"html" not in answer


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/../__init__.py", "/%2e%2e/__init__.py", "/..%2f..%2f"]
)
def test_nothing_but_visers_page_is_there(viewer, path):
    answer = ask(viewer.port, f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{viewer.port}")
    assert answer.split()[1] == b"404"


def test_nobody_else_can_reach_it_and_nobody_can_share_it(viewer):
    assert viewer.server.get_host() == "127.0.0.1"
    assert viewer.server.request_share_url() is None
    answer = ask(viewer.port, "GET / HTTP/1.1", f"Host: 127.0.0.1:{viewer.port}").decode(
        errors="replace"
    )
    assert "frame-ancestors 'none'" in answer


def test_the_command_shows_what_a_page_cannot_hold_and_says_that_a_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "jaxnerf", "view", str(NERF), "--noopen", f"--port={port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                assert running.stdout is not None
                lines = [running.stdout.readline() for _ in range(3)]
            finally:
                running.kill()
    assert lines[0].startswith("without photographs: ")
    assert lines[1] == f"port {port} is taken\n"
    assert lines[2].startswith(f"{NERF} at http://127.0.0.1:")
    assert int(lines[2].partition("127.0.0.1:")[2].partition("/")[0]) > port


def test_training_is_shown_and_what_cannot_be_shown_is_refused(tmp_path, capfd):
    data = write_scene(tmp_path / "balls", 16, 16)
    command = ["train", f"--data={data}", f"--out={tmp_path}/run", *TINY, "--max_steps=3"]
    assert main([*command, "--noevaluate", "--view", "--port=0"]) == 0
    out, err = capfd.readouterr()
    assert "shown at http://127.0.0.1:" in out
    assert err == ""
    for more, said in (
        (["--port=7007"], "--port: has an effect with --view only"),
        (["--view", "--distributed"], "--view: shows the training of one process"),
    ):
        assert main([*command, *more]) == 1
        err = capfd.readouterr().err
        assert said in err
        assert err.count("\n") == 1


def test_without_viser_one_line_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "viser", None)
    for arguments in (["view", str(NERF), "--noopen"], ["train", "--out=nowhere", "--view"]):
        assert main(arguments) == 1
        err = capfd.readouterr().err
        assert err.count("\n") == 1
        assert "needs the package viser: pip install 'jaxnerf[view]'" in err
    assert not os.path.exists("nowhere")

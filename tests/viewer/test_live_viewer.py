"""The live viewer in a browser, and who may ask it."""

import dataclasses
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_factory import TINY, write_scene
from viewer_factory import run_of

from jaxnerf.cli import main
from jaxnerf.evaluation import to_8bit
from jaxnerf.scenes.path_files import read_path
from jaxnerf.viewer.live.show import live_view

pytest.importorskip("viser", reason="needs the package viser")
WIDTH, HEIGHT = 640, 400
# Of the page, where no panel and no message lies over the picture.
CLEAR = (slice(180, 400), slice(0, 300))
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


def until(holds: Callable[[], bool], page=None, seconds: float = 60.0) -> None:
    """Wait for something, while the browser goes on, if there is one."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "nothing came"
        page.wait_for_timeout(50) if page else time.sleep(0.05)


@pytest.fixture
def page(viewer, browser):
    """The viewer's page, with all of its picture; nothing may have complained, or left this machine."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda opened: asked.append(opened.url))
    page.goto(viewer.url)
    until(viewer.clients, page)
    rest(viewer, page)
    yield page
    context.close()
    until(lambda: not viewer.painter.is_watched)
    assert complaints == []
    known = (viewer.url, f"blob:{viewer.url}", f"ws://127.0.0.1:{viewer.port}", "data:")
    assert [url for url in asked if not url.startswith(known)] == []


def rest(viewer, page) -> None:
    """Wait until the browser has all pixels of what it looks at."""
    (client,) = viewer.clients()
    name = client.client_id

    def rests() -> bool:
        watcher = viewer.painter._watchers.get(name)
        shown = watcher and watcher._shown
        return bool(shown and shown.is_last and shown.view == viewer.view_of(client))

    page.wait_for_timeout(300)
    until(rests, page)
    page.wait_for_timeout(500)  # to reach the browser, and be drawn there


def shot(page) -> np.ndarray:
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return np.asarray(picture, np.float32)[CLEAR] / 255.0


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10.0 * np.log10(np.mean((one - other) ** 2) + 1e-12))


def press(page, text: str) -> None:
    """Press a button of the panel by its words."""
    page.evaluate(
        "(text) => [...document.querySelectorAll('button')].find((b) => b.innerText === text).click()",
        text,
    )


def show_cameras(viewer, visible: bool, page) -> None:
    for number in range(7):
        viewer.server.scene.get_handle_by_name(f"/cameras/{number}").visible = visible
    page.wait_for_timeout(300)


def click_a_frustum(viewer, client, page) -> None:
    """Click here and there, where no panel and no message lies over the picture, until one is met."""
    for y in (190, 180, 200, 210, 225, 240):
        for x in range(15, 300, 15):
            page.mouse.move(x, y)
            page.mouse.click(x, y, delay=30)
            page.wait_for_timeout(100)
            if viewer.view_of(client).photograph is not None:
                return
    raise AssertionError("no click met a frustum")


def test_the_picture_is_the_runs(run, viewer, page):
    (client,) = viewer.clients()
    view = viewer.view_of(client)
    show_cameras(viewer, False, page)
    np.testing.assert_allclose(view.pose, viewer.stage.home, atol=1e-5)
    assert view.size == (WIDTH, HEIGHT)
    expected = run.render(view.camera()).colour[CLEAR]
    assert decibels(shot(page), expected) > 45.0
    show_cameras(viewer, True, page)


def test_a_camera_that_is_clicked_is_flown_to_and_a_path_recorded(run, viewer, page, tmp_path):
    (client,) = viewer.clients()
    poses = np.asarray(run.cameras().camera_to_world)
    # From behind and aside, where all frusta are in view.
    far = viewer.stage.home.copy()
    far[:, 3] += 1.8 * viewer.stage.size * far[:, 2] + 0.6 * viewer.stage.size * far[:, 0]
    viewer.fly(client, far, viewer.stage.angle)
    rest(viewer, page)
    click_a_frustum(viewer, client, page)
    rest(viewer, page)
    here = viewer.view_of(client)
    np.testing.assert_allclose(here.pose, poses[here.photograph], atol=1e-5)
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

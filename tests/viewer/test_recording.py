"""Camera paths that are recorded in the page."""

import json

import numpy as np
import pytest
from pages import ANGLE, HEIGHT, WIDTH, decibels, draw, rest
from PIL import Image
from viewer_factory import KINDS, quick_run, run_of

from jaxnerf.cameras import Camera
from jaxnerf.cli import main
from jaxnerf.scenes.path_files import read_path
from jaxnerf.viewer.page import write_page

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("viewport", [(480, 360), (360, 480)])
def test_a_path_that_is_recorded_is_saved_as_the_command_reads_it(visit, tmp_path, viewport):
    run = quick_run()
    write_page(run, tmp_path / "scene.html")
    page = visit(
        tmp_path / "scene.html", viewport=dict(zip(("width", "height"), viewport, strict=True))
    )
    poses = np.asarray(run.cameras().camera_to_world)
    page.click("#path")
    angles = (50.0, 40.0, 60.0)
    for number, angle in zip((0, 2, 4), angles, strict=True):
        page.evaluate(
            "([pose, angle, size]) => jaxnerf.setPose(pose, angle, ...size)",
            [poses[number].tolist(), angle, list(viewport)],
        )
        page.click("#addkey")
    page.click("#addkey")
    page.click("#dropkey")
    assert page.inner_text("#pathwords") == "3 key frames, 121 frames"
    with page.expect_download() as saved:
        page.click("#savepath")
    assert saved.value.suggested_filename == "camera_path.json"
    path = tmp_path / "camera_path.json"
    saved.value.save_as(path)
    found = read_path(path, run.cameras()[0])
    cameras = found.cameras
    assert (len(cameras), found.frames_per_second, found.cycle) == (121, pytest.approx(30.0), False)
    width, height = (720 * side // min(viewport) for side in viewport)
    np.testing.assert_array_equal(cameras.size, [[width, height]] * 121)
    at = [0, 60, 120]
    np.testing.assert_allclose(cameras.camera_to_world[at], poses[[0, 2, 4]], atol=1e-6)
    # Angles of the width, which is what setPose takes.
    seen = np.rad2deg(2.0 * np.arctan(0.5 * width / np.asarray(cameras.focal)[at, 0]))
    np.testing.assert_allclose(seen, angles, rtol=1e-5)
    moves = np.diff(cameras.camera_to_world[:, :, 3], axis=0)
    lengths = np.linalg.norm(moves, axis=-1)
    assert lengths.max() < 4.0 * np.median(lengths), "it does not jump"
    keys = json.loads(path.read_text())["keyframes"]
    np.testing.assert_allclose(
        [np.reshape(key["matrix"], (4, 4))[:3] for key in keys], poses[[0, 2, 4]], atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_renders_what_the_page_shows_along_a_path(kind, visit, tmp_path, monkeypatch):
    run = run_of(kind)
    write_page(run, tmp_path / "scene.html")
    page, poses = visit(tmp_path / "scene.html"), np.asarray(run.cameras().camera_to_world)
    for number in (0, 1):
        page.evaluate(
            "([pose, angle, size]) => jaxnerf.setPose(pose, angle, ...size)",
            [poses[number].tolist(), ANGLE, [480, 360]],
        )
        page.evaluate("document.getElementById('addkey').click()")
    path = page.evaluate("jaxnerf.path")
    # The first of 61 frames, that in the middle and the last.
    path["camera_path"] = path["camera_path"][::30]
    (tmp_path / "path.json").write_text(json.dumps(path))
    monkeypatch.setattr("jaxnerf.cli.render.load_run", lambda folder: run)
    flags = [f"--path={tmp_path}/path.json", f"--out={tmp_path}/frames", f"--width={WIDTH}"]
    assert main(["render", "run", *flags]) == 0
    files = sorted((tmp_path / "frames").glob("*.png"))
    assert len(files) == len(path["camera_path"]) == 3
    focal, frames = 0.5 * WIDTH / np.tan(np.deg2rad(0.5 * ANGLE)), []
    for file, each in zip(files, path["camera_path"], strict=True):
        pose = np.reshape(each["camera_to_world"], (4, 4))[:3]
        frames.append(np.asarray(Image.open(file), np.float64) / 255.0)
        assert frames[-1].shape == (HEIGHT, WIDTH, 3)
        shown = draw(page, Camera.pinhole(pose, focal, WIDTH, HEIGHT))
        assert decibels(shown, frames[-1]) > 40.0
    assert decibels(frames[0], frames[-1]) < 30.0


def test_a_preview_flies_along_and_gives_way_to_hands(visit, tmp_path):
    run = quick_run()
    write_page(run, tmp_path / "scene.html")
    page, poses = visit(tmp_path / "scene.html"), np.asarray(run.cameras().camera_to_world)
    page.keyboard.press("p")
    for number in (0, 1):
        page.evaluate("(pose) => jaxnerf.setPose(pose, 50, 480, 360)", poses[number].tolist())
        page.click("#addkey")
    page.click("#playpath")
    page.wait_for_timeout(500)
    there = np.array(page.evaluate("jaxnerf.pose"))
    for pose in poses[:2]:
        assert np.linalg.norm(there[:, 3] - pose[:, 3]) > 0.01, "on the way"
    page.wait_for_timeout(2200)
    rest(page)
    np.testing.assert_allclose(page.evaluate("jaxnerf.pose"), poses[1], atol=1e-5)
    page.click("#playpath")
    page.wait_for_timeout(200)
    page.evaluate("(pose) => jaxnerf.setPose(pose, 50, 480, 360)", poses[3].tolist())
    page.wait_for_timeout(300)
    np.testing.assert_allclose(page.evaluate("jaxnerf.pose"), poses[3], atol=1e-5)

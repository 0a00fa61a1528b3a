"""What is recorded in the live viewer is what `jaxnerf render` makes."""

import json
from pathlib import Path

import numpy as np
import pytest
from live_pages import press, rest, until, visiting
from PIL import Image
from viewer_factory import run_of

from jaxnerf.cli import main
from jaxnerf.evaluation import to_8bit
from jaxnerf.runs.run import load_run
from jaxnerf.viewer.live.key_frames import KeyFrames
from jaxnerf.viewer.live.pictures import picture
from jaxnerf.viewer.live.show import live_view
from jaxnerf.viewer.live.views import View, rows

pytestmark = pytest.mark.slow

NERF = Path(__file__).parents[1] / "runs" / "old_runs" / "nerf"


def test_a_recorded_path_renders_to_the_frames_that_the_viewer_shows(tmp_path, capfd):
    run = load_run(NERF)
    keys = KeyFrames(seconds=0.1, frames_per_second=15.0)
    for number, angle in enumerate((0.7, 0.9, 0.6)):
        keys = keys.with_key(
            rows(run.cameras()[number % len(run.cameras())].camera_to_world), angle
        )
    path = tmp_path / "camera_path.json"
    path.write_bytes(keys.to_json(24, 16))
    assert main(["render", str(NERF), f"--path={path}", f"--out={tmp_path / 'frames'}"]) == 0, (
        capfd.readouterr().err
    )
    made = sorted((tmp_path / "frames").glob("*.png"))
    assert len(made) == len(keys) == 3
    cameras, shown = keys.cameras(24, 16), []
    for number, file in enumerate(made):
        frame = np.asarray(Image.open(file).convert("RGB"), np.int32)
        camera = cameras[number]
        angle = 2.0 * np.arctan(8.0 / float(camera.focal[1]))
        view = View(rows(np.asarray(camera.camera_to_world)), angle, (24, 16))
        shown.append(picture(run, view, (24, 16)).astype(np.int32))
        assert np.abs(frame - shown[-1]).max() <= 1
        expected = to_8bit(run.render(camera).colour).astype(np.int32)
        assert np.abs(frame - expected).max() <= 1
    assert np.abs(shown[0] - shown[1]).max() > 1, "the frames differ from one another"


@pytest.fixture
def viewer():
    pytest.importorskip("viser", reason="needs the package viser")
    with live_view(run_of("bounded"), port=0) as viewer:
        yield viewer


def test_a_path_that_was_saved_is_opened_previewed_and_played(
    viewer, browser, tmp_path, monkeypatch
):
    poses = np.asarray(viewer.run.cameras().camera_to_world, np.float64)
    keys = KeyFrames(seconds=0.5, frames_per_second=10.0)
    for pose, angle in zip(poses[[1, 3, 4]], (0.5, 0.6, 0.7), strict=True):
        keys = keys.with_key(rows(pose), angle)
    path = tmp_path / "camera_path.json"
    path.write_bytes(keys.to_json(32, 24))
    with visiting(viewer, browser) as page:
        (client,) = viewer.clients()

        def opened(file: Path) -> None:
            with page.expect_file_chooser() as chooser:
                press(page, "Open JSON")
            chooser.value.set_files(file)

        (tmp_path / "other.json").write_text(json.dumps({"keyframes": [{"matrix": None}]}))
        opened(tmp_path / "other.json")
        page.wait_for_function(
            "document.body.innerText.includes('other.json: keyframes[0]: matrix')"
        )
        opened(path)
        page.wait_for_function("document.body.innerText.includes('3 key frames, 10 frames')")

        # To the end of the slider, and so of the flight.
        thumb = page.locator("[role=slider]").last
        thumb.focus()
        thumb.press("End")
        until(lambda: np.allclose(viewer.view_of(client).pose, poses[4], atol=1e-4), page)
        assert abs(viewer.view_of(client).angle - 0.7) < 1e-4

        flown, place = [], viewer.place
        monkeypatch.setattr(
            viewer, "place", lambda *where: [flown.append(where[1]), place(*where)][-1]
        )
        press(page, "Play")
        until(lambda: flown and np.allclose(flown[-1], poses[4], atol=1e-4), page)
        np.testing.assert_allclose(flown[0], poses[1], atol=1e-6)
        assert min(np.abs(pose - poses[3]).max() for pose in flown) < 0.5 * np.ptp(poses[[1, 4]])

        rest(viewer, page)
        with page.expect_download() as saved:
            press(page, "Save JSON")
        saved.value.save_as(tmp_path / "again.json")
    first, again = (json.loads((tmp_path / f"{name}.json").read_text()) for name in
                    ("camera_path", "again"))  # fmt: skip
    poses = [
        np.array([key["camera_to_world"] for key in each.pop("camera_path")])
        for each in (first, again)
    ]
    np.testing.assert_allclose(*poses, atol=1e-9)
    keys = [np.array([key["matrix"] for key in each.pop("keyframes")]) for each in (first, again)]
    np.testing.assert_allclose(*keys, atol=1e-9)
    assert first.pop("default_fov") == pytest.approx(again.pop("default_fov"))
    assert first == again

"""What is recorded in the live viewer is what `jaxnerf render` makes."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxnerf.cli import main
from jaxnerf.evaluation import to_8bit
from jaxnerf.runs.run import load_run
from jaxnerf.viewer.live.key_frames import KeyFrames
from jaxnerf.viewer.live.pictures import picture
from jaxnerf.viewer.live.views import View, rows

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

"""What is learned of the demo scene, against the depths that its renderer says."""

import json
from pathlib import Path

import numpy as np
import pytest
from documents import as_users_have_it
from PIL import Image

from jaxnerf.cli import main
from jaxnerf.runs.run import Run, load_run
from jaxnerf.scenes import demo_path

VIEWS = (0, 16, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder: Path = tmp_path_factory.mktemp("truth") / "run"
    with as_users_have_it():
        assert main(["train", f"--out={folder}", "--max_steps=1000", "--noevaluate"]) == 0
        return load_run(folder)


def truth(view: int, kind: str) -> np.ndarray:
    return np.asarray(Image.open(demo_path() / "test" / f"r_{view}_{kind}.png"))


@pytest.mark.slow
def test_depths_of_opaque_pixels_are_off_by_less_than_a_hundredth(run):
    unit = json.loads((demo_path() / "scene.json").read_text())["depth_unit"]
    off = []
    with as_users_have_it():
        for view in VIEWS:
            seen = run.render(run.cameras("test")[view])
            opaque = (np.asarray(seen.opacity) > 0.99) & (truth(view, "object") > 0)
            assert opaque.mean() > 0.1
            known = truth(view, "depth")[opaque] * unit
            off.append(np.abs(np.asarray(seen.depth_median)[opaque] / known - 1.0))
    median = float(np.median(np.concatenate(off)))
    assert median < 0.01

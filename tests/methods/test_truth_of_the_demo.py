"""What is learned of the demo scene, against the depths and normals that its renderer says."""

import json
from pathlib import Path

import numpy as np
import pytest
from documents import as_users_have_it
from PIL import Image

from jaxnerf.cli import main
from jaxnerf.runs.run import Run, load_run
from jaxnerf.scenes import demo_path

VIEWS = range(0, 40, 8)
MATTE = ("stems", "flowers", "arch")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder: Path = tmp_path_factory.mktemp("truth") / "run"
    with as_users_have_it():
        assert main(["train", f"--out={folder}", "--max_steps=1000", "--noevaluate"]) == 0
        return load_run(folder)


def truth(view: int, kind: str) -> np.ndarray:
    return np.asarray(Image.open(demo_path() / "test" / f"r_{view}_{kind}.png"))


@pytest.mark.release
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


@pytest.mark.release
def test_normals_of_matte_things_are_off_by_less_than_15_degrees(run):
    objects = json.loads((demo_path() / "scene.json").read_text())["objects"]
    numbers = [int(number) for number, thing in objects.items() if thing["name"] in MATTE]
    assert len(numbers) == len(MATTE)
    off = []
    with as_users_have_it():
        for view in VIEWS:
            seen = run.render(run.cameras("test")[view], normals=True)
            matte = np.isin(truth(view, "object"), numbers) & (np.asarray(seen.opacity) > 0.99)
            known = truth(view, "normal")[matte] / 127.5 - 1.0
            known /= np.linalg.norm(known, axis=-1, keepdims=True)
            found = np.asarray(seen.normals, np.float64)[matte]
            found /= np.linalg.norm(found, axis=-1, keepdims=True)
            cosine = np.sum(known * found, axis=-1)
            off.append(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
    assert np.median(np.concatenate(off)) < 15.0

"""The experiment that measures pages: it draws the run's own views, and tells them from others."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from pages import decibels, rest
from viewer_factory import run_of

from jaxnerf.viewer.page import write_page

PROGRAM = Path(__file__).parents[2] / "experiments" / "page_quality" / "page_quality.py"


def program():
    spec = importlib.util.spec_from_file_location("page_quality", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_page_is_compared_with_its_run(visit, tmp_path):
    module, run = program(), run_of("bounded")
    write_page(run, tmp_path / "scene.html")
    page = visit(tmp_path / "scene.html")
    row = module.measured(page, run, views=2, photographs=0)
    assert row["views"] == [0]  # it has one
    assert row["least_decibels"] > 40.0
    cameras = [module.pinhole(run.cameras()[number]) for number in (0, 3)]
    shown = [module.draw(page, camera) for camera in cameras]
    for picture, camera in zip(shown, cameras, strict=True):
        expected = np.asarray(run.render(camera).colour)
        assert picture.shape == expected.shape
        assert decibels(picture, expected) > 40.0
    assert decibels(shown[0], shown[1]) < 30.0
    rest(page)

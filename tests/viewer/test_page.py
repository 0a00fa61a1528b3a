"""The page in a browser shows what `Run.render` does."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pages import ANGLE, HEIGHT, WIDTH, decibels, draw
from viewer_factory import KINDS, run_of

from jaxnerf.cameras import Camera
from jaxnerf.rendering import image
from jaxnerf.runs.run import load_run
from jaxnerf.viewer.page import write_page

TRAINED = Path(__file__).parents[1] / "runs" / "old_runs" / "voxels"
# Of the window, whose own picture is drawn before those that are looked at here.
SMALL = {"width": 200, "height": 150}


@pytest.fixture(scope="module", params=KINDS)
def shown(request, tmp_path_factory):
    """A run, and its page."""
    run = run_of(request.param)
    path = tmp_path_factory.mktemp("page") / "scene.html"
    assert write_page(run, path) == path.stat().st_size
    return run, path


def camera_of(run, number: int = 1) -> Camera:
    """Where a photograph was taken, with another lens and shape of picture."""
    focal = 0.5 * WIDTH / np.tan(np.deg2rad(0.5 * ANGLE))
    return Camera.pinhole(run.cameras()[number].camera_to_world, focal, WIDTH, HEIGHT)


def test_pictures_depths_and_normals_are_those_of_the_run(shown, visit, monkeypatch):
    run, path = shown
    # The page shows gradients of the density; the run's pictures have normals of their depths instead.
    monkeypatch.setattr(image, "normals_of_depth", lambda *of_picture: of_picture[4])
    page, camera = visit(path, viewport=SMALL), camera_of(run)
    expected = run.render(camera, normals=True)
    colour = draw(page, camera)
    assert decibels(colour, expected.colour) > 40.0
    # That of another camera, or one the wrong way around, is not.
    for other in (colour[:, ::-1], colour[::-1], draw(page, camera_of(run, 3))):
        assert decibels(other, expected.colour) < 30.0

    edges = run.config.evaluation.edge_supersampling
    opacity = draw(page, camera, "opacity")[..., 0]
    inside = np.abs(opacity - expected.opacity) < 0.01
    # Edges, which the run sees by four rays, are the page's by four in colour alone.
    assert inside.mean() > (0.9 if edges else 0.999)

    found = page.evaluate("Array.from(jaxnerf.depths(), (x) => Number.isFinite(x) ? x : -1)")
    found, solid = np.reshape(found, (HEIGHT, WIDTH)), expected.opacity > 0.99
    assert solid.mean() > 0.1
    off = np.abs(found / expected.depth - 1.0)[solid]
    # In a forward-facing scene the wall's voxels are half as deep as they are far away.
    assert np.median(off) < (5e-3 if run.scene.ndc else 1e-3)
    assert np.quantile(off, 0.99) < 0.03

    normals = 2.0 * draw(page, camera, "normals") - 1.0
    cosine = np.sum(normals * expected.normals, axis=-1)[solid]
    assert np.median(cosine) > 0.98
    assert np.mean(cosine > 0.9) > 0.9


@pytest.mark.slow
def test_the_far_side_of_a_scene_and_a_camera_inside_of_it(visit, tmp_path):
    """Rays that begin beyond the ball, beside the cube, and nearer than all photographs."""
    run = run_of("unbounded")
    write_page(run, tmp_path / "scene.html")
    page = visit(tmp_path / "scene.html", viewport=SMALL)
    pose = np.array(run.cameras()[2].camera_to_world)
    for back in (-1.8, 6.0):
        moved = pose.copy()
        moved[:, 3] += back * run.scene.to_user.scale * pose[:, 2]
        camera = dataclasses.replace(camera_of(run), camera_to_world=moved)
        assert decibels(draw(page, camera), run.render(camera).colour) > 40.0


@pytest.mark.slow
def test_a_page_of_a_run_that_was_trained_shows_what_the_run_does(visit, tmp_path):
    run = load_run(TRAINED)
    write_page(run, tmp_path / "scene.html")
    page = visit(tmp_path / "scene.html")
    for number in (0, 1):
        camera = camera_of(run, number)
        expected = run.render(camera).colour
        assert np.ptp(expected) > 0.1
        assert decibels(draw(page, camera), expected) > 40.0


def test_names_are_words_and_not_html(shown, visit):
    run, path = shown
    page = visit(path, viewport=SMALL)
    assert page.title() == run.scene.name == page.inner_text("h1") == "by hand <b>"


def test_a_page_without_anything_to_see_shows_the_background(visit, tmp_path):
    run = run_of("bounded")
    table = np.array(run.params.table)
    table[:, 0] = -15.0
    empty = dataclasses.replace(run, params=dataclasses.replace(run.params, table=table))
    write_page(empty, tmp_path / "scene.html")
    page = visit(tmp_path / "scene.html", viewport=SMALL)
    seen = draw(page, camera_of(run))
    np.testing.assert_allclose(seen, np.broadcast_to(run.background, seen.shape), atol=1e-6)

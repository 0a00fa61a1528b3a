"""What stands beside the live viewer's picture, pressed and dragged in a browser."""

import threading
from pathlib import Path

import numpy as np
import pytest
from ball import photographs
from live_pages import clear_part, decibels, press, rest, shot, show_cameras, until, visiting
from viewer_factory import run_of

from jaxnerf.cameras import project
from jaxnerf.config import override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import preset
from jaxnerf.methods import first_state, trainer_of
from jaxnerf.scenes import Scene
from jaxnerf.training.loop import train
from jaxnerf.viewer.live.pictures import cropped
from jaxnerf.viewer.live.show import live_view, training_view

pytestmark = pytest.mark.slow

pytest.importorskip("viser", reason="needs the package viser")


@pytest.fixture(scope="module")
def run():
    return run_of("bounded")


@pytest.fixture
def viewer(run):
    with live_view(run, port=0) as viewer:
        yield viewer


@pytest.fixture
def page(viewer, browser):
    with visiting(viewer, browser) as page:
        show_cameras(viewer, False, page)
        rest(viewer, page)
        yield page


def words(page) -> str:
    """All that is written on the page."""
    return page.evaluate("document.body.innerText")


def test_a_box_is_dragged_and_its_edges_are_seen(run, viewer, page):
    (client,) = viewer.clients()
    page.get_by_text("Crop", exact=True).click()
    page.wait_for_timeout(500)
    assert viewer.server.scene.get_handle_by_name("/crop").visible is False
    page.get_by_label("Only a box").click()
    until(lambda: viewer.style.crop is not None, page)
    first = viewer.style.crop
    # The far end along Y, by keys: as far as the middle.
    thumb = page.locator("[role=slider]").nth(3)
    thumb.focus()
    middle = 0.5 * (first.low[1] + first.high[1])
    while (before := viewer.style.crop.high[1]) >= middle:
        page.keyboard.press("ArrowLeft")
        # Key by key, since a browser that is behind would drag on, to where nothing is left to be seen.
        until(lambda before=before: viewer.style.crop.high[1] < before, page)
    rest(viewer, page)
    box = viewer.style.crop
    assert (box.low, box.high[0], box.high[2]) == (first.low, first.high[0], first.high[2])
    assert first.low[1] < box.high[1] < middle
    said = words(page).partition("--box=")[2].split()[0]
    np.testing.assert_allclose([*map(float, said.split(","))], [*box.low, *box.high], rtol=1e-6)

    part, view = clear_part(viewer.view_of(client)), viewer.view_of(client).camera()
    edges = viewer.server.scene.get_handle_by_name("/crop")
    with_edges = shot(page, part)
    edges.visible = False
    page.wait_for_timeout(300)
    seen = shot(page, part)
    assert decibels(seen, cropped(run, box).render(view).colour[part]) > 40.0
    assert decibels(seen, run.render(view).colour[part]) < 30.0
    # The edges are where the box's corners are: on the line from one to the other along each axis.
    lines = np.abs(with_edges - seen).max(axis=-1) > 0.1
    low, high = np.array([box.low, box.high])
    met = 0
    for axis in range(3):
        for corner in np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T:
            places = np.repeat(corner[None], 20, axis=0)
            places[:, axis] = np.linspace(low[axis], high[axis], 22)[1:-1]
            columns, rows = np.asarray(project(view, places)[0]).T
            inside = (columns > 3) & (columns < 297) & (rows > 183) & (rows < part[0].stop - 3)
            for column, row in zip(columns[inside], rows[inside] - 180.0, strict=True):
                met += 1
                around = slice(int(row) - 2, int(row) + 3), slice(int(column) - 2, int(column) + 3)
                assert lines[around].any()
    assert met > 20

    press(page, "Whole scene")
    until(lambda: viewer.style.crop == first, page)


def test_an_end_of_a_box_that_meets_the_other_takes_it_along(viewer):
    """However they are dragged, the box keeps a volume, and what is drawn cannot fail."""
    known = viewer.server.gui._gui_input_handle_from_uuid.values()
    named = {handle.label: handle for handle in known}
    first = {name: handle.value for name, handle in named.items() if name[0] in "XYZ"}
    assert first.keys() == {f"{axis} {end}" for axis in "XYZ" for end in ("from", "to")}
    named["Only a box"].value = True
    step = named["X to"].step
    named["X from"].value = first["X to"]
    assert named["X to"].value == pytest.approx(first["X to"] + step)
    named["Y to"].value = named["Y to"].min
    assert named["Y from"].value == named["Y from"].min
    assert named["Y to"].value == pytest.approx(named["Y to"].min + step)
    box = viewer.style.crop
    np.testing.assert_allclose(
        np.subtract(box.high, box.low)[:2], [step, step], rtol=1e-6, err_msg="what is drawn"
    )
    cropped(viewer.run, box)
    named["Only a box"].value = False
    assert viewer.style.crop is None
    again = named["Whole scene"]
    again.value = True  # as a click sends it
    until(lambda: all(named[name].value == value for name, value in first.items()), seconds=5.0)


def test_a_background_is_chosen(run, viewer, page):
    (client,) = viewer.clients()
    colour = page.locator("input[value^='rgb(']")
    colour.fill("rgb(200, 40, 90)")
    colour.press("Enter")
    until(lambda: viewer.style.background == (200 / 255, 40 / 255, 90 / 255), page)
    page.mouse.click(20, 300)
    rest(viewer, page)
    part, view = clear_part(viewer.view_of(client)), viewer.view_of(client).camera()
    expected = run.render(view, background=viewer.style.background)
    assert decibels(shot(page, part), expected.colour[part]) > 40.0
    corner = np.median(shot(page, part)[-20:, :20], axis=(0, 1))
    np.testing.assert_allclose(corner, viewer.style.background, atol=0.02)


def test_it_is_said_how_fine_the_picture_is_and_whose_camera_one_stands_at(run, viewer, page):
    (client,) = viewer.clients()
    assert "640 x 400 pixels" in words(page)
    viewer.fly_to(client, 4)
    rest(viewer, page)
    assert "at 004.png" in words(page)
    press(page, "First view")
    until(lambda: viewer.view_of(client).photograph is None, page)
    rest(viewer, page)
    assert "at 004.png" not in words(page)


@pytest.fixture(scope="module")
def trained():
    """What trains for long, of a scene with photographs."""
    scene = Scene("ball", Path("ball"), "test", {"train": photographs()}, 1.0, 5.0)
    config = override(
        preset("minute"),
        {
            "training.steps": 100_000,
            "training.max_seconds": 0.0,
            "training.rays_per_batch": 256,
            "voxels.stages.resolutions": (12, 24),
            "voxels.stages.fractions": (0.5,),
        },
    )
    return adapt_to_scene(config, scene, []), scene


@pytest.mark.release
def test_training_is_seen_paused_and_goes_on(trained, browser, tmp_path):
    config, scene = trained
    ends, steps = threading.Event(), []
    with training_view(tmp_path / "run", config, scene, port=0) as view:

        def work() -> None:
            def between(state, number):
                steps.append(number)
                return view.training.between(state, number, ends.is_set)

            state = first_state(config, scene)
            for progress in train(state, trainer_of(config, scene), between=between):
                view.panel.tell(progress.step, progress.total_steps, progress.metrics)
                if ends.is_set():
                    return

        training = threading.Thread(target=work)
        with visiting(view.viewer, browser) as page:
            assert "The first step compiles" in words(page)
            training.start()
            try:
                show_cameras(view.viewer, False, page)
                until(lambda: "dB" in words(page), page, seconds=200.0)  # the first step compiles
                press(page, "Pause")
                until(lambda: "paused" in words(page), page)
                rest(view.viewer, page)
                stopped = steps[-1]
                (client,) = view.viewer.clients()
                looked, now = view.viewer.view_of(client), view.training.run()
                assert "{} x {} pixels".format(*looked.size) in words(page)
                assert now.step == stopped
                expected = now.render(looked.camera()).colour[clear_part(looked)]
                assert decibels(shot(page, clear_part(looked)), expected) > 40.0
                assert steps[-1] == stopped
                press(page, "Go on")
                until(lambda: steps[-1] > stopped + 5, page)
                assert "paused" not in words(page)
            finally:
                ends.set()
                training.join()
        assert view.viewer.painter.error == ""


def test_who_closes_the_page_ends_a_pause(trained, browser, tmp_path):
    config, scene = trained
    with training_view(tmp_path / "run", config, scene, port=0) as view:
        with visiting(view.viewer, browser) as page:
            press(page, "Pause")
            until(lambda: view.training.is_paused, page)
        until(lambda: not view.training.is_paused)

"""The page at a telephone's size, and under fingers."""

from collections.abc import Callable

import numpy as np
import pytest
from pages import rest
from viewer_factory import quick_run

from jaxnerf.viewer.page import write_page

pytestmark = pytest.mark.slow

PORTRAIT, LANDSCAPE = {"width": 360, "height": 640}, {"width": 640, "height": 360}
TELEPHONE = {"has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def run():
    return quick_run()


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    found = tmp_path_factory.mktemp("touch") / "scene.html"
    write_page(run, found)
    return found


def pose(page) -> np.ndarray:
    return np.array(page.evaluate("jaxnerf.pose"))


def fingers(page) -> Callable[..., None]:
    """A function of an event and of places that fingers touch then."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    return touch


def box_of(page, what: str) -> tuple[float, float, float, float]:
    found = page.query_selector(what).bounding_box()
    return found["x"], found["y"], found["x"] + found["width"], found["y"] + found["height"]


def test_buttons_are_all_there_to_be_touched(path, visit):
    """On whatever telephone, however it is held: none beside the page, none too small for its word."""
    page = visit(path, viewport=PORTRAIT, **TELEPHONE)
    for upright in ((320, 568), (360, 640), (390, 844)):
        for width, height in (upright, upright[::-1]):
            page.set_viewport_size({"width": width, "height": height})
            for button in page.query_selector_all("nav button:not([hidden])"):
                box = button.bounding_box()
                assert box["height"] >= 40
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
                assert box["y"] + box["height"] <= height
                assert button.evaluate("(it) => it.scrollWidth <= it.clientWidth")
            # The picture keeps most of the page, and panels leave the buttons free.
            assert box_of(page, "nav")[1] > 0.6 * height
            for name in ("help", "path"):
                page.tap(f"#{name}")
                left, top, right, bottom = box_of(page, f"#{name}text")
                assert left >= 0
                assert top >= 0
                assert right <= width
                assert bottom <= box_of(page, "nav")[1]
                page.tap(f"#{name}")


def test_what_is_said_lies_over_no_title(path, visit):
    page = visit(path, viewport=PORTRAIT, **TELEPHONE)
    # At once, since what is said goes away.
    title, notice = page.evaluate(
        """() => {
          const notice = document.getElementById("notice");
          notice.textContent = "The address of this view is copied.";
          return [document.querySelector("h1"), notice].map((it) => {
            const { left, top, right, bottom } = it.getBoundingClientRect();
            return [left, top, right, bottom];
          });
        }"""
    )
    assert notice[1] >= title[3] or notice[0] >= title[2]
    assert notice[0] >= 0
    assert notice[2] <= PORTRAIT["width"]


def test_two_fingers_shift_and_pinch(path, visit):
    page = visit(path, viewport=PORTRAIT, **TELEPHONE)
    touch, before = fingers(page), pose(page)
    touch("touchStart", (100, 300), (260, 300))
    for step in range(1, 6):
        touch("touchMove", (100 + 10 * step, 300), (260 - 10 * step, 300))
    touch("touchEnd")
    moved = (pose(page)[:, 3] - before[:, 3]) @ before[:, :3]
    np.testing.assert_allclose(pose(page)[:, :3], before[:, :3], atol=1e-6)
    assert moved[2] > 0.5, "farther"
    before = pose(page)
    touch("touchStart", (100, 300), (260, 300))
    for step in range(1, 6):
        touch("touchMove", (100 + 8 * step, 300), (260 + 8 * step, 300))
    touch("touchEnd")
    moved = (pose(page)[:, 3] - before[:, 3]) @ before[:, :3]
    np.testing.assert_allclose(pose(page)[:, :3], before[:, :3], atol=1e-6)
    assert moved[0] < -0.05, "what is seen goes with the hand"
    assert abs(moved[2]) < 0.2 * abs(moved[0])


def test_a_finger_that_trembles_taps_a_camera_and_its_name_is_said(run, path, visit):
    poses, names = np.asarray(run.cameras().camera_to_world), run.scene.splits["train"].names
    far = poses[0].copy()
    far[:, 3] += 20.0 * far[:, 2]

    def behind(**options) -> tuple:
        page = visit(path, viewport=PORTRAIT, **options)
        page.evaluate("(pose) => jaxnerf.setPose(pose, 50, 360, 640)", far.tolist())
        places = [each["at"] for each in page.evaluate("jaxnerf.photographs")]
        # That which has the most room around it.
        away = [
            min(np.hypot(*np.subtract(one, other)) for other in places if other is not one)
            for one in places
        ]
        number = int(np.argmax(away))
        assert away[number] > 45.0
        return page, number, *places[number]

    page, number, x, y = behind(**TELEPHONE)
    touch = fingers(page)
    touch("touchStart", (x + 15, y + 10))
    touch("touchMove", (x + 20, y + 13))
    touch("touchEnd")
    page.wait_for_function(
        "(name) => document.getElementById('notice').textContent === name", arg=names[number]
    )
    page.wait_for_timeout(900)
    rest(page)
    np.testing.assert_allclose(pose(page), poses[number], atol=1e-5)
    # A mouse does not tremble, and points at one place.
    page, number, x, y = behind()
    page.mouse.click(x + 20, y + 13)
    page.wait_for_timeout(200)
    np.testing.assert_allclose(pose(page), far, atol=1e-5)


def test_a_double_tap_turns_towards_what_is_there(path, visit):
    page = visit(path, viewport=PORTRAIT, **TELEPHONE)
    before = pose(page)
    touch = fingers(page)
    for _ in range(2):
        touch("touchStart", (160, 300))
        touch("touchEnd")
        page.wait_for_timeout(60)
    page.wait_for_timeout(900)
    rest(page)
    turned = pose(page)
    np.testing.assert_allclose(turned[:, 3], before[:, 3], atol=1e-6)
    assert 1e-3 < np.linalg.norm(turned[:, 2] - before[:, 2]) < 0.5


def test_the_picture_is_small_while_a_finger_moves_it_and_whole_when_it_rests(path, visit):
    page = visit(path, viewport=PORTRAIT, **TELEPHONE)
    touch = fingers(page)
    page.evaluate("sizes.length = 0")
    touch("touchStart", (180, 200))
    for step in range(1, 12):
        touch("touchMove", (180 + 8 * step, 200 + 2 * step))
        page.wait_for_timeout(20)
    touch("touchEnd")
    rest(page)
    sizes = page.evaluate("sizes")
    assert min(map(max, sizes)) >= 256
    assert max(sizes[0]) < 640, "software draws no more in 30 ms"
    assert sizes[-1] == [360, 640]


def test_full_screen_comes_and_goes(path, visit):
    page = visit(path)
    assert page.get_attribute("#full", "aria-pressed") == "false"
    for pressed in ("true", "false"):
        page.click("#full")
        page.wait_for_selector(f"#full[aria-pressed={pressed}]")
        assert page.evaluate("Boolean(document.fullscreenElement)") == (pressed == "true")
        rest(page)
    # Where the browser refuses, that is said, and nothing breaks.
    page.evaluate(
        "() => { document.documentElement.requestFullscreen = () => Promise.reject(new TypeError()); }"
    )
    page.click("#full")
    page.wait_for_selector("#notice:not(:empty)")
    assert "full screen" in page.inner_text("#notice")


def test_a_link_holds_the_view_on_another_screen(run, path, visit):
    page = visit(path, viewport=PORTRAIT, **TELEPHONE)
    touch, first = fingers(page), page.evaluate("location.hash")
    touch("touchStart", (180, 200))
    touch("touchMove", (240, 220))
    touch("touchEnd")
    page.tap("#link")
    page.wait_for_function("(first) => location.hash !== first", arg=first)
    hash = page.evaluate("location.hash")
    here = pose(page)
    other = visit(path, hash, viewport=LANDSCAPE)
    np.testing.assert_allclose(pose(other), here, atol=2e-5)

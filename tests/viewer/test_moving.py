"""How a page answers hands, keys, buttons and addresses."""

import dataclasses
import itertools

import numpy as np
import pytest
from pages import rest
from viewer_factory import quick_run

from jaxnerf.cameras.paths import up_of
from jaxnerf.viewer.page import write_page

pytestmark = pytest.mark.slow

LEAST = 256
# Where the mouse does not meet a button.
MIDDLE = (240, 150)


@pytest.fixture(scope="module")
def run():
    return quick_run()


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    found = tmp_path_factory.mktemp("moving") / "scene.html"
    write_page(run, found)
    return found


def pose(page) -> np.ndarray:
    return np.array(page.evaluate("jaxnerf.pose"))


def drag(page, across: int, down: int, button: str = "left") -> None:
    x, y = MIDDLE
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(x + across, y + down, steps=3)
    page.mouse.up(button=button)


def middle_of(run) -> np.ndarray:
    """What the first view looks at, in the user's frame: the middle of the cameras' axes."""
    (point,) = run.scene.to_user.points(np.array([[0.1, 0.0, -0.1]]))
    return point


def test_dragging_goes_around_what_is_looked_at(run, path, visit):
    page = visit(path)
    before = pose(page)
    drag(page, 60, 0)
    rest(page)
    after = pose(page)
    away = [np.linalg.norm(each[:, 3] - middle_of(run)) for each in (before, after)]
    assert away[1] == pytest.approx(away[0], rel=1e-4)
    assert np.linalg.norm(after[:, 3] - before[:, 3]) > 0.2 * away[0]
    # What one drags goes with the hand: the camera to the left.
    assert (after[:, 3] - before[:, 3]) @ before[:, 0] < 0.0
    # And stays upright: what is to its right lies level.
    up = up_of(run.cameras().camera_to_world)
    assert abs(after[:, 0] @ up) < 1e-4
    drag(page, 0, 400)
    assert pose(page)[:, 2] @ up > 0.95  # from straight above, and not beyond


def test_shifting_and_zooming(run, path, visit):
    page = visit(path)
    before = pose(page)
    drag(page, 40, 0, button="right")
    shifted = pose(page)
    np.testing.assert_allclose(shifted[:, :3], before[:, :3], atol=1e-6)
    moved = (shifted[:, 3] - before[:, 3]) @ before[:, :3]
    assert moved[0] < -0.01
    np.testing.assert_allclose(moved[1:], 0.0, atol=1e-6)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    moved = (pose(page)[:, 3] - shifted[:, 3]) @ before[:, :3]
    assert moved[2] < -0.5
    np.testing.assert_allclose(moved[:2], 0.0, atol=1e-6)


def test_keys_fly(path, visit):
    page = visit(path)
    for key, axis, sign in (("w", 2, -1), ("a", 0, -1), ("e", 1, 1)):
        before = pose(page)
        page.keyboard.down(key)
        page.wait_for_timeout(300)
        page.keyboard.up(key)
        rest(page)
        moved = (pose(page)[:, 3] - before[:, 3]) @ before[:, :3]
        assert sign * moved[axis] > 0.01, key
        np.testing.assert_allclose(np.delete(moved, axis), 0.0, atol=1e-6)


def test_small_pictures_while_it_moves_and_all_of_it_when_it_rests(path, visit):
    page = visit(path)
    sizes = page.evaluate("sizes")
    # At first, when nothing is known of the device, half as large.
    assert (sizes[0], sizes[-1]) == ([LEAST, 192], [480, 360])
    page.evaluate("states.length = 0")
    drag(page, 60, 10)
    rest(page)
    states = [each for each, _ in itertools.groupby(page.evaluate("states"))]
    assert states[0] == "moving"
    assert states[-2:] == ["refining", "resting"]
    sizes = page.evaluate("sizes")
    assert sizes[-1] == [480, 360]
    assert min(map(max, sizes)) >= LEAST


def test_a_camera_that_is_clicked_is_flown_to(run, path, visit):
    page = visit(path)
    photographs = page.evaluate("jaxnerf.photographs")
    assert [each["name"] for each in photographs] == list(run.scene.splits["train"].names)
    poses = np.asarray(run.cameras().camera_to_world)
    np.testing.assert_allclose([each["pose"] for each in photographs], poses, atol=1e-5)
    # From far behind, where all are in view.
    far = pose(page)
    far[:, 3] += 14.0 * far[:, 2]
    page.evaluate("(pose) => jaxnerf.setPose(pose, 50, 480, 360)", far.tolist())
    x, y = page.evaluate("jaxnerf.photographs[2].at")
    assert 0.0 < x < 480.0
    assert 0.0 < y < 280.0
    page.mouse.click(x, y)
    rest(page)
    np.testing.assert_allclose(pose(page), poses[2], atol=1e-5)


def test_an_address_brings_back_its_view(path, visit):
    page = visit(path)
    home, first = pose(page), page.evaluate("location.hash")
    drag(page, 90, 30)
    page.click("[data-view=normals]")
    rest(page)
    there, hash = pose(page), page.evaluate("location.hash")
    again = visit(path, hash)
    np.testing.assert_allclose(pose(again), there, atol=2e-5)  # 7 digits
    assert again.get_attribute("[data-view=normals]", "aria-pressed") == "true"
    # So do addresses that change; those that say nothing change nothing.
    for broken in ("#at=1,2", "#at=0,0,0,0,0,0,0,40,1", "#at=a,b,c,d,e,f,g,h,i", "#view=none"):
        again.evaluate("(hash) => { location.hash = hash; }", broken)
        again.wait_for_timeout(30)
        np.testing.assert_allclose(pose(again), there, atol=2e-5)
    again.evaluate("(hash) => { location.hash = hash; }", first)
    again.wait_for_timeout(30)
    np.testing.assert_allclose(pose(again), home, atol=2e-5)


def test_an_address_far_from_the_origin_brings_back_its_view(run, visit, tmp_path):
    """As in survey coordinates: the digits that tell a place lie behind millions."""
    frame = run.scene.to_user
    shift = np.array([4_512_345.0, -678_901.0, 120.0])
    frame = dataclasses.replace(frame, translation=frame.translation + shift)
    far = dataclasses.replace(run, scene=dataclasses.replace(run.scene, to_user=frame))
    write_page(far, tmp_path / "scene.html")
    page = visit(tmp_path / "scene.html")
    drag(page, 90, 30)
    rest(page)
    again = visit(tmp_path / "scene.html", page.evaluate("location.hash"))
    np.testing.assert_allclose(pose(again), pose(page), rtol=0, atol=2e-5)


def test_buttons_and_home(path, visit):
    page = visit(path)
    home, pictures = pose(page), []
    for view in ("depth", "normals", "opacity", "colour"):
        page.click(f"[data-view={view}]")
        rest(page)
        assert page.get_attribute(f"[data-view={view}]", "aria-pressed") == "true"
        pictures.append(page.screenshot())
    assert len(set(pictures)) == 4
    page.click("#cameras")
    rest(page)
    assert page.screenshot() not in pictures
    drag(page, 50, 0)
    page.keyboard.press("h")
    page.wait_for_timeout(900)
    rest(page)
    np.testing.assert_allclose(pose(page), home, atol=1e-6)


def test_on_a_telephone(path, visit):
    size = {"width": 360, "height": 640}
    page = visit(path, viewport=size, has_touch=True, is_mobile=True)
    for button in page.query_selector_all("nav button:not([hidden])"):
        box = button.bounding_box()
        assert box["height"] >= 40
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
        assert box["y"] + box["height"] <= size["height"]
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[int, int]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = pose(page)
    touch("touchStart", (180, 200))
    touch("touchMove", (220, 200))
    touch("touchMove", (240, 200))
    touch("touchEnd")
    turned = pose(page)
    assert np.linalg.norm(turned[:, 3] - before[:, 3]) > 0.1
    touch("touchStart", (160, 200), (200, 200))
    touch("touchMove", (120, 200), (240, 200))
    touch("touchMove", (100, 200), (260, 200))
    touch("touchEnd")
    moved = (pose(page)[:, 3] - turned[:, 3]) @ turned[:, :3]
    assert moved[2] < -0.5  # nearer

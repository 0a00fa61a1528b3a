"""What tests of the live viewer share: its page in a browser, and what is seen there."""

import contextlib
import io
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 400
# How long something may take beside other programs, in seconds.
PATIENCE = 240.0
_tokens = (f"token {number}" for number in itertools.count())
# Of the page, where no panel and no message lies over the picture.
CLEAR = (slice(180, 400), slice(0, 300))


def clear_part(view) -> tuple[slice, slice]:
    """The clear part of a view's picture, which ends where something stands below it."""
    return slice(180, view.size[1]), CLEAR[1]


def until(holds: Callable[[], Any], page=None, seconds: float = PATIENCE) -> None:
    """Wait for something, while the browser goes on, if there is one."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "nothing came"
        page.wait_for_timeout(50) if page else time.sleep(0.05)


@contextlib.contextmanager
def visiting(viewer, browser) -> Iterator[Any]:
    """The viewer's page; nothing may complain, or leave this machine."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    context.set_default_timeout(1000.0 * PATIENCE)
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda opened: asked.append(opened.url))
    try:
        # Else viser gives a window fewer pixels where the browser draws slowly.
        page.goto(f"{viewer.url}?fixedDpr=1")
        until(viewer.clients, page)
        (client,) = viewer.clients()
        # The first that viser says of a camera can be of before it was told where to begin.
        until(lambda: np.allclose(viewer.view_of(client).pose, viewer.stage.home, atol=1e-4), page)
        yield page
    finally:
        context.close()
    until(lambda: not viewer.painter.is_watched)
    assert complaints == []
    known = (viewer.url, f"blob:{viewer.url}", f"ws://127.0.0.1:{viewer.port}", "data:")
    assert [url for url in asked if not url.startswith(known)] == []


def rest(viewer, page) -> None:
    """Wait until the browser has all pixels of what it looks at."""
    (client,) = viewer.clients()
    name = client.client_id

    def rests() -> bool:
        watcher = viewer.painter._watchers.get(name)
        shown = watcher and watcher._shown
        return bool(shown and shown.is_last and shown.view == viewer.view_of(client))

    page.wait_for_timeout(300)
    until(rests, page)
    reach(client, page)
    until(lambda: np.array_equal(shot(page), [page.wait_for_timeout(250), shot(page)][1]), page)


def reach(client, page) -> None:
    """Wait until the browser has read all that was sent to it, which it does in order."""
    token = next(_tokens)
    said = client.gui.add_markdown(token)
    page.wait_for_function("(token) => document.body.innerText.includes(token)", arg=token)
    said.remove()
    page.wait_for_function("(token) => !document.body.innerText.includes(token)", arg=token)


def shot(page, part=CLEAR) -> np.ndarray:
    """What the page shows, [height, width, 3] in [0, 1]."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return np.asarray(picture, np.float32)[part] / 255.0


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10.0 * np.log10(np.mean((one - other) ** 2) + 1e-12))


def press(page, text: str) -> None:
    """Press a button of the panel by its words."""
    page.evaluate(
        "(text) => [...document.querySelectorAll('button')].find((b) => b.innerText === text).click()",
        text,
    )


def show_cameras(viewer, visible: bool, page) -> None:
    """Show the cameras of the photographs, or none."""
    for number in range(len(viewer.run.cameras())):
        viewer.server.scene.get_handle_by_name(f"/cameras/{number}").visible = visible
    page.wait_for_timeout(300)

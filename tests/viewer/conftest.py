"""A browser without a window, and pages in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import rest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# WebGL 2 on the processor; and as root, as containers have it, Chromium wants no sandbox.
ARGUMENTS = (
    "--headless=new",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)
# What a page draws, from its first picture on, and whether it moves or rests.
WATCH = """
window.sizes = [];
window.states = [];
new MutationObserver((changes) => changes.forEach(({ target, attributeName }) => {
  if (attributeName === "data-drawn") sizes.push(target.dataset.drawn.split(" x ").map(Number));
  else states.push(target.dataset.state);
})).observe(document, { subtree: true, attributeFilter: ["data-drawn", "data-state"] });
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, which Playwright drives; skips where one of the two is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Any]]:
    """A function that opens a file or an address, and waits until its picture is drawn.

    When the test ends, no page may have complained or asked for anything but itself.
    """
    contexts, complaints, asked, opened = [], [], [], set()

    def visit(what: Path | str, hash: str = "", **options: Any) -> Any:
        options = {"viewport": {"width": 480, "height": 360}} | options
        context = browser.new_context(**options)
        context.set_default_timeout(240_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.add_init_script(WATCH)
        address = what.as_uri() if isinstance(what, Path) else what
        opened.add(address)
        page.goto(address + hash)
        rest(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.partition("#")[0] for url in asked} <= opened

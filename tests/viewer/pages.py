"""What tests of pages share."""

from typing import Any


def rest(page: Any) -> None:
    """Wait until all of the picture is drawn."""
    page.wait_for_selector("body[data-state=resting]", timeout=240_000)

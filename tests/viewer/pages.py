"""What tests of pages share."""

import base64
from typing import Any

import numpy as np

from jaxnerf.cameras import Camera

# Of pictures that are compared: their sides in pixels, and how wide they see in degrees.
WIDTH, HEIGHT, ANGLE = 200, 150, 44.0
BYTES = """() => {
  const bytes = jaxnerf.pixels(), part = 4096;
  let text = "";
  for (let i = 0; i < bytes.length; i += part)
    text += String.fromCharCode(...bytes.subarray(i, i + part));
  return btoa(text);
}"""


def rest(page: Any) -> None:
    """Wait until all of the picture is drawn."""
    page.wait_for_selector("body[data-state=resting]", timeout=240_000)


def draw(page, camera: Camera, view: str = "colour") -> np.ndarray:
    """The page's picture [height, width, 3], in [0, 1]."""
    pose = np.asarray(camera.camera_to_world).tolist()
    page.evaluate(
        "([pose, angle, width, height, view]) => {"
        "jaxnerf.show(view); jaxnerf.setPose(pose, angle, width, height); jaxnerf.draw(); }",
        [pose, ANGLE, WIDTH, HEIGHT, view],
    )
    levels = np.frombuffer(base64.b64decode(page.evaluate(BYTES)), np.uint8)
    return levels.reshape(HEIGHT, WIDTH, 4)[..., :3] / 255.0


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10.0 * np.log10(np.mean((one - other) ** 2)))

"""An image of a scene's cameras from above and from the side."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.scenes import Scene

# Sizes in pixels, and the factor by which the image is drawn larger and then shrunk, for smooth lines.
_SIDE, _MARGIN, _HEAD, _FOOT, _LARGER = 760, 34, 64, 40, 3
_PAPER, _INK, _FAINT, _RED = "#ffffff", "#1f2937", "#c3c9d2", "#dc2626"
_GREY = "#788496"
_COLOURS = {"train": "#2563eb", "test": "#ea7a0c", "val": "#16a34a"}
_MOST_POINTS = 60_000
# Length of frusta as a fraction of the cameras' largest distance from their mean; and the largest
# distance by which points extend the panel beyond the frusta, as a multiple of these frusta's extent.
_LENGTH, _WIDEST = 0.14, 2.5


@dataclasses.dataclass(frozen=True)
class _View:
    """The projection of a panel: the scene's axes across and up, and the centre of the panel."""

    title: str
    across: Float[np.ndarray, "3"]
    up: Float[np.ndarray, "3"]
    middle: Float[np.ndarray, "3"]
    scale: float
    left: int

    def place(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 2"]:
        """Positions of points in the image."""
        offset = (np.asarray(points, np.float64) - self.middle) * self.scale
        middle = np.array([self.left + 0.5 * _SIDE, _HEAD + 0.5 * _SIDE])
        return _LARGER * (middle + np.stack([offset @ self.across, -(offset @ self.up)], axis=-1))


def overview(scene: Scene, odd: Collection[int] = ()) -> Image.Image:
    """Draw a scene's cameras as frusta, and its points if it has any.

    Up in the image is the scene's upward direction; the axes and the scale bar are those of the user's
    files.

    Args:
      scene: the scene; its photographs need not have been read.
      odd: indices of cameras, in the order of the splits, that are drawn in red.
    """
    width, height = 2 * _SIDE + 3 * _MARGIN, _SIDE + _HEAD + _FOOT
    picture = Image.new("RGB", (_LARGER * width, _LARGER * height), _PAPER)
    draw = ImageDraw.Draw(picture)
    length = _LENGTH * _extent(scene)
    frusta = {name: _frusta(split.cameras, length) for name, split in scene.splits.items()}
    for view in _views(scene, np.concatenate(list(frusta.values()))):
        panel = picture.crop(_frame(view))
        _draw_panel(ImageDraw.Draw(panel), scene, frusta, view, frozenset(odd))
        picture.paste(panel, _frame(view)[:2])
        draw.rectangle(_frame(view), outline=_FAINT, width=_LARGER)
        _text(draw, (view.left, _HEAD - 24), view.title, _INK, 15)
    _draw_legend(draw, scene, bool(odd))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _views(scene: Scene, frusta: np.ndarray) -> list[_View]:
    """The two panels, with the same scale."""
    right, up, back = (np.eye(3)[axis] for axis in ((0, 1, 2) if scene.ndc else (0, 2, 1)))
    back = back if scene.ndc else -back
    corners = frusta.reshape(-1, 3)
    low, high = corners.min(axis=0), corners.max(axis=0)
    if scene.points is not None and len(scene.points):
        most = _WIDEST * float((high - low).max())
        inner = np.percentile(scene.points, [3.0, 97.0], axis=0)
        low = np.minimum(low, np.maximum(inner[0], low - most))
        high = np.maximum(high, np.minimum(inner[1], high + most))
    middle = 0.5 * (low + high)
    scale = 0.9 * _SIDE / max(float((high - low).max()), 1e-9)
    return [
        _View("from above", right, -back, middle, scale, _MARGIN),
        _View(
            "from behind" if scene.ndc else "from the side",
            right,
            up,
            middle,
            scale,
            2 * _MARGIN + _SIDE,
        ),
    ]


def _frame(view: _View) -> tuple[int, int, int, int]:
    corners = (view.left, _HEAD, view.left + _SIDE, _HEAD + _SIDE)
    left, top, right, bottom = (_LARGER * corner for corner in corners)
    return left, top, right, bottom


def _extent(scene: Scene) -> float:
    places = np.concatenate(
        [np.asarray(split.cameras.camera_to_world)[:, :, 3] for split in scene.splits.values()]
    )
    return float(np.linalg.norm(places - places.mean(axis=0), axis=-1).max()) or 1.0


def _frusta(cameras: Camera, length: float) -> Float[np.ndarray, "N 5 3"]:
    """Each camera's position and the four corners of its frustum, in the scene's frame."""
    places = np.asarray(cameras.camera_to_world, np.float64)[:, :, 3]
    size = np.asarray(cameras.size, np.float32)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], np.float32)
    found = [places]
    for corner in corners:
        rays = np.asarray(cast_rays(cameras, jnp.asarray(corner * size)).view_directions)
        found.append(places + length * rays)
    return np.stack(found, axis=1)


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    scene: Scene,
    frusta: dict[str, np.ndarray],
    view: _View,
    odd: frozenset[int],
) -> None:
    """Draw points, then frusta, then axes and scale bar, in the panel's own coordinates."""
    origin = np.array(_frame(view)[:2])
    if scene.points is not None:
        step = 1 + len(scene.points) // _MOST_POINTS
        for x, y in view.place(scene.points[::step]) - origin:
            if 0.0 <= x < _LARGER * _SIDE and 0.0 <= y < _LARGER * _SIDE:
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_GREY)
    number = 0
    for name, corners in frusta.items():
        for each in view.place(corners) - origin:
            colour = _RED if number in odd else _COLOURS.get(name, _INK)
            _draw_frustum(draw, each, colour)
            number += 1
    _draw_axes(draw, scene, view)
    _draw_bar(draw, scene, view)


def _draw_frustum(draw: ImageDraw.ImageDraw, corners: np.ndarray, colour: str) -> None:
    eye, *rest = (tuple(corner.tolist()) for corner in corners)
    for one, other in zip(rest, rest[1:] + rest[:1], strict=True):
        draw.line((*eye, *one), fill=colour, width=_LARGER)
        draw.line((*one, *other), fill=colour, width=_LARGER)
    x, y = eye
    radius = 2.2 * _LARGER
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _draw_axes(draw: ImageDraw.ImageDraw, scene: Scene, view: _View) -> None:
    """Draw the directions of the user's axes, except an axis along the viewing direction."""
    x, y, length = _LARGER * 70.0, _LARGER * (_SIDE - 70.0), _LARGER * 36.0
    for name, axis in zip("xyz", scene.to_user.rotation, strict=True):
        step = np.array([axis @ view.across, -(axis @ view.up)])
        if np.linalg.norm(step) < 0.5:
            continue
        end = np.array([x, y]) + length * step
        draw.line((x, y, *end.tolist()), fill=_INK, width=2 * _LARGER)
        label = np.array([x, y]) + (length * np.linalg.norm(step) + 11.0 * _LARGER) * (
            step / np.linalg.norm(step)
        )
        draw.text(tuple(label.tolist()), name, fill=_INK, font=_font(15), anchor="mm")


def _draw_bar(draw: ImageDraw.ImageDraw, scene: Scene, view: _View) -> None:
    """Draw a scale bar: a round length in the user's unit, about a fifth of the panel."""
    pixels_a_unit = view.scale / scene.to_user.scale
    length = _round(0.2 * _SIDE / pixels_a_unit)
    right, y = _LARGER * (_SIDE - 24.0), _LARGER * (_SIDE - 24.0)
    left, tick = right - _LARGER * length * pixels_a_unit, 5.0 * _LARGER
    draw.line((left, y, right, y), fill=_INK, width=2 * _LARGER)
    for x in (left, right):
        draw.line((x, y - tick, x, y + tick), fill=_INK, width=2 * _LARGER)
    text = f"{length:g} {'unit' if length == 1.0 else 'units'}"
    draw.text((0.5 * (left + right), y - 7 * _LARGER), text, fill=_INK, font=_font(14), anchor="ms")


def _round(length: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not larger.

    >>> _round(0.37), _round(7.0), _round(100.0)
    (0.2, 5.0, 100.0)
    """
    power = 10.0 ** math.floor(math.log10(length) + 1e-9)
    return float(f"{power * max(step for step in (1, 2, 5) if step * power <= length * 1.001):g}")


def _draw_legend(draw: ImageDraw.ImageDraw, scene: Scene, odd: bool) -> None:
    _text(draw, (_MARGIN, 10), scene.name, _INK, 19)
    entries = [
        (_COLOURS.get(name, _INK), f"{len(split)} {name}") for name, split in scene.splits.items()
    ]
    entries += [(_RED, "see the warnings")] if odd else []
    if scene.points is not None and len(scene.points):
        entries += [(_GREY, f"{len(scene.points):,} points")]
    x, y = float(_MARGIN), _HEAD + _SIDE + 0.5 * _FOOT
    for colour, text in entries:
        box = (x, y - 5, x + 10, y + 5)
        draw.ellipse(tuple(_LARGER * edge for edge in box), fill=colour)
        draw.text((_LARGER * (x + 17), _LARGER * y), text, fill=_INK, font=_font(15), anchor="lm")
        x += 17 + draw.textlength(text, font=_font(15)) / _LARGER + 26


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str, size: int
) -> None:
    x, y = (_LARGER * each for each in place)
    draw.text((x, y), text, fill=colour, font=_font(size))


def _font(size: int) -> Any:
    return ImageFont.load_default(_LARGER * size)

"""The background of a scene: one colour, as a name in a configuration or as numbers."""

import re
from typing import Annotated

import numpy as np

from jaxnerf.scenes import Split

# The type of a background in a configuration; the second argument is the type's name in the help.
Background = Annotated[str, "auto|white|black|random|#RRGGBB"]

_NAMED = {"white": "#ffffff", "black": "#000000"}
_NOT_COLOURS = ("auto", "random")
# A mean colour is that of about so many pixels along each side of a photograph.
_PIXELS = 128


def read_background(text: object) -> str:
    """A background's name as configurations store it: a word if the colour has one, else lower case.

    Raises:
      ValueError: the text is neither a known word nor a colour of six hexadecimal digits.

    >>> read_background("#8080FF"), read_background("#FFFFFF")
    ('#8080ff', 'white')
    """
    if isinstance(text, str):
        if text in _NAMED or text in _NOT_COLOURS:
            return text
        if re.fullmatch("#[0-9a-fA-F]{6}", text):
            return name_of(levels_of(text))
    raise ValueError(
        f"{text!r} is not one of auto, white, black, random, nor a colour like #8090a0"
    )


def name_of(levels: tuple[int, int, int]) -> str:
    """The name of an 8-bit sRGB colour.

    >>> name_of((255, 255, 255)), name_of((128, 128, 128))
    ('white', '#808080')
    """
    text = "#{:02x}{:02x}{:02x}".format(*levels)
    return next((word for word, colour in _NAMED.items() if colour == text), text)


def levels_of(background: str) -> tuple[int, int, int]:
    """The 8-bit sRGB colour of a background's name; white for names that are not colours."""
    text = _NAMED.get(background, background)
    if not text.startswith("#"):
        text = _NAMED["white"]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def colour_of(background: str) -> tuple[float, float, float]:
    """The sRGB colour in [0, 1] of a background's name; white for names that are not colours.

    >>> colour_of("black"), colour_of("random")
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """
    red, green, blue = levels_of(background)
    return red / 255.0, green / 255.0, blue / 255.0


def mean_colour_of(split: Split) -> str:
    """The name of the mean sRGB colour of photographs' valid pixels, with alpha as weight.

    Args:
      split: a split with photographs. White if none of its pixels is valid.
    """
    assert split.images is not None
    strides = (max(side // _PIXELS, 1) for side in split.images.shape[1:3])
    some = tuple(slice(stride // 2, None, stride) for stride in strides)
    total = np.zeros(4, np.int64)  # exact, so that all hosts find the same
    for index, image in enumerate(split.images):
        # Beyond the edges of a smaller photograph alpha is 0.
        weight = image[some][..., 3].astype(np.int64)
        if split.masks is not None:
            weight = weight * split.masks[index][some]
        total[:3] += np.einsum("hw,hwc->c", weight, image[some][..., :3].astype(np.int64))
        total[3] += weight.sum()
    if not total[3]:
        return "white"
    red, green, blue = (int(level) for level in np.rint(total[:3] / total[3]))
    return name_of((red, green, blue))


def describe_colour(background: tuple[float, float, float] | float) -> str | float:
    """The name of a colour or a grey in [0, 1]; the number itself for a grey that is no 8-bit level.

    >>> describe_colour(1.0), describe_colour((0.0, 0.0, 0.0)), describe_colour(0.25)
    ('white', 'black', 0.25)
    """
    colour = (background,) * 3 if isinstance(background, float | int) else background
    red, green, blue = (round(255.0 * value) for value in colour)
    exact = all(
        abs(255.0 * value - level) < 1e-3
        for value, level in zip(colour, (red, green, blue), strict=True)
    )
    if isinstance(background, float | int) and not exact:
        return background
    return name_of((red, green, blue))

"""Conversion of 8-bit sRGB to linear light."""

import numpy as np
from jaxtyping import Float


def linear_levels() -> Float[np.ndarray, "256"]:
    """The linear light, in [0, 1], of each level of 8-bit sRGB (IEC 61966-2-1)."""
    levels = np.arange(256) / 255.0
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)

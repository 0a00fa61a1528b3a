"""From densities along a ray to a pixel.

Names and contract. Density (sigma) is constant in each sample's interval, in 1/length. Optical depth is
density times length; transmittance is exp(-optical depth up to here); a sample's opacity (alpha) is the
fraction of light that it alone would stop; its weight is transmittance times opacity (NeRF, eq. 3).

There are two groups of functions. Those of fenceposts (`volume_weights(density, t)` and its kind) are
the formulas: sample i owns the interval between `t_i` and `t_{i+1}`; each is written for one ray,
mapped over any leading shape by `jnp.vectorize` (that is, by vmap), and jit-compiled. Those of
`jaxnerf.sampling.Samples` (`weights_of`, `accumulated`, `depth_of`, ...) are what a renderer calls:
they take dense and packed samples alike.
"""

from jaxnerf.compositing.fenceposts import (
    accumulate,
    expected_depth,
    median_depth,
    normals,
    opacities,
    opacity_weights,
    optical_depth,
    over,
    ray_opacity,
    surface_weights,
    transmittance,
    unit,
    volume_weights,
)
from jaxnerf.compositing.of_samples import (
    TO_THE_END,
    Compositing,
    accumulated,
    depth_of,
    deviation_of,
    distortion_of,
    greatest_density_of,
    median_depth_of,
    median_place_of,
    opacity_of,
    optical_depths_of,
    transmittance_of,
    weights_of,
)

__all__ = [
    "TO_THE_END",
    "Compositing",
    "accumulate",
    "accumulated",
    "depth_of",
    "deviation_of",
    "distortion_of",
    "expected_depth",
    "greatest_density_of",
    "median_depth",
    "median_depth_of",
    "median_place_of",
    "normals",
    "opacities",
    "opacity_of",
    "opacity_weights",
    "optical_depth",
    "optical_depths_of",
    "over",
    "ray_opacity",
    "surface_weights",
    "transmittance",
    "transmittance_of",
    "unit",
    "volume_weights",
    "weights_of",
]

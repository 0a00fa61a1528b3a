"""`Rendering`, what is rendered of rays: by `render_rays`, or of all rays of an image."""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnerf.sampling import Samples

# The least transmittance that makes a difference in an 8-bit image.
_LEAST_LIGHT = 1 / 255


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rendering:
    """The rendered colour, opacity and depth of rays. A pytree of arrays with the rays' leading shape.

    Attributes:
      colour: RGB in [0, 1], over the background.
      opacity: the sum of the weights, in [0, 1].
      depth: the expected t of the ray's termination (for a pinhole camera the depth along its axis).
      depth_median: the t at which the opacity accumulated so far is one half; with the compositing modes
        "surface", "maximum" and "mean", at which half of the total weight is accumulated.
      distance: the expected depth as a length in the world.
      normals: unit vectors in the world, or zero; None unless requested. `render_rays` takes them from
        the gradient of density, `render_image` with "volume" compositing from the median depths
        (`jaxnerf.rendering.normals`).
      extras: the field's `extras`, accumulated along rays as colours are, but without a background: a
        pytree of [*batch, ...]; None if the field has none.
      samples, weights: the samples (`jaxnerf.Samples`) and their weights; None in an image. With a
        composed field `weights` is a tuple with an array per part, and `samples` may be
        `jaxnerf.sampling.ComposedSamples`.
      proposals: the renderings of the levels of sampling before the last; empty unless requested.
    """

    colour: Float[Array, "*batch 3"]
    opacity: Float[Array, "*batch"]
    depth: Float[Array, "*batch"]
    depth_median: Float[Array, "*batch"]
    distance: Float[Array, "*batch"]
    normals: Float[Array, "*batch 3"] | None = None
    extras: Any = None
    samples: Any = None
    weights: Any = None
    proposals: "tuple[Rendering, ...]" = ()

    @property
    def is_dark(self) -> Bool[Array, "*batch"]:
        """Whether a ray's transmittance is too low to make a difference in an 8-bit image."""
        return 1.0 - self.opacity <= _LEAST_LIGHT

    @property
    def is_complete(self) -> Bool[Array, "*batch"]:
        """Whether a ray was rendered to its end, or ended early with no visible light left (`is_dark`).

        True for every ray of an image.
        """
        samples: Samples | None = self.samples
        if samples is None:
            return jnp.ones(self.opacity.shape, bool)
        dark = samples.fits & samples.early_stopped & ~samples.truncated & self.is_dark
        return samples.complete | dark

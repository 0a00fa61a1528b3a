"""The colour that rays accumulate, of a field alone."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf import compositing as comp
from jaxnerf.cameras import Rays
from jaxnerf.fields import Field, Params
from jaxnerf.sampling import Samples


def accumulated_colour(
    field: Field,
    params: Params,
    rays: Rays,
    samples: Samples,
    weights: Float[Array, "*layout"],
    opacity: Float[Array, "*batch"],
    features: Any,
) -> Float[Array, "*batch 3"]:
    """The colour of rays on black, of a field that gives a colour for each sample or one for each ray.

    Args:
      field, params, rays, samples: see `jaxnerf.render_rays`.
      weights: of the samples.
      opacity: their sum along each ray.
      features: what the field's density left at the samples.
    """
    if getattr(field, "shading", "sample") == "ray":
        mean = comp.accumulated(samples, weights, features)
        mean = mean / jnp.maximum(opacity, 1e-3)[..., None]
        return opacity[..., None] * field.colour(params, mean, rays.view_directions)
    colours = field.colour(params, features, samples.view_directions(rays))
    return comp.accumulated(samples, weights, colours)

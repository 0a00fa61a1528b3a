"""The colour that rays accumulate, of a field alone, and how much a field learns where it is asked."""

from typing import Any

import jax
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


def slowed_near(samples: Samples, rays: Rays, reach: Float[Array, ""] | float, answers: Any) -> Any:
    """What a field answered, with gradients that are smaller the nearer the camera is.

    They are multiplied by min(1, (distance / reach)^2). As many rays cross an area near a camera as one
    that is wider in proportion farther away, so that what is near would learn faster by the square of
    that; and it learns from that camera alone, which fog before it suits as well as the scene (Philip and
    Deschaintre, "Floaters No More: Radiance Field Gradient Scaling for Improved Near-Camera Training",
    EGSR 2023, section 4).

    Args:
      samples: at which the field was asked.
      rays: that they were made for.
      reach: the distance from which on gradients are whole; 0 leaves all as they are.
      answers: a pytree of arrays that begin with the samples' shape; what is no floating-point number has
        no gradient, and stays.
    """
    distance = samples.distances(rays)
    reach = jnp.asarray(reach, distance.dtype)
    nearness = distance / jnp.where(reach > 0.0, reach, 1.0)
    by = jnp.where(distance < reach, nearness * nearness, 1.0)

    def slowed(values: Array) -> Array:
        if not jnp.issubdtype(values.dtype, jnp.floating):
            return values
        factor = by.reshape(by.shape + (1,) * (values.ndim - by.ndim)).astype(values.dtype)
        fixed = jax.lax.stop_gradient(values)
        # Exactly the values: a sum of two parts of them would be rounded.
        return fixed + factor * (values - fixed)

    return jax.tree.map(slowed, answers)

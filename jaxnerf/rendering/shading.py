"""What rays see of a single field: its values, their colour, and gradient scaling near the camera."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf import compositing as comp
from jaxnerf.cameras import Rays
from jaxnerf.fields import Field, Params
from jaxnerf.sampling import Samples


def evaluated(
    field: Field, params: Params, positions: Float[Array, "*answers 3"], normals: bool
) -> tuple[Float[Array, "*answers"], Any, Float[Array, "*answers 3"] | None]:
    """A field's density and features, and, for normals, the gradient of its density (otherwise None)."""
    if not normals:
        return *field.density(params, positions), None
    # Densities depend each on one position, so a vector of ones pulls back to every gradient.
    density, pull_back, features = jax.vjp(
        lambda x: field.density(params, x), positions, has_aux=True
    )
    return density, features, pull_back(jnp.ones_like(density))[0]


def accumulated_colour(
    field: Field,
    params: Params,
    rays: Rays,
    samples: Samples,
    weights: Float[Array, "*layout"],
    opacity: Float[Array, "*batch"],
    features: Any,
) -> Float[Array, "*batch 3"]:
    """The colour of rays on black, with the field's `colour` evaluated per sample or per ray (`shading`).

    Args:
      field, params, rays, samples: see `jaxnerf.render_rays`.
      weights: the samples' weights.
      opacity: the sum of the weights along each ray.
      features: the features that the field's `density` returned at the samples.
    """
    if getattr(field, "shading", "sample") == "ray":
        mean = comp.accumulated(samples, weights, features)
        mean = mean / jnp.maximum(opacity, 1e-3)[..., None]
        return opacity[..., None] * field.colour(params, mean, rays.view_directions)
    colours = field.colour(params, features, samples.view_directions(rays))
    return comp.accumulated(samples, weights, colours)


def scale_gradients_near(
    samples: Samples, rays: Rays, reach: Float[Array, ""] | float, answers: Any
) -> Any:
    """Scale the gradients of a field's values by min(1, (distance / reach)^2); the values are unchanged.

    The number of rays per area falls with the square of the distance from the camera, so that without
    scaling points near a camera receive larger gradients than points far away. Often that camera alone
    sees them, and density there can reproduce its photograph whatever the scene is (Philip and
    Deschaintre, "Floaters No More: Radiance Field Gradient Scaling for Improved Near-Camera Training",
    EGSR 2023, section 4).

    Args:
      samples: the samples at which the field was evaluated.
      rays: their rays.
      reach: the distance from which on gradients are not scaled; 0 scales none.
      answers: density and features: a pytree of arrays whose leading shape is that of the samples'
        positions. Arrays of other than floating-point types are returned as they are.
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
        # values - fixed is 0, so that the result is exact; factor * values + (1 - factor) * fixed is not.
        return fixed + factor * (values - fixed)

    return jax.tree.map(slowed, answers)


def behind(through: Float[Array, "*batch"], background: Any) -> Float[Array, "*batch 3"]:
    """The background's colour times the transmittance."""
    background = jnp.asarray(background, through.dtype)
    return through[..., None] * jnp.broadcast_to(background, (*through.shape, 3))

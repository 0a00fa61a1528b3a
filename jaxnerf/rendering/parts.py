"""Rays through several fields at once: each has its own samples, and all occlude one another."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf import compositing as comp
from jaxnerf.cameras import Rays
from jaxnerf.compositing.of_samples import where_reached
from jaxnerf.fields import Field, Params
from jaxnerf.fields.composed import ComposedField
from jaxnerf.kernels.weights import mean_transmittance, sums_before
from jaxnerf.rendering.shading import accumulated_colour
from jaxnerf.sampling.composed import ComposedSamples
from jaxnerf.sampling.fragments import Fragments, as_laid_out, fragments_of, slots_first
from jaxnerf.sampling.samples import LONGEST, Samples


@dataclasses.dataclass(frozen=True)
class Light:
    """What rays see of the parts of a composed field, without a background.

    Attributes:
      colour: on black.
      opacity, depth, depth_median, normals: as `jaxnerf.Rendering` has them.
      opacities: the opacity of each part, whose sum is the ray's.
      weights: of each part's samples.
    """

    colour: Float[Array, "*batch 3"]
    opacity: Float[Array, "*batch"]
    depth: Float[Array, "*batch"]
    depth_median: Float[Array, "*batch"]
    normals: Float[Array, "*batch 3"] | None
    opacities: Float[Array, "*batch P"]
    weights: tuple[Array, ...]


def light_of_parts(
    field: ComposedField,
    params: Params,
    rays: Rays,
    samples: Samples | ComposedSamples,
    *,
    normals: bool = False,
) -> Light:
    """What rays see by samples of each part, or by samples that all parts share.

    In each fragment of a ray (`jaxnerf.sampling.fragments`) let tau_i be the optical depth of part i,
    tau their sum and T the light that reaches it. The weight of part i there is T (1 - exp(-tau)) tau_i /
    tau: what the sum of the densities stops, divided as the densities are.

    Args:
      field, params, rays, normals: as for `jaxnerf.render_rays`.
      samples: of the rays.
    """
    shared = isinstance(samples, Samples)
    parts = (samples,) * len(field.fields) if isinstance(samples, Samples) else samples.parts
    asked = [
        _ask(one, own, part.positions(rays), normals)
        for one, own, part in zip(field.fields, params, parts, strict=True)
    ]
    depths = tuple(
        jnp.minimum(slots_first(part, comp.optical_depths_of(part, density)), LONGEST)
        for part, (density, _, _) in zip(parts, asked, strict=True)
    )
    fragments = _whole(parts[0]) if shared else fragments_of(parts)
    cut = depths if shared else fragments.depths(depths)
    weights, total = _weights(cut), sum(cut[1:], start=cut[0])
    half = jnp.log(2.0).astype(total.dtype)
    if not shared:
        found = enumerate(zip(weights, depths, strict=True))
        weights = tuple(fragments.by_slot(i, own, depth.shape[0]) for i, (own, depth) in found)
    weights = tuple(as_laid_out(part, own) for part, own in zip(parts, weights, strict=True))
    opacities = [comp.opacity_of(part, own) for part, own in zip(parts, weights, strict=True)]
    colour, normal, along = jnp.zeros_like(rays.origins), jnp.zeros_like(rays.origins), 0.0
    for number, part in enumerate(parts):
        _, features, gradient = asked[number]
        one, own, weight, own_opacity = (
            field.fields[number],
            params[number],
            weights[number],
            opacities[number],
        )
        colour = colour + accumulated_colour(one, own, rays, part, weight, own_opacity, features)
        along = along + own_opacity * comp.depth_of(part, weight, rays)
        if normals:
            normal = normal - comp.accumulated(part, weight, comp.unit(gradient))
    opacity = jnp.sum(jnp.stack(opacities), axis=0)
    nothing = parts[0].end(rays) if shared else rays.far
    depth = jnp.where(opacity > 0.0, along / jnp.where(opacity > 0.0, opacity, 1.0), nothing)
    return Light(
        colour=colour,
        opacity=opacity,
        depth=depth,
        depth_median=where_reached((fragments.t0, fragments.t1), total, half, nothing, axis=0),
        normals=comp.unit(normal) if normals else None,
        opacities=jnp.stack(opacities, axis=-1),
        weights=weights,
    )


def _ask(field: Field, params: Params, positions: Array, normals: bool) -> tuple[Array, Any, Any]:
    """A field's density and features, and the gradient of its density if that is wanted."""
    if not normals:
        return *field.density(params, positions), None
    density, pull_back, features = jax.vjp(
        lambda x: field.density(params, x), positions, has_aux=True
    )
    return density, features, pull_back(jnp.ones_like(density))[0]


def _whole(samples: Samples) -> Fragments:
    """The intervals of samples that all parts share, uncut."""
    bounds = (slots_first(samples, x) for x in (samples.t0, samples.t1))
    return Fragments(*bounds, slots=(), fractions=())


def _weights(depths: tuple[Float[Array, "M R"], ...]) -> tuple[Float[Array, "M R"], ...]:
    """The weight of each part in each fragment."""
    total = sum(depths[1:], start=depths[0])
    scale = jnp.exp(-sums_before(total, axis=0)) * mean_transmittance(total)
    return tuple(scale * depth for depth in depths)

"""Rays through several fields at once: each has its own samples, and all occlude one another."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf import compositing as comp
from jaxnerf.cameras import Rays
from jaxnerf.compositing import Compositing
from jaxnerf.compositing.of_samples import check_compositing, to_layout, where_reached
from jaxnerf.fields import Params
from jaxnerf.fields.composed import ComposedField
from jaxnerf.kernels.weights import densest, first_opaque, mean_transmittance, sums_before
from jaxnerf.rendering.result import Rendering
from jaxnerf.rendering.shading import accumulated_colour, behind, evaluated
from jaxnerf.sampling.composed import ComposedSamples
from jaxnerf.sampling.fragments import Fragments, fragments_of, from_slots, slots_first
from jaxnerf.sampling.samples import LONGEST, Samples

# Something of each part in each of M fragments of R rays.
Parts = tuple[Float[Array, "M R"], ...]


def composed(
    field: ComposedField,
    params: Params,
    rays: Rays,
    samples: Samples | ComposedSamples,
    background: Any = 1.0,
    *,
    extras: Callable[[Params, Any], Any] | None = None,
    normals: bool = False,
    compositing: Compositing = "volume",
    gradient_reach: Any = None,
) -> Rendering:
    """Render rays by samples of each part of a composed field, or by samples that all parts share.

    In each fragment of a ray (`jaxnerf.sampling.fragments`) let s_i be the density of part i and s their
    sum, tau_i and tau optical depths, and T the light that reaches it. A fragment has the weight that
    `jaxnerf.compositing.weights_of` gives a sample of the density s, part i the fraction s_i / s of it:

    - "volume" and "attenuation": T (1 - exp(-tau)) tau_i / tau.
    - "mean": (1 - exp(-A)) tau_i / A, where A is the optical depth of the whole ray.
    - "maximum": s_i / s in the fragment where s is greatest, the first of equals.
    - "surface": s_i / s in the first fragment where the samples of the parts, whole as they were before
      they were cut, are opaque together.

    Args:
      field, params, rays, background, normals, compositing: as for `jaxnerf.render_rays`.
      samples: samples of the rays.
      extras, gradient_reach: refused.

    Returns:
      The rendering; `extras["parts"]` is the opacity of each part [*batch, P], whose sum is the ray's.

    Raises:
      ValueError: extras or slower gradients are asked for, or there is no such compositing mode.
    """
    if extras is not None:
        raise ValueError("extras: those of a composed field are the opacities of its parts")
    if gradient_reach is not None:
        raise ValueError("gradient_reach: has no effect on a composed field; train its parts alone")
    check_compositing(compositing)
    shared = isinstance(samples, Samples)
    parts = (samples,) * len(field.fields) if isinstance(samples, Samples) else samples.parts
    asked = [
        evaluated(one, own, part.positions(rays), normals)
        for one, own, part in zip(field.fields, params, parts, strict=True)
    ]
    depths = tuple(
        jnp.minimum(slots_first(part, comp.optical_depths_of(part, density)), LONGEST)
        for part, (density, _, _) in zip(parts, asked, strict=True)
    )
    fragments = _whole(parts[0]) if shared else fragments_of(parts)
    cut = depths if shared else fragments.depths(depths)
    if compositing == "maximum":
        found = tuple(
            slots_first(part, to_layout(part, each[0]))
            for part, each in zip(parts, asked, strict=True)
        )
        weights = _of_densest(found if shared else fragments.of_slots(found))
    elif compositing == "surface":
        weights = _of_first_opaque(cut, depths if shared else fragments.of_slots(depths))
    else:
        weights = _of_depths(cut, compositing)
    total = sum(cut[1:], start=cut[0])
    through = jnp.exp(-jnp.sum(total, axis=0)).reshape(rays.far.shape)
    nothing = parts[0].end(rays) if shared else rays.far
    amounts, half = _half(weights, total, compositing)
    median = where_reached((fragments.t0, fragments.t1), amounts, half, nothing, axis=0)
    if not shared:
        weights = tuple(
            fragments.to_slots(i, own, depths[i].shape[0]) for i, own in enumerate(weights)
        )
    weights = tuple(from_slots(part, own) for part, own in zip(parts, weights, strict=True))
    opacities = [comp.opacity_of(part, own) for part, own in zip(parts, weights, strict=True)]
    colour, normal, along = jnp.zeros_like(rays.origins), jnp.zeros_like(rays.origins), 0.0
    each = zip(field.fields, params, parts, asked, weights, opacities, strict=True)
    for one, own, part, (_, features, gradient), weight, seen in each:
        if compositing != "attenuation":
            colour = colour + accumulated_colour(one, own, rays, part, weight, seen, features)
        # The depth of a part without weight can be infinite.
        along = along + seen * jnp.where(seen > 0.0, comp.depth_of(part, weight, rays), 0.0)
        if normals:
            normal = normal - comp.accumulated(part, weight, comp.unit(gradient))
    stacked = jnp.stack(opacities, axis=-1)
    opacity = jnp.sum(stacked, axis=-1)
    depth = jnp.where(opacity > 0.0, along / jnp.where(opacity > 0.0, opacity, 1.0), nothing)
    if compositing == "attenuation":
        opacity, colour = 1.0 - through, behind(through, background)
    else:
        colour = comp.over(colour, opacity, background)
    return Rendering(
        colour=colour,
        opacity=opacity,
        depth=depth,
        depth_median=median,
        distance=depth * jnp.linalg.norm(rays.directions, axis=-1),
        normals=comp.unit(normal) if normals else None,
        extras={"parts": stacked},
        samples=samples,
        weights=weights,
    )


def _whole(samples: Samples) -> Fragments:
    """The intervals of samples that all parts share, uncut."""
    bounds = (slots_first(samples, x) for x in (samples.t0, samples.t1))
    return Fragments(*bounds, slots=(), fractions=())


def _of_depths(depths: Parts, compositing: Compositing) -> Parts:
    """The weight of each part in each fragment, from optical depths: those of a mean, or of a volume."""
    total = sum(depths[1:], start=depths[0])
    if compositing == "mean":
        scale = mean_transmittance(jnp.sum(total, axis=0, keepdims=True))
    else:
        scale = jnp.exp(-sums_before(total, axis=0)) * mean_transmittance(total)
    return tuple(scale * depth for depth in depths)


def _of_densest(densities: Parts) -> Parts:
    """The same where the densest fragment has all the weight."""
    return _divided(densest(sum(densities[1:], start=densities[0]), 0), densities)


def _of_first_opaque(depths: Parts, uncut: Parts) -> Parts:
    """The same where the first opaque fragment has it, by optical depths of the samples as a whole."""
    return _divided(first_opaque(sum(uncut[1:], start=uncut[0]), 0), depths)


def _divided(weight: Float[Array, "M R"], of: Parts) -> Parts:
    """Weights divided among the parts as something is of which each has some."""
    total = sum(of[1:], start=of[0])
    return tuple(weight * own / jnp.where(total > 0.0, total, 1.0) for own in of)


def _half(weights: Parts, total: Array, compositing: Compositing) -> tuple[Array, Array]:
    """The amounts in fragments of which half is reached at the median depth, and how much that is."""
    if compositing not in ("surface", "maximum", "mean"):
        return total, jnp.log(2.0).astype(total.dtype)
    amounts = sum(weights[1:], start=weights[0])
    whole = jnp.sum(amounts, axis=0)
    return amounts, jnp.where(whole > 0.0, 0.5 * whole, jnp.inf)

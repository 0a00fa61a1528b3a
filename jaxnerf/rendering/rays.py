"""`render_rays`, the function that combines samplers, fields and compositing to render rays."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf import compositing as comp
from jaxnerf.cameras import Rays
from jaxnerf.compositing import Compositing
from jaxnerf.fields import Field, Params
from jaxnerf.fields.composed import ComposedField
from jaxnerf.rendering.parts import composed
from jaxnerf.rendering.result import Rendering
from jaxnerf.rendering.shading import accumulated_colour, behind, evaluated, scale_gradients_near
from jaxnerf.sampling import Hierarchical, Proposal, Sampler, Samples
from jaxnerf.sampling.composed import map_occupancy_samplers
from jaxnerf.sampling.intervals import Keys
from jaxnerf.sampling.samplers import levels_of


def render_rays(
    field: Field | Sequence[Field],
    params: Params,
    rays: Rays,
    sampler: Sampler = Hierarchical(),
    key: Keys | None = None,
    background: Float[Array, "*batch 3"] | Float[Array, "3"] | Float[Array, ""] | float = 1.0,
    extras: Callable[[Params, Any], Any] | None = None,
    *,
    normals: bool = False,
    compositing: Compositing = "volume",
    proposals: bool = False,
    gradient_reach: Float[Array, ""] | float | None = None,
) -> Rendering:
    """Render rays with a field. Pure: works under jit, vmap, grad, and for any leading shape.

    Differentiable in reverse mode, to any order, with respect to the parameters, the rays (and so poses,
    focal lengths and distortion) and the background. The positions of samples are differentiated only
    with respect to near and far: they are the nodes of a quadrature, which do not change its result. JAX
    refuses forward mode (`jax.jvp`, `jax.jacfwd`, `jax.hessian`) for packed samples and for fields that
    interpolate in a table, whose gradients are custom: use `jax.jacrev` of `jax.jacrev`, or, for the
    product of the Hessian and a vector v, the gradient of `jnp.vdot(jax.grad(loss)(x), v)`. "surface"
    has no gradient to densities. The precision is that of the rays and parameters: float64 with
    `jax_enable_x64`.

    Args:
      field: a field; or, for a sampler of several levels, a sequence of one field per level (the paper's
        coarse and fine networks). With a field whose `shading` is "ray", features instead of colours are
        accumulated along the ray, and the field's `colour` is evaluated once per ray, at their mean.
      params: the field's parameters; with a sequence of fields, a sequence of as many.
      rays: rays with near and far.
      sampler: the sampler, for instance `Hierarchical` or `OccupancySampler`.
      key: for random positions of samples, one key for all rays or one per ray; None is deterministic.
      background: colour behind the scene: one per ray, one for all rays, or a grey (1.0 is white).
      extras: (params, features) -> a pytree of arrays with values for each sample; by default the field's
        method of that name, if it has one.
      normals: whether to compute normals, which costs a backward pass through the density.
      compositing: the compositing mode (`jaxnerf.compositing.weights_of` has the formulas). "volume":
        emission and absorption (NeRF, eq. 3). "surface": the colour of the first opaque sample.
        "maximum": the colour of the densest sample (maximum intensity projection); opacity is 1 where
        there is any density. "mean": the mean of the colours along the ray, weighted by density.
        "attenuation": an X-ray, the background times exp(-integral of density); the field's colour is
        not evaluated. With the last three an `OccupancySampler` ends no ray early.
      proposals: whether to render the levels of the sampler before the last too, for a loss on them.
      gradient_reach: distance from the camera, in the world, below which the field's gradients are scaled
        down by the square of the distance, against floaters close to the cameras
        (`jaxnerf.rendering.shading.scale_gradients_near`). The rendering does not change.

    Example::

      rays = cast_rays(camera, pixels, near=2.0, far=6.0)
      colour = render_rays(field, params, rays).colour
    """
    # A loaded run has NumPy arrays, which cannot be indexed by traced arrays.
    field, params, rays, sampler = jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if hasattr(leaf, "__array__") else leaf,
        (field, params, rays, sampler),
        is_leaf=lambda x: x is None,
    )
    if compositing in comp.TO_THE_END:
        to_the_end = functools.partial(dataclasses.replace, max_optical_depth=0.0)
        sampler = map_occupancy_samplers(to_the_end, sampler)
    samples = sampler(field, params, rays, key)
    proposed = getattr(samples, "proposals", ())  # `ComposedSamples` have none
    fields, all_params = levels_of(field, params, 1 + len(proposed))
    how: dict[str, Any] = {
        "extras": extras, "normals": normals, "compositing": compositing,
        "gradient_reach": gradient_reach,
    }  # fmt: skip
    earlier = ()
    if proposals:
        earlier = tuple(
            _shaded(each, own, rays, found.samples, background, found, **how)
            for each, own, found in zip(fields[:-1], all_params[:-1], proposed, strict=True)
        )
    if isinstance(fields[-1], ComposedField):
        last = composed(fields[-1], all_params[-1], rays, samples, background, **how)
    else:
        last = _shaded(fields[-1], all_params[-1], rays, samples, background, None, **how)
    return dataclasses.replace(last, proposals=earlier)


def _shaded(
    field: Field,
    params: Params,
    rays: Rays,
    samples: Samples,
    background: Any,
    known: Proposal | None,
    *,
    extras: Callable[[Params, Any], Any] | None,
    normals: bool,
    compositing: Compositing,
    gradient_reach: Any,
) -> Rendering:
    """Evaluate a field at samples and composite the result.

    Args:
      known: the field's density and features at the samples, if they are known already.
    """
    if known is not None and not normals:
        density, features, gradient = known.density, known.features, None
    else:
        density, features, gradient = evaluated(field, params, samples.positions(rays), normals)
    if gradient_reach is not None:
        density, features = scale_gradients_near(samples, rays, gradient_reach, (density, features))
    weights = comp.weights_of(samples, density, compositing)
    if compositing == "attenuation":
        # Not by the sum of the weights, in which little light would be lost to rounding.
        through = comp.transmittance_of(samples, density)
        opacity, colour = 1.0 - through, behind(through, background)
    else:
        opacity = comp.opacity_of(samples, weights)
        emitted = accumulated_colour(field, params, rays, samples, weights, opacity, features)
        colour = comp.over(emitted, opacity, background)
    extras = extras or getattr(field, "extras", None)
    if extras is not None:
        extras = comp.accumulated(samples, weights, extras(params, features))
    if gradient is not None:
        gradient = comp.unit(-comp.accumulated(samples, weights, comp.unit(gradient)))
    depth = comp.depth_of(samples, weights, rays)
    return Rendering(
        colour=colour,
        opacity=opacity,
        depth=depth,
        depth_median=comp.median_place_of(samples, weights, rays)
        if compositing in ("surface", "maximum", "mean")
        else comp.median_depth_of(samples, density, rays),
        distance=depth * jnp.linalg.norm(rays.directions, axis=-1),
        normals=gradient,
        extras=extras,
        samples=samples,
        weights=weights,
    )

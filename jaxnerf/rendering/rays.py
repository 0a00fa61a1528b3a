"""`render_rays`, the function that combines samplers, fields and compositing to render rays."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnerf import compositing as comp
from jaxnerf.cameras import Rays
from jaxnerf.compositing import Compositing
from jaxnerf.compositing.of_samples import check_compositing
from jaxnerf.fields import Field, Params
from jaxnerf.fields.composed import ComposedField
from jaxnerf.rendering.parts import light_of_parts
from jaxnerf.rendering.shading import accumulated_colour, evaluated, scale_gradients_near
from jaxnerf.sampling import (
    ComposedSamples,
    Hierarchical,
    Sampler,
    Samples,
)
from jaxnerf.sampling.composed import map_occupancy_samplers
from jaxnerf.sampling.intervals import Keys
from jaxnerf.sampling.samplers import levels_of

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
        "maximum" and "mean", at which half of the total weight is accumulated.
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
        _as_jax, (field, params, rays, sampler), is_leaf=lambda x: x is None
    )
    if compositing in comp.TO_THE_END:
        to_the_end = functools.partial(dataclasses.replace, max_optical_depth=0.0)
        sampler = map_occupancy_samplers(to_the_end, sampler)
    samples = sampler(field, params, rays, key)
    proposed = () if isinstance(samples, ComposedSamples) else samples.proposals
    fields, all_params = levels_of(field, params, 1 + len(proposed))
    how = {
        "extras": extras, "normals": normals, "compositing": compositing,
        "gradient_reach": gradient_reach,
    }  # fmt: skip
    earlier = ()
    if proposals:
        earlier = tuple(
            _shaded(each, own, rays, found.samples, background, found, **how)
            for each, own, found in zip(fields[:-1], all_params[:-1], proposed, strict=True)
        )
    shaded: Any = _composed if isinstance(fields[-1], ComposedField) else _shaded
    last = shaded(fields[-1], all_params[-1], rays, samples, background, None, **how)
    return dataclasses.replace(last, proposals=earlier)


def _as_jax(leaf: Any) -> Any:
    return jnp.asarray(leaf) if hasattr(leaf, "__array__") else leaf


def _shaded(
    field: Field,
    params: Params,
    rays: Rays,
    samples: Samples,
    background: Any,
    found: Any,
    *,
    extras: Callable[[Params, Any], Any] | None,
    normals: bool,
    compositing: Compositing,
    gradient_reach: Any,
) -> Rendering:
    """Evaluate a field at samples and composite the result.

    Args:
      found: the field's density and features at the samples, if they are known already (`Proposal`).
    """
    if found is not None and not normals:
        density, features, gradient = found.density, found.features, None
    else:
        density, features, gradient = evaluated(field, params, samples.positions(rays), normals)
    if gradient_reach is not None:
        density, features = scale_gradients_near(samples, rays, gradient_reach, (density, features))
    weights = comp.weights_of(samples, density, compositing)
    if compositing == "attenuation":
        # Not by the sum of the weights, in which little light would be lost to rounding.
        through = comp.transmittance_of(samples, density)
        opacity, colour = 1.0 - through, _behind(through, background)
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
        if compositing in ("maximum", "mean")
        else comp.median_depth_of(samples, density, rays),
        distance=depth * jnp.linalg.norm(rays.directions, axis=-1),
        normals=gradient,
        extras=extras,
        samples=samples,
        weights=weights,
    )


def _composed(
    field: ComposedField,
    params: Params,
    rays: Rays,
    samples: Samples | ComposedSamples,
    background: Any,
    found: Any,
    *,
    extras: Callable[[Params, Any], Any] | None,
    normals: bool,
    compositing: Compositing,
    gradient_reach: Any,
) -> Rendering:
    """As `_shaded`, for a composed field.

    Raises:
      ValueError: it is asked for extras or for slower gradients.
    """
    if extras is not None:
        raise ValueError("extras: those of a composed field are the opacities of its parts")
    if gradient_reach is not None:
        raise ValueError("gradient_reach: has no effect on a composed field; train its parts alone")
    check_compositing(compositing)
    light = light_of_parts(field, params, rays, samples, compositing, normals=normals)
    colour = comp.over(light.colour, light.opacity, background)
    if compositing == "attenuation":
        colour = _behind(light.through, background)
    return Rendering(
        colour=colour,
        opacity=light.opacity,
        depth=light.depth,
        depth_median=light.depth_median,
        distance=light.depth * jnp.linalg.norm(rays.directions, axis=-1),
        normals=light.normals,
        extras={"parts": light.opacities},
        samples=samples,
        weights=light.weights,
    )


def _behind(through: Array, background: Any) -> Array:
    """The background's colour times the transmittance."""
    background = jnp.asarray(background, through.dtype)
    return through[..., None] * jnp.broadcast_to(background, (*through.shape, 3))

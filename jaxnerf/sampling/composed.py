"""Samples of several fields along the same rays, each placed by a sampler of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnerf.cameras import Rays
from jaxnerf.fields.composed import ComposedField, PlacedField
from jaxnerf.geometry import Placement
from jaxnerf.sampling import intervals
from jaxnerf.sampling.samplers import OccupancySampler, split_keys
from jaxnerf.sampling.samples import Samples


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ComposedSamples:
    """Where each part of a composed field is evaluated. A pytree.

    Samples of one part come front to back and do not overlap; those of different parts do
    (`jaxnerf.sampling.fragments`).

    Attributes:
      parts: the samples of each field; t in units of the same rays' directions, lengths in the world's.
    """

    parts: tuple[Samples, ...]

    @property
    def complete(self) -> Bool[Array, "*batch"]:
        """Whether a ray got all the samples that it wanted, of every part."""
        return self._of_all("complete")

    @property
    def fits(self) -> Bool[Array, "*batch"]:
        """Whether all samples that were found for a ray are here, of every part."""
        return self._of_all("fits")

    @property
    def truncated(self) -> Bool[Array, "*batch"]:
        """Whether a ray ran out of samples or steps before its end, in any part."""
        return jnp.stack([part.truncated for part in self.parts]).any(axis=0)

    @property
    def early_stopped(self) -> Bool[Array, "*batch"]:
        """Whether a ray ends, in any part, where next to no light was expected to be left."""
        return jnp.stack([part.early_stopped for part in self.parts]).any(axis=0)

    def _of_all(self, name: str) -> Array:
        return jnp.stack([getattr(part, name) for part in self.parts]).all(axis=0)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ComposedSampler:
    """A sampler for each part of a `jaxnerf.fields.composed.ComposedField`, in the part's own frame.

    A part whose field is a `PlacedField` is sampled along the rays as its inner field's frame has them,
    so that an occupancy is that of the field as it was trained. Any other sampler works for composed
    fields too, and evaluates every part at the same points. A pytree.

    The distances at which an `OccupancySampler` of a part takes its samples follow the part's placement
    and carry no gradient, so gradients with respect to a placement are accurate to the quadrature error
    only (to 2% of the largest with 50 samples across a part); with any sampler of the world's rays, or
    `Stratified` ones, they are exact.

    Attributes:
      samplers: one for each part.
      near, far: of each part, between which its rays are sampled where theirs do not begin later or end
        earlier, t of the world's rays; None for all of them.
    """

    samplers: tuple[Any, ...]
    near: Float[Array, " P"] | None = None
    far: Float[Array, " P"] | None = None

    def __call__(
        self, field: Any, params: Any, rays: Rays, key: intervals.Keys | None = None
    ) -> ComposedSamples:
        """Samples for rays; see `Sampler`.

        Raises:
          TypeError: the field is not composed, or of another number of parts, or of composed parts.
        """
        if isinstance(field, Sequence):
            (field,), (params,) = field, params
        if not isinstance(field, ComposedField) or len(field.fields) != len(self.samplers):
            raise TypeError(
                f"ComposedSampler: {len(self.samplers)} samplers want a ComposedField of as many parts"
            )
        keys = [None] * len(self.samplers) if key is None else split_keys(key, len(self.samplers))
        parts = []
        for number, (sampler, part) in enumerate(zip(self.samplers, field.fields, strict=True)):
            placement, inner = _place_of(part)
            own = _own_rays(self._bounded(rays, number), placement)
            samples = sampler(inner, params[number], own, keys[number])
            if not isinstance(samples, Samples):
                raise TypeError(
                    "ComposedSampler: a part that is composed too; name its parts instead"
                )
            if placement is not None:
                length = samples.length * placement.scale.astype(samples.length.dtype)
                samples = dataclasses.replace(samples, length=length)
            parts.append(dataclasses.replace(samples, proposals=()))
        return ComposedSamples(tuple(parts))

    def _bounded(self, rays: Rays, number: int) -> Rays:
        near, far = rays.near, rays.far
        if self.near is not None:
            near = jnp.maximum(near, jnp.asarray(self.near, near.dtype)[number])
        if self.far is not None:
            far = jnp.minimum(far, jnp.asarray(self.far, far.dtype)[number])
        return dataclasses.replace(rays, near=near, far=jnp.maximum(near, far))


def map_occupancy_samplers(change: Callable[[OccupancySampler], Any], sampler: Any) -> Any:
    """A sampler, or a composed one's parts, with a change made to each that is an `OccupancySampler`."""
    if isinstance(sampler, ComposedSampler):
        parts = tuple(map_occupancy_samplers(change, part) for part in sampler.samplers)
        return dataclasses.replace(sampler, samplers=parts)
    return change(sampler) if isinstance(sampler, OccupancySampler) else sampler


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProposedBy:
    """A sampler whose proposals come from other fields than the one that is rendered. A pytree.

    For a part of a composition that was trained with a network for each level of sampling.

    Attributes:
      sampler: for instance `Hierarchical`.
      fields, params: fields of all levels, in the frame of the rays, and their parameters.
    """

    sampler: Any
    fields: tuple[Any, ...]
    params: tuple[Any, ...]

    def __call__(
        self, field: Any, params: Any, rays: Rays, key: intervals.Keys | None = None
    ) -> Samples:
        """See `Sampler`."""
        return self.sampler(self.fields, self.params, rays, key)


def _place_of(field: Any) -> tuple[Placement | None, Any]:
    return (field.placement, field.field) if isinstance(field, PlacedField) else (None, field)


def _own_rays(rays: Rays, placement: Placement | None) -> Rays:
    """Rays of the world in a part's frame: the same t names the same point."""
    if placement is None:
        return rays
    directions = placement.undo_turn(rays.directions)
    return dataclasses.replace(
        rays,
        origins=placement.undo(rays.origins),
        directions=directions / placement.scale.astype(directions.dtype),
        view_directions=placement.undo_turn(rays.view_directions),
    )

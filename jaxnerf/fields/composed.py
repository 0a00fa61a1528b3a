"""Fields placed in a world, and several of them as one.

Light that passes through several media at once meets the sum of their densities, and of what is stopped
each medium has the fraction that its density has of the sum (Max, "Optical models for direct volume
rendering", 1995). So for densities s_i and colours c_i of P parts

    density = sum of s_i,    colour = sum of s_i c_i / sum of s_i

wherever each is known at the same place. Along a ray the parts need not be evaluated at the same
places: see `jaxnerf.sampling.composed`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxnerf.fields import Params
from jaxnerf.fields.wrapping import Wrapping
from jaxnerf.geometry import Placement


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlacedField(Wrapping):
    """A field turned, scaled and moved to its place in a world. Implements `Field`. A pytree.

    Its parameters are the inner field's. A density is one over a length, so that where lengths are
    `scale` times as long, densities are divided by it: what was opaque stays as opaque. View directions
    are turned back into the inner field's frame.

    Attributes:
      field: the inner field, evaluated in its own frame.
      placement: the similarity from that frame to the world; differentiable.
    """

    field: Any
    placement: Placement

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"], **more: Any
    ) -> tuple[Float[Array, "*batch"], Any]:
        """See `jaxnerf.fields.Field`; positions are of the world."""
        density, features = self.field.density(params, self.placement.undo(positions), **more)
        return density / self.placement.scale.astype(density.dtype), features

    def colour(self, params: Params, features: Any, view_directions: Any) -> Any:
        """The inner field's colour, for directions in its own frame."""
        return self.field.colour(params, features, self.placement.undo_turn(view_directions))


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ComposedField:
    """Several fields in one world; see the module. Implements `jaxnerf.fields.Field`. A pytree.

    Its parameters are a tuple of one for each part. `jaxnerf.render_rays` accumulates each part along
    rays as it is rendered alone, so that a field that gives one colour a ray (`shading`) is
    told its own features. A rendering's `extras` are {"parts": [*batch, P]}, the fraction of each part in
    the ray's opacity; the extras of parts are left out.

    Attributes:
      fields: of one world, each placed in it (`PlacedField`) if it is not of it.
    """

    fields: tuple[Any, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[Any, Any]]) -> "ComposedField":
        """Fields and where they are placed.

        Args:
          parts: pairs (field, placement), the latter as `jaxnerf.geometry.Placement.of` takes it.

        Raises:
          ValueError: there are none, or a placement is no similarity.
        """
        return cls(tuple(PlacedField(field, Placement.of(at)) for field, at in parts))

    def __post_init__(self) -> None:
        if isinstance(self.fields, tuple) and not self.fields:
            raise ValueError("ComposedField: no parts; a composition has one at least")

    def init(self, key: PRNGKeyArray) -> Params:
        """Parameters of each part."""
        keys = jax.random.split(key, len(self.fields))
        return tuple(field.init(keys[i]) for i, field in enumerate(self.fields))

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Any]:
        """The sum of the parts' densities; and, for `colour`, each part's density and features."""
        found = self.densities(params, positions)
        total = found[0][0]
        for density, _ in found[1:]:
            total = total + density
        return total, found

    def densities(self, params: Params, positions: Float[Array, "*batch 3"]) -> Any:
        """The density and the features of each part."""
        return tuple(
            field.density(own, positions) for field, own in zip(self.fields, params, strict=True)
        )

    def colour(
        self, params: Params, features: Any, view_directions: Float[Array, "*batch 3"]
    ) -> Float[Array, "*batch 3"]:
        """The mean of the parts' colours, by their densities; of all alike where there is none."""
        densities = jnp.stack([density for density, _ in features])
        total = jnp.sum(densities, axis=0)
        fractions = densities / jnp.where(total > 0.0, total, 1.0)[None]
        fractions = jnp.where((total > 0.0)[None], fractions, 1.0 / len(features))
        mean = jnp.zeros((*total.shape, 3), total.dtype)
        parts = zip(self.fields, params, features, fractions, strict=True)
        for field, own, (_, left), fraction in parts:
            mean = mean + fraction[..., None] * field.colour(own, left, view_directions)
        return mean

"""A field of the world, made from one of contracted space or of normalised device coordinates."""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf.contraction import BoxSpace, NdcSpace, SphereContraction
from jaxnerf.fields import Params
from jaxnerf.fields.wrapping import Wrapping


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WarpedField(Wrapping):
    """A field that is evaluated at places of another space. Implements `jaxnerf.fields.Field`. A pytree.

    Its parameters are the inner field's. Densities of the inner field are per length in its space, so
    that what is far away is as easily opaque as what is near: a density of the world is one of the space
    times the space's rate at the point, the same for all rays through it.

    Attributes:
      field: asked at places of the space.
      space: of those places; it does not learn.
    """

    field: Any
    space: SphereContraction | NdcSpace | BoxSpace

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"], **more: Any
    ) -> tuple[Float[Array, "*batch"], Any]:
        """See `jaxnerf.fields.Field`; positions are of the world."""
        dtype = positions.dtype
        space = jax.tree.map(lambda x: jax.lax.stop_gradient(jnp.asarray(x, dtype)), self.space)
        density, features = self.field.density(params, space.place(positions), **more)
        return jnp.where(space.holds(positions), density * space.rate(positions), 0.0), features

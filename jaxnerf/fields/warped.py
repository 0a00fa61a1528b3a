"""A field in world coordinates, made from one in contracted space or normalised device coordinates."""

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
    """Evaluates an inner field in another space. Implements `jaxnerf.fields.Field`. A pytree.

    Its parameters are the inner field's. The inner field's density is per length in its space, and is
    multiplied by the space's `rate` at the point to be per length in the world. So distant objects need
    no smaller densities than near ones to be opaque, and density does not depend on the ray's direction.

    Attributes:
      field: the inner field, evaluated at `space.place(positions)`.
      space: the contraction, NDC space or box; not learned.
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

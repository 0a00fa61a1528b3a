"""A field whose densities are disturbed before their activation, in training (NeRF, appendix A)."""

import dataclasses
import functools
from typing import Any, no_type_check

import jax
from jaxtyping import Array, Float

from jaxnerf.fields import Params
from jaxnerf.fields.wrapping import Wrapping


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoisyField(Wrapping):
    """A field with Gaussian noise on its density. Implements `jaxnerf.fields.Field`. A pytree.

    Attributes:
      field: a field whose `density` takes a keyword `noise [...]`, added before the activation.
      key: PRNG key of the noise, the same each time that the field is evaluated; or one for each entry of
        the positions' first dimensions. None for no noise.
      deviation: the standard deviation of the noise; static.
    """

    field: Any
    key: Any
    deviation: float = dataclasses.field(metadata={"static": True})

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Any]:
        """See `jaxnerf.fields.Field`."""
        if self.key is None:
            return self.field.density(params, positions)
        shape = positions.shape[self.key.ndim : -1]
        draw = functools.partial(jax.random.normal, shape=shape, dtype=positions.dtype)
        for _ in range(self.key.ndim):
            draw = jax.vmap(draw)
        noise = draw(self.key)
        return self.field.density(params, positions, noise=self.deviation * noise)

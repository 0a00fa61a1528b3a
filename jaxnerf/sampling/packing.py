"""Samples of many rays, laid out in one row of a fixed length, so that every shape is static.

Of slots [K, R] most are empty, and a field costs the more the more often it is evaluated: the row has the
samples alone. What samples weigh is computed in slots, where cumulative sums run over vectors of rays
(`jaxnerf.kernels.compositing`).
"""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packing:
    """The places of R rays' samples in a row of N, ray after ray. A pytree.

    Attributes:
      ray: the ray of each place of the row.
      slot: which of its ray's samples a place holds, from 0, front to back.
      used: whether a place holds a sample.
      first: the place of each ray's first sample.
      count: how many samples of each ray the row holds.
      fits: whether the row holds all of a ray's samples; it holds none of those that overflow it.
    """

    ray: Int[Array, " N"]
    slot: Int[Array, " N"]
    used: Bool[Array, " N"]
    first: Int[Array, " R"]
    count: Int[Array, " R"]
    fits: Bool[Array, " R"]

    def row(self, values: Float[Array, "K R"]) -> Float[Array, " N"]:
        """Values of all slots, laid out in the row; anything in places that are not used."""
        return values[jnp.clip(self.slot, 0, values.shape[0] - 1), self.ray]

    def by_slot(self, row: Float[Array, " N"], slots: int) -> Float[Array, "K R"]:
        """The inverse of `row`: values of the row by slot and ray, 0 where a ray has no sample."""
        slot = jnp.arange(slots, dtype=jnp.int32)[:, None]
        place = jnp.minimum(self.first[None, :] + slot, row.shape[0] - 1)
        return jnp.where(slot < self.count[None, :], row[place], jnp.zeros((), row.dtype))


def pack(count: Int[Array, " R"], length: int) -> Packing:
    """Lay out samples in a row: the rays in their order, as many as fit with all their samples.

    Args:
      count: samples of each ray.
      length: of the row, static.

    >>> packing = pack(jnp.array([2, 1, 3]), length=5)
    >>> packing.ray.tolist(), packing.slot.tolist(), packing.fits.tolist()
    ([0, 0, 1, 2, 2], [0, 1, 0, 0, 1], [True, True, False])
    """
    end = jnp.cumsum(count, dtype=jnp.int32)
    first = end - count
    fits = end <= length
    place = jnp.arange(length, dtype=jnp.int32)
    begun = jnp.zeros(length + 1, jnp.int32).at[jnp.minimum(end, length)].add(1)
    ray = jnp.minimum(jnp.cumsum(begun[:length], dtype=jnp.int32), count.shape[0] - 1)
    used = place < jnp.max(jnp.where(fits, end, 0), initial=0)
    kept = jnp.where(fits, count, 0)
    return Packing(ray, place - first[ray], used, first, kept, fits)

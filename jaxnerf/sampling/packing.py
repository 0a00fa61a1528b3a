"""Samples of many rays in one buffer of fixed length, so that every shape is static.

Most of the slots [K, R] are empty, and the field's cost is proportional to the number of evaluations: the
buffer holds only the samples, and the field is evaluated there. Weights are computed in the slots, where
cumulative sums run over vectors of rays (`jaxnerf.kernels.compositing`).
"""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnerf.kernels.memory import computed_once


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packing:
    """The layout of the samples of R rays in a buffer of N entries, ray after ray. A pytree.

    Attributes:
      ray: index of the ray that each entry belongs to.
      slot: index of the entry's sample in its ray, from 0, front to back.
      used: whether an entry holds a sample.
      first: index of the entry of each ray's first sample.
      count: number of each ray's samples in the buffer.
      fits: whether a ray's samples are in the buffer; of a ray that overflows it, none are.
    """

    ray: Int[Array, " N"]
    slot: Int[Array, " N"]
    used: Bool[Array, " N"]
    first: Int[Array, " R"]
    count: Int[Array, " R"]
    fits: Bool[Array, " R"]

    def to_buffer(self, values: Float[Array, "K R"]) -> Float[Array, " N"]:
        """Gather values from slots into the buffer; unused entries hold arbitrary values."""
        return values[jnp.clip(self.slot, 0, values.shape[0] - 1), self.ray]

    def to_slots(self, buffer: Float[Array, " N"], slots: int) -> Float[Array, "K R"]:
        """Scatter values from the buffer into slots, the inverse of `to_buffer`; 0 in empty slots."""
        slot = jnp.arange(slots, dtype=jnp.int32)[:, None]
        buffer = computed_once(buffer)
        place = jnp.minimum(self.first[None, :] + slot, buffer.shape[0] - 1)
        return jnp.where(slot < self.count[None, :], buffer[place], jnp.zeros((), buffer.dtype))


def pack(count: Int[Array, " R"], length: int) -> Packing:
    """Lay out samples in a buffer: the rays in their order, as many as fit with all their samples.

    Args:
      count: samples of each ray.
      length: length of the buffer, static.

    >>> packing = pack(jnp.array([2, 1, 3]), length=5)
    >>> packing.ray.tolist(), packing.slot.tolist(), packing.fits.tolist()
    ([0, 0, 1, 2, 2], [0, 1, 0, 0, 1], [True, True, False])
    """
    end = jnp.cumsum(count, dtype=jnp.int32)
    first = end - count
    # A ray without samples fits even behind one that does not.
    fits = (end <= length) | (count == 0)
    place = jnp.arange(length, dtype=jnp.int32)
    begun = jnp.zeros(length + 1, jnp.int32).at[jnp.minimum(end, length)].add(1)
    ray = jnp.minimum(jnp.cumsum(begun[:length], dtype=jnp.int32), count.shape[0] - 1)
    used = place < jnp.max(jnp.where(end <= length, end, 0), initial=0)
    kept = jnp.where(fits, count, 0)
    return Packing(ray, place - first[ray], used, first, kept, fits)

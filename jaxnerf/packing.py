"""Samples of many rays, laid out in one row of a fixed length, so that every shape is static."""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packing:
    """Samples of many rays in one row, ray after ray, within a fixed budget.

    Attributes:
      ray, slot: of each packed sample.
      used: whether there is a sample at this place of the row.
      first: the place of each ray's first sample.
      kept: whether all of the ray's samples are in the row. Rays that overflow it have none there.
      samples: how many are in the row.
    """

    ray: Int[Array, " B"]
    slot: Int[Array, " B"]
    used: Bool[Array, " B"]
    first: Int[Array, " R"]
    kept: Bool[Array, " R"]
    samples: Int[Array, ""]


def pack(count: Int[Array, " R"], budget: int) -> Packing:
    """Lay out samples in a row: the rays in their order, as many as fit whole.

    Args:
      count: samples of each ray.
      budget: length of the row, static.

    >>> packing = pack(jnp.array([2, 1, 3]), budget=5)
    >>> packing.ray.tolist(), packing.slot.tolist(), packing.kept.tolist()
    ([0, 0, 1, 2, 2], [0, 1, 0, 0, 1], [True, True, False])
    """
    end = jnp.cumsum(count)
    first = end - count
    kept = end <= budget
    place = jnp.arange(budget)
    begun = jnp.zeros(budget + 1, jnp.int32).at[jnp.minimum(end, budget)].add(1)
    ray = jnp.minimum(jnp.cumsum(begun[:budget]), count.shape[0] - 1)
    samples = jnp.max(jnp.where(kept, end, 0), initial=0)
    return Packing(ray, place - first[ray], place < samples, first, kept, samples)

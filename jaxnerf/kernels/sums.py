"""Sums over all entries of long arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Entries that are squared and summed at a time.
_AT_ONCE = 1 << 14


def sum_of_squares(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The sum of the squares of all entries of an array: `jnp.vdot(x, x)`.

    As a loop where parts are even: of a long array XLA:CPU would store the squares first, and take five
    times as long.
    """
    if x.size % _AT_ONCE:
        return jnp.vdot(x, x)
    rows = x.reshape(-1, _AT_ONCE)
    columns, _ = jax.lax.scan(
        lambda total, row: (total + row * row, None), jnp.zeros(_AT_ONCE, x.dtype), rows
    )
    return jnp.sum(columns)

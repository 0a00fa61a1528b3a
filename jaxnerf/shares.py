"""Long arrays of which each device brings a share up to date, instead of all devices all of it.

Adam reads and writes a table of features, its gradient and its moments at each step; for a large table
that is most of a step. With D devices each keeps the moments of a D-th of the rows, is given the sum of
all devices' gradients for these alone, moves them, and hands them to the others (stage 1 of ZeRO,
Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020).

Only arrays of many rows that the devices divide evenly are shared; of others each device does it all.
Inside of a mapped step `summed`, `own` and `gathered` are this; outside of it `divided` and `whole`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxnerf.placement import AXIS, spread

# For less, waiting for the others costs what it saves.
_FEWEST_ROWS = 1024


def share_of(shape: tuple[int, ...], devices: int) -> tuple[int, ...]:
    """The shape of a device's share.

    >>> share_of((4096, 8), 2), share_of((64, 64), 2)
    ((2048, 8), (64, 64))
    """
    if shape and shape[0] >= _FEWEST_ROWS and shape[0] % devices == 0:
        return (shape[0] // devices, *shape[1:])
    return shape


def own(tree: Any, axis_name: str = AXIS) -> Any:
    """This device's share of arrays that are whole on each."""
    devices, here = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def part(x: Any) -> Array:
        rows = share_of(np.shape(x), devices)
        if rows == np.shape(x):
            return jnp.asarray(x)
        return jax.lax.dynamic_slice_in_dim(x, here * rows[0], rows[0])

    return jax.tree.map(part, tree)


def summed(tree: Any, axis_name: str = AXIS) -> Any:
    """This device's share of the sum of all devices' arrays."""
    devices = jax.lax.axis_size(axis_name)

    def part(x: Array) -> Array:
        if devices == 1:  # XLA:CPU would copy it
            return x
        if share_of(x.shape, devices) == x.shape:
            return jax.lax.psum(x, axis_name)
        return jax.lax.psum_scatter(x, axis_name, scatter_dimension=0, tiled=True)

    return jax.tree.map(part, tree)


def norm(parts: Any, like: Any, axis_name: str = AXIS) -> Array:
    """The Euclidean norm of what devices have `summed`, of arrays like these."""
    mine, common = jnp.float32(0.0), jnp.float32(0.0)
    for x, whole in zip(jax.tree.leaves(parts), jax.tree.leaves(like), strict=True):
        square = jnp.vdot(x, x)
        mine, common = (
            (mine, common + square) if x.shape == whole.shape else (mine + square, common)
        )
    return jnp.sqrt(jax.lax.psum(mine, axis_name) + common)


def gathered(shares: Any, like: Any, axis_name: str = AXIS) -> Any:
    """The whole arrays on each device, from all devices' shares; the inverse of `own`.

    Args:
      shares: of the devices.
      like: arrays in the shapes of the whole.
      axis_name: of the devices.
    """

    def joined(x: Array, whole: Array) -> Array:
        if x.shape == whole.shape:
            return x
        return jax.lax.all_gather(x, axis_name, tiled=True)

    return jax.tree.map(joined, shares, like)


def divided(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """What each device keeps of whole arrays: [devices, ...], its share or, of short ones, a copy."""
    count = jax.device_count() if devices is None else len(devices)

    def laid_out(x: Any) -> np.ndarray:
        x = np.asarray(x)
        share = share_of(x.shape, count)
        return np.broadcast_to(x, (count, *share)) if share == x.shape else x.reshape(count, *share)

    return spread(jax.tree.map(laid_out, tree), devices)


def whole(tree: Any, like: Any) -> Any:
    """The inverse of `divided`, as NumPy arrays; what is whole stays as it is.

    Args:
      tree: of `divided`, or of a mapped step. Of several hosts all must call this.
      like: arrays or shapes of the whole.
    """

    def joined(x: Any, expected: Any) -> np.ndarray:
        if x.shape == expected.shape:
            return np.asarray(x)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # A mapped step gives each host what its own devices have.
            x = multihost_utils.process_allgather(x, tiled=True)
        x = np.asarray(x)
        return np.asarray(x.reshape(expected.shape) if x.size == expected.size else x[0])

    return jax.tree.map(joined, tree, like)

"""Functions of many rows, called on some at a time: one compiled program serves any number of them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Rows of a call.
CHUNK = 1 << 16
_FEWEST = 1 << 8


def in_chunks(
    function: Any, *arrays: np.ndarray, on_one: bool = False, rows_at_once: int = CHUNK
) -> Any:
    """A compiled function of arrays with one leading dimension, called on some rows at a time.

    The devices share the rows of a call. What else the function is given should be `replicated`.

    Args:
      function: of as many arrays.
      arrays: with as many rows.
      on_one: whether the first device does it all. For what holds a linear solver, since XLA does not
        divide those: it gathers all rows on each device, and on a CPU that can wait for ever.
      rows_at_once: in a call, a power of two.
    """
    count, parts = len(arrays[0]), []
    shared = None if on_one else NamedSharding(_devices(), PartitionSpec("rows"))
    for begin in range(0, max(count, 1), rows_at_once):
        rows = [array[begin : begin + rows_at_once] for array in arrays]
        short = rows_at_once - len(rows[0])
        padded = [np.pad(row, [(0, short), *[(0, 0)] * (row.ndim - 1)]) for row in rows]
        found = function(*jax.device_put(padded, shared))
        parts.append(jax.tree.map(lambda x, n=len(rows[0]): np.asarray(x)[:n], found))
    return jax.tree.map(lambda *found: np.concatenate(found), *parts)


def rows_for(count: int, most: int = CHUNK) -> int:
    """The power of two of rows that so many are called in, at most as many as named."""
    return min(max(1 << max(count - 1, 1).bit_length(), _FEWEST), 1 << (most.bit_length() - 1))


def replicated(tree: Any) -> Any:
    """Arrays on each of the devices that `in_chunks` uses."""
    return jax.device_put(tree, NamedSharding(_devices(), PartitionSpec()))


def _devices() -> Mesh:
    """As many local devices as divide `CHUNK`."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices[: 1 << (len(devices).bit_length() - 1)]), ("rows",))

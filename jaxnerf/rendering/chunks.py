"""Calls of compiled functions on arrays of any number of rows, in chunks of one size."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Rows of a chunk, and the fewest.
CHUNK = 1 << 16
_FEWEST = 1 << 8
# Rows that are added to a chunk of a power of two, from so many on.
_OFF_POWERS_OF_TWO, _POWERS_FROM = 16, 1 << 10


def in_chunks(
    function: Any, *arrays: np.ndarray, on_one: bool = False, rows_at_once: int = CHUNK
) -> Any:
    """Call a compiled function on chunks of rows, and concatenate the results as NumPy arrays.

    The rows of a chunk are divided among the devices. Other arrays that the function uses should be
    `replicated`. The last chunk is padded with zeros.

    Args:
      function: function of as many arrays [rows_at_once, ...] that returns a pytree of such arrays.
      arrays: arrays with the same number of rows.
      on_one: whether only the first device is used. It is needed for linear solvers: XLA does not divide
        them but gathers all rows on every device, which can deadlock on a CPU.
      rows_at_once: rows of a chunk, a power of two.
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
    """The size of chunks for a number of rows: a power of two from 256 to `most`."""
    return min(max(1 << max(count - 1, 1).bit_length(), _FEWEST), 1 << (most.bit_length() - 1))


def off_powers_of_two(rays: int) -> int:
    """A number of rays in a chunk that is none of the large powers of two.

    With 4096 or 8192 rays, rows of slots share the places of a cache: chunks of lego took 1.5 times as
    long as with 16 rays more (experiments/render_speed).

    >>> off_powers_of_two(4096), off_powers_of_two(6144)
    (4112, 6144)
    """
    is_power = rays >= _POWERS_FROM and rays & (rays - 1) == 0
    return rays + _OFF_POWERS_OF_TWO if is_power else rays


def replicated(tree: Any) -> Any:
    """Copies of arrays on all devices that `in_chunks` uses."""
    return jax.device_put(tree, NamedSharding(_devices(), PartitionSpec()))


def _devices() -> Mesh:
    """The local devices, of which as many are used as the largest power of two."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices[: 1 << (len(devices).bit_length() - 1)]), ("rows",))

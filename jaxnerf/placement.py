"""What lies on which device: copies on all, to each its own, and a host's part of a batch."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Of the devices, in every mapped step.
AXIS = "devices"
# Bytes of which each core of a CPU may have a copy.
_MOST_COPIED = 1 << 24


def devices_for(largest: int) -> tuple[Any, ...]:
    """The devices for steps that read and write an array of so many bytes on each: all that pay.

    Cores of a CPU share one memory, and to keep a large array alike on all takes longer than what they
    gain by a part of the rays each: XLA spreads most of what one device does over the cores as well. On
    two of them a step of `five_minutes` on lego took 27 ms on two devices and 32 on one with a table of
    2 MB, 41 on either with 13 MB, and with 67 MB 75 and 55, and 0.3 GB less; on fox 41 and 31 with 17 MB.

    >>> len(devices_for(1 << 30))
    1
    """
    devices = tuple(jax.devices())
    alone = devices[0].platform == "cpu" and jax.process_count() == 1 and largest > _MOST_COPIED
    return devices[:1] if alone else devices


def replicate(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """Put a copy on every device of every host, as `jaxnerf.training.parallel` returns its results.

    What is given to a mapped step otherwise has it compiled again when its own results come back.
    """
    return put_like(tree, _sharding(devices=devices))


def put_like(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Put arrays where others lie, in memory of XLA's own."""

    def placed(x: Any) -> Any:
        return jax.make_array_from_callback(np.shape(x), sharding, lambda part: np.asarray(x)[part])

    return _copied(jax.tree.map(placed, tree))


def memory_like(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """Zeros on every device in the shapes of a tree, with a leading dimension of all devices.

    For large temporaries of a mapped step: XLA:CPU allocates those anew at each step, and glibc gives
    what is larger than a thread's heap (64 MB) back to the system each time, whatever it is told.
    """
    count = jax.device_count() if devices is None else len(devices)

    def zeros(x: Any) -> np.ndarray:
        return np.broadcast_to(np.zeros((), x.dtype), (count, *x.shape))

    return spread(jax.tree.map(zeros, tree), devices)


def spread(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """Put arrays on all devices, to each the part of its number along the first dimension."""
    return put_like(tree, _sharding(AXIS, devices=devices))


@jax.jit
def _copied(tree: Any) -> Any:
    """The same arrays in memory of XLA's own: from NumPy's, a step that may overwrite it copies it."""
    return jax.tree.map(jnp.copy, tree)


def _sharding(*axes: str, devices: Sequence[Any] | None = None) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def from_first_process(tree: Any) -> Any:
    """The first process's arrays on every process, to the bit; with one process what is given.

    Hosts' floats can differ in a last bit, so what each of them decides for itself (how many rows a
    table has, which cells are kept) can be another's in shape. Shapes may therefore differ between the
    trees that are given; their structure, types and numbers of dimensions may not. All processes must
    call this at once.

    Returns:
      NumPy arrays, if there are several processes.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(tree)
    own = [np.asarray(leaf) for leaf in leaves]
    sides = np.asarray([len(own), *(side for array in own for side in array.shape)], np.int32)
    sides = [int(side) for side in multihost_utils.broadcast_one_to_all(sides)[1:]]
    shapes = [tuple(sides.pop(0) for _ in range(array.ndim)) for array in own]
    sizes = [math.prod(shape) * array.itemsize for shape, array in zip(shapes, own, strict=True)]
    # As bytes, which a sum with zeros leaves as they are (-0.0 it would not), and as one array, for which
    # one program is compiled.
    if jax.process_index() == 0:
        sent = np.concatenate([np.frombuffer(array.tobytes(), np.uint8) for array in own])
    else:
        sent = np.zeros(sum(sizes), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    parts = np.split(received, np.cumsum(sizes)[:-1])
    return structure.unflatten(
        np.frombuffer(part.tobytes(), array.dtype).reshape(shape).copy()
        for part, array, shape in zip(parts, own, shapes, strict=True)
    )


def local_share(batch: Any, devices: Sequence[Any] | None = None) -> Any:
    """This host's part of a global batch, with a leading dimension of its devices.

    Args:
      batch: of all hosts.
      devices: of all hosts; all there are by default.

    Raises:
      ValueError: the batch does not divide into equal shares.
    """
    chosen = jax.devices() if devices is None else devices
    total = len(chosen)
    local = sum(each.process_index == jax.process_index() for each in chosen)
    size = len(batch.camera)
    if size % total:
        raise ValueError(f"training.rays_per_batch: {total} devices do not divide {size} rays")
    start = jax.process_index() * local * (size // total)
    return jax.tree.map(
        lambda x: x[start : start + local * (size // total)].reshape(local, -1, *x.shape[1:]), batch
    )

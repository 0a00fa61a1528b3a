"""What lies on which device: copies on all, to each its own, and a host's part of a batch."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Of the devices, in every mapped step.
AXIS = "devices"


def replicate(tree: Any) -> Any:
    """Put a copy on every device of every host, as `jaxnerf.training.parallel` returns its results.

    What is given to a mapped step otherwise has it compiled again when its own results come back.
    """
    sharding = _sharding()

    def placed(x: Any) -> Any:
        return jax.make_array_from_callback(np.shape(x), sharding, lambda _: np.asarray(x))

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
    sharding = _sharding(AXIS, devices=devices)

    def placed(x: Any) -> Any:
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    return _copied(jax.tree.map(placed, tree))


@jax.jit
def _copied(tree: Any) -> Any:
    """The same arrays in memory of XLA's own: from NumPy's, a step that may overwrite it copies it."""
    return jax.tree.map(jnp.copy, tree)


def _sharding(*axes: str, devices: Sequence[Any] | None = None) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def local_share(batch: Any) -> Any:
    """This host's part of a global batch, with a leading dimension of its devices.

    Raises:
      ValueError: the batch does not divide into equal shares.
    """
    local, total = jax.local_device_count(), jax.device_count()
    size = len(batch.camera)
    if size % total:
        raise ValueError(f"training.rays_per_batch: {total} devices do not divide {size} rays")
    start = jax.process_index() * local * (size // total)
    return jax.tree.map(
        lambda x: x[start : start + local * (size // total)].reshape(local, -1, *x.shape[1:]), batch
    )

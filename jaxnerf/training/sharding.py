"""Data parallelism: the layout of state and batches on devices, reductions, and the optimizer's step.

Steps are written for one device, with explicit sums over a named axis; `parallel` maps them.

Adam reads and writes a table of features, its gradient and its moments at each step; for a large table
that is most of a step's time. So with D devices each device stores the optimizer's state of one D-th of
the table's rows, receives the sum of the gradients of these rows, updates them, and sends them to the
other devices (stage 1 of ZeRO, Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models", 2020). This is done for arrays with many rows, of a number that D divides. Other arrays
are updated completely on every device.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxnerf.kernels.memory import into_memory
from jaxnerf.kernels.sums import sum_of_squares

# Name of the mapped axis.
AXIS = "devices"
# The largest array, in bytes, of which each core of a CPU has its own copy.
_MOST_COPIED = 1 << 24
# Arrays with fewer rows are not divided: synchronisation would cost more than it saves.
_FEWEST_ROWS = 1024
# The most entries of an array that is summed together with others.
_SHORT = 1 << 14


def devices_for(largest: int) -> tuple[Any, ...]:
    """The devices on which to run steps whose largest array has so many bytes.

    All devices, except on the CPU of a single host if the array is large: then one device, whose work XLA
    distributes over the cores too. The cores share one memory, and copying the array between one device
    per core takes longer than dividing the rays saves. On two cores, a step of `five_minutes` on lego
    took 27 ms on two devices and 32 ms on one with a table of 2 MB, 41 ms on either with 13 MB, and 75
    and 55 ms with 67 MB, with 0.3 GB less memory; on fox 41 and 31 ms with 17 MB.

    >>> len(devices_for(1 << 30))
    1
    """
    devices = tuple(jax.devices())
    alone = devices[0].platform == "cpu" and jax.process_count() == 1 and largest > _MOST_COPIED
    return devices[:1] if alone else devices


def replicate(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """Put a copy on every device of every host, with the sharding of the results of `parallel`.

    With another sharding, the mapped step would be compiled again when it is given its own results.
    """
    return put_like(tree, _sharding(devices=devices))


def put_like(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Put arrays on devices with a sharding, in memory that XLA has allocated."""

    def placed(x: Any) -> Any:
        return jax.make_array_from_callback(np.shape(x), sharding, lambda part: np.asarray(x)[part])

    return _copied(jax.tree.map(placed, tree))


def memory_like(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """Zeros on every device in the shapes of a tree, with a leading dimension of all devices."""
    count = jax.device_count() if devices is None else len(devices)

    def zeros(x: Any) -> np.ndarray:
        return np.broadcast_to(np.zeros((), x.dtype), (count, *x.shape))

    return spread(jax.tree.map(zeros, tree), devices)


def spread(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """Divide arrays along their first dimension, one index for each device."""
    return put_like(tree, _sharding(AXIS, devices=devices))


@jax.jit
def _copied(tree: Any) -> Any:
    """Copy arrays into XLA's memory: NumPy's memory cannot be donated, so each step would copy it."""
    return jax.tree.map(jnp.copy, tree)


def _sharding(*axes: str, devices: Sequence[Any] | None = None) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def broadcast_from_process_0(tree: Any) -> Any:
    """Give all processes the arrays of process 0, bit for bit; with one process, return the tree.

    Floats can differ between hosts in the last bit, and so can what each host derives from them: the
    number of rows of a table, or which cells are kept. So the shapes of the arrays may differ between
    processes; the trees' structure, dtypes and numbers of dimensions may not. All processes must call
    this at once.

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


def local_part(batch: Any, devices: Sequence[Any] | None = None) -> Any:
    """This host's part of a global batch, with a leading dimension of its devices.

    Args:
      batch: the batch of all hosts.
      devices: devices of all hosts; by default all.

    Raises:
      ValueError: the batch does not divide into equal parts.
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


def number_of_process_0(value: float) -> float:
    """The value of process 0, on all processes, so that all of them make the same decisions."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


@dataclasses.dataclass
class ParallelStep:
    """A step that all devices take: (state, batch, key, constant) -> (state, metrics). See `parallel`.

    Attributes:
      mapped: the step, which is given memory for its gradients too.
      memory_for: makes such memory, for a state.
      gradients: of the last step, over which the next one writes its own; None before the first.
    """

    mapped: Any
    memory_for: Callable[[Any], Any]
    gradients: Any = None

    def __call__(self, state: Any, batch: Any, key: Array, constant: Any) -> tuple[Any, Any]:
        memory = self.memory_for(state) if self.gradients is None else self.gradients
        self.gradients = None  # a step that is interrupted has taken them
        state, metrics, self.gradients = self.mapped(state, batch, key, constant, memory)
        return state, metrics


def parallel(
    step: Callable,
    devices: Sequence[Any] | None = None,
    *,
    axes: Any = None,
    gradients: Callable[[Any], Any],
) -> ParallelStep:
    """Map a per-device step over all devices; the one place that knows how.

    The state, the key and what is constant (the cameras) are replicated (given and returned whole),
    batches are given with a leading dimension of this host's devices. (`jax.shard_map` over a mesh of the
    same devices with specs P(), P(AXIS), P(), P(), P(AXIS) would do the same.)

    Args:
      step: (state, batch, key, constant) -> (state, metrics, gradients): see
        `jaxnerf.training.step.Step`. The state is overwritten.
      devices: all by default.
      axes: a prefix of the state: 0 where each device has its own (see `spread`), None elsewhere.
      gradients: the shapes of one device's gradients, of a state.
    """
    mapped = jax.pmap(
        into_memory(step),
        axis_name=AXIS,
        in_axes=(axes, 0, None, None, 0),
        out_axes=(axes, None, 0),
        devices=devices,
        donate_argnums=(0, 4),
    )
    return ParallelStep(mapped, lambda state: memory_like(gradients(state), devices))


def device_count(axis_name: str | None) -> int:
    """How many devices a mapped step runs on; 1 outside of one."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def device_index(axis_name: str | None) -> Array | int:
    """The index of this device among those that a mapped step runs on; 0 outside of one."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def mean(tree: Any, axis_name: str | None) -> Any:
    """The mean over the devices."""
    if device_count(axis_name) == 1:  # XLA:CPU would copy it
        return tree
    assert axis_name is not None
    return jax.lax.pmean(tree, axis_name)


def part_shape(shape: tuple[int, ...], devices: int) -> tuple[int, ...]:
    """The shape of a device's part of an array.

    >>> part_shape((4096, 8), 2), part_shape((64, 64), 2)
    ((2048, 8), (64, 64))
    """
    if shape and shape[0] >= _FEWEST_ROWS and shape[0] % devices == 0:
        return (shape[0] // devices, *shape[1:])
    return shape


def own(tree: Any, axis_name: str | None = AXIS) -> Any:
    """This device's part of arrays that are whole on each."""
    devices, here = device_count(axis_name), device_index(axis_name)

    def part(x: Any) -> Array:
        rows = part_shape(np.shape(x), devices)
        if rows == np.shape(x):
            return jnp.asarray(x)
        return jax.lax.dynamic_slice_in_dim(x, here * rows[0], rows[0])

    return jax.tree.map(part, tree)


def summed(tree: Any, axis_name: str | None = AXIS) -> Any:
    """This device's part of the sum of all devices' arrays."""
    devices = device_count(axis_name)

    def part(x: Array) -> Array:
        if axis_name is None or devices == 1:  # XLA:CPU would copy it
            return x
        if part_shape(x.shape, devices) == x.shape:
            return jax.lax.psum(x, axis_name)
        return jax.lax.psum_scatter(x, axis_name, scatter_dimension=0, tiled=True)

    return jax.tree.map(part, tree)


def norm(parts: Any, like: Any, axis_name: str | None = AXIS) -> Array:
    """The Euclidean norm of the devices' `summed` parts of arrays like these."""
    pairs = list(zip(jax.tree.leaves(parts), jax.tree.leaves(like), strict=True))
    mine = _sum_of_squares([x for x, whole in pairs if x.shape != whole.shape])
    common = _sum_of_squares([x for x, whole in pairs if x.shape == whole.shape])
    if axis_name is not None:
        mine = jax.lax.psum(mine, axis_name)
    return jnp.sqrt(mine + common)


def _sum_of_squares(arrays: Sequence[Array]) -> Array:
    """Of all entries; short arrays together, since XLA:CPU compiles each sum for itself."""
    short = [x.reshape(-1) for x in arrays if x.size <= _SHORT]
    sums = [sum_of_squares(x) for x in arrays if x.size > _SHORT]
    if short:
        sums.append(sum_of_squares(jnp.concatenate(short)))
    return sum(sums, jnp.float32(0.0))


def gathered(parts: Any, like: Any, axis_name: str | None = AXIS) -> Any:
    """The whole arrays on each device, from all devices' parts; the inverse of `own`.

    Args:
      parts: the devices' parts.
      like: arrays in the shapes of the whole arrays.
      axis_name: name of the axis of devices.
    """

    def joined(x: Array, whole: Array) -> Array:
        if axis_name is None or x.shape == whole.shape:
            return x
        return jax.lax.all_gather(x, axis_name, tiled=True)

    return jax.tree.map(joined, parts, like)


def update(
    optimizer: optax.GradientTransformation,
    gradients: Any,
    opt_state: Any,
    params: Any,
    axis_name: str | None,
    **extra: Any,
) -> tuple[Any, Any]:
    """Take the optimizer's step, each device for its part of the rows, and gather the parameters.

    Args:
      optimizer: on several devices it must treat all rows of a long array alike and by themselves, as
        Adam does; a norm over all of them would be of this device's rows.
      gradients: this device's part of the mean gradients.
      opt_state: this device's part of the optimizer's state.
      params: the whole parameters.
      axis_name: name of the axis of devices.
      extra: extra arguments of the optimizer, if it takes any.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    mine = own(params, axis_name)
    given = gradients, opt_state, mine
    if axis_name is not None:
        # With the leading dimension that the state has outside of the mapped step: from arrays without it
        # XLA:CPU makes the updates and the new state apart, and copies the old one for that.
        given = jax.tree.map(lambda x: x[None] if x.ndim else x, given)
    # Optax raises a float to the power of an integer, which strict users' settings refuse.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, after = optimizer.update(*given, **extra)
    updates, after = jax.tree.map(
        lambda x, like: x.reshape(like.shape), (updates, after), (gradients, opt_state)
    )
    return gathered(jax.tree.map(jnp.add, mine, updates), params, axis_name), after


def divided(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """What each device keeps of whole arrays: [devices, ...], its part or, of short ones, a copy."""
    count = jax.device_count() if devices is None else len(devices)

    def laid_out(x: Any) -> np.ndarray:
        x = np.asarray(x)
        part = part_shape(x.shape, count)
        return np.broadcast_to(x, (count, *part)) if part == x.shape else x.reshape(count, *part)

    return spread(jax.tree.map(laid_out, tree), devices)


def whole(tree: Any, like: Any) -> Any:
    """The inverse of `divided`, as NumPy arrays; arrays that are whole stay as they are.

    Args:
      tree: result of `divided`, or of a mapped step. All hosts must call this.
      like: the whole arrays, or their shapes.
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


def divisible(rays: int, devices: int) -> int:
    """The most rays, at most so many, that the devices share evenly; one each at least."""
    return max(rays // devices, 1) * devices

"""Memory: where results are written, and whether what is freed is kept or returned to the system."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array


def keep_freed() -> None:
    """Make glibc keep memory that XLA frees, for the next step's temporaries; MALLOC_* settings prevail.

    By default glibc allocates blocks of more than 32 MB from the system and returns them each time, and
    the system zeroes their pages when they are touched again, which takes a third of a step at 256
    voxels. Without glibc this does nothing. (Numbers from malloc.h. With a single arena 0.1 GB less is
    kept, but XLA's threads wait for each other when they compile: 18 seconds of a run instead of 12.)
    """
    trim_threshold, mmap_max = -1, -4
    if sys.platform.startswith("linux") and not any(x.startswith("MALLOC_") for x in os.environ):
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(trim_threshold, -1)
            mallopt(mmap_max, 0)


@contextlib.contextmanager
def returning_freed() -> Iterator[None]:
    """Have glibc return freed memory when the block ends; it would stay reserved for single threads.

    When lego is resampled to 256 voxels this is 0.4 GB of 2.04. Without glibc this does nothing.
    """
    yield
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@returning_freed()
def delete(tree: Any) -> None:
    """Free the JAX arrays of a tree at once, whoever still holds them, as donation would."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.delete()


def into_memory(step: Callable) -> Callable:
    """A step with one argument more: arrays in whose memory it writes its gradients.

    The arrays have the gradients' shapes and any values, and must be donated, as the step's state is.
    Without them XLA:CPU allocates the gradients anew at each step, and glibc returns blocks larger than a
    thread's heap (64 MB) to the system, whatever it is told.

    Args:
      step: (*arguments) -> (state, metrics, gradients).
    """

    def given_memory(*arguments: Any) -> tuple[Any, Any, Any]:
        *given, memory = arguments
        state, metrics, gradients = step(*given)
        # XLA drops an argument that is not used, and its memory with it, so it is used without effect.
        first = [part.reshape(-1)[0] for part in jax.tree.leaves(memory)]
        metrics, _ = jax.lax.optimization_barrier((metrics, first))
        return state, metrics, gradients

    return given_memory


def computed_once(values: Array) -> Array:
    """The same array, stored: XLA:CPU would compute it, and all before it, again for each of its uses."""
    return jax.lax.optimization_barrier(values)

"""Freed memory: kept for the next step, or returned to the operating system."""

import contextlib
import ctypes
import os
import sys
from typing import Any

import jax


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


def trim_heap() -> None:
    """Make glibc return freed memory to the system, which otherwise stays reserved for single threads.

    When lego is resampled to 256 voxels this is 0.4 GB of 2.04. Without glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def delete(tree: Any) -> None:
    """Free the JAX arrays of a tree at once, whoever still holds them, as donation would."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.delete()
    trim_heap()

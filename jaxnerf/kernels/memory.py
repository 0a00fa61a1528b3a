"""Freed memory, returned to the operating system."""

import contextlib
import ctypes
from typing import Any

import jax


def hand_back() -> None:
    """Have glibc give back what was freed: kept for one thread, the others' work cannot use it.

    When lego grows to 256 voxels that is 0.4 GB of 2.04. Elsewhere than with glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def delete(tree: Any) -> None:
    """Free the JAX arrays of a tree at once, whoever still holds them, as donation would."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.delete()
    hand_back()

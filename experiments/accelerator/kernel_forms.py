"""Each operation of `jaxnerf.kernels` in its two forms: against NumPy in double precision, and timed."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from parts import found, median_seconds, noted

from jaxnerf.kernels import march_weights, weighted_rows

# Of the largest value of the truth: float32 sums of up to a few thousand terms in any order.
_TOLERANCE = 2e-5


def measure(small: bool) -> None:
    """Report for each operation and form whether it is right, and milliseconds."""
    samples, rays = (8, 300) if small else (48, 16384)
    compare(
        f"march_weights {samples} x {rays}",
        march_weights,
        *marching(samples, rays),
        repeats=2 if small else 20,
    )
    sizes = [(200, 50, 4)] if small else [(131072, 1_000_000, 4), (131072, 2_000_000, 8)]
    for positions, height, features in sizes:
        compare(
            f"weighted_rows {positions} of {height} x {features}",
            weighted_rows,
            *lookups(positions, height, features),
            repeats=2 if small else 20,
        )


def compare(
    name: str, operation: Callable, inputs: tuple, learned: tuple, truth: list, *, repeats: int
) -> None:
    """Run an operation forwards, and the gradient of its sum of squares, in each form.

    Args:
      name: of what is reported.
      operation: of the inputs.
      inputs: its arguments.
      learned: which of them have gradients.
      truth: its result, and the gradient by each of those, in double precision.
      repeats: timed calls.
    """
    held = jax.tree.map(jnp.asarray, inputs)
    for form in ("xla", "pallas"):
        with noted(name, form):
            run = functools.partial(operation, implementation=form)
            forward = jax.jit(run)

            def loss(*inputs, run=run):
                return 0.5 * jnp.sum(run(*inputs) ** 2)

            gradient = jax.jit(jax.grad(loss, argnums=learned))
            errors = [
                float(np.max(np.abs(np.asarray(got, np.float64) - want)) / np.max(np.abs(want)))
                for got, want in zip([forward(*held), *gradient(*held)], truth, strict=True)
            ]
            row: dict[str, Any] = {
                "right": max(errors) < _TOLERANCE,
                "errors": [float(f"{error:.2g}") for error in errors],
            }
            found(**{name: {form: row}})
            row["forward_ms"] = round(
                1e3 * median_seconds(lambda f=forward: f(*held), repeats)[0], 4
            )
            row["gradient_ms"] = round(
                1e3 * median_seconds(lambda f=gradient: f(*held), repeats)[0], 4
            )
            found(**{name: {form: row}})


def marching(samples: int, rays: int) -> tuple[tuple, tuple, list]:
    """Optical depths, the weights T_k - T_{k+1}, and dL/dtau_k = T_{k+1} g_k - sum of w_j g_j behind."""
    depths = np.random.default_rng(0).gamma(0.3, 0.3, (samples, rays)).astype(np.float32)
    after = np.exp(-np.cumsum(depths.astype(np.float64), axis=0))
    weights = np.concatenate([np.ones((1, rays)), after[:-1]]) - after
    products = weights * weights  # g is the weight itself, of half a sum of squares
    behind = np.cumsum(products[::-1], axis=0)[::-1] - products
    return (depths,), (0,), [weights, after * weights - behind]


def lookups(positions: int, height: int, features: int) -> tuple[tuple, tuple, list]:
    """A table, eight rows and weights of each position; sums and gradients by loops over corners."""
    random = np.random.default_rng(1)
    table = random.normal(size=(height, features)).astype(np.float32)
    rows = random.integers(0, height, (8, positions)).astype(np.int32)
    weights = random.random((8, positions)).astype(np.float32)
    sums = np.zeros((positions, features))
    for row, weight in zip(rows, weights, strict=True):
        sums += weight[:, None].astype(np.float64) * table[row]
    of_table, of_weights = np.zeros((height, features)), np.zeros((8, positions))
    for corner, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        of_weights[corner] = np.sum(sums * table[row], axis=1)
        for feature in range(features):
            of_table[:, feature] += np.bincount(row, weight * sums[:, feature], height)
    return (table, rows, weights), (0, 2), [sums, of_table, of_weights]

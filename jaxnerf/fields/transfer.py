"""Transfer functions: from what a scanner measured to density and colour, as a small table."""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxnerf.kernels import weighted_rows


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransferFunction:
    """Density and colour as functions of a value, linear between the rows of a table. A pytree.

    Below the first value and above the last one they stay what they are there. Everything is
    differentiable: in the densities and colours of the table, in where its values lie, and in the value
    that is looked up (at a value of the table with the slope above it).

    Attributes:
      values: ascending, at least two.
      density: at each, in 1/length, not negative.
      colour: at each, RGB in [0, 1]; None where the colour is white, or that of a volume's own.
    """

    values: Float[Array | np.ndarray, " K"]
    density: Float[Array | np.ndarray, " K"]
    colour: Float[Array | np.ndarray, "K 3"] | None = None

    @classmethod
    def of(cls, values, density, colour=None) -> "TransferFunction":
        """A table of sequences or arrays.

        Args:
          values, density, colour: see the attributes; a colour of one number a row is a grey.

        Raises:
          ValueError: values do not ascend, a number is not finite, a density is negative, a colour is not
            in [0, 1], or shapes do not fit; the message begins with "transfer".
        """
        values, density = (_floats(each) for each in (values, density))
        if colour is not None:
            colour = _floats(colour)
            if colour.ndim == 1:
                colour = colour[:, None] * np.ones((1, 3), np.float32).astype(colour.dtype)
        table = cls(values, density, colour)
        table.check()
        return table

    @classmethod
    def window(
        cls, low: float, high: float, density: float, colour=((0.0,) * 3, (1.0,) * 3)
    ) -> "TransferFunction":
        """From nothing and black at one value to a density and white at another, as radiologists say it.

        Args:
          low, high: the values between which density and colour rise.
          density: at `high` and above, in 1/length.
          colour: at `low` and at `high`.

        Raises:
          ValueError: see `of`.
        """
        return cls.of([low, high], [0.0, density], colour)

    def check(self) -> None:
        """Refuse a table that is none; of one that is being traced only shapes are looked at.

        Raises:
          ValueError: see `of`.
        """
        count = self.values.shape[0] if self.values.ndim == 1 else 0
        shapes = [("density", self.density, (count,)), ("colour", self.colour, (count, 3))]
        if count < 2:
            raise ValueError(
                f"transfer: values must be 2 or more in a row, got {self.values.shape}"
            )
        for name, given, shape in shapes:
            if given is not None and given.shape != shape:
                raise ValueError(
                    f"transfer: {name} must be {shape} for {count} values, got {given.shape}"
                )
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            return
        for name in ("values", "density", "colour"):
            given = getattr(self, name)
            if given is not None and not np.isfinite(np.asarray(given, np.float64)).all():
                raise ValueError(f"transfer: {name} has a number that is not finite")
        values = np.asarray(self.values, np.float64)
        wrong = np.flatnonzero(np.diff(values) <= 0.0)
        if wrong.size:
            first, second = values[wrong[0] : wrong[0] + 2]
            raise ValueError(f"transfer: values must ascend, but {second:g} follows {first:g}")
        if np.min(np.asarray(self.density, np.float64)) < 0.0:
            raise ValueError("transfer: density must not be negative")
        colour = np.zeros(1) if self.colour is None else np.asarray(self.colour, np.float64)
        if colour.min() < 0.0 or colour.max() > 1.0:
            raise ValueError("transfer: colour must be from 0 to 1")

    def __call__(
        self, value: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch 3"] | None]:
        """Density and colour at values; the colour is None where the table has none."""
        flat = value.reshape(-1)
        knots = jnp.asarray(self.values).astype(flat.dtype)
        columns = [jnp.asarray(self.density)[:, None]]
        if self.colour is not None:
            columns.append(jnp.asarray(self.colour))
        table = jnp.concatenate([column.astype(flat.dtype) for column in columns], axis=1)
        # Comparing with every value and summing is faster than a binary search at these sizes.
        below = jnp.sum(flat[:, None] >= knots[None, 1:-1], axis=1, dtype=jnp.int32)
        low, high = knots[below], knots[below + 1]
        part = jnp.clip((flat - low) / (high - low), 0.0, 1.0)
        found = weighted_rows(table, jnp.stack([below, below + 1]), jnp.stack([1.0 - part, part]))
        density = found[:, 0].reshape(value.shape)
        return density, None if self.colour is None else found[:, 1:].reshape(*value.shape, 3)

    def greatest(
        self, low: Float[np.ndarray, "*cells"], high: Float[np.ndarray, "*cells"]
    ) -> Float[np.ndarray, "*cells"]:
        """The greatest density at any value from low to high; in NumPy, as is `least`."""
        return self._extreme(low, high, np.maximum, -np.inf)

    def least(
        self, low: Float[np.ndarray, "*cells"], high: Float[np.ndarray, "*cells"]
    ) -> Float[np.ndarray, "*cells"]:
        """The least density at any value from low to high."""
        return self._extreme(low, high, np.minimum, np.inf)

    def _extreme(self, low, high, best, worst):
        """Of a function that is linear between knots: at an end, or at a knot in between."""
        values, density = np.asarray(self.values), np.asarray(self.density)
        found = best(np.interp(low, values, density), np.interp(high, values, density))
        for knot, here in zip(values, density, strict=True):
            found = best(found, np.where((low < knot) & (knot < high), here, worst))
        return found


def _floats(values):
    """An array of real numbers, of NumPy unless it is JAX's."""
    if isinstance(values, jax.Array):
        return values
    kept = isinstance(values, np.ndarray) and values.dtype.kind == "f"
    return np.asarray(values, values.dtype if kept else np.float32)

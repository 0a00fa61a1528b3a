"""Operations that XLA compiles poorly when written plainly, and the choice of their implementation.

Every operation has a form in jnp, "xla", that runs everywhere, a hand-written gradient, which can be
differentiated again in reverse mode (`jax.jvp` is refused), and a "pallas" form with the same
gradient rule. What `choose` goes by, medians in milliseconds of float32 on two CPU cores with jax
0.10.2, forward and then the gradient (with the forward pass where it needs one):

    march_weights, 28 samples of 8192 rays                 forward   gradient
      plain: cumulative sums along each ray                   0.91       1.86
      plain: cumulative sums along the samples, axis 0        1.24       2.03
      xla                                                     0.27       0.64
      pallas (interpreted)                                    0.56       1.37

    weighted_rows, 8 corners, gradient of the table (and of table and weights)
      65536 positions, a table of 65536 x 2
        plain: sum of table[rows] * weights over corners      3.05       1.03 (4.24)
        xla                                                   0.62       1.09 (3.55)
        pallas (interpreted)                                164        211
      32768 positions, a table of 262144 x 28
        plain: sum of table[rows] * weights over corners     13.7       21.8  (42.3)
        plain, unrolled over corners                          1.70      40.8  (55.6)
        xla                                                   1.21      11.2  (35.2)

GPU and TPU: not measured yet, so "xla" there too. Pallas lowers `march_weights` for both, and
`weighted_rows` for GPU alone (`jaxnerf.kernels.interpolation` says why); neither has run there.
"""

from typing import Literal, get_args

import jax
from jaxtyping import Array, Float, Int32

from jaxnerf.kernels import compositing, interpolation
from jaxnerf.kernels.interpolation import trilinear_corners

__all__ = ["Implementation", "choose", "march_weights", "trilinear_corners", "weighted_rows"]

Implementation = Literal["xla", "pallas"]

# For each operation, the platforms on which "pallas" was measured to be the faster.
_PALLAS_IS_FASTER: dict[str, set[str]] = {"march_weights": set(), "weighted_rows": set()}


def choose(operation: str, platform: str | None = None) -> Implementation:
    """The default implementation of an operation on a platform.

    Args:
      operation: "march_weights" or "weighted_rows".
      platform: "cpu", "gpu" or "tpu"; None is JAX's default backend.

    Raises:
      ValueError: there is no such operation.

    >>> choose("march_weights", "cpu")
    'xla'
    """
    if operation not in _PALLAS_IS_FASTER:
        raise ValueError(f"choose: no operation {operation!r}; has {sorted(_PALLAS_IS_FASTER)}")
    faster = (platform or jax.default_backend()) in _PALLAS_IS_FASTER[operation]
    return "pallas" if faster else "xla"


def _known(operation: str, implementation: str | None) -> Implementation:
    if implementation is None:
        return choose(operation)
    for known in get_args(Implementation):
        if implementation == known:
            return known
    raise ValueError(
        f"{operation}: implementation must be 'xla' or 'pallas', got {implementation!r}"
    )


def march_weights(
    optical_depth: Float[Array, "K R"], *, implementation: str | None = None
) -> Float[Array, "K R"]:
    """`compositing.march_weights`: the weights of K samples, front to back, of R rays.

    Args:
      optical_depth: density times length of each sample, no unit, 0 to infinity.
      implementation: "xla" or "pallas"; None takes what `choose` says.

    Raises:
      ValueError: there is no such implementation.
    """
    return compositing.march_weights(optical_depth, _known("march_weights", implementation))


def weighted_rows(
    table: Float[Array, "V F"],
    rows: Int32[Array, "C N"],
    weights: Float[Array, "C N"],
    *,
    implementation: str | None = None,
) -> Float[Array, "N F"]:
    """`interpolation.weighted_rows`: for each of N positions, the weighted sum of C rows.

    Args:
      table: a row of F features for each lattice vertex, in the weights' dtype.
      rows: numbers of rows, from 0 to V - 1; what others give is undefined.
      weights: need not sum to 1.
      implementation: "xla" or "pallas", which on a TPU is "xla" too; None takes what `choose` says.

    Raises:
      ValueError: there is no such implementation.
    """
    chosen = _known("weighted_rows", implementation)
    return interpolation.weighted_rows(table, rows, weights, chosen)

"""The choice of an operation's implementation; what it goes by is in `jaxnerf.kernels`."""

from typing import Literal, get_args

import jax

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


def checked(operation: str, implementation: str | None) -> Implementation:
    """The implementation that was asked for, or what `choose` says.

    Raises:
      ValueError: there is no such implementation.
    """
    if implementation is None:
        return choose(operation)
    for known in get_args(Implementation):
        if implementation == known:
            return known
    raise ValueError(
        f"{operation}: implementation must be 'xla' or 'pallas', got {implementation!r}"
    )

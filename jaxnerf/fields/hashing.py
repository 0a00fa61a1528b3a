"""The spatial hash by which vertices of fine lattices share the rows of a table.

Müller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", SIGGRAPH 2022,
equation 4.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt32

from jaxnerf.kernels.interpolation import at_corners

_PRIMES = (1, 2654435761, 805459861)


def spatial_hash(
    x: UInt32[Array, "*batch"], y: UInt32[Array, "*batch"], z: UInt32[Array, "*batch"], rows: int
) -> UInt32[Array, "*batch"]:
    """The rows of vertices in a table of a number of rows that is a power of 2."""
    u, v, w = (at * jnp.uint32(prime) for at, prime in zip((x, y, z), _PRIMES, strict=True))
    return (u ^ v ^ w) & jnp.uint32(rows - 1)


def hashed_rows(lattice: Float[Array, "N 3"], rows: int) -> Int32[Array, "8 N"]:
    """The rows of the vertices around positions, in the order of `jaxnerf.kernels.trilinear_corners`.

    Args:
      lattice: positions in units of the lattice's spacing; negative ones too.
      rows: number of rows of the table, a power of 2.
    """

    def row(*vertex: Array) -> Array:
        return spatial_hash(*(at.astype(jnp.uint32) for at in vertex), rows).astype(jnp.int32)

    return at_corners(row, jnp.floor(lattice).astype(jnp.int32))

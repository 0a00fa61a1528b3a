"""The spatial hash by which vertices of fine lattices share the rows of a table.

Müller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", SIGGRAPH 2022,
equation 4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt32

_PRIMES = (1, 2654435761, 805459861)


def spatial_hash(
    x: UInt32[Array, "*batch"], y: UInt32[Array, "*batch"], z: UInt32[Array, "*batch"], rows: int
) -> UInt32[Array, "*batch"]:
    """The rows of vertices in a table of a number of rows that is a power of 2."""
    u, v, w = (at * jnp.uint32(prime) for at, prime in zip((x, y, z), _PRIMES, strict=True))
    return (u ^ v ^ w) & jnp.uint32(rows - 1)


def hashed_rows(vertices: Int32[Array, "C N 3"], rows: int) -> Int32[Array, "C N"]:
    """The rows of lattice vertices, C for each of N positions.

    A loop for the reason of `jaxnerf.kernels.interpolation.at_corners`.

    Args:
      vertices: coordinates of the vertices; negative ones too.
      rows: number of rows of the table, a power of 2.
    """

    def of_corner(corner: Array) -> Array:
        x, y, z = corner.astype(jnp.uint32).T
        return spatial_hash(x, y, z, rows).astype(jnp.int32)

    return jax.lax.map(of_corner, vertices)

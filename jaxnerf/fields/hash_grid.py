"""A multiresolution hash encoding with two small networks, as a field.

Müller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", SIGGRAPH
2022: section 3 for the encoding (the equations named below are that paper's), 5.4 for the networks.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from jaxnerf.encoding import spherical_harmonics
from jaxnerf.errors import in_range, positive
from jaxnerf.fields import Params, dense, in_precision
from jaxnerf.fields.hashing import spatial_hash
from jaxnerf.kernels import trilinear_corners, weighted_rows
from jaxnerf.kernels.interpolation import at_corners

# From this logarithm of a density on, its gradient grows no more: exp(15) is 3.3 million.
_STEEPEST = 15.0


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class HashGridField:
    """instant-ngp's field. Implements `jaxnerf.fields.Field`; the settings are its identity.

    A level is a lattice over the cube. Where its (resolution + 1)^3 vertices are no more than
    2^log2_rows, each has a row of its own; elsewhere vertices share rows by a hash. Parameters are
    {"table": [rows, features], "density": layers, "colour": layers}, coarsest level first.

    Attributes:
      levels: number of levels of the encoding.
      features: number of features per level.
      log2_rows: logarithm to base 2 of the largest number of rows of a level.
      coarsest, finest: number of cells along the cube's side on the first level and on the last.
      width: units in the hidden layers, one before density and two before colour.
      geometry: numbers handed to the colour's network beside the density's logarithm.
      sh_degree: degree of the spherical harmonics of the direction.
      side: side of the cube around the origin, in the positions' unit; 4 for contracted space. Outside
        the density is 0.
    """

    levels: int = 16
    features: int = 2
    log2_rows: int = 19
    coarsest: int = 16
    finest: int = 2048
    width: int = 64
    geometry: int = 15
    sh_degree: int = 3
    side: float = 4.0

    def __post_init__(self) -> None:
        positive(self, "coarsest")
        in_range(
            self, levels=(1, 64), features=(1, 64), width=(1, 1 << 14), geometry=(0, 1 << 14),
            sh_degree=(0, 4), log2_rows=(0, 30),
        )  # fmt: skip
        if self.finest < self.coarsest or (self.levels == 1 and self.finest != self.coarsest):
            raise ValueError(
                f"levels: no {self.levels} from {self.coarsest} to {self.finest} cells"
            )
        if not (math.isfinite(self.side) and self.side > 0.0):
            raise ValueError(f"side: {self.side} is not a positive length")
        if sum(level_rows(self)) >= 2**31:
            raise ValueError("log2_rows: rows are numbered by 31 bits")

    def init(self, key: PRNGKeyArray) -> Params:
        """A table uniform in ±1e-4; He et al.'s normal kernels (ICCV 2015) and zero biases."""
        return _initial(self, key)

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """Density, the exponential of the first network's first output; all outputs as features."""
        shape = positions.shape[:-1]
        flat = positions.reshape(-1, 3)
        unit = jnp.clip(flat / self.side + 0.5, 0.0, 1.0)
        table = in_precision(params["table"], unit.dtype)
        outputs = _network(params["density"], _encode(self, table, unit))
        # Written so that a position that is not a number is not taken for empty space.
        outside = jnp.any(jnp.abs(flat) > self.side / 2, axis=-1)
        density = jnp.where(outside, 0.0, _exponential(outputs[:, 0]))
        return density.reshape(shape), outputs.reshape(*shape, 1 + self.geometry)

    def colour(
        self,
        params: Params,
        features: Float[Array, "*batch F"],
        view_directions: Float[Array, "*batch 3"],
    ) -> Float[Array, "*batch 3"]:
        """RGB from the first network's outputs and the direction."""
        encoded = spherical_harmonics(view_directions, self.sh_degree)
        inputs = jnp.concatenate([features, encoded], axis=-1)
        return jax.nn.sigmoid(_network(params["colour"], inputs))


def resolutions(field: HashGridField) -> tuple[int, ...]:
    """Cells along the cube on each level: equations 2 and 3.

    >>> resolutions(HashGridField(levels=6, coarsest=16, finest=512))
    (16, 32, 64, 128, 256, 512)
    """
    growth = (field.finest / field.coarsest) ** (1.0 / max(field.levels - 1, 1))
    # A power that is a whole number must not be rounded to less than it.
    return tuple(
        math.floor(field.coarsest * growth**level * (1.0 + 1e-12)) for level in range(field.levels)
    )


def level_rows(field: HashGridField) -> tuple[int, ...]:
    """Rows of the table on each level."""
    return tuple(min((cells + 1) ** 3, 1 << field.log2_rows) for cells in resolutions(field))


def corner_rows(field: HashGridField, unit: Float[Array, "N 3"]) -> Int32[Array, "8 L N"]:
    """Rows of the table of the lattice vertices around positions, on each level.

    Args:
      field: for its settings.
      unit: positions in the unit cube. Corners beyond the upper face, which have weight 0 there, are
        given the rows of the face.
    """
    cells = np.array(resolutions(field), np.int32)[:, None]
    counts = np.array(level_rows(field), np.int64)
    starts = (np.cumsum(counts) - counts).astype(np.int32)[:, None]
    stored = (cells.astype(np.int64) + 1) ** 3 <= 1 << field.log2_rows
    vertices = (cells + 1).astype(np.uint32)

    def row(*vertex: Array) -> Array:
        corners = [jnp.clip(at, 0, cells).astype(jnp.uint32) for at in vertex]
        x, y, z = corners
        counted = (x * vertices + y) * vertices + z
        hashed = spatial_hash(x, y, z, 1 << field.log2_rows)
        return jnp.where(stored, counted, hashed).astype(jnp.int32) + starts

    return at_corners(row, jnp.floor(_lattice(field, unit)).astype(jnp.int32))


def _lattice(field: HashGridField, unit: Array) -> Array:
    """Positions [L, N, 3] in units of each level's spacing."""
    return unit[None] * jnp.asarray(resolutions(field), unit.dtype)[:, None, None]


def _encode(field: HashGridField, table: Array, unit: Array) -> Array:
    """Interpolated features [N, levels x features], of one gather for all levels."""
    count = field.levels * unit.shape[0]
    _, weights = trilinear_corners(_lattice(field, unit).reshape(count, 3))
    rows = corner_rows(field, unit).reshape(8, count)
    values = weighted_rows(table, rows, weights)
    values = values.reshape(field.levels, unit.shape[0], field.features).transpose(1, 0, 2)
    return values.reshape(unit.shape[0], field.levels * field.features)


@functools.partial(jax.jit, static_argnums=0)
def _initial(field: HashGridField, key: Array) -> Params:
    outputs = 1 + field.geometry
    inputs = outputs + (field.sh_degree + 1) ** 2
    table_key, density_key, colour_key = jax.random.split(key, 3)
    shape = (sum(level_rows(field)), field.features)
    return {
        "table": jax.random.uniform(table_key, shape, jnp.float32, -1e-4, 1e-4),
        "density": _layers(density_key, [field.levels * field.features, field.width, outputs]),
        "colour": _layers(colour_key, [inputs, field.width, field.width, 3]),
    }


def _layers(key: Array, sizes: list[int]) -> list[Any]:
    kernel = jax.nn.initializers.he_normal()
    return [
        {"kernel": kernel(each, pair, jnp.float32), "bias": jnp.zeros(pair[1], jnp.float32)}
        for each, pair in zip(
            jax.random.split(key, len(sizes) - 1), itertools.pairwise(sizes), strict=True
        )
    ]


def _network(layers: Any, inputs: Array) -> Array:
    *inner, last = in_precision(layers, inputs.dtype)
    for layer in inner:
        inputs = jax.nn.relu(dense(layer, inputs))
    return dense(last, inputs)


@jax.custom_jvp
def _exponential(raw: Array) -> Array:
    """The exponential, with a gradient that stays finite."""
    return jnp.exp(raw)


@_exponential.defjvp
def _exponential_jvp(primals, tangents):
    (raw,), (tangent,) = primals, tangents
    return _exponential(raw), tangent * jnp.exp(jnp.minimum(raw, _STEEPEST))

"""The fast field: sparse voxels with a little network for what depends on the direction.

Space is a lattice of points, kept in bricks of 4 x 4 x 4 where something is. A point holds the logit
of a density and three features (in the order of a colour); between points they are interpolated
trilinearly. The renderer adds the features up along a ray first and asks for the colour once a ray
(deferred shading: Hedman et al., "Baking Neural Radiance Fields", ICCV 2021, section 4).
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxnerf.encoding import spherical_harmonics
from jaxnerf.fields import Params
from jaxnerf.kernels.interpolation import trilinear_corners, weighted_rows
from jaxnerf.occupancy import dilate

BRICK = 4
_BITS = 2
_ROWS = BRICK**3
# The logit of the density in bricks that do not exist: none.
_NOTHING = -15.0
# As low as a logit sinks: from there a gradient can still be felt.
_SUNK = -12.0
# Tables are padded to a multiple of this, so that programs compiled for one often serve another.
_PADDING = 1 << 14


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VoxelParams:
    """What a `VoxelField` learns, and the structure that it learns on. A pytree.

    Attributes:
      bricks: by position, the number of a brick in the table; 0 where there is none.
      table: rows of (logit of density, features), 64 a brick; the first 64 stand for nothing.
      network: weights and biases of the layers that see the direction.
      origin: the first lattice point. It does not learn.
      voxel: the distance of lattice points. It does not learn.
      directional: how much of the direction the network is told; 0 is none. It does not learn.
    """

    bricks: Int[Array, "X Y Z"]
    table: Float[Array, "V F+1"]
    network: Any
    origin: Float[Array, "3"]
    voxel: Float[Array, ""]
    directional: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class VoxelField:
    """Sparse voxels. Implements `jaxnerf.fields.Field`; the settings are its identity.

    Attributes:
      features: numbers a lattice point beside its density, at least 3: the first three are a colour's
        logits, to which the network adds what it knows of the direction.
      width: units in each of the network's two hidden layers.
      direction_degree: degree of the spherical harmonics of the direction.
      initial_opacity: of one voxel, before training.
      density_rate, feature_rate, network_rate: learning rates of the parts.
      shading: whether the network is asked once a "ray", or at each "sample".
    """

    features: int = 3
    width: int = 32
    direction_degree: int = 2
    initial_opacity: float = 0.03
    density_rate: float = 0.7
    feature_rate: float = 0.1
    network_rate: float = 1e-2
    shading: Literal["sample", "ray"] = "ray"

    def init(self, key: PRNGKeyArray) -> Params:
        """A field of one brick in the unit cube; `from_cells` makes those for a scene."""
        return self.from_cells(key, np.ones((1, 1, 1), bool), np.zeros(3, np.float32), 1.0, 1.0)

    def from_cells(
        self,
        key: PRNGKeyArray,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
        voxel: float,
    ) -> VoxelParams:
        """Parameters before training, with bricks wherever a cell needs one.

        Args:
          key: for the network and the features.
          cells: which of a cube's cells may hold something.
          origin, cell: the corner of the cube, and the side of a cell.
          voxel: the distance of lattice points.
        """
        bricks, count = brick_index(cells, cell / voxel)
        table, network = _initial(self, _padded(count), key)
        return VoxelParams(
            bricks=jnp.asarray(bricks),
            table=table,
            network=network,
            origin=jnp.asarray(origin, jnp.float32),
            voxel=jnp.asarray(voxel, jnp.float32),
            directional=jnp.zeros(()),
        )

    def points(self, cells: Bool[np.ndarray, "M M M"], voxels_a_cell: float) -> int:
        """How many lattice points `from_cells` or `refine` would keep for these cells.

        Args:
          cells: as there.
          voxels_a_cell: the side of a cell in voxels.
        """
        return _ROWS * brick_index(cells, voxels_a_cell)[1]

    def density(
        self, params: VoxelParams, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """Density, softplus of the interpolated logit a voxel; and the interpolated features."""
        shape, voxel = positions.shape[:-1], jax.lax.stop_gradient(params.voxel)
        origin = jax.lax.stop_gradient(params.origin)
        lattice = (positions.reshape(-1, 3) - origin[None, :]) / voxel
        values = _values(params.bricks, params.table, lattice)
        density = jax.nn.softplus(values[:, 0]) / voxel
        return density.reshape(shape), values[:, 1:].reshape(*shape, self.features)

    def colour(
        self,
        params: VoxelParams,
        features: Float[Array, "*batch F"],
        view_directions: Float[Array, "*batch 3"],
    ) -> Float[Array, "*batch 3"]:
        """RGB from features (of a point, or the mean along a ray) and the direction."""
        encoded = spherical_harmonics(view_directions, self.direction_degree)
        hidden = jnp.concatenate(
            [features, jax.lax.stop_gradient(params.directional) * encoded], axis=-1
        )
        *inner, last = params.network
        for layer in inner:
            hidden = jax.nn.relu(_dense(layer, hidden))
        return jax.nn.sigmoid(_dense(last, hidden) + features[..., :3])

    def rates(self, params: VoxelParams) -> VoxelParams:
        """Learning rates, each broadcastable to its leaf; None for what has no gradient."""
        table = np.full(1 + self.features, self.feature_rate, np.float32)
        table[0] = self.density_rate
        zero = np.float32(0.0)
        rates: dict[str, Any] = {
            "bricks": None,
            "table": table[None, :],
            "network": jax.tree.map(lambda _: np.float32(self.network_rate), params.network),
            "origin": zero,
            "voxel": zero,
            "directional": zero,
        }
        return VoxelParams(**rates)

    def refine(
        self,
        params: VoxelParams,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
        voxel: float,
    ) -> VoxelParams:
        """The same field on another lattice: finer, or with bricks only where cells hold something.

        From now on the network is told the whole direction. (Colours that depend on it are learned
        worse while there is no geometry yet, and hinder that.)

        Args:
          params: of this field.
          cells, origin, cell: as in `from_cells`.
          voxel: the new distance of lattice points.
        """
        bricks, count = brick_index(cells, cell / voxel)
        points = lattice_points(bricks)
        rows = _padded(count)
        before, scale = float(params.voxel), np.float32(voxel)
        world = points * scale + np.asarray(origin, np.float32)
        lattice = np.zeros((rows, 3), np.float32)
        lattice[: len(points)] = (world - np.asarray(params.origin)) / np.float32(before)
        # A part after the other: the rows around all new points at once would be a run's most memory.
        here = jnp.asarray(params.bricks), jnp.asarray(params.table)
        parts = np.split(lattice, max(rows // _PADDING, 1))
        values = np.concatenate([np.asarray(_resample(*here, part)) for part in parts])
        # The same density is another logit where the voxel is another.
        opacity = np.maximum(np.logaddexp(0.0, values[:, 0]) * (voxel / before), 1e-6)
        values[:, 0] = np.where(opacity > 20.0, opacity, np.log(np.expm1(np.minimum(opacity, 20))))
        values[:_ROWS], values[:_ROWS, 0] = 0.0, _NOTHING
        return dataclasses.replace(
            params,
            bricks=jnp.asarray(bricks),
            table=jnp.asarray(values),
            origin=jnp.asarray(origin, jnp.float32),
            voxel=jnp.asarray(voxel, jnp.float32),
            directional=jnp.ones(()),
        )

    def clear(
        self,
        params: VoxelParams,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
    ) -> VoxelParams:
        """The same field with nothing where no cell is: what is skipped there is then not missed.

        In the cells it does not change, and fades from there within a voxel.

        Args:
          params: of this field.
          cells, origin, cell: as in `from_cells`.
        """
        voxel = float(params.voxel)
        reached = cells
        for _ in range(int(np.ceil(voxel / cell - 1e-4))):
            reached = dilate(reached)
        world = lattice_points(np.asarray(params.bricks)) * np.float32(voxel)
        world += np.asarray(params.origin) - np.asarray(origin, np.float32)
        index = np.floor(world / np.float32(cell)).astype(np.int32)
        x, y, z = np.clip(index, 0, cells.shape[0] - 1).T
        table = np.array(params.table)
        table[: len(world)][~reached[x, y, z], 0] = _NOTHING
        return dataclasses.replace(params, table=jnp.asarray(table))

    def sink(self, params: VoxelParams, share: Float[Array, ""]) -> VoxelParams:
        """The same field with lower logits of density, by a share of their learning rate.

        As decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR
        2019) this is outside of Adam, which would make as much of it as of the photographs wherever
        these say little.
        """
        table = params.table
        # All columns, and one chosen: to put the sunk one before the others costs another pass or two.
        sunk = jnp.maximum(table - share * self.density_rate, jnp.minimum(table, _SUNK))
        table = jnp.where(jnp.arange(table.shape[1])[None, :] == 0, sunk, table)
        return dataclasses.replace(params, table=table)


def brick_index(
    cells: Bool[np.ndarray, "M M M"], voxels_a_cell: float
) -> tuple[Int[np.ndarray, "X Y Z"], int]:
    """Number the bricks that the corners of cells need.

    Args:
      cells: which cells are occupied.
      voxels_a_cell: the side of a cell in voxels.

    Returns:
      For every position of a brick its number, from 1, or 0; and how many there are.
    """
    # One more lattice point than voxels, and one that a position on the last wall asks for.
    side = (int(np.ceil(cells.shape[0] * voxels_a_cell)) + 2 + BRICK - 1) // BRICK + 1
    needed = np.zeros((side,) * 3, bool)
    occupied = np.argwhere(cells)
    first = np.floor(occupied * voxels_a_cell).astype(int) // BRICK
    last = (np.floor((occupied + 1) * voxels_a_cell - 1e-6).astype(int) + 1) // BRICK
    for corner in np.ndindex(2, 2, 2):
        chosen = np.where(corner, last, first)
        needed[chosen[:, 0], chosen[:, 1], chosen[:, 2]] = True
    numbers = np.zeros(needed.shape, np.int32)
    count = int(needed.sum())
    numbers[needed] = 1 + np.arange(count, dtype=np.int32)
    return numbers, count


def lattice_points(bricks: Int[np.ndarray, "X Y Z"]) -> np.ndarray:
    """The lattice coordinates of every row of the table; those of the first 64 mean nothing."""
    digits = np.arange(BRICK, dtype=np.float32)
    inside = np.stack(np.meshgrid(digits, digits, digits, indexing="ij"), -1).reshape(-1, 3)
    places = np.argwhere(bricks > 0).astype(np.float32)
    points = np.zeros((1 + len(places), _ROWS, 3), np.float32)
    np.add(places[:, None] * BRICK, inside[None], out=points[1:])
    return points.reshape(-1, 3)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _initial(field: VoxelField, rows: int, key: PRNGKeyArray) -> tuple[Array, Any]:
    """A table and a network before training: He et al., "Delving Deep into Rectifiers", ICCV 2015."""
    inputs = field.features + (field.direction_degree + 1) ** 2
    sizes = [inputs, field.width, field.width, 3]
    shapes = [(rows, field.features), *itertools.pairwise(sizes)]
    ends = np.cumsum([m * n for m, n in shapes])
    # Of one draw: each is compiled for itself, and four take a second and a half.
    drawn = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    features, *kernels = (part.reshape(shape) for part, shape in zip(drawn, shapes, strict=True))
    logit = np.log(np.expm1(field.initial_opacity))
    density = jnp.where(jnp.arange(rows) < _ROWS, _NOTHING, logit).astype(jnp.float32)
    network = [
        {"kernel": kernel * (math.sqrt(2.0 / m) * (0.1 if n == 3 else 1.0)), "bias": jnp.zeros(n)}
        for kernel, (m, n) in zip(kernels, shapes[1:], strict=True)
    ]
    return jnp.concatenate([density[:, None], 0.1 * features], axis=1), network


def _padded(bricks: int) -> int:
    rows = _ROWS * (1 + bricks)
    return -(-rows // _PADDING) * _PADDING if rows > _PADDING else rows


def _values(bricks: Array, table: Array, lattice: Array) -> Array:
    _, weights = trilinear_corners(lattice)
    return weighted_rows(table, _corner_rows(bricks, lattice), weights)


_resample = jax.jit(_values)


def _corner_rows(bricks: Array, lattice: Array) -> Array:
    """The rows [8, N] of the lattice points around positions; those of nothing outside.

    As a loop over the corners because XLA:CPU would otherwise fuse this into the gathers of the table
    and do it again for each of a row's numbers: 1.1 ms instead of 4.9 for 32,768 positions.
    """
    lower = jnp.floor(lattice).astype(jnp.int32)

    def rows(_, digits):
        number, local, inside = jnp.int32(0), jnp.int32(0), True
        for axis, size in enumerate(bricks.shape):
            corner = lower[:, axis] + digits[axis]
            inside &= (corner >= 0) & (corner < size * BRICK)
            corner = jnp.clip(corner, 0, size * BRICK - 1)
            number = number * size + (corner >> _BITS)
            local = (local << _BITS) + (corner & (BRICK - 1))
        return None, jnp.where(inside, bricks.reshape(-1)[number], 0) * _ROWS + local

    digits = jnp.asarray(list(np.ndindex(2, 2, 2)), jnp.int32)
    return jax.lax.scan(rows, None, digits)[1]


def _dense(layer: Any, inputs: Array) -> Array:
    outputs = inputs @ layer["kernel"]
    return outputs + layer["bias"].reshape((1,) * (outputs.ndim - 1) + (-1,))

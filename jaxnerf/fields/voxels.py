"""The fast field: sparse voxels, with a small network for view dependence.

The field is a lattice, stored in bricks of 4 x 4 x 4 vertices where the scene may be. Each vertex
has a density logit and features, of which the first three are the logits of a colour; both are
interpolated trilinearly. By default features are accumulated along each ray first, and the network is
evaluated once per ray (deferred shading: Hedman et al., "Baking Neural Radiance Fields", ICCV 2021,
section 4).

A finer lattice, the detail, can be added to the values of the first. It has no bricks: its vertices share
the rows of a hash table, as on the fine levels of Müller et al., "Instant Neural Graphics Primitives",
SIGGRAPH 2022. Of vertices that share a row those that rays see most often determine it, since their
gradients add up to more. It is interpolated in tetrahedra, which costs half of a trilinear interpolation.
Where the bricks have no density, nothing is added.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxnerf.encoding import spherical_harmonics
from jaxnerf.errors import in_range, positive
from jaxnerf.fields import dense, in_precision
from jaxnerf.fields.bricks import (
    BRICK,
    ROWS,
    ROWS_AT_ONCE,
    brick_index,
    corner_rows,
    padded_rows,
    parts_of_lattice,
)
from jaxnerf.fields.hashing import hashed_rows
from jaxnerf.kernels import trilinear_corners, weighted_rows
from jaxnerf.kernels.interpolation import tetrahedral_corners
from jaxnerf.kernels.memory import returning_freed
from jaxnerf.sampling.occupancy import dilate

# The density logit where there are no bricks: softplus(-15) is 3e-7 per voxel.
_NOTHING = -15.0
# The detail begins to be added where the logit is this, of which the opacity of a voxel is 1/8000, and is
# added in full where the logit is larger by _FADE.
_DETAIL_FROM, _FADE = -9.0, 3.0
# The lower limit of density decay: from there the gradient of softplus can still raise the logit.
_LEAST_LOGIT = -12.0


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VoxelParams:
    """The parameters of a `VoxelField`. A pytree.

    Attributes:
      table: a row (density logit, features) for each lattice vertex, 64 rows per brick. The first 64 rows
        are brick 0, which stands for space without bricks and has no density.
      network: weights and biases of the layers of the colour network.
      detail: the rows of the detail's hash table, which are added to the interpolated rows of `table`.
        None if the settings have no detail; a single row, which is not read, before `begin_detail`.
    """

    table: Float[Array | np.ndarray, "V F+1"]
    network: Any
    detail: Float[Array | np.ndarray, "H F+1"] | None = None


@dataclasses.dataclass(frozen=True)
class VoxelSettings:
    """The sizes of a `VoxelField`.

    Attributes:
      features: number of features of a lattice vertex, besides its density; at least 3. The first three
        are the logits of a colour, to which the output of the network is added.
      width: units in each of the network's two hidden layers.
      sh_degree: degree of the spherical harmonics that encode the view direction.
      initial_opacity: opacity of one voxel before training.
      shading: whether the network is evaluated once per "ray" or for each "sample".
      log2_detail: logarithm to base 2 of the number of rows of the detail's hash table; 0 for no detail.
        In training the detail begins with the last stage.
      detail_finer: number of the detail's voxels along the side of a voxel.
    """

    features: int = 3
    width: int = 32
    sh_degree: int = 2
    initial_opacity: float = 0.03
    shading: Literal["sample", "ray"] = "ray"
    log2_detail: int = 0
    detail_finer: int = 2

    def __post_init__(self) -> None:
        positive(self, "width", "initial_opacity")
        in_range(
            self, features=(3, 1 << 10), sh_degree=(0, 4), initial_opacity=(0.0, 0.99),
            log2_detail=(0, 30), detail_finer=(1, 16),
        )  # fmt: skip


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VoxelField:
    """Sparse voxels. Implements `jaxnerf.fields.Field`. A pytree: all but the settings are leaves.

    Attributes:
      bricks: for each position of a brick in space, its index in the table; 0 where there is none.
      origin: position of the first lattice vertex.
      spacing: distance between lattice vertices, the side of a voxel; a scalar array.
      view_dependence: factor of the encoded direction in the network's input, a scalar array. The first
        stage of training uses 0: view-dependent colours hinder the learning of geometry there.
      settings: sizes; static.
    """

    bricks: Int[Array | np.ndarray, "X Y Z"]
    origin: Float[Array | np.ndarray, "3"]
    spacing: Any
    view_dependence: Any
    settings: VoxelSettings = dataclasses.field(default=VoxelSettings(), metadata={"static": True})

    @classmethod
    def on_lattice(
        cls,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
        spacing: float,
        settings: VoxelSettings = VoxelSettings(),
        view_dependence: float = 1.0,
    ) -> "VoxelField":
        """A field with bricks for all lattice vertices in or on the boundary of given cells.

        Args:
          cells: a mask of the cells of a cube that may be occupied.
          origin, cell: the lowest corner of the cube, and the side of a cell.
          spacing: the distance between lattice vertices.
          settings, view_dependence: see the attributes.
        """
        bricks, _ = brick_index(cells, cell / spacing)
        return cls(
            bricks=bricks,
            origin=np.asarray(origin, np.float32),
            spacing=np.float32(spacing),
            view_dependence=np.float32(view_dependence),
            settings=settings,
        )

    @classmethod
    def in_unit_cube(cls, settings: VoxelSettings = VoxelSettings()) -> "VoxelField":
        """A field of one voxel: the smallest there is."""
        one = np.ones((1, 1, 1), bool)
        return cls.on_lattice(one, np.zeros(3, np.float32), 1.0, 1.0, settings)

    @property
    def shading(self) -> str:
        """Whether the network is evaluated once a "ray", or at each "sample"; see the settings."""
        return self.settings.shading

    def init(self, key: PRNGKeyArray) -> VoxelParams:
        """Parameters before training, on this field's lattice.

        Raises:
          TypeError: the lattice is being traced, so that how many bricks it has is not known.
        """
        if isinstance(self.bricks, Tracer):
            raise TypeError("VoxelField.init: needs the lattice's numbers; do not trace the field")
        table, network = _initial(self.settings, padded_rows(int(np.max(self.bricks))), key)
        return VoxelParams(table, network, self._unread_detail())

    def density(
        self, params: VoxelParams, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """Density, softplus(interpolated logit) / spacing; and the interpolated features."""
        shape = positions.shape[:-1]
        origin, spacing = (
            jax.lax.stop_gradient(jnp.asarray(x, positions.dtype))
            for x in (self.origin, self.spacing)
        )
        lattice = (positions.reshape(-1, 3) - origin[None, :]) / spacing
        values = _values(self.settings, jnp.asarray(self.bricks), params, lattice)
        density = jax.nn.softplus(values[:, 0]) / spacing
        return density.reshape(shape), values[:, 1:].reshape(*shape, self.settings.features)

    def colour(
        self,
        params: VoxelParams,
        features: Float[Array, "*batch F"],
        view_directions: Float[Array, "*batch 3"],
    ) -> Float[Array, "*batch 3"]:
        """RGB from features (of a point, or the mean along a ray) and the direction."""
        encoded = spherical_harmonics(view_directions, self.settings.sh_degree)
        told = jax.lax.stop_gradient(jnp.asarray(self.view_dependence, encoded.dtype)) * encoded
        hidden = jnp.concatenate([features, told], axis=-1)
        *inner, last = in_precision(params.network, hidden.dtype)
        for layer in inner:
            hidden = jax.nn.relu(dense(layer, hidden))
        return jax.nn.sigmoid(dense(last, hidden) + features[..., :3])

    @returning_freed()
    def resample(
        self,
        params: VoxelParams,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
        spacing: float,
    ) -> "tuple[VoxelField, VoxelParams]":
        """Resample the field onto another lattice: finer, or with bricks in other cells.

        The new field has view_dependence 1. Its table has the values of the old field with detail at its
        vertices, and its own detail has not begun.

        Args:
          params: the field's parameters.
          cells, origin, cell, spacing: the new lattice, as in `on_lattice`.
        """
        after = VoxelField.on_lattice(cells, origin, cell, spacing, self.settings)
        before, own = float(self.spacing), np.asarray(self.origin)
        here = self.settings, jnp.asarray(self.bricks), jax.tree.map(jnp.asarray, params)
        rows = padded_rows(int(np.max(after.bricks)))
        values = np.zeros((rows, params.table.shape[-1]), np.float32)
        lattice = np.zeros((min(rows, ROWS_AT_ONCE), 3), np.float32)
        # In parts: the corner rows of all new vertices at once would be a run's peak of memory.
        for start, vertices in parts_of_lattice(np.asarray(after.bricks)):
            world = vertices * np.float32(spacing) + np.asarray(origin, np.float32)
            lattice[: len(vertices)] = (world - own) / np.float32(before)
            found = np.asarray(_resample(*here, lattice))
            values[start : start + len(vertices)] = found[: len(vertices)]
        # Density is softplus(logit) / spacing, so with another spacing it has another logit.
        opacity = np.maximum(np.logaddexp(0.0, values[:, 0]) * (spacing / before), 1e-6)
        values[:, 0] = np.where(opacity > 20.0, opacity, np.log(np.expm1(np.minimum(opacity, 20))))
        values[:ROWS], values[:ROWS, 0] = 0.0, _NOTHING
        return after, VoxelParams(jnp.asarray(values), params.network, self._unread_detail())

    def _unread_detail(self) -> Array | None:
        return jnp.zeros((1, 1 + self.settings.features)) if self.settings.log2_detail else None

    def begin_detail(self, params: VoxelParams) -> VoxelParams:
        """Parameters with a detail of zeros, if the settings have one: the field does not change."""
        if not self.settings.log2_detail:
            return params
        rows = 1 << self.settings.log2_detail
        return dataclasses.replace(params, detail=jnp.zeros((rows, 1 + self.settings.features)))

    def prune(
        self,
        params: VoxelParams,
        cells: Bool[np.ndarray, "M M M"],
        origin: Float[np.ndarray, "3"],
        cell: float,
    ) -> VoxelParams:
        """Parameters with the density outside of cells removed, so that the occupancy may skip it.

        Inside the cells the field does not change. Outside, density falls to 0 within one voxel.

        Args:
          params: the field's parameters.
          cells, origin, cell: as in `on_lattice`.
        """
        spacing = float(self.spacing)
        reached = cells
        for _ in range(int(np.ceil(spacing / cell - 1e-4))):
            reached = dilate(reached)
        table = np.array(params.table)
        for start, vertices in parts_of_lattice(np.asarray(self.bricks)):
            world = vertices * np.float32(spacing)
            world += np.asarray(self.origin) - np.asarray(origin, np.float32)
            index = np.floor(world / np.float32(cell)).astype(np.int32)
            x, y, z = np.clip(index, 0, cells.shape[0] - 1).T
            table[start : start + len(vertices)][~reached[x, y, z], 0] = _NOTHING
        return dataclasses.replace(params, table=jnp.asarray(table))


def smoothed(field: VoxelField, params: VoxelParams, by: Float[Array, ""]) -> VoxelParams:
    """Smooth parameters: move the values at each lattice vertex towards the mean of its six neighbours.

    A step of diffusion without flux across the boundary of the lattice. Where many rays sample the field,
    their gradients outweigh it. Where few photographs see a place, it spreads what only one of them
    supports, and continues the surroundings. Like density decay it is decoupled from Adam, which scales
    gradients by their own size: in rows that few rays sample, the gradient of a total-variation loss
    would move parameters as much as that of the photographs does.

    Args:
      field: the field, for its lattice.
      params: its parameters.
      by: fraction of the way to the mean, from 0 to 1.
    """
    table, bricks = params.table, jnp.pad(jnp.asarray(field.bricks), 1)
    count, flat = table.shape[0] // ROWS, bricks.reshape(-1)
    # The position of each brick, and 0, in the empty border, of rows that no brick has.
    place = jnp.zeros(count, jnp.int32).at[flat].set(jnp.arange(flat.size, dtype=jnp.int32))
    known = (place > 0) & (jnp.arange(count, dtype=jnp.int32) > 0)
    strides = bricks.shape[1] * bricks.shape[2], bricks.shape[2], 1
    values = table.reshape(count, BRICK, BRICK, BRICK, -1)

    def beside(axis: int, step: int) -> Array:
        """The values of each point's neighbour along an axis; the point's own where there is none."""
        near = flat[jnp.where(known, place + step * strides[axis], 0)]
        part = functools.partial(jax.lax.slice_in_dim, values, axis=axis + 1)
        first, last = part(0, 1), part(BRICK - 1, BRICK)
        own, other = (last, first) if step > 0 else (first, last)
        face = jnp.where((near > 0).reshape(-1, 1, 1, 1, 1), other[near], own)
        both = [part(1, BRICK), face] if step > 0 else [face, part(0, BRICK - 1)]
        return jnp.concatenate(both, axis=axis + 1)

    total = (
        beside(0, -1) + beside(0, 1) + beside(1, -1) + beside(1, 1) + beside(2, -1) + beside(2, 1)
    )
    moved = values + by * (total / 6.0 - values)
    table = jnp.where(known.reshape(-1, 1, 1, 1, 1), moved, values).reshape(table.shape)
    return dataclasses.replace(params, table=table)


def decay_density(params: VoxelParams, by: Float[Array, ""]) -> VoxelParams:
    """Subtract a number from all density logits, down to a lower limit.

    Like decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR
    2019) this is not part of the gradient that Adam scales: in rows that few rays sample, Adam would move
    the logits as much by the decay as by the photographs.
    """
    table = params.table
    # Decay all columns and select one: concatenating the decayed column costs one or two more passes.
    lower = jnp.maximum(table - by, jnp.minimum(table, _LEAST_LOGIT))
    column = jnp.arange(table.shape[-1]).reshape((1,) * (table.ndim - 1) + (-1,))
    table = jnp.where(column == 0, lower, table)
    return dataclasses.replace(params, table=table)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _initial(settings: VoxelSettings, rows: int, key: PRNGKeyArray) -> tuple[Array, Any]:
    """A table and a network before training: He et al., "Delving Deep into Rectifiers", ICCV 2015."""
    inputs = settings.features + (settings.sh_degree + 1) ** 2
    sizes = [inputs, settings.width, settings.width, 3]
    shapes = [(rows, settings.features), *itertools.pairwise(sizes)]
    ends = np.cumsum([m * n for m, n in shapes])
    # One draw for all arrays: each draw is compiled separately, and four take 1.5 s.
    drawn = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    features, *kernels = (part.reshape(shape) for part, shape in zip(drawn, shapes, strict=True))
    logit = np.log(np.expm1(settings.initial_opacity))
    density = jnp.where(jnp.arange(rows) < ROWS, _NOTHING, logit).astype(jnp.float32)
    network = [
        {"kernel": kernel * (math.sqrt(2.0 / m) * (0.1 if n == 3 else 1.0)), "bias": jnp.zeros(n)}
        for kernel, (m, n) in zip(kernels, shapes[1:], strict=True)
    ]
    return jnp.concatenate([density[:, None], 0.1 * features], axis=1), network


def has_detail(params: VoxelParams) -> bool:
    """Whether parameters have a detail that has begun."""
    return params.detail is not None and params.detail.shape[-2] > 1


def _values(settings: VoxelSettings, bricks: Array, params: VoxelParams, lattice: Array) -> Array:
    _, weights = trilinear_corners(lattice)
    table, rows = in_precision(params.table, lattice.dtype), corner_rows(bricks, lattice)
    values = weighted_rows(table, rows, weights)
    if not has_detail(params):
        return values
    detail = in_precision(params.detail, lattice.dtype)
    vertices, weights = tetrahedral_corners(lattice * settings.detail_finer)
    added = weighted_rows(detail, hashed_rows(vertices, detail.shape[0]), weights)
    # Empty space stays empty, whatever the vertices that share the rows there.
    full = jnp.clip((values[:, :1] - _DETAIL_FROM) / _FADE, 0.0, 1.0)
    return values + full * added


_resample = jax.jit(_values, static_argnums=0)

"""A scanner's volume: an array of values, a matrix that places it, and a transfer function."""

import dataclasses
import math
from typing import Any, Literal, get_args, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxnerf.fields.transfer import TransferFunction
from jaxnerf.fields.volume_cells import cells_of
from jaxnerf.kernels import weighted_rows
from jaxnerf.kernels.interpolation import take_rows
from jaxnerf.kernels.memory import computed_once
from jaxnerf.sampling.occupancy import Occupancy

Interpolation = Literal["trilinear", "nearest"]
# Rows are numbered by 32-bit integers; and a picture takes a copy of the array for each device.
MOST_VOXELS, MOST_BYTES = (1 << 31) - 1, 1 << 32
# Of a voxel's sides as vectors: the volume that they span, of what it were at right angles.
_LEAST_DETERMINANT = 1e-6


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VolumeParams:
    """The parameters of a `VolumeField`: all its arrays of floating-point numbers. A pytree.

    Attributes:
      values: values of the voxels; None if they are integers, which have no gradient.
      colours: colours of the voxels, in [0, 1]; None if they are integers, or if there are none.
      transfer: the transfer function, or None.
    """

    values: Float[Array | np.ndarray, "X Y Z"] | None = None
    colours: Float[Array | np.ndarray, "X Y Z 3"] | None = None
    transfer: TransferFunction | None = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VolumeField:
    """A volume on a lattice of voxels. Implements `jaxnerf.fields.Field`. A pytree; see `from_array`.

    Voxel (i, j, k) fills the lattice from i - 1/2 to i + 1/2 and so on, and has its value in its middle,
    which the matrix takes to the world. Between middles values are interpolated, from the last ones to
    the array's faces they stay what they are, and outside of the array density is 0.

    A value becomes a density by the transfer function, after it was interpolated. Without one the
    value is the density, and a negative value is none. Features are the value and, where the volume has
    any colours, the colour: [..., 1] or [..., 4], so that `extras` can show what was measured.

    Attributes:
      to_world: the matrix that takes an index (i, j, k, 1) to the world. A leaf, in which density and
        colour are differentiable.
      values, colours: those of the voxels if they are integers; others are in `VolumeParams`.
      transfer: the transfer function that `init` begins with.
      shape, interpolation, dtype, colour_dtype: static; colour_dtype is "" where voxels have no colours.
    """

    to_world: Float[Array | np.ndarray, "4 4"]
    values: Any = None
    colours: Any = None
    transfer: TransferFunction | None = None
    shape: tuple[int, int, int] = dataclasses.field(default=(1, 1, 1), metadata={"static": True})
    interpolation: Interpolation = dataclasses.field(default="trilinear", metadata={"static": True})
    dtype: str = dataclasses.field(default="float32", metadata={"static": True})
    colour_dtype: str = dataclasses.field(default="", metadata={"static": True})

    @classmethod
    def from_array(
        cls,
        density: Any,
        colour: Any = None,
        transfer: TransferFunction | None = None,
        to_world: Any = None,
        interpolation: Interpolation = "trilinear",
    ) -> "tuple[VolumeField, VolumeParams]":
        """The field of an array, and its parameters.

        Arrays are kept in their own dtype. Those of floating-point numbers are in the parameters, those
        of integers leaves of the field, so that `jax.grad` works on the parameters of any volume.

        Args:
          density: [X, Y, Z] of real numbers: densities in 1/length or, with a transfer function, values.
          colour: [X, Y, Z, 3], RGB in [0, 1] or unsigned integers, of which the greatest is 1. By default
            the transfer function's, or white.
          transfer: the transfer function from a value to density and colour.
          to_world: [4, 4]; see the attributes. By default voxels are unit cubes, the first one around 0.
          interpolation: "trilinear" or "nearest".

        Raises:
          ValueError: the array does not have three dimensions, holds what is not finite, or is too
            large; a colour is out of range; the matrix is singular; the transfer function is out of
            order; two things say the colour. In one line that begins with the argument's name.
        """
        if interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation: 'trilinear' or 'nearest', not {interpolation!r}")
        values, matrix = _checked_values(density), _checked_matrix(to_world)
        if transfer is not None:
            transfer.check()
        colours = None
        if colour is not None:
            if transfer is not None and transfer.colour is not None:
                raise ValueError("colour: the transfer function has colours too; give one of them")
            colours = _checked_colours(colour, values.shape)
        learns = _is_float(values), colours is not None and _is_float(colours)
        field = cls(
            matrix,
            None if learns[0] else values,
            None if learns[1] else colours,
            transfer,
            values.shape,
            interpolation,
            str(values.dtype),
            "" if colours is None else str(colours.dtype),
        )
        return field, VolumeParams(
            values if learns[0] else None, colours if learns[1] else None, transfer
        )

    def init(self, key: PRNGKeyArray) -> VolumeParams:
        """Parameters to start from: an empty volume, grey where it has colours of its own.

        Of a volume whose values are integers these are the parameters of `from_array`.
        """
        transfer = jax.tree.map(jnp.asarray, self.transfer)
        values = None if self.values is not None else jnp.zeros(self.shape, self.dtype)
        colours = None
        if self.colour_dtype and self.colours is None:
            colours = jnp.full((*self.shape, 3), 0.5, self.colour_dtype)
        return VolumeParams(values, colours, transfer)

    def density(
        self, params: VolumeParams, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """Density of interpolated values, 0 outside of the array; and values and colours as features."""
        batch, dtype = positions.shape[:-1], positions.dtype
        axes = self._lattice_axes(positions.reshape(-1, 3))
        inside = jnp.ones(axes[0].shape, bool)
        for at, side in zip(axes, self.shape, strict=True):
            inside &= (at >= -0.5) & (at <= side - 0.5)
        place = [jnp.clip(at, 0.0, side - 1.0) for at, side in zip(axes, self.shape, strict=True)]
        value = self._between_voxels(self.values_of(params), 1, place)
        features = [value]
        if self.colour_dtype:
            colours = self.colours if params.colours is None else params.colours
            colour = self._between_voxels(colours, 3, place)
            features.append(colour / np.asarray(_white(colours.dtype), dtype))
        value = value[:, 0]
        if params.transfer is None:
            density = jnp.where(value < 0.0, jnp.zeros_like(value), value)
        else:
            density, colour = params.transfer(value)
            features += [] if colour is None else [colour]
        features = jnp.concatenate(features, axis=1)
        density = jnp.where(inside, density, jnp.zeros_like(density))
        return density.reshape(batch), features.reshape(*batch, features.shape[1])

    def colour(
        self,
        params: VolumeParams,
        features: Float[Array, "*batch F"],
        view_directions: Float[Array, "*batch 3"],
    ) -> Float[Array, "*batch 3"]:
        """The voxels' colours, the transfer function's, or white; the same from all sides."""
        if features.shape[-1] == 4:
            return features[..., 1:]
        return jnp.ones((*features.shape[:-1], 3), features.dtype)

    def values_of(self, params: VolumeParams) -> Array | np.ndarray:
        """The values of the voxels [X, Y, Z]: those that learn, or those that do not."""
        return self.values if params.values is None else params.values

    def corners_of_box(self) -> Float[np.ndarray, "8 3"]:
        """The corners of the box that the voxels fill, in the world."""
        ends = np.array(list(np.ndindex(2, 2, 2))) * np.array(self.shape) - 0.5
        matrix = np.asarray(self.to_world, np.float64)
        return ends @ matrix[:3, :3].T + matrix[:3, 3]

    @property
    def spacing(self) -> Float[np.ndarray, "3"]:
        """The length of a voxel's sides in the world."""
        return np.linalg.norm(np.asarray(self.to_world, np.float64)[:3, :3], axis=0)

    def occupancy(
        self,
        params: VolumeParams,
        *,
        threshold: float = 0.0,
        cells: int | None = None,
        step: float | None = None,
    ) -> Occupancy:
        """The occupancy by which samplers skip empty space, computed from the array.

        A cell is occupied if the density at any position in it can be above a threshold: the transfer
        function is evaluated from the least to the greatest value of all voxels around. The density that
        is expected in a cell, by which rays are ended early, is the least in it. With a threshold of 0
        no density is lost. It cannot be traced.

        Args:
          params: the field's parameters.
          threshold: density in 1/length, at least 0.
          cells: number of cells along each side of the cube around the volume; by default such that a
            cell is about four voxels wide, and 128 at most.
          step: the distance between samples along a ray; by default the shortest side of a voxel.

        Raises:
          TypeError: the volume is being traced.
          ValueError: a threshold, cells or step that cannot be.
        """
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((self, params))):
            raise TypeError("VolumeField.occupancy: needs the volume's numbers; do not trace it")
        if threshold < 0.0 or (cells or 1) < 1 or (step is not None and step <= 0.0):
            raise ValueError(
                f"occupancy: threshold {threshold:g}, cells {cells}, step {step} must not be below 0, "
                "1 and 0"
            )
        corners = self.corners_of_box()
        low, high = corners.min(axis=0), corners.max(axis=0)
        side, shortest = float((high - low).max()) * (1.0 + 1e-5), float(self.spacing.min())
        cells = cells or int(np.clip(math.ceil(side / (4.0 * shortest)), 1, 128))
        origin = 0.5 * (low + high) - 0.5 * side
        values = np.asarray(self.values_of(params))
        least, greatest = cells_of(
            values, params.transfer, np.asarray(self.to_world, np.float64), origin, side / cells,
            cells, nearest=self.interpolation == "nearest",
        )  # fmt: skip
        return Occupancy.with_density(
            greatest > threshold, least, origin, side / cells, step or shortest
        )

    def _lattice_axes(self, positions: Float[Array, "N 3"]) -> list[Float[Array, " N"]]:
        """Where positions lie among the voxels' indices, an axis after the other.

        Not as a product of matrices, which accelerators round to fewer bits.
        """
        matrix = jnp.asarray(self.to_world).astype(positions.dtype)
        x, y, z = (positions - matrix[None, :3, 3]).T
        return [x * row[0] + y * row[1] + z * row[2] for row in _inverse(matrix[:3, :3])]

    def _between_voxels(
        self, array: Any, columns: int, place: list[Float[Array, " N"]]
    ) -> Float[Array, "N C"]:
        """What voxels hold at places of the lattice [N, columns], in the places' dtype."""
        table = jnp.asarray(array).reshape(-1, columns)
        if self.interpolation == "nearest":
            near = [jax.lax.stop_gradient(jnp.floor(at + 0.5)).astype(jnp.int32) for at in place]
            rows = (near[0] * self.shape[1] + near[1]) * self.shape[2] + near[2]
            return take_rows(table, rows).astype(place[0].dtype)
        strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        row, part = [], []
        for at, side, stride in zip(place, self.shape, strides, strict=True):
            lower = jax.lax.stop_gradient(jnp.floor(at))
            low = lower.astype(jnp.int32)
            # Beyond the last voxel there is none, and its weight is 0.
            row.append((low * stride, jnp.minimum(low + 1, side - 1) * stride))
            part.append(at - lower)
        if table.dtype != part[0].dtype:
            return _between_rows(table, row, part)
        rows = jnp.stack([a + b + c for a in row[0] for b in row[1] for c in row[2]])
        sides = [(1.0 - each, each) for each in part]
        weights = jnp.stack([a * b * c for a in sides[0] for b in sides[1] for c in sides[2]])
        return weighted_rows(table, rows, weights)


def _between_rows(table: Array, row: list, part: list) -> Array:
    """Rows of another dtype than the parts, between neighbours along three axes.

    Args:
      table: a row for each voxel, mostly of integers, which no gradient can move.
      row: for each axis, what the lower and the upper neighbour add to the number of a row.
      part: for each axis, how far places lie from the lower towards the upper neighbour, in [0, 1].
    """

    def between(lower, upper, axis):
        return lower + part[axis][:, None] * (upper - lower)

    def at(x, y, z):
        return take_rows(table, x + y + z).astype(part[0].dtype)

    def line(x, y):
        return between(at(x, y, row[2][0]), at(x, y, row[2][1]), 2)

    def plane(x):
        return between(line(x, row[1][0]), line(x, row[1][1]), 1)

    return computed_once(between(plane(row[0][0]), plane(row[0][1]), 0))


def _inverse(matrix: Float[Array, "3 3"]) -> list[Float[Array, "3"]]:
    """The rows of the inverse, by cross products of the columns."""
    a, b, c = matrix.T
    across = jnp.cross(b, c)
    volume = jnp.sum(a * across)
    return [across / volume, jnp.cross(c, a) / volume, jnp.cross(a, b) / volume]


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _white(dtype: Any) -> float:
    """The number that stands for 1 in colours of a dtype."""
    return 1.0 if jnp.issubdtype(dtype, jnp.floating) else float(jnp.iinfo(dtype).max)


def check_size(shape: tuple[int, ...], dtype: Any) -> None:
    """Refuse an array that is too large, before memory is taken.

    Raises:
      ValueError: with what it would need.
    """
    voxels, size = math.prod(shape), np.dtype(dtype).itemsize
    if voxels > MOST_VOXELS or voxels * size > MOST_BYTES:
        raise ValueError(
            f"{' x '.join(map(str, shape))} of {np.dtype(dtype)} would need "
            f"{voxels * size / 1e9:.1f} GB and as much for each device; a volume has at most "
            f"{MOST_BYTES / 1e9:.1f} GB: crop it, or make it coarser or of smaller numbers"
        )


def _array(name: str, given: Any) -> Any:
    """An array as JAX would have it, without a copy where it is that already."""
    array = given if isinstance(given, jax.Array) else np.asarray(given)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iub"):
        raise ValueError(f"{name}: must be of real numbers, got {array.dtype}")
    try:
        check_size(array.shape, array.dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if isinstance(array, jax.Array):
        return array
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    wanted = jax.dtypes.canonicalize_dtype(array.dtype.newbyteorder("="))
    if array.dtype.kind in "iu" and wanted.itemsize < array.dtype.itemsize and array.size:
        limits = np.iinfo(wanted)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(f"{name}: {array.dtype} has numbers that {wanted} does not hold")
    return np.ascontiguousarray(array, wanted)


def _checked_values(density: Any) -> Any:
    values = _array("density", density)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"density: must have 3 dimensions, got {values.shape}")
    # Sums would take another array; a number that is not finite shows in the least or the greatest.
    if not _is_float(values) or isinstance(values, Tracer):
        return values
    with np.errstate(invalid="ignore"):
        ends = float(values.min()), float(values.max())
    if not np.isfinite(ends).all():
        raise ValueError("density: has a number that is not finite")
    return values


def _checked_colours(colour: Any, shape: tuple[int, ...]) -> Any:
    if getattr(colour, "dtype", None) == np.bool_:
        raise ValueError("colour: integers must be unsigned, got bool")
    colours = _array("colour", colour)
    if colours.shape != (*shape, 3):
        raise ValueError(f"colour: must be {(*shape, 3)}, as the density is, got {colours.shape}")
    if _is_float(colours):
        if not isinstance(colours, Tracer) and not (colours.min() >= 0.0 and colours.max() <= 1.0):
            raise ValueError("colour: must be from 0 to 1")
    elif colours.dtype.kind != "u":
        raise ValueError(f"colour: integers must be unsigned, got {colours.dtype}")
    return colours


def _checked_matrix(to_world: Any) -> Any:
    if to_world is None:
        return np.eye(4, dtype=np.float32)
    matrix = to_world if isinstance(to_world, jax.Array) else np.asarray(to_world, np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"to_world: must be 4 x 4, got {matrix.shape}")
    if isinstance(matrix, Tracer):
        return matrix
    numbers = np.asarray(matrix, np.float64)
    sides = np.linalg.norm(numbers[:3, :3], axis=0)
    # Compared so that what is no number fails too.
    if not abs(np.linalg.det(numbers[:3, :3])) > _LEAST_DETERMINANT * np.prod(sides):
        raise ValueError("to_world: the matrix is singular")
    if not (np.isfinite(numbers).all() and np.allclose(numbers[3], (0.0, 0.0, 0.0, 1.0))):
        raise ValueError("to_world: the last row must be 0, 0, 0, 1, and all numbers finite")
    if isinstance(matrix, jax.Array):
        return matrix
    return matrix.astype(jax.dtypes.canonicalize_dtype(np.float64))

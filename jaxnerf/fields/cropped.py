"""A part of a field: what lies in boxes and balls, or what is left without them."""

import dataclasses
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnerf.fields import Params
from jaxnerf.fields.wrapping import Wrapping
from jaxnerf.geometry import linear, matrix_of


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Region:
    """A box or a ball, moved, turned and stretched by a matrix. A pytree.

    Attributes:
      to_unit: the affine map [3, 4] from the region's frame to one in which it is the cube [-1, 1]^3 or
        the ball of radius 1.
      shape: "box" or "ball"; static.
    """

    to_unit: Float[Array | np.ndarray, "3 4"]
    shape: Literal["box", "ball"] = dataclasses.field(default="box", metadata={"static": True})

    @classmethod
    def box(cls, low: Any, high: Any) -> "Region":
        """A box along the axes.

        Args:
          low, high: its corners with the smallest and the largest coordinates.

        Raises:
          ValueError: low is not below high.
        """
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        if low.shape != (3,) or high.shape != (3,) or not (low < high).all():
            raise ValueError(
                f"Region.box: {low.tolist()} is not below {high.tolist()} along each of three axes"
            )
        matrix = np.diag([*(0.5 * (high - low)), 1.0])
        matrix[:3, 3] = 0.5 * (low + high)
        return cls.from_matrix(matrix, "box")

    @classmethod
    def ball(cls, centre: Any, radius: float) -> "Region":
        """A ball.

        Raises:
          ValueError: the radius is not more than 0.
        """
        if not radius > 0.0:
            raise ValueError(f"Region.ball: a radius of {radius}, which is not more than 0")
        matrix = np.diag([radius, radius, radius, 1.0])
        matrix[:3, 3] = np.asarray(centre, np.float64)
        return cls.from_matrix(matrix, "ball")

    @classmethod
    def from_matrix(cls, matrix: Any, shape: Literal["box", "ball"] = "box") -> "Region":
        """What a matrix of 4 x 4 makes of the cube [-1, 1]^3, or of the ball of radius 1.

        Raises:
          ValueError: the matrix is singular or not finite, or there is no such shape.
        """
        if shape not in ("box", "ball"):
            raise ValueError(f"Region: shape must be 'box' or 'ball', got {shape!r}")
        whole = np.asarray(matrix, np.float64)
        if whole.shape != (4, 4) or not np.isfinite(whole).all():
            raise ValueError("Region: the matrix is not one of 4 x 4 finite numbers")
        if np.linalg.matrix_rank(whole[:3, :3]) < 3:
            raise ValueError("Region: the matrix is singular: the region has no volume")
        return cls(np.linalg.inv(whole)[:3], shape)

    def placed(self, placement: Any) -> "Region":
        """The region where a similarity takes it; see `jaxnerf.geometry.Placement.of`."""
        own = np.concatenate([np.asarray(self.to_unit, np.float64), [[0.0, 0.0, 0.0, 1.0]]])
        return Region((own @ np.linalg.inv(matrix_of(placement)))[:3], self.shape)

    def distance(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        """How far out points are in the unit shape: below 1 inside, above 1 outside."""
        to_unit = jnp.asarray(self.to_unit, points.dtype)
        local = linear(to_unit[:, :3], points) + jnp.broadcast_to(to_unit[:, 3], points.shape)
        if self.shape == "box":
            return jnp.max(jnp.abs(local), axis=-1)
        return jnp.sqrt(jnp.sum(local * local, axis=-1))

    def holds(self, points: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
        """Whether points lie inside."""
        return self.distance(points) <= 1.0


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CroppedField(Wrapping):
    """A field whose density is 0 outside of some regions, or inside. Implements `Field`. A pytree.

    Its parameters are the inner field's. Where rays are sampled by an occupancy, crop that too
    (`jaxnerf.sampling.cropping.cropped_occupancy`), else rays end in what was cut away.

    Attributes:
      field: the inner field.
      regions: regions in the field's frame; at least one.
      keep: what lies "inside" of any of them, or "outside" of all; static.
    """

    field: Any
    regions: tuple[Region, ...]
    keep: Literal["inside", "outside"] = dataclasses.field(
        default="inside", metadata={"static": True}
    )

    def __post_init__(self) -> None:
        if self.keep not in ("inside", "outside"):
            raise ValueError(f"CroppedField.keep: 'inside' or 'outside', not {self.keep!r}")
        if isinstance(self.regions, tuple) and not self.regions:
            raise ValueError("CroppedField.regions: none; name one at least")

    def keeps(self, points: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
        """Whether points belong to what is kept."""
        inside = jnp.zeros(points.shape[:-1], bool)
        for region in self.regions:
            inside = inside | region.holds(points)
        return inside if self.keep == "inside" else ~inside

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"], **more: Any
    ) -> tuple[Float[Array, "*batch"], Any]:
        """The field's where it is kept, else 0."""
        density, features = self.field.density(params, positions, **more)
        return jnp.where(self.keeps(positions), density, 0.0), features

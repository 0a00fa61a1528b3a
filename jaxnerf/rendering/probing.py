"""Evaluation of a field at points and on grids, first hits of rays, and the cells that are not empty."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnerf.cameras import Rays
from jaxnerf.fields import Field, Params, join_field, split_field
from jaxnerf.rendering.boxes import Grid
from jaxnerf.rendering.chunks import in_chunks, replicated, rows_for
from jaxnerf.rendering.rays import render_rays
from jaxnerf.sampling import Hierarchical, Occupancy, Sampler
from jaxnerf.sampling.cells import Cells
from jaxnerf.sampling.intervals import Keys
from jaxnerf.sampling.occupancy import OCCUPIED

# Voxels along a side of what of a grid is in memory at once.
BLOCK = 64
# From where a point is looked at that nobody says how: along the axes, both ways.
_ALL_AROUND = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
# Of the opacity of the cell that is most opaque: less is fog.
_FOG = 0.1


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PointProperties:
    """What a field holds at points. A pytree of arrays with the points' leading shape.

    Attributes:
      density: in 1/length of the points' unit.
      opacity: the share of light that is stopped on the length that was asked for.
      colour: RGB in [0, 1]; None where it was not asked for.
      features: whatever the field's density leaves for its colour; None of a grid.
    """

    density: Float[Array | np.ndarray, "*batch"]
    opacity: Float[Array | np.ndarray, "*batch"]
    colour: Float[Array | np.ndarray, "*batch 3"] | None = None
    features: Any = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hits:
    """Where rays first meet something. A pytree of arrays with the rays' leading shape.

    Attributes:
      hit: whether half of a ray's light is stopped before its end.
      points: where that is; not a number on other rays.
      distance: the length of the way there; infinite on other rays.
      normal: the unit normal of what is seen, which points towards the camera; zero on other rays.
    """

    hit: Bool[Array | np.ndarray, "*batch"]
    points: Float[Array | np.ndarray, "*batch 3"]
    distance: Float[Array | np.ndarray, "*batch"]
    normal: Float[Array | np.ndarray, "*batch 3"]


def query(
    field: Field,
    params: Params,
    points: Float[Array, "*batch 3"],
    directions: Float[Array, "*batch 3"] | None = None,
    *,
    occupancy: Occupancy | None = None,
    length: Float[Array, ""] | float = 1.0,
    colours: bool = True,
) -> PointProperties:
    """What a field holds at points of its frame.

    Pure: works under jit, vmap, grad, for any leading shape.

    Args:
      field, params: any field.
      points: where it is evaluated.
      directions: along which colours are seen, of any length but 0, which leave the eye; by default
        colours are the mean over the six directions along the axes.
      occupancy: of the cells that pictures sample; elsewhere there is nothing then.
      length: on which opacity is told: 1 - exp(-density * length).
      colours: whether to ask for colours.
    """
    density, features = density_at(field, params, occupancy, points)
    opacity = -jnp.expm1(-density * jnp.asarray(length, density.dtype))
    colour = None
    if colours and directions is not None:
        unit = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
        colour = field.colour(params, features, unit)
    elif colours:
        seen = [
            field.colour(params, features, jnp.broadcast_to(jnp.asarray(way), points.shape))
            for way in _ALL_AROUND.astype(points.dtype)
        ]
        colour = jnp.mean(jnp.stack(seen), axis=0)
    return PointProperties(density, opacity, colour, features)


def density_at(
    field: Any, params: Params, occupancy: Occupancy | None, positions: Float[Array, "*batch 3"]
) -> tuple[Float[Array, "*batch"], Any]:
    """What pictures show of a field at points: its density, none where no cell is occupied; its features.

    Pure. Everything is in the field's own frame.

    Args:
      field, params: see `jaxnerf.fields.Field`.
      occupancy: of the cells that pictures sample; None if they sample all of space.
      positions: of the points.
    """
    density, features = field.density(params, positions)
    if occupancy is not None:
        density = jnp.where(is_occupied(occupancy, positions), density, 0.0)
    return density, features


def is_occupied(occupancy: Occupancy, positions: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
    """Whether points of the world lie in an occupied cell. Pure."""
    origin, cell = (jnp.asarray(x, positions.dtype) for x in (occupancy.origin, occupancy.cell))
    place = occupancy.place(positions)
    index = jnp.floor((place - jnp.broadcast_to(origin, place.shape)) / cell).astype(jnp.int32)
    count = occupancy.cells.shape[0]
    inside = jnp.all((index >= 0) & (index < count), axis=-1)
    x, y, z = jnp.moveaxis(jnp.clip(index, 0, count - 1), -1, 0)
    return inside & (jnp.asarray(occupancy.cells)[x, y, z] >= OCCUPIED)


def first_hit(
    field: Any,
    params: Params,
    rays: Rays,
    sampler: Sampler = Hierarchical(),
    key: Keys | None = None,
) -> Hits:
    """Where rays first meet something: where half of their light has been stopped.

    Pure: works under jit, vmap, grad, for any leading shape.

    Args:
      field, params, rays, sampler, key: as for `jaxnerf.render_rays`.
    """
    seen = render_rays(field, params, rays, sampler, key, normals=True)
    assert seen.normals is not None
    hit = seen.opacity >= 0.5
    t = jnp.where(hit, seen.depth_median, 0.0)
    points = rays.origins + t[..., None] * rays.directions
    return Hits(
        hit=hit,
        points=jnp.where(hit[..., None], points, jnp.nan),
        distance=jnp.where(hit, t * jnp.linalg.norm(rays.directions, axis=-1), jnp.inf),
        normal=jnp.where(hit[..., None], seen.normals, 0.0),
    )


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a grid.

    Attributes:
      where: of the whole grid's voxels, as an index of arrays.
      properties: at their middles [x, y, z, ...].
    """

    where: tuple[slice, slice, slice]
    properties: PointProperties


@dataclasses.dataclass(frozen=True)
class GridBlocks:
    """A field on a regular grid, block by block: iterate over it, or have it written to arrays.

    Attributes:
      grid: the voxels; `grid.affine` takes an index to the middle of a voxel.
      ask: points [N, 3] in the grid's frame, in float64, and whether colours are wanted -> what is there.
      balls: middles and radii of balls outside of which there is nothing; None where that is not known.
      colours: whether blocks have colours.
    """

    grid: Grid
    ask: Callable[[np.ndarray, bool], PointProperties]
    balls: tuple[np.ndarray, np.ndarray] | None = None
    colours: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many voxels the whole grid has along each axis."""
        return self.grid.shape

    def __len__(self) -> int:
        return int(np.prod([-(-side // BLOCK) for side in self.shape]))

    def __iter__(self) -> Iterator[Block]:
        full = self._full()
        for number in np.ndindex(*full.shape):
            where: Any = tuple(
                slice(i * BLOCK, min((i + 1) * BLOCK, side))
                for i, side in zip(number, self.shape, strict=True)
            )
            yield Block(where, self._in(where) if full[number] else _empty(where, self.colours))

    def write(
        self,
        density: np.ndarray | None = None,
        opacity: np.ndarray | None = None,
        colour: np.ndarray | None = None,
    ) -> None:
        """Fill arrays of the caller's: of any floating-point type, for instance `numpy.memmap`.

        Args:
          density, opacity: of the grid's shape.
          colour: of the shape and 3; not asked for where it is not given.

        Raises:
          ValueError: an array has another shape, or none is given.
        """
        wanted = {"density": density, "opacity": opacity, "colour": colour}
        arrays = {name: array for name, array in wanted.items() if array is not None}
        if not arrays:
            raise ValueError("grid: write needs an array for density, opacity or colour")
        for name, array in arrays.items():
            shape = (*self.shape, 3) if name == "colour" else self.shape
            if array.shape != shape:
                raise ValueError(f"grid: {name} has the shape {array.shape}, the grid {shape}")
        for block in dataclasses.replace(self, colours=colour is not None):
            for name, array in arrays.items():
                array[block.where] = getattr(block.properties, name)

    def _in(self, where: tuple[slice, ...]) -> PointProperties:
        axes = [
            (np.arange(part.start, part.stop) + 0.5) * self.grid.voxel + begin
            for part, begin in zip(where, self.grid.origin, strict=True)
        ]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        found = dataclasses.replace(self.ask(points.reshape(-1, 3), self.colours), features=None)
        return jax.tree.map(lambda x: x.reshape(*points.shape[:3], *x.shape[1:]), found)

    def _full(self) -> Bool[np.ndarray, "X Y Z"]:
        """Which blocks a ball reaches into."""
        shape = tuple(-(-side // BLOCK) for side in self.shape)
        if self.balls is None:
            return np.ones(shape, bool)
        middles, radii = self.balls
        size, count = BLOCK * self.grid.voxel, np.array(shape)
        first = np.floor((middles - radii[:, None] - self.grid.origin) / size)
        last = np.floor((middles + radii[:, None] - self.grid.origin) / size) + 1.0
        reaches = (last > 0.0).all(axis=-1) & (first < count).all(axis=-1)
        ends = [np.clip(x[reaches], 0.0, count).astype(int) for x in (first, last)]
        # Each ball adds 1 to its blocks: differences at their corners, summed along the axes.
        steps = np.zeros(count + 1, np.int64)
        for corner in np.ndindex(2, 2, 2):
            place = np.where(corner, ends[1], ends[0])
            np.add.at(steps, tuple(place.T), (-1) ** sum(corner))
        total = steps.cumsum(axis=0).cumsum(axis=1).cumsum(axis=2)
        return total[:-1, :-1, :-1] > 0


def _empty(where: tuple[slice, ...], colours: bool) -> PointProperties:
    shape = tuple(part.stop - part.start for part in where)
    nothing = np.zeros(shape, np.float32)
    colour = np.zeros((*shape, 3), np.float32) if colours else None
    return PointProperties(nothing, nothing.copy(), colour)


def grid_blocks(
    field: Field, params: Params, grid: Grid, *, occupancy: Occupancy | None = None
) -> GridBlocks:
    """A field on a regular grid of its frame, block by block; opacities are those of a voxel.

    Args:
      field, params, occupancy: as for `query`.
      grid: for instance `Grid.of(Box(low, high), resolution)`.
    """
    ask = asked_in_chunks(field, params, occupancy, grid.voxel)
    balls = None if occupancy is None else Cells.of(occupancy).balls()
    return GridBlocks(
        grid, lambda points, colours: ask(points.astype(np.float32), None, colours), balls
    )


def asked_in_chunks(
    field: Any, params: Params, occupancy: Occupancy | None, length: float
) -> Callable[..., PointProperties]:
    """`query` for any number of points, by a program that is compiled once.

    Returns:
      A function of points [N, 3] and directions [N, 3] or None, in float32, and whether colours are
      wanted; what it gives are NumPy arrays.
    """
    arrays, kind = split_field(field)
    constant = replicated((arrays, params, occupancy, np.float32(length)))

    def ask(points: np.ndarray, directions: np.ndarray | None, colours: bool) -> PointProperties:
        given = (points,) if directions is None else (points, directions)
        function = functools.partial(_answers, kind, colours, *constant)
        return in_chunks(function, *given, rows_at_once=rows_for(len(points)))

    return ask


@functools.partial(jax.jit, static_argnums=(0, 1))
def _answers(kind, colours, arrays, params, occupancy, length, points, directions=None):
    field = join_field(arrays, kind)
    return query(
        field, params, points, directions, occupancy=occupancy, length=length, colours=colours
    )


def cells_that_hold(
    field: Field,
    params: Params,
    cells: Cells,
    *,
    occupancy: Occupancy | None = None,
    least_share: float = 0.01,
) -> Cells:
    """Those of some cells that hold something, without what floats apart.

    A cell holds something if the mean of its opacity at eight points is a tenth, at least, of that of the
    most opaque cell: fog does not. Groups of such cells that touch (across corners too) are left out if
    their opacities sum up to less than a share of the largest group's.

    Args:
      field, params, occupancy: as for `query`.
      cells: where to look, at least one.
      least_share: of the largest group's sum.

    Returns:
      The cells; none where all of space is empty.
    """
    from scipy import ndimage

    index = np.argwhere(cells.mask)
    offsets = np.array(list(np.ndindex(2, 2, 2))) * 0.5 + 0.25
    ask = asked_in_chunks(field, params, occupancy, 1.0)
    total = np.zeros(len(index))
    for offset in offsets:
        points = cells.world(index + offset)
        density = ask(points.astype(np.float32), None, False).density
        total -= np.expm1(-density.astype(np.float64) * cells.side(points)) / len(offsets)
    opacity = np.zeros(cells.mask.shape)
    opacity[tuple(index.T)] = total
    held = opacity > max(_FOG * opacity.max(), 1e-6)
    labelled: Any = ndimage.label(held, np.ones((3, 3, 3)))
    groups, count = labelled
    sums = np.bincount(groups.reshape(-1), opacity.reshape(-1), count + 1)
    sums[0] = 0.0
    return dataclasses.replace(cells, mask=held & (sums >= least_share * sums.max())[groups])

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

# Voxels along a side of a block of a grid. One block is evaluated at a time.
BLOCK = 64
# Viewing directions whose colours are averaged if no directions are given: both ways along the axes.
_ALL_AROUND = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
# Cells with less than this fraction of the opacity of the most opaque cell are fog.
_FOG = 0.1


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PointProperties:
    """A field's values at points. A pytree of arrays with the points' leading shape.

    Attributes:
      density: density, in 1/length in the points' unit.
      opacity: opacity, in [0, 1], of a segment of the requested length with this density.
      colour: RGB in [0, 1]; None if it was not requested.
      features: the features that the field's `density` returns for its `colour`; None on a grid.
    """

    density: Float[Array | np.ndarray, "*batch"]
    opacity: Float[Array | np.ndarray, "*batch"]
    colour: Float[Array | np.ndarray, "*batch 3"] | None = None
    features: Any = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hits:
    """The first surface points on rays. A pytree of arrays with the rays' leading shape.

    Attributes:
      hit: whether the ray's opacity reaches one half.
      points: the point at which it does; NaN for other rays.
      distance: distance of this point from the ray's origin; infinite for other rays.
      normal: unit normal of the surface, pointing out of it (`Rendering.normals`); 0 for other rays.
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
    """Evaluate a field at points of its frame.

    Pure: works under jit, vmap, grad, for any leading shape.

    Args:
      field, params: any field and its parameters.
      points: points in the field's frame.
      directions: viewing directions, from the eye to the points, of any length but 0; by default colours
        are means over the six directions along the axes.
      occupancy: the occupancy grid with which images are sampled, outside of whose occupied cells density
        is 0; None for density everywhere.
      length: length of the segment in `PointProperties.opacity`: 1 - exp(-density * length).
      colours: whether to evaluate colours.
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
    """A field's density, 0 outside of occupied cells as in images, and its features.

    Pure. Everything is in the field's own frame.

    Args:
      field, params, occupancy: as for `query`.
      positions: the points.
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
    """The first surface points on rays: the points at which their opacity reaches one half.

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
    """A block of a grid.

    Attributes:
      where: the block's voxels, as an index into arrays of the whole grid.
      properties: the field at the centres of these voxels, [x, y, z, ...].
    """

    where: tuple[slice, slice, slice]
    properties: PointProperties


@dataclasses.dataclass(frozen=True)
class GridBlocks:
    """A field on a regular grid, block by block: iterate over the blocks, or `write` them to arrays.

    Attributes:
      grid: the grid; `grid.affine` maps the index of a voxel to its centre.
      ask: a function of points [N, 3] in the grid's frame, in float64, and of whether to evaluate
        colours, that returns the `PointProperties` of the points.
      balls: centres [B, 3] and radii [B] of balls outside of which density is 0; None if no such balls
        are known.
      colours: whether blocks have colours.
    """

    grid: Grid
    ask: Callable[[np.ndarray, bool], PointProperties]
    balls: tuple[np.ndarray, np.ndarray] | None = None
    colours: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of voxels of the whole grid along each axis."""
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
        """Write the field into arrays of any floating-point type, for instance of `numpy.memmap`.

        Args:
          density, opacity: arrays of the grid's shape.
          colour: array of the grid's shape and 3; colours are evaluated only if it is given.

        Raises:
          ValueError: an array does not have its shape, or no array is given.
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
        """A mask of the blocks that intersect the bounding box of a ball."""
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
    """A field on a regular grid in its frame, block by block. Opacities are of segments one voxel long.

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
    """`query` for any number of points, with one compiled program.

    Returns:
      A function of points [N, 3] and directions [N, 3] or None, both in float32, and of whether to
      evaluate colours, that returns `PointProperties` of NumPy arrays.
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
    least_fraction: float = 0.01,
) -> Cells:
    """The cells in which a field has a surface, without fog and floaters.

    The opacity of a cell is its mean at eight points, for segments of the cell's side. Cells with less
    than a tenth of the opacity of the most opaque cell are fog. Groups of other cells that touch (also
    across corners) are floaters if the sum of their opacities is less than a fraction of the largest.

    Args:
      field, params, occupancy: as for `query`.
      cells: the cells to examine, at least one.
      least_fraction: the fraction of the largest sum.

    Returns:
      The cells with a surface; none of them if the field is empty.
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
    return dataclasses.replace(cells, mask=held & (sums >= least_fraction * sums.max())[groups])

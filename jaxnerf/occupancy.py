"""Empty space and occlusion: a grid of cells that says where samples are worth taking.

The grid is a cube of cells in the world. One byte a cell: below 128 the cell is empty, and the value
is its distance in cells (the largest of the three axes' differences) to the nearest that is not, by
which a ray may jump; from 128 on the cell holds something, and the value is the logarithm of the
density expected in it, by which a ray that can see nothing any more is ended. `march` needs one lookup
for a jump or a sample, and its shapes are static.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxnerf.cameras import Rays
from jaxnerf.spaces import Ball, Frustum, pace

_OCCUPIED = 128
_FARTHEST = 16  # cells that a ray can jump at once; more costs more when the grid is made
# Densities from 2^-10 a cell are told apart, in steps of 2^(1/8).
_OCTAVES, _SMALLEST = 8.0, -10.0
# A ray ends where an expected exp(-7) = 0.1% of its light is left.
_END = -7.0

# In radii of a ball, or distances of a near plane: what lies farther is sampled as if it lay here. In
# their spaces that is the same place, but a little light from there would decide what a mean depth is.
_HORIZON = 1e3

# Which cells hold something.
Cells = Bool[Array, "M M M"] | Bool[np.ndarray, "M M M"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Occupancy:
    """Which cells of a cube hold something. A pytree.

    Attributes:
      cells: the module's code, by x, y, z.
      origin: the corner of the cube with the smallest coordinates.
      cell: the side of a cell.
      step: the distance between samples along a ray, unless they are taken finer.
      space: of a scene without an end, what the cube and all lengths of it are in. None for a cube in the
        world.
    """

    cells: UInt8[Array, "M M M"]
    origin: Float[Array, "3"]
    cell: Float[Array, ""]
    step: Float[Array, ""]
    space: Ball | Frustum | None = None

    def place(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Where points of the world lie in the space of the cube."""
        return points if self.space is None else self.space.place(points)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class March:
    """Where rays take samples. The samples come first in the shape, front to back.

    Attributes:
      t: of each sample, within an interval of one step; anything in slots that are not used.
      count: samples of each ray, which fill its first slots.
      step: the length of an interval, in units of the ray's t; of contracted space where the grid is.
      cut: whether the ray was given up (slots or lookups ran out) before its end.
      ended: whether the ray ends where the grid expects next to no light to be left.
      depth: of each sample, along the ray in the space of the cube: 0 where the ray begins there, 1 where
        it ends. Intervals are even in it.
      share: the length of an interval in that.
    """

    t: Float[Array, "K R"]
    count: Int[Array, " R"]
    step: Float[Array, " R"]
    cut: Bool[Array, " R"]
    ended: Bool[Array, " R"]
    depth: Float[Array, "K R"]
    share: Float[Array, " R"]


@jax.jit
def encode(
    occupied: Bool[Array, "M M M"],
    density: Float[Array, "M M M"] | Float[Array, ""] | float = 0.0,
) -> UInt8[Array, "M M M"]:
    """The cells' code.

    Args:
      occupied: which cells hold something.
      density: expected in each or in all, per side of a cell; matters where occupied.
    """

    def spread(step, carry):
        reached, distance = carry
        grown = dilate(reached)
        return grown, jnp.where(grown & ~reached, step.astype(jnp.uint8), distance)

    unreached = jnp.full(occupied.shape, _FARTHEST, jnp.uint8)
    _, distance = jax.lax.fori_loop(1, _FARTHEST, spread, (occupied, unreached))
    return jnp.where(occupied, code_of(density), distance)


@jax.jit
def code_of(density: Float[Array, "*cells"] | float) -> UInt8[Array, "*cells"]:
    """The code of cells that hold something, in which a density per side of a cell is expected."""
    level = _OCTAVES * (jnp.log2(jnp.maximum(density, 1e-9)) - _SMALLEST)
    return jnp.clip(jnp.round(level), 0.0, 127.0).astype(jnp.uint8) + jnp.uint8(_OCCUPIED)


def marked(cells: Bool[np.ndarray, "M M M"]) -> UInt8[np.ndarray, "M M M"]:
    """A code that says no more than which cells hold something: at hand at once, and slow to march."""
    return np.where(cells, np.uint8(_OCCUPIED), np.uint8(1))


def occupied(occupancy: Occupancy) -> Cells:
    """Which cells hold something; of NumPy if the code is."""
    return occupancy.cells >= _OCCUPIED


def dilate(cells: Cells) -> Cells:
    """The cells and all their neighbours, also across edges and corners; of NumPy if the cells are."""
    pad: Any = np.pad if isinstance(cells, np.ndarray) else jnp.pad
    for axis in range(3):
        padded = pad(cells, [(1, 1) if i == axis else (0, 0) for i in range(3)])
        before = (slice(None),) * axis
        cells = cells | padded[(*before, slice(None, -2))] | padded[(*before, slice(2, None))]
    return cells


def march(
    occupancy: Occupancy,
    rays: Rays,
    jitter: Float[Array, " R"] | float = 0.5,
    *,
    samples: int = 40,
    lookups: int = 64,
    finer: int = 1,
    shares: tuple[int, ...] = (1, 4),
    most_a_step: float = 2.0,
    size: Int[Array, ""] | None = None,
) -> March:
    """Walk along rays from occupied cell to occupied cell.

    Samples lie on a lattice of steps that begins where the ray enters the cube (or at its near), so
    that they are spaced evenly whatever is jumped over.

    Args:
      occupancy: the grid.
      rays: in one leading dimension; near and far bound the walk as the cube does.
      jitter: where in its interval each ray's samples lie, in [0, 1].
      samples: slots for each ray.
      lookups: jumps and samples together, at most so many for each ray.
      finer: samples in each of the grid's steps.
      shares: once no more than a count's fourth of the rays are under way, only these go on (half of
        lego's rays end after 36 lookups, and the last after 150). Each entry is a loop to compile.
      most_a_step: optical depths that one of the grid's steps counts as at most: what a cell holds is
        known too coarsely to end a ray at once, and what lies behind must be found to be mended. 0 ends
        none.
      size: how many cells along each side are the grid's, and not filled up so that one program serves
        for grids of several sizes; all by default.
    """
    # Where samples lie is not differentiated, only what they find there.
    occupancy, rays = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, (occupancy, rays)))
    count = rays.near.shape[0]
    jitter = jnp.broadcast_to(jnp.asarray(jitter, rays.near.dtype), (count,))
    cells = jnp.asarray(occupancy.cells.shape[0] if size is None else size, rays.near.dtype)
    walk = _walk(occupancy, rays, finer, cells)
    inside = walk.begin + jitter * walk.step < walk.end
    state = inside, jnp.zeros(count, jnp.int32), jnp.zeros(count), jnp.zeros(count)
    slots, looked = jnp.zeros(samples * count), 0
    sizes = [max(count // share, min(count, 1)) for share in shares]
    limits = samples, lookups, finer, most_a_step
    for number, enough in zip(sizes, [*sizes[1:], 0], strict=True):
        if number == count:
            everything = walk, jitter, jnp.arange(count), state, slots, looked
            state, slots, looked = _look(occupancy, *everything, enough, limits)
            continue
        lane = _first(state[0] & (state[1] < samples), number)
        shift, theirs = jax.tree.map(lambda x, at=lane: x[at], (jitter, state))
        theirs = theirs[0] & (lane < count), *theirs[1:]
        part = walk.of(lane), shift, lane, theirs, slots, looked
        theirs, slots, looked = _look(occupancy, *part, enough, limits)
        state = tuple(x.at[lane].set(y, mode="drop") for x, y in zip(state, theirs, strict=True))
    cut, taken, _, light = state
    slots = slots.reshape(samples, count)
    whole = walk.whole
    depth = (slots - walk.begin[None, :]) / whole[None, :]
    ended = light <= _END
    return March(walk.t(slots), taken, walk.step, cut, ended, depth, walk.step / whole)


def t_of_depth(
    occupancy: Occupancy, rays: Rays, depth: Float[Array, " R"], finer: int = 1
) -> Float[Array, " R"]:
    """The t of places along rays from their `March.depth`, in a march with so many samples a step."""
    walk = _walk(occupancy, rays, finer, jnp.asarray(occupancy.cells.shape[0], depth.dtype))
    return walk.t((walk.begin + depth * walk.whole)[None, :])[0]


def most_samples(occupancy: Occupancy, finer: int = 1) -> int:
    """How many samples a ray takes in a grid at most.

    That is known of a grid of numbers; of one that is being traced, for steps that are not shorter than
    a cell.
    """
    steps_a_cell = 1.0
    if not any(isinstance(x, Tracer) for x in (occupancy.cell, occupancy.step)):
        steps_a_cell = max(float(occupancy.cell) / float(occupancy.step), 1e-3)
    # A diagonal is sqrt(3) sides long. In contracted space a ray's `Pace` goes 7.3 radii at most, by a
    # cube of 4.
    return math.ceil(2.0 * occupancy.cells.shape[0] * steps_a_cell) * finer + 1


def _look(occupancy, walk, jitter, lane, state, slots, looked, enough, limits):
    """Look where some rays are, and go on, until at most `enough` are unfinished.

    Args:
      occupancy: the grid.
      walk, jitter, state: of these rays; state is whether they have not come to an end (asked once, since
        rounding may answer otherwise the next time), the samples taken, the number of the next place, and
        the logarithm of the light left.
      lane: which of all rays they are.
      slots: of all rays, flat.
      looked: how often all unfinished rays have looked.
      enough, limits: static; limits are the samples and lookups of a ray, `finer`, and
        `most_a_step`.
    """
    samples, lookups, finer, most_a_step = limits
    size, cells = occupancy.cells.shape[0], occupancy.cells.reshape(-1)
    count = slots.shape[0] // samples
    length = occupancy.step / finer

    def look(carry):
        (going, taken, number, light), slots, looked = carry
        live = going & (taken < samples)
        s = walk.begin + (number + jitter) * walk.step
        place = walk.place(s)
        corner = jnp.floor(place)
        index = jnp.clip(corner, 0.0, size - 1.0).astype(jnp.int32)
        code = cells[(index[0] * size + index[1]) * size + index[2]].astype(jnp.float32)
        jump = walk.jump(place, corner, code) / walk.step
        hit = live & (code >= _OCCUPIED)
        slot = jnp.where(hit, taken * count + lane, samples * count)
        slots = slots.at[slot].set(s, mode="drop", unique_indices=True)
        expected = jnp.exp2((code - _OCCUPIED) / _OCTAVES + _SMALLEST)
        depth = expected * (length / occupancy.cell) * walk.length(place)
        depth = jnp.minimum(depth, most_a_step / finer)
        ahead = jnp.where(hit, 1.0, jnp.maximum(jnp.ceil(jump), 1.0))
        taken = taken + hit.astype(jnp.int32)
        number = jnp.where(live, number + ahead, number)
        light = light - jnp.where(hit, depth, 0.0)
        inside = walk.begin + (number + jitter) * walk.step < walk.end
        going = going & (~live | (inside & (light > _END)))
        return (going, taken, number, light), slots, looked + 1

    def unfinished(carry):
        (going, taken, *_), _, looked = carry
        live = going & (taken < samples)
        # As floats, whose sums are less to compile; whole numbers of rays are exact.
        return (looked < lookups) & (jnp.sum(live.astype(jnp.float32)) > enough)

    return jax.lax.while_loop(unfinished, look, (state, slots, looked))


def _first(chosen: Bool[Array, " R"], number: int) -> Int[Array, " number"]:
    """Where the first of the chosen are, in their order, and R where there are no more.

    As `jnp.nonzero` says, which takes five times as long to compile.
    """
    count = chosen.shape[0]
    from_the_end = jnp.where(chosen, jnp.arange(count, 0, -1), 0).astype(jnp.float32)
    return count - jax.lax.top_k(from_the_end, number)[0].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class _Walk:
    """How rays go through a grid: what `march` asks, in a coordinate s along each ray.

    Attributes:
      begin, end: of each ray's way through the cube.
      step: between samples.
      place: where an s lies, in cells [3, R].
      jump: how far the edge of what is known to be empty is, from a place, its cell's corner and code.
      t: of slots with an s [K, R].
      length: of a step at a place, by which density is multiplied, in steps of the grid.
      of: the same for some of the rays, by their numbers.
    """

    begin: Array
    end: Array
    step: Array
    place: Callable[[Array], Array]
    jump: Callable[[Array, Array, Array], Array]
    t: Callable[[Array], Array]
    length: Callable[[Array], Array | float]
    of: Callable[[Array], "_Walk"]

    @property
    def whole(self) -> Array:
        """The length of each ray's way, and not less than a step."""
        return jnp.maximum(self.end - self.begin, self.step)


def _walk(occupancy: Occupancy, rays: Rays, finer: int, size: Array) -> _Walk:
    """Through a grid, with so many samples in each of its steps."""
    length = occupancy.step / finer
    if isinstance(occupancy.space, Ball):
        return _bent(occupancy, occupancy.space, rays, length)
    if isinstance(occupancy.space, Frustum):
        return _in_cube(occupancy, occupancy.space, rays, length, size)
    return _straight(occupancy, rays, length, size)


def _straight(occupancy: Occupancy, rays: Rays, length: Array, size: Array) -> _Walk:
    """Through a cube where rays are straight, and s is t."""
    origin = (rays.origins - occupancy.origin[None, :]) / occupancy.cell
    start, direction = origin.T, (rays.directions / occupancy.cell).T
    inverse = 1.0 / jnp.where(jnp.abs(direction) < 1e-9, 1e-9, direction)
    walls = jnp.stack([-start * inverse, (size - start) * inverse])
    begin = jnp.maximum(jnp.max(jnp.min(walls, axis=0), axis=0), rays.near)
    end = jnp.minimum(jnp.min(jnp.max(walls, axis=0), axis=0), rays.far)
    step = length / jnp.linalg.norm(rays.directions, axis=-1)

    def walk(begin, end, step, start, direction, inverse):
        def jump(place, corner, code):
            # Out of the cube of cells that are known to be empty, by its nearest wall.
            wall = jnp.where(inverse > 0.0, corner + code[None, :], corner + 1.0 - code[None, :])
            return _least((wall - place) * inverse)

        parts = begin, end, step, start, direction, inverse
        return _Walk(
            begin, end, step, lambda s: start + s[None, :] * direction, jump, lambda slots: slots,
            length=lambda place: 1.0,
            of=lambda lane: walk(*(part[..., lane] for part in parts)),
        )  # fmt: skip

    return walk(begin, end, step, start, direction, inverse)


def _in_cube(
    occupancy: Occupancy, frustum: Frustum, rays: Rays, length: Array, size: Array
) -> _Walk:
    """Through a frustum's cube, where rays are straight too, and s is t there."""
    walk = _straight(occupancy, frustum.rays(rays), length, size)
    lengths = frustum.length_of_step(rays)
    return dataclasses.replace(
        walk,
        t=_on_rays(rays, lambda slot: frustum.t(rays, jnp.minimum(slot, 1.0 - 1.0 / _HORIZON))),
        length=lambda place: lengths,
        of=lambda lane: _in_cube(
            occupancy, frustum, jax.tree.map(lambda x: x[lane], rays), length, size
        ),
    )


def _bent(occupancy: Occupancy, ball: Ball, rays: Rays, length: Array) -> _Walk:
    """Through contracted space, where s is the `Pace`'s length, which no point outruns."""
    along = pace(ball, rays)
    horizon = along.middle + _HORIZON / along.scale

    def place(s):
        points = rays.origins + along.t(s)[:, None] * rays.directions
        return ((ball.place(points) - occupancy.origin[None, :]) / occupancy.cell).T

    def jump(place, corner, code):
        wall = jnp.minimum(place - (corner + 1.0 - code[None, :]), corner + code[None, :] - place)
        return _least(wall) * occupancy.cell

    return _Walk(
        begin=along.length(rays.near),
        end=along.length(rays.far),
        step=jnp.broadcast_to(length, rays.near.shape),
        place=place,
        jump=jump,
        t=_on_rays(rays, lambda s: jnp.minimum(along.t(s), horizon)),
        length=lambda place: ball.length_of_step(
            along.passing, place.T * occupancy.cell + occupancy.origin[None, :]
        ),
        of=lambda lane: _bent(occupancy, ball, jax.tree.map(lambda x: x[lane], rays), length),
    )


def _on_rays(rays: Rays, t_of: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The t of slots, from near to far: what rounding puts before or beyond lies on the end."""
    return jax.vmap(lambda slot: jnp.clip(t_of(slot), rays.near, rays.far))


def _least(axes: Float[Array, "3 R"]) -> Float[Array, " R"]:
    """Of three axes; a reduction is a kernel of its own, and what it reduces is stored."""
    return jnp.minimum(jnp.minimum(axes[0], axes[1]), axes[2])

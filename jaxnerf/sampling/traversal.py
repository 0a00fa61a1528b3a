"""Ray marching through an occupancy grid: even steps in occupied cells, jumps over empty space."""

import dataclasses
import math
from collections.abc import Callable
from typing import no_type_check

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jaxnerf.cameras import Rays
from jaxnerf.contraction import NdcSpace, SphereContraction, arc_length
from jaxnerf.sampling.occupancy import OCCUPIED, OCTAVES, SMALLEST, Occupancy

# A ray ends where an expected exp(-7) = 0.1% of its light is left.
_END = -7.0
# The largest t of samples in contracted space, in radii of the contraction (in NDC, in distances of the
# near plane). Samples farther away get this t: their contracted points hardly differ, but with their own
# t a little weight there would dominate the expected depth.
_HORIZON = 1e3


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class March:
    """The samples of a march, slots first: [K, R], front to back. A pytree.

    Attributes:
      t: distance of each sample; arbitrary in slots that are not used.
      t0, t1: its interval.
      s0, s1: the same along the ray's way through the grid, which begins at 0 and ends at 1.
      length: length of the interval in the world.
      count: samples of each ray, which fill its first slots.
      truncated: whether a ray ran out of slots or steps before its end.
      early_stopped: whether a ray ends where the grid expects next to no light to be left.
    """

    t: Float[Array, "K R"]
    t0: Float[Array, "K R"]
    t1: Float[Array, "K R"]
    s0: Float[Array, "K R"]
    s1: Float[Array, "K R"]
    length: Float[Array, "K R"]
    count: Int[Array, " R"]
    truncated: Bool[Array, " R"]
    early_stopped: Bool[Array, " R"]


def march(
    occupancy: Occupancy,
    rays: Rays,
    jitter: Float[Array, " R"] | Float[Array, ""] | float = 0.5,
    *,
    samples: int = 40,
    max_steps: int = 64,
    samples_per_voxel: int = 1,
    compaction: tuple[int, ...] = (1, 4),
    max_optical_depth: float = 2.0,
    size: Int[Array, ""] | None = None,
) -> March:
    """March along rays and place samples in occupied cells.

    Samples lie at multiples of a step from where the ray enters the grid (or from its near), so that
    their spacing is even whatever is skipped. Their positions are differentiated only with respect to the
    rays' near and far, not to origins and directions: they are the nodes of a quadrature, whose result
    does not depend on them except for its error.

    Args:
      occupancy: the grid.
      rays: rays [R]; the march is bounded by their near and far as well as by the grid.
      jitter: position of each ray's samples in their intervals, in [0, 1].
      samples: K, the number of slots per ray.
      max_steps: maximum number of samples plus jumps per ray.
      samples_per_voxel: number of samples per step of the grid.
      compaction: the numbers of rays of successive loops, as divisors of R. With (1, 4) a first loop runs
        on all rays until at most a quarter of them are unfinished, and a second one on those. (On lego
        half of the rays end after 36 lookups, the last after 150.) Each entry is a loop to compile.
      max_optical_depth: upper limit of the optical depth of one grid step in the estimate of the light
        that is left, by which rays are ended. A cell's density is known only coarsely, and training needs
        samples behind a surface to correct it. 0 disables early stopping.
      size: number of cells along a side if the grid is padded, as it is so that one compiled program
        serves grids of several sizes; all of them by default.
    """
    rays = jax.tree.map(jnp.asarray, rays)
    still = jax.lax.stop_gradient(rays)
    occupancy = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, occupancy))
    cells = jnp.asarray(occupancy.cells.shape[0] if size is None else size, rays.near.dtype)
    bounded = dataclasses.replace(still, near=rays.near, far=rays.far)
    in_grid = _grid_rays(occupancy, bounded, samples_per_voxel, cells)
    jitter = jnp.broadcast_to(jnp.asarray(jitter, rays.near.dtype), rays.near.shape)
    limits = samples, max_steps, samples_per_voxel, max_optical_depth
    fixed = _grid_rays(occupancy, still, samples_per_voxel, cells)
    moving, count, s, light = _march_rays(occupancy, fixed, jitter, limits, compaction)
    s = s + (in_grid.begin - jax.lax.stop_gradient(in_grid.begin))[None, :]
    s0 = s - jitter[None, :] * in_grid.step[None, :]
    s1 = s0 + in_grid.step[None, :]
    t, (begin, whole) = in_grid.t(s), (in_grid.begin[None, :], in_grid.whole[None, :])
    speed = jnp.linalg.norm(rays.directions, axis=-1)
    stretch = speed / jax.lax.stop_gradient(speed)
    return March(
        t=t,
        t0=in_grid.t(s0),
        t1=in_grid.t(s1),
        s0=(s0 - begin) / whole,
        s1=(s1 - begin) / whole,
        length=in_grid.world_length(t) * stretch[None, :],
        count=count,
        truncated=moving,
        early_stopped=light <= _END,
    )


def most_samples(occupancy: Occupancy, samples_per_voxel: int = 1) -> int:
    """How many samples a ray takes in a grid at most.

    If the grid's cell or step is being traced, the number holds for steps that are not shorter than
    half a cell, as those of `Occupancy.of_field` are by default.
    """
    steps_a_cell = 2.0
    if not any(isinstance(x, Tracer) for x in (occupancy.cell, occupancy.step)):
        steps_a_cell = max(float(occupancy.cell) / float(occupancy.step), 1e-3)
    # A diagonal is sqrt(3) sides long. In contracted space a ray's `RayArcLength` goes 7.3 radii at
    # most, through a cube of 4.
    return math.ceil(2.0 * occupancy.cells.shape[0] * steps_a_cell) * samples_per_voxel + 1


def _march_rays(occupancy, rays, jitter, limits, compaction):
    """Where rays take samples.

    Args:
      occupancy, rays, jitter, limits: as for `_advance`, of all rays.
      compaction: see `march`.

    Returns:
      Of each ray, whether it has not come to its end, and how many samples it takes; the s of all slots
      [K, R]; and the logarithm of the light left on each ray.
    """
    samples, count = limits[0], jitter.shape[0]
    inside = rays.begin + jitter * rays.step < rays.end
    zeros = jnp.zeros(count, jitter.dtype)
    state = inside, jnp.zeros(count, jnp.int32), zeros, zeros
    slots, iterations = jnp.zeros(samples * count, jitter.dtype), 0
    sizes = [max(count // part, min(count, 1)) for part in compaction]
    for number, enough in zip(sizes, [*sizes[1:], 0], strict=True):
        if number == count:
            everything = rays, jitter, jnp.arange(count, dtype=jnp.int32), state, slots, iterations
            state, slots, iterations = _advance(occupancy, *everything, enough, limits)
            continue
        lane = _first(state[0] & (state[1] < samples), number)
        shift, theirs = jax.tree.map(lambda x, at=lane: x[at], (jitter, state))
        theirs = theirs[0] & (lane < count), *theirs[1:]
        part = rays.of(lane), shift, lane, theirs, slots, iterations
        theirs, slots, iterations = _advance(occupancy, *part, enough, limits)
        state = tuple(x.at[lane].set(y, mode="drop") for x, y in zip(state, theirs, strict=True))
    moving, taken, _, light = state
    return moving, taken, slots.reshape(samples, count), light


def _advance(occupancy, rays, jitter, lane, state, slots, iterations, enough, limits):
    """Advance rays, one grid lookup for each per iteration, until at most `enough` are unfinished.

    Args:
      occupancy: the grid.
      rays, jitter, state: of these rays. State is whether a ray is unfinished (evaluated once, since
        rounding may give another result the next time), its number of samples, the index of its next
        step, and the logarithm of the transmittance.
      lane: the rays' indices among all rays.
      slots: s of the slots of all rays, flattened.
      iterations: the number of iterations so far.
      enough, limits: static; limits are the maxima of samples and steps, `samples_per_voxel`, and
        `max_optical_depth`.
    """
    samples, max_steps, samples_per_voxel, max_optical_depth = limits
    size, cells = occupancy.cells.shape[0], occupancy.cells.reshape(-1)
    count = slots.shape[0] // samples
    length = occupancy.step / samples_per_voxel

    def advance(carry):
        (going, taken, number, light), slots, iterations = carry
        live = going & (taken < samples)
        s = rays.begin + (number + jitter) * rays.step
        place = rays.place(s)
        corner = jnp.floor(place)
        index = jnp.clip(corner, 0.0, size - 1.0).astype(jnp.int32)
        code = cells[(index[0] * size + index[1]) * size + index[2]].astype(s.dtype)
        jump = rays.jump(place, corner, code) / rays.step
        hit = live & (code >= OCCUPIED)
        slot = jnp.where(hit, taken * count + lane, samples * count)
        slots = slots.at[slot].set(s, mode="drop", unique_indices=True)
        expected = jnp.exp2((code - OCCUPIED) / OCTAVES + SMALLEST)
        depth = expected * (length / occupancy.cell) * rays.length(place)
        depth = jnp.minimum(depth, max_optical_depth / samples_per_voxel)
        ahead = jnp.where(hit, 1.0, jnp.maximum(jnp.ceil(jump), 1.0))
        taken = taken + hit.astype(jnp.int32)
        number = jnp.where(live, number + ahead, number)
        light = light - jnp.where(hit, depth, 0.0)
        inside = rays.begin + (number + jitter) * rays.step < rays.end
        going = going & (~live | (inside & (light > _END)))
        return (going, taken, number, light), slots, iterations + 1

    def unfinished(carry):
        (going, taken, *_), _, iterations = carry
        live = going & (taken < samples)
        # As floats, whose sums are less to compile; whole numbers of rays are exact.
        return (iterations < max_steps) & (jnp.sum(live.astype(jnp.float32)) > enough)

    return jax.lax.while_loop(unfinished, advance, (state, slots, iterations))


def _first(chosen: Bool[Array, " R"], number: int) -> Int[Array, " number"]:
    """Where the first of the chosen are, in their order, and R where there are no more.

    As `jnp.nonzero` says, which takes five times as long to compile.
    """
    count = chosen.shape[0]
    from_the_end = jnp.where(chosen, jnp.arange(count, 0, -1, dtype=jnp.int32), 0).astype(
        jnp.float32
    )
    return count - jax.lax.top_k(from_the_end, number)[0].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class _GridRays:
    """The geometry of rays in a grid, in a coordinate s along each ray in which steps are even.

    Attributes:
      begin, end: s where each ray enters and leaves the cube [R].
      step: difference in s between samples [R].
      place: s [R] -> positions in units of cells [3, R].
      jump: (place, corner of its cell, code) -> the distance in s to the end of the empty cells.
      t: s of slots [K, R] -> t of the slots.
      world_length: t of slots [K, R] -> the length of a step there, in the world's unit.
      length: place -> the length by which the grid's density is multiplied there, in steps of the grid.
      of: indices of rays -> the geometry of these rays.
    """

    begin: Array
    end: Array
    step: Array
    place: Callable[[Array], Array]
    jump: Callable[[Array, Array, Array], Array]
    t: Callable[[Array], Array]
    world_length: Callable[[Array], Array]
    length: Callable[[Array], Array | float]
    of: Callable[[Array], "_GridRays"]

    @property
    def whole(self) -> Array:
        """The length of each ray's way, and not less than a step."""
        return jnp.maximum(self.end - self.begin, self.step)


def _grid_rays(occupancy: Occupancy, rays: Rays, samples_per_voxel: int, size: Array) -> _GridRays:
    """Through a grid, with so many samples in each of its steps."""
    length = occupancy.step / samples_per_voxel
    if isinstance(occupancy.space, SphereContraction):
        return _contracted_rays(occupancy, occupancy.space, rays, length)
    if isinstance(occupancy.space, NdcSpace):
        return _ndc_rays(occupancy, occupancy.space, rays, length, size)
    return _straight_rays(occupancy, rays, length, size)


def _straight_rays(occupancy: Occupancy, rays: Rays, length: Array, size: Array) -> _GridRays:
    """Through a cube where rays are straight, and s is t."""
    origin = (rays.origins - occupancy.origin[None, :]) / occupancy.cell
    start, direction = origin.T, (rays.directions / occupancy.cell).T
    inverse = 1.0 / jnp.where(jnp.abs(direction) < 1e-9, 1e-9, direction)
    walls = jnp.stack([-start * inverse, (size - start) * inverse])
    begin = jnp.maximum(jnp.max(jnp.min(walls, axis=0), axis=0), rays.near)
    end = jnp.minimum(jnp.min(jnp.max(walls, axis=0), axis=0), rays.far)
    step = length / jnp.linalg.norm(rays.directions, axis=-1)

    def of_rays(begin, end, step, start, direction, inverse):
        def jump(place, corner, code):
            # Out of the cube of cells that are known to be empty, by its nearest wall.
            wall = jnp.where(inverse > 0.0, corner + code[None, :], corner + 1.0 - code[None, :])
            return _least((wall - place) * inverse)

        parts = begin, end, step, start, direction, inverse
        return _GridRays(
            begin, end, step, lambda s: start + s[None, :] * direction, jump, lambda slots: slots,
            world_length=lambda t: jnp.broadcast_to(length, t.shape),
            length=lambda place: 1.0,
            of=lambda lane: of_rays(*(part[..., lane] for part in parts)),
        )  # fmt: skip

    return of_rays(begin, end, step, start, direction, inverse)


def _ndc_rays(
    occupancy: Occupancy, ndc: NdcSpace, rays: Rays, length: Array, size: Array
) -> _GridRays:
    """Through the cube of normalised device coordinates, where rays are straight too, and s is t."""
    straight = _straight_rays(occupancy, ndc.rays(rays), length, size)
    ahead = jnp.maximum(-rays.directions[..., 2], 1e-12)
    speed = jnp.linalg.norm(rays.directions, axis=-1)
    lengths = 2.0 * speed / (ahead * jnp.linalg.norm(ndc.rays(rays).directions, axis=-1))
    return dataclasses.replace(
        straight,
        t=_on_rays(rays, lambda slot: ndc.t(rays, jnp.minimum(slot, 1.0 - 1.0 / _HORIZON))),
        world_length=jax.vmap(lambda t: ndc.world_length(rays, t, length)),
        length=lambda place: lengths,
        of=lambda lane: _ndc_rays(
            occupancy, ndc, jax.tree.map(lambda x: x[lane], rays), length, size
        ),
    )


def _contracted_rays(
    occupancy: Occupancy, contraction: SphereContraction, rays: Rays, length: Array
) -> _GridRays:
    """Through contracted space, where s is the `RayArcLength`, which no point outruns."""
    along = arc_length(contraction, rays)
    horizon = along.middle + _HORIZON / along.scale

    def place(s):
        points = rays.origins + along.t(s)[:, None] * rays.directions
        return ((contraction.place(points) - occupancy.origin[None, :]) / occupancy.cell).T

    def jump(place, corner, code):
        wall = jnp.minimum(place - (corner + 1.0 - code[None, :]), corner + code[None, :] - place)
        return _least(wall) * occupancy.cell

    def length_at(place):
        # The length of the step in the world, times the contraction's rate there.
        contracted = place.T * occupancy.cell + occupancy.origin[None, :]
        square = contraction.squared_distance(contracted)
        return jnp.maximum(1.0, square / along.fastest) / jnp.maximum(square, 1.0)

    return _GridRays(
        begin=along.length(rays.near),
        end=along.length(rays.far),
        step=jnp.broadcast_to(length, rays.near.shape),
        place=place,
        jump=jump,
        t=_on_rays(rays, lambda s: jnp.minimum(along.t(s), horizon)),
        world_length=jax.vmap(lambda t: contraction.radius * along.world_length(t, length)),
        length=length_at,
        of=lambda lane: _contracted_rays(
            occupancy, contraction, jax.tree.map(lambda x: x[lane], rays), length
        ),
    )


def _on_rays(rays: Rays, t_of: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The t of slots, from near to far: what rounding puts before or beyond lies on the end."""
    return jax.vmap(lambda slot: jnp.clip(t_of(slot), rays.near, rays.far))


def _least(axes: Float[Array, "3 R"]) -> Float[Array, " R"]:
    """The least of three axes; a reduction is a kernel of its own, whose operand is stored."""
    return jnp.minimum(jnp.minimum(axes[0], axes[1]), axes[2])

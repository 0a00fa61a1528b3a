"""Where rays take samples: against loops that know nothing of jumps, and points put by hand."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnerf import Rays
from jaxnerf.sampling.occupancy import Occupancy, dilate, encode, occupied
from jaxnerf.sampling.packing import pack
from jaxnerf.sampling.traversal import march

LIMITS = ("samples", "max_steps", "samples_per_voxel", "compaction", "max_optical_depth")
walk = functools.partial(jax.jit, static_argnames=LIMITS)(march)
SEEDS = st.integers(0, 2**32 - 1)


def random_grid(random: np.random.Generator, size: int, share: float) -> np.ndarray:
    return random.uniform(size=(size,) * 3) < share


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5])
@pytest.mark.parametrize("size", [5, 19])
def test_empty_cells_hold_the_distance_to_the_nearest_that_is_not(size, share):
    mask = random_grid(np.random.default_rng(size), size, share)
    mask[0, 0, 0] |= share > 0.0
    code = np.asarray(encode(jnp.asarray(mask), jnp.ones(mask.shape)))
    full = np.argwhere(mask)
    for index in np.ndindex(mask.shape):
        if mask[index]:
            continue
        distance = np.abs(full - index).max(axis=-1).min(initial=16)
        assert code[index] == distance
    occupancy = Occupancy(jnp.asarray(code), jnp.zeros(3), jnp.float32(1.0), jnp.float32(1.0))
    np.testing.assert_array_equal(occupied(occupancy), mask)


def test_dilate_adds_all_twenty_six_neighbours():
    mask = random_grid(np.random.default_rng(1), 7, 0.02)
    expected = np.zeros_like(mask)
    for x, y, z in np.ndindex(mask.shape):
        around = mask[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2, max(z - 1, 0) : z + 2]
        expected[x, y, z] = around.any()
    np.testing.assert_array_equal(dilate(jnp.asarray(mask)), expected)
    found = dilate(mask)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)


def random_rays(random: np.random.Generator, count: int, origin, side: float) -> dict:
    """Rays as NumPy arrays: towards the cube, past it, out of it, and along its axes."""
    start = origin + side * random.uniform(-1.5, 2.5, (count, 3))
    target = origin + side * random.uniform(-0.2, 1.2, (count, 3))
    start[::4] = origin + side * random.uniform(0.0, 1.0, start[::4].shape)  # from inside
    direction = (target - start) * random.uniform(0.2, 4.0, (count, 1))
    for axis in range(3):  # along one axis, forwards or backwards
        lane = direction[axis::5]
        lane *= np.arange(3) == axis
        start[axis::5] = np.where(np.arange(3) == axis, start[axis::5], target[axis::5])
    direction[3::5, 2] = 0.0  # in a plane
    near = np.where(random.uniform(size=count) < 0.3, random.uniform(0.0, 0.8, count), 0.0)
    far = np.where(random.uniform(size=count) < 0.3, random.uniform(0.6, 1.5, count), math.inf)
    return {"start": start, "direction": direction, "near": near, "far": far}


def as_rays(rays: dict) -> Rays:
    start, direction, near, far = (
        jnp.asarray(rays[k], jnp.float32) for k in ("start", "direction", "near", "far")
    )
    return Rays(start, direction, direction, near, far)


def slow_march(density, origin, cell, step, start, direction, near, far, jitter, finer=1, most=2.0):
    """Samples t of a ray, one lattice vertex after the other; and whether rounding may decide.

    `density` is what is expected in each cell per side of a cell, 0 where it is empty.
    """
    size, step = len(density), step / finer
    start, direction = (np.float32(v).astype(np.float64) for v in (start, direction))
    low, high = near, far
    for axis in range(3):
        if direction[axis] == 0.0:
            if not origin[axis] <= start[axis] < origin[axis] + size * cell:
                return [], False
            continue
        ends = (origin[axis] + np.array([0.0, size * cell]) - start[axis]) / direction[axis]
        low, high = max(low, ends.min()), min(high, ends.max())
    length = step / np.linalg.norm(direction)
    found, light, doubtful = [], 0.0, False
    for number in range(10_000):
        t = low + (number + jitter) * length
        doubtful |= abs(t - high) < 1e-3 * length
        if t >= high:
            break
        place = (start + t * direction - origin) / cell
        doubtful |= bool((np.abs(place - np.round(place)) < 5e-4).any())
        index = np.clip(np.floor(place).astype(int), 0, size - 1)
        expected = density[tuple(index)]
        if expected > 0.0:
            found.append(t)
            light -= min(expected * step / cell, most / finer)
            doubtful |= abs(light + 7.0) < 1e-3
            if light <= -7.0:
                break
    return found, doubtful


def random_scene(seed: int, size: int = 9):
    """An occupancy, what the loop needs to know of it, and rays."""
    random = np.random.default_rng(seed)
    mask = random_grid(random, size, random.choice([0.01, 0.1, 0.6, 1.0]))
    # The code keeps eighths of octaves; these are kept exactly.
    level = random.integers(0, random.choice([40, 120]), mask.shape)
    density = np.where(mask, 2.0 ** (level / 8.0 - 10.0), 0.0)
    origin, cell = random.uniform(-1.0, 1.0, 3).astype(np.float32), np.float32(0.13)
    step = np.float32(cell * random.uniform(0.4, 1.6))
    cells = encode(jnp.asarray(mask), jnp.asarray(density, jnp.float32))
    occupancy = Occupancy(cells, jnp.asarray(origin), jnp.asarray(cell), jnp.asarray(step))
    known = density, origin.astype(np.float64), float(cell), float(step)
    rays = random_rays(random, 40, origin, float(cell) * size)
    return occupancy, known, rays, random.uniform(size=40).astype(np.float32)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_grid_that_is_filled_up_is_marched_as_the_grid_that_it_holds(seed):
    occupancy, _, rays, jitter = random_scene(seed)
    size, random = occupancy.cells.shape[0], np.random.default_rng(seed)
    filled = random.integers(0, 256, (size + 4,) * 3).astype(np.uint8)
    filled[:size, :size, :size] = occupancy.cells
    larger = dataclasses.replace(occupancy, cells=jnp.asarray(filled))
    found = walk(occupancy, as_rays(rays), jitter, samples=90, max_steps=99)
    again = walk(larger, as_rays(rays), jitter, samples=90, max_steps=99, size=jnp.asarray(size))
    np.testing.assert_array_equal(found.count, again.count)
    used = np.arange(90)[:, None] < np.asarray(found.count)[None, :]
    np.testing.assert_array_equal(np.asarray(found.t)[used], np.asarray(again.t)[used])


@given(SEEDS, st.sampled_from([1, 2, 3]), st.sampled_from([1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_march_finds_the_samples_of_a_loop_over_the_whole_lattice(seed, finer, most):
    occupancy, known, rays, jitter = random_scene(seed)
    limits = {
        "samples": 90 * finer,
        "max_steps": 99 * finer,
        "samples_per_voxel": finer,
        "max_optical_depth": most,
    }
    found = jax.tree.map(np.asarray, walk(occupancy, as_rays(rays), jitter, **limits))
    compared = 0
    for lane in range(len(jitter)):
        one = (rays[k][lane] for k in ("start", "direction", "near", "far"))
        expected, doubtful = slow_march(*known, *one, float(jitter[lane]), finer, most)
        if doubtful:
            continue
        compared += 1
        assert found.count[lane] == len(expected)
        assert not found.truncated[lane]
        t = found.t[: len(expected), lane]
        np.testing.assert_allclose(
            t, expected, rtol=1e-4, atol=1e-4 * (found.t1 - found.t0)[0, lane]
        )
    assert compared > 10


@given(SEEDS, st.sampled_from([(3, 99), (90, 5), (4, 6)]))
@settings(max_examples=30, deadline=None)
def test_rays_that_run_out_of_slots_or_lookups_say_so(seed, limits):
    samples, lookups = limits
    occupancy, known, rays, jitter = random_scene(seed)
    found = walk(occupancy, as_rays(rays), jitter, samples=samples, max_steps=lookups)
    found = jax.tree.map(np.asarray, found)
    assert found.t.shape == (samples, 40)
    assert (found.count <= min(samples, lookups)).all()
    for lane in range(len(jitter)):
        one = (rays[k][lane] for k in ("start", "direction", "near", "far"))
        expected, doubtful = slow_march(*known, *one, float(jitter[lane]))
        if doubtful:
            continue
        count = found.count[lane]
        assert found.truncated[lane] or count == len(expected)
        np.testing.assert_allclose(found.t[:count, lane], expected[:count], rtol=1e-4, atol=1e-4)


@given(SEEDS, st.sampled_from([(60, 80), (3, 80), (60, 7)]))
@settings(max_examples=15, deadline=None)
def test_a_ray_does_not_mind_which_others_are_still_under_way(seed, limits):
    samples, lookups = limits
    occupancy, _, rays, jitter = random_scene(seed)
    rays = as_rays(rays)
    together = walk(
        occupancy, rays, jitter, samples=samples, max_steps=lookups, compaction=(1, 2, 7)
    )
    for lane in range(0, 40, 3):
        one = jax.tree.map(lambda x, at=lane: x[at : at + 1], (rays, jitter))
        alone = walk(occupancy, *one, samples=samples, max_steps=lookups)
        count = int(alone.count[0])
        assert count == together.count[lane]
        assert alone.truncated[0] == together.truncated[lane]
        np.testing.assert_allclose(
            alone.t[:count, 0], together.t[:count, lane], rtol=1e-5, atol=1e-6
        )


def test_no_ray_is_given_up_while_there_are_lookups_however_its_end_is_rounded():
    # Across an edge of the cube, half a step long but for a few units in the last place: one rounding
    # puts the only sample inside, another one outside.
    random = np.random.default_rng(0)
    count, step = 1 << 15, 0.7
    across = 0.5 * step / np.sqrt(2.0) * (1.0 + random.uniform(-5e-7, 5e-7, count))
    away = random.uniform(1.0, 3.0, count)
    start = np.stack([-away, away + across, random.uniform(0.1, 8.9, count)], axis=-1)
    direction = np.broadcast_to(np.array([1.0, -1.0, 0.0]), start.shape)
    near, far = np.zeros(count), np.full(count, math.inf)
    rays = {"start": start, "direction": direction, "near": near, "far": far}
    cells = encode(jnp.ones((9,) * 3, bool), jnp.full((9,) * 3, 0.01))
    occupancy = Occupancy(cells, jnp.zeros(3), jnp.float32(1.0), jnp.float32(step))
    found = walk(occupancy, as_rays(rays), jnp.full(count, 0.5), samples=8, max_steps=20)
    assert 0.2 < float(jnp.mean(found.count)) < 0.8
    assert not found.truncated.any()


def test_a_ray_that_sees_nothing_any_more_ends():
    cells = encode(jnp.ones((16,) * 3, bool), jnp.full((16,) * 3, 1e3))
    occupancy = Occupancy(cells, jnp.zeros(3), jnp.float32(1.0), jnp.float32(1.0))
    rays = as_rays(
        {"start": [[-3.0, 5.5, 5.5]], "direction": [[2.0, 0, 0]], "near": [0.0], "far": [math.inf]}
    )
    found = walk(occupancy, rays, samples=40, max_steps=64)
    # A step dims by exp(-2) at most, and exp(-7) is the end.
    assert found.count.tolist() == [4]
    assert found.truncated.tolist() == [False]
    assert found.early_stopped.tolist() == [True]
    unlimited = walk(occupancy, rays, samples=40, max_steps=64, max_optical_depth=0.0)
    assert unlimited.count.tolist() == [16]
    assert unlimited.early_stopped.tolist() == [False]
    np.testing.assert_allclose(found.t[:4, 0], (3.0 + 0.5 + np.arange(4)) / 2.0, rtol=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.sampled_from([1, 7, 30]))
@settings(max_examples=30, deadline=None)
def test_pack_keeps_all_samples_of_a_ray_or_none(counts, budget):
    packing = jax.tree.map(np.asarray, pack(jnp.asarray(counts, jnp.int32), budget))
    row, room = [], True
    for ray, count in enumerate(counts):
        room = room and len(row) + count <= budget
        # Nothing is lost of a ray without samples, wherever it comes.
        assert packing.fits[ray] == (room or not count)
        assert packing.count[ray] == (count if room else 0)
        if room:
            assert packing.first[ray] == len(row) or not count
            row += [(ray, slot) for slot in range(count)]
    used = np.arange(budget) < len(row)
    np.testing.assert_array_equal(packing.used, used)
    pairs = list(zip(packing.ray[used].tolist(), packing.slot[used].tolist(), strict=True))
    assert pairs == row
    assert (np.diff(packing.ray) >= 0).all()
    assert ((packing.ray >= 0) & (packing.ray < len(counts))).all()

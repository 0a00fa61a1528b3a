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

from jaxnerf import Camera, Rays, project
from jaxnerf.cameras import look_at_pose
from jaxnerf.occupancy import (
    Occupancy,
    carve,
    dilate,
    encode,
    footprint,
    march,
    occupied,
    pack,
    tiles_that_show,
)

walk = functools.partial(jax.jit, static_argnames=("samples", "lookups", "finer"))(march)
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


def slow_march(density, origin, cell, step, start, direction, near, far, jitter, finer=1):
    """Samples t of a ray, one lattice point after the other; and whether rounding may decide.

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
            light -= min(expected * step / cell, 1.0 / finer)
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


@given(SEEDS, st.sampled_from([1, 2, 3]))
@settings(max_examples=60, deadline=None)
def test_march_finds_the_samples_of_a_loop_over_the_whole_lattice(seed, finer):
    occupancy, known, rays, jitter = random_scene(seed)
    limits = {"samples": 90 * finer, "lookups": 99 * finer, "finer": finer}
    found = jax.tree.map(np.asarray, walk(occupancy, as_rays(rays), jitter, **limits))
    compared = 0
    for lane in range(len(jitter)):
        one = (rays[k][lane] for k in ("start", "direction", "near", "far"))
        expected, doubtful = slow_march(*known, *one, float(jitter[lane]), finer)
        if doubtful:
            continue
        compared += 1
        assert found.count[lane] == len(expected)
        assert not found.cut[lane]
        t = found.t[: len(expected), lane]
        np.testing.assert_allclose(t, expected, rtol=1e-4, atol=1e-4 * found.step[lane])
    assert compared > 10


@given(SEEDS, st.sampled_from([(3, 99), (90, 5), (4, 6)]))
@settings(max_examples=30, deadline=None)
def test_rays_that_run_out_of_slots_or_lookups_say_so(seed, limits):
    samples, lookups = limits
    occupancy, known, rays, jitter = random_scene(seed)
    found = walk(occupancy, as_rays(rays), jitter, samples=samples, lookups=lookups)
    found = jax.tree.map(np.asarray, found)
    assert found.t.shape == (samples, 40)
    assert (found.count <= min(samples, lookups)).all()
    for lane in range(len(jitter)):
        one = (rays[k][lane] for k in ("start", "direction", "near", "far"))
        expected, doubtful = slow_march(*known, *one, float(jitter[lane]))
        if doubtful:
            continue
        count = found.count[lane]
        assert found.cut[lane] or count == len(expected)
        np.testing.assert_allclose(found.t[:count, lane], expected[:count], rtol=1e-4, atol=1e-4)


def test_a_ray_that_sees_nothing_any_more_ends():
    cells = encode(jnp.ones((16,) * 3, bool), jnp.full((16,) * 3, 1e3))
    occupancy = Occupancy(cells, jnp.zeros(3), jnp.float32(1.0), jnp.float32(1.0))
    rays = as_rays(
        {"start": [[-3.0, 5.5, 5.5]], "direction": [[2.0, 0, 0]], "near": [0.0], "far": [math.inf]}
    )
    found = walk(occupancy, rays, samples=40, lookups=64)
    # A step dims by exp(-1) at most, and exp(-7) is the end.
    assert found.count.tolist() == [7]
    assert found.cut.tolist() == [False]
    np.testing.assert_allclose(found.t[:7, 0], (3.0 + 0.5 + np.arange(7)) / 2.0, rtol=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.sampled_from([1, 7, 30]))
@settings(max_examples=30, deadline=None)
def test_pack_keeps_rays_whole_or_not_at_all(counts, budget):
    packing = jax.tree.map(np.asarray, pack(jnp.asarray(counts, jnp.int32), budget))
    row, room = [], True
    for ray, count in enumerate(counts):
        room = room and len(row) + count <= budget
        assert packing.kept[ray] == room
        if room:
            assert packing.first[ray] == len(row) or not count
            row += [(ray, slot) for slot in range(count)]
    used = np.arange(budget) < len(row)
    np.testing.assert_array_equal(packing.used, used)
    pairs = list(zip(packing.ray[used].tolist(), packing.slot[used].tolist(), strict=True))
    assert pairs == row
    assert (np.diff(packing.ray) >= 0).all()
    assert ((packing.ray >= 0) & (packing.ray < len(counts))).all()


def orbit(random: np.random.Generator, count: int, distance, side: int, angle: float) -> Camera:
    """Cameras around the origin that look near it."""
    eyes = random.normal(size=(count, 3))
    eyes *= random.uniform(*distance, (count, 1)) / np.linalg.norm(eyes, axis=-1, keepdims=True)
    targets = random.uniform(-0.3, 0.3, (count, 3))
    poses = np.stack([look_at_pose(e, t) for e, t in zip(eyes, targets, strict=True)])
    return Camera.pinhole(poses, 0.5 * side / math.tan(0.5 * angle), side, side)


def seen_from(camera: Camera, points: np.ndarray) -> np.ndarray:
    """The pixels (column, row) of the points that lie in a camera's picture."""
    pixel, depth = (np.asarray(x) for x in project(camera, jnp.asarray(points, jnp.float32)))
    width, height = np.asarray(camera.size)
    inside = (depth > 0.0) & (pixel >= 0.0).all(axis=-1)
    return pixel[inside & (pixel[:, 0] < width) & (pixel[:, 1] < height)]


def on_balls(random: np.random.Generator, centres: np.ndarray, radius: float, each: int):
    around = random.normal(size=(len(centres), each, 3))
    around *= radius / np.linalg.norm(around, axis=-1, keepdims=True)
    return (centres[:, None] + around).reshape(-1, 3)


@pytest.mark.parametrize("seed", range(6))
def test_carve_keeps_what_is_seen_and_removes_what_is_far_from_it(seed):
    random, tile, side = np.random.default_rng(seed), 8, 96
    cameras = orbit(random, 6, (3.0, 5.0), side, 0.9)
    centre, size = random.uniform(-0.5, 0.5, 3), random.uniform(0.1, 0.4)
    directions = random.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    surface = centre + size * directions
    tiles = np.zeros((6, side // tile, side // tile), bool)
    for index in range(6):
        column, row = np.floor(seen_from(cameras[index], surface) / tile).astype(int).T
        tiles[index, row, column] = True
    cell = 0.1
    grid = (np.argwhere(np.ones((20,) * 3)) + 0.5) * cell - 1.0
    kept = carve(grid.astype(np.float32), 0.87 * cell, cameras, tiles, tile)
    # A cell that any point of the surface lies in stays.
    cells = np.unique(np.floor((surface + 1.0) / cell).astype(int), axis=0)
    assert kept.reshape(20, 20, 20)[tuple(cells.T)].all()
    # A cell goes that one camera sees three tiles and its own size from every tile with something.
    gone = np.zeros(len(grid), bool)
    for index in range(6):
        pixel, depth = (np.asarray(x) for x in project(cameras[index], jnp.asarray(grid, "f4")))
        marked = (np.argwhere(tiles[index])[:, ::-1] + 0.5) * tile
        away = np.abs(pixel[:, None] - marked[None]).max(axis=-1).min(axis=-1)
        seen = (pixel >= 0.0).all(axis=-1) & (pixel < side).all(axis=-1)
        own = 0.87 * cell * float(cameras.focal[0, 0]) / (depth.min() - 0.2)
        gone |= seen & (away > 3.0 * tile + own)
    assert gone.mean() > 0.03
    assert not kept[gone].any()


@pytest.mark.parametrize(
    ("distance", "radius", "angle"),
    [((3.0, 5.0), 0.05, 0.7), ((1.6, 2.5), 0.03, 1.3), ((0.0, 0.9), 0.05, 0.9), ((2.2, 3), 0.3, 1)],
    ids=["around", "close and wide", "among them", "large"],
)
def test_footprint_marks_every_tile_that_shows_a_ball(distance, radius, angle):
    tile, side = 8, 100
    for seed in range(8):
        random = np.random.default_rng(seed)
        cameras = orbit(random, 4, distance, side, angle)
        centres = random.uniform(-0.8, 0.8, (30, 3))
        marked = footprint(centres.astype(np.float32), radius, cameras, (13, 13), tile)
        points = on_balls(random, centres, radius, 300)
        for index in range(4):
            column, row = np.floor(seen_from(cameras[index], points) / tile).astype(int).T
            assert marked[index, row, column].all()


def test_nothing_is_ruled_out_by_lenses_that_see_behind_themselves():
    cameras = orbit(np.random.default_rng(0), 2, (3.0, 5.0), 100, 0.7)
    sphere = dataclasses.replace(cameras, lens="equirectangular")
    behind = (2.0 * np.asarray(cameras.camera_to_world)[:1, :, 3]).astype(np.float32)
    nothing = np.zeros((2, 13, 13), bool)
    assert carve(behind, 0.05, sphere, nothing, 8).all()
    assert footprint(behind, 0.05, sphere, (13, 13), 8).all()
    assert not footprint(behind, 0.05, cameras, (13, 13), 8).any()


@pytest.mark.parametrize(
    ("distance", "side"), [(4.0, 90), (2.0, 90), (2.0, 600)], ids=["far", "near", "close up"]
)
def test_tiles_that_show_occupied_cells_are_found_and_others_are_not(distance, side):
    tile, size, cell = 8, 15, 0.1
    for seed in range(4):
        random = np.random.default_rng(seed)
        cameras = orbit(random, 3, (distance, distance + 0.5), side, 0.6)
        mask = random_grid(random, size, 0.004)
        mask[7, 7, 7] = True
        code = encode(jnp.asarray(mask), jnp.ones(mask.shape))
        origin = jnp.full(3, -0.5 * size * cell)
        occupancy = Occupancy(code, origin, jnp.float32(cell), jnp.float32(0.1))
        marked = tiles_that_show(occupancy, cameras, (side, side), tile)
        inside = random.uniform(size=(400, 3)) * cell
        points = (np.argwhere(mask) * cell - 0.5 * size * cell)[:, None] + inside[None]
        for index in range(3):
            pixel = seen_from(cameras[index], points.reshape(-1, 3))
            column, row = np.floor(pixel / tile).astype(int).T
            assert marked[index, row, column].all()
        assert marked.mean() < (0.8 if distance > 3.0 else 1.1)
    nothing = encode(jnp.zeros(mask.shape, bool), jnp.ones(mask.shape))
    occupancy = Occupancy(nothing, origin, jnp.float32(cell), jnp.float32(0.1))
    assert not tiles_that_show(occupancy, cameras, (side, side), tile).any()

"""Tiles and balls against what slow loops see of them."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxnerf.cameras import Camera, look_at_pose, project
from jaxnerf.rendering.footprints import carve, footprint, tiles_that_show
from jaxnerf.sampling.occupancy import Occupancy, encode

SEEDS = st.integers(0, 2**32 - 1)


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


def test_carve_keeps_balls_that_wide_pictures_show_stretched_at_their_edges():
    tile, side, radius = 4, 160, 0.09
    for seed in range(6):
        random = np.random.default_rng(seed)
        around = random.normal(size=(4, 3))
        eyes = 1.5 * around / np.linalg.norm(around, axis=-1, keepdims=True)
        # The balls, at the origin, are seen some 50 degrees aside.
        aside = np.cross(eyes, random.normal(size=(4, 3)))
        targets = 1.9 * aside / np.linalg.norm(aside, axis=-1, keepdims=True)
        poses = np.stack([look_at_pose(e, t) for e, t in zip(eyes, targets, strict=True)])
        cameras = Camera.pinhole(poses, 0.5 * side / math.tan(1.05), side, side)
        centres = random.uniform(-0.1, 0.1, (5, 3))
        points = on_balls(random, centres, radius, 400).reshape(5, 400, 3)
        for index, surface in enumerate(points):
            tiles = np.zeros((4, side // tile, side // tile), bool)
            for number in range(4):
                seen = seen_from(cameras[number], surface)
                # Of the silhouette only what is farthest from the centre is left.
                centre = np.asarray(project(cameras[number], jnp.asarray(centres[index], "f4"))[0])
                away = np.abs(seen - centre).max(axis=-1)
                farthest = np.floor(seen[np.argmax(away)] / tile).astype(int)
                tiles[number, farthest[1], farthest[0]] = True
            assert carve(centres.astype(np.float32), radius, cameras, tiles, tile)[index]


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
        mask = random.uniform(size=(size,) * 3) < 0.004
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


def test_the_footprint_of_a_picture_beside_the_axis_holds_all_that_is_seen():
    """As in a crop of a wider picture: what it shows is stretched by its angle from the axis."""
    angle = math.radians(60.0)
    away = 3.0 * np.array([[math.sin(angle), 0.0, -math.cos(angle)]])
    camera = Camera.pinhole(np.eye(4)[None, :3], 200.0, 400, 96)
    shift = 200.0 - 200.0 * math.tan(angle)
    camera = dataclasses.replace(camera, centre=np.array([[shift, 48.0]], np.float32))
    surface = on_balls(np.random.default_rng(0), away, 0.15, 20_000)
    seen = np.floor(seen_from(camera[0], surface) / 8).astype(int)
    shown = footprint(away.astype(np.float32), 0.15, camera, (12, 50), 8)[0]
    assert len(seen)
    assert shown[seen[:, 1], seen[:, 0]].all()
    assert shown.mean() < 0.6

"""Bounds of a volume's density in cells: against evaluations of the field, and slow loops over voxels."""

import itertools
import math
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import TransferFunction, VolumeField
from jaxnerf.fields.volume_cells import cells_of

TABLE = TransferFunction.of([0, 30, 60, 255], [0, 0, 5, 2])
UPRIGHT = np.diag([0.5, 0.5, 0.5, 1.0])
# The world's y, z and x along the lattice's axes, two of them backwards, and voxels of three sizes.
TURNED = np.array([[0, 0, 0.7, 1.0], [-0.3, 0, 0, 2.0], [0, -1.1, 0, 0.5], [0, 0, 0, 1.0]])
NEARLY = TURNED + 1e-4 * np.array([[1, -1, 0, 0], [0, 1, 1, 0], [1, 0, -1, 0], [0, 0, 0, 0]])
OBLIQUE = np.array(
    [[0.9, 0.2, 0.0, -3.0], [-0.3, 0.5, 0.1, 2.0], [0.0, 0.1, 2.0, 0.5], [0.0, 0.0, 0.0, 1.0]]
)
MATRICES = {"upright": UPRIGHT, "turned": TURNED, "nearly": NEARLY, "oblique": OBLIQUE}
SHAPE = (20, 31, 13)


def sparse(kind: str) -> np.ndarray:
    """Mostly empty, with some spots."""
    rng = np.random.default_rng(3)
    values = np.where(rng.uniform(size=SHAPE) > 0.99, rng.uniform(40.0, 250.0, SHAPE), 5.0)
    return values.astype(jnp.dtype(kind))


def cube_around(field: VolumeField) -> tuple[np.ndarray, float]:
    corners = field.corners_of_box()
    low, high = corners.min(axis=0), corners.max(axis=0)
    side = 1.02 * float((high - low).max())
    return 0.5 * (low + high) - 0.5 * side, side


@pytest.mark.parametrize("kind", ["uint8", "float32", "bfloat16"])
@pytest.mark.parametrize("interpolation", ["trilinear", "nearest"])
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("count", [3, 17, 40])
def test_bounds_hold_everywhere_in_a_cell(name, interpolation, kind, count):
    field, params = VolumeField.from_array(
        sparse(kind), transfer=TABLE, to_world=MATRICES[name], interpolation=interpolation
    )
    origin, side = cube_around(field)
    least, greatest = cells_of(
        sparse(kind), TABLE, MATRICES[name], origin, side / count, count,
        nearest=interpolation == "nearest",
    )  # fmt: skip
    assert least.shape == greatest.shape == (count,) * 3
    index = np.random.default_rng(1).integers(0, count, (20_000, 3))
    within = np.random.default_rng(2).uniform(size=(20_000, 3))
    points = jnp.asarray(origin + (index + within) * side / count, jnp.float32)
    density = np.asarray(field.density(params, points)[0], np.float64)
    assert (density > 0.0).any()
    assert (least[tuple(index.T)] <= density + 1e-4).all()
    assert (greatest[tuple(index.T)] >= density - 1e-4).all()
    assert (density[greatest[tuple(index.T)] == 0.0] == 0.0).all()


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("name", ["upright", "turned"])
def test_where_axes_are_parallel_no_voxel_counts_that_is_not_read(name, nearest):
    matrix, values, count = MATRICES[name], sparse("uint8"), 11
    origin, side = cube_around(VolumeField.from_array(values, to_world=matrix)[0])
    cell = side / count
    least, greatest = cells_of(values, TABLE, matrix, origin, cell, count, nearest=nearest)
    inverse = np.linalg.inv(matrix)
    empty = 0
    for index in itertools.product(range(count), repeat=3):
        ends = origin + (np.array(index) + np.array([[0], [1]])) * cell
        lattice = np.sort(ends @ inverse[:3, :3].T + inverse[:3, 3], axis=0)
        read, whole, some = [], True, True
        for low, high, size in zip(lattice[0], lattice[1], SHAPE, strict=True):
            first = math.floor(low + 0.5) if nearest else math.floor(low)
            last = math.floor(high + 0.5) if nearest else math.floor(high) + 1
            read.append(slice(min(max(first, 0), size - 1), min(max(last, 0), size - 1) + 1))
            whole &= low > -0.5 and high < size - 0.5
            some &= high > -0.5 and low < size - 0.5
        # Greatest and least of a table that is linear between values are at voxels or at its rows.
        box = values[tuple(read)].astype(float)
        rows = [row for row in (0.0, 30.0, 60.0, 255.0) if box.min() < row < box.max()]
        seen = np.interp([box.min(), box.max(), *rows], [0, 30, 60, 255], [0, 0, 5, 2])
        np.testing.assert_allclose(greatest[index], seen.max() if some else 0.0, rtol=1e-6)
        np.testing.assert_allclose(least[index], seen.min() if whole else 0.0, rtol=1e-6)
        empty += greatest[index] == 0.0
    assert 0.05 < empty / count**3 < 0.95


def test_a_thin_volume_takes_no_memory_for_the_cells_around_it():
    values, count = np.zeros((3, 512, 512), np.uint8), 32
    tracemalloc.start()
    try:
        cells_of(values, TABLE, UPRIGHT, np.array([-128.0, -0.25, -0.25]), 8.0, count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The planes of as many cells along x would be 8.4 MB.
    assert peak < 5e6

"""Fields of sparse voxels with random values, and their densities by slow loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.fields.voxels import BRICK, VoxelField, VoxelParams, VoxelSettings

SETTINGS = VoxelSettings(width=8)
ORIGIN = np.array([-0.4, 0.1, -1.2], np.float32)


def random_cells(seed: int, size: int = 6, share: float = 0.1) -> np.ndarray:
    mask = np.random.default_rng(seed).uniform(size=(size,) * 3) < share
    mask[0, 0, 0] = mask[-1, -1, -1] = True  # the walls, too
    return mask


def random_field(
    cells: np.ndarray, cell: float = 0.2, voxel: float = 0.1, settings: VoxelSettings = SETTINGS
) -> tuple[VoxelField, VoxelParams]:
    """Random densities and features wherever there are bricks."""
    field = VoxelField.on_lattice(cells, ORIGIN, cell, voxel, settings, view_dependence=0.0)
    params = field.init(jax.random.key(0))
    table = 2.0 * np.random.default_rng(3).normal(size=params.table.shape).astype(np.float32)
    table[:64] = [-15.0, 0.0, 0.0, 0.0]
    return field, dataclasses.replace(params, table=jnp.asarray(table))


def dense(field: VoxelField, params: VoxelParams) -> np.ndarray:
    """The table as a dense lattice [X, Y, Z, 1 + features] in float64, by a loop over bricks."""
    bricks, table = np.asarray(field.bricks), np.asarray(params.table, np.float64)
    lattice = np.zeros((*(BRICK * s for s in bricks.shape), table.shape[1]))
    lattice[..., 0] = -15.0
    for place in np.argwhere(bricks > 0):
        first = BRICK**3 * bricks[tuple(place)]
        for local in np.ndindex(BRICK, BRICK, BRICK):
            row = first + (local[0] * BRICK + local[1]) * BRICK + local[2]
            lattice[tuple(BRICK * place + local)] = table[row]
    return lattice


def slow_density(
    field: VoxelField, params: VoxelParams, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Trilinear interpolation, a corner at a time."""
    lattice, voxel = dense(field, params), float(field.spacing)
    nothing = np.array([-15.0] + [0.0] * (lattice.shape[-1] - 1))
    densities, features = [], []
    for position in positions:
        place = (position - np.asarray(field.origin, np.float64)) / voxel
        lower = np.floor(place).astype(int)
        total = np.zeros(lattice.shape[-1])
        for digits in np.ndindex(2, 2, 2):
            corner = lower + digits
            weight = np.prod(np.where(digits, place - lower, 1.0 - (place - lower)))
            known = (corner >= 0).all() and (corner < lattice.shape[:3]).all()
            total += weight * (lattice[tuple(corner)] if known else nothing)
        densities.append(np.logaddexp(0.0, total[0]) / voxel)
        features.append(total[1:])
    return np.asarray(densities), np.asarray(features)


def points_in(random: np.random.Generator, cells: np.ndarray, cell: float, each: int = 4):
    """Points in the occupied cells."""
    inside = random.uniform(0.01, 0.99, (int(cells.sum()), each, 3))
    return ((np.argwhere(cells)[:, None] + inside) * cell + ORIGIN).reshape(-1, 3)

"""The detail of sparse voxels, a finer lattice in a hash table, against slow loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from voxel_factory import ORIGIN, SETTINGS, points_in, random_cells, random_field, slow_density

from jaxnerf.fields.voxels import VoxelField, VoxelParams, has_detail


def slow_detail(field: VoxelField, params: VoxelParams, positions: np.ndarray) -> np.ndarray:
    """What the detail adds to the interpolated rows, by Python's integers."""
    finer, rows = field.settings.detail_finer, len(params.detail)
    detail, added = np.asarray(params.detail, np.float64), []
    for position in positions:
        place = (position - np.asarray(field.origin, np.float64)) / float(field.spacing) * finer
        lower = np.floor(place).astype(int)
        total = np.zeros(detail.shape[1])
        fraction, corner = place - lower, lower.copy()
        order = np.argsort(-fraction, kind="stable")
        edges = [1.0, *fraction[order], 0.0]
        for number in range(4):
            if number:
                corner[order[number - 1]] += 1
            x, y, z = map(int, corner)
            row = (x ^ (y * 2654435761) ^ (z * 805459861)) % rows
            total += (edges[number] - edges[number + 1]) * detail[row]
        added.append(total)
    return np.asarray(added)


@pytest.mark.parametrize(("finer", "lower"), [(1, 0.0), (2, 0.0), (3, 0.0), (2, 7.0)])
def test_detail_is_a_finer_lattice_in_a_hash_table(finer, lower):
    """With densities lower by 7 logits much of the field has none of its detail, or a part of it."""
    settings = dataclasses.replace(SETTINGS, log2_detail=7, detail_finer=finer)
    cells, random = random_cells(0), np.random.default_rng(1)
    field, plain = random_field(cells, settings=settings)
    plain = dataclasses.replace(plain, table=plain.table.at[64:, 0].add(-lower))
    assert not has_detail(plain)
    assert plain.detail.shape == (1, 4)
    begun = field.begin_detail(plain)
    assert has_detail(begun)
    assert begun.detail.shape == (128, 4)
    where = points_in(random, cells, 0.2)
    positions = jnp.asarray(where, jnp.float32)
    for one, other in zip(
        field.density(plain, positions), field.density(begun, positions), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    params = dataclasses.replace(
        begun, detail=jnp.asarray(random.normal(size=(128, 4)), jnp.float32)
    )
    density, features = field.density(params, positions)
    coarse, added = slow_density(field, params, where), slow_detail(field, params, where)
    logits = np.log(np.expm1(coarse[0] * 0.1))
    fraction = np.clip((logits + 9.0) / 3.0, 0.0, 1.0)
    assert (((fraction > 0.0) & (fraction < 1.0)).mean() > 0.1) == (lower > 0.0)
    added *= fraction[:, None]
    np.testing.assert_allclose(
        density, np.logaddexp(0.0, logits + added[:, 0]) / 0.1, rtol=2e-3, atol=1e-3
    )
    np.testing.assert_allclose(features, coarse[1] + added[:, 1:], atol=2e-4)


def test_detail_adds_nothing_where_there_are_no_bricks():
    settings = dataclasses.replace(SETTINGS, log2_detail=4)
    mask = np.zeros((8,) * 3, bool)
    mask[0, 0, 0] = True
    field = VoxelField.on_lattice(mask, ORIGIN, 0.2, 0.1, settings)
    params = field.begin_detail(field.init(jax.random.key(0)))
    far = ORIGIN + np.float32([[1.5, 1.5, 1.5], [9.0, 0.1, 0.1], [-3.0, 0.0, 0.0]])
    plain = field.density(params, jnp.asarray(far))
    params = dataclasses.replace(params, detail=jnp.full_like(params.detail, 30.0))
    for one, other in zip(plain, field.density(params, jnp.asarray(far)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(jnp.max(plain[0])) < 1e-5
    inside, _ = field.density(params, jnp.asarray(ORIGIN[None] + np.float32(0.05)))
    assert float(inside[0]) > 100.0
    pruned = field.prune(params, np.zeros_like(mask), ORIGIN, 0.2)
    density, _ = field.density(pruned, jnp.asarray(ORIGIN[None] + np.float32(0.05)))
    assert float(density[0]) < 1e-4


def test_detail_is_kept_by_another_lattice_and_begins_again():
    settings = dataclasses.replace(SETTINGS, log2_detail=9)
    cells, random = random_cells(0), np.random.default_rng(1)
    field, params = random_field(cells, settings=settings)
    detail = jnp.asarray(random.normal(size=(512, 4)), jnp.float32)
    params = dataclasses.replace(params, detail=detail)
    finer, after = field.resample(params, cells, ORIGIN, 0.2, 0.05)
    assert not has_detail(after)
    vertices = np.argwhere(cells)[:, None] * 4 + np.stack(np.meshgrid(*[range(5)] * 3), -1).reshape(
        1, -1, 3
    )
    positions = jnp.asarray(vertices.reshape(-1, 3) * 0.05 + ORIGIN, jnp.float32)
    one, other = (f.density(p, positions) for f, p in ((field, params), (finer, after)))
    np.testing.assert_allclose(one[0], other[0], rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(one[1], other[1], atol=2e-3)

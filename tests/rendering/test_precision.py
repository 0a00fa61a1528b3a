"""Precisions: parameters in bfloat16, everything in float64."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnerf import (
    Camera,
    ComposedField,
    NerfField,
    OccupancySampler,
    Stratified,
    TransferFunction,
    VolumeField,
    VoxelField,
    cast_rays,
    render_rays,
)
from jaxnerf.fields.hash_grid import HashGridField
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Split
from jaxnerf.training import PhotometricLoss, begin, sample_batch, train_step

CELLS, CORNER = np.ones((8, 8, 8), bool), np.full(3, -1.0, np.float32)
VOXELS = VoxelField.on_lattice(CELLS, CORNER, 0.25, 0.25, VoxelSettings(width=8))
SMALL = np.diag([0.5, 0.5, 0.5, 1.0])
SCAN, OF_SCAN = VolumeField.from_array(
    np.random.default_rng(2).uniform(0.1, 1.0, (6, 6, 6)).astype(np.float32),
    transfer=TransferFunction.of([0.0, 0.4, 1.0], [0.0, 1.0, 2.0], [0.0, 0.3, 1.0]),
    to_world=np.array([[0.3, 0, 0, -0.75], [0, 0.3, 0, -0.75], [0, 0, 0.3, -0.75], [0, 0, 0, 1]]),
)
FIELDS: dict[str, Any] = {
    "voxels": VOXELS,
    "composition": ComposedField.of([(VOXELS, None), (VOXELS, SMALL)]),
    "scan": SCAN,
    "hash grid": HashGridField(levels=3, coarsest=4, finest=16, log2_rows=8, side=2.0, width=8),
    "network": NerfField(depth=2, width=16, skip_after=0, view_width=8, position_octaves=3),
}
CAMERA = Camera.look_at((0.0, -4.0, 1.0), width=12, height=12, field_of_view=30.0)
PIXELS = np.random.default_rng(0).uniform(2, 10, (9, 2))
SAMPLERS = {
    "dense": Stratified(24),
    "packed": OccupancySampler(Occupancy.of(CELLS, CORNER, 0.25, 0.1), samples=50),
}
PAIRS = [
    *(("voxels", "packed"), ("hash grid", "dense"), ("network", "dense")),
    *(("composition", "packed"), ("scan", "packed"), ("scan", "dense")),
]


def begun(name):
    return OF_SCAN if name == "scan" else FIELDS[name].init(jax.random.key(0))


def as_type(tree, dtype):
    return jax.tree.map(
        lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def colours(field, params, sampler, dtype):
    rays = cast_rays(as_type(CAMERA, dtype), jnp.asarray(PIXELS, dtype), 2.0, 6.0)
    return render_rays(field, params, rays, as_type(sampler, dtype), None, 0.3).colour


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_parameters_in_bfloat16_render_and_have_gradients_in_bfloat16(name, kind):
    field, sampler = FIELDS[name], SAMPLERS[kind]
    params = as_type(begun(name), jnp.bfloat16)

    def loss(params):
        return jnp.mean(colours(field, params, sampler, jnp.float32) ** 2)

    low, slope = jax.jit(jax.value_and_grad(loss))(params)
    high, expected = jax.jit(jax.value_and_grad(loss))(as_type(params, jnp.float32))
    # Rounded parameters are the only difference: the arithmetic is of the rays' precision.
    np.testing.assert_allclose(low, high, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.bfloat16
        atol = 1e-2 * float(jnp.abs(other).max()) + 1e-9
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=1e-2, atol=atol)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_in_float64_everything_is_of_that_precision_and_agrees_with_float32(name, kind):
    field, sampler = FIELDS[name], SAMPLERS[kind]
    if name == "network":
        field = dataclasses.replace(field, dtype="float64")
    params = begun(name)
    single = jax.jit(lambda params: colours(FIELDS[name], params, sampler, jnp.float32))(params)
    with jax.enable_x64(True):
        double = as_type(params, jnp.float64)
        render = jax.jit(lambda params: colours(field, params, sampler, jnp.float64))
        found = render(double)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, single, atol=1e-4)
        # Parameters that stayed in float32 are taken too.
        mixed = render(as_type(params, jnp.float32))
        np.testing.assert_allclose(mixed, found, atol=1e-12)

        loss = jax.jit(jax.value_and_grad(lambda params: jnp.sum(render(params) ** 2)))
        slope = loss(double)[1]
        random = np.random.default_rng(3)
        towards = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape)), double)
        ends = [
            loss(jax.tree.map(lambda p, v, h=h: p + h * v, double, towards))[0]
            for h in (1e-8, -1e-8)
        ]
        along = sum(
            jnp.vdot(a, b)
            for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(towards), strict=True)
        )
        np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2e-8, rtol=1e-4)


def views(seed: int) -> Split:
    """Two noisy photographs of a scene."""
    random = np.random.default_rng(seed)
    poses = [
        Camera.look_at(eye, width=8, height=8).camera_to_world
        for eye in ((0.0, -4.0, 1.0), (4.0, 1.0 + 0.1 * seed, 0.5))
    ]
    images = random.integers(256, size=(2, 8, 8, 4), dtype=np.uint8)
    return Split(("a", "b"), Camera.pinhole(np.stack(poses), 10.0, 8, 8), images)


def test_a_step_in_bfloat16_keeps_its_precision():
    field, optimizer = FIELDS["voxels"], optax.adam(1e-2)
    params = as_type(field.init(jax.random.key(0)), jnp.bfloat16)
    state = begin(field, params, SAMPLERS["packed"], optimizer, 4)
    batch, split = sample_batch(views(0), 16, 0, 0), views(0)
    step = functools.partial(train_step, loss=PhotometricLoss(), optimizer=optimizer)
    with jax.numpy_dtype_promotion("standard"):  # of optax
        after, metrics = jax.jit(step)(state, batch, jax.random.key(0), split.cameras)
    assert np.isfinite(metrics["loss"])
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(after.params))
    assert (after.params.table != params.table).any()


def test_eight_scenes_trained_at_once_are_eight_trained_one_by_one():
    field, sampler, optimizer = FIELDS["voxels"], SAMPLERS["packed"], optax.adam(1e-2, eps=1e-4)
    key, splits = jax.random.key(0), [views(seed) for seed in range(8)]

    def step(state, batch, cameras):
        return train_step(
            state, batch, key, cameras, loss=PhotometricLoss(opacity=0.1), optimizer=optimizer,
            near=2.0, far=6.0,
        )[0]  # fmt: skip

    def states():
        return [
            begin(field, field.init(jax.random.key(seed)), sampler, optimizer, 6)
            for seed in range(8)
        ]

    def stacked(trees):
        return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *trees)

    batches = [
        [sample_batch(split, 16, 0, number, transparent=True) for split in splits]
        for number in range(6)
    ]
    alone, one = [], jax.jit(step)
    for scene, state in enumerate(states()):
        for number in range(6):
            state = one(state, batches[number][scene], splits[scene].cameras)
        alone.append(state.params)
    together, all_cameras = stacked(states()), stacked([split.cameras for split in splits])
    every = jax.jit(jax.vmap(step))
    for number in range(6):
        together = every(together, stacked(batches[number]), all_cameras)
    assert (np.asarray(together.step) == 6).all()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together.params, stacked(alone)
    )
    begun = [state.params.table for state in states()]
    moved = [float(jnp.abs(a.table - b).max()) for a, b in zip(alone, begun, strict=True)]
    assert min(moved) > 1e-2


class Half:
    """A ball whose density is of fewer bits than the rays."""

    def init(self, key):
        return {}

    def density(self, params, positions):
        inside = jnp.sum(positions**2, axis=-1) < 0.25
        return jnp.where(inside, 2.0, 0.0).astype(jnp.bfloat16), positions

    def colour(self, params, features, view_directions):
        return jnp.ones_like(features)


@pytest.mark.parametrize("compositing", ["volume", "surface", "maximum", "mean", "attenuation"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_densities_may_have_fewer_bits_than_rays(sampler, compositing):
    rays = cast_rays(CAMERA, jnp.asarray([[6.0, 6.0]], jnp.float32), 2.5, 5.5)
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        seen = render_rays(Half(), {}, rays, sampler, compositing=compositing)
    assert seen.depth_median.dtype == jnp.float32
    assert 3.0 < float(seen.depth_median[0]) < 5.6

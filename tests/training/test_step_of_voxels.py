"""What a step of a growing field learns from, and that it learns."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_factory import trainer_of_voxels

from jaxnerf import Camera, OccupancySampler, cast_rays, render_rays
from jaxnerf.cameras import look_at_pose
from jaxnerf.compositing import over
from jaxnerf.fields.voxels import VoxelField, VoxelParams, VoxelSettings, smoothed
from jaxnerf.sampling.occupancy import Occupancy, encode
from jaxnerf.scenes import Split
from jaxnerf.scenes.silhouettes import TILE
from jaxnerf.training import sharding
from jaxnerf.training.batches import sample_batch
from jaxnerf.training.coarse_to_fine.settings import CoarseToFineConfig
from jaxnerf.training.coarse_to_fine.stages import state_of
from jaxnerf.training.optimizers import VoxelOptimizerConfig, adam, voxel_optimizer
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.sharding import local_part, parallel
from jaxnerf.training.state import with_optimizer
from jaxnerf.training.trainer import axes_on, gradients_of

VOXELS = VoxelSettings(width=8)
GROWING = CoarseToFineConfig(resolutions=(8, 16), fractions=(0.5,), cells=8, mean_samples=40.0)
CONFIG = TrainingConfig(steps=10, rays_per_batch=32, seed=5)
RATES = VoxelOptimizerConfig(beta1=0.9, beta2=0.999, epsilon=1e-7)


def noise_split(width: int = 24, height: int = 20, views: int = 3) -> Split:
    random = np.random.default_rng(0)
    poses = np.stack([look_at_pose((4.0, view - 1.0, 1.0), (0, 0, 0)) for view in range(views)])
    images = random.integers(256, size=(views, height, width, 4), dtype=np.uint8)
    return Split(tuple("abc"[:views]), Camera.pinhole(poses, 30.0, width, height), images)


TILES = np.array([[0, 0, 0], [0, 2, 2], [1, 1, 0], [2, 0, 2], [2, 2, 1]], np.int32)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_blocks_are_squares_of_the_given_tiles_and_depend_on_seed_and_step_alone(block):
    split = noise_split()
    batch = sample_batch(split, 300, 7, 3, tiles=TILES, block=block)
    again = sample_batch(split, 300, 7, 3, tiles=TILES, block=block)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    for seed, step in ((8, 3), (7, 4)):
        other = sample_batch(split, 300, seed, step, tiles=TILES, block=block)
        assert (other.middle != batch.middle).any()
    allowed = set(map(tuple, TILES.tolist()))
    found = set()
    for camera, middle in zip(batch.camera.tolist(), batch.middle, strict=True):
        corner = middle - 0.5 * block
        assert (corner == np.floor(corner)).all()
        assert (middle + 0.5 * block <= (24, 20)).all()
        found.add((camera, int(middle[1] // TILE), int(middle[0] // TILE)))
    assert found == allowed
    colour = np.asarray(batch.premultiplied())
    for index in range(0, 300, 7):
        x, y = (batch.middle[index] - 0.5 * block).astype(int)
        total = np.zeros(4)
        for row in range(y, y + block):
            for column in range(x, x + block):
                red, green, blue, alpha = split.images[batch.camera[index], row, column] / 255.0
                total += [red * alpha, green * alpha, blue * alpha, alpha]
        np.testing.assert_allclose(colour[index], total / block**2, atol=1e-6)


@pytest.mark.parametrize("block", [1, 2])
def test_squares_at_the_edges_of_pictures_are_drawn_as_often_as_others(block):
    """Of pictures whose sides are no multiple of a tile's."""
    split = noise_split(width=18, height=13, views=1)
    rows, columns = -(-13 // TILE), -(-18 // TILE)
    tiles = np.array([[0, *tile] for tile in np.ndindex(rows, columns)], np.int32)
    batch = sample_batch(split, 60_000, 1, 2, tiles=tiles, block=block)
    x, y = ((batch.middle - 0.5 * block) / block).astype(int).T
    drawn = np.zeros((13 // block, 18 // block))
    np.add.at(drawn, (y, x), 1)
    # Six standard deviations of a Poisson variable.
    assert np.abs(drawn - drawn.mean()).max() < 6.0 * np.sqrt(drawn.mean())


@pytest.mark.parametrize("background", ["white", "black", "random", "#003366"])
def test_blocks_bring_what_is_random_in_a_step(background):
    batch = sample_batch(noise_split(), 3000, 7, 3, tiles=TILES, block=2, background=background)
    assert ((batch.jitter >= 0.0) & (batch.jitter < 1.0)).all()
    assert abs(batch.jitter.mean() - 0.5) < 0.03
    assert batch.background.shape == (3000, 3)
    if background == "random":
        assert ((batch.background >= 0.0) & (batch.background < 1.0)).all()
        each = np.column_stack([batch.background, batch.jitter])
        np.testing.assert_allclose(np.corrcoef(each.T), np.eye(4), atol=0.1)
    else:
        behind = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "#003366": (0.0, 0.2, 0.4)}
        np.testing.assert_allclose(
            batch.background, np.tile(behind[background], (3000, 1)), atol=1e-7
        )


@pytest.mark.parametrize(
    ("total", "begins"), [(100, [0, 10, 40]), (7, [0, 1, 3]), (1001, [0, 100, 400])]
)
def test_stages_begin_at_their_shares(total, begins):
    growing = CoarseToFineConfig()
    stages = [growing.stage(step, total) for step in range(total)]
    assert stages == sorted(stages)
    assert [stages.index(stage) for stage in range(3)] == begins


def state_in_a_cube(side: float = 2.0, config=CONFIG, growing=GROWING, rates=RATES):
    """A field with bricks in a cube around the world's origin."""
    cells, cell, origin = np.ones((8,) * 3, bool), side / 8, np.full(3, -side / 2, np.float32)
    field = VoxelField.on_lattice(cells, origin, cell, cell, VOXELS, view_dependence=0.0)
    code = encode(jnp.asarray(cells), jnp.full(cells.shape, 1e-3))
    occupancy = Occupancy(code, jnp.asarray(origin), jnp.float32(cell), jnp.float32(cell))
    state = state_of(field, occupancy, growing, config)
    return with_optimizer(state, voxel_optimizer(rates))


def prepared_step(
    devices: int, config=CONFIG, growing=GROWING, rates=RATES, transparent=True, split=None
):
    """A mapped step, what it is given, and the whole batch."""
    split = split or noise_split()
    batch = sample_batch(
        split, config.rays_per_batch, config.seed, 0,
        tiles=TILES, block=2, background=config.background, transparent=transparent,
    )  # fmt: skip
    chosen = jax.devices()[:devices]
    trainer = trainer_of_voxels(split, growing, config, optimizer=rates)
    shapes = functools.partial(gradients_of, devices=devices)
    step = parallel(trainer.one_step, chosen, axes=axes_on(devices), gradients=shapes)
    parts = local_part(batch)
    if devices == 1:
        parts = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), parts)
    cameras = jax.tree.map(jnp.asarray, split.cameras)
    state = state_in_a_cube(config=config, growing=growing, rates=rates)
    # What lies in the memory for gradients does not matter.
    step.gradients = jax.tree.map(
        lambda x: x + jnp.asarray(np.nan, x.dtype), step.memory_for(state)
    )
    if axes_on(devices):
        state = dataclasses.replace(state, optimizer=sharding.divided(state.optimizer, chosen))
    return step, (state, parts, jax.random.key(0), cameras), batch


def one_step(devices: int, **how):
    step, arguments, batch = prepared_step(devices, **how)
    after, metrics = step(*arguments)
    return batch, (after, metrics)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize(
    ("background", "transparent"), [("white", True), ("black", False), ("#808080", True)]
)
def test_a_step_is_the_gradient_of_the_loss_through_adam_at_the_rates_of_the_field(
    background, transparent, momentum
):
    config = dataclasses.replace(CONFIG, background=background)
    moments = dataclasses.replace(RATES, beta1=momentum)
    batch, (after, metrics) = one_step(1, config=config, rates=moments, transparent=transparent)
    before, split = state_in_a_cube(), noise_split()
    grey = {"white": 1.0, "black": 0.0, "#808080": 128.0 / 255.0}[background]

    def loss(params):
        rays = cast_rays(
            jax.tree.map(jnp.asarray, split.cameras)[batch.camera], jnp.asarray(batch.middle)
        )
        sampler = dataclasses.replace(
            GROWING.sampler(before.sampler.occupancy), jitter=jnp.asarray(batch.jitter)
        )
        seen = render_rays(before.field, params, rays, sampler, None, grey)
        colour = batch.premultiplied()
        error = seen.colour - over(colour[:, :3], colour[:, 3], grey)
        mse = jnp.mean(error**2)
        alpha = jnp.mean((seen.opacity - colour[:, 3]) ** 2)
        return mse + 0.1 * alpha if transparent else mse

    start = before.params
    value, gradient = jax.jit(jax.value_and_grad(loss))(start)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(gradient)))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    assert int(after.step) == 1
    # Adam's first step is the gradient over its absolute value; then densities sink by 2% of their rate,
    # but for those of bricks that do not exist.
    table = np.full((1, 4), RATES.feature_rate)
    table[0, 0] = RATES.density_rate
    rates = dataclasses.replace(
        before.params,
        table=table,
        network=jax.tree.map(lambda _: RATES.network_rate, before.params.network),
    )
    sinks = start.table.at[64:, 0].add(-0.02 * RATES.density_rate)
    start = dataclasses.replace(start, table=sinks)
    for new, old, slope, rate in zip(
        *map(jax.tree.leaves, (after.params, start, gradient, rates)), strict=True
    ):
        slope = np.asarray(slope, np.float64)
        expected = np.asarray(old) - rate * slope / (np.abs(slope) + 1e-7)
        # Where the gradient is about as large as Adam's epsilon its rounding shows.
        clear = (np.abs(slope) > 1e-5) | (slope == 0.0)
        found = np.where(clear, new, expected)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, after.field, before.field)
    assert 0.0 <= float(metrics["truncated"]) <= 1.0
    assert float(metrics["dropped"]) == 0.0
    assert float(metrics["samples"]) > 1.0
    assert float(metrics["learning_rate"]) == np.float32(moments.density_rate)


@pytest.mark.parametrize(("devices", "few", "by"), [(1, 3, 0.5), (2, 1, 0.5 / 3)])
def test_every_twentieth_step_smooths_what_the_optimizer_leaves(devices, few, by, monkeypatch):
    monkeypatch.setattr("jaxnerf.methods.voxels._FEW", few)  # of the three photographs
    smooth = dataclasses.replace(RATES, smoothing=0.5)
    _, (plain, _) = one_step(devices)
    _, (after, _) = one_step(devices, rates=smooth)
    expected = smoothed(plain.field, plain.params, jnp.float32(by))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, after.params, expected)
    assert np.abs(np.asarray(after.params.table - plain.params.table)).max() > 0.1 * by
    # Between these steps it does nothing, nor in the second half of them all; before that ever less.
    less = 0.5 * RATES.final_fraction**0.25
    for number, total, share in ((21, 1000, 0.0), (40, 80, 0.0), (20, 80, less)):
        found = []
        for rates in (smooth, RATES):
            step, (state, *others), _ = prepared_step(devices, rates=rates)
            at = {"step": jnp.int32(number), "total_steps": jnp.int32(total)}
            found.append(step(dataclasses.replace(state, **at), *others)[0])
        later, same = found
        expected = (
            smoothed(same.field, same.params, jnp.float32(share * by)) if share else same.params
        )
        jax.tree.map(close, later.params, expected)


def test_without_momentum_a_direction_is_the_gradient_over_its_root_mean_square():
    beta, epsilon = 0.9, 1e-3
    without = adam(0.0, beta, epsilon)
    slopes = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    state = without.init(jnp.zeros(3))
    assert sum(np.size(leaf) == 3 for leaf in jax.tree.leaves(state)) == 1
    with jax.numpy_dtype_promotion("standard"):
        for slope in slopes:
            direction, state = without.update(jnp.asarray(slope), state)
    # Kingma and Ba, "Adam", algorithm 1 with beta1 = 0; the sums written out.
    count = len(slopes)
    weights = (1.0 - beta) * beta ** np.arange(count - 1, -1, -1.0)
    second = weights @ slopes.astype(np.float64) ** 2 / (1.0 - beta**count)
    np.testing.assert_allclose(direction, slopes[-1] / (np.sqrt(second) + epsilon), rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_detail_learns_at_a_fraction_of_the_rates_of_the_table(momentum):
    rates = VoxelOptimizerConfig(
        density_rate=0.5, feature_rate=0.2, detail_fraction=0.25, beta1=momentum, density_decay=0.02
    )
    params = VoxelParams(jnp.ones((8, 4)), [{"kernel": jnp.ones((2, 2))}], jnp.ones((16, 4)))
    optimizer, slopes = voxel_optimizer(rates), jax.tree.map(lambda x: -3.0 * x, params)
    how = {"step": jnp.int32(0), "total_steps": jnp.int32(10)}
    with jax.numpy_dtype_promotion("standard"):
        moved, _ = optimizer.update(slopes, optimizer.init(params), params, **how)
    # Adam's first step is the rate, whatever the gradient; the table's density decays by 2% of its rate.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    close(moved.table, np.tile([0.5 - 0.01, 0.2, 0.2, 0.2], (8, 1)))
    close(moved.detail, np.tile([0.125, 0.05, 0.05, 0.05], (16, 1)))
    close(moved.network[0]["kernel"], rates.network_rate)


def test_limits_of_a_batch_are_in_steps_each_of_which_has_some_samples():
    growing = CoarseToFineConfig(samples=40, max_steps=80, mean_samples=8.0, samples_per_voxel=2)
    occupancy = state_in_a_cube().sampler.occupancy

    def limits(sampler: OccupancySampler):
        return (
            sampler.samples, sampler.max_steps, sampler.mean_samples, sampler.samples_per_voxel
        )  # fmt: skip

    assert limits(growing.sampler(occupancy)) == (80, 160, 16.0, 2)
    assert limits(growing.sampler(occupancy, 0.5)) == (160, 320, 32.0, 2)
    one = dataclasses.replace(growing, samples_per_voxel=1)
    assert limits(one.sampler(occupancy)) == (40, 80, 8.0, 1)


@pytest.mark.parametrize("finer", [1, 2])
def test_rays_that_overflow_the_budget_are_counted_and_do_not_count(finer):
    growing = dataclasses.replace(GROWING, mean_samples=1.0, samples_per_voxel=finer)
    _, (_, metrics) = one_step(1, growing=growing)
    assert 0.2 < float(metrics["dropped"]) < 1.0
    assert float(metrics["samples"]) * (1.0 - float(metrics["dropped"])) <= finer * 1.0
    assert np.isfinite(float(metrics["loss"]))
    _, (_, short) = one_step(
        1, growing=dataclasses.replace(GROWING, samples=2, samples_per_voxel=finer)
    )
    assert float(short["truncated"]) > 0.3


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_two_devices_take_the_step_of_one(momentum):
    rates = dataclasses.replace(RATES, beta1=momentum)
    _, (one, alone) = one_step(1, rates=rates)
    _, (two, shared) = one_step(2, rates=rates)
    for name, value in alone.items():
        assert float(shared[name]) == pytest.approx(float(value), rel=1e-4), name
    # Adam's first step is the gradient's sign, which rounding decides where there is next to none.
    away = np.abs(np.asarray(one.params.table) - np.asarray(two.params.table))
    assert away.mean() < 1e-4


@pytest.mark.parametrize("passes", [8, 12])
def test_the_passes_of_a_step_do_not_change_it(passes):
    _, (one, whole) = one_step(1)
    _, (other, parts) = one_step(1, config=dataclasses.replace(CONFIG, rays_per_pass=passes))
    assert float(whole["dropped"]) == float(parts["dropped"]) == 0.0
    for name, value in whole.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-4), name
    assert np.abs(np.asarray(one.params.table) - np.asarray(other.params.table)).mean() < 1e-4


@pytest.mark.parametrize("devices", [1, 2])
def test_gradients_lie_where_those_of_the_step_before_were(devices):
    step, arguments, _ = prepared_step(devices)

    def places(tree):
        return [
            part.data.unsafe_buffer_pointer()
            for leaf in jax.tree.leaves(tree)
            if leaf.size > 1000
            for part in leaf.addressable_shards
        ]

    before = places(step.gradients)
    assert len(set(before)) == (1 if devices == 1 else 4)
    _, metrics = step(*arguments)
    assert places(step.gradients) == before
    alone, together = (step.gradients, None) if devices == 1 else step.gradients
    table = np.asarray(alone[0].table)
    assert table.shape[0] == devices
    assert np.isfinite(table).all()
    assert float(metrics["gradient_norm"]) > 0.0
    if devices == 2:
        np.testing.assert_allclose(
            np.concatenate(np.asarray(together[0].table)), table.sum(axis=0), rtol=1e-5, atol=1e-9
        )


def test_on_one_device_the_table_is_moved_where_it_lies():
    """XLA:CPU copies arrays that it does not see to be written in place, at each step."""
    step, arguments, _ = prepared_step(1, rates=dataclasses.replace(RATES, density_decay=0.02))
    rows, numbers = arguments[0].params.table.shape
    program = step.mapped.lower(*arguments, step.gradients).compile().as_text()
    entry = program[program.index("\nENTRY") :]
    table = rf"f32\[(?:1,)?{rows},{numbers}\]"
    assert re.search(rf"{table}\S* fusion\(", entry)
    assert not re.findall(rf"{table}\S* copy\(.*", entry)

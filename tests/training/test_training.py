"""Training: what a step computes, on any number of devices, and that it can be interrupted."""

import dataclasses
import functools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scene_factory import TINY, write_scene

from jaxnerf import Camera, Config, cast_rays, render_rays
from jaxnerf.cameras import look_at_pose
from jaxnerf.config.sections import NerfConfig
from jaxnerf.fields.nerf import NerfField
from jaxnerf.methods import nerf
from jaxnerf.runs.run import load_run
from jaxnerf.scenes import Split
from jaxnerf.training import PhotometricLoss, TrainState, begin, train_step
from jaxnerf.training.batches import sample_batch
from jaxnerf.training.loop import FitError, train
from jaxnerf.training.optimizers import NetworkOptimizerConfig, learning_rate, network_optimizer
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.sharding import divided, local_part, memory_like, parallel, replicate
from jaxnerf.training.trainer import AXES, Trainer, gradients_of

FIELD = NerfField(depth=2, width=16, skip_after=0, view_width=8, position_octaves=3)
RATES = NetworkOptimizerConfig(learning_rate=1e-2, final_learning_rate=1e-3, delay_steps=0)
NERF = NerfConfig(field=FIELD, samples=(4, 4), optimizer=RATES)
CONFIG = TrainingConfig(steps=4, rays_per_batch=32)


def noise_split(views: int = 3, side: int = 8) -> Split:
    numbers = np.random.default_rng(0)
    poses = np.stack([look_at_pose((4.0, view - 1.0, 1.0), (0, 0, 0)) for view in range(views)])
    images = numbers.integers(256, size=(views, side, side, 4), dtype=np.uint8)
    return Split(tuple("abc"[:views]), Camera.pinhole(poses, 10.0, side, side), images)


def first_state(config: TrainingConfig = CONFIG) -> TrainState:
    params = tuple(FIELD.init(key) for key in jax.random.split(jax.random.key(config.seed)))
    optimizer = network_optimizer(RATES)
    return begin((FIELD, FIELD), params, NERF.sampler(), optimizer, config.steps)


def trainer(config: TrainingConfig, split: Split | None = None, method=NERF) -> Trainer:
    whole = Config(method="nerf", nerf=method, training=config)
    return nerf.trainer_on(split or noise_split(), whole, 2.0, 6.0)


def batch_of(
    config: TrainingConfig, split: Split, step: int = 0, size: int = 0, one_image: bool = False
):
    return sample_batch(
        split, size or config.rays_per_batch, config.seed, step, one_image=one_image,
        background="black" if config.background == "black" else "white",
    )  # fmt: skip


def tiny_run(steps: int, config=CONFIG, state=None, split: Split | None = None, method=NERF):
    config = dataclasses.replace(config, steps=steps)
    state = first_state(config) if state is None else state
    losses, way = [], trainer(config, split, method)
    for progress in train(state, way, report_every=1):
        losses.append(progress.metrics["loss"])
        state = progress.state
    return way.to_host(state), losses


def step_on(devices, config=CONFIG, method=NERF):
    """State and metrics after one step on given devices; the optimizer's state of the first of them."""
    split, state = noise_split(), first_state(config)
    batch = batch_of(config, split)
    shared = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)
    shapes = functools.partial(gradients_of, devices=len(devices))
    way = trainer(config, method=method)
    step = parallel(way.one_step, devices, axes=AXES, gradients=shapes)
    state = dataclasses.replace(state, optimizer=divided(state.optimizer, devices))
    cameras = jax.tree.map(jnp.asarray, split.cameras)
    after, metrics = step(state, shared, jax.random.key(0), cameras)
    moments = jax.tree.map(lambda x: x[0], after.optimizer)
    return dataclasses.replace(after, optimizer=moments), metrics


def assert_trees_close(one, other, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerance),
        one,
        other,
    )


def test_two_devices_and_one_take_the_same_step():
    one, metrics_one = step_on(jax.devices()[:1])
    two, metrics_two = step_on(jax.devices()[:2])
    assert len(jax.devices()) == 2
    assert_trees_close(metrics_one, metrics_two, rtol=1e-5)
    # Adam divides by the gradient's size, so compare its moments and not the quotient.
    assert_trees_close(one.optimizer[0].mu, two.optimizer[0].mu, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("place", [replicate, memory_like])
def test_what_is_placed_has_memory_of_its_own_on_each_device(place):
    # Sixteen times the same array: whether JAX takes NumPy's memory depends on how that is aligned.
    given = [np.arange(5000, dtype=np.float32) for _ in range(16)]
    placed = place(given)
    owned = set()
    for array, numbers in zip(placed, given, strict=True):
        parts = [part.data.unsafe_buffer_pointer() for part in array.addressable_shards]
        assert len(parts) == 2
        assert numbers.ctypes.data not in parts
        owned |= set(parts)
        expected = numbers if place is replicate else np.zeros((2, 5000))
        np.testing.assert_array_equal(array, expected)
    assert len(owned) == 32


@pytest.mark.parametrize(("rays", "passes"), [(16, 4), (16, 5), (16, 16), (17, 5), (17, 17)])
def test_the_passes_of_a_step_do_not_change_it(rays, passes):
    """Also of a prime number of rays, which no number of them divides."""
    config = dataclasses.replace(CONFIG, rays_per_batch=rays)
    _, whole = step_on(jax.devices()[:1], config)
    _, parts = step_on(jax.devices()[:1], dataclasses.replace(config, rays_per_pass=passes))
    assert_trees_close(whole, parts, rtol=1e-5)


def test_the_loss_is_the_mean_squared_error_of_both_levels():
    """A step's loss, against rendering its rays one at a time."""
    config = dataclasses.replace(CONFIG, background="black")
    state = first_state(config)
    _, metrics = step_on(jax.devices()[:1], config, dataclasses.replace(NERF, coarse_loss=0.5))
    split, key = noise_split(), jax.random.fold_in(jax.random.key(0), 0)
    batch = batch_of(config, split)
    coarse_errors, fine_errors = [], []

    @jax.jit
    def render(rays, key):
        return render_rays(
            (FIELD, FIELD), state.params, rays, NERF.sampler(), key, 0.0, proposals=True
        )

    for ray, (camera, middle, (colour,)) in enumerate(
        zip(batch.camera, batch.middle, batch.pixels, strict=True)
    ):
        rays = cast_rays(split.cameras[camera], jnp.asarray(middle), 2.0, 6.0)
        ray_key = jax.random.fold_in(key, ray)
        target = colour[:3] / 255.0 * colour[3] / 255.0
        fine = render(rays, ray_key)
        (coarse,) = fine.proposals
        for errors, level in ((coarse_errors, coarse), (fine_errors, fine)):
            errors.append(np.mean((np.asarray(level.colour) - target) ** 2))
    fine, coarse = np.mean(fine_errors), np.mean(coarse_errors)
    np.testing.assert_allclose(metrics["mse"], fine, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], fine + 0.5 * coarse, rtol=1e-4)


def test_a_step_of_one_device_needs_no_axis_and_takes_any_optimizer_and_loss():
    split, config = noise_split(), CONFIG
    batch, key = batch_of(config, split), jax.random.key(0)
    cameras = jax.tree.map(jnp.asarray, split.cameras)
    mapped, metrics = step_on(jax.devices()[:1])
    given = {"loss": PhotometricLoss(proposals=1.0), "near": 2.0, "far": 6.0}
    alone, same = jax.jit(
        lambda state: train_step(
            state, batch, key, cameras, optimizer=network_optimizer(RATES), **given
        )
    )(first_state())
    del metrics["learning_rate"]  # which an optimizer of one's own may not have
    for name, value in metrics.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-5, err_msg=name)
    # Adam's first step is the gradient's sign, which rounding decides where there is next to none.
    assert_trees_close(alone.optimizer[0].mu, mapped.optimizer[0].mu, rtol=1e-4, atol=1e-8)
    # Of one's own: plain descent, and a loss of the absolute error, which is a number alone.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    state = begin((FIELD, FIELD), first_state().params, NERF.sampler(), optimizer, 10)

    def absolute(rendering, target):
        return jnp.mean(jnp.abs(rendering.colour - target.colour))

    step = jax.jit(
        lambda state: train_step(
            state, batch, key, cameras, loss=absolute, optimizer=optimizer, near=2.0, far=6.0
        )
    )
    after, first = step(state)
    assert int(after.step) == 1
    for _ in range(30):
        after, last = step(after)
    assert float(last["loss"]) < float(first["loss"])


def test_parameters_are_constrained_after_the_optimizer_s_step():
    split, config = noise_split(), CONFIG
    batch, key = batch_of(config, split), jax.random.key(0)
    cameras, state = jax.tree.map(jnp.asarray, split.cameras), first_state()

    def bounded(field, params, step, total_steps):
        limit = 0.1 * (step + 1).astype(jnp.float32) / total_steps.astype(jnp.float32)
        return jax.tree.map(lambda x: jnp.clip(x, -limit, limit), params)

    how = {
        "loss": PhotometricLoss(),
        "optimizer": network_optimizer(RATES),
        "near": 2.0,
        "far": 6.0,
    }
    free, _ = jax.jit(lambda s: train_step(s, batch, key, cameras, **how))(state)
    held, _ = jax.jit(lambda s: train_step(s, batch, key, cameras, constrain=bounded, **how))(state)
    limit = 0.1 / int(state.total_steps)
    expected = jax.tree.map(lambda x: np.clip(x, -limit, limit), free.params)
    assert_trees_close(held.params, expected, rtol=1e-5, atol=1e-8)
    assert_trees_close(held.optimizer[0].mu, free.optimizer[0].mu, rtol=1e-5, atol=1e-9)


def test_a_step_is_adams():
    """Parameters after a step, against optax's own Adam on the gradient that the moments hold."""
    before = jax.tree.map(np.asarray, first_state())
    after, metrics = step_on(jax.devices()[:1])
    gradient = jax.tree.map(lambda mu: np.asarray(mu) / (1.0 - RATES.beta1), after.optimizer[0].mu)
    adam = optax.adam(metrics["learning_rate"], eps=RATES.epsilon)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = adam.update(gradient, adam.init(before.params))
    expected = optax.apply_updates(before.params, updates)
    assert_trees_close(after.params, expected, atol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)


def test_batches_are_a_function_of_seed_and_step_and_cover_all_pixels_evenly():
    split = noise_split()
    one, same, other = (batch_of(CONFIG, split, step, 40_000) for step in (7, 7, 8))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (one.middle != other.middle).any()
    x, y = (one.middle - 0.5).astype(int).T
    drawn = np.zeros((3, 8, 8))
    np.add.at(drawn, (one.camera, y, x), 1)
    # Of a pixel in 40,000 draws from 192: 208, with a standard deviation of 14.
    assert 140 < drawn.min() < drawn.max() < 280
    np.testing.assert_array_equal(one.pixels[:, 0], split.images[one.camera, y, x])
    single = batch_of(CONFIG, split, one_image=True)
    assert len(set(single.camera)) == 1


def test_parts_of_a_batch_partition_it():
    batch = batch_of(CONFIG, noise_split())
    shared = local_part(batch)
    assert shared.camera.shape == (2, 16)
    np.testing.assert_array_equal(shared.middle.reshape(-1, 2), batch.middle)
    with pytest.raises(ValueError, match="do not divide 31 rays"):
        local_part(jax.tree.map(lambda x: x[:31], batch))


def test_the_learning_rate_decays_log_linearly_after_a_delay():
    config = NetworkOptimizerConfig(
        learning_rate=1e-2, final_learning_rate=1e-4, delay_steps=100, delay_factor=0.1
    )

    def at(step, total=10_000):
        return float(learning_rate(config, jnp.asarray(step), jnp.asarray(total)))

    np.testing.assert_allclose(at(0), 1e-3, rtol=1e-5)
    np.testing.assert_allclose(at(5000), 1e-3, rtol=1e-5)
    np.testing.assert_allclose(at(10_000), 1e-4, rtol=1e-5)
    ramp = 0.1 + 0.9 * np.sin(np.pi / 4)
    np.testing.assert_allclose(at(50), 1e-2 * 0.01 ** (50 / 10_000) * ramp, rtol=1e-5)
    # In a run of 200 steps the delay is 20 of them.
    np.testing.assert_allclose(at(20, 200), 1e-2 * 0.01**0.1, rtol=1e-4)


def test_training_learns_what_all_photographs_agree_on():
    split = noise_split()
    split.images[:] = [200, 100, 50, 255]
    _, losses = tiny_run(60, split=split)
    assert np.mean(losses[-5:]) < 0.02 * losses[0]


def test_divergence_stops_with_a_word_on_what_to_do():
    rates = dataclasses.replace(RATES, learning_rate=1e30, final_learning_rate=1e30)
    with pytest.raises(FitError, match=r"diverged. Lower nerf\.optimizer\.learning_rate"):
        tiny_run(40, method=dataclasses.replace(NERF, optimizer=rates))


def test_a_time_budget_fixes_the_number_of_steps_once():
    deadlines, totals = [], []
    config = dataclasses.replace(CONFIG, steps=1_000_000)
    for progress in train(
        first_state(config), trainer(config), plan=True, report_every=20,
        seconds_left=lambda: deadlines[0] - time.perf_counter() if deadlines else 1e6,
    ):  # fmt: skip
        # The clock starts when compilation is over, so that a busy machine does not matter.
        deadlines.append(time.perf_counter() + 5.0)
        totals.append(progress.total_steps)
    assert time.perf_counter() < deadlines[0] + 1.0
    assert totals[0] == 1_000_000
    planned = [total for total in totals if total < 1_000_000]
    # All but the last report, which may be an early stop, agree.
    assert len(set(planned[:-1])) == 1
    assert progress.step == totals[-1]


def test_interrupted_and_whole_runs_end_with_the_same_bits():
    # The first half's schedule ends at its own last step, so take a rate that does not decay.
    rates = dataclasses.replace(RATES, final_learning_rate=RATES.learning_rate)
    flat = dataclasses.replace(NERF, optimizer=rates)
    whole, _ = tiny_run(6, method=flat)
    half, _ = tiny_run(3, method=flat)
    half = dataclasses.replace(jax.tree.map(np.asarray, half), total_steps=np.int32(6))
    resumed, _ = tiny_run(6, state=jax.tree.map(jnp.asarray, half), method=flat)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), whole, resumed
    )


def test_killed_three_times_and_resumed_ends_with_the_same_bits(tmp_path):
    data = write_scene(tmp_path / "scene")
    steps = 600

    def command(out, *more):
        flags = ["train", "--data", str(data), "--out", str(out), "--noevaluate", *TINY, *more]
        code = f"from jaxnerf.cli import main; raise SystemExit(main({flags!r}))"
        return [sys.executable, "-c", code]

    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    size = [f"--max_steps={steps}", "--checkpoint_seconds=0"]
    subprocess.run(
        command(tmp_path / "whole", *size), check=True, capture_output=True, env=environment
    )
    chance = random.Random(0)
    killed = tmp_path / "killed"
    for attempt in range(3):
        more = ["--resume"] if (killed / "config.json").exists() else []
        process = subprocess.Popen(
            command(killed, *size, *more), env=environment, stdout=subprocess.PIPE, text=True
        )
        metrics = killed / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5 * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    subprocess.run(
        command(killed, *size, "--resume"), check=True, capture_output=True, env=environment
    )
    whole, resumed = load_run(tmp_path / "whole"), load_run(killed)
    assert whole.step == resumed.step == steps
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_finishes_the_step_and_keeps_it(tmp_path, sign):
    out = tmp_path / "run"
    flags = ["train", "--data", str(write_scene(tmp_path / "scene")), "--out", str(out), *TINY]
    code = f"from jaxnerf.cli import main; raise SystemExit(main({flags!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (out / "metrics.jsonl").is_file():
        time.sleep(0.01)
    time.sleep(1.0)
    process.send_signal(sign)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    step = load_run(out).step
    assert step > 0
    assert f"stopped at step {step}; go on with --out {out} --resume" in printed
    assert not (out / "results.json").exists()


@pytest.mark.slow
def test_a_hundred_large_photographs_train_within_two_gigabytes(real_data, tmp_path):
    # Not getrusage, which counts what the process that started this one held.
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here to tell the peak of resident memory")
    data, out = real_data / "nerf_synthetic" / "lego", tmp_path / "run"
    flags = ["train", f"--data={data}", f"--out={out}", "--config=nerf", "--max_steps=2"]
    flags += ["--training.rays_per_batch=128", "--noevaluate"]
    code = f"""
from pathlib import Path
from jaxnerf.cli import main
assert main({flags!r}) == 0
print(Path("{status}").read_text())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak = int(done.stdout.split("VmHWM:")[1].split()[0]) * 1024
    photographs = 100 * 800 * 800 * 4
    assert photographs < peak < 2 * 1024**3

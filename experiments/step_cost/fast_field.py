"""What a training step of the fast field costs, part by part, against what the machine can do.

    python experiments/step_cost/fast_field.py --data nerf_synthetic/lego --save lego.json

Trains a preset for some steps, then times programs that each do one part more than the one before, on
the devices that training uses and in turn, and prints the differences; and the step on other devices.
Beside each are the bytes that the part must move and its floating-point operations, counted from the
arrays' shapes, and the share of the part's time in which the machine, at the speed of its own copies
and matrix products (measured here too), could have done that. The last part, the update, is all that is
left of a step: random numbers, target colours, Adam.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf import render_rays
from jaxnerf.cameras import cast_rays
from jaxnerf.cli.common import prepare_cpu
from jaxnerf.config import Config
from jaxnerf.config.presets import preset
from jaxnerf.methods import voxels
from jaxnerf.sampling.traversal import march
from jaxnerf.scenes import load_scene
from jaxnerf.training import sharding
from jaxnerf.training.batches import sample_batch
from jaxnerf.training.coarse_to_fine.settings import StageInputs
from jaxnerf.training.coarse_to_fine.stages import first_state
from jaxnerf.training.coarse_to_fine.strategy import block_size
from jaxnerf.training.loop import train
from jaxnerf.training.sharding import AXIS, devices_for, local_part, replicate
from jaxnerf.training.state import with_optimizer
from jaxnerf.training.trainer import Trainer, axes_on, gradients_of, local

_FLOAT = 4  # bytes


def parts_of_a_step(config: Config, trainer: Trainer) -> dict[str, Callable]:
    """Per-device programs of (state, batch, key, cameras), each with a part more."""
    stages, training = config.voxels.stages, config.training

    def sampled(state, batch, cameras):
        rays = cast_rays(cameras[batch.camera], jnp.asarray(batch.middle))
        whole = batch.camera.shape[0] * jax.lax.axis_size(AXIS)
        return rays, stages.sampler(state.sampler.occupancy, whole / training.rays_per_batch)

    def marching(state, batch, _key, cameras):
        rays, sampler = sampled(state, batch, cameras)
        samples = sampler(None, None, rays)
        return samples.t, jnp.sum(samples.used, axis=0)

    def points(state, batch, _key, cameras):
        rays, sampler = sampled(state, batch, cameras)
        return sampler(None, None, rays).positions(rays)

    def density(state, *rest):
        return state.field.density(state.params, points(state, *rest))

    def rendering(state, batch, _key, cameras, params=None):
        rays, sampler = sampled(state, batch, cameras)
        params = state.params if params is None else params
        return render_rays(state.field, params, rays, sampler).colour

    def gradients(state, *rest):
        def loss(params):
            return jnp.mean((rendering(state, *rest, params=params) - 0.5) ** 2)

        return jax.grad(loss)(state.params)

    def summed(state, *rest):
        return sharding.summed(gradients(state, *rest))

    return {
        "marching": marching, "packing": points, "density": density,
        "colour, compositing": rendering, "backward": gradients, "sum over devices": summed,
        "update": trainer.one_step,
    }  # fmt: skip


def work_of_parts(
    config: Config, state: Any, rays: int, looked: float, samples: int, devices: int
) -> dict:
    """(bytes, floating-point operations) of each part for the whole batch, from shapes alone.

    Args:
      config: of the step.
      state: on the host.
      rays: of the batch.
      looked: lookups a ray.
      samples: of the batch.
      devices: how many.
    """
    field, stages, table = config.voxels.field, config.voxels.stages, np.asarray(state.params.table)
    numbers = table.shape[1]
    rays_in_full = config.training.rays_per_batch
    slots = int(stages.mean_samples * stages.samples_per_voxel * rays_in_full)
    inputs = field.features + (field.sh_degree + 1) ** 2
    network = 2 * rays * (inputs * field.width + field.width**2 + 3 * field.width)
    gathered = 8 * numbers * _FLOAT * samples
    whole = table.size * _FLOAT
    moments = round(sum(np.size(x) for x in jax.tree.leaves(state.optimizer)) / table.size)
    return {
        # A byte of the grid, a slot, and about thirty operations for each lookup.
        "marching": (looked * rays * (1 + _FLOAT), 30 * looked * rays),
        "packing": (slots * 5 * _FLOAT, 10 * slots),
        # Eight rows and numbers of bricks read, one row written.
        "density": (
            gathered + 8 * _FLOAT * samples + slots * numbers * _FLOAT,
            samples * 8 * (2 * numbers + 3),
        ),
        "colour, compositing": (2 * slots * numbers * _FLOAT, network + 10 * samples),
        # The gradient is cleared, then eight rows a sample are read, added to and written.
        "backward": (
            devices * whole + 3 * gathered,
            2 * network + samples * 8 * 2 * numbers + 10 * samples,
        ),
        # All read what they have of each share, and write their own.
        "sum over devices": ((devices > 1) * (devices + 1) * whole, (devices - 1) * table.size),
        # Gradient, moments and the table are read, all but the gradient written, a share on each
        # device; then each is given the others'.
        "update": (
            (3 + 2 * moments) * whole + (devices > 1) * devices * 2 * whole,
            (6 + 3 * moments) * table.size,
        ),
    }


def machine_limits() -> tuple[float, float]:
    """Bytes a second of copying, and floating-point operations a second of products, of all devices."""
    count = jax.device_count()
    large = jax.pmap(lambda _: jnp.ones((1 << 24,)))(jnp.arange(count))
    square = jax.pmap(lambda _: jnp.ones((2048, 2048)))(jnp.arange(count))
    copy, product = jax.pmap(lambda x: x + 1.0), jax.pmap(lambda x: x @ x)
    moved = seconds_of(lambda: copy(large), 7)
    multiplied = seconds_of(lambda: product(square), 7)
    return count * 2 * _FLOAT * (1 << 24) / moved, count * 2 * 2048**3 / multiplied


def seconds_of(run: Callable, repeats: int) -> float:
    """The median time of a function whose results are waited for, after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def mapped(step: Callable, devices: Sequence[Any]) -> sharding.ParallelStep:
    """A whole step on some devices."""
    shapes = functools.partial(gradients_of, devices=len(devices))
    return sharding.parallel(step, devices, axes=axes_on(len(devices)), gradients=shapes)


def seconds_on(devices: Sequence[Any], step: Callable, state, constant) -> Callable:
    """A function of a batch that takes a step on some devices, and returns its seconds."""
    program = mapped(step, devices)
    divided = replicate if axes_on(len(devices)) is None else sharding.divided
    moments = divided(state.optimizer, devices)
    state = replicate(dataclasses.replace(state, optimizer=None), devices)
    held = [dataclasses.replace(state, optimizer=moments)]
    key, cameras = constant[0], replicate(jax.tree.map(np.asarray, constant[1]), devices)

    def run(batch) -> float:
        parts = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[2:]), batch)
        before = held.pop()
        begun = time.perf_counter()
        held.append(jax.block_until_ready(program(before, parts, key, cameras))[0])
        return time.perf_counter() - begun

    return run


def cumulative_seconds(
    parts: dict[str, Callable], state, whole, batches, constant, repeats: int, devices, others
) -> dict[str, float]:
    """The median time of each program, in turn, so that a busy moment hits all.

    Args:
      parts: of a step.
      state, whole: on the devices, and as a whole.
      batches, constant: what else they take.
      repeats: of each.
      devices: on which.
      others: devices on which the last program is timed too, as "others"; may be none.
    """
    axes = axes_on(len(devices))
    programs: dict[str, Callable] = {
        name: mapped(part, devices)
        if name == "update"
        else jax.pmap(part, axis_name=AXIS, in_axes=(axes, 0, None, None), devices=devices)
        for name, part in parts.items()
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    elsewhere = None
    if others:
        elsewhere = seconds_on(others, parts["update"], whole, constant)
        times["others"] = []
    for repeat in range(repeats + 2):
        if elsewhere:
            spent = elsewhere(batches[repeat % len(batches)])
            times["others"] += [spent] * (repeat > 1)
        for name, program in programs.items():
            batch = batches[repeat % len(batches)]
            begun = time.perf_counter()
            result = jax.block_until_ready(program(state, batch, *constant))
            if repeat > 1:  # those before compile
                times[name].append(time.perf_counter() - begun)
            if name == "update":  # it took the old state's memory
                state, _ = result
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="folder of the scene; the demo scene by default")
    parser.add_argument("--preset", default="five_minutes")
    parser.add_argument("--steps", type=int, default=1000, help="of training before")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--save", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    config = preset(options.preset)
    prepare_cpu(config.training.rays_per_batch)
    training = dataclasses.replace(config.training, steps=options.steps, max_seconds=0.0)
    config = dataclasses.replace(config, training=training)

    split = load_scene(options.data, images=("train",)).splits["train"]
    trainer = voxels.trainer_on(split, config, unbounded=False)
    state = first_state(StageInputs(split, config.voxels.stages, training), config.voxels.field)
    state = with_optimizer(state, voxels.optimizer(config))
    *_, last = train(state, trainer, report_every=50)
    kept = local(trainer.to_host(last.state))
    tiles, rays = np.argwhere(kept.strategy.tiles).astype(np.int32), int(kept.strategy.rays)
    block = block_size(kept.sampler.occupancy, split)
    placed = trainer.to_devices(kept)
    devices = devices_for(np.asarray(kept.params.table).nbytes)
    others = [*jax.devices()[:1], *jax.devices()[len(devices) :]] if jax.device_count() > 1 else []
    batches = [
        local_part(sample_batch(split, rays, 1, number, tiles=tiles, block=block), devices)
        for number in range(8)
    ]
    constant = (jax.random.key(0), replicate(split.cameras, devices))
    parts = parts_of_a_step(config, trainer)
    total = cumulative_seconds(
        parts, placed, kept, batches, constant, options.repeats, devices, others
    )
    on_others = total.pop("others", None)
    bandwidth, peak = machine_limits()
    samples = int(last.metrics["samples"] * rays * (1.0 - last.metrics["dropped"]))
    work = work_of_parts(
        config, kept, rays, lookups_a_ray(config, kept, split, batches[0]), samples, len(devices)
    )
    rows, before = [], 0.0
    for name, seconds in total.items():
        moved, operations = work[name]
        least = max(moved / bandwidth, operations / peak)
        spent, before = seconds - before, seconds
        rows.append(
            {
                "part": name,
                "milliseconds": round(1e3 * spent, 2),
                "megabytes": round(moved / 1e6, 2),
                "megaflop": round(operations / 1e6, 2),
                "share_of_limit": round(least / spent, 3) if spent > 0.0 else None,
            }
        )
    grid = kept.sampler.occupancy
    figures = {
        "scene": Path(options.data).name if options.data else "demo",
        "preset": options.preset,
        "voxels": round(grid.cells.shape[0] * float(grid.cell) / float(grid.step)),
        "rows": kept.params.table.shape[0],
        "rays": rays,
        "samples": samples,
        "gigabytes_a_second": round(bandwidth / 1e9, 1),
        "gigaflops": round(peak / 1e9, 1),
        "devices": [str(device) for device in devices],
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, jax {jax.__version__}",
        "step_milliseconds": round(1e3 * total["update"], 2),
        "other_devices": [str(device) for device in others],
        "step_milliseconds_on_those": on_others and round(1e3 * on_others, 2),
        "rays_a_second": round(rays / total["update"]),
        "parts": rows,
    }
    for name, value in figures.items():
        if name != "parts":
            print(f"{name:33} {value}")
    print(f"\n{'part':22}{'ms':>8}{'MB':>9}{'MFLOP':>9}  share of the machine's limit")
    for row in rows:
        print(
            f"{row['part']:22}{row['milliseconds']:8.2f}{row['megabytes']:9.2f}"
            f"{row['megaflop']:9.2f}  {row['share_of_limit']}"
        )
    if options.save:
        options.save.write_text(json.dumps(figures, indent=1) + "\n")


def lookups_a_ray(config: Config, state: Any, split: Any, batch: Any) -> float:
    """How often a ray looks into the occupancy before it ends, by trying every limit."""
    here = jax.tree.map(jnp.asarray, state.sampler.occupancy)
    rays = cast_rays(split.cameras[batch.camera[0]], jnp.asarray(batch.middle[0]))
    sampler = config.voxels.stages.sampler(
        here, int(state.strategy.rays) / config.training.rays_per_batch
    )
    alive = [
        float(
            jnp.mean(
                march(
                    here,
                    rays,
                    samples=sampler.samples,
                    max_steps=each,
                    samples_per_voxel=sampler.samples_per_voxel,
                ).truncated
            )
        )
        for each in range(1, sampler.max_steps + 1, 4)
    ]
    return 4.0 * sum(alive)


if __name__ == "__main__":
    main()

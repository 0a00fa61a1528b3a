"""What a training step of the paper's network costs, against its bare matrix products.

Prints, from one run: the time of a whole step (casting, encoding, sampling, forward, compositing,
backward, Adam) and the time of nothing but the matrix products that its arithmetic requires, with
their rows whole, in quarters and in sixteenths, whichever is fastest, on the same devices, in turn;
and the time from the start of a process to its first finished step. `products_share` is the share of
the step that is matrix products.

    python experiments/step_cost/step_cost.py --preset nerf --rays 512 --save results.json
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.cameras import Camera, look_at_pose
from jaxnerf.cli.common import prepare_cpu
from jaxnerf.config import Config
from jaxnerf.config.presets import preset
from jaxnerf.fields.nerf import NerfField
from jaxnerf.methods import nerf
from jaxnerf.scenes import Split


def layer_sizes(field: NerfField) -> list[tuple[int, int]]:
    """(inputs, outputs) of every matrix product of one evaluation, in order."""
    position = 3 * (1 + 2 * field.position_octaves)
    direction = 3 * (1 + 2 * field.direction_octaves)
    sizes, inputs = [], position
    for index in range(1, field.depth + 1):
        sizes.append((inputs, field.width))
        skipped = index == field.skip_after and index < field.depth
        inputs = field.width + (position if skipped else 0)
    sizes += [(inputs, 1), (inputs, field.width)]
    inputs = field.width + direction
    for _ in range(field.view_depth):
        sizes.append((inputs, field.view_width))
        inputs = field.view_width
    return [*sizes, (inputs, 3)]


def evaluations_a_ray(samples: tuple[int, ...]) -> list[int]:
    """How often each level asks the field."""
    return [sum(samples[: level + 1]) for level in range(len(samples))]


def step_products(config: Config, rows_a_ray: int, rays: int) -> list[tuple[int, int, int]]:
    """(m, k, n) of each product m x k @ k x n of a pass: forward, to the weights, to the inputs."""
    rows = rows_a_ray * rays
    products = []
    for index, (fan_in, fan_out) in enumerate(layer_sizes(config.nerf.field)):
        products += [(rows, fan_in, fan_out), (fan_in, rows, fan_out)]
        if index:
            products.append((rows, fan_out, fan_in))
    return products


def synthetic_split(views: int = 8, side: int = 64) -> Split:
    """Photographs of noise from cameras around the origin: the cost does not depend on what is seen."""
    random = np.random.default_rng(0)
    angles = np.linspace(0.0, 2.0 * np.pi, views, endpoint=False)
    poses = np.stack([look_at_pose((4 * np.cos(a), 4 * np.sin(a), 1.0), (0, 0, 0)) for a in angles])
    images = random.integers(256, size=(views, side, side, 4), dtype=np.uint8)
    return Split(tuple(map(str, range(views))), Camera.pinhole(poses, 80.0, side, side), images)


def step_timer(config: Config):
    """A function that runs one training step and waits for it."""
    split = synthetic_split()
    trainer = nerf.trainer_on(split, config, 2.0, 6.0)
    holder, steps = [trainer.to_devices(nerf.first_state_in(None, config))], itertools.count()

    def run() -> None:
        holder[0], metrics = trainer.step(holder[0], next(steps), config.training.steps)
        jax.block_until_ready((holder[0], metrics))

    return run


def products_timer(config: Config, parts: int):
    """A function that runs the step's matrix products on every device, and waits for them.

    Args:
      config: of the step.
      parts: into how many the rows of each product are divided: the cache likes many, the overhead
        of starting them few.

    Returns:
      The function, and how many multiplications and additions it does.
    """
    devices = jax.local_device_count()
    rays = config.training.rays_per_batch // devices // parts
    dtype = jnp.dtype(config.nerf.field.dtype)
    shapes = [
        product
        for rows_a_ray in evaluations_a_ray(config.nerf.samples)
        for product in step_products(config, rows_a_ray, rays)
    ]
    multiply = jax.pmap(jnp.matmul)
    operands: dict[tuple[int, int], jax.Array] = {}

    def operand(rows: int, columns: int) -> jax.Array:
        if (rows, columns) not in operands:
            fill = jax.pmap(lambda key: jax.random.normal(key, (rows, columns), dtype))
            operands[rows, columns] = fill(jax.random.split(jax.random.key(0), devices))
        return operands[rows, columns]

    def run() -> None:
        for _ in range(parts):
            for m, k, n in shapes:
                product = multiply(operand(m, k), operand(k, n))
            product.block_until_ready()

    return run, devices * parts * sum(2.0 * m * k * n for m, k, n in shapes)


def seconds_to_first_step(name: str, rays: int) -> float:
    """From the start of a `jaxnerf train` process on the demo scene to its first finished step."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        out = Path(folder) / "run"
        command = ["train", "--config", name, f"--training.rays_per_batch={rays}"]
        command += ["--max_steps", "1", "--noevaluate", "--out", str(out)]
        code = f"from jaxnerf.cli import main; raise SystemExit(main({command!r}))"
        subprocess.run(
            [sys.executable, "-c", code], check=True, env=environment, capture_output=True
        )
        first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
        return first["seconds_since_process_start"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="nerf")
    parser.add_argument("--rays", type=int, default=512, help="in a step")
    parser.add_argument("--rays_per_pass", type=int, help="on a device; the preset's by default")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip_first_step", action="store_true")
    parser.add_argument("--save", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    prepare_cpu(options.rays)

    config = preset(options.preset)
    training = dataclasses.replace(config.training, rays_per_batch=options.rays)
    if options.rays_per_pass is not None:
        training = dataclasses.replace(training, rays_per_pass=options.rays_per_pass)
    field = dataclasses.replace(config.nerf.field, dtype=options.dtype)
    config = dataclasses.replace(
        config, nerf=dataclasses.replace(config.nerf, field=field), training=training
    )

    tried = [products_timer(config, parts) for parts in (1, 4, 16)]
    flops = tried[0][1]
    runs = {
        "step": step_timer(config),
        **{f"products {i}": run for i, (run, _) in enumerate(tried)},
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if repeat:  # the first compiles
                times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    fastest = min((name for name in medians if name != "step"), key=lambda name: medians[name])
    medians["products"] = medians[fastest]
    ratios = [p / s for p, s in zip(times[fastest], times["step"], strict=True)]
    figures = {
        "preset": options.preset,
        "dtype": options.dtype,
        "rays": options.rays,
        "rays_per_pass": training.rays_per_pass,
        "devices": [str(device) for device in jax.devices()],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
        "step_seconds": medians["step"],
        "products_seconds": medians["products"],
        "gflop_of_products": flops / 1e9,
        "gflops_in_products": flops / medians["products"] / 1e9,
        "gflops_in_step": flops / medians["step"] / 1e9,
        "products_share": statistics.median(ratios),
    }
    if not options.skip_first_step:
        figures["seconds_to_first_step"] = seconds_to_first_step(options.preset, options.rays)
    for name, value in figures.items():
        print(f"{name:22} {value:.3f}" if isinstance(value, float) else f"{name:22} {value}")
    if options.save:
        options.save.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

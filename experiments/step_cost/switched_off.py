"""What a step takes with XLA's fusion for YNNPACK switched off (`jaxnerf.compiler`), and with it on.

    python experiments/step_cost/switched_off.py --rounds 3 --save experiments/step_cost/switched_off.json

Each time is that of a process of its own, with and without in turn, since XLA reads the flag once.
Printed are, for each preset, the medians and the ratio off / on of each round: on a shared machine
only ratios
say anything.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

PRESETS = ("minute", "five_minutes", "half_hour", "nerf_small", "nerf")
# Rays of a step of `nerf`, which is linear in them.
_RAYS = 64


def start_jax_first() -> None:
    """Start JAX's backend before `jaxnerf` could set the flag."""
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    jax.devices()
    warnings.simplefilter("ignore", RuntimeWarning)


def seconds_of_a_step(name: str, steps: int) -> float:
    """The median time of a step: of a run's last half, where the field grows; of a fixed step else."""
    from jaxnerf.cli.common import prepare_cpu
    from jaxnerf.config import preset
    from jaxnerf.fitting import first_state, fit, trainer_of
    from jaxnerf.scenes import load_scene

    config = preset(name)
    rays = config.training.rays_per_batch if name != "nerf" else _RAYS
    prepare_cpu(rays)
    training = dataclasses.replace(
        config.training, steps=steps, max_seconds=0.0, rays_per_batch=rays
    )
    config = dataclasses.replace(config, training=training)
    times: list[float] = []
    if config.method == "voxels":
        scene = load_scene(images=("train",))
        for progress in fit(first_state(config, scene), trainer_of(config, scene), report_every=10):
            spent = progress.metrics["rays"] / progress.rays_per_second
            times += [spent] * (progress.step > steps // 2)
    else:
        from step_cost import step_timer

        run = step_timer(config)
        run()
        for _ in range(20 if name == "nerf_small" else 5):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def measured(name: str, steps: int, off: bool) -> float:
    """`seconds_of_a_step` in a new process, with the fusion switched off or on."""
    command = [sys.executable, __file__, "--one", name, "--steps", str(steps)]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [*command, *([] if off else ["--on"])],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure in turn, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--steps", type=int, default=300, help="of a run that grows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="JSON file for the figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--on", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.on:
            start_jax_first()
        print(seconds_of_a_step(options.one, options.steps))
        return
    rows = []
    for name in options.presets.split(","):
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(options.rounds):
            for off in (number % 2 == 0, number % 2 != 0):
                times[off].append(measured(name, options.steps, off))
        ratios = [off / on for off, on in zip(times[True], times[False], strict=True)]
        rows.append(
            {
                "preset": name,
                "milliseconds_off": round(1e3 * statistics.median(times[True]), 2),
                "milliseconds_on": round(1e3 * statistics.median(times[False]), 2),
                "off_over_on": [round(ratio, 3) for ratio in ratios],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if options.save:
        machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, shared"
        figures = {"machine": machine, "steps": options.steps, "presets": rows}
        options.save.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What a step takes with XLA's fusion for YNNPACK off (`jaxnerf.kernels.compiler`), and with it on.

    python experiments/step_cost/switched_off.py --rounds 3 --save experiments/step_cost/switched_off.json

Each time is that of a process of its own, with and without in turn, since XLA reads the flag once.
Printed are, for each preset, the medians and the ratio off / on of each round, of the time by the clock
and of the processors' time, which programs of others disturb less: on a shared machine only ratios say
anything.
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
from typing import Any

PRESETS = ("minute", "five_minutes", "half_hour", "nerf_small", "nerf")
# Rays of a step of `nerf`, which is linear in them.
_RAYS = 64


def start_jax_first() -> None:
    """Start JAX's backend before `jaxnerf` could set the flag."""
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    jax.devices()
    warnings.simplefilter("ignore", RuntimeWarning)


def seconds_of_a_step(name: str, steps: int) -> tuple[float, float]:
    """The time of a step by the clock, the median, and of the processors, the mean.

    Of a run's last third, where the field grows; of one step again and again else.
    """
    from jaxnerf.cli.common import prepare_cpu
    from jaxnerf.config.adaptation import adapt_to_scene
    from jaxnerf.config.presets import preset
    from jaxnerf.methods import first_state, trainer_of
    from jaxnerf.scenes import load_scene
    from jaxnerf.training.loop import train

    config = preset(name)
    rays = config.training.rays_per_batch if name != "nerf" else _RAYS
    prepare_cpu(rays)
    training = dataclasses.replace(
        config.training, steps=steps, max_seconds=0.0, rays_per_batch=rays
    )
    config = dataclasses.replace(config, training=training)
    times: list[float] = []
    spent, count = 0.0, 0
    if config.method == "voxels":
        scene = load_scene(images=("train",))
        config = adapt_to_scene(config, scene)
        for progress in train(
            first_state(config, scene), trainer_of(config, scene), report_every=10
        ):
            if 3 * progress.step > 2 * steps:
                times.append(progress.metrics["rays"] / progress.rays_per_second)
                count += 10
            if not count or len(times) == 1:  # what comes before compiles
                spent, count = -time.process_time(), 0
    else:
        from step_cost import step_timer

        run = step_timer(config)
        run()
        spent, count = -time.process_time(), 20 if name == "nerf_small" else 5
        for _ in range(count):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    return statistics.median(times), (spent + time.process_time()) / max(count, 1)


def measured(name: str, steps: int, off: bool) -> list[float]:
    """`seconds_of_a_step` in a new process, with the fusion switched off or on."""
    command = [sys.executable, __file__, "--one", name, "--steps", str(steps)]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [*command, *([] if off else ["--on"])],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


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
        print(json.dumps(seconds_of_a_step(options.one, options.steps)))
        return
    rows = []
    for name in options.presets.split(","):
        times: dict[bool, list[list[float]]] = {True: [], False: []}
        for number in range(options.rounds):
            for off in (number % 2 == 0, number % 2 != 0):
                times[off].append(measured(name, options.steps, off))
        row: dict[str, Any] = {"preset": name}
        for which, clock in enumerate(("by_the_clock", "of_the_processors")):
            off, on = ([each[which] for each in times[switched]] for switched in (True, False))
            row[clock] = {
                "milliseconds_off": round(1e3 * statistics.median(off), 2),
                "milliseconds_on": round(1e3 * statistics.median(on), 2),
                "off_over_on": [round(a / b, 3) for a, b in zip(off, on, strict=True)],
            }
        rows.append(row)
        print(json.dumps(rows[-1]), flush=True)
    if options.save:
        machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, shared"
        figures = {"machine": machine, "steps": options.steps, "presets": rows}
        options.save.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

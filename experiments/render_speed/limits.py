"""How long a picture of the fast field takes with buffers and chunks of several sizes.

    jaxnerf train --data nerf_synthetic/lego --out runs/lego
    python experiments/render_speed/limits.py runs/lego runs/garden

Renders one view of each run in turns, once compiled: with the lengths of the packed buffer, in samples a
ray, and the rays of a chunk on each device that are tried. Pictures are the same but for rounding. Left
in the folder of this file: limits.json.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np

from jaxnerf import Run, load_run, render_image
from jaxnerf.cli.common import prepare_cpu
from jaxnerf.config.adaptation import bounds_of
from jaxnerf.sampling import OccupancySampler

# Buffers, in samples a ray, for a sample a voxel and for two; and what is added to the rays of chunks, of
# which some numbers are powers of two.
BUFFERS = {1: (16.0, 24.0, 32.0), 2: (12.0, 16.0, 17.0, 24.0)}
ADDED = (0, 16)
SAMPLES_AT_ONCE = 12 << 13


def seconds_of(run: Run, sampler: OccupancySampler, view: int, buffer: float, chunk: int) -> float:
    """How long a view takes."""
    camera = next(iter(run.scene.splits.values())).cameras[view]
    begun = time.perf_counter()
    render_image(
        run.field, run.params, camera,
        dataclasses.replace(sampler, mean_samples=buffer),
        near=bounds_of(run.config, run.scene)[0], background=run.background,
        edge_supersampling=run.config.evaluation.edge_supersampling, chunk=chunk,
    )  # fmt: skip
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--view", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prepare_cpu()
    figures: dict = {}
    for folder in options.runs:
        run = load_run(folder)
        sampler = run.config.section.sampler(run.occupancy, first=True)
        if not isinstance(sampler, OccupancySampler):
            raise SystemExit(f"{folder}: not of the fast field")
        tried = [
            (buffer, int(SAMPLES_AT_ONCE / buffer) + more)
            for buffer in BUFFERS[sampler.samples_per_voxel]
            for more in ADDED
        ]
        for each in tried:  # compiles
            seconds_of(run, sampler, options.view, *each)
        taken = [
            [seconds_of(run, sampler, options.view, *each) for each in tried]
            for _ in range(options.rounds)
        ]
        figures[folder.name] = {}
        for (buffer, chunk), seconds in zip(tried, np.median(taken, axis=0), strict=True):
            figures[folder.name][f"{buffer:g} samples a ray, {chunk} rays"] = round(
                float(seconds), 2
            )
            print(
                f"{folder.name}: {buffer:g} samples a ray, {chunk} rays: {seconds:.2f} s",
                flush=True,
            )
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, jax {jax.__version__}"
    target = Path(__file__).parent / "limits.json"
    target.write_text(json.dumps({"machine": machine, "seconds_a_frame": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()

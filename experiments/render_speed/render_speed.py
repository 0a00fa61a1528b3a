"""How fast a trained fast field is rendered, and what skipping empty space and ending rays changes.

    jaxnerf train --data nerf_synthetic/lego --out runs/lego
    python experiments/render_speed/render_speed.py runs/lego

Renders test views with one and two samples a voxel, once compiled, and compares with the plain
renderings: of the same samples with no cell skipped and no ray ended, and of stratified samples, many
a ray. Left in the folder of this file: NAME_OF_THE_RUN.json.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf import OccupancySampler, Stratified, load_run, render_image
from jaxnerf.cli.common import prepare_cpu
from jaxnerf.evaluation import psnr
from jaxnerf.sampling.occupancy import encode


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1024, help="of the plain renderer, a ray")
    options = parser.parse_args()
    prepare_cpu()
    run = load_run(options.run)
    if run.occupancy is None or "test" not in run.scene.splits:
        raise SystemExit(f"{options.run}: not of the fast field, or without test views")
    cameras = run.scene.splits["test"].cameras
    occupancy = jax.tree.map(jnp.asarray, run.occupancy)
    cells = occupancy.cells.shape
    # All cells hold something, and too little for a ray to end.
    everywhere = dataclasses.replace(
        occupancy, cells=encode(jnp.ones(cells, bool), jnp.full(cells, 1e-6))
    )
    chosen = np.linspace(0, len(cameras) - 1, max(options.views, 1)).astype(int).tolist()
    exact = [
        render_image(
            run.field, run.params, cameras[index],
            Stratified(options.samples),
            near=run.scene.near, far=run.scene.far, background=run.background,
        ).colour
        for index in chosen
    ]  # fmt: skip
    rows: dict[str, dict] = {}
    for finer in (1, 2):
        sampler = OccupancySampler(
            occupancy,
            samples=48 * finer,
            max_steps=80 * finer,
            mean_samples=8.5 * finer,
            samples_per_voxel=finer,
        )
        unskipped = dataclasses.replace(
            sampler,
            occupancy=everywhere,
            samples=512 * finer,
            max_steps=512 * finer,
            mean_samples=300.0 * finer,
        )
        seconds, alike, many = [], [], []
        for index in (chosen[0], *chosen):
            begun = time.perf_counter()
            seen = render_image(
                run.field, run.params, cameras[index], sampler, background=run.background
            ).colour
            seconds.append(time.perf_counter() - begun)
        for index, truth in zip(chosen, exact, strict=True):
            seen, plain = (
                render_image(
                    run.field, run.params, cameras[index], how,
                    background=run.background, chunk=size,
                ).colour
                for how, size in ((sampler, 0), (unskipped, 1024))
            )  # fmt: skip
            alike.append(psnr(np.asarray(seen), np.asarray(plain)))
            many.append(psnr(np.asarray(seen), np.asarray(truth)))
        rows[f"{finer} a voxel"] = {
            "seconds_a_frame": round(statistics.median(seconds[1:]), 3),
            "psnr_to_the_same_samples_unskipped": round(float(np.mean(alike)), 1),
            "of_which_the_lowest": round(float(np.min(alike)), 1),
            f"psnr_to_{options.samples}_samples_a_ray": round(float(np.mean(many)), 1),
        }
        print(f"{finer} a voxel", rows[f"{finer} a voxel"], flush=True)
    figures = {
        "run": options.run.name,
        "size": np.asarray(cameras[0].size).tolist(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, jax {jax.__version__}",
        "devices": [str(device) for device in jax.devices()],
        **rows,
    }
    target = Path(__file__).parent / f"{options.run.name}.json"
    target.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Where a photograph was taken, found by gradient descent through a trained scene.

    pip install 'jaxnerf[experiments]'
    python experiments/where_was_i/where_was_i.py

Trains the demo scene, or takes the run that --run names, and looks for the camera of one of its test
photographs from 20 starts, each turned by 10 degrees about a random axis and moved by 10% of the distance
in a random direction. Leaves results.json, errors.png and search.webp in this file's folder.
"""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from PIL import Image

from jaxnerf import Camera, Run, cast_rays, load_run, load_scene, render_rays
from jaxnerf.evaluation import blend
from jaxnerf.sampling import OccupancySampler, pixels
from jaxnerf.training.calibration import rotations

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
STARTS, DEGREES, SHARE = 20, 10.0, 0.1
# Rays in a row of the pictures that are compared: of 64 x 64 of 256 x 256 pixels.
SIDE, STRIDE = 64, 4
# How far both pictures are blurred, in their pixels, and for how many steps at which rate.
STAGES = ((6.0, 100, 0.02), (2.5, 100, 0.01), (1.0, 100, 0.004), (0.0, 100, 0.0015))
# A search has succeeded that ends nearer than this: degrees, and percent of the distance.
NEAR_ENOUGH = 1.0, 1.0


def train(steps: int, folder: Path) -> Path:
    """A run on the demo scene, with the settings of the preset "minute"."""
    command = [sys.executable, "-m", "jaxnerf", "train", f"--out={folder}", f"--max_steps={steps}"]
    subprocess.run([*command, "--noevaluate"], check=True)
    return folder


def blur(sigma: float) -> np.ndarray:
    """The matrix [SIDE, SIDE] that blurs a row of pixels by a Gaussian, normalised at the edges."""
    if sigma == 0.0:
        return np.eye(SIDE, dtype=np.float32)
    away = np.arange(SIDE)[:, None] - np.arange(SIDE)[None]
    weights = np.exp(-0.5 * (away / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def moved(pose: jax.Array, by: jax.Array) -> jax.Array:
    """A pose turned and shifted in the camera's own axes, which are around the scene's middle.

    Args:
      pose: camera-to-world [3, 4].
      by: an axis times an angle, and a shift in units of the distance to the origin.
    """
    turn, shift = rotations(by[:3]), by[3:]
    distance = jnp.linalg.norm(pose[:, 3])
    position = pose[:, 3] + distance * jnp.sum(pose[:, :3] * shift[None, :], axis=-1)
    rotation = jnp.sum(pose[:, :3, None] * turn[None], axis=1)
    return jnp.concatenate([rotation, position[:, None]], axis=1)


def errors(pose: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Degrees between two poses' directions, and percent of the distance between their positions."""
    turn = pose[:, :3].astype(np.float64) @ truth[:, :3].T
    sine = np.linalg.norm(turn - turn.T) / np.sqrt(8.0)
    degrees = np.rad2deg(np.arctan2(sine, 0.5 * (np.trace(turn) - 1.0)))
    shift = np.linalg.norm(pose[:, 3] - truth[:, 3]) / np.linalg.norm(truth[:, 3])
    return float(degrees), float(100.0 * shift)


def step_of(run: Run, camera: Camera, photograph: np.ndarray) -> tuple[Callable, Any]:
    """A step of Adam on six numbers, compiled once for all searches; and the optimizer."""
    assert run.occupancy is not None
    walk = OccupancySampler(run.occupancy, samples=48, max_steps=200, mean_samples=32.0)
    near, far = run.scene.near, run.scene.far
    places = pixels.grid(SIDE * STRIDE, SIDE * STRIDE, STRIDE).reshape(-1, 2)
    small = photograph.reshape(SIDE, STRIDE, SIDE, STRIDE, 3).mean(axis=(1, 3))
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)

    def loss(by, pose, matrix, scene):
        field, params, sampler = scene
        posed = dataclasses.replace(camera, camera_to_world=moved(pose, by))
        rays = cast_rays(posed, places, near, far)
        seen = render_rays(field, params, rays, sampler).colour.reshape(SIDE, SIDE, 3)
        away = jnp.einsum("ij,jkc,lk->ilc", matrix, seen - small, matrix)
        return jnp.mean(away * away)

    @jax.jit
    def step(by, state, pose, matrix, rate, scene):
        value, slope = jax.value_and_grad(loss)(by, pose, matrix, scene)
        state.hyperparams["learning_rate"] = rate
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(by, updates), state, value

    scene = jax.tree.map(jnp.asarray, (run.field, run.params, walk))
    return functools.partial(step, scene=scene), optimizer


def search(step: Callable, optimizer: Any, start: np.ndarray) -> dict[str, Any]:
    """The poses of all steps from a start, and the loss at each."""
    pose, by = jnp.asarray(start, jnp.float32), jnp.zeros(6)
    state = optimizer.init(by)
    poses, losses = [np.asarray(start)], []
    for sigma, steps, rate in STAGES:
        matrix = blur(sigma)
        for number in range(steps):
            slower = rate * (0.55 + 0.45 * np.cos(np.pi * number / steps))
            by, state, value = step(by, state, pose, matrix, jnp.float32(slower))
            poses.append(np.asarray(moved(pose, by)))
            losses.append(float(value))
    return {"poses": poses, "losses": losses}


def starts(truth: np.ndarray, seed: int) -> list[np.ndarray]:
    """Poses that are off by DEGREES and by SHARE of the distance, in random directions."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(STARTS):
        axis, shift = random.normal(size=(2, 3))
        by = np.concatenate(
            [
                np.deg2rad(DEGREES) * axis / np.linalg.norm(axis),
                SHARE * shift / np.linalg.norm(shift),
            ]
        )
        found.append(
            np.asarray(moved(jnp.asarray(truth, jnp.float32), jnp.asarray(by, jnp.float32)))
        )
    return found


def film(
    run: Run, camera: Camera, photograph: np.ndarray, poses: list[np.ndarray], path: Path
) -> None:
    """The search as an animation: what the camera sees, and its mean with the photograph."""
    frames = []
    target = photograph[::2, ::2]
    for number in np.unique(np.round(np.geomspace(1, len(poses), 28)).astype(int)) - 1:
        posed = dataclasses.replace(camera, camera_to_world=poses[number]).resized(128, 128)
        seen = run.render(posed, background=1.0).colour
        both = np.concatenate([target, seen, 0.5 * (target + seen)], axis=1)
        frames.append(Image.fromarray((both.clip(0, 1) * 255).astype(np.uint8)))
    lasts = [120] * (len(frames) - 1) + [1500]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=lasts, loop=0, quality=60
    )


def draw(found: list[dict[str, Any]], truth: np.ndarray) -> None:
    """The errors of all searches over their steps."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for each in found:
        away = np.array([errors(pose, truth) for pose in each["poses"]])
        for axis, column in zip(axes, away.T, strict=True):
            axis.semilogy(column, lw=0.8)
    axes[0].set(xlabel="step", ylabel="degrees")
    axes[1].set(xlabel="step", ylabel="% of the distance")
    for axis in axes:
        for end in np.cumsum([steps for _, steps, _ in STAGES])[:-1]:
            axis.axvline(end, color="0.8", lw=0.8, zorder=0)
    figure.savefig(HERE / "errors.png", dpi=90)


def main() -> None:
    """Train, search, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run of the demo scene, instead of training one")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--view", type=int, default=6, help="number of the test photograph")
    given = parser.parse_args()
    begin = time.perf_counter()
    run = load_run(given.run or train(given.steps, Path("runs/where_was_i")))
    split = load_scene(images=("test",)).splits["test"]
    assert split.images is not None
    photograph = blend(split.images[given.view], 1.0)
    camera = run.cameras("test")[given.view]
    truth = np.asarray(camera.camera_to_world, np.float64)[:3]
    searched = time.perf_counter()
    step = step_of(run, camera, photograph)
    found = [search(*step, start) for start in starts(truth, seed=0)]
    seconds = time.perf_counter() - searched
    ends = np.array([errors(each["poses"][-1], truth) for each in found])
    good = (ends < NEAR_ENOUGH).all(axis=-1)
    result = {
        "training_steps": run.step, "test_view": given.view, "starts": STARTS,
        "start_degrees": DEGREES, "start_percent": 100 * SHARE, "rays_a_step": SIDE * SIDE,
        "stages": [dict(zip(("blur", "steps", "rate"), each, strict=True)) for each in STAGES],
        "succeeded": int(good.sum()), "success_is_degrees_and_percent_below": NEAR_ENOUGH,
        "median_degrees_of_successes": float(np.median(ends[good, 0])) if good.any() else None,
        "median_percent_of_successes": float(np.median(ends[good, 1])) if good.any() else None,
        "searches": [
            {"degrees": float(d), "percent": float(p), "loss": each["losses"][-1]}
            for (d, p), each in zip(ends, found, strict=True)
        ],
        "seconds_a_search": round(seconds / STARTS, 2),
    }  # fmt: skip
    draw(found, truth)
    chosen = int(np.argmax(good))
    film(run, camera, photograph, found[chosen]["poses"], HERE / "search.webp")
    result["film_of_search"] = chosen
    result["seconds"] = round(time.perf_counter() - begin, 1)
    (HERE / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{good.sum()} of {STARTS} found; {result['seconds_a_search']} s each")
    for row in result["searches"]:
        print(f"{row['degrees']:8.3f} degrees {row['percent']:8.3f} %  loss {row['loss']:.6f}")


if __name__ == "__main__":
    main()

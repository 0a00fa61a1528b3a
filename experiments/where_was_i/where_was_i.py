"""Where a photograph was taken, found by gradient descent through a trained scene.

    pip install -e '.[experiments]'
    python experiments/where_was_i/where_was_i.py

Trains the demo scene, or takes the run that --run names, and looks for the camera of one of its test
photographs from 20 starts, each turned by 10 degrees about a random axis and moved by 10% of the distance
in a random direction. All searches go on at once. Leaves results.json, errors.png, search.webp and, where
a search failed, astray.webp in this file's folder.
"""

import argparse
import dataclasses
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
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from PIL import Image

from jaxnerf import Camera, OccupancySampler, Run, cast_rays, load_run, load_scene, render_rays
from jaxnerf.cli.common import prepare_cpu
from jaxnerf.evaluation import blend, psnr, to_8bit
from jaxnerf.fields import as_pytree
from jaxnerf.geometry import rotations
from jaxnerf.runs.metrics import read_metrics
from jaxnerf.sampling import pixels

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
FRAMES = 28  # of the film


def train(steps: int, folder: Path) -> Path:
    """A run on the demo scene, with the settings of the preset "minute"."""
    command = [sys.executable, "-m", "jaxnerf", "train", f"--out={folder}", f"--max_steps={steps}"]
    subprocess.run([*command, "--noevaluate"], check=True)
    return folder


def beside(pose: np.ndarray, seed: int) -> np.ndarray:
    """Poses [starts, 3, 4] that are turned by so many degrees, and moved by so much of the distance.

    Axes and directions are random. The camera is turned about itself, and moved in its own axes.
    """
    random = np.random.default_rng(seed)
    axes, shifts = random.normal(size=(2, CONFIG["starts"], 3))
    axes *= np.deg2rad(CONFIG["degrees"]) / np.linalg.norm(axes, axis=-1, keepdims=True)
    shifts *= 0.01 * CONFIG["percent"] / np.linalg.norm(shifts, axis=-1, keepdims=True)
    turned = pose[:, :3] @ np.asarray(rotations(jnp.asarray(axes, jnp.float32)))
    places = pose[:, 3] + np.linalg.norm(pose[:, 3]) * shifts @ pose[:, :3].T
    return np.concatenate([turned, places[..., None]], axis=-1)


def moved(pose: jax.Array, by: jax.Array) -> jax.Array:
    """Poses that are turned about the origin, at which the scene's cameras look, and then shifted.

    A turn of a camera about itself looks nearly like a shift, and Adam, which goes by single numbers,
    cannot tell the two apart.

    Args:
      pose: camera-to-world [..., 3, 4].
      by: an axis times an angle, and a shift in distances from the origin, in the camera's axes [..., 6].
    """
    rotation, arm = pose[..., :3], pose[..., 3]
    turned = jnp.einsum("...ij,...jk->...ik", rotation, rotations(by[..., :3]))
    local = jnp.einsum("...ji,...j->...i", rotation, arm)
    distance = jnp.linalg.norm(arm, axis=-1, keepdims=True)
    place = jnp.einsum("...ij,...j->...i", turned, local + distance * by[..., 3:])
    return jnp.concatenate([turned, place[..., None]], axis=-1)


def errors(poses: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Degrees between directions, and percent of the distance between places [..., 2]."""
    turn = poses[..., :3].astype(np.float64) @ truth[:, :3].T
    across = turn - np.swapaxes(turn, -1, -2)
    sine = np.linalg.norm(across, axis=(-2, -1)) / np.sqrt(8.0)
    cosine = 0.5 * (np.trace(turn, axis1=-2, axis2=-1) - 1.0)
    shift = np.linalg.norm(poses[..., 3] - truth[:, 3], axis=-1) / np.linalg.norm(truth[:, 3])
    return np.stack([np.rad2deg(np.arctan2(sine, cosine)), 100.0 * shift], axis=-1)


def blur(sigma: float) -> np.ndarray:
    """The matrix [side, side] that blurs a row of pixels by a Gaussian, normalised at the edges."""
    side = CONFIG["side"]
    if sigma == 0.0:
        return np.eye(side, dtype=np.float32)
    away = np.arange(side)[:, None] - np.arange(side)[None]
    weights = np.exp(-0.5 * (away / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def step_of(run: Run, camera: Camera, optimizer: Any) -> Callable[..., Any]:
    """A step of all searches, compiled once; each device takes its share of them.

    Returns:
      A function of the six numbers of each search, the optimizer's state, the poses of the starts, pixels
      [side^2, 2], their colours, the matrix that blurs, and the rate. It gives the next numbers and
      state, the poses, the loss of each search, and the share of rays for which there was no room.
    """
    assert run.occupancy is not None
    sampler = OccupancySampler(
        run.occupancy, samples=96, max_steps=400, mean_samples=CONFIG["mean_samples"]
    )
    near, far, side = run.scene.near, run.scene.far, CONFIG["side"]

    def losses(by, pose, places, colours, matrix, scene):
        field, params, sampler = scene
        poses = moved(pose, by)
        cast = jax.vmap(
            lambda one: cast_rays(
                dataclasses.replace(camera, camera_to_world=one), places, near, far
            )
        )
        seen = render_rays(field, params, cast(poses), sampler)
        away = (seen.colour - colours[None]).reshape(-1, side, side, 3)
        away = jnp.einsum("ij,njkc,lk->nilc", matrix, away, matrix)
        each = jnp.mean(away * away, axis=(1, 2, 3))
        left_out = jnp.mean(~seen.samples.fits, axis=1, dtype=jnp.float32)
        return jnp.sum(each), (poses, each, left_out)

    slopes = jax.shard_map(
        jax.grad(losses, has_aux=True),
        mesh=Mesh(np.asarray(jax.devices()), ("searches",)),
        in_specs=(P("searches"), P("searches"), P(), P(), P(), P()),
        out_specs=P("searches"),
        check_vma=False,
    )

    @jax.jit
    def step(by, state, pose, places, colours, matrix, rate, scene):
        slope, told = slopes(by, pose, places, colours, matrix, scene)
        state.hyperparams["learning_rate"] = rate
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(by, updates), state, *told

    scene = jax.tree.map(jnp.asarray, (as_pytree(run.field), run.params, sampler))
    return lambda *given: step(*given, scene)


def search(
    run: Run, camera: Camera, photograph: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """All searches, side by side.

    Args:
      run: the trained scene.
      camera: that took the photograph; its pose is not looked at.
      photograph: on white, [height, width, 3].
      starts: poses in the scene's frame [starts, 3, 4].

    Returns:
      The poses [steps + 1, starts, 3, 4] that were looked from, the loss of each [steps, starts], and the
      greatest share of rays for which there was no room.
    """
    side, (height, width) = CONFIG["side"], photograph.shape[:2]
    random = np.random.default_rng(CONFIG["seed"])
    stride = width // side
    whole = np.asarray(pixels.grid(side * stride, side * stride, stride)).reshape(-1, 2)
    small = photograph[: side * stride, : side * stride]
    small = small.reshape(side, stride, side, stride, 3).mean(axis=(1, 3)).reshape(-1, 3)
    optimizer: Any = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    step = step_of(run, camera, optimizer)
    pose, by = jnp.asarray(starts, jnp.float32), jnp.zeros((len(starts), 6))
    state, poses, losses, crowded = optimizer.init(by), [], [], 0.0
    for stage in CONFIG["stages"]:
        matrix = blur(stage["blur"])
        for number in range(stage["steps"]):
            places, colours = whole, small
            if stage["pixels"] == "random":
                x, y = random.integers([[width], [height]], size=(2, side * side))
                places = np.stack([x, y], axis=-1).astype(np.float32) + np.float32(0.5)
                colours = photograph[y, x]
            slower = 0.55 + 0.45 * np.cos(np.pi * number / stage["steps"])
            rate = jnp.float32(stage["rate"] * slower)
            by, state, seen_from, each, left_out = step(
                by, state, pose, places, colours, matrix, rate
            )
            poses.append(np.asarray(seen_from))
            losses.append(np.asarray(each))
            crowded = max(crowded, float(left_out.max()))
    poses.append(np.asarray(moved(pose, by)))
    return np.stack(poses), np.stack(losses), crowded


def picture(run: Run, camera: Camera, pose: np.ndarray, side: int = 0) -> np.ndarray:
    """What the camera sees from a pose of the scene's frame, on white."""
    posed = dataclasses.replace(
        camera, camera_to_world=run.scene.to_user.poses(np.asarray(pose, np.float64))
    )
    posed = posed.resized(side, side) if side else posed
    return np.asarray(run.render(posed, background=1.0).colour).clip(0.0, 1.0)


def film(
    run: Run, camera: Camera, photograph: np.ndarray, poses: np.ndarray, path: Path, side: int = 128
) -> None:
    """A search as an animation: the photograph, what the camera sees, and the mean of both."""
    large = Image.fromarray(to_8bit(photograph))
    target = np.asarray(large.resize((side, side), Image.Resampling.BOX)) / 255.0
    frames = []
    for number in np.unique(np.round(np.geomspace(1, len(poses), FRAMES)).astype(int)) - 1:
        seen = picture(run, camera, poses[number], side)
        frames.append(to_8bit(np.concatenate([target, seen, 0.5 * (target + seen)], axis=1)))
    first, *others = (Image.fromarray(frame) for frame in frames)
    lasts = [120] * len(others) + [1500]
    first.save(path, save_all=True, append_images=others, duration=lasts, loop=0, quality=60)


def astray(run: Run, camera: Camera, photograph: np.ndarray, ends: np.ndarray, path: Path) -> None:
    """The photograph, and what the camera sees at the ends of searches that failed."""
    seen = [picture(run, camera, pose, 128) for pose in ends]
    large = Image.fromarray(to_8bit(photograph)).resize((128, 128), Image.Resampling.BOX)
    strip = np.concatenate([np.asarray(large), *map(to_8bit, seen)], axis=1)
    Image.fromarray(strip).save(path, quality=75)


def draw(away: np.ndarray, good: np.ndarray, path: Path) -> None:
    """The errors [steps + 1, starts, 2] of all searches; those that failed in red."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    ends = np.cumsum([stage["steps"] for stage in CONFIG["stages"]])[:-1]
    for axis, errors_of, name in zip(
        axes, np.moveaxis(away, -1, 0), ("degrees", "% of the distance"), strict=True
    ):
        for each, found in zip(errors_of.T, good, strict=True):
            axis.semilogy(each, lw=0.8, color="tab:blue" if found else "tab:red")
        for end in ends:
            axis.axvline(end, color="0.8", lw=0.8, zorder=0)
        axis.set(xlabel="step", ylabel=name)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def figures(away: np.ndarray, losses: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """What came out, of all searches and of each."""
    ends = away[-1]
    worst = ends[good].max(axis=0).tolist() if good.any() else [None] * 2
    median = np.median(ends[good], axis=0).tolist() if good.any() else [None] * 2
    return {
        "found": int(good.sum()),
        "of": len(good),
        "of_those_found": {
            "median_degrees": median[0], "median_percent": median[1],
            "greatest_degrees": worst[0], "greatest_percent": worst[1],
        },
        "searches": [
            {"degrees": float(d), "percent": float(p), "loss": float(loss)}
            for (d, p), loss in zip(ends, losses[-1], strict=True)
        ],
    }  # fmt: skip


def main() -> None:
    """Train, search, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run of the demo scene, instead of training one")
    given = parser.parse_args()
    prepare_cpu(CONFIG["starts"], keep_memory=False)
    folder = given.run or Path("runs/where_was_i")
    run = load_run(folder if folder.exists() else train(CONFIG["training_steps"], folder))
    training, begun = read_metrics(folder)[-1]["seconds"], time.perf_counter()
    view = CONFIG["test_view"]
    split = load_scene(images=("test",)).splits["test"]
    assert split.images is not None
    photograph = blend(split.images[view], 1.0)
    camera = run.scene.splits["test"].cameras[view]
    truth = np.asarray(camera.camera_to_world, np.float64)[:3]
    ready = time.perf_counter()
    poses, losses, crowded = search(run, camera, photograph, beside(truth, CONFIG["seed"]))
    searched = time.perf_counter()
    away, enough = errors(poses, truth), CONFIG["near_enough"]
    good = (away[-1] < [enough["degrees"], enough["percent"]]).all(axis=-1)
    draw(away, good, HERE / "errors.png")
    shown = int(np.argmax(good))
    film(run, camera, photograph, poses[:, shown], HERE / "search.webp")
    if not good.all():
        astray(run, camera, photograph, poses[-1, ~good][:6], HERE / "astray.webp")
    result = {
        **figures(away, losses, good), "film_of_search": shown, "training_steps": run.step,
        "psnr_from_the_true_pose": round(psnr(picture(run, camera, truth), photograph), 2),
        "psnr_from_the_pose_of_the_film": round(
            psnr(picture(run, camera, poses[-1, shown]), photograph), 2
        ),
        "greatest_share_of_rays_without_room": crowded,
        "seconds": {
            "training": round(training, 1), "searches": round(searched - ready, 1),
            "all": round(training + time.perf_counter() - begun, 1),
        },
        "config": CONFIG,
    }  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['found']} of {result['of']} found; {result['seconds']} s")
    for row in result["searches"]:
        print(f"{row['degrees']:8.3f} degrees {row['percent']:8.3f} %  loss {row['loss']:.6f}")


if __name__ == "__main__":
    main()

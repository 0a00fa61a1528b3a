"""A scan seen in three ways, and found again from its own X-rays.

    pip install -e '.[volumes]' optax scikit-image matplotlib
    python experiments/inside_the_scan/inside_the_scan.py

Makes a scan, draws it, and recovers it from 5 to 100 X-rays by gradient descent through
`jaxnerf.render_rays`, beside filtered back-projection by scikit-image of the same X-rays. Leaves
results.json and pictures in this file's folder.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image
from scan import made
from skimage.transform import iradon

from jaxnerf import (
    Camera,
    OccupancySampler,
    Rays,
    Stratified,
    TransferFunction,
    VolumeField,
    render_image,
    render_rays,
)
from jaxnerf.compositing import Compositing
from jaxnerf.fields.volume import VolumeParams

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())


def main() -> None:
    """Draw the scan, recover it from its X-rays, and write what came out."""
    begin = time.monotonic()
    draw_three_ways()
    truth = made((CONFIG["voxels"],) * 3, CONFIG["noise"])[:, :, :: CONFIG["every_slice"]].copy()
    inside = circle(truth.shape[0])
    truth[~inside] = 0.0
    rows, slices = [], {"truth": truth}
    for views in CONFIG["views"]:
        angles = np.arange(views) * 180.0 / views
        integrals = x_rays(truth, angles)
        found = {
            "filtered back-projection": back_projected(integrals, angles),
            "gradient descent": recovered(integrals, angles, truth.shape, 0.0),
            "with total variation": recovered(integrals, angles, truth.shape, CONFIG["variation"]),
        }
        row: dict = {"views": views}
        for name, values in found.items():
            row[name] = round(psnr(values[inside], truth[inside]), 2)
            if views == CONFIG["shown"]:
                slices[name] = values
        rows.append(row)
        seconds = round(time.monotonic() - begin)
        print(row, f"{seconds} s", flush=True)
        results = {"psnr": rows, "seconds": seconds}
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw_slices(slices)
    draw_plot(rows)


def circle(side: int) -> np.ndarray:
    """What of a slice all X-rays see: the circle in it."""
    axis = np.arange(side) - side // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 <= (side // 2 - 1) ** 2


def parallel_rays(angles: np.ndarray, side: int, depth: int) -> Rays:
    """The rays of X-rays from all angles [A, S, D], as scikit-image's `radon` lays them.

    The array's indices are the world's coordinates; a slice lies in the first two, and is seen from angle
    after angle by a row of parallel rays, each through the middle of a pixel of the row.
    """
    angle = np.radians(angles)[:, None, None]
    across = (np.arange(side) - side // 2)[None, :, None]
    height, away = np.arange(depth)[None, None, :], 0.75 * side
    ahead = np.stack(np.broadcast_arrays(np.cos(angle), np.sin(angle), 0.0), axis=-1)
    right = np.stack(np.broadcast_arrays(-np.sin(angle), np.cos(angle), 0.0), axis=-1)
    middle = np.array([side // 2, side // 2, 0.0])
    origins = middle + across[..., None] * right - away * ahead
    origins = origins + height[..., None] * np.array([0.0, 0.0, 1.0])
    directions = np.broadcast_to(ahead, origins.shape)
    ends = np.zeros(origins.shape[:-1]), np.full(origins.shape[:-1], 2.0 * away)
    arrays: tuple[Any, ...] = origins, directions, directions, *ends
    return Rays(*(jnp.asarray(each, jnp.float32) for each in arrays))


def x_rays(truth: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The integrals along all rays [A, S, D] that a counter of photons finds behind the scan."""
    side, depth = truth.shape[0], truth.shape[2]
    field, params = VolumeField.from_array(truth * CONFIG["density"])
    rays = parallel_rays(angles, side, depth)
    # Four samples a voxel: data as of nature, and not of the renderer that explains them.
    see = jax.jit(lambda some: attenuated(field, params, some, 4))
    light = np.stack(
        [see(jax.tree.map(lambda leaf, a=a: leaf[a], rays)) for a in range(len(angles))]
    )
    counts = np.random.default_rng(0).poisson(light * CONFIG["photons"])
    return -np.log(np.maximum(counts, 1) / CONFIG["photons"])


def attenuated(field: VolumeField, params: VolumeParams, rays: Rays, samples: int) -> jax.Array:
    """The share of light that passes along rays."""
    sampler = Stratified(samples * round(1.5 * field.shape[0]))
    seen = render_rays(field, params, rays, sampler, background=1.0, compositing="attenuation")
    return seen.colour[..., 0]


def back_projected(integrals: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The scan by scikit-image's filtered back-projection, slice by slice; nothing is below 0."""
    slices = [
        iradon(integrals[:, :, k].T, theta=angles, filter_name=CONFIG["filter"], circle=True)
        for k in range(integrals.shape[2])
    ]
    return np.maximum(np.stack(slices, axis=-1) / CONFIG["density"], 0.0)


def recovered(
    integrals: np.ndarray, angles: np.ndarray, shape: tuple[int, ...], variation: float
) -> np.ndarray:
    """The scan by gradient descent from nothing, so that its X-rays are those that were taken.

    Args:
      integrals: along the rays of the angles.
      angles: in degrees.
      shape: of the scan.
      variation: weight of the mean absolute difference of neighbours.
    """
    rays = parallel_rays(angles, shape[0], shape[2])
    rays = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(-1, *leaf.shape[3:])), rays)
    wanted = jnp.asarray(integrals.reshape(-1), jnp.float32)
    field, params = VolumeField.from_array(np.zeros(shape, np.float32))
    steps = CONFIG["steps"]
    optimizer = optax.adam(optax.cosine_decay_schedule(CONFIG["rate"] * CONFIG["density"], steps))
    count, total = min(CONFIG["rays"], wanted.shape[0]), wanted.shape[0]

    def loss(params: Any, chosen: jax.Array) -> jax.Array:
        light = attenuated(field, params, jax.tree.map(lambda leaf: leaf[chosen], rays), 1)
        values = params.values / CONFIG["density"]
        rough = sum(jnp.mean(jnp.abs(jnp.diff(values, axis=axis))) for axis in range(3))
        return jnp.mean((-jnp.log(light) - wanted[chosen]) ** 2) + variation * rough

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array) -> Any:
        chosen = jax.random.randint(key, (count,), 0, total)
        change, state = optimizer.update(jax.grad(loss)(params, chosen), state)
        params = optax.apply_updates(params, change)
        return VolumeParams(jnp.maximum(params.values, 0.0)), state

    learned: Any = params
    state = optimizer.init(learned)
    for number in range(steps):
        learned, state = step(learned, state, jax.random.key(number))
    return np.asarray(learned.values) / CONFIG["density"]


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """In decibels, of values in [0, 1]."""
    return float(-10.0 * np.log10(np.mean((found - truth) ** 2)))


def draw_three_ways() -> None:
    """The scan as X-ray, as maximum intensity, and as emission and absorption, side by side."""
    side, picture = CONFIG["drawn_voxels"], CONFIG["drawn_pixels"]
    values = np.rint(255.0 * made((side,) * 3, CONFIG["noise"])).astype(np.uint8)
    matrix = np.diag([2.0 / side, 2.0 / side, 2.0 / side, 1.0])
    matrix[:3, 3] = 1.0 / side - 1.0
    camera = Camera.look_at((2.0, -2.1, 0.9), width=picture, height=picture)
    film = ((0.0,) * 3, (1.0,) * 3)
    skin, bone, blood = [0.55, 0.25, 0.15], [0.95, 0.9, 0.75], [0.9, 0.1, 0.08]
    ways: dict[Compositing, TransferFunction] = {
        "attenuation": TransferFunction.window(10.0, 245.0, 2.2),
        "maximum": TransferFunction.window(40.0, 245.0, 1.0, film),
        # What is soft is a veil, bone a haze, and vessels are solid.
        "volume": TransferFunction.of(
            [35.0, 64.0, 140.0, 180.0, 215.0],
            [0.0, 0.25, 1.0, 1.2, 150.0],
            [skin, skin, bone, bone, blood],
        ),
    }
    pictures = []
    for how, table in ways.items():
        field, params = VolumeField.from_array(values, transfer=table, to_world=matrix)
        sampler = OccupancySampler(
            field.occupancy(params), samples=512, mean_samples=96.0, samples_per_voxel=2
        )
        behind = 1.0 if how == "attenuation" else 0.0
        seen = render_image(field, params, camera, sampler, background=behind, compositing=how)
        pictures.append(np.asarray(seen.colour))
    save(np.concatenate(pictures, axis=1), "three_ways.webp")


def draw_slices(slices: dict[str, np.ndarray]) -> None:
    """The middle slice of the truth and of what was recovered, side by side."""
    middle = [values[:, :, values.shape[2] // 2] for values in slices.values()]
    large = [np.kron(each, np.ones((4, 4))) for each in middle]
    save(np.concatenate(large, axis=1)[..., None] * np.ones(3), "slices.webp")


def draw_plot(rows: list[dict]) -> None:
    """PSNR by the number of X-rays."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name in list(rows[0])[1:]:
        axes.plot([row["views"] for row in rows], [row[name] for row in rows], "o-", label=name)
    axes.set_xscale("log")
    axes.set_xticks(CONFIG["views"], map(str, CONFIG["views"]))
    axes.minorticks_off()
    axes.set(xlabel="X-rays", ylabel="PSNR of the scan, dB")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(HERE / "psnr.png", dpi=110)


def save(picture: np.ndarray, name: str) -> None:
    """Write a picture with values in [0, 1]."""
    levels = np.rint(255.0 * np.clip(picture, 0.0, 1.0)).astype(np.uint8)
    Image.fromarray(levels).save(HERE / name, quality=85)


if __name__ == "__main__":
    main()

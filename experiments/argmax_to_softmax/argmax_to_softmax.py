"""Why a renderer that one can differentiate is a soft one: a ball that starts in a wrong place.

    pip install 'jaxnerf[experiments]'
    python experiments/argmax_to_softmax/argmax_to_softmax.py

A ball is moved, resized and coloured by gradient descent until it looks like six photographs of another,
through the hard renderer (compositing "surface": the first opaque sample is the pixel) and through the
soft one ("volume"), and through the soft one with ever harder balls. Leaves results.json, recovery.png,
gradient_along_a_ray.png, pictures.png and hardness.png in this file's folder.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from PIL import Image

from jaxnerf import Camera, Stratified, cast_rays, compositing, render_rays
from jaxnerf.compositing import Compositing
from jaxnerf.sampling import pixels

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
SIDE, SAMPLES, STEPS, RATE = (CONFIG[each] for each in ("side", "samples", "steps", "rate"))
NEAR, FAR = CONFIG["near"], CONFIG["far"]
DISTANCE, FIELD_OF_VIEW = CONFIG["distance"], CONFIG["field_of_view"]
# Of a ball's material, in 1/length: how much light a length of it stops, and how sharp its wall is.
DENSITY, SHARPNESS = CONFIG["density"], CONFIG["sharpness"]
# Factors by which both are multiplied: harder and harder.
HARDNESS = CONFIG["hardness"]
# Renderers and hardnesses that are compared, by name. Of the second one, a sample stops 93% of the light.
RENDERERS: dict[str, tuple[Compositing, float]] = CONFIG["renderers"]
TRUTH = CONFIG["truth"]
# Where it begins: touching the other ball in the pictures, or nowhere near.
STARTS = CONFIG["starts"]


@dataclasses.dataclass(frozen=True)
class Ball:
    """A ball of a colour, whose wall is as sharp as its material is dense."""

    hardness: float = 1.0

    def init(self, key):
        return as_arrays(TRUTH)

    def density(self, params, positions):
        away = positions - params["centre"]
        distance = jnp.sqrt(jnp.sum(away * away, axis=-1) + 1e-6)
        wall = jax.nn.sigmoid(self.hardness * SHARPNESS * (params["radius"] - distance))
        return self.hardness * DENSITY * wall, positions

    def colour(self, params, features, view_directions):
        return jnp.broadcast_to(jax.nn.sigmoid(params["tint"]), features.shape)


def as_arrays(values: dict[str, Any]) -> dict[str, jax.Array]:
    """Parameters as arrays."""
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def cameras() -> list[Camera]:
    """Six cameras around the scene."""
    turn = 2.0 * np.pi * np.arange(6) / 6
    eyes = [
        (DISTANCE * np.cos(a), DISTANCE * np.sin(a), (-1) ** k * 1.2) for k, a in enumerate(turn)
    ]
    return [
        Camera.look_at(eye, width=SIDE, height=SIDE, field_of_view=FIELD_OF_VIEW) for eye in eyes
    ]


def pictures(field: Ball, params, way: Compositing) -> jax.Array:
    """What the cameras see, [cameras, SIDE, SIDE, 3], on white."""
    grid = pixels.grid(SIDE, SIDE)
    rays = [cast_rays(camera, grid, NEAR, FAR) for camera in cameras()]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rays)
    return render_rays(field, params, stacked, Stratified(SAMPLES), compositing=way).colour


@functools.partial(jax.jit, static_argnames=("field", "way"))
def search(field: Ball, way: Compositing, params, target):
    """Adam, to the pictures that are given: the last parameters, and what was on the way.

    Returns:
      The parameters; and of each step the loss, the centre's distance from the truth's, and the length of
      the gradients to the centre and to the colour.
    """
    optimizer = optax.adam(RATE)

    def loss(params):
        return jnp.mean((pictures(field, params, way) - target) ** 2)

    def step(carry, _):
        params, state = carry
        value, slope = jax.value_and_grad(loss)(params)
        away = jnp.linalg.norm(params["centre"] - jnp.asarray(TRUTH["centre"]))
        sizes = jnp.linalg.norm(slope["centre"]), jnp.linalg.norm(slope["tint"])
        updates, state = optimizer.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), (value, away, *sizes)

    carry, found = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)
    return carry[0], found


def recoveries() -> tuple[dict[str, Any], dict[str, Any]]:
    """Both renderers from both starts: figures, and all that is drawn."""
    figures, drawn = {}, {}
    for renderer, (way, hardness) in RENDERERS.items():
        field = Ball(hardness)
        target = pictures(field, as_arrays(TRUTH), way)
        for name, start in STARTS.items():
            params, found = search(field, way, as_arrays(start), target)
            loss, away, to_centre, to_tint = (np.asarray(x) for x in found)
            end = np.linalg.norm(np.asarray(params["centre"]) - TRUTH["centre"])
            figures[f"{renderer}, begun {name}"] = {
                "distance_at_first": float(away[0]),
                "distance_at_last": float(end),
                "radius_at_last": float(params["radius"]),
                "loss_at_first": float(loss[0]),
                "loss_at_last": float(loss[-1]),
                "gradient_to_centre_at_first": float(to_centre[0]),
                "largest_gradient_to_centre": float(to_centre.max()),
                "gradient_to_colour_at_first": float(to_tint[0]),
            }
            shown = pictures(field, params, way)
            drawn[renderer, name] = (
                loss,
                away,
                pictures(field, as_arrays(start), way),
                shown,
                target,
            )
    return figures, drawn


def hardnesses() -> list[dict[str, float]]:
    """The soft renderer with ever harder balls."""
    rows = []
    pixels_a_length = float(SIDE / (2 * DISTANCE * np.tan(np.deg2rad(0.5 * FIELD_OF_VIEW))))
    for hardness in HARDNESS:
        field = Ball(float(hardness))
        target = pictures(field, as_arrays(TRUTH), "volume")
        row: dict[str, float] = {
            "hardness": hardness,
            # Inside, of an interval between samples; and the wall's width in pixels of the pictures.
            "opacity_of_a_sample": float(
                1.0 - np.exp(-hardness * DENSITY * (FAR - NEAR) / SAMPLES)
            ),
            "wall_in_pixels": 4.0 / (hardness * SHARPNESS) * pixels_a_length,
        }
        for name, start in STARTS.items():
            params, found = search(field, "volume", as_arrays(start), target)
            away = np.linalg.norm(np.asarray(params["centre"]) - TRUTH["centre"])
            row[f"distance_at_last, {name}"] = float(away)
            row[f"gradient_to_centre_at_first, {name}"] = float(found[2][0])
        rows.append(row)
    return rows


def along_a_ray() -> dict[str, np.ndarray]:
    """How the red of a pixel depends on the density of each sample of its ray, in three balls.

    The ray goes through the middle of a ball of the truth's radius. How red a place would be, had it
    density, changes along the ray, in the ball and around it. In float64, so that what is tiny can be
    told from rounding.
    """
    found: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        t = jnp.linspace(NEAR, FAR, SAMPLES + 1)
        middles = 0.5 * (t[:-1] + t[1:])
        red = 0.5 + 0.4 * jnp.sin(5.0 * middles)
        params = {"radius": jnp.asarray(TRUTH["radius"]), "centre": jnp.zeros(3)}
        positions = jnp.stack([middles - DISTANCE, *jnp.zeros((2, SAMPLES))], axis=-1)
        found["t"] = np.asarray(middles)
        for hardness in (1.0, 4.0, 32.0):
            density, _ = Ball(hardness).density(params, positions)

            def pixel(density, weigh):
                weights = weigh(density, t)
                return jnp.sum(weights * red) + 1.0 - jnp.sum(weights)

            for name, weigh in (
                ("soft", compositing.volume_weights),
                ("hard", compositing.surface_weights),
            ):
                found[f"{name}, {hardness}"] = np.asarray(jax.grad(pixel)(density, weigh))
            found[f"density, {hardness}"] = np.asarray(density)
    return found


def draw_recovery(drawn: dict[str, Any]) -> None:
    """The losses and distances over the steps."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    style = dict(zip(RENDERERS, ("tab:red", "tab:purple", "tab:blue"), strict=True))
    for (renderer, name), (loss, away, *_) in drawn.items():
        dash, label = "-" if name == "near" else "--", f"{renderer}, begun {name}"
        axes[0].semilogy(np.maximum(loss, 1e-10), dash, color=style[renderer])
        axes[1].plot(away, dash, color=style[renderer], label=label)
    axes[0].set(xlabel="step", ylabel="mean squared error of the pictures")
    axes[1].set(xlabel="step", ylabel="distance of the centre")
    axes[1].legend(fontsize=7, loc="center right")
    figure.savefig(HERE / "recovery.png", dpi=90)


def draw_ray(found: dict[str, np.ndarray]) -> None:
    """The size of the gradient of a pixel along its ray; that of the hard renderer is 0 everywhere."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
    for axis, hardness in zip(axes, (1.0, 4.0, 32.0), strict=True):
        density = found[f"density, {hardness}"]
        least, most = 1e-16, 1e-1
        scaled = least * (most / least) ** (density / density.max())
        axis.fill_between(found["t"], least, scaled, color="0.9", label="density (not to scale)")
        axis.semilogy(found["t"], np.abs(found[f"soft, {hardness}"]), "tab:blue", label="soft")
        hard = np.maximum(np.abs(found[f"hard, {hardness}"]), 1.5 * least)
        axis.semilogy(found["t"], hard, "tab:red", label="hard: 0")
        axis.set(xlabel="t", title=f"hardness {hardness:g}", xlim=(3, 5), ylim=(least, most))
    axes[0].set(ylabel="|d pixel / d density|")
    axes[2].legend(fontsize=8, loc="upper right")
    figure.savefig(HERE / "gradient_along_a_ray.png", dpi=90)


def draw_hardness(rows: list[dict[str, float]]) -> None:
    """Where the soft renderer stalls."""
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    walls = [row["wall_in_pixels"] for row in rows]
    for name, dash in (("near", "-o"), ("far", "--o")):
        axis.semilogx(
            walls, [row[f"distance_at_last, {name}"] for row in rows], dash, label=f"begun {name}"
        )
    axis.axvline(1.0, color="0.8", zorder=0)
    axis.invert_xaxis()
    axis.set(
        xlabel="width of the ball's wall, in pixels",
        ylabel="distance of the centre at last",
        ylim=(0, None),
    )
    axis.legend(fontsize=8)
    figure.savefig(HERE / "hardness.png", dpi=90)


def draw_pictures(drawn: dict[str, Any]) -> None:
    """Rows: renderers, each begun near and far. Columns, of two cameras: first, last, truth."""
    rows = []
    for _, _, first, last, target in drawn.values():
        shown = [np.asarray(each[k]) for k in (0, 2) for each in (first, last, target)]
        padded = [np.pad(each, ((2, 2), (2, 2), (0, 0)), constant_values=0.75) for each in shown]
        rows.append(np.concatenate(padded, axis=1))
    whole = np.concatenate(rows).repeat(4, axis=0).repeat(4, axis=1)
    Image.fromarray((whole.clip(0, 1) * 255).astype(np.uint8)).save(HERE / "pictures.png")


def main() -> None:
    """Search, draw, write."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    begin = time.perf_counter()
    figures, drawn = recoveries()
    rows, ray = hardnesses(), along_a_ray()
    draw_recovery(drawn)
    draw_ray(ray)
    draw_hardness(rows)
    draw_pictures(drawn)
    settings = {"pixels": SIDE, "samples": SAMPLES, "steps": STEPS, "learning_rate": RATE,
                "density": DENSITY, "sharpness": SHARPNESS, "truth": TRUTH, "starts": STARTS}  # fmt: skip
    along = {
        name: {"largest": float(np.abs(x).max()), "samples_with_some": int((np.abs(x) > 1e-6).sum())}
        for name, x in ray.items()
        if name.startswith(("soft", "hard"))
    }  # fmt: skip
    result = {
        "settings": settings,
        "recoveries": figures,
        "hardness": rows,
        "gradient_along_a_ray": along,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, row in figures.items():
        print(f"{name:28} distance {row['distance_at_first']:.3f} -> {row['distance_at_last']:.4f}")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()

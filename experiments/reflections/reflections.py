"""What it buys to tell a field the view direction: on metal, glass, glaze and matte things.

    python experiments/reflections/reflections.py

Trains the demo scene twice, with the direction and without (spherical harmonics of degree 0, a constant),
and measures test views by the material behind each pixel, which the scene's object pictures say. Leaves
results.json, views.webp and highlight.webp in this file's folder.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxnerf import Camera, Run, cast_rays, load_run, load_scene, render_rays
from jaxnerf.cameras import pixel_centres
from jaxnerf.evaluation import blend
from jaxnerf.runs.metrics import read_metrics

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
DEMO = HERE.parents[1] / "jaxnerf" / "scenes" / "demo"
# Of the objects of demo_scene/scene.py, by what they are made of.
MATERIALS = CONFIG["materials"]
DEGREES = CONFIG["degrees"]
EVERY = CONFIG["every"]  # of the test views one is measured
VASE = tuple(CONFIG["vase"])


def train(steps: int, degree: int, folder: Path) -> Path:
    """A run on the demo scene whose network is told directions by harmonics of a degree."""
    command = [
        sys.executable, "-m", "jaxnerf", "train", f"--out={folder}", f"--max_steps={steps}",
        f"--voxels.field.sh_degree={degree}", "--noevaluate",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return folder


def objects_of_views(count: int) -> np.ndarray:
    """The id of the object at each pixel of the test views; 0 for none."""
    numbers = range(0, count, EVERY)
    return np.stack([np.array(Image.open(DEMO / f"test/r_{k}_object.png")) for k in numbers])


def known_objects() -> dict[str, int]:
    """The numbers of objects in their pictures."""
    objects = json.loads((DEMO / "scene.json").read_text())["objects"]
    return {each["name"]: int(number) for number, each in objects.items()}


def squared_errors(run: Run, photographs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every second test view: the mean over channels at each pixel, and the pictures."""
    every = run.cameras("test")
    cameras = [every[number] for number in range(0, len(every), EVERY)]
    seen = np.stack([run.render(camera, background=1.0).colour.clip(0, 1) for camera in cameras])
    return ((seen - photographs) ** 2).mean(axis=-1), seen


def decibels(errors: np.ndarray) -> float:
    """PSNR of the mean of squared errors."""
    return float(-10.0 * np.log10(errors.mean()))


def measured(errors: dict[str, np.ndarray], objects: np.ndarray) -> list[dict[str, Any]]:
    """A row for each material and each object: pixels of all views together."""
    known = known_objects()
    groups = {
        material: np.isin(objects, [known[name] for name in names])
        for material, names in MATERIALS.items()
    }
    groups |= {name: objects == number for name, number in known.items()}
    rows = []
    for name, mask in groups.items():
        row: dict[str, Any] = {"of": name, "pixels": int(mask.sum())}
        row |= {way: round(decibels(each[mask]), 2) for way, each in errors.items()}
        rows.append(row | {"gain": round(row["with"] - row["without"], 2)})
    of_views = {way: each.reshape(len(each), -1).mean(axis=1) for way, each in errors.items()}
    whole = {way: -10.0 * np.log10(each).mean() for way, each in of_views.items()}
    first: dict[str, Any] = {"of": "all pixels", "pixels": objects.size}
    first |= {way: round(float(x), 2) for way, x in whole.items()}
    return [first | {"gain": round(first["with"] - first["without"], 2)}, *rows]


def told(run: Run, camera: Camera, other: Camera) -> np.ndarray:
    """What a camera would see if the light came to it as it comes to another one."""
    size = tuple(int(x) for x in camera.size)
    places = pixel_centres(*size).reshape(-1, 2)
    rays = cast_rays(camera, places, run.scene.near, run.scene.far)
    towards = cast_rays(other, places).view_directions
    rays = dataclasses.replace(rays, view_directions=towards)
    scene = jax.tree.map(jnp.asarray, (run.field, run.params, run.sampler))
    seen = [
        np.asarray(colours(*scene, jax.tree.map(lambda x, at=at: x[at : at + 2048], rays)))
        for at in range(0, len(places), 2048)
    ]
    return np.concatenate(seen).reshape(size[1], size[0], 3)


@jax.jit
def colours(field, params, sampler, rays):
    """What rays see, on white."""
    return render_rays(field, params, rays, sampler).colour


def highlight(runs: dict[str, Run], path: Path, frames: int = 24, side: int = 128) -> None:
    """A camera that swings before the vase: as it is, without directions, and only the directions."""

    def camera(turn: float) -> Camera:
        angle = np.deg2rad(200.0) + np.deg2rad(30.0) * np.sin(turn)
        eye = (4.0 * np.cos(angle) * 0.9, 4.0 * np.sin(angle) * 0.9, 1.6)
        return Camera.look_at(eye, VASE, width=side, height=side, field_of_view=13.0)

    pictures = []
    for number in range(frames):
        moving, still = camera(2.0 * np.pi * number / frames), camera(0.0)
        row: list[Any] = [
            runs[way].render(moving, background=1.0).colour for way in ("with", "without")
        ]
        row.append(told(runs["with"], still, moving))
        shown = np.concatenate(row, axis=1).clip(0, 1)
        pictures.append(Image.fromarray((shown * 255).astype(np.uint8)))
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=100, loop=0, quality=70
    )


def show(photographs, seen: dict[str, np.ndarray], path: Path, views=(3, 13)) -> None:
    """Photographs, both pictures, and where the direction helped (blue) or did harm (red)."""
    rows = []
    for view in views:
        error = {
            way: ((each[view] - photographs[view]) ** 2).mean(-1) for way, each in seen.items()
        }
        away = np.clip((np.sqrt(error["without"]) - np.sqrt(error["with"])) * 5.0, -1, 1)[..., None]
        blue, red = np.array([0.1, 0.3, 1.0]), np.array([1.0, 0.1, 0.1])
        gain = 1.0 - np.maximum(away, 0) * (1 - blue) - np.maximum(-away, 0) * (1 - red)
        row = [photographs[view], seen["with"][view], seen["without"][view], gain]
        rows.append(np.concatenate(row, axis=1))
    whole = np.concatenate(rows).clip(0, 1)
    Image.fromarray((whole * 255).astype(np.uint8)).save(path, quality=80)


def main() -> None:
    """Train, measure, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--steps", type=int, default=CONFIG["steps"], help="of training, each of both"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/reflections"), help="folder of both"
    )
    given = parser.parse_args()
    runs, training = {}, {}
    for way, degree in DEGREES.items():
        folder = given.runs / way
        runs[way] = load_run(folder if folder.exists() else train(given.steps, degree, folder))
        training[way] = round(read_metrics(folder)[-1]["seconds"], 1)
    begin = time.perf_counter()
    split = load_scene(images=("test",)).splits["test"]
    assert split.images is not None
    photographs = np.stack([blend(image, 1.0) for image in split.images[::EVERY]])
    both = {way: squared_errors(run, photographs) for way, run in runs.items()}
    errors, seen = ({way: each[k] for way, each in both.items()} for k in (0, 1))
    rows = measured(errors, objects_of_views(len(split)))
    show(photographs, seen, HERE / "views.webp")
    highlight(runs, HERE / "highlight.webp")
    result = {
        "training_steps": given.steps, "sh_degree": DEGREES,
        "views": f"{len(photographs)} of {len(split)}",
        "protocol": "PSNR of the mean squared error over all pixels of a kind of these test views, on "
        "white; of all pixels, of the mean of views; kinds by the object at a pixel's centre",
        "materials": MATERIALS, "psnr": rows, "training_seconds": training,
        "seconds": round(sum(training.values()) + time.perf_counter() - begin, 1),
    }  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    for row in rows:
        print(f"{row['of']:12} {row['with']:7.2f} {row['without']:7.2f} {row['gain']:+6.2f}")


if __name__ == "__main__":
    main()

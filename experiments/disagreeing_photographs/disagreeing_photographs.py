"""What exposures that differ and poses that are off cost, and how much of it is found again.

    python experiments/disagreeing_photographs/disagreeing_photographs.py --steps 1000

The demo scene's training photographs, or their poses, are disturbed by a known amount; the fast field is
trained with and without adjusting for it. Prints a table, and leaves results.json and psnr.png in this
file's folder; with --draw it only draws what results.json has.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from jaxnerf import Camera, load_scene
from jaxnerf.cli.common import prepare_cpu
from jaxnerf.config import override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import preset
from jaxnerf.evaluation import blend, psnr
from jaxnerf.methods import first_state, trainer_of
from jaxnerf.rendering import render_image
from jaxnerf.scenes import Scene, Split
from jaxnerf.training import loop
from jaxnerf.training.trainer import local

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from disturbed import colour_error, disturb_colours, disturb_poses, pose_errors  # noqa: E402

GAIN, DEGREES, SHARE = 0.15, 1.0, 0.015


def train(scene: Scene, split: Split, steps: int, name: str, adjust: dict[str, Any]):
    """The configuration, the last state and the seconds of a run on a split."""
    scene = dataclasses.replace(scene, splits={"train": split})
    length = {"training.steps": steps, "training.max_seconds": 0.0}
    config = adapt_to_scene(override(preset(name), length | adjust), scene)
    begun = time.perf_counter()
    state, way = first_state(config, scene), trainer_of(config, scene)
    *_, last = loop.train(state, way, report_every=steps)
    state = local(last.state)
    return config, state, time.perf_counter() - begun


def quality(config, state, test: Split, frame, every: int) -> float:
    """Mean PSNR of test views, their cameras brought into the frame of the field."""
    assert test.images is not None
    found = []
    for index in range(0, len(test), every):
        pose = frame.inverse().poses(np.asarray(test.cameras.camera_to_world[index]))
        camera = dataclasses.replace(test.cameras[index], camera_to_world=pose.astype(np.float32))
        sampler = config.voxels.stages.sampler_for_pictures(state.sampler.occupancy)
        seen = render_image(state.field, state.params, camera, sampler)
        found.append(psnr(np.clip(seen.colour, 0.0, 1.0), blend(test.images[index], 1.0)))
    return float(np.mean(found))


def measure(
    scene: Scene, disturbed: str, adjust: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """A run: what its photographs were disturbed by, what was left of it, and the test views' PSNR."""
    truth = scene.splits["train"]
    split, affine = truth, np.tile(np.eye(3, 4), (len(truth), 1, 1))
    if disturbed == "poses":
        split = disturb_poses(truth, DEGREES, SHARE)
    if disturbed == "colours":
        split, affine = disturb_colours(truth, GAIN)
    config, state, seconds = train(scene, split, options.steps, options.config, adjust)
    cameras: Camera = split.cameras
    found = np.tile(np.eye(3, 4), (len(truth), 1, 1))
    if state.calibration is not None:
        cameras = jax.tree.map(np.asarray, state.calibration.cameras(cameras))
        if state.calibration.colours is not None:
            found = found + state.calibration.colours
    angle, distance, frame = pose_errors(cameras.camera_to_world, truth.cameras.camera_to_world)
    return {
        "disturbed": disturbed,
        "adjusted": ", ".join(adjust) or "nothing",
        "seconds": round(seconds),
        "psnr": round(quality(config, state, scene.splits["test"], frame, options.every), 2),
        "degrees": round(angle, 4),
        "distance": round(distance, 5),
        "colours": round(colour_error(found, affine, truth.images), 4),
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR of each run: grey where what was disturbed is not adjusted for."""
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    names = [f"{r['disturbed']} disturbed, {said(r['adjusted'])} adjusted" for r in rows]
    colours = ["tab:grey" if r["adjusted"] == "nothing" else "tab:blue" for r in rows]
    bars = axes.barh(names, [row["psnr"] for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="PSNR of test views in dB", xlim=(0.0, 37.0))
    axes.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def said(adjusted: str) -> str:
    """What is adjusted, from the names of the settings."""
    words = {"pose": "poses", "colour": "colours"}
    return " and ".join(words[key] for key in words if key in adjusted) or "nothing"


def main() -> None:
    """Train all runs, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of each run")
    parser.add_argument("--config", default="minute", help="a preset of the fast field")
    parser.add_argument("--every", type=int, default=4, help="measure test views 0, N, 2 N, ...")
    parser.add_argument("--only", default="", help="poses or colours")
    parser.add_argument("--draw", action="store_true", help="only draw results.json")
    options = parser.parse_args()
    if options.draw:
        draw(json.loads((HERE / "results.json").read_text())["runs"], HERE / "psnr.png")
        return
    prepare_cpu(preset(options.config).training.rays_per_batch)
    scene = load_scene(images=("train", "test"))
    poses, colours = (
        {"voxels.calibration.refine_poses": True},
        {"voxels.calibration.affine_colour": True},
    )
    runs: list[tuple[str, dict[str, Any]]] = [
        ("poses", {}), ("poses", poses), ("colours", {}), ("colours", colours),
        ("nothing", {}), ("nothing", poses | colours),
    ]  # fmt: skip
    rows = []
    for disturbed, adjust in runs:
        if options.only in ("", disturbed):
            rows.append(measure(scene, disturbed, adjust, options))
            print(json.dumps(rows[-1]), flush=True)
    found = {"steps": options.steps, "config": options.config, "every": options.every}
    found |= {"gain": GAIN, "degrees": DEGREES, "share": SHARE, "runs": rows}
    (HERE / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(rows, HERE / "psnr.png")
    print(f"\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")


if __name__ == "__main__":
    main()

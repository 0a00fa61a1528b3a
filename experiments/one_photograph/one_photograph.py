"""How many photographs a scene wants: the demo scene from 1, 2, 3, ... of its hundred.

    pip install -e '.[experiments]'
    python experiments/one_photograph/one_photograph.py

Each field is trained for the same number of steps, on photographs that are spread evenly over the
cameras' directions or drawn at random, and shown from the cameras that it was trained on and from
those of the test views. Leaves results.json, one_photograph.png (the plot), beside.png and more.png in
this folder. Called again, it trains what results.json lacks: more seeds, or the rest of a call.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from jaxnerf import Run, Scene, fit, load_scene
from jaxnerf.cli.common import prepare_cpu, use_compilation_cache
from jaxnerf.evaluation import blend, psnr, to_8bit
from jaxnerf.scenes import Split

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
COUNTS = CONFIG["photographs"]
# Rays of a step, and of which voxels: so that a run takes seconds at half of the photographs' size.
SETTINGS: dict[str, Any] = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in CONFIG["settings"].items()
}
# How many views of a kind are measured.
MEASURED = CONFIG["views_measured"]


def directions(split: Split) -> np.ndarray:
    """From where each camera looks at the scene's middle, as unit vectors [N, 3]."""
    positions = np.asarray(split.cameras.camera_to_world)[:, :, 3]
    return positions / np.linalg.norm(positions, axis=-1, keepdims=True)


def spread(split: Split, count: int, seed: int) -> np.ndarray:
    """Photographs from everywhere: after a random one, always the one farthest from those before."""
    places = directions(split)
    chosen = [int(np.random.default_rng(seed).integers(len(split)))]
    nearest = places @ places[chosen[0]]
    while len(chosen) < count:
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, places @ places[chosen[-1]])
    return np.array(chosen)


def at_random(split: Split, count: int, seed: int) -> np.ndarray:
    """Photographs drawn without replacement."""
    return np.random.default_rng(seed).permutation(len(split))[:count]


def only(split: Split, chosen: Sequence[int] | np.ndarray) -> Split:
    """A split of some of its photographs."""
    assert split.images is not None
    index = np.asarray(chosen)
    cameras = jax.tree.map(lambda leaf: np.asarray(leaf)[index], split.cameras)
    return Split(tuple(split.names[i] for i in index), cameras, split.images[index])


def asked(known: int, seeds: int) -> Iterator[tuple[int, str, int]]:
    """How many photographs, how they are chosen, and the seed, of each field."""
    for seed in range(seeds):
        for count in COUNTS:
            for which in ("spread", "random") if count < known else ("all",):
                yield count, which, seed


def train(scene: Scene, chosen: np.ndarray, steps: int, seed: int) -> Run:
    """A field of these photographs alone; where the scene lies is known from all cameras."""
    split = scene.splits["train"]
    assert split.images is not None
    masks = np.zeros(split.images.shape[:3], bool)
    masks[chosen] = True
    part = {**scene.splits, "train": dataclasses.replace(split, masks=masks)}
    return fit(
        "minute",
        dataclasses.replace(scene, splits=part),
        steps=steps,
        report_every=steps,
        training__seed=seed,
        **SETTINGS,
    )


def quality(run: Run, split: Split) -> float:
    """Mean PSNR in dB of some of a split's views, on white."""
    assert split.images is not None
    shown = np.unique(np.linspace(0, len(split) - 1, MEASURED).astype(int))
    found = [
        psnr(np.clip(picture(run, split, i), 0.0, 1.0), blend(split.images[i], 1.0)) for i in shown
    ]
    return float(np.mean(found))


def picture(run: Run, split: Split, index: int) -> np.ndarray:
    """What a camera of a split sees, on white."""
    return np.asarray(run.render(split.cameras[index], background=1.0).colour)


def turned_by(degrees: float, seen: Split, test: Split) -> int:
    """The test view whose direction is about so far from that of the first photograph seen."""
    turned = np.arccos(np.clip(directions(test) @ directions(seen)[0], -1.0, 1.0))
    return int(np.argmin(np.abs(np.degrees(turned) - degrees)))


def beside(run: Run, seen: Split, test: Split) -> np.ndarray:
    """The one photograph and the field from its camera; and from beside, with what is there."""
    assert seen.images is not None
    assert test.images is not None
    strip = [blend(seen.images[0], 1.0), picture(run, seen, 0)]
    for degrees in (30.0, 90.0):
        index = turned_by(degrees, seen, test)
        strip += [picture(run, test, index), blend(test.images[index], 1.0)]
    return to_8bit(np.concatenate(strip, axis=1))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR over the number of photographs; the mean over seeds, and between the least and the most."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for which, colour in (("spread", "tab:blue"), ("random", "tab:orange")):
        for key, style in (("new_psnr", "-"), ("seen_psnr", ":")):
            of = [[r[key] for r in rows if r["photographs"] == n and r["which"] in (which, "all")]
                  for n in COUNTS]  # fmt: skip
            label = f"{'other views' if key == 'new_psnr' else 'its photographs'}, {which}"
            axes.plot(COUNTS, [np.mean(x) for x in of], style, color=colour, label=label)
            low, high = [min(x) for x in of], [max(x) for x in of]
            axes.fill_between(COUNTS, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="photographs", ylabel="PSNR in dB")
    axes.set_xticks(COUNTS, labels=map(str, COUNTS))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def earlier(settings: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The rows of an earlier call with the same settings, and the seconds that they took."""
    path = HERE / "results.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    # As JSON has them: its lists are no tuples.
    same = json.loads(json.dumps(settings)) == {key: found.get(key) for key in settings}
    return (found["runs"], found["seconds"]) if same else ([], 0)


def beside_the_last(path: Path, picture: np.ndarray, *, first: bool) -> None:
    """Add a picture at the right end of a file of several, or begin one."""
    before = [] if first else [np.asarray(Image.open(path))]
    Image.fromarray(np.concatenate([*before, to_8bit(picture)], axis=1)).save(path)


def main() -> None:
    """Train all that is not in results.json already, print the table, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=CONFIG["steps"], help="of each field")
    parser.add_argument("--seeds", type=int, default=CONFIG["seeds"])
    options = parser.parse_args()
    prepare_cpu(SETTINGS["training__rays_per_batch"])
    use_compilation_cache()
    scene = load_scene(downscale=CONFIG["downscale"], images=("train", "test"))
    known, test = scene.splits["train"], scene.splits["test"]
    aside = turned_by(90.0, only(known, spread(known, 1, 0)), test)
    settings = {"steps": options.steps, "settings": SETTINGS, "views_measured": MEASURED}
    (rows, before), begun = earlier(settings), time.perf_counter()
    for count, which, seed in asked(len(known), options.seeds):
        key = {"photographs": count, "which": which, "seed": seed}
        if any(key.items() <= row.items() for row in rows):
            continue
        chosen = (spread if which == "spread" else at_random)(known, count, seed)
        run = train(scene, chosen, options.steps, seed)
        seen = only(known, chosen)
        row = {**key, "seen_psnr": round(quality(run, seen), 2)}
        rows.append(row | {"new_psnr": round(quality(run, test), 2)})
        if seed == 0 and which != "random":
            shown = picture(run, test, aside)
            beside_the_last(HERE / "more.png", shown, first=count == COUNTS[0])
            if count == 1:
                Image.fromarray(beside(run, seen, test)).save(HERE / "beside.png")
        seconds = before + round(time.perf_counter() - begun)
        rows.sort(key=lambda r: (r["photographs"], r["which"] == "random", r["seed"]))
        found = {**settings, "seconds": seconds, "runs": rows}
        (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{json.dumps(key)} {seconds} s", flush=True)
        jax.clear_caches()
    plot(rows, HERE / "one_photograph.png")
    print("| photographs | its photographs, spread | random | other views, spread | random |")
    print("|---|---|---|---|---|")
    for count in COUNTS:
        cells = [
            np.mean([r[key] for r in rows if r["photographs"] == count and r["which"] in (w, "all")])
            for key in ("seen_psnr", "new_psnr") for w in ("spread", "random")
        ]  # fmt: skip
        print(f"| {count} | {' | '.join(f'{x:.2f}' for x in cells)} |")


if __name__ == "__main__":
    main()

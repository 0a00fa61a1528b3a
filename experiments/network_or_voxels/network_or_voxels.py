"""A network or voxels: how many bytes each wants for the demo scene, and what a close-up shows.

    pip install -e '.[experiments]'
    python experiments/network_or_voxels/network_or_voxels.py

Trains the paper's network, the fast field, a hash grid and dense lattices on the demo scene, for about
the same time each; samples the fast field on grids of up to 512 voxels along a side, a byte for opacity
and three for colour; and shows all of them. What was trained is kept in the folder --runs, and not
trained again. Leaves results.json, bytes.png and close_up.webp in this file's folder.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
import optax

from jaxnerf import (
    Box,
    Camera,
    NerfField,
    OccupancySampler,
    Run,
    Scene,
    TransferFunction,
    VolumeField,
    VoxelField,
    fit,
    load_run,
    load_scene,
    render_image,
)
from jaxnerf.cli.common import prepare_cpu, use_compilation_cache
from jaxnerf.config import override
from jaxnerf.evaluation import blend, psnr, to_8bit
from jaxnerf.training.optimizers import VoxelOptimizerConfig, voxel_optimizer

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
BEST = "fast field"  # which grids are sampled from
LABELS = {"trained": "trained on photographs", "sampled": f"the {BEST}, sampled, 4 bytes a voxel"}
# A camera of the user's frame -> its picture on white.
Eye = Callable[[Camera], np.ndarray]


def cube(run: Run) -> Box:
    """A cube around what a run holds, in the scene's frame, which is that of the demo scene's files."""
    box = run.bounding_box()
    middle, half = 0.5 * (box.low + box.high), 0.51 * box.size.max()
    return Box(middle - half, middle + half)


def dense(box: Box, resolution: int) -> VoxelField:
    """The fast field's lattice without its gaps: every voxel of a cube has its four numbers."""
    side = float(box.size.max())
    return VoxelField.on_lattice(np.ones((1, 1, 1), bool), box.low, side, side / resolution)


def what_is_fitted(
    name: str, config: dict[str, Any], box: Box | None
) -> tuple[Any, dict[str, Any]]:
    """A field or a preset's name, and what else `jaxnerf.fit` is told; dense lattices fill the box."""
    told = {key: value for key, value in config.items() if key not in ("steps", "rate")}
    told["evaluation__edge_supersampling"] = 0.0
    if name == "network":
        steps = config["steps"]
        rate = optax.exponential_decay(config["rate"], steps, 0.1)
        return NerfField(), told | {"optimizer": optax.adam(rate)}
    if name.startswith("dense"):
        assert box is not None
        resolution = int(name.split()[1])
        settings = CONFIG["dense"] | {"occupancy__steps": resolution} | told
        optimizer = voxel_optimizer(VoxelOptimizerConfig())
        return dense(box, resolution), settings | {"optimizer": optimizer}
    return {BEST: "minute", "hash grid": "hash_grid"}[name], told


def trained(name: str, scene: Scene, folder: Path, box: Box | None) -> tuple[Run, dict[str, Any]]:
    """A run that is in the folder already, or is trained; and the seconds that its training took."""
    config = CONFIG["trained"][name]
    what, told = what_is_fitted(name, config, box)
    out = folder / name.replace(" ", "_")
    kept = out.with_suffix(".json")
    if not kept.exists():
        wall, processor = time.perf_counter(), time.process_time()
        run = fit(
            what, scene, out, steps=config["steps"], report_every=100, overwrite=True,
            checkpoint_seconds=1e9, report=lambda at: print(name, at.step, at.metrics, flush=True),
            **told,
        )  # fmt: skip
        seconds = {
            "seconds": round(time.perf_counter() - wall, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
        }
        kept.write_text(json.dumps(seconds))
        return run, seconds
    run = load_run(out) if isinstance(what, str) else load_run(out, field=what)
    plain = override(run.config, {"evaluation.edge_supersampling": 0.0})
    return dataclasses.replace(run, config=plain), json.loads(kept.read_text())


def eye_of(run: Run) -> Eye:
    """What cameras see of a run."""
    return lambda camera: np.asarray(run.render(camera, background=1.0).colour)


def sampled(run: Run, box: Box, resolution: int) -> tuple[VolumeField, Any]:
    """A run on a grid, as a scan would be kept: a byte for a voxel's opacity, and three for its colour.

    Colours are the mean of those from six sides, so that a grid does not know the view direction.
    """
    grid = run.grid(resolution, box)
    opacity, colour = np.zeros(grid.shape, np.uint8), np.zeros((*grid.shape, 3), np.uint8)
    for block in grid:
        opacity[block.where] = to_8bit(np.asarray(block.properties.opacity))
        colour[block.where] = to_8bit(np.asarray(block.properties.colour))
    levels = np.arange(256)
    density = -np.log1p(-np.minimum(levels, 254.5) / 255.0) / grid.grid.voxel
    table = TransferFunction.of(levels, density)
    return VolumeField.from_array(opacity, colour, table, to_world=grid.grid.affine)


def eye_of_grid(field: VolumeField, params: Any, scene: Scene) -> Eye:
    """What cameras see of a grid, sampled twice a voxel."""
    occupancy = field.occupancy(params)
    sampler = OccupancySampler(
        occupancy, samples=2048, mean_samples=32.0, samples_per_voxel=2, max_steps=4096
    )
    look = functools.partial(render_image, field, params, sampler=sampler, background=1.0)
    return lambda camera: np.asarray(look(camera, near=scene.near, far=scene.far).colour)


def bytes_of(*trees: Any) -> int:
    """Of all arrays."""
    return int(sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trees)))


def quality(eye: Eye, scene: Scene) -> float:
    """The mean of the PSNRs of some test views, on white, one ray a pixel."""
    split = scene.splits["test"]
    assert split.images is not None
    found = [
        psnr(eye(split.cameras[i]).clip(0.0, 1.0), blend(split.images[i], 1.0))
        for i in range(0, len(split), CONFIG["every"])
    ]
    return round(float(np.mean(found)), 2)


def near_camera(camera: Camera, close_up: dict[str, Any]) -> Camera:
    """A camera with so many times the resolution, whose picture is a part of the whole one."""
    times, pixels = close_up["times"], close_up["pixels"]
    width, height = (int(x) * times for x in camera.size)
    large = camera.resized(width, height)
    corner = np.asarray(close_up["middle"], np.float32) * times - 0.5 * pixels
    size = np.full(2, pixels, np.int32)
    return dataclasses.replace(large, centre=large.centre - corner.astype(np.float32), size=size)


def enlarged(scene: Scene) -> np.ndarray:
    """The same part of the photograph, each of its pixels a square."""
    close_up, split = CONFIG["close_up"], scene.splits["test"]
    assert split.images is not None
    times = close_up["times"]
    side = close_up["pixels"] // times
    x, y = (at - side // 2 for at in close_up["middle"])
    part = blend(split.images[close_up["view"]], 1.0)[y : y + side, x : x + side]
    return np.kron(part, np.ones((times, times, 1), np.float32))


def show(pictures: dict[str, np.ndarray], path: Path, columns: int = 4) -> None:
    """Close-ups side by side, with their names."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.1 * columns, 2.3 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(picture.clip(0.0, 1.0), interpolation="nearest")
        axis.set_title(name, fontsize=8)
    figure.savefig(path, pil_kwargs={"quality": 80})
    plt.close(figure)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR over bytes."""
    figure, axes = plt.subplots(figsize=(6.8, 4.0), layout="constrained")
    styles = {"trained": ("o", "tab:blue"), "sampled": ("s", "tab:orange")}
    for kind, (marker, colour) in styles.items():
        some = [row for row in rows if row["kind"] == kind]
        axes.plot([row["bytes"] for row in some], [row["psnr"] for row in some], marker,
                  color=colour, label=LABELS[kind])  # fmt: skip
        for row in some:
            axes.annotate(row["name"], (row["bytes"], row["psnr"]), xytext=(4, 4),
                          textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set(xscale="log", xlabel="bytes", ylabel="PSNR of test views in dB")
    axes.grid(alpha=0.3)
    axes.margins(0.12)
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Train, sample, measure, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/network_or_voxels"))
    given = parser.parse_args()
    begun = time.perf_counter()
    prepare_cpu(2)
    use_compilation_cache()
    scene = load_scene(images=("train", "test"))
    camera = near_camera(
        scene.splits["test"].cameras[CONFIG["close_up"]["view"]], CONFIG["close_up"]
    )
    rows: list[dict[str, Any]] = []
    pictures = {"photograph": enlarged(scene)}

    def measured(name: str, kind: str, eye: Eye, **figures: Any) -> None:
        row = {"name": name, "kind": kind, **figures, "psnr": quality(eye, scene)}
        rows.append(row)
        pictures[f"{name}, {row['bytes'] / 1e6:.1f} MB, {row['psnr']} dB"] = eye(camera)
        found = {"rows": rows, "seconds": round(time.perf_counter() - begun), "config": CONFIG}
        (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(row), flush=True)

    def of_run(name: str, run: Run, seconds: dict[str, Any]) -> None:
        assert run.occupancy is not None
        size = {"bytes": bytes_of(run.field, run.params)}
        size |= {"occupancy_bytes": run.occupancy.cells.nbytes}
        measured(name, "trained", eye_of(run), **size, steps=run.step, **seconds)
        show(pictures, HERE / "close_up.webp")
        plot(rows, HERE / "bytes.png")
        jax.clear_caches()

    best, seconds = trained(BEST, scene, given.runs, None)
    of_run(BEST, best, seconds)
    box = cube(best)
    for resolution in CONFIG["sampled"]:
        field, params = sampled(best, box, resolution)
        size = {"bytes": bytes_of(field, params)}
        measured(f"{resolution} cubed", "sampled", eye_of_grid(field, params, scene), **size)
        jax.clear_caches()
    for name in CONFIG["trained"]:
        if name != BEST:
            of_run(name, *trained(name, scene, given.runs, box))


if __name__ == "__main__":
    main()

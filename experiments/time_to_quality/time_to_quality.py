"""How good a picture gets in how much time: trains a scene with each of several budgets and measures.

    python experiments/time_to_quality/time_to_quality.py --data nerf_synthetic/lego --budgets 60,150,360
    python experiments/time_to_quality/time_to_quality.py --budgets 60 --out demo

Each budget is a run of its own, by the commands that users type, from an empty compilation cache. Left
in the folder of this file: OUT.json, and OUT.png if matplotlib is there.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent


def preset_for(seconds: float) -> str:
    """The preset of the fast field that is made for a budget."""
    if seconds <= 100:
        return "minute"
    return "five_minutes" if seconds <= 900 else "half_hour"


def command(*arguments: str) -> list[str]:
    """A jaxnerf command in this interpreter."""
    return [sys.executable, "-m", "jaxnerf", *arguments]


def run_command(arguments: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command to its end, without what it prints."""
    subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL)


def measure(data: str | None, seconds: float, config: str, extra: list[str]) -> dict:
    """One run: train with a cold cache, measure all test views, and say what it took."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        scene = ["--data", data] if data else []
        begun = time.perf_counter()
        process = subprocess.Popen(
            command(
                "train", *scene, "--out", str(run), "--config", config, "--noevaluate",
                "--max_seconds", str(seconds), "--checkpoint_seconds", "1000000", *extra,
            ),
            env=environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        if status:
            raise SystemExit(f"training ended with status {status}")
        run_command(command("eval", str(run), *scene), environment)
        results = json.loads((run / "results.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    return {
        "config": config,
        "budget": seconds,
        "seconds": round(last["seconds_since_process_start"], 1),
        "seconds_without_compilation": round(
            last["seconds_since_process_start"] - last["compile_seconds"], 1
        ),
        "first_step": round(rows[0]["seconds_since_process_start"], 1),
        "process_seconds": round(wall, 1),
        "steps": last["step"],
        "rays": results["train_rays"],
        "psnr": round(results["psnr"], 2),
        "ssim": round(results["ssim"], 4),
        "views": results["protocol"]["images"],
        "resolution": results["protocol"]["resolution"],
        "peak_gb": round(usage.ru_maxrss / 1e6, 2),
    }


def peak_gigabytes() -> float:
    """The most memory that this process has had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def keep_row(folder: Path, name: str, row: dict) -> list[dict]:
    """Put a run among those measured before, in the place of one of the same kind; return all."""
    target = folder / f"{name}.json"
    kept = json.loads(target.read_text())["runs"] if target.exists() else []
    kind = row["config"], row["budget"]
    kept = [old for old in kept if (old["config"], old["budget"]) != kind] + [row]
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    text = json.dumps({"scene": name, "machine": machine, "runs": kept}, indent=1)
    target.write_text(text + "\n")
    return kept


def plot(rows: list[dict], path: Path) -> None:
    """PSNR over seconds from process start, one line a configuration family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    families = {"nerf": "the paper's MLP", "paper": "the paper's MLP", "hash": "hash grid"}
    for family in sorted({families.get(row["config"].split("_")[0], "voxels") for row in rows}):
        chosen = [
            row for row in rows if families.get(row["config"].split("_")[0], "voxels") == family
        ]
        chosen.sort(key=lambda row: row["seconds"])
        axes.plot(
            [row["seconds"] for row in chosen], [row["psnr"] for row in chosen], "o-", label=family
        )
    axes.set(
        xscale="log", xlabel="seconds from process start", ylabel="PSNR of the test views (dB)"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure each budget; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of the scene; the demo scene by default")
    parser.add_argument("--budgets", default="60", help="seconds, with commas between")
    parser.add_argument("--config", help="a preset, instead of the fast field's for the budget")
    parser.add_argument("--out", help="name of what is left; that of the scene by default")
    parser.add_argument(
        "--opaque", action="store_true", help="blend the photographs on white and drop their alpha"
    )
    parser.add_argument("extra", nargs="*", help="further flags of jaxnerf train, after --")
    options = parser.parse_args()
    if options.opaque and not options.data:
        parser.error("--opaque needs --data")
    name = options.out or (Path(options.data).name if options.data else "demo")
    if options.opaque and not options.out:
        name += "_opaque"
    kept = []
    data, folder = options.data, None
    if options.opaque:
        folder = tempfile.TemporaryDirectory()
        data = drop_alpha(Path(options.data), Path(folder.name) / name)
    for seconds in map(float, options.budgets.split(",")):
        row = measure(data, seconds, options.config or preset_for(seconds), options.extra)
        print(json.dumps(row), flush=True)
        kept = keep_row(HERE, name, row)
    try:
        plot(kept, HERE / f"{name}.png")
    except ImportError:
        print("no plot: matplotlib is not installed")


def drop_alpha(scene: Path, target: Path) -> str:
    """Copy a Blender scene with its photographs blended on white, as a camera would give them."""
    target.mkdir()
    for transforms in scene.glob("transforms_*.json"):
        shutil.copy(transforms, target)
        for frame in json.loads(transforms.read_text())["frames"]:
            source = (scene / frame["file_path"]).with_suffix(".png")
            copy = (target / frame["file_path"]).with_suffix(".png")
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                pixels = np.asarray(Image.open(source).convert("RGBA")).astype(np.float32)
                alpha = pixels[..., 3:] / 255.0
                blended = pixels[..., :3] * alpha + 255.0 * (1.0 - alpha)
                Image.fromarray(np.rint(blended).astype(np.uint8)).save(copy)
    return str(target)


if __name__ == "__main__":
    main()

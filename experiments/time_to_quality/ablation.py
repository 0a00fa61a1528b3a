"""Whether each thing that training does beside the squared error pays: takes them out one by one.

    python experiments/time_to_quality/ablation.py --data nerf_synthetic/lego --steps 1000

Every row is a run of its own of the same number of steps, by the commands that users type; the seconds
say what leaving a thing out saves. Left in the folder of this file: ablation_NAME.json.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from time_to_quality import HERE, command, run_command

CHANGES = {
    "as it is": [],
    "no loss of opacity against alpha": ["--voxels.opacity_loss=0"],
    "empty cells are kept": ["--voxels.stages.empty_below=0"],
    "hidden cells are dropped": ["--voxels.stages.unseen_below=0.01"],
    "rates do not decay": ["--voxels.optimizer.final_fraction=1"],
    "densities do not sink": ["--voxels.optimizer.density_decay=0"],
    "with momentum": ["--voxels.optimizer.beta1=0.9"],
    "two samples a voxel": ["--voxels.stages.samples_per_voxel=2"],
}


def measure(data: str | None, steps: int, change: list[str]) -> dict:
    """Train with a change, measure all test views."""
    with tempfile.TemporaryDirectory() as folder:
        run, scene = Path(folder) / "run", ["--data", data] if data else []
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        run_command(
            command(
                "train", *scene, "--out", str(run), "--config", "minute", "--noevaluate",
                "--max_steps", str(steps), "--max_seconds", "0", "--checkpoint_seconds", "1000000",
                *change,
            ),
            environment,
        )  # fmt: skip
        run_command(command("eval", str(run), *scene), environment)
        results = json.loads((run / "results.json").read_text())
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "psnr": round(results["psnr"], 2),
        "train_psnr": round(last["psnr"], 2),
        "seconds": round(last["seconds"], 1),
        "samples": round(last["samples"], 2),
    }


def main() -> None:
    """Measure every change."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="folder of the scene; the demo scene by default")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    name = Path(options.data).name if options.data else "demo"
    rows = {}
    for what, change in CHANGES.items():
        rows[what] = measure(options.data, options.steps, change)
        print(f"{what:34}", rows[what], flush=True)
        text = json.dumps({"scene": name, "steps": options.steps, "runs": rows}, indent=1)
        (HERE / f"ablation_{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

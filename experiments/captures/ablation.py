"""Whether each thing that training on a capture does beside the squared error pays: all but one.

    python experiments/captures/ablation.py --data SCENES --steps 700

Every row is a run of its own of the same number of steps of `five_minutes`, all test views measured. Two
rows are as it is, with two seeds: what differs by no more than they do says nothing. Left in this folder:
ablation.json; rows that it has already are not measured again.
"""

import argparse
import json
import tempfile
from pathlib import Path

from captures import CAPTURES, HERE, measure

CHANGES = {
    "as it is": [],
    "as it is, another seed": ["--training.seed=1"],
    "no depths of points": ["--voxels.depth_loss=0"],
    "no distortion loss": ["--voxels.distortion_loss=0"],
    "light may pass through everything": ["--voxels.transmittance_loss=0"],
    "random background": ["--training.background=random"],
    "no smoothing": ["--voxels.optimizer.smoothing=0"],
    "no momentum": ["--voxels.optimizer.beta1=0"],
    "hidden cells are kept": ["--voxels.stages.unseen_below=0"],
    "no detail": ["--voxels.field.log2_detail=0"],
    "no stage of 400 voxels": [
        "--voxels.stages.resolutions=64,128,256",
        "--voxels.stages.fractions=0.1,0.3",
    ],
    "colours do not depend on the direction": ["--voxels.field.sh_degree=0"],
    "photographs have one light": ["--voxels.calibration.affine_colour=false"],
}


def main() -> None:
    """Measure every change; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of the scenes")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--only", default="statuette,garden", help="names, with commas between")
    parser.add_argument("--out", default="ablation", help="name of the JSON file")
    options = parser.parse_args()
    path = HERE / f"{options.out}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    runs = known.get("runs", {}) if known.get("steps") == options.steps else {}
    for what, change in CHANGES.items():
        for name in options.only.split(","):
            if name in runs.get(what, {}):
                continue
            place, downscale = CAPTURES[name]
            flags = ["--max_steps", str(options.steps), *change]
            with tempfile.TemporaryDirectory() as folder:
                row = measure(options.data / place, downscale, Path(folder) / name, flags)
            runs.setdefault(what, {})[name] = row
            print(f"{what:40} {name:10}", json.dumps(row), flush=True)
            text = json.dumps({"steps": options.steps, "changes": CHANGES, "runs": runs}, indent=1)
            path.write_text(text + "\n")


if __name__ == "__main__":
    main()

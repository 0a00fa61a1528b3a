"""What held-out views of captures come to after a fixed number of steps, by the command that users type.

    python experiments/captures/captures.py --data SCENES --steps 1200 --out before
    python experiments/captures/captures.py --data SCENES --steps 1200 --out after -- --scene.ball=0.5

A number of steps, not of seconds: so rows of a busy machine and of a quiet one can be compared. SCENES
holds the folders of `CAPTURES`; those that are not there are left out. Left in this folder: OUT.json, and
with --keep the run folders, whose pictures should be looked at.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# Where in the folder of scenes each lies, and by which factor its photographs are shrunk.
CAPTURES = {
    "garden": ("garden", 1),
    "statuette": ("statuette", 1),
    "beer_can": ("beer_can", 2),
    "fox": ("fox", 4),
    "fern": ("nerf_llff_data/fern", 8),
    "room": ("room", 1),
    "terrace": ("terrace", 1),
    "house": ("house", 1),
    "table": ("table", 1),
    "row": ("row", 1),
    "drone": ("drone", 1),
    "corridor": ("corridor", 1),
    "yard": ("yard", 1),
    "turntable": ("turntable", 1),
}


def measure(data: Path, downscale: int, run: Path, flags: list[str]) -> dict:
    """Train, measure all test views, and say how both came out."""
    command = [
        sys.executable, "-m", "jaxnerf", "train", "--data", str(data), "--out", str(run),
        "--config", "five_minutes", f"--scene.downscale={downscale}",
        "--evaluation.orbit_frames=0", "--evaluation.every=1", *flags,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    results = json.loads((run / "results.json").read_text())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "steps": last["step"],
        "train_psnr": round(last["psnr"], 2),
        "psnr": round(results["psnr"], 2),
        "ssim": round(results["ssim"], 3),
        "views": results["protocol"]["images"],
        "seconds": round(last["seconds_since_process_start"]),
        "rays": results["train_rays"],
        "peak_gb": round(usage.ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Measure each capture; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the scenes")
    parser.add_argument("--steps", type=int, default=1200, help="0 for as many as fit --seconds")
    parser.add_argument("--seconds", type=float, default=300.0, help="budget where --steps is 0")
    parser.add_argument("--only", default=",".join(CAPTURES), help="names, with commas between")
    parser.add_argument("--out", default="captures", help="name of the JSON file")
    parser.add_argument("--keep", type=Path, help="folder in which the runs are left")
    parser.add_argument("flags", nargs="*", help="further flags of jaxnerf train, after --")
    options = parser.parse_args()
    length = ["--max_steps", str(options.steps)]
    if not options.steps:
        length = ["--max_seconds", str(options.seconds)]
    rows = {}
    for name in options.only.split(","):
        place, downscale = CAPTURES[name]
        if not (options.data / place).is_dir():
            print(f"{name}: not in {options.data}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            run = (options.keep or Path(folder)) / name
            row = measure(options.data / place, downscale, run, [*length, *options.flags])
        rows[name] = row
        print(name, json.dumps(row), flush=True)
        text = json.dumps({"flags": options.flags, "cores": os.cpu_count(), "runs": rows}, indent=1)
        (HERE / f"{options.out}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

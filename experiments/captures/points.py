"""How right the points are that are found in the photographs of captures of which all is known.

    python experiments/captures/make.py --out SCENES
    python experiments/captures/points.py --data SCENES

Prints for each capture how many points are found, in how many seconds once compiled, and the share of
them whose depth is right within 2 and 5%; left in points.json.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from make import FAR, SCENES, View

from jaxnerf.scenes import Scene, load_scene
from jaxnerf.scenes.plane_sweep import FoundPoints, find_points

HERE = Path(__file__).parent


def errors(name: str, scene: Scene, found: FoundPoints) -> np.ndarray:
    """The relative error of each point's depth; infinite where there is no surface at all."""
    poses = scene.to_user.poses(np.asarray(scene.splits["train"].cameras.camera_to_world))
    positions, seen_by = (
        scene.to_user.points(found.positions),
        found.tracks[: len(found.positions), 0],
    )
    wrong = np.full(len(positions), np.inf)
    for camera in np.unique(seen_by):
        of_camera = seen_by == camera
        pose = poses[camera]
        view = View(pose, (positions[of_camera] - pose[:, 3]) @ pose[:, :3])
        SCENES[name](view)
        # A ray as long as the way to the point: its surface is met at 1.
        wrong[of_camera] = np.where(view.t < FAR, np.abs(1.0 / view.t - 1.0), np.inf)
    return wrong


def main() -> None:
    """Measure each capture; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the scenes")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2)
    rows = {}
    for name in SCENES:
        if not (options.data / name).is_dir():
            continue
        scene = load_scene(options.data / name)
        found = find_points(scene.splits["train"])
        begin = time.monotonic()
        found = find_points(scene.splits["train"])
        seconds = time.monotonic() - begin
        if found is None:
            print(f"{name}: no points")
            continue
        wrong = errors(name, scene, found)
        rows[name] = {
            "points": len(wrong),
            "seconds": round(seconds, 1),
            "median_error": round(float(np.median(wrong)), 4),
            "within_2_percent": round(float(np.mean(wrong < 0.02)), 3),
            "within_5_percent": round(float(np.mean(wrong < 0.05)), 3),
        }
        print(name, json.dumps(rows[name]), flush=True)
    (HERE / "points.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

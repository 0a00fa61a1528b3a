"""How near meshes of the demo scene come to its true surfaces, by both ways of making them.

    pip install mitsuba 'jaxnerf[export]'
    jaxnerf train --max_steps 1800 --out runs/demo
    python experiments/mesh_quality/mesh_quality.py --run runs/demo

Prints a table, and leaves results.json in this file's folder and pictures of the meshes in the run's.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import trimesh
from truth import compare, pictures, silhouettes, true_surfaces

HERE = Path(__file__).parent
ROWS = [
    {"how": "tsdf", "resolution": 128},
    {"how": "tsdf", "resolution": 256},
    {"how": "tsdf", "resolution": 512},
    {"how": "density", "resolution": 256},
    {"how": "density", "resolution": 512},
]


def export(run: Path, out: Path, row: dict) -> dict:
    """Make a mesh by the command; its seconds and its peak memory in GB."""
    flags = [f"--{name}={value}" for name, value in row.items()]
    command = [sys.executable, "-m", "jaxnerf", "export", str(run), "mesh", f"--out={out}", *flags]
    begin = time.monotonic()
    subprocess.run(command, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": time.monotonic() - begin, "peak_gb_so_far": peak}


def main() -> None:
    """Make and compare the meshes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a run on the demo scene")
    run = parser.parse_args().run
    truth, results = true_surfaces(), []
    for row in ROWS:
        out = run / f"mesh_{row['how']}_{row['resolution']}.ply"
        made = export(run, out, row)
        mesh = trimesh.load(out, process=False)
        found = {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
        results.append(
            {**row, **made, **found, **compare(mesh, truth), "silhouette_iou": silhouettes(mesh)}
        )
        pictures(mesh, out.with_suffix(".png"))
        print(json.dumps(results[-1]), flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for row in results:
        shown = [row[name] for name in ("precision", "recall", "f_score", "silhouette_iou")]
        print(f"| {row['how']} | {row['resolution']} |", *(f"{x:.3f} |" for x in shown),
              f"{row['chamfer']:.4f} | {row['faces']:,} | {row['seconds']:.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()

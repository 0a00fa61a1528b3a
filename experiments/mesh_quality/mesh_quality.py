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
from typing import Any

import trimesh
from truth import compare, pictures, silhouettes, true_surfaces

HERE = Path(__file__).parent
ROWS = "tsdf:128,tsdf:256,tsdf:512,density:128,density:256,density:512"


def export(run: Path, out: Path, row: dict) -> dict:
    """Make a mesh by the command; its seconds and its peak memory in GB."""
    flags = [f"--{name}={value}" for name, value in row.items()]
    command = [sys.executable, "-m", "jaxnerf", "export", str(run), "mesh", f"--out={out}", *flags]
    begin = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - begin
    return {"seconds": round(seconds, 1), "peak_gb": round(peak_memory(), 2)}


def peak_memory() -> float:
    """The most memory of any program that was started and has ended, in GB: rows grow finer."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def main() -> None:
    """Make and compare the meshes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a run on the demo scene")
    parser.add_argument(
        "--rows", default=ROWS, help="way:resolution, ...; others stay as they were"
    )
    given = parser.parse_args()
    run, path, truth = given.run, HERE / "results.json", true_surfaces()
    known = json.loads(path.read_text()) if path.exists() else []
    results = {(row["how"], row["resolution"]): row for row in known}
    for how, resolution in (text.split(":") for text in given.rows.split(",")):
        row = {"how": how, "resolution": int(resolution)}
        out = run / f"mesh_{row['how']}_{row['resolution']}.ply"
        made = export(run, out, row)
        mesh: Any = trimesh.load(out, process=False)
        found = {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
        row |= {**made, **found, **compare(mesh, truth), "silhouette_iou": silhouettes(mesh)}
        results[how, row["resolution"]] = row
        pictures(mesh, out.with_suffix(".png"))
        ordered = [results[key] for key in sorted(results, key=lambda k: (k[0] != "tsdf", k[1]))]
        path.write_text(json.dumps(ordered, indent=2) + "\n")
    for row in json.loads(path.read_text()):
        shown = [row[name] for name in ("precision", "recall", "f_score", "silhouette_iou")]
        print(f"| {row['how']} | {row['resolution']} |", *(f"{x:.3f} |" for x in shown),
              f"{row['chamfer']:.4f} | {row['faces']:,} | {row['seconds']:.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()

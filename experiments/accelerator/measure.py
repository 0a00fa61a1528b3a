"""What jaxnerf does on an accelerator: is it right, how fast, how good in a minute; in seven minutes.

    python experiments/accelerator/measure.py --save experiments/accelerator/NAME_OF_THE_CARD.json
    python experiments/accelerator/measure.py --data nerf_synthetic/lego --save ...

Each part (`parts.py`) is a process of its own with a time limit; what it finds is printed and written
to the JSON file as it comes, so that a part that crashes or takes too long, or a run that is cut off,
keeps what it had. Where JAX finds nothing but a CPU, or with --small, all is done in small.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Seconds that each part may take, in the order in which they run, and all together.
LIMITS = {
    "machine": 30,
    "kernels": 45,
    "steps": 60,
    "minute": 95,
    "frames": 30,
    "nerf": 150,
    "tests": 60,
}
TOTAL = 415
_LINES_OF_AN_ERROR = 12
# A CPU that others use too takes longer for what is small, and nobody waits for it.
_PATIENCE_IN_SMALL = 5


def main() -> None:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="folder of the scene to train on; the demo scene by default")
    parser.add_argument("--save", type=Path, default=Path("accelerator.json"), help="JSON file")
    parser.add_argument("--parts", default=",".join(LIMITS), help="of these, with commas between")
    parser.add_argument("--small", action="store_true", help="all in small, as on a CPU")
    parser.add_argument("--commit", help="what is measured, where git cannot say")
    options = parser.parse_args()
    chosen = options.parts.split(",")
    if unknown := set(chosen) - set(LIMITS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(LIMITS)}")
    begun = time.monotonic()
    figures: dict[str, Any] = {
        "commit": options.commit or commit(),
        "data": Path(options.data).resolve().name if options.data else "demo",
        "small": options.small,
        "parts": {},
    }
    with tempfile.TemporaryDirectory(prefix="jaxnerf-accelerator-") as work:
        for name in [each for each in LIMITS if each in chosen or each == "machine"]:
            patience = _PATIENCE_IN_SMALL if figures["small"] else 1
            left = patience * TOTAL - (time.monotonic() - begun)
            settings = {"small": figures["small"], "data": options.data, "work": work}
            run_part(name, settings, min(patience * LIMITS[name], left), figures, options.save)
            if name == "machine" and figures["parts"][name].get("platform", "cpu") == "cpu":
                figures["small"] = True
    figures["seconds"] = round(time.monotonic() - begun, 1)
    write(options.save, figures)
    states = {name: part["status"] for name, part in figures["parts"].items()}
    print(f"left {options.save} after {figures['seconds']:.0f} s: {states}")


def run_part(name: str, settings: dict, limit: float, figures: dict, save: Path) -> None:
    """Run a part in a process of its own; put what it finds into the figures and the file.

    Args:
      name: of the part.
      settings: what `parts.py` takes.
      limit: seconds after which the process and all that it started are killed.
      figures: changed: its "parts" gets one more.
      save: the file, written at each finding.
    """
    part: dict[str, Any] = {"status": "running", "limit_seconds": round(limit)}
    figures["parts"][name] = part
    write(save, figures)
    print(f"== {name}", flush=True)
    begun = time.monotonic()
    if limit < 1.0:
        part["status"] = "left out: no time left"
        return write(save, figures)
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "parts.py"), name, json.dumps(settings)],
            stdout=subprocess.PIPE, stderr=complaints, text=True, start_new_session=True,
            cwd=ROOT, env=environment(name, settings),
        )  # fmt: skip
        try:
            for found in findings(process, begun + limit):
                merge(part, found)
                print(json.dumps(found), flush=True)
                write(save, figures)
            code = process.wait()
            part["status"] = "ok" if code == 0 else f"failed with status {code}"
        except TimeoutError:
            part["status"] = "timed out"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if part["status"] != "ok":
            complaints.seek(0)
            text = complaints.read().decode(errors="replace").strip().splitlines()
            part["error"] = text[-_LINES_OF_AN_ERROR:]
            print("\n".join([part["status"], *part["error"]]), flush=True)
    part["seconds"] = round(time.monotonic() - begun, 1)
    write(save, figures)


def environment(name: str, settings: dict) -> dict[str, str]:
    """The environment of a part: this source, and what it compiles kept in the folder of this run.

    Each part compiles everything for itself, so that the times hold what a user waits for; in small they
    share one device's programs.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    cache = Path(settings["work"]) / ("cache" if settings["small"] else f"cache-{name}")
    changed = {"PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    if settings["small"]:
        changed |= {"JAX_NUM_CPU_DEVICES": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    return os.environ | changed


def findings(process: subprocess.Popen, until: float):
    """The JSON objects that a process prints, a line each, as they come.

    Raises:
      TimeoutError: it has not ended at a time of `time.monotonic`.
    """
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def merge(into: dict, found: dict) -> None:
    """Put what was found into a dictionary; dictionaries that are there already grow."""
    for key, value in found.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def write(path: Path, figures: dict) -> None:
    """Write the file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def commit() -> str:
    """The commit of the source, with a + where files differ from it; "unknown" without git."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

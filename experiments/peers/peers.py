"""Other systems on the same scene and machine for the same wall time, measured by our evaluator.

    python experiments/peers/peers.py --data nerf_synthetic/lego --downscale 4 --seconds 300 \\
        --nerfstudio VENV/bin --nerf_pytorch CHECKOUT --dvgo CHECKOUT --opensplat BUILD/opensplat

Those are measured that a path is given for, and jaxnerf. Each gets the same photographs of training and
the test views' cameras in its own layout, trains for the seconds (from the start of its process, with
imports, compilation and checkpoints; then it is interrupted and its last checkpoint counts), renders the
test views in as long as that takes, and is measured by `jaxnerf.evaluation` on white, 8-bit pictures.
Left beside this file: OUT.json.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from adapters import PEERS, Peer, Place
from layouts import check, write_blender, write_colmap
from PIL import Image

from jaxnerf.evaluation import evaluate_split
from jaxnerf.scenes import Scene, SceneError, Split, load_scene

HERE = Path(__file__).parent
# Which flag names the tool of which peers.
TOOLS = {
    "nerfstudio": ("nerfacto", "vanilla-nerf"),
    "nerf_pytorch": ("nerf-pytorch",),
    "dvgo": ("dvgo",),
    "opensplat": ("opensplat",),
}
# After an interrupt, a process has so many seconds to end.
_GRACE = 20.0
# nerfstudio's own checkpoints hold more than weights, which torch refuses to read since 2.6.
_ENVIRONMENT = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


def some_views(split: Split, count: int) -> Split:
    """Views of a split, evenly spread; at most so many."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int))
    assert split.images is not None
    return dataclasses.replace(
        split,
        names=tuple(split.names[index] for index in chosen),
        cameras=split.cameras[chosen],
        images=split.images[chosen],
        masks=None if split.masks is None else split.masks[chosen],
    )


def train(peer: Peer, place: Place, log: Path) -> float:
    """Train for the time; the seconds that it took.

    Raises:
      RuntimeError: it failed, with the last line that it printed.
    """
    begun = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            peer.train(place), stdout=file, stderr=subprocess.STDOUT, cwd=place.work,
            env=os.environ | _ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
        try:
            # One that keeps to the time by itself may end a little late.
            status = process.wait(place.seconds + (_GRACE if peer.stops else 0.0))
        except subprocess.TimeoutExpired:
            status = 0
        finally:
            _end(process)
    seconds = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"training ended with status {status}: {_last_line(log)}")
    return min(seconds, place.seconds) if not peer.stops else seconds


def _end(process: subprocess.Popen) -> None:
    """End a process and those that it started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "nothing printed")


def measure(peer: Peer, place: Place, test: Split, out: Path) -> dict[str, Any]:
    """Train, render and measure a peer; without a figure, "failed" says why."""
    if not peer.executable(place).exists():
        return {"failed": f"{peer.executable(place)} is not there"}
    load = os.getloadavg()[0]
    try:
        seconds = train(peer, place, place.work / "train.log")
        for command in peer.render(place):
            with (place.work / "render.log").open("wb") as file:
                subprocess.run(
                    command, stdout=file, stderr=subprocess.STDOUT, cwd=place.work, check=True,
                    env=os.environ | _ENVIRONMENT,
                )  # fmt: skip
        pictures = peer.pictures(place)
    except subprocess.CalledProcessError:
        return {"failed": f"rendering: {_last_line(place.work / 'render.log')}"}
    except (RuntimeError, OSError) as error:
        return {"failed": str(error)}
    if len(pictures) != len(test):
        return {"failed": f"{len(pictures)} pictures of {len(test)} test views"}
    wrong = [path.name for path in pictures if Image.open(path).size != tuple(test.cameras.size[0])]
    if wrong:
        return {"failed": f"{wrong[0]} has another size than the test views"}

    def picture(index: int) -> np.ndarray:
        return np.asarray(Image.open(pictures[index]).convert("RGB"), np.float32) / 255.0

    found = evaluate_split(picture, test, out)
    return {
        "psnr": round(found["psnr"], 2),
        "ssim": round(found["ssim"], 3) if "ssim" in found else None,
        "train_seconds": round(seconds, 1),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "protocol": found["protocol"],
    }


def prepare(scene: Scene, folder: Path) -> dict[str, Any]:
    """Write the scene in all layouts; where they are, as `Place` has it."""
    blender, colmap = folder / "blender", folder / "colmap"
    write_blender(scene, blender)
    write_colmap(scene, colmap)
    views = [folder / f"test_{index:03d}" for index in range(len(scene.splits["test"]))]
    for index, view in enumerate(views):
        write_colmap(scene, view, index)
    return {"blender": blender, "colmap": colmap, "colmap_of": views}


def main() -> None:
    """Measure the peers; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the scene; the demo scene by default")
    parser.add_argument("--downscale", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="for training, each")
    parser.add_argument("--views", type=int, default=20, help="test views, evenly spread")
    parser.add_argument("--only", default=",".join(PEERS), help="names, with commas between")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of checkouts")
    parser.add_argument("--nerfstudio", type=Path, help="folder with ns-train and ns-render")
    parser.add_argument("--nerf_pytorch", type=Path, help="checkout of yenchenlin/nerf-pytorch")
    parser.add_argument("--dvgo", type=Path, help="checkout of sunset1995/DirectVoxGO")
    parser.add_argument("--opensplat", type=Path, help="the executable of pierotofy/OpenSplat")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--keep", type=Path, help="folder in which all is left")
    options = parser.parse_args()
    tools = {"jaxnerf": Path()}
    for flag, names in TOOLS.items():
        if (tool := getattr(options, flag)) is not None:
            tools |= dict.fromkeys(names, tool.resolve())
    if unknown := set(options.only.split(",")) - PEERS.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))} is not one of {', '.join(PEERS)}")
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        try:
            scene = load_scene(options.data, downscale=options.downscale, images=("train", "test"))
            check(scene)
        except SceneError as error:
            parser.exit(1, f"peers: {error}\n")
        test = some_views(scene.splits["test"], options.views)
        scene = dataclasses.replace(scene, splits={**scene.splits, "test": test})
        data = prepare(scene, folder / "data")
        unit = scene.to_user.scale
        for name in options.only.split(","):
            if name not in tools:
                continue
            work = folder / name
            work.mkdir(parents=True)
            python = sys.executable if name == "jaxnerf" else options.python
            bounds = (scene.near * unit, scene.far * unit)
            place = Place(
                tools[name], python, work=work, bounds=bounds, seconds=options.seconds, **data
            )
            rows[name] = {
                "about": PEERS[name].about,
                **measure(PEERS[name], place, test, work / "p"),
            }
            print(name, json.dumps({**rows[name], "protocol": None}), flush=True)
            what = {
                "scene": scene.name,
                "downscale": options.downscale,
                "seconds": options.seconds,
                "cores": os.cpu_count(),
                "machine": platform.machine(),
                "peers": rows,
            }
            options.out.write_text(json.dumps(what, indent=1) + "\n")


if __name__ == "__main__":
    main()

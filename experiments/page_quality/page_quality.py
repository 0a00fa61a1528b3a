"""How large a run's page is, how long it takes to write, and how far its pictures are from the run's.

    pip install playwright
    jaxnerf train --data nerf_synthetic/lego --config five_minutes --out runs/lego
    python experiments/page_quality/page_quality.py --run runs/lego

Opens the page from disk in a headless Chromium, whose WebGL 2 may be software, and compares it with
`Run.render` at the poses of test views: at 200 x 150, and at the views' own size with the photographs.
Left in the folder of this file: results.json, a row a run.
"""

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxnerf import Camera, load_run
from jaxnerf.cli.common import prepare_cpu, use_compilation_cache
from jaxnerf.config.adaptation import load_for
from jaxnerf.evaluation import blend, psnr
from jaxnerf.runs.run import Run

HERE = Path(__file__).parent
SMALL = (200, 150)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# As root, as containers have it, Chromium wants no sandbox.
ARGUMENTS = ("--headless=new", "--use-gl=angle", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader", "--no-sandbox")  # fmt: skip
DRAW = """([pose, angle, width, height]) => {
  jaxnerf.setPose(pose, angle, width, height);
  jaxnerf.draw();
  const bytes = jaxnerf.pixels(), part = 4096;
  let text = "";
  for (let i = 0; i < bytes.length; i += part)
    text += String.fromCharCode(...bytes.subarray(i, i + part));
  return btoa(text);
}"""


def draw(page: Any, camera: Camera) -> np.ndarray:
    """The page's picture [height, width, 3] in [0, 1], of a camera without distortion."""
    width, height = (int(side) for side in np.asarray(camera.size))
    angle = float(np.rad2deg(2.0 * np.arctan(0.5 * width / float(camera.focal[0]))))
    pose = np.asarray(camera.camera_to_world, np.float64).tolist()
    levels = np.frombuffer(
        base64.b64decode(page.evaluate(DRAW, [pose, angle, width, height])), np.uint8
    )
    return levels.reshape(height, width, 4)[..., :3] / 255.0


def pinhole(camera: Camera, size: tuple[int, int] | None = None) -> Camera:
    """A camera without distortion at a camera's pose, as wide an angle, of its size or another."""
    width, height = (int(side) for side in np.asarray(camera.size)) if size is None else size
    focal = float(camera.focal[0]) * width / float(camera.size[0])
    return Camera.pinhole(camera.camera_to_world, focal, width, height)


def alike(page: Any, run: Run, cameras: list[Camera]) -> list[float]:
    """PSNR of the page's pictures against the run's, in dB."""
    small = [pinhole(camera, SMALL) for camera in cameras]
    return [psnr(draw(page, camera), np.asarray(run.render(camera).colour)) for camera in small]


def against_photographs(page: Any, run: Run, numbers: list[int]) -> dict[str, float]:
    """The mean PSNR of the run's and of the page's pictures of test views, in dB."""
    scene = load_for(run.config, run.scene.source, ("test",), allow_outside_paths=False)
    images, cameras = scene.splits["test"].images, run.cameras("test")
    assert images is not None
    values: dict[str, list[float]] = {"run": [], "page": []}
    for number in numbers:
        camera, photograph = cameras[number], blend(images[number], run.background)
        values["run"].append(psnr(np.asarray(run.render(camera).colour), photograph))
        values["page"].append(psnr(draw(page, pinhole(camera)), photograph))
    return {name: round(float(np.mean(some)), 3) for name, some in values.items()}


def written(folder: Path, path: Path) -> float:
    """Seconds that the command takes to write a page."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "jaxnerf", "export", str(folder), "page", f"--out={path}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def measured(page: Any, run: Run, views: int, photographs: int) -> dict[str, Any]:
    """What a page in a browser shows of a run."""
    count = len(run.cameras("test"))
    chosen = np.linspace(0, count - 1, min(views, count)).astype(int).tolist()
    decibels = alike(page, run, [run.cameras("test")[number] for number in chosen])
    row: dict[str, Any] = {
        "step": run.step,
        "views": chosen,
        "least_decibels": round(min(decibels), 2),
    }
    if photographs:
        numbers = np.linspace(0, count - 1, min(photographs, count)).astype(int).tolist()
        row |= {"photographs": numbers, "psnr": against_photographs(page, run, numbers)}
    return row


def main() -> None:
    """Measure and write."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--views", type=int, default=2, help="test views at 200 x 150")
    parser.add_argument("--photographs", type=int, default=4, help="test views at their own size")
    given = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    prepare_cpu()
    use_compilation_cache()
    run = load_run(given.run)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "scene.html"
        seconds = written(given.run, path)
        chromium = driver.chromium.launch(executable_path=browser, args=[*ARGUMENTS])
        page = chromium.new_page(viewport={"width": 320, "height": 240})
        page.set_default_timeout(600_000)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-state=resting]")
        row = {"megabytes": round(path.stat().st_size / 1e6, 2), "seconds": round(seconds, 1)}
        row |= measured(page, run, given.views, given.photographs)
        chromium.close()
    results = HERE / "results.json"
    rows = json.loads(results.read_text()) if results.exists() else {}
    rows[given.run.name] = row
    results.write_text(json.dumps(rows, indent=2) + "\n")
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()

"""How much slower training is for being shown: with nobody looking, and with a browser that moves.

    pip install -e '.[view]' playwright
    python experiments/live_viewer/slowdown.py

Runs `jaxnerf train` on the demo scene for a number of steps: alone, with --view, and with --view and a
headless Chromium in which the camera is turned all the time. Each in turn, several times; the time is
that between two rows of metrics.jsonl of the last stage, in which nothing compiles. Left in the folder of
this file: results.json.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = ("--headless=new", "--use-gl=angle", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader", "--no-sandbox")  # fmt: skip
FORMS = ("alone", "shown, nobody looks", "shown, a browser turns the camera")
# Of the steps, after which the last stage of `minute` is on its way and its programs are compiled.
FIRST = 0.5


def chromium() -> str:
    """The path of a Chromium.

    Raises:
      SystemExit: there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        raise SystemExit("no Chromium is on the path")
    return found


def look(url: str, over: threading.Event, seen: list[int]) -> None:
    """Open the page in a browser and drag over it, to and fro, until training is over."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_context(viewport={"width": 640, "height": 400}).new_page()
        try:
            page.goto(f"{url}?fixedDpr=1")
            page.mouse.move(200, 250)
            page.mouse.down()
            while not over.is_set():
                for x in (*range(200, 300, 5), *range(300, 200, -5)):
                    page.mouse.move(x, 250)
                    page.wait_for_timeout(50)
                    seen[0] += 1
                    if over.is_set():
                        break
        except Error:
            if not over.is_set():  # else it is the server that has gone
                raise
        finally:
            browser.close()


def train(form: str, steps: int, folder: Path) -> dict[str, Any]:
    """Train once; the seconds of a step of the last stage, and how often the camera was moved."""
    out = folder / "run"
    command = [
        sys.executable, "-m", "jaxnerf", "train", "--out", str(out), "--overwrite",
        "--max_steps", str(steps), "--noevaluate", "--checkpoint_seconds", "600",
        *(["--view", "--port", "0"] if form != FORMS[0] else []),
    ]  # fmt: skip
    moved, over, browser = [0], threading.Event(), None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            address = re.search(r"shown at (\S+)", line)
            if address and form == FORMS[2]:
                browser = threading.Thread(target=look, args=(address[1], over, moved))
                browser.start()
        over.set()
    if browser:
        browser.join()
    if form == FORMS[2] and not moved[0]:
        raise SystemExit("nobody looked: the browser did not open the page")
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    late = [row for row in rows if row["step"] >= FIRST * steps]
    taken, begun = late[-1], late[0]
    seconds = (taken["seconds"] - begun["seconds"]) / (taken["step"] - begun["step"])
    return {
        "milliseconds_a_step": round(1000.0 * seconds, 2),
        "moves": moved[0],
        "psnr": taken["psnr"],
    }


def main() -> None:
    """Measure all forms in turn; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chromium()
    rows: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for form in FORMS:
                rows[form].append(train(form, options.steps, Path(folder)))
                print(form, json.dumps(rows[form][-1]), flush=True)
    alone, *others = (
        statistics.median(row["milliseconds_a_step"] for row in rows[form]) for form in FORMS
    )
    slower = {
        form: round(1.0 - alone / other, 3) for form, other in zip(FORMS[1:], others, strict=True)
    }
    found = {"cores": os.cpu_count(), "steps": options.steps, "runs": rows, "slower_by": slower}
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(slower))


if __name__ == "__main__":
    main()

"""Training, measuring and rendering where packages that only serve a part of it are not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scene_factory import TINY, write_scene

BLOCKED = ("dm_pix", "tensorboardX", "imageio_ffmpeg", "lpips", "pycolmap", "viser")
PROGRAM = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None  # importing it raises ImportError
import importlib.metadata
found = importlib.metadata.distribution
def distribution(name):
    if name == "jaxnerf":  # as where Python finds the source alone
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.distribution = distribution
import jaxnerf
from jaxnerf.cli import main
for command in sys.argv[1].split(";"):
    print("status", main(command.split()))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run that was trained, measured again, and rendered without the packages; all its output."""
    folder = tmp_path_factory.mktemp("optional")
    data, run = write_scene(folder / "balls", 24, 24), folder / "run"
    commands = [
        f"train --data={data} --out={run} --max_steps=4 {' '.join(TINY)}",
        f"eval {run}",
        f"render {run} --path=orbit --frames=2 --out={folder}/orbit.gif",
        f"render {run} --path=orbit --frames=2 --out={folder}/orbit.mp4",
        "--version",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ";".join(commands)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    return run, done


def test_each_verb_works_or_names_the_package_in_one_line(finished):
    run, done = finished
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 0"] * 3 + ["status 1", "status 0"], done.stderr
    assert (run.parent / "orbit.gif").is_file()
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(
        f"jaxnerf: --out: {run.parent}/orbit.mp4 needs the package imageio-ffmpeg"
    )


def test_what_is_left_out_is_said_once(finished):
    _, done = finished
    trained = done.stdout.partition("status 0")[0]
    for line in (
        "no TensorBoard events, which need the package tensorboardX",
        "no orbit.mp4, which needs the package imageio-ffmpeg",
        "SSIM not measured: the package dm-pix is not installed",
    ):
        assert trained.splitlines().count(line) == 1


def test_the_run_is_whole_but_for_that(finished):
    run, _ = finished
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "scene.json", "checkpoints", "metrics.jsonl"),
        *("results.json", "test_preds"),
    }
    assert [
        json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()
    ] == [1, 4]
    results = json.loads((run / "results.json").read_text())
    assert "ssim" not in results
    assert all("ssim" not in row for row in results["images"])
    assert results["protocol"]["ssim"] == "not measured: the package dm-pix is not installed"
    assert results["psnr"] > 0.0


def test_import_jaxnerf_loads_none_of_them():
    code = f"import sys, jaxnerf, jaxnerf.cli.train; print([n for n in {BLOCKED!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

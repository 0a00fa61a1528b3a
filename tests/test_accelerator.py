"""experiments/accelerator runs, in small on a CPU, and keeps what it had whatever befalls a part."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "accelerator"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tests_that_it_runs_are_there():
    assert all((FOLDER.parents[1] / "tests" / name).is_file() for name in load("parts").TESTS)


def measured(tmp_path: Path, parts: str) -> dict:
    """What the command leaves for some parts."""
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "measure.py"), "--save", str(file), "--parts", parts],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(file.read_text())
    assert {name: part["status"] for name, part in figures["parts"].items()} == dict.fromkeys(
        parts.split(","), "ok"
    ), done.stdout
    assert figures["small"]
    assert figures["parts"]["machine"]["card"] == "cpu"
    assert figures["parts"]["machine"]["jax"]
    assert len(figures["commit"].rstrip("+")) == 40 or figures["commit"] == "unknown"
    return figures["parts"]


@pytest.mark.slow
def test_kernels_training_and_pictures_are_measured_in_small(tmp_path):
    parts = measured(tmp_path, "machine,kernels,minute,frames")
    forms = {name: kernel for name, kernel in parts["kernels"].items() if " " in name}
    assert {name.split()[0] for name in forms} == {"march_weights", "weighted_rows"}
    for kernel in forms.values():
        for row in (kernel["xla"], kernel["pallas"]):
            assert row["right"]
            assert row["forward_ms"] > 0.0
            assert row["gradient_ms"] > 0.0
    assert parts["minute"]["steps"] == 24
    assert parts["minute"]["psnr"] > 10.0
    assert parts["frames"]["frames_a_second"] > 0.0


@pytest.mark.release
def test_steps_the_network_and_the_tests_are_measured_in_small(tmp_path):
    parts = measured(tmp_path, "machine,steps,nerf,tests")
    for name in ("float32", "default", "bfloat16"):
        assert parts["steps"]["nerf"][name]["share_of_matmul_peak"] > 0.0
        assert parts["steps"]["matmul_teraflops"][name] > 0.0
    assert parts["steps"]["fast_field"]["milliseconds"] > 0.0
    assert parts["nerf"]["steps"] == 3
    assert (parts["tests"]["passed"], parts["tests"]["failed"]) == (1, 0)


PART = """
import sys, time, subprocess
print('{"before": {"a": 1}}', flush=True)
print('{"before": {"b": 2}}\\nnot of JSON\\n{broken', flush=True)
"""


@pytest.mark.parametrize(
    ("ending", "limit", "status", "error"),
    [
        ("", 60.0, "ok", None),
        ("raise ValueError('why')", 60.0, "failed with status 1", "ValueError: why"),
        ("import os; os.abort()", 60.0, "failed with status -6", None),
        ("subprocess.run(['sleep', '60'])", 3.0, "timed out", None),
        ("", 0.5, "left out: no time left", None),
    ],
)
def test_a_part_that_ends_badly_keeps_what_it_had(
    ending, limit, status, error, tmp_path, monkeypatch
):
    measure = load("measure")
    (tmp_path / "parts.py").write_text(PART + ending)
    monkeypatch.setattr(measure, "HERE", tmp_path)
    figures, file = {"parts": {}}, tmp_path / "figures.json"
    begun = time.monotonic()
    settings = {"small": True, "data": None, "work": str(tmp_path)}
    measure.run_part("steps", settings, limit, figures, file)
    assert time.monotonic() - begun < 30.0
    part = json.loads(file.read_text())["parts"]["steps"]
    assert part["status"] == status
    if "left out" not in status:
        assert part["before"] == {"a": 1, "b": 2}
    if error:
        assert part["error"][-1] == error


def test_the_parts_fit_into_seven_minutes_and_one_of_them_leaves_time_for_others():
    measure = load("measure")
    assert measure.TOTAL <= 420
    assert max(measure.LIMITS.values()) < measure.TOTAL / 2
    assert measure.LIMITS["minute"] > 60
    assert measure.LIMITS["nerf"] > 120


def test_an_unknown_part_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "measure.py"), "--parts", "kernel"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no part kernel; there are machine" in done.stderr
    assert not list(tmp_path.iterdir())

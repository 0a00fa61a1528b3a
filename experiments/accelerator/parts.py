"""The parts of `measure.py`, each run in a process of its own: `python parts.py NAME SETTINGS`.

What a part finds it prints as JSON objects, a line each, as soon as it knows. Settings are JSON too:
"small", "data" (a folder or null) and "work" (a folder that the parts share).
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

# Tests of what a device computes; others read files or speak to users.
TESTS = (
    "kernels/test_kernels.py", "test_compositing.py", "sampling/test_sampling.py",
    "sampling/test_occupancy.py", "sampling/test_marching.py", "test_encoding.py",
    "fields/test_fields.py", "fields/test_voxels.py", "sampling/test_spaces.py",
    "sampling/test_samples.py", "rendering/test_rendering.py", "training/test_step_of_voxels.py",
    "cameras/test_distortion.py",
)  # fmt: skip


def found(**figures: Any) -> None:
    """Say what was found."""
    print(json.dumps(figures), flush=True)


def machine(settings: dict) -> None:
    """What JAX computes on."""
    import jax

    first = jax.devices()[0]
    found(
        card=first.device_kind,
        platform=first.platform,
        devices=len(jax.devices()),
        jax=jax.__version__,
        jaxlib=version("jaxlib"),
        python=sys.version.split()[0],
        cores=len(os.sched_getaffinity(0)),
        not_installed=[
            name
            for name in ("dm_pix", "tensorboardX", "imageio_ffmpeg", "pytest", "hypothesis")
            if not importlib.util.find_spec(name)
        ],
    )


def tests(settings: dict) -> None:
    """The suite's tests of what a device computes, counted, with the names of those that fail."""
    if not importlib.util.find_spec("pytest"):
        return found(left_out="pytest is not installed")
    missing = [name for name in ("hypothesis", "scipy") if not importlib.util.find_spec(name)]
    files, without = [], []
    for name in TESTS[:1] if settings["small"] else TESTS:
        file = ROOT / "tests" / name
        wanted = any(
            re.search(rf"^(import|from) {each}\b", file.read_text(), re.M) for each in missing
        )
        (without if wanted else files).append(file.relative_to(ROOT).as_posix())
    found(not_run={file: f"needs {', '.join(missing)}" for file in without})
    if not files:
        return None
    command = [sys.executable, "-m", "pytest", "-v", "--tb=line", "-p", "no:cacheprovider"]
    # Without the suite's own options, whose plugins may be missing; not slow ones; and products of
    # matrices in full float32, which the tests' bounds are for.
    command += ["-o", "addopts=", "-o", "filterwarnings=", "-m", "not slow and not release", *files]
    command += ["-k", "choose or implementation"] * bool(settings["small"])
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    counts, failures = {"passed": 0, "failed": 0, "skipped": 0, "error": 0}, []
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        last = line.strip() or last
        result = re.match(r"(\S+::.*?) (PASSED|FAILED|SKIPPED|ERROR)\b", line)
        if result:
            counts[result[2].lower()] += 1
            if result[2] in ("FAILED", "ERROR"):
                failures.append(result[1])
            if sum(counts.values()) % 10 == 1 or failures[-1:] == [result[1]]:
                found(**counts, failures=failures)
    found(**counts, failures=failures, pytest_says=last)
    return None


def steps(settings: dict) -> None:
    """What a step takes, of the fast field and of the paper's network, and the products' peak."""
    import jax
    import jax.numpy as jnp
    from step_cost.step_cost import evaluations_a_ray, step_products, step_timer

    from jaxnerf.config.presets import preset

    small = settings["small"]
    side, repeats = (256, 3) if small else (8192, 20)
    # "default" is what a user gets, in which some cards round factors to TensorFloat-32.
    precisions = {"float32": "highest", "default": None, "bfloat16": None}
    peaks = {}
    for name, precision in precisions.items():
        square = jnp.ones((side, side), jnp.bfloat16 if name == "bfloat16" else jnp.float32)
        with jax.default_matmul_precision(precision):
            product = jax.jit(jnp.matmul)
            spent = median_seconds(lambda run=product, x=square: run(x, x), repeats)[0]
        peaks[name] = 2.0 * side**3 / spent
        found(matmul_teraflops={name: round(peaks[name] / 1e12, 3)})
    found(fast_field=fast_field_step(settings))
    config = preset("nerf_small" if small else "nerf")
    for name, precision in precisions.items():
        with noted("nerf", name), jax.default_matmul_precision(precision):
            dtype = "bfloat16" if name == "bfloat16" else "float32"
            rays = 64 if small else config.training.rays_per_batch
            field = dataclasses.replace(config.nerf.field, dtype=dtype)
            changed = dataclasses.replace(
                config,
                nerf=dataclasses.replace(
                    config.nerf, field=dataclasses.replace(field, width=16) if small else field
                ),
                training=dataclasses.replace(config.training, rays_per_batch=rays),
            )
            spent, first = median_seconds(step_timer(changed), 2 if small else 10)
            operations = sum(
                2.0 * m * k * n
                for evaluations in evaluations_a_ray(config.nerf.samples)
                for m, k, n in step_products(changed, evaluations, rays)
            )
            row = {
                "rays": rays,
                "milliseconds": round(1e3 * spent, 2),
                "first_step_seconds": round(first, 2),
                "share_of_matmul_peak": round(operations / spent / peaks[name], 4),
            }
            found(nerf={name: row})


def fast_field_step(settings: dict) -> dict[str, Any]:
    """The median time of the fast field's steps in the last stage of a short run."""
    from jaxnerf.config import override
    from jaxnerf.config.adaptation import adapt_to_scene
    from jaxnerf.config.presets import preset
    from jaxnerf.methods import first_state, trainer_of
    from jaxnerf.scenes import load_scene
    from jaxnerf.training import loop

    count = 24 if settings["small"] else 600
    config = override(preset("minute"), {"training.steps": count, "training.max_seconds": 0.0})
    if settings["small"]:
        config = small_config(config)
    scene = load_scene(settings["data"], images=("train",))
    config = adapt_to_scene(config, scene)
    spent, last, begun = [], None, time.perf_counter()
    for last in loop.train(first_state(config, scene), trainer_of(config, scene), report_every=8):
        if last.step > 0.6 * count:
            spent.append(last.metrics["rays"] / last.rays_per_second)
    assert last is not None
    return {
        "steps": count,
        "seconds": round(time.perf_counter() - begun, 2),
        "milliseconds": round(1e3 * statistics.median(spent), 3),
        "rays": int(last.metrics["rays"]),
        "rows": last.state.params.table.shape[-2],
        "loss": last.metrics["loss"],
    }


def small_config(config: Any) -> Any:
    """The fast field in so small that a CPU compiles and trains it in seconds."""
    from jaxnerf.config import override

    stages = {"resolutions": (16, 24), "fractions": (0.5,), "cells": 16}
    changes = {f"voxels.stages.{name}": value for name, value in stages.items()}
    return override(config, changes | {"training.rays_per_batch": 256})


def minute(settings: dict) -> None:
    """The preset of a minute, and what its pictures are worth."""
    flags = ["--config=minute", "--max_seconds=60"]
    if settings["small"]:
        flags = ["--config=minute", "--max_steps=24", "--voxels.stages.resolutions=16,24"]
        flags += ["--voxels.stages.fractions=0.5", "--voxels.stages.cells=16"]
        flags += ["--training.rays_per_batch=256"]
    train(settings, "minute", flags, 1 if settings["small"] else 8)


def nerf(settings: dict) -> None:
    """The paper's network for two minutes, and what its pictures are worth."""
    flags = ["--config=nerf", "--max_seconds=120"]
    if settings["small"]:
        flags = ["--config=nerf_small", "--max_steps=3", "--training.rays_per_batch=64"]
        flags += ["--nerf.field.width=16", "--nerf.samples=4,4", "--scene.longest_side=32"]
    train(settings, "nerf", flags, 1 if settings["small"] else 3)


def train(settings: dict, name: str, flags: list[str], views: int) -> None:
    """Train a run by the command, and measure some test views, spread evenly."""
    from jaxnerf.cli import main
    from jaxnerf.cli.eval import evaluate
    from jaxnerf.config.adaptation import load_for
    from jaxnerf.runs.metrics import read_metrics
    from jaxnerf.runs.run import load_run
    from jaxnerf.scenes import demo_path

    data = Path(settings["data"]) if settings["data"] else demo_path()
    out = Path(settings["work"]) / name
    command = ["train", f"--data={data}", f"--out={out}", "--noevaluate", *flags]
    with contextlib.redirect_stdout(sys.stderr):
        status = main(command)
    if status:
        raise SystemExit(status)
    rows = read_metrics(out)
    found(
        steps=rows[-1]["step"],
        seconds_from_start=round(rows[-1]["seconds_since_process_start"], 1),
        first_step_seconds=round(rows[0]["seconds_since_process_start"], 1),
        compile_seconds=round(rows[-1]["compile_seconds"], 1),
        rays_a_second=round(rows[-1]["rays_per_second"]),
        # Of the batches; thinned, since a run has hundreds of reports.
        seconds_and_psnr_in_training=[
            [round(row["seconds_since_process_start"], 1), round(row["psnr"], 2)]
            for row in rows[:: max(1, len(rows) // 20)]
        ],
    )
    run = load_run(out)
    scene = load_for(run.config, data, ("test",))
    count = len(scene.splits["test"])
    with contextlib.redirect_stdout(sys.stderr):
        results = evaluate(run, scene, every=-(-count // views))
    found(
        psnr=round(results["psnr"], 2),
        ssim=round(results["ssim"], 4) if "ssim" in results else results["protocol"]["ssim"],
        views=results["protocol"]["images"],
        resolution=results["protocol"]["resolution"],
        render_seconds_per_image=round(results["render_seconds_per_image"], 3),
    )


def frames(settings: dict) -> None:
    """Frames a second of the minute's run, at 800 x 800, along its orbit."""
    import numpy as np

    from jaxnerf import Camera
    from jaxnerf.cameras.paths import orbit_of
    from jaxnerf.runs.run import load_run

    folder = Path(settings["work"]) / "minute"
    if not (folder / "config.json").is_file():
        return found(left_out="the part `minute` left no run")
    run, side = load_run(folder), 48 if settings["small"] else 800
    first = run.cameras()[0]
    focal = float(np.asarray(first.focal)[0]) * side / float(np.asarray(first.size)[0])
    poses = orbit_of(np.asarray(run.cameras().camera_to_world), 3 if settings["small"] else 40)
    times = []
    for index, pose in enumerate(poses):
        begun = time.perf_counter()
        run.render(Camera.pinhole(pose, focal, side, side))
        times.append(time.perf_counter() - begun)
        if index in (0, len(poses) // 4, len(poses) - 1):
            spent = statistics.median(times[1:] or times)
            found(
                side=side,
                frames=index,
                first_frame_seconds=round(times[0], 3),
                frames_a_second=round(1.0 / spent, 2) if index else None,
            )
    return None


def median_seconds(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """The median time of a function whose results are waited for, and the time of its first call."""
    import jax

    times = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:]), times[0]


@contextlib.contextmanager
def noted(*keys: str):
    """Report an error under some keys, and go on after the block."""
    try:
        yield
    except Exception as error:
        row: Any = {"error": f"{type(error).__name__}: {error}"[:400]}
        for key in reversed(keys):
            row = {key: row}
        found(**row)


def kernels(settings: dict) -> None:
    """Each kernel in both forms; see `kernel_forms.py`."""
    from kernel_forms import measure

    measure(settings["small"])


if __name__ == "__main__":
    globals()[sys.argv[1]](json.loads(sys.argv[2]))

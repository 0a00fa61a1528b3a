"""The command from end to end on a tiny scene: what it leaves, and that it goes on where it was."""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image
from scene_factory import (
    TINY,
    command_environment,  # noqa: F401
    decode_video,
    edit_json,
    eyes,
    matrix,
    paint,
    write_scene,
)

from jaxnerf import fit
from jaxnerf.cli import VERBS, eval, main, process, render, train
from jaxnerf.config import Config, flatten
from jaxnerf.methods import state_like
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.folder import read_config
from jaxnerf.runs.metrics import read_metrics
from jaxnerf.runs.run import load_run
from jaxnerf.scenes.path_files import read_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("cli") / "balls")


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """A run of 6 steps; tests copy it before they change anything."""
    run = folder.parent / "run"
    assert main(["train", f"--data={folder}", f"--out={run}", "--max_steps=6", *TINY]) == 0
    return run


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def steps_of(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def state_of(run: Path) -> list[np.ndarray]:
    import jax

    config = read_config(run)
    return jax.tree.leaves(Checkpoints(run).restore(config, state_like(config)))


def test_views_are_measured_without_what_only_training_needs(folder, tmp_path, monkeypatch):
    """Photographs, moments and gradients: of captures the largest part of the memory."""
    sessions, held = [], []

    def prepared(*arguments, **settings):
        made = prepare(*arguments, **settings)
        sessions.append(weakref.ref(made))
        return made

    prepare = train.prepare
    monkeypatch.setattr(train, "prepare", prepared)
    monkeypatch.setattr(train, "_finish", lambda *_: held.append(sessions[0]()))
    command = ["train", f"--data={folder}", f"--out={tmp_path / 'run'}", "--max_steps=2", *TINY]
    assert main(command) == 0
    assert held == [None]


def test_training_leaves_all_that_the_help_says(trained):
    left = {path.name.split(".out")[0] for path in trained.iterdir()}
    assert left == {
        *("config.json", "scene.json", "checkpoints", "metrics.jsonl", "events"),
        *("results.json", "test_preds", "orbit.mp4"),
    }
    assert steps_of(trained) == [6]
    assert sorted(os.listdir(trained / "test_preds")) == ["000.png", "001.png"]
    assert decode_video(trained / "orbit.mp4").shape == (3, 16, 16, 3)


def test_the_configuration_kept_is_the_resolved_one(trained):
    config = flatten(read_config(trained))
    assert set(json.loads((trained / "config.json").read_text())) == set(Config.__annotations__)
    assert (config["nerf.field.width"], config["nerf.samples"]) == (8, (4, 4))
    assert config["training.steps"] == 6


def test_metrics_are_reported_after_the_first_and_the_last_step(trained):
    rows = read_metrics(trained)
    assert [row["step"] for row in rows] == [1, 6]
    for row in rows:
        assert row["psnr"] == pytest.approx(-10.0 * math.log10(row["mse"]))
        assert row["loss"] >= row["mse"] > 0.0
        assert row["rays_per_second"] > 0.0
        assert 0.0 < row["seconds"] < row["seconds_since_process_start"]
        assert {"learning_rate", "gradient_norm"} < row.keys()


def check_results(run: Path, split: str, turn: float, chosen: list[int]) -> None:
    """Compare results.json with the pictures beside it and the photographs, painted anew."""
    name = "results.json" if split == "test" else f"results_{split}.json"
    results = json.loads((run / name).read_text())
    assert set(results) == {
        *("psnr", "psnr_8bit", "ssim", "images", "protocol", "step"),
        *("train_seconds", "train_rays", "render_seconds_per_image", "depth"),
    }
    assert results["depth"] == {"not_measured": "the scene's files have fewer than 100 points"}
    assert results["protocol"]["split"] == split
    assert results["protocol"]["images"] == len(results["images"]) == len(chosen)
    assert results["protocol"]["of"] == 2
    assert results["step"] == 6
    assert results["train_rays"] == 6 * 16
    assert results["train_seconds"] == read_metrics(run)[-1]["seconds"]
    means = []
    for row, index in zip(results["images"], chosen, strict=True):
        assert row["image"] == f"{split}/r_{index}.png"
        picture = np.asarray(Image.open(run / row["file"]))
        photograph = paint(eyes(2, turn)[index], 16, 16)
        total = 0.0
        for p, t in zip(picture.reshape(-1, 3), photograph.reshape(-1, 4), strict=True):
            for channel in range(3):
                seen = t[channel] / 255 * (t[3] / 255) + (1 - t[3] / 255)
                total += (p[channel] / 255 - seen) ** 2
        means.append(10.0 * math.log10(16 * 16 * 3 / total))
        assert row["psnr_8bit"] == pytest.approx(means[-1], abs=1e-4)
        assert row["psnr"] == pytest.approx(means[-1], abs=0.05)
        assert -1.0 <= row["ssim"] <= 1.0
    assert results["psnr_8bit"] == pytest.approx(np.mean(means), abs=1e-4)


def test_results_are_those_of_the_pictures_that_were_saved(trained):
    check_results(trained, "test", 0.6, [0, 1])


def test_evaluating_again_says_the_same_but_for_the_time(run_folder, capsys):
    before = json.loads((run_folder / "results.json").read_text())
    shutil.rmtree(run_folder / "test_preds")
    assert main(["eval", str(run_folder)]) == 0
    after = json.loads((run_folder / "results.json").read_text())
    after["render_seconds_per_image"] = before["render_seconds_per_image"]
    assert after == before
    assert f"PSNR {after['psnr']:.2f} dB" in capsys.readouterr().out


def test_evaluating_every_second_view_of_another_split(run_folder):
    assert main(["eval", str(run_folder), "--every", "2", "--split=val"]) == 0
    check_results(run_folder, "val", 0.3, [0])


def test_evaluating_after_the_photographs_moved(run_folder, tmp_path):
    moved = write_scene(tmp_path / "moved")
    edit_json(run_folder / "scene.json", lambda scene: scene.update(source="/nowhere"))
    assert main(["eval", str(run_folder)]) == 1
    assert main(["eval", str(run_folder), f"--data={moved}"]) == 0


def test_noevaluate_leaves_a_run_that_was_not_measured(folder, tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", f"--data={folder}", f"--out={run}", *TINY, "--max_steps=2"]
    assert main([*command, "--noevaluate", "--seed=3"]) == 0
    assert {path.name.split(".out")[0] for path in run.iterdir()} == {
        *("config.json", "scene.json", "checkpoints", "metrics.jsonl", "events")
    }
    assert steps_of(run) == [2]
    assert read_config(run).training.seed == 3
    assert f"jaxnerf eval {run}" in capsys.readouterr().out


def test_a_run_stopped_by_its_time_and_resumed_is_that_which_was_not(
    folder, trained, tmp_path, capsys
):
    run = tmp_path / "run"
    command = ["train", f"--data={folder}", f"--out={run}", *TINY, "--max_steps=6"]
    assert main([*command, "--max_seconds=0.001", "--noevaluate"]) == 0
    stopped = steps_of(run)
    assert 1 <= stopped[-1] < 6
    assert main(["train", f"--out={run}", "--resume", "--noevaluate"]) == 0
    assert f"at step {stopped[-1]} of 6" in capsys.readouterr().out
    assert steps_of(run) == [*stopped, 6]
    for one, other in zip(state_of(run), state_of(trained), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 6]


def test_fit_trains_the_same_bits_and_goes_on_with_a_run_of_the_command(
    folder, trained, run_folder, tmp_path
):
    config = read_config(trained)
    run = fit(config, folder, tmp_path / "other", steps=6)
    assert run.config == config
    for one, other in zip(state_of(tmp_path / "other"), state_of(trained), strict=True):
        np.testing.assert_array_equal(one, other)
    # Nobody names the steps: those of the run stay.
    assert fit(config, folder, run_folder, resume=True).step == 6
    assert fit(config, folder, run_folder, steps=7, resume=True).step == 7
    assert (steps_of(run_folder), read_config(run_folder).training.steps) == ([6, 7], 7)


@pytest.mark.parametrize("flag", ["--max_steps=8", "--training.steps=8"])
def test_resuming_goes_on_to_more_steps_and_new_ways_to_evaluate(run_folder, flag):
    command = ["train", f"--out={run_folder}", "--resume", flag]
    assert main([*command, "--evaluation.orbit_frames=2", "--evaluation.every=2"]) == 0
    assert steps_of(run_folder) == [6, 8]
    assert load_run(run_folder).step == 8
    assert [row["step"] for row in read_metrics(run_folder)] == [1, 6, 7, 8]
    assert len(decode_video(run_folder / "orbit.mp4")) == 2
    assert json.loads((run_folder / "results.json").read_text())["protocol"]["every"] == 2
    assert read_config(run_folder).training.steps == 8


def test_resuming_a_finished_run_trains_nothing(run_folder, capsys):
    before = (run_folder / "metrics.jsonl").read_text()
    assert main(["train", f"--out={run_folder}", "--resume", "--noevaluate"]) == 0
    said = capsys.readouterr().out
    assert "nothing left to train: step 6 of 6" in said
    assert "wrote" not in said
    assert (run_folder / "metrics.jsonl").read_text() == before
    assert steps_of(run_folder) == [6]


def test_overwriting_starts_anew(run_folder, folder):
    command = ["train", f"--data={folder}", f"--out={run_folder}", *TINY, "--max_steps=2"]
    assert main([*command, "--overwrite", "--noevaluate"]) == 0
    assert steps_of(run_folder) == [2]
    assert [row["step"] for row in read_metrics(run_folder)] == [1, 2]
    assert not (run_folder / "results.json").exists()


def test_a_configuration_file_is_a_preset(trained, folder, tmp_path):
    command = ["train", f"--config={trained}/config.json", f"--data={folder}", "--noevaluate"]
    assert main([*command, f"--out={tmp_path}/run", "--seed=5"]) == 0
    config, other = (flatten(read_config(run)) for run in (trained, tmp_path / "run"))
    assert other == config | {"training.seed": 5}


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
@pytest.mark.parametrize("path", ["orbit", "spiral"])
def test_paths_are_rendered_as_videos(trained, tmp_path, path, suffix):
    out = tmp_path / f"video{suffix}"
    flags = [f"--path={path}", f"--out={out}", "--frames=3", "--width=9"]
    assert main(["render", str(trained), *flags]) == 0
    assert len(decode_video(out)) == 3
    assert decode_video(out).shape[1:3] == ((10, 10) if suffix == ".mp4" else (9, 9))
    assert os.listdir(tmp_path) == [out.name]


def poses_file(path: Path, **more) -> Path:
    """The two test views as a file of poses."""
    frames = [{"transform_matrix": matrix(eye)} for eye in eyes(2, 0.6)]
    path.write_text(json.dumps({"frames": frames, **more}))
    return path


def test_a_file_of_the_test_poses_shows_the_test_views(run_folder, tmp_path):
    poses_file(tmp_path / "keys.json")
    assert main(["render", str(run_folder), f"--path={tmp_path}/keys.json"]) == 0
    frames = decode_video(run_folder / "keys.mp4")
    for frame, name in zip(frames, ["000.png", "001.png"], strict=True):
        expected = np.asarray(Image.open(run_folder / "test_preds" / name), float)
        assert np.abs(frame - expected).mean() < 6.0


def test_a_flight_through_poses_and_another_field_of_view(trained, tmp_path):
    keys = poses_file(tmp_path / "keys.json", camera_angle_x=0.2)
    out = f"--out={tmp_path}/flight.gif"
    assert main(["render", str(trained), f"--path={keys}", "--frames=5", out]) == 0
    assert decode_video(tmp_path / "flight.gif").shape == (5, 16, 16, 3)
    found = read_path(keys, load_run(trained).cameras()[0])
    np.testing.assert_allclose(found.cameras.focal, 8.0 / math.tan(0.1), rtol=1e-6)


def test_panels_stand_side_by_side(trained, tmp_path):
    flags = ["--frames=2", "--panels=rgb,depth,normals", f"--out={tmp_path}/panels.mp4"]
    assert main(["render", str(trained), *flags]) == 0
    assert decode_video(tmp_path / "panels.mp4").shape == (2, 16, 48, 3)


def test_help_names_every_verb_and_the_version_is_told(capsys):
    for arguments in ([], ["--help"], ["help"], ["-h"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert all(verb in text for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jaxnerf 0.")


@pytest.mark.parametrize("verb", [process, train, eval, render])
def test_help_of_a_verb_names_every_flag_and_says_what_it_is(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb.__name__.rpartition(".")[2], "--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    values: flags.FlagValues = verb._flags()
    for name in values:
        at = [
            index
            for index, line in enumerate(lines)
            if line.replace("[no]", "").partition("=")[0] == f"  --{name}"
        ]
        assert len(at) == 1, name
        assert len(lines[at[0] + 1].strip()) > 5, name
    assert not [
        line for line in lines if "(default [" in line
    ]  # lists as the command line has them


def test_a_run_killed_before_its_steps_were_fixed_keeps_its_budget(folder, tmp_path):
    run = tmp_path / "run"
    command = ["train", f"--data={folder}", f"--out={run}", "--noevaluate", *TINY]
    assert main([*command, "--max_steps=2"]) == 0
    for checkpoint in (run / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    edit_json(
        run / "config.json",
        lambda config: config["training"].update(steps=10_000_000, max_seconds=0.001),
    )
    # The whole process is older than the budget, so one step is all that fits.
    resume = [argument for argument in command if not argument.startswith("--config")]
    assert main([*resume, "--resume"]) == 0
    assert load_run(run).step <= 16
    assert read_config(run).training.max_seconds == 0.001


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_command_keeps_freed_memory_unless_the_user_says_otherwise():
    program = """
import ctypes, resource
from jaxnerf.cli.common import prepare_cpu
prepare_cpu()
memory = ctypes.CDLL(None)
memory.malloc.restype, memory.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = memory.malloc(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    memory.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""

    def second(**environment) -> int:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        command = [sys.executable, "-c", program]
        found = subprocess.run(
            command, env=clean | environment, check=True, capture_output=True, text=True
        )
        return int(found.stdout.split()[1])

    assert 4 * second() < second(MALLOC_ARENA_MAX="2")


def test_the_compiled_step_of_one_scene_serves_another(tmp_path):
    """With other photographs, cameras, near and far, as long as the arrays have the same shapes."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    sizes = []
    for views, near in ((4, 0.3), (6, 0.4)):
        data = write_scene(tmp_path / f"scene{views}", train=views)
        command = [
            sys.executable, "-m", "jaxnerf", "train", "--data", str(data), "--noevaluate",
            "--out", str(tmp_path / f"run{views}"), "--config=minute", "--max_steps=2",
            "--training.rays_per_batch=64", "--scene.space=unbounded", "--scene.ball=1",
            f"--scene.near={near}",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env=environment)
        stored = (tmp_path / "jaxnerf").glob("*-cache")
        sizes.append(sorted(path.stat().st_size for path in stored))
    first, both = sizes
    # The step is by far the largest program.
    assert first[-1] > 2 * first[-2]
    assert [size for size in both if size > 0.8 * first[-1]] == [first[-1]]

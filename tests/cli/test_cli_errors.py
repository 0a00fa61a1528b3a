"""What the command says of bad input: one line, status 1, no traceback, nothing written over."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scene_factory import (
    TINY,
    command_environment,  # noqa: F401
    edit_json,
    write_scene,
)

from jaxnerf.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("errors") / "balls")


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """A run with checkpoints of the steps 1 and 2."""
    run = folder.parent / "run"
    command = ["train", f"--data={folder}", f"--out={run}", "--noevaluate", *TINY]
    assert main([*command, "--max_steps=2", "--checkpoint_seconds=0"]) == 0
    return run


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def files_of(folder: Path) -> dict[str, tuple]:
    """What is there: kinds, contents and times of change."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@pytest.fixture
def refusal(capfd, tmp_path, monkeypatch):
    """Run a command that must be refused, in an empty folder; returns its one line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        before = files_of(tmp_path)
        capfd.readouterr()
        assert main(list(arguments)) == 1
        out, err = capfd.readouterr()
        assert "Traceback" not in out
        assert err.startswith("jaxnerf: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert files_of(tmp_path) == before
        return err

    return run


COMMANDS = {
    "an unknown verb": (["trian"], "did you mean 'train'"),
    "a strange verb": (["xyz"], "train, eval, render"),
    "a method that the preset is not made for": (
        ["train", "--method=nerf"],
        "method: rates and more of this configuration are for method=voxels",
    ),
    "the method of fit": (["train", "--method=own"], "method: own is that of jaxnerf.fit"),
    "an unknown flag": (["train", "--dta=x"], "'dta'. Did you mean: data"),
    "a flag of an earlier version": (
        ["train", "--growing.affine_colour"],
        "it is --voxels.calibration.affine_colour now",
    ),
    "an unknown key": (["train", "--training.stpes=3"], "training.steps"),
    "an argument too many": (["train", "balls"], "'balls'"),
    "no run": (["eval"], "expected RUN"),
    "an unknown preset": (["train", "--config=papre"], "'papre'; did you mean 'paper'"),
    "no configuration file": (["train", "--config=no.json"], "no.json: cannot be read"),
    "a text for a number": (["train", "--max_steps=many"], "max_steps"),
    "no steps": (["train", "--max_steps=0"], "max_steps"),
    "too many steps": (["train", "--max_steps=9999999999"], "training.steps"),
    "a seed too large": (["train", "--seed=99999999999999999999"], "training.seed"),
    "a negative seed": (["train", "--seed=-1"], "seed"),
    "time that is no number": (["train", "--max_seconds=nan"], "max_seconds"),
    "a negative time": (["train", "--max_seconds=-1"], "max_seconds"),
    "half a unit": (
        ["train", "--nerf.field.width=1.5"],
        "nerf.field.width: '1.5' is not a whole number",
    ),
    "neither true nor false": (
        ["train", "--voxels.calibration.refine_poses=maybe"],
        "--voxels.calibration.refine_poses: must be true or false",
    ),
    "a colour": (["train", "--training.background=pink"], "white, black, random"),
    "too few samples": (["train", "--nerf.samples=1,2"], "nerf.samples"),
    "rays that do not divide": (["train", "--training.rays_per_batch=15"], "15 rays"),
    "two ways to begin": (["train", "--resume", "--overwrite"], "--overwrite"),
    "no data": (["train", "--data=nowhere"], "nowhere: no such folder"),
    "data with a long name": (["train", f"--data={'a' * 5000}"], "aaa"),
    "data that are no scene": (["train", "--data=."], "transforms_train.json"),
    "no run to resume": (["train", "--resume", "--out=nowhere"], "nowhere: no such run folder"),
    "no run to measure": (["eval", "nowhere"], "nowhere: no such run folder"),
    "no run to show": (["render", "nowhere"], "nowhere: no such run folder"),
    "no run to walk through": (["view", "nowhere", "--noopen"], "nowhere: no such run folder"),
    "no run to be rendered live": (
        ["view", "nowhere", "--noopen", "--live"],
        "nowhere: no such run folder",
    ),
    "not a run to walk through": (["view", ".", "--noopen"], ".: not a run folder"),
    "not a run": (["render", ".", "--out=x.mp4"], ".: not a run folder"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_wrong_command_is_refused(case, folder, refusal):
    arguments, named = COMMANDS[case]
    if arguments[0] == "train" and "--data" not in str(arguments):
        arguments = [*arguments, f"--data={folder}"]
    assert named in refusal(*arguments)


RENDERS = {
    "no panel": (["--panels="], "--panels"),
    "an unknown panel": (["--panels=rgb,heat"], "'heat'"),
    "an unknown suffix": (["--out=video.avi"], "video.avi"),
    "no folder for it": (["--out=no/video.mp4"], "no: no such folder"),
    "one frame": (["--frames=1"], "frames"),
    "no speed": (["--fps=0"], "fps"),
    "a speed that is no number": (["--fps=nan"], "--fps"),
    "an infinite speed": (["--fps=inf"], "--fps"),
    "a path that is not there": (["--path=flight.json"], "flight.json: no such file"),
}


@pytest.mark.parametrize("case", RENDERS)
def test_a_wrong_way_to_render_is_refused(case, trained, refusal):
    arguments, named = RENDERS[case]
    assert named in refusal("render", str(trained), *arguments)


IDENTITY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        ("{", "broken JSON"),
        ([], "JSON object"),
        ({}, "frames"),
        ({"frames": []}, "frames"),
        ({"frames": 3}, "frames"),
        ({"frames": [3]}, "frames[0]"),
        ({"frames": [{}]}, "frames[0]: transform_matrix"),
        ({"frames": [{"transform_matrix": [[2] * 4] * 4}]}, "frames[0]: transform_matrix"),
        ({"frames": [{"transform_matrix": IDENTITY}], "camera_angle_x": -1}, "camera_angle_x"),
        ({"frames": [{"transform_matrix": IDENTITY}], "camera_angle_x": 10**400}, "camera_angle_x"),
        ({"frames": [{"transform_matrix": IDENTITY}]}, "--frames"),
    ],
)
def test_a_wrong_file_of_poses_is_refused(contents, named, trained, refusal, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    line = refusal("render", str(trained), "--path=keys.json", "--frames=4")
    assert "keys.json" in line
    assert named in line


@pytest.mark.parametrize(
    "text", ["{", '{"training": {"stpes": 1}}', '{"field": {"width": "wide"}}']
)
def test_a_wrong_configuration_file_is_refused_by_name(text, folder, refusal, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    assert "mine.json: " in refusal("train", f"--data={folder}", "--config=mine.json")


def test_a_damaged_photograph_is_refused_before_anything_is_made(refusal, tmp_path):
    write_scene(tmp_path / "scene")
    image = tmp_path / "scene/train/r_3.png"
    image.write_bytes(image.read_bytes()[:60])
    assert "r_3.png" in refusal("train", "--data=scene", "--out=run", *TINY)


def test_a_wrong_pose_is_refused_before_anything_is_made(refusal, tmp_path):
    path = write_scene(tmp_path / "scene") / "transforms_train.json"
    edit_json(path, lambda c: c["frames"][2]["transform_matrix"][0].__setitem__(0, 3.0))
    line = refusal("train", "--data=scene", "--out=run", *TINY)
    assert "transforms_train.json: frames[2]: transform_matrix is not rigid" in line


def test_a_test_view_that_is_gone_is_left_out_and_said(trained, refusal, tmp_path, capfd):
    """As in training, where a capture often lacks some of the pictures that its file names."""
    scene = write_scene(tmp_path / "scene")
    (scene / "test/r_1.png").unlink()
    run = shutil.copytree(trained, tmp_path / "run")
    assert main(["eval", str(run), f"--data={scene}"]) == 0
    assert "1 of 2" in capfd.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert [row["image"] for row in results["images"]] == ["test/r_0.png"]
    assert any("without a file" in note for note in results["protocol"]["notes"])
    (scene / "test/r_0.png").unlink()
    assert "test" in refusal("eval", str(trained), "--data=scene")
    assert "no split 'holdout'" in refusal("eval", str(trained), "--split=holdout")


def test_a_run_that_is_there_stays_as_it_is(run_folder, folder, refusal):
    line = refusal("train", f"--data={folder}", f"--out={run_folder}", *TINY)
    for way in ("--resume", "--overwrite", "--out"):
        assert way in line


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_of_other_files_stays_as_it_is(overwrite, folder, refusal, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("two years")
    # Other programs have such a file too.
    (tmp_path / "other/config.json").write_text('{"model_type": "bert"}')
    refusal("train", f"--data={folder}", "--out=other", *TINY, *overwrite)


@pytest.mark.parametrize(
    "change", ["--nerf.field.width=9", "--training.seed=7", "--config=paper", "--scene.downscale=2"]
)
def test_a_run_is_not_resumed_with_another_configuration(change, run_folder, refusal):
    line = refusal("train", f"--out={run_folder}", "--resume", change)
    assert "--resume cannot change it" in line


def test_a_run_is_not_resumed_or_measured_with_other_photographs(run_folder, refusal, tmp_path):
    write_scene(tmp_path / "other", train=3)
    resume = ["train", f"--out={run_folder}", "--resume", "--data=other", "--max_steps=9"]
    assert "not the scene" in refusal(*resume)
    assert "not the scene" in refusal("eval", str(run_folder), "--data=other")


@pytest.mark.parametrize(
    "command", [["train", "--resume", "--max_steps=9", "--out"], ["eval"], ["render"]]
)
def test_a_checkpoint_of_another_configuration_is_refused(command, run_folder, refusal):
    edit_json(run_folder / "config.json", lambda c: c["nerf"]["field"].update(width=9))
    assert "another configuration" in refusal(*command, str(run_folder))


@pytest.mark.parametrize(
    "command", [["train", "--resume", "--max_steps=9", "--out"], ["eval"], ["render"]]
)
def test_a_damaged_checkpoint_is_refused(command, run_folder, refusal):
    for file in (run_folder / "checkpoints/2/default/d").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    line = refusal(*command, str(run_folder))
    assert "checkpoints/2: damaged; remove it to go back to step 1" in line


def test_training_that_diverges_says_what_to_lower(folder, capfd, tmp_path):
    wild = [
        "--nerf.optimizer.learning_rate=1e30",
        "--nerf.optimizer.delay_steps=0",
        "--max_steps=50",
    ]
    command = ["train", f"--data={folder}", f"--out={tmp_path}/run", *TINY, *wild]
    assert main(command) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "diverged" in line
    assert "nerf.optimizer.learning_rate" in line


def test_an_interrupt_ends_quietly(trained, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxnerf.cli.eval.evaluate", interrupt)
    assert main(["eval", str(trained)]) == 130
    assert capsys.readouterr().err == ""


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["eval", "RUN"], ".partial.results.json"),
        (["render", "RUN", "--frames=40"], ".partial.orbit.mp4"),
        (["train", "--resume", "--max_steps=9", "--out=RUN"], ".partial.config.json"),
        (["train", "--resume", "--max_steps=9", "--out=RUN"], ".partial.metrics.jsonl"),
    ],
)
def test_a_full_disk_is_one_line_and_what_was_there_stays(command, file, run_folder, capfd):
    (run_folder / "results.json").write_text("{}")
    before = {name: (run_folder / name).read_text() for name in ("results.json", "metrics.jsonl")}
    (run_folder / file).symlink_to("/dev/full")
    assert main([part.replace("RUN", str(run_folder)) for part in command]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"jaxnerf: {run_folder}")
    assert "the disk is full" in line
    assert not (run_folder / file).exists()
    for name, text in before.items():
        assert (run_folder / name).read_text() == text
    assert main(["render", str(run_folder), "--frames=2", f"--out={run_folder}/x.gif"]) == 0


def can_mount() -> bool:
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        return False
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.release
@pytest.mark.parametrize("kilobytes", [12, 24, 100, 200])
def test_a_disk_that_fills_while_training_leaves_the_last_checkpoint(kilobytes, folder, tmp_path):
    if not can_mount():
        pytest.skip("no file system can be mounted here")
    command = f"{sys.executable} -c 'import jaxnerf.cli; jaxnerf.cli.entry_point()' train"
    train = f"{command} --data={folder} --out=/mnt/run --max_steps=400"
    script = (
        f"mount -t tmpfs -o size={kilobytes}k tmpfs /mnt; "
        f"{train} --checkpoint_seconds=0 {' '.join(TINY)}; echo status $? >&2; "
        "mount -o remount,size=4m /mnt; "
        f"{command} --out=/mnt/run --resume"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=environment
    )
    line, status = done.stderr.splitlines()
    assert line == (
        "jaxnerf: /mnt/run: the disk is full; make room and resume the run "
        "(the last whole checkpoint is kept)"
    )
    assert status == "status 1"
    assert done.returncode == 0
    assert "step 400/400" in done.stdout


def test_names_that_are_not_utf_8_can_be_printed():
    code = (
        "from jaxnerf import cli; cli.main = lambda: print('sc\\udce9ne') or 0; cli.entry_point()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"sc\\udce9ne\n", b"")

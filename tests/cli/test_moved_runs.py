"""Runs whose folder or photographs are elsewhere or other than when training began."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from scene_factory import TINY, command_environment, edit_json, write_scene  # noqa: F401

from jaxnerf.cli import main
from jaxnerf.runs.run import load_run


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


def test_commands_that_are_printed_can_be_typed_whatever_the_folder_is_called(
    folder, trained, tmp_path, capsys
):
    run = shutil.copytree(trained, tmp_path / "my run's")
    again = ["train", f"--data={folder}", f"--out={run}", "--resume", "--max_steps=7"]
    assert main([*again, "--evaluation.orbit_frames=0"]) == 0
    printed = capsys.readouterr().out.split("Next:\n")[1].splitlines()
    verbs = [words[1:] for words in map(shlex.split, printed)]
    assert [words[0] for words in verbs] == ["render", "eval", "train"]
    assert verbs[1] == ["eval", str(run)]
    assert main(verbs[1]) == 0
    assert f"--out {run}".split(" ", 1)[1] in verbs[2]


def test_resuming_after_the_photographs_moved_says_where_they_are_now(run_folder, tmp_path):
    moved = write_scene(tmp_path / "moved")
    edit_json(run_folder / "scene.json", lambda scene: scene.update(source="/nowhere"))
    again = ["train", f"--data={moved}", f"--out={run_folder}", "--resume", "--max_steps=7"]
    assert main([*again, "--noevaluate", "--evaluation.orbit_frames=0"]) == 0
    assert load_run(run_folder).scene.source == moved.resolve()
    assert main(["eval", str(run_folder)]) == 0


def test_test_views_that_came_after_training_are_measured(run_folder, folder):
    edit_json(run_folder / "scene.json", lambda scene: scene["splits"].pop("test"))
    shutil.rmtree(run_folder / "test_preds")
    (run_folder / "results.json").unlink()
    assert main(["eval", str(run_folder), f"--data={folder}"]) == 0
    assert json.loads((run_folder / "results.json").read_text())["images"]


def test_a_held_out_sector_is_measured_without_test_views(tmp_path, capsys):
    data = write_scene(tmp_path / "balls", train=24)
    (data / "transforms_test.json").unlink()
    run = tmp_path / "run"
    command = ["train", f"--data={data}", f"--out={run}", "--max_steps=2", *TINY]
    assert main([*command, "--scene.hold_out_sector", "--evaluation.orbit_frames=0"]) == 0
    assert json.loads((run / "results_sector.json").read_text())["images"]
    assert "results_sector.json, sector_preds/" in capsys.readouterr().out

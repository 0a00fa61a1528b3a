"""Photographs of one split that are also in another."""

import json
import shutil

import pytest
from capture_factory import write_nerfstudio
from scene_factory import (
    TINY,
    command_environment,  # noqa: F401
    edit_json,
    write_scene,
)

from jaxnerf.cli import main
from jaxnerf.scenes import load_scene


@pytest.mark.parametrize("how", ["listed twice", "a copy", "a copy of rounded pose", "a link"])
def test_photographs_in_two_splits_are_said(how, tmp_path):
    if how == "listed twice":
        names = [f"images/{index:04d}.png" for index in range(9)]
        folder = write_nerfstudio(
            tmp_path / "s",
            train_filenames=names,
            val_filenames=names[:1],
            test_filenames=names[::4],
        )
        expected = "1 of 1 of val, 3 of 3 of test"
    else:
        folder = write_scene(tmp_path / "s")
        source = folder / "train/r_0.png"
        target = folder / "test/r_1.png"
        target.unlink()
        pose = json.loads((folder / "transforms_train.json").read_text())["frames"][0]
        if "copy" in how:
            shutil.copy(source, target)
            digits = 5 if "rounded" in how else 17
            rows = [[round(x, digits) for x in row] for row in pose["transform_matrix"]]
            edit_json(
                folder / "transforms_test.json",
                lambda c: c["frames"][1].update(transform_matrix=rows),
            )
        else:
            target.symlink_to(source)
        expected = "1 of 2 of test"
    scene = load_scene(folder)
    assert f"photographs of train are also in other splits: {expected}" in scene.notes


def test_equal_pictures_from_different_places_are_no_leak(tmp_path):
    folder = write_scene(tmp_path / "s")
    shutil.copy(folder / "train/r_0.png", folder / "test/r_1.png")
    assert load_scene(folder).notes == ()


def test_train_and_its_results_say_what_the_reader_said(tmp_path, capsys):
    folder, run = write_scene(tmp_path / "s"), tmp_path / "run"
    shutil.copy(folder / "transforms_train.json", folder / "transforms_test.json")
    arguments = ["--max_steps=1", "--evaluation.orbit_frames=0", "--evaluation.every=4"]
    assert main(["train", f"--data={folder}", f"--out={run}", *TINY, *arguments]) == 0
    said = "photographs of train are also in other splits: 4 of 4 of test"
    assert said in capsys.readouterr().out
    assert json.loads((run / "results.json").read_text())["protocol"]["notes"] == [said]

"""A held-out sector: which cameras are in it, and what becomes of the other splits."""

import json
import types

import numpy as np
import pytest
from capture_factory import around, poses_of, random_similarity, write_nerfstudio
from scene_factory import (
    TINY,
    command_environment,  # noqa: F401
    write_scene,
)

from jaxnerf.cameras import look_at_pose
from jaxnerf.cli import eval as evaluation
from jaxnerf.cli import main
from jaxnerf.scenes import SceneError, load_scene
from jaxnerf.scenes.sector import in_sector


def ring(degrees, height: float = 1.0) -> np.ndarray:
    """Cameras at 4 from the z axis which look at the origin."""
    angles = np.radians(degrees)
    places = np.stack([4.0 * np.cos(angles), 4.0 * np.sin(angles), 0.0 * angles + height], axis=-1)
    return np.stack([look_at_pose(place, (0.0, 0.0, 0.0)) for place in places])


def sector(poses: np.ndarray) -> list[int]:
    return np.flatnonzero(in_sector(poses)).tolist()


def moved(poses: np.ndarray, seed: int) -> np.ndarray:
    """The same cameras in another frame, where up is some other direction."""
    return random_similarity(seed).poses(poses)


@pytest.mark.parametrize("seed", range(4))
def test_of_a_ring_the_sector_is_the_tenth_around_the_first_camera(seed):
    # Of 40 cameras 4: the first, its neighbours, and the earlier one of those after them.
    assert sector(moved(ring(9.0 * np.arange(40.0)), seed)) == [0, 1, 2, 39]
    # Names in another order: what counts is where the first one stands.
    order = np.random.default_rng(seed).permutation(40)
    angles = 9.0 * order
    apart = np.abs((angles - angles[0] + 180.0) % 360.0 - 180.0)
    expected = np.lexsort([np.arange(40), apart])[:4]
    assert sector(moved(ring(angles), seed)) == sorted(expected)


def test_rings_one_above_the_other_lose_the_same_side():
    poses = np.concatenate([ring(18.0 * np.arange(20.0), height) for height in (0.5, 2.0, 4.0)])
    # The first of each ring, and one neighbour each.
    assert sector(poses) == [0, 1, 19, 20, 21, 40]


@pytest.mark.parametrize("seed", range(4))
def test_of_an_arc_it_is_one_end(seed):
    angles = np.random.default_rng(seed).permutation(np.linspace(-70.0, 110.0, 30))
    assert sector(moved(ring(angles), seed)) == sorted(np.argsort(angles)[-3:])


def test_of_cameras_that_look_the_same_way_it_is_the_right_side():
    random = np.random.default_rng(0)
    poses = np.tile(np.eye(3, 4), (25, 1, 1))
    poses[:, :, 3] = random.uniform(-1.0, 1.0, (25, 3))
    assert sector(poses) == sorted(np.argsort(poses[:, 0, 3])[-2:])


@pytest.mark.parametrize("seed", range(3))
def test_of_cameras_that_look_outwards_it_is_a_sector_of_what_they_see(seed):
    angles = np.random.default_rng(seed).permutation(12.0 * np.arange(30))
    around = np.radians(angles)
    ahead = np.stack([np.cos(around), np.sin(around), 0.0 * around + 0.1], axis=-1)
    # Each stands a little before the middle of the room.
    poses = np.stack([look_at_pose(0.2 * d, 5.0 * d) for d in ahead])
    apart = np.abs((angles - angles[0] + 180.0) % 360.0 - 180.0)
    expected = np.lexsort([np.arange(30), apart])[:3]
    assert sector(moved(poses, seed)) == sorted(expected)


def test_the_sector_is_in_no_other_split_and_test_views_stay_what_they_were(tmp_path):
    folder = write_nerfstudio(tmp_path / "s", around(30))
    plain = load_scene(folder, images=("train", "test"))
    scene = load_scene(folder, images=("train", "test", "sector"), hold_out_sector=True)
    names = {name: set(split.names) for name, split in scene.splits.items()}
    inside = in_sector(poses_of(around(30)))
    every = sorted(plain.splits["train"].names + plain.splits["test"].names)
    assert names["sector"] == {name for name, yes in zip(every, inside, strict=True) if yes}
    assert len(names["sector"]) == 3
    for split in ("train", "test"):
        assert names[split] == set(plain.splits[split].names) - names["sector"]
    photographs = {
        name: image
        for split in plain.splits.values()
        for name, image in zip(split.names, split.images, strict=True)
    }
    for split in scene.splits.values():
        for name, image in zip(split.names, split.images, strict=True):
            np.testing.assert_array_equal(image, photographs[name])
    with pytest.raises(SceneError, match="no split 'sector', only train, test"):
        load_scene(folder, images=("sector",))


def test_splits_of_the_files_own_lose_their_cameras_too(tmp_path):
    folder = write_scene(tmp_path / "s", train=12, test=8)
    scene = load_scene(folder, images=("train", "sector"), hold_out_sector=True)
    names = [name for split in scene.splits.values() for name in split.names]
    assert len(names) == len(set(names)) == 22
    assert len(scene.splits["sector"]) == 2
    assert "test/r_0.png" in scene.splits["sector"].names  # the first by name


def test_of_few_cameras_no_sector_is_held_out(tmp_path):
    folder = write_nerfstudio(tmp_path / "s", around(19))
    with pytest.raises(SceneError, match=r"s: 19 photographs are too few to hold out a sector of"):
        load_scene(folder, hold_out_sector=True)
    assert (
        "sector"
        in load_scene(write_nerfstudio(tmp_path / "t", around(20)), hold_out_sector=True).splits
    )


def test_both_splits_are_measured_in_the_time_of_training_together(tmp_path, monkeypatch):
    given = []

    def measured(run, scene, split, every, share):
        given.append(share)
        return {"psnr": 20.0}

    monkeypatch.setattr(evaluation, "evaluate", measured)
    run = types.SimpleNamespace(folder=tmp_path)
    found = evaluation.evaluate_splits(run, load_scene(images=()), ("test", "sector"), 0)
    assert given == [0.5, 0.5]
    assert found["test"]["sector"] == {"psnr": 20.0}


@pytest.mark.release
def test_both_figures_stand_in_results_with_their_protocols(tmp_path, capsys):
    folder, run = write_scene(tmp_path / "s", train=14, test=6), tmp_path / "run"
    command = ["train", f"--data={folder}", f"--out={run}", "--scene.hold_out_sector", *TINY]
    command += ["--max_steps=2", "--evaluation.orbit_frames=0", "--evaluation.every=1"]
    assert main(command) == 0
    assert "sector: PSNR" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    alone = json.loads((run / "results_sector.json").read_text())
    sector = load_scene(folder, hold_out_sector=True).splits["sector"]
    assert [row["image"] for row in alone["images"]] == list(sector.names)
    assert (
        results["sector"]["psnr"] == alone["psnr"] == np.mean([r["psnr"] for r in alone["images"]])
    )
    assert results["sector"]["protocol"]["split"] == "sector"
    assert "from one side" in results["sector"]["protocol"]["cameras"]
    assert results["protocol"]["split"] == "test"
    assert not {row["image"] for row in results["images"]} & set(sector.names)
    # Again, from the folder alone.
    assert main(["eval", str(run)]) == 0
    assert json.loads((run / "results.json").read_text())["sector"]["psnr"] == alone["psnr"]
    assert main(["eval", str(run), "--split=sector"]) == 0
    # What is left of a sector goes when the run does.
    again = [argument for argument in command if "sector" not in argument]
    assert main([*again, "--overwrite"]) == 0
    assert "sector" not in json.loads((run / "results.json").read_text())
    assert not (run / "results_sector.json").exists()
    assert not (run / "sector_preds").exists()

"""Runs: states survive to the bit, folders stand alone, and the user's frame is the user's."""

import dataclasses
import errno
import json
import math
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scene_factory import edit_json, write_scene
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import Camera
from jaxnerf.config import Config, override
from jaxnerf.methods import state_like
from jaxnerf.methods.nerf import first_state_in
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.files import RunError, disk_errors, write_json
from jaxnerf.runs.folder import check_free, create_folder, read_config
from jaxnerf.runs.run import load_run, read_scene
from jaxnerf.scenes import Similarity, load_scene

CONFIG = override(
    Config(),
    {
        "nerf.field.depth": 2,
        "nerf.field.width": 8,
        "nerf.field.view_width": 4,
        "nerf.field.position_octaves": 2,
        "nerf.field.direction_octaves": 1,
        "nerf.samples": (4, 4),
        "evaluation.chunk": 64,
    },
)


def state_at(step: int):
    """A state in which every number is one of its own, and not a round one."""
    state = first_state_in(None, CONFIG)
    leaves, tree = jax.tree.flatten(state)
    random = np.random.default_rng(step)
    noisy = [
        jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)
        if leaf.dtype == jnp.float32
        else leaf
        for leaf in leaves
    ]
    return dataclasses.replace(
        jax.tree.unflatten(tree, noisy), step=jnp.int32(step), total_steps=jnp.int32(321)
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return load_scene(write_scene(tmp_path_factory.mktemp("runs") / "balls", 12, 10))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scene) -> Path:
    """A run with checkpoints of the steps 5 and 7; tests copy it before they change anything."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    create_folder(folder, CONFIG, scene)
    checkpoints = Checkpoints(folder)
    for step in (3, 5, 7):
        checkpoints.save(state_at(step))
    return folder


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("step", [None, 5, 7])
def test_a_state_is_restored_to_the_bit(finished, step):
    restored = Checkpoints(finished).restore(CONFIG, state_like(CONFIG), step)
    saved = state_at(step or 7)
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for old, new in zip(jax.tree.leaves(saved), jax.tree.leaves(restored), strict=True):
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()


def test_the_last_two_states_are_kept(finished):
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["5", "7"]
    with pytest.raises(RunError, match="step 3, only of 5, 7"):
        load_run(finished, 3)
    assert [load_run(finished, step).step for step in (5, None)] == [5, 7]
    with pytest.raises(RunError, match="'holdout'"):
        load_run(finished).cameras("holdout")


def test_saving_a_step_again_changes_nothing(run_folder):
    before = files_of(run_folder)
    Checkpoints(run_folder).save(state_at(7))
    assert files_of(run_folder) == before


def test_configuration_and_scene_come_back_as_they_were(finished, scene):
    assert read_config(finished) == CONFIG
    again = read_scene(finished)
    assert (again.name, again.format, again.near, again.far) == ("balls", "blender", 2.0, 6.0)
    assert again.source == scene.source.resolve()
    for name, split in scene.splits.items():
        assert again.splits[name].names == split.names
        jax.tree.map(np.testing.assert_array_equal, again.splits[name].cameras, split.cameras)


def test_a_copied_run_renders_the_same_without_the_photographs(finished, tmp_path):
    photographs = write_scene(tmp_path / "scene", 12, 10)
    create_folder(tmp_path / "run", CONFIG, load_scene(photographs))
    Checkpoints(tmp_path / "run").save(state_at(7))
    shutil.rmtree(photographs)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    here, there = load_run(finished), load_run(tmp_path / "elsewhere")
    camera = here.cameras("test")[1]
    pictures = [run.render(camera, normals=True) for run in (here, there)]
    assert pictures[0].colour.shape == (10, 12, 3)
    assert np.std(pictures[0].colour) > 0.0
    jax.tree.map(np.testing.assert_array_equal, *pictures)


def test_a_run_renders_in_the_frame_of_the_users_files(finished, run_folder):
    similarity = Similarity(
        2.5,
        Rotation.from_euler("xyz", [40, -70, 25], degrees=True).as_matrix(),
        np.array([7, -3, 1.0]),
    )
    edit_json(
        run_folder / "scene.json",
        lambda contents: contents["to_user"].update(
            scale=2.5,
            rotation=similarity.rotation.tolist(),
            translation=similarity.translation.tolist(),
        ),
    )
    plain, moved = load_run(finished), load_run(run_folder)
    camera = plain.cameras("test")[0]
    pose = np.asarray(camera.camera_to_world, np.float64)
    position = 2.5 * similarity.rotation @ pose[:, 3] + similarity.translation
    turned = np.concatenate([similarity.rotation @ pose[:, :3], position[:, None]], axis=1)
    np.testing.assert_allclose(moved.cameras("test")[0].camera_to_world, turned, atol=1e-5)
    there = dataclasses.replace(camera, camera_to_world=turned.astype(np.float32))
    before = plain.render(camera, normals=True)
    after = moved.render(there, normals=True)
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(after.colour, before.colour, **tolerance)
    np.testing.assert_allclose(after.opacity, before.opacity, **tolerance)
    for name in ("depth", "depth_median", "distance"):
        np.testing.assert_allclose(
            getattr(after, name), 2.5 * getattr(before, name), rtol=1e-3, atol=5e-3
        )
    expected = np.einsum("ij,hwj->hwi", similarity.rotation, before.normals)
    assert np.linalg.norm(before.normals, axis=-1).max() > 0.9
    np.testing.assert_allclose(after.normals, expected, atol=5e-3)


@pytest.mark.parametrize(
    ("trained_on", "shown"),
    [
        ("white", (1.0, 1.0, 1.0)),
        ("black", (0.0, 0.0, 0.0)),
        ("random", (1.0, 1.0, 1.0)),
        ("#336699", (0.2, 0.4, 0.6)),
    ],
)
def test_the_background_is_that_of_training(run_folder, trained_on, shown):
    edit_json(run_folder / "config.json", lambda c: c["training"].update(background=trained_on))
    run = load_run(run_folder)
    assert run.background == pytest.approx(shown)
    camera = Camera.look_at((0.0, 4.0, 0.0), width=3, height=2)
    seen = run.render(camera)
    red = run.render(camera, background=(1.0, 0.0, 0.0))
    through = (1.0 - seen.opacity)[..., None]
    difference = through * (np.array([1.0, 0.0, 0.0]) - shown)
    np.testing.assert_allclose(red.colour - seen.colour, difference, atol=1e-5)


def refused(folder: Path, capfd) -> str:
    """The one line with which a run is refused; nothing may be printed or changed."""
    before = files_of(folder)
    with pytest.raises(RunError) as caught:
        load_run(folder)
    assert files_of(folder) == before
    assert capfd.readouterr() == ("", "")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_folders_that_are_no_runs_are_refused(tmp_path, run_folder, capfd):
    assert "no such run folder" in refused(tmp_path / "nowhere", capfd)
    (tmp_path / "empty").mkdir()
    assert "not a run folder (no config.json)" in refused(tmp_path / "empty", capfd)
    (run_folder / "scene.json").unlink()
    assert "not a run folder (no scene.json)" in refused(run_folder, capfd)


def test_a_run_without_a_checkpoint_is_refused(tmp_path, scene, capfd):
    create_folder(tmp_path / "run", CONFIG, scene)
    assert Checkpoints(tmp_path / "run").restore(CONFIG, state_like(CONFIG)) is None
    assert "no checkpoint yet" in refused(tmp_path / "run", capfd)
    (tmp_path / "run/checkpoints").mkdir()
    assert "no checkpoint yet" in refused(tmp_path / "run", capfd)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["nerf"]["field"].update(width=9), "bottleneck"),
        (lambda c: c["nerf"]["field"].update(depth=3), "layers_"),
        (lambda c: c["nerf"].update(separate_levels=False), "params.1."),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(run_folder, change, named, capfd):
    edit_json(run_folder / "config.json", change)
    message = refused(run_folder, capfd)
    assert "checkpoints/7: a checkpoint of another configuration" in message
    assert named in message


@pytest.mark.parametrize(
    ("file", "contents"),
    [
        ("config.json", "{"),
        ("config.json", '{"nerf": {"field": {"widht": 8}}}'),
        ("scene.json", "[]"),
        ("scene.json", "[" * 10**5),
        ("scene.json", "\xff"),
    ],
)
def test_broken_json_of_a_run_is_refused_by_name(run_folder, file, contents, capfd):
    (run_folder / file).write_bytes(contents.encode("latin-1"))
    assert file in refused(run_folder, capfd)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["near"], None),
        (["far"], "six"),
        (["to_user"], {}),
        (["to_user", "scale"], 10**400),
        (["to_user", "rotation"], [[1, 0], [0, 1]]),
        (["splits"], []),
        (["splits", "train", "lens"], "telescope"),
        (["splits", "train", "names"], ["one"]),
        (["splits", "train", "cameras", "focal"], [1e300] * 4),
        (["splits", "train", "cameras", "camera_to_world"], [[1, 2]]),
    ],
)
def test_a_wrong_field_of_scene_json_is_refused(run_folder, path, value, capfd):
    def change(contents):
        for key in path[:-1]:
            contents = contents[key]
        contents[path[-1]] = value

    edit_json(run_folder / "scene.json", change)
    assert "scene.json: broken" in refused(run_folder, capfd)


def damages(folder: Path) -> list[Path]:
    """The files without which the last state cannot be read."""
    default = folder / "checkpoints/7/default"
    return [default / "_METADATA", default / "manifest.ocdbt", *(default / "d").iterdir()]


@pytest.mark.parametrize("how", ["removed", "emptied", "halved", "flipped"])
def test_a_damaged_checkpoint_is_refused_in_one_line(run_folder, how, capfd):
    for path in damages(run_folder):
        whole = path.read_bytes()
        half = len(whole) // 2
        if how == "removed":
            path.unlink()
        else:
            flipped = bytes([whole[half] ^ 255])
            path.write_bytes(
                {"emptied": b"", "halved": whole[:half]}.get(
                    how, whole[:half] + flipped + whole[half + 1 :]
                )
            )
        message = refused(run_folder, capfd)
        assert "checkpoints/7: damaged; remove it to go back to step 5" in message
        path.write_bytes(whole)
    load_run(run_folder)


def test_the_state_before_a_damaged_one_can_be_opened(run_folder):
    shutil.rmtree(run_folder / "checkpoints/7/default/d")
    assert load_run(run_folder, 5).step == 5
    shutil.rmtree(run_folder / "checkpoints/7")
    assert load_run(run_folder).step == 5


def test_folders_with_anything_in_them_are_left_alone(run_folder, tmp_path, scene):
    check_free(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    before = files_of(tmp_path)
    for folder, overwrite in [("file", True), ("other", True), ("run", False)]:
        with pytest.raises(RunError, match=folder):
            create_folder(tmp_path / folder, CONFIG, scene, overwrite=overwrite)
    assert files_of(tmp_path) == before


def test_overwriting_a_run_removes_what_it_made_and_nothing_else(run_folder, scene):
    (run_folder / "test_preds").mkdir()
    made = ["metrics.jsonl", "results.json", "orbit.mp4", "test_preds/000.png"]
    for name in [*made, "events.out.tfevents.1.host", "notes.txt"]:
        (run_folder / name).write_text("{}")
    other = override(CONFIG, {"nerf.field.width": 16})
    create_folder(run_folder, other, scene, overwrite=True)
    assert sorted(os.listdir(run_folder)) == ["config.json", "notes.txt", "scene.json"]
    assert read_config(run_folder) == other


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_folder_whose_creation_was_interrupted_is_free_again(tmp_path, scene, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("jaxnerf.runs.folder.save_config", interrupted)
        with pytest.raises(KeyboardInterrupt):
            create_folder(tmp_path / "run", CONFIG, scene)
    create_folder(tmp_path / "run", CONFIG, scene)
    assert read_config(tmp_path / "run") == CONFIG


def test_numbers_that_are_not_finite_are_null_in_files(tmp_path):
    """JSON has no word for them, and other programs refuse Python's."""
    write_json(
        tmp_path / "some.json", {"a": [math.inf, (1.5, math.nan)], "b": -math.inf, "c": True}
    )
    text = (tmp_path / "some.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [None, [1.5, None]],
        "b": None,
        "c": True,
    }


def test_a_full_disk_is_one_line_and_leaves_no_half_run(tmp_path, scene):
    with (
        pytest.raises(RunError, match="the disk is full; make room first"),
        disk_errors(tmp_path, " first"),
        open("/dev/full", "w") as file,
    ):
        file.write("x")
    folder = tmp_path / "run"
    folder.mkdir()
    create_folder(folder, CONFIG, scene)
    (folder / ".partial.config.json").symlink_to("/dev/full")
    with pytest.raises(RunError, match="the disk is full"):
        create_folder(folder, CONFIG, scene, overwrite=True)
    assert not list(folder.iterdir())


def test_other_failures_to_write_name_the_folder(tmp_path):
    with (
        pytest.raises(RunError, match=f"{tmp_path}: cannot be written: Is a directory"),
        disk_errors(tmp_path),
    ):
        tmp_path.write_text("x")
    with pytest.raises(RunError, match="full"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ValueError, match="something else"), disk_errors(tmp_path):
        raise ValueError("something else")

"""Cameras written, and read again by jaxnerf and by COLMAP."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from ball_run import ball_run
from colmap_factory import write_project
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scene_factory import write_scene
from scipy.spatial.transform import Rotation

from jaxnerf.cameras import Camera
from jaxnerf.cameras.lenses import COEFFICIENTS
from jaxnerf.config import override
from jaxnerf.exports.cameras import at_full_size, export, write_colmap, write_transforms
from jaxnerf.runs.files import RunError
from jaxnerf.runs.scene import read_scene, scene_to_json
from jaxnerf.scenes import Scene, SceneError, Similarity, Split, load_scene

ALL = ("train", "test")
# Coefficients that each format has, of each lens that it has.
TRANSFORMS = {"pinhole": 0, "opencv": 6, "fisheye": 4}
COLMAP = {
    "pinhole": [],
    "opencv": ["k1", "k2", "p1", "p2", "k3", "q1", "q2", "q3"],
    "fisheye": ["k1", "k2", "p1", "p2", "k3", "k4", "s1", "s3"],
    "fisheye624": [*COEFFICIENTS["fisheye"][:8], "s1", "s2", "s3", "s4"],
    "fov": ["omega"],
    "division": ["k"],
    "eucm": ["alpha", "beta"],
    "equirectangular": [],
}


def scene_of(folder: Path, lens: str, names: list[str], seed: int) -> Scene:
    """Random cameras with blank photographs, in a frame far from the user's."""
    rng = np.random.default_rng(seed)
    count, size = 7, (24, 20)
    rotation = Rotation.random(count, rng=rng).as_matrix()
    poses = np.concatenate([rotation, rng.uniform(-1.0, 1.0, (count, 3, 1))], axis=-1)
    distortion = np.zeros((count, max(6, len(COEFFICIENTS[lens]))))
    for name in names:
        distortion[:, COEFFICIENTS[lens].index(name)] = rng.uniform(0.01, 0.2, count)
    focal, centre = rng.uniform(20.0, 30.0, (count, 2)), rng.uniform(8.0, 12.0, (count, 2))
    if lens == "equirectangular":
        focal[:], centre[:] = (24.0 / math.tau, 20.0 / math.pi), (12.0, 10.0)
    cameras = Camera(
        *(part.astype(np.float32) for part in (poses, focal, centre, distortion)),
        size=np.broadcast_to(np.array(size, np.int32), (count, 2)),
        lens=lens,
    )
    to_user = Similarity(
        float(rng.uniform(0.01, 100.0)),
        Rotation.random(rng=rng).as_matrix(),
        rng.uniform(-1e4, 1e4, 3),
    )
    files = tuple(f"images/view_{index}.png" for index in range(count))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for file in files:
        Image.new("RGB", size).save(folder / file)
    splits = {
        "train": Split(files[1:6], cameras[1:6]),
        "test": Split((files[0], files[6]), cameras[np.array([0, 6])]),
    }
    return Scene("random", folder, "made up", splits, 0.1, 10.0, to_user, points=poses[:, :, 3])


def by_name(scene: Scene) -> dict[str, tuple]:
    """Of each photograph, by its name without folders: pose in the user's frame, and intrinsics."""
    found = {}
    for split in scene.splits.values():
        cameras = split.cameras
        poses = scene.to_user.poses(np.asarray(cameras.camera_to_world, np.float64))
        parts = zip(cameras.focal, cameras.centre, cameras.distortion, cameras.size, strict=True)
        for name, pose, part in zip(split.names, poses, parts, strict=True):
            found[Path(name).name] = (pose, *(np.asarray(values, np.float64) for values in part))
    return found


def assert_same(ours: Scene, again: Scene) -> None:
    first, second = by_name(ours), by_name(again)
    assert first.keys() == second.keys()
    places = np.stack([view[0][:, 3] for view in first.values()])
    size = np.linalg.norm(places - places.mean(axis=0), axis=-1).max()
    for name, (pose, *rest) in first.items():
        there, *others = second[name]
        np.testing.assert_allclose(there[:, :3], pose[:, :3], rtol=0.0, atol=1e-6)
        np.testing.assert_allclose(there[:, 3], pose[:, 3], rtol=0.0, atol=1e-6 * size)
        for one, other in zip(rest, others, strict=True):
            length = max(len(one), len(other))
            one, other = (np.pad(values, (0, length - len(values))) for values in (one, other))
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=0.0)
    kinds = [next(iter(scene.splits.values())).cameras.lens for scene in (ours, again)]
    assert kinds[0] == kinds[1]


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(sorted(TRANSFORMS)), st.integers(0, 2**32 - 1))
def test_transforms_bring_back_cameras_and_splits(lens, seed):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = scene_of(folder, lens, list(COEFFICIENTS[lens][: TRANSFORMS[lens]]), seed)
        write_transforms(ours, folder)
        again = load_scene(folder)
    assert again.format == "nerfstudio"
    assert {k: set(v.names) for k, v in again.splits.items()} == {
        k: set(v.names) for k, v in ours.splits.items()
    }
    assert_same(ours, again)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(COLMAP)), st.integers(0, 2**32 - 1))
def test_colmap_models_bring_back_cameras_and_points(lens, seed):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = scene_of(folder, lens, COLMAP[lens], seed)
        write_colmap(ours, folder)
        again = load_scene(folder)
    assert again.format == "colmap"
    assert_same(ours, again)
    there = again.to_user.points(again.points)
    where = ours.to_user.points(ours.points)
    np.testing.assert_allclose(there, where, rtol=0.0, atol=1e-6 * ours.to_user.scale)


@pytest.mark.parametrize("lens", sorted(COLMAP))
def test_colmap_itself_reads_the_model_and_sees_points_where_we_do(tmp_path, lens):
    pycolmap = pytest.importorskip("pycolmap")
    ours = scene_of(tmp_path, lens, COLMAP[lens], seed=3)
    write_colmap(ours, tmp_path / "model")
    theirs = pycolmap.Reconstruction(str(tmp_path / "model"))
    known = by_name(ours)
    assert sorted(image.name for image in theirs.images.values()) == sorted(known)
    scale = ours.to_user.scale
    for image in theirs.images.values():
        pose, focal, *_ = known[image.name]
        matrix = image.cam_from_world().inverse().matrix() * [1.0, -1.0, -1.0, 1.0]
        np.testing.assert_allclose(matrix[:, :3], pose[:, :3], atol=1e-6)
        np.testing.assert_allclose(matrix[:, 3], pose[:, 3], rtol=0.0, atol=1e-6 * scale)
        if lens != "equirectangular":
            camera = theirs.cameras[image.camera_id]
            found = (camera.focal_length_x, camera.focal_length_y)
            np.testing.assert_allclose(found, focal, rtol=1e-6)
    assert theirs.num_points3D() == len(ours.points)


@pytest.mark.parametrize("where", ["images", "input", "."])
def test_names_of_colmap_projects_become_paths_within_the_folder(tmp_path, where):
    project = write_project(tmp_path / "balls")
    for photograph in (project / "images").iterdir() if where != "images" else ():
        (project / where).mkdir(exist_ok=True)
        photograph.rename(project / where / photograph.name)
    scene = load_scene(project)
    (tmp_path / "scene.json").write_text(json.dumps(scene_to_json(scene)))
    for number, ours in enumerate((scene, read_scene(tmp_path))):
        written = json.loads(write_transforms(ours, tmp_path / f"out{number}").read_text())
        assert all((project / frame["file_path"]).exists() for frame in written["frames"])
        write_colmap(ours, tmp_path / f"model{number}")
        theirs = (tmp_path / f"model{number}/images.txt").read_text()
        assert (" input/view_0.png\n" if where == "input" else " view_0.png\n") in theirs


def test_cameras_of_shrunk_copies_name_the_photographs(tmp_path):
    project = write_project(tmp_path / "balls", 48, 40)
    (project / "images_2").mkdir()
    for photograph in (project / "images").iterdir():
        with Image.open(photograph) as image:
            smaller = image.convert("RGB").resize((24, 20))
        smaller.save(project / "images_2" / f"{photograph.stem}.jpg")
    ours = load_scene(project, downscale=2)
    assert ours.splits["train"].cameras.size[0].tolist() == [24, 20]
    written = json.loads(write_transforms(ours, tmp_path / "out").read_text())
    assert all((project / frame["file_path"]).exists() for frame in written["frames"])


def test_photographs_under_other_names_than_the_model_has_are_found_by_exported_cameras(tmp_path):
    project = write_project(tmp_path / "balls")
    model = project / "sparse/0/images.txt"
    model.write_text(model.read_text().replace(" view_", " images/view_").replace(".png", ".jpg"))
    written = json.loads(write_transforms(load_scene(project), tmp_path / "out").read_text())
    assert all((project / frame["file_path"]).exists() for frame in written["frames"])


def test_blender_scenes_keep_their_three_splits(tmp_path):
    ours = load_scene(write_scene(tmp_path / "balls"))
    write_transforms(ours, tmp_path / "balls")
    for name in ("train", "val", "test"):
        (tmp_path / f"balls/transforms_{name}.json").unlink()
    again = load_scene(tmp_path / "balls")
    assert {k: set(v.names) for k, v in again.splits.items()} == {
        k: set(v.names) for k, v in ours.splits.items()
    }


def test_alike_intrinsics_are_said_once(tmp_path):
    ours = load_scene(write_scene(tmp_path / "balls"))
    write_colmap(ours, tmp_path / "model")
    lines = (tmp_path / "model/cameras.txt").read_text().splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [["1", "SIMPLE_PINHOLE", "16", "16"]]
    written = json.loads(write_transforms(ours, tmp_path / "out").read_text())
    assert "fl_x" in written
    assert all("fl_x" not in frame for frame in written["frames"])


@pytest.mark.parametrize("lens", ["fov", "division", "eucm", "equirectangular", "fisheye624"])
def test_lenses_that_transforms_do_not_have_are_refused(tmp_path, lens):
    with pytest.raises(SceneError, match=rf"transforms\.json has no {lens} lens"):
        write_transforms(scene_of(tmp_path, lens, [], 0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_coefficients_that_a_format_does_not_have_are_refused_by_name(tmp_path):
    ours = scene_of(tmp_path, "opencv", ["k1", "k4", "q1"], 0)
    with pytest.raises(SceneError, match="opencv lens with q1"):
        write_transforms(ours, tmp_path / "out")
    with pytest.raises(SceneError, match="no model for this opencv lens"):
        write_colmap(ours, tmp_path / "out")


def test_names_that_colmap_would_cut_short_are_refused(tmp_path):
    ours = scene_of(tmp_path, "pinhole", [], 0)
    splits = {**ours.splits, "test": dataclasses.replace(ours.splits["test"], names=("a b", "c"))}
    with pytest.raises(SceneError, match="a b: COLMAP's text models"):
        write_colmap(dataclasses.replace(ours, splits=splits), tmp_path / "out")


def test_nothing_is_written_over(tmp_path):
    ours = load_scene(write_scene(tmp_path / "balls"))
    for write in (write_transforms, write_colmap):
        write(ours, tmp_path / "out")
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        with pytest.raises(RunError, match="is there already"):
            write(ours, tmp_path / "out")
        assert before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("downscale", [1, 3, 4])
def test_cameras_are_exported_at_the_size_of_the_photographs_files(downscale, tmp_path):
    """47 x 33 pixels, of which shrinking cuts off a remainder on both sides."""
    whole = scene_of(tmp_path, "opencv", [], seed=1)
    splits = {}
    for key, split in whole.splits.items():
        for name in split.names:
            Image.new("RGB", (47, 33)).save(tmp_path / name)
        size = np.tile(np.array([47, 33], np.int32), (len(split), 1))
        cameras = dataclasses.replace(split.cameras, size=size)
        splits[key] = dataclasses.replace(split, cameras=cameras)
    write_transforms(dataclasses.replace(whole, splits=splits), tmp_path)
    assert_same(load_scene(tmp_path), at_full_size(load_scene(tmp_path, downscale=downscale)))
    shrunk = load_scene(tmp_path, downscale=downscale)
    (tmp_path / "images/view_3.png").unlink()
    assert at_full_size(shrunk) is None


def test_pixels_that_were_looked_at_through_their_corners_are_exported_as_others_are(tmp_path):
    run = ball_run(count=6)
    export(run, tmp_path / "centre" / "transforms.json")
    train = run.scene.splits["train"]
    shifted = dataclasses.replace(train, cameras=train.cameras.through_corners())
    scene = dataclasses.replace(run.scene, splits={**run.scene.splits, "train": shifted})
    config = override(run.config, {"scene.pixels": "corner"})
    export(
        dataclasses.replace(run, scene=scene, config=config), tmp_path / "corner/transforms.json"
    )
    centre, corner = (tmp_path / name / "transforms.json" for name in ("centre", "corner"))
    assert json.loads(corner.read_text()) == json.loads(centre.read_text())

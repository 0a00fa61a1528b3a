"""How near and far things are found to be, and the points of PLY files that say it."""

from pathlib import Path

import numpy as np
import pytest
from capture_factory import around, poses_of, random_similarity, write_nerfstudio, write_transforms
from scene_factory import edit_json, write_scene

from jaxnerf.cli.messages import disagreement
from jaxnerf.scenes import SceneError, describe, load_scene
from jaxnerf.scenes.depths import bounds_of_cameras, bounds_of_depths, depths_in_view
from jaxnerf.scenes.frames import look_outwards, looked_at
from jaxnerf.scenes.images import Picture
from jaxnerf.scenes.ply import read_points
from jaxnerf.scenes.views import View

COLOURED = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("nx", "<f8"), ("red", "u1"), ("green", "u1")]
)
NAMES = {"<f4": "float", "<f8": "double", "u1": "uchar", "|u1": "uint8", ">f4": "float32"}


def ply(
    path: Path, points: np.ndarray, kind: str = "binary_little_endian", count: int | None = None
):
    """A PLY file with more to each vertex than its position, and faces after the vertices."""
    rows = np.zeros(len(points), COLOURED)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    rows["red"] = 7
    header = [
        "ply", f"format {kind} 1.0", "comment made by a test",
        f"element vertex {len(points) if count is None else count}",
        "property float x", "property float y", "property float z", "property double nx",
        "property uchar red", "property uint8 green",
        "element face 1", "property list uchar int vertex_indices", "end_header",
    ]  # fmt: skip
    if kind == "ascii":
        lines = [" ".join(f"{value:.9g}" for value in row) for row in rows.tolist()]
        body = ("\n".join([*lines, "3 0 1 2"]) + "\n").encode()
    else:
        order = COLOURED if "little" in kind else COLOURED.newbyteorder(">")
        body = rows.astype(order).tobytes() + b"\3" + bytes(12)
    path.write_bytes("\n".join(header).encode() + b"\n" + body)
    return path


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_the_positions_of_a_ply_file_are_read(kind, tmp_path):
    points = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    found = read_points(ply(tmp_path / "p.ply", points, kind))
    np.testing.assert_array_equal(found.astype(np.float32), points)
    assert read_points(ply(tmp_path / "none.ply", points[:0], kind)).shape == (0, 3)
    bad = points.copy()
    bad[3, 1], bad[5, 0], bad[6, 2] = np.nan, np.inf, 1e20
    expected = np.delete(points, [3, 5, 6], axis=0)
    found = read_points(ply(tmp_path / "b.ply", bad, kind))
    np.testing.assert_array_equal(found.astype(np.float32), expected)


HEADER = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
WRONG = {
    "no PLY file": (b"PNG\n", "not a PLY file"),
    "empty": (b"", "not a PLY file"),
    "a header without an end": (b"ply\n" + b"comment\n" * 10_000, "not a PLY file"),
    "one endless line": (b"ply\n" + b"a" * 100_000, "not a PLY file"),
    "no z": ((HEADER + "end_header\n1 2\n3 4\n").encode(), "no vertices with x, y and z"),
    "x twice": (
        (HEADER + "property float z\nproperty int x\nend_header\n").encode(),
        "no vertices with",
    ),
    "a list": (
        (HEADER + "property list uchar int z\nend_header\n").encode(),
        "property 'list uchar int z' is not read",
    ),
    "faces first": (HEADER.replace("vertex", "face").encode() + b"end_header\n", "'face' before"),
    "no format": (HEADER.replace("ascii", "text").encode() + b"end_header\n", "no vertices with"),
    "text": (
        (HEADER + "property float z\nend_header\n1 2 3\n4 5 six\n").encode(),
        "a vertex is wrong",
    ),
    "a row too short": (
        (HEADER + "property float z\nend_header\n1 2 3\n4 5  \n").encode(),
        "a vertex is wrong",
    ),
    "a row too few": (
        (HEADER + "property float z\nend_header\n1.00 2.00 3.00\n").encode(),
        "is cut off",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_ply_files_are_refused_by_name(case, tmp_path):
    contents, message = WRONG[case]
    (tmp_path / "p.ply").write_bytes(contents)
    with pytest.raises(SceneError, match=f"p.ply: .*{message}") as caught:
        read_points(tmp_path / "p.ply")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_no_memory_is_taken_for_vertices_that_are_not_there(kind, tmp_path):
    path = ply(tmp_path / "p.ply", np.zeros((4, 3)), kind, count=10**12 - 1)
    with pytest.raises(SceneError, match="999999999999 vertices do not fit"):
        read_points(path)


@pytest.mark.parametrize("seed", range(3))
def test_points_of_a_capture_say_how_near_and_far_things_are(seed, tmp_path):
    """Depths by hand, in the frame of the files; the points are in the frame of the poses."""
    similarity = random_similarity(seed)
    folder = write_nerfstudio(tmp_path / "s", around(), similarity, ply_file_path="points.ply")
    random = np.random.default_rng(seed)
    points = similarity.points(0.8 * random.uniform(-1.0, 1.0, (3000, 3))).astype(np.float32)
    ply(folder / "points.ply", points)
    scene = load_scene(folder, images=())
    assert scene.points is not None
    known = np.arange(3000) % 10 > 0  # the others are kept out of training
    np.testing.assert_allclose(
        scene.to_user.points(scene.points), points[known], atol=1e-5 * np.abs(points).max()
    )
    poses = poses_of(around(), similarity)
    depths = np.concatenate([-(points - pose[:, 3]) @ pose[:, 2] for pose in poses])
    near, far = np.array([scene.near, scene.far]) * scene.to_user.scale
    np.testing.assert_allclose(near, np.percentile(depths, 0.1) / 1.25, rtol=0.02)
    np.testing.assert_allclose(far, np.percentile(depths, 99.9) * 1.25, rtol=0.02)


def test_points_that_stray_do_not_rule(tmp_path):
    folder = write_nerfstudio(tmp_path / "s", ply_file_path="points.ply")
    random = np.random.default_rng(0)
    points = random.uniform(-0.8, 0.8, (5000, 3))
    ply(folder / "points.ply", points)
    plain = load_scene(folder, images=())
    pose = poses_of(around())[0]
    points[7] = pose[:, 3] - 1e-3 * pose[:, 2]  # before a lens
    points[1234] = pose[:, 3] - 1e5 * pose[:, 2]
    ply(folder / "points.ply", points)
    strayed = load_scene(folder, images=())
    np.testing.assert_allclose([strayed.near, strayed.far], [plain.near, plain.far], rtol=0.02)


def test_points_that_are_of_no_use_are_said_not_to_be(tmp_path):
    folder = write_nerfstudio(tmp_path / "s", ply_file_path="points.ply")
    plain = load_scene(folder, images=())
    assert plain.points is None
    assert "ply_file_path points.ply is not there" in describe(plain)
    ply(folder / "points.ply", np.full((100, 3), 50.0) + np.arange(100)[:, None])
    elsewhere = load_scene(folder, images=())
    assert (elsewhere.points, elsewhere.near, elsewhere.far) == (None, plain.near, plain.far)
    assert "the points of points.ply are not what the cameras see: not used" in describe(elsewhere)
    (folder / "points.ply").write_bytes(b"ply\n")
    with pytest.raises(SceneError, match=r"points.ply: not a PLY file"):
        load_scene(folder)
    for value, message in (
        (3, "ply_file_path must be the name"),
        ("../p.ply", "leaves the folder"),
    ):
        edit_json(folder / "transforms.json", lambda c, value=value: c.update(ply_file_path=value))
        with pytest.raises(SceneError, match=message):
            load_scene(folder)


@pytest.mark.parametrize("writer", [write_transforms, write_nerfstudio])
def test_near_and_far_of_a_capture_may_stand_in_its_file(writer, tmp_path):
    similarity = random_similarity(1)
    folder = writer(tmp_path / "s", around(), similarity)
    found = load_scene(folder, images=())
    near, far = 0.5 * similarity.scale, 30.0 * similarity.scale
    edit_json(folder / "transforms.json", lambda c: c.update(near=near))
    scene = load_scene(folder, images=())
    np.testing.assert_allclose(scene.near * scene.to_user.scale, near, rtol=1e-9)
    assert scene.far == found.far
    edit_json(folder / "transforms.json", lambda c: c.update(far=far))
    scene = load_scene(folder, images=())
    np.testing.assert_allclose(scene.far * scene.to_user.scale, far, rtol=1e-9)
    edit_json(folder / "transforms.json", lambda c: c.update(near=2 * far))
    with pytest.raises(SceneError, match=r"transforms.json: near .* and far .* are not 0 <= near"):
        load_scene(folder)


def test_depths_are_those_of_points_in_the_picture_by_a_loop():
    random = np.random.default_rng(4)
    views = []
    for index, pose in enumerate(poses_of(around(5))):
        size = (20, 16) if index % 2 else (12, 30)
        lens = "fisheye" if index == 4 else "pinhole"
        picture = Picture(Path(f"{index}.png"), size)
        views.append(View(str(index), picture, pose, (25.0, 22.0), (9.0, 11.0), (), lens))
    points = random.uniform(-5.0, 5.0, (300, 3))
    expected = []
    for view in views:
        for point in points:
            right, up, back = view.pose[:, :3].T @ (point - view.pose[:, 3])
            if view.lens == "fisheye":
                distance = np.linalg.norm([right, up, back])
                if -back > 0.7 * distance:
                    expected.append(distance)
            elif back < 0.0:
                column, row = 9.0 - 25.0 * right / back, 11.0 + 22.0 * up / back
                if 0.0 <= column < view.picture.size[0] and 0.0 <= row < view.picture.size[1]:
                    expected.append(-back)
    found = depths_in_view(points, views)
    assert len(expected) > 50
    np.testing.assert_allclose(found, expected)


def test_bounds_leave_out_what_is_behind_and_what_strays():
    depths = np.concatenate([np.linspace(2.0, 4.0, 100_001), [-3.0, 0.0, 1e-6, 1e9]])
    near, far = bounds_of_depths(depths)
    np.testing.assert_allclose([near, far], [2.002 / 1.25, 3.998 * 1.25], rtol=1e-4)
    assert bounds_of_depths(np.array([-1.0, 0.0])) is None
    assert bounds_of_depths(np.zeros(0)) is None


def test_bounds_of_cameras_hold_half_their_distance_around_what_they_look_at():
    assert bounds_of_cameras(poses_of(around(20))) == (2.0, 6.0)
    moved = poses_of(around(20), random_similarity(2))
    np.testing.assert_allclose(
        bounds_of_cameras(moved), np.array([2.0, 6.0]) * random_similarity(2).scale, rtol=1e-3
    )
    places = around(200) * np.linspace(0.9, 1.1, 200)[:, None]
    places[11] *= 50.0  # one that is far away
    near, far = bounds_of_cameras(poses_of(places))
    np.testing.assert_allclose([near, far], [1.6, 6.4], atol=0.05)
    places = around(50) * np.linspace(0.2, 2.0, 50)[:, None]
    assert bounds_of_cameras(poses_of(places))[0] > 0.0


def test_where_cameras_look():
    poses = poses_of(around(9))
    np.testing.assert_allclose(looked_at(poses), np.zeros(3), atol=1e-5)
    assert not look_outwards(poses)
    away = poses.copy()
    away[:, :, 3] *= -1.0
    assert looked_at(away) is None
    assert look_outwards(away)
    alike = np.repeat(poses[:1], 5, axis=0)
    alike[:, :, 3] += np.arange(5)[:, None] * poses[0, :, 0]
    assert looked_at(alike) is None
    assert not look_outwards(alike)
    assert bounds_of_cameras(alike) is None


def test_train_says_that_test_views_are_far_worse_than_what_was_trained_on():
    rows = [{"step": step, "psnr": 10.0 + step / 10.0} for step in range(171)]
    assert [disagreement(psnr, rows) for psnr in (29.0, 22.0, 19.0)] == [""] * 3
    said = disagreement(11.0, rows)
    assert said.startswith("test views come out at 11.0 dB, what was trained on at 26.6")
    assert "jaxnerf check" in said
    assert disagreement(18.0, rows)
    assert disagreement(11.0, []) == ""


@pytest.mark.parametrize(("times", "bounds"), [(4.0311 / 4, (2.0, 6.0)), (10.0, (20.0, 60.0))])
def test_published_scenes_keep_their_bounds_and_others_have_those_of_their_cameras(
    tmp_path, times, bounds
):
    """The cameras of the published scenes stand at 4.03, and their protocol is 2 to 6."""
    folder = write_scene(tmp_path / "scene")

    def move(contents):
        for frame in contents["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] *= times

    for split in ("train", "val", "test"):
        edit_json(folder / f"transforms_{split}.json", move)
    scene = load_scene(folder)
    assert (scene.near, scene.far) == pytest.approx(bounds, rel=1e-3 if times > 2 else 1e-9)


def test_near_0_of_a_capture_says_nothing(tmp_path):
    folder = write_transforms(tmp_path / "scene", around(9))
    found = load_scene(folder, images=())
    edit_json(folder / "transforms.json", lambda contents: contents.update(near=0.0))
    scene = load_scene(folder, images=())
    assert scene.near == found.near > 0.0
    assert "near 0 is not used" in scene.notes

"""Structure from motion: painted views in, a scene's folder out, whose cameras are the painter's."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import jax.numpy as jnp
import numpy as np
import pycolmap
import pytest
from painted_views import FOCAL, HEIGHT, WIDTH, arc, paint, poses, textures, write_views
from PIL import Image, ImageFilter
from scene_factory import command_environment  # noqa: F401

from jaxnerf.cameras import Camera, project
from jaxnerf.capture.frames import extract_sharp_frames
from jaxnerf.capture.process import process
from jaxnerf.capture.structure_from_motion import Settings, reconstruct
from jaxnerf.cli import main
from jaxnerf.scenes import SceneError

VIEWS = poses(arc(9))


@pytest.fixture(scope="module")
def views(tmp_path_factory) -> Path:
    return write_views(tmp_path_factory.mktemp("process") / "views", VIEWS)


@pytest.fixture(scope="module")
def scene(views) -> Path:
    out = views.parent / "scene"
    assert main(["process", f"--images={views}", f"--out={out}"]) == 0
    return out


def transforms(folder: Path) -> dict:
    return json.loads((folder / "transforms.json").read_text())


def poses_of(folder: Path) -> np.ndarray:
    return np.array([frame["transform_matrix"] for frame in transforms(folder)["frames"]])


def aligned(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors after the best similarity (Umeyama, 1991) between two sets of poses [N, 3 or 4, 4].

    Returns:
      Distances of positions in units of the farthest true camera's from their mean; angles in degrees;
      the similarity's [scale * rotation | translation], from found to true.
    """
    one, other = found[:, :3, 3], true[:, :3, 3]
    a, b = one - one.mean(0), other - other.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u * signs @ vt
    scale = (s * signs).sum() / (a**2).sum()
    shift = other.mean(0) - scale * rotation @ one.mean(0)
    distance = np.linalg.norm(scale * one @ rotation.T + shift - other, axis=-1)
    turn = np.swapaxes(true[:, :3, :3], 1, 2) @ rotation @ found[:, :3, :3]
    cosine = np.clip((np.trace(turn, axis1=1, axis2=2) - 1.0) / 2.0, -1.0, 1.0)
    return (
        distance / np.linalg.norm(b, axis=-1).max(),
        np.degrees(np.arccos(cosine)),
        np.concatenate([scale * rotation, shift[:, None]], axis=-1),
    )


def check_cameras(
    folder: Path, true: np.ndarray, furthest: float = 0.01, degrees: float = 0.5
) -> None:
    distance, angle, _ = aligned(poses_of(folder), true)
    assert distance.max() < furthest
    assert angle.max() < degrees


def check_lens(folder: Path) -> None:
    """What transforms.json says of each lens is what COLMAP's own model of it does."""
    contents = transforms(folder)
    model = pycolmap.Reconstruction(folder / "sparse/0")
    kind = "fisheye" if contents["is_fisheye"] else "opencv"
    assert contents["camera_model"] == ("OPENCV_FISHEYE" if kind == "fisheye" else "OPENCV")
    points = np.random.default_rng(0).uniform([-0.3, -0.2, 1.0], [0.3, 0.2, 1.0], (50, 3))
    for frame in contents["frames"]:
        values = contents | frame
        names = ("k1", "k2", "k3", "k4", "p1", "p2")
        camera = Camera(
            np.eye(4)[:3].astype(np.float32),
            np.float32([values["fl_x"], values["fl_y"]]),
            np.float32([values["cx"], values["cy"]]),
            np.float32([values.get(name, 0.0) for name in names]),
            np.int32([values["w"], values["h"]]),
            lens=kind,
        )
        seen, _ = project(camera, jnp.asarray(points * [1.0, -1.0, -1.0], jnp.float32))
        image = model.find_image_with_name(Path(frame["file_path"]).name)
        np.testing.assert_allclose(seen, image.camera.img_from_cam(points), atol=1e-3)
        assert (image.camera.width, image.camera.height) == (values["w"], values["h"])


def test_the_cameras_are_those_that_painted(scene):
    check_cameras(scene, VIEWS)
    check_lens(scene)
    contents = transforms(scene)
    assert (contents["w"], contents["h"]) == (WIDTH, HEIGHT)
    np.testing.assert_allclose([contents["fl_x"], contents["fl_y"]], FOCAL, rtol=0.02)
    np.testing.assert_allclose([contents["cx"], contents["cy"]], [WIDTH / 2, HEIGHT / 2], atol=3)
    names = [frame["file_path"] for frame in contents["frames"]]
    assert names == [f"images/{index:02d}.png" for index in range(9)]


def test_the_folder_needs_nothing_else(scene, views):
    assert sorted(os.listdir(scene)) == ["images", "sparse", "sparse_pc.ply", "transforms.json"]
    assert transforms(scene)["ply_file_path"] == "sparse_pc.ply"
    for photograph in views.iterdir():
        assert (scene / "images" / photograph.name).read_bytes() == photograph.read_bytes()


def test_the_frame_looks_at_the_origin_upright_with_the_farthest_camera_at_one(scene):
    found = poses_of(scene)
    assert np.linalg.norm(found[:, :3, 3], axis=-1).max() == pytest.approx(1.0)
    up = found[:, :3, 1].mean(0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0.0, 0.0, 1.0], atol=1e-6)
    # The painter's cameras look at its origin, which comes to this one's.
    _, _, to_true = aligned(found, VIEWS)
    assert np.linalg.norm(to_true[:, 3]) < 0.01 * 4.0


def test_model_and_points_are_in_the_frame_of_the_cameras(scene):
    model = pycolmap.Reconstruction(scene / "sparse/0")
    assert model.num_reg_images() == 9
    points = np.stack([point.xyz for point in model.points3D.values()])
    for frame in transforms(scene)["frames"]:
        pose = np.array(frame["transform_matrix"])
        image = model.find_image_with_name(Path(frame["file_path"]).name)
        np.testing.assert_allclose(pose[:3, 3], image.projection_center(), atol=1e-9)
        np.testing.assert_allclose(-pose[:3, 2], image.viewing_direction(), atol=1e-9)
        # OpenGL's axes: right and up in the camera are right and up in the picture.
        for axis, moves in ((0, [1.0, 0.0]), (1, [0.0, -1.0])):
            middle = pose[:3, 3] - 2.0 * pose[:3, 2]
            step = image.project_point(middle + 0.1 * pose[:3, axis]) - image.project_point(middle)
            assert step @ moves > 0.99 * np.linalg.norm(step) > 0.0
    header, _, body = (scene / "sparse_pc.ply").read_bytes().partition(b"end_header\n")
    assert b"format binary_little_endian" in header
    kind = [(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in "rgb"]
    stored = np.frombuffer(body, kind)
    listed = np.stack([stored[axis] for axis in "xyz"], axis=-1)
    np.testing.assert_allclose(np.sort(listed, axis=0), np.sort(points, axis=0), atol=1e-6)


def test_the_sparse_points_lie_on_what_was_painted(scene):
    _, _, to_true = aligned(poses_of(scene), VIEWS)
    model = pycolmap.Reconstruction(scene / "sparse/0")
    points = np.stack([point.xyz for point in model.points3D.values()])
    x, y, z = (points @ to_true[:, :3].T + to_true[:, 3]).T
    outside = np.stack([np.abs(x) - 0.5, np.abs(y) - 0.5, np.abs(z - 0.4) - 0.4])
    to_box = np.hypot(
        np.linalg.norm(np.maximum(outside, 0.0), axis=0), np.minimum(outside.max(0), 0)
    )
    assert np.quantile(np.minimum(to_box, np.abs(z)), 0.9) < 0.03


def test_doing_it_again_replaces_the_folder_by_the_same(scene, views, tmp_path):
    """But for the last digits: it counts in which order COLMAP's threads add numbers up."""
    again = Path(shutil.copytree(scene, tmp_path / "again"))
    (again / "images/stale.png").write_text("of another capture")
    (again / "transforms.json").write_text("{}")
    assert main(["process", f"--images={views}", f"--out={again}", "--overwrite"]) == 0
    np.testing.assert_allclose(poses_of(again), poses_of(scene), atol=2e-3)
    assert sorted(os.listdir(again)) == sorted(os.listdir(scene))
    assert sorted(os.listdir(again / "images")) == sorted(os.listdir(scene / "images"))


def test_a_fisheye_lens(tmp_path):
    near = poses(0.5 * arc(9))
    write_views(tmp_path / "in", near, fisheye=150.0)  # 122 degrees from left to right
    command = ["process", f"--images={tmp_path}/in", f"--out={tmp_path}/out"]
    assert main([*command, "--camera_model=OPENCV_FISHEYE"]) == 0
    check_lens(tmp_path / "out")
    check_cameras(tmp_path / "out", near)
    contents = transforms(tmp_path / "out")
    np.testing.assert_allclose([contents["fl_x"], contents["fl_y"]], 150.0, rtol=0.02)


def test_photographs_as_phones_leave_them(views, tmp_path, capsys):
    """Held on the side, with spaces in their names, of two sizes, and with other files among them."""
    (tmp_path / "in/raw").mkdir(parents=True)
    (tmp_path / "in/.hidden.jpg").write_text("not a photograph")
    (tmp_path / "in/notes.txt").write_text("Tuesday")
    on_its_side = Image.Exif()
    on_its_side[0x0112] = 6  # to be turned to the right by a quarter
    for index in range(9):
        with Image.open(views / f"{index:02d}.png") as image:
            if index % 2:
                image = image.crop((10, 0, WIDTH - 10, HEIGHT))
            image = image.transpose(Image.Transpose.ROTATE_90)
            image.save(tmp_path / f"in/IMG {index}.JPG", quality=95, exif=on_its_side)
    command = ["process", f"--images={tmp_path}/in", f"--out={tmp_path}/out"]
    assert main([*command, "--camera_model=RADIAL"]) == 0
    assert f"9 photographs in {tmp_path}/in; left alone: notes.txt\n" in capsys.readouterr().out
    frames = transforms(tmp_path / "out")["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/IMG_{n}.JPG" for n in range(9)]
    check_cameras(tmp_path / "out", VIEWS)
    check_lens(tmp_path / "out")
    for index, frame in enumerate(frames):
        size = (WIDTH - 20 * (index % 2), HEIGHT)
        assert (frame["w"], frame["h"]) == size
        with Image.open(tmp_path / "out" / frame["file_path"]) as image:
            assert image.size == size
            assert 0x0112 not in image.getexif()
    assert len({frame["fl_x"] for frame in frames}) == 2


def test_each_photograph_may_have_a_camera_of_its_own(views, tmp_path):
    command = ["process", f"--images={views}", f"--out={tmp_path}", "--cameras=per_image"]
    assert main([*command, "--camera_model=PINHOLE"]) == 0
    frames = transforms(tmp_path)["frames"]
    assert len({frame["fl_x"] for frame in frames}) == len(frames) == 9
    assert "fl_x" not in transforms(tmp_path)
    check_lens(tmp_path)
    check_cameras(tmp_path, VIEWS, 0.03, 2.0)  # nine lenses more are to be found from as much


@pytest.mark.slow
def test_what_was_not_registered_is_listed_and_few_are_warned_of(views, tmp_path, capfd):
    """Six photographs are of another place, and one is of nothing."""
    folder = Path(shutil.copytree(views, tmp_path / "in"))
    elsewhere = textures(seed=1)
    for index, pose in enumerate(VIEWS[:6]):
        Image.fromarray(paint(pose, elsewhere)).save(folder / f"other{index}.png")
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(folder / "wall.png")
    assert main(["process", f"--images={folder}", f"--out={tmp_path}/out"]) == 0
    out, err = capfd.readouterr()
    assert "9 of 16 photographs registered" in out
    assert "hold 6 more" in out
    assert "not registered: other0.png, other1.png, " in out
    assert "wall.png" in out
    assert err.startswith("jaxnerf: warning: only 9 of 16 photographs")
    assert err.count("\n") == 1  # and nothing of COLMAP
    assert len(transforms(tmp_path / "out")["frames"]) == 9
    check_cameras(tmp_path / "out", VIEWS)


def test_colmap_says_more_only_when_asked(views, tmp_path, capfd):
    assert main(["process", f"--images={views}", f"--out={tmp_path}", "--verbose"]) == 0
    out, err = capfd.readouterr()
    assert "Registering image" in err
    for stage in ("photographs", "features", "matches", "cameras"):
        assert f"\n{stage}" in f"\n{out}"


@pytest.mark.parametrize("matching", ["exhaustive", "sequential"])
def test_pairs_are_matched_as_said(matching, tmp_path):
    """Counted in COLMAP's own database, against sets made one pair at a time."""
    count, random = 60, np.random.default_rng(0)
    sizes = {f"{index:03d}.png": (48, 32) for index in range(count)}
    (tmp_path / "images").mkdir()
    (tmp_path / "work").mkdir()
    for name in sizes:
        pixels = random.integers(0, 255, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 32)).save(tmp_path / "images" / name)
    settings = Settings(matching=matching)
    assert reconstruct(tmp_path / "images", sizes, tmp_path / "work", settings) == []
    database = sqlite3.connect(tmp_path / "work/database.db")
    rows = database.execute("SELECT pair_id FROM two_view_geometries").fetchall()
    names = dict(database.execute("SELECT image_id, name FROM images").fetchall())
    database.close()
    done = {
        tuple(sorted(names[image] for image in pycolmap.pair_id_to_image_pair(pair)))
        for (pair,) in rows
    }
    wanted = set()
    for one in range(count):
        for other in range(one + 1, count):
            step = other - one
            keys = one % 5 == 0 and other % 5 == 0
            if matching == "exhaustive" or step <= 10 or keys:
                wanted.add((f"{one:03d}.png", f"{other:03d}.png"))
    assert done == wanted


def write_video(path: Path, views: Path, turned: bool = False) -> list[int]:
    """Each view for three frames, of which one is sharp; returns which ones."""
    sharp, stills = [], path.parent / "stills"
    stills.mkdir()
    for index, view in enumerate(sorted(views.iterdir())):
        picture = Image.open(view)
        sharp.append(3 * index + index % 3)
        for frame in range(3 * index, 3 * index + 3):
            blurred = picture.filter(ImageFilter.GaussianBlur(1.5))
            (picture if frame == sharp[-1] else blurred).save(stills / f"{frame:02d}.png")
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    encode = ["-i", f"{stills}/%02d.png", "-c:v", "libx264", "-crf", "6", "-pix_fmt", "yuv420p"]
    subprocess.run([*ffmpeg, *encode, str(path)], check=True)
    if turned:
        upright = path.rename(path.with_stem("upright"))
        turn = ["-display_rotation", "90", "-i", str(upright), "-c", "copy", str(path)]
        subprocess.run([*ffmpeg, *turn], check=True)
    return sharp


def test_the_sharp_frames_of_a_video_are_taken(views, tmp_path):
    sharp = write_video(tmp_path / "a b.mp4", views)
    (tmp_path / "frames").mkdir()
    told = []
    names = extract_sharp_frames(
        tmp_path / "a b.mp4", tmp_path / "frames", 9, lambda *progress: told.append(progress)
    )
    assert names == [f"frame_{index:06d}.jpg" for index in sharp] == sorted(names)
    assert sorted(os.listdir(tmp_path / "frames")) == names
    assert told[26:28] == [("video", 27, 0), ("frames", 1, 9)]
    for name, index in zip(names, sharp, strict=True):
        frame = np.asarray(Image.open(tmp_path / "frames" / name), float)
        still = np.asarray(Image.open(tmp_path / f"stills/{index:02d}.png"), float)
        assert np.abs(frame - still).mean() < 10.0  # its chroma has half the resolution
    assert len(extract_sharp_frames(tmp_path / "a b.mp4", tmp_path / "frames", 99)) == 27


def test_a_video_held_upright_is_processed_upright(views, tmp_path):
    sharp = write_video(tmp_path / "phone.mp4", views, turned=True)
    command = ["process", f"--video={tmp_path}/phone.mp4", f"--out={tmp_path}/out", "--frames=9"]
    assert main(command) == 0
    contents = transforms(tmp_path / "out")
    assert (contents["w"], contents["h"]) == (HEIGHT, WIDTH)
    names = [frame["file_path"] for frame in contents["frames"]]
    assert names == [f"images/frame_{index:06d}.jpg" for index in sharp]
    # Turned to the left by a quarter: the painter's right is up, and its up is left.
    quarter = np.stack([-VIEWS[..., 1], VIEWS[..., 0], VIEWS[..., 2], VIEWS[..., 3]], axis=-1)
    check_cameras(tmp_path / "out", quarter)


@pytest.mark.parametrize("first", ["jax", "pycolmap"])
def test_jax_and_pycolmap_live_in_one_process(first, views, tmp_path):
    other = {"jax": "pycolmap", "pycolmap": "jax"}[first]
    code = f"""
import {first}, {other}
import jax.numpy as jnp
matrix = jnp.eye(200) + 1.0
before = jnp.linalg.slogdet(matrix @ matrix)[1]
pycolmap.logging.minloglevel = 3
pycolmap.extract_features("x.db", {str(views)!r}, device=pycolmap.Device.cpu)
with pycolmap.Database.open("x.db") as database:
    assert database.num_keypoints() > 1000
assert jnp.linalg.slogdet(matrix @ matrix)[1] == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.release
def test_fox(real_data, tmp_path, capsys):
    """At least 45 of the 50 photographs, and cameras near those that NVIDIA's COLMAP found."""
    assert main(["process", f"--images={real_data}/fox/images", f"--out={tmp_path}/fox"]) == 0
    given = {
        Path(frame["file_path"]).name: frame["transform_matrix"]
        for frame in transforms(real_data / "fox")["frames"]
    }
    contents = transforms(tmp_path / "fox")
    assert len(contents["frames"]) >= 45
    true = np.array([given[Path(frame["file_path"]).name] for frame in contents["frames"]])
    distance, angle, _ = aligned(poses_of(tmp_path / "fox"), true)
    with capsys.disabled():
        print(
            f"\nfox: {len(true)} of 50; positions {np.median(distance):.5f} of the capture's radius "
            f"(at most {distance.max():.5f}), directions {np.median(angle):.3f} degrees "
            f"(at most {angle.max():.3f})"
        )
    assert np.median(distance) < 2e-3
    assert np.median(angle) < 0.3
    known = transforms(real_data / "fox")
    for key, tolerance in (("fl_x", 5.0), ("fl_y", 5.0), ("cx", 6.0), ("cy", 6.0)):
        assert contents[key] == pytest.approx(known[key], abs=tolerance)


def test_an_unknown_error_of_colmap_is_one_line(views, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Check failed: x\nbacktrace")

    monkeypatch.setattr(pycolmap, "match_image_pairs", fail)
    with pytest.raises(SceneError, match="matches: COLMAP failed: Check failed: x; --verbose"):
        process(views, tmp_path / "out")
    assert not (tmp_path / "out").exists()

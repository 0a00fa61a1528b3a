"""`jaxnerf render VOLUME`: videos of scanners' volumes, and what is refused."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scene_factory import decode_video

from jaxnerf.cli import main
from jaxnerf.exports.scans import default_window, open_scan
from jaxnerf.scenes import SceneError

SIDE = 24


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    """A ball of 800 in noise around -1000, with voxels of 2 x 2 x 4 millimetres, off the origin."""
    axes = [np.arange(SIDE) * 2.0, np.arange(SIDE) * 2.0, np.arange(SIDE // 2) * 4.0]
    away = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - 23.0
    ball = np.linalg.norm(away, axis=-1) < 15.0
    noise = np.random.default_rng(0).normal(0.0, 20.0, ball.shape)
    values = np.where(ball, 800.0, -1000.0) + noise
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    affine[:3, 3] = (100.0, -50.0, 7.0)
    path = tmp_path_factory.mktemp("scan") / "head.nii.gz"
    nibabel.Nifti1Image(np.rint(values).astype(np.int16), affine).to_filename(path)
    return path


def rendered(head: Path, out: Path, *flags: str) -> np.ndarray:
    command = ["render", str(head), f"--out={out}", "--frames=2", "--width=20", *flags]
    assert main(command) == 0
    return np.stack([np.asarray(Image.open(file), float) for file in sorted(out.glob("*.png"))])


@pytest.mark.parametrize(
    ("how", "inside", "around"),
    [
        ("volume", (120, 255), (0, 0)),
        ("surface", (60, 255), (0, 0)),
        ("maximum", (230, 255), (0, 0)),
        ("mean", (20, 255), (0, 0)),
        ("attenuation", (0, 200), (255, 255)),
    ],
)
def test_each_way_shows_the_ball_in_the_middle(head, tmp_path, capsys, how, inside, around):
    pictures = rendered(head, tmp_path / "frames", f"--compositing={how}")
    assert pictures.shape == (2, 20, 20, 3)
    low, high = inside
    middle = pictures[:, 8:12, 8:12].mean(axis=(1, 2, 3))
    assert ((low <= middle) & (middle <= high)).all()
    corner = pictures[:, :2, :2]
    assert corner.min() == around[0]
    assert corner.max() == around[1]
    said = capsys.readouterr().out
    assert "head.nii.gz: 24 x 24 x 12 voxels of int16; in millimetres, right, anterior" in said
    assert "window " in said
    assert "(--window)" in said
    assert "up is (0.00, 0.00, 1.00)" in said


def test_a_video_and_what_stays_beside_it(head, tmp_path):
    out = tmp_path / "orbit.mp4"
    command = ["render", str(head), f"--out={out}", "--frames=3", "--width=16", "--window=0,700"]
    assert main([*command, "--opacity=0.9"]) == 0
    assert len(decode_video(out)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["orbit.mp4"]


def test_frames_of_another_way_or_window_are_told_apart(head, tmp_path, capsys):
    rendered(head, tmp_path / "f")
    again = ["render", str(head), f"--out={tmp_path / 'f'}", "--frames=2", "--width=20"]
    assert main(again) == 0
    assert "2 of 2 frames are there already" in capsys.readouterr().out
    for flag in ("--compositing=mean", "--window=1,500"):
        assert main([*again, flag]) == 1
        assert "holds frames of other settings" in capsys.readouterr().err


def test_depth_is_in_the_unit_of_the_file(head, tmp_path):
    rendered(head, tmp_path / "f", "--panels=rgb,depth,normals", "--depth=png", "--opacity=0.9")
    settings = json.loads((tmp_path / "f" / "render.json").read_text())
    depth = np.asarray(Image.open(tmp_path / "f" / "depth" / "0000.png"), float)
    depth = depth[8:12, 8:12].mean() * settings["depth_level"]
    eye = np.array(settings["cameras"]["camera_to_world"][0])[:, 3]
    away = np.linalg.norm(eye - np.array([123.0, -27.0, 30.0]))
    assert abs(depth - (away - 15.0)) < 5.0


def test_a_file_of_poses_in_the_frame_of_the_volume(head, tmp_path):
    # From above, looking down at the ball.
    pose = [[1, 0, 0, 123], [0, 1, 0, -27], [0, 0, 1, 150], [0, 0, 0, 1]]
    path = tmp_path / "poses.json"
    path.write_text(json.dumps({"frames": [{"transform_matrix": pose}]}))
    command = ["render", str(head), f"--path={path}", f"--out={tmp_path / 'f'}", "--width=21"]
    assert main([*command, "--fov=40"]) == 0
    picture = np.asarray(Image.open(tmp_path / "f" / "0000.png"), float).mean(axis=-1)
    assert picture[10, 10] > 120
    y, x = np.average(np.argwhere(picture > 60), axis=0)
    np.testing.assert_allclose([x, y], 10.0, atol=0.4)


REFUSED = {
    "--picture: has no effect on a volume": ["--picture=panorama"],
    "--processes: has no effect on a volume": ["--processes=2"],
    "--path: a volume has no cameras for spiral": ["--path=spiral"],
    "--path: a volume has no cameras for cameras": ["--path=cameras:0"],
    "--window: 7,3 is not LOW,HIGH": ["--window=7,3"],
    "--window: a,3 is not LOW,HIGH": ["--window=a,3"],
    "--opacity: 1.5 is not between 0 and 1": ["--opacity=1.5"],
    "--opacity: has no effect with --compositing surface": [
        "--opacity=.5",
        "--compositing=surface",
    ],
}


@pytest.mark.parametrize("message", REFUSED)
def test_flags_without_an_effect_are_refused(head, tmp_path, capsys, message):
    assert main(["render", str(head), f"--out={tmp_path / 'a.gif'}", *REFUSED[message]]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"jaxnerf: {message}")
    assert not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize("flag", ["--compositing=mean", "--window=1,2", "--opacity=0.4"])
def test_flags_of_volumes_are_refused_for_runs(tmp_path, capsys, flag):
    assert main(["render", str(tmp_path / "run"), flag]) == 1
    assert "has an effect on a volume only" in capsys.readouterr().err


def test_a_volume_that_is_none_is_refused_in_one_line(tmp_path, capsys):
    for name, values in {
        "nan": np.full((3, 3, 3), np.nan, np.float32),
        "flat": np.ones((3, 3), np.float32),
    }.items():
        nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / f"{name}.nii")
        assert main(["render", str(tmp_path / f"{name}.nii"), f"--out={tmp_path / 'o.gif'}"]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"jaxnerf: {tmp_path / name}.nii: ")
    (tmp_path / "head.dcm").write_text("of another kind")
    assert main(["render", str(tmp_path / "head.dcm"), f"--out={tmp_path / 'o.gif'}"]) == 1
    assert "head.dcm: a volume's name ends in one of .nii" in capsys.readouterr().err
    singular = np.diag([1.0, 1.0, 0.0, 1.0])
    np.savez(tmp_path / "thin.npz", density=np.ones((3, 3, 3), np.float32), affine=singular)
    with pytest.raises(SceneError, match=r"thin.npz: to_world: the matrix is singular"):
        open_scan(tmp_path / "thin.npz")
    np.save(tmp_path / "low.npy", np.ones((3, 3, 3), np.float32))
    with pytest.raises(SceneError, match=r"low.npy: nothing shows"):
        open_scan(tmp_path / "low.npy", window=(2.0, 3.0))


def test_colours_of_an_exported_volume_are_shown_as_they_are(tmp_path):
    colours = np.zeros((6, 6, 6, 3), np.uint8)
    colours[..., 1] = 200
    density = np.full((6, 6, 6), 50.0, np.float32)
    np.savez(tmp_path / "run.npz", density=density, colour=colours, affine=np.eye(4))
    scan, notes = open_scan(tmp_path / "run.npz")
    assert len(notes) == 1
    picture = scan.render(scan.cameras()[0].resized(9, 9))
    np.testing.assert_allclose(picture.colour[4, 4], [0.0, 200 / 255, 0.0], atol=1e-3)


def test_the_default_window_lies_between_percentiles():
    values = np.linspace(-100.0, 100.0, 50_001).reshape(1, 1, -1)
    low, high = default_window(values)
    np.testing.assert_allclose([low, high], [-98.0 + 0.2 * 197.0, 99.0], atol=0.05)
    rare = np.zeros((20, 20, 20))
    rare[3, 3, 3] = 5.0
    assert default_window(rare) == (1.0, 5.0)


def test_poses_for_two_eyes_are_refused(head, tmp_path, capsys):
    path = tmp_path / "poses.json"
    pose = np.eye(4).ravel().tolist()
    camera = {"camera_to_world": pose, "fov": 60.0, "aspect": 1.0}
    path.write_text(
        json.dumps(
            {
                "camera_path": [camera],
                "render_width": 8,
                "render_height": 8,
                "camera_type": "vr180",
            }
        )
    )
    assert main(["render", str(head), f"--path={path}", f"--out={tmp_path / 'f'}"]) == 1
    assert "is for two eyes, which are of runs only" in capsys.readouterr().err

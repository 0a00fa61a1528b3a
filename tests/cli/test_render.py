"""`jaxnerf render`: paths, pictures for headsets, files, and a path that goes on where it stopped."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
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
    write_scene,
)
from test_cli_errors import refusal  # noqa: F401

from jaxnerf.cli import camera_paths, main
from jaxnerf.cli.camera_paths import of_shape
from jaxnerf.config import override
from jaxnerf.runs.run import load_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("render")
    data, run = write_scene(folder / "balls"), folder / "run"
    command = ["train", f"--data={data}", f"--out={run}", "--max_steps=6", "--noevaluate", *TINY]
    assert main(command) == 0
    return run


def render(trained: Path, out: Path, *arguments: str) -> list[str]:
    return ["render", str(trained), f"--out={out}", *arguments]


def settings_of(folder: Path) -> dict:
    return json.loads((folder / "render.json").read_text())


def poses_of(folder: Path) -> np.ndarray:
    return np.array(settings_of(folder)["cameras"]["camera_to_world"])


def pictures_of(folder: Path) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.open(file), np.int64) for file in sorted(folder.glob("*.png"))]
    )


TRAINING = np.stack([np.array(matrix(eye))[:3] for eye in eyes(4)])


@pytest.mark.parametrize("chosen", ["0,2,3", "r_0,r_2.png,r_3"])
def test_a_flight_passes_through_the_cameras_that_are_named(trained, tmp_path, chosen):
    flags = [f"--path=cameras:{chosen}", "--frames=5", "--width=4"]
    assert main(render(trained, tmp_path / "f", *flags)) == 0
    np.testing.assert_allclose(poses_of(tmp_path / "f")[::2], TRAINING[[0, 2, 3]], atol=1e-5)
    assert main(render(trained, tmp_path / "g", *flags, "--frames=6", "--loop")) == 0
    np.testing.assert_allclose(poses_of(tmp_path / "g")[::2], TRAINING[[0, 2, 3]], atol=1e-5)


def test_all_training_cameras_in_turn_and_one_of_them(trained, tmp_path):
    assert main(render(trained, tmp_path / "f", "--path=cameras", "--width=4")) == 0
    np.testing.assert_allclose(poses_of(tmp_path / "f"), TRAINING, atol=1e-5)
    assert main(render(trained, tmp_path / "one", "--path=cameras:1", "--width=4")) == 0
    np.testing.assert_allclose(poses_of(tmp_path / "one"), TRAINING[1:2], atol=1e-5)
    assert sorted(os.listdir(tmp_path / "one")) == ["0000.png", "render.json"]


@pytest.mark.parametrize("path", ["orbit", "ellipse", "spiral"])
def test_paths_stand_upright_by_the_direction_that_is_said(trained, tmp_path, path, capsys):
    flags = [f"--path={path}", "--frames=3", "--width=4"]
    assert main(render(trained, tmp_path / "f", *flags)) == 0
    assert (
        "up is (0.00, 0.00, 1.00), as the photographs were held" in capsys.readouterr().out
    ) == (path != "spiral")
    assert main(render(trained, tmp_path / "g", *flags, "--up=0.3,-0.1,2")) == 0
    up = np.array([0.3, -0.1, 2.0])
    np.testing.assert_allclose(poses_of(tmp_path / "g")[:, :, 0] @ up, 0.0, atol=1e-9)


SHAPES = {
    "panorama": (["--width=12"], (6, 12)),
    "stereo": (["--width=6"], (6, 12)),
    "ods": (["--width=12"], (12, 12)),
    "vr180": (["--height=6"], (6, 12)),
    "camera": (["--width=9", "--height=5", "--panels=rgb,depth"], (5, 18)),
}


@pytest.mark.parametrize("picture", SHAPES)
def test_pictures_have_the_shapes_of_their_kind(trained, tmp_path, picture, capsys):
    flags, shape = SHAPES[picture]
    command = render(trained, tmp_path / "f", "--path=cameras:0", f"--picture={picture}", *flags)
    assert main(command) == 0
    assert pictures_of(tmp_path / "f").shape == (1, *shape, 3)
    out = capsys.readouterr().out
    is_level = np.allclose(poses_of(tmp_path / "f")[0, :, 1], [0, 0, 1], atol=1e-6)
    assert is_level == (picture in ("panorama", "ods", "vr180")) == ("up is" in out)
    # The cameras are 4 from what they look at.
    assert ("eyes 0.133 apart" in out) == (picture in ("stereo", "ods", "vr180"))
    assert np.isclose(settings_of(tmp_path / "f")["eye_distance"], 4 / 30) == ("eyes" in out)


def test_the_name_of_a_video_tells_players_what_it_is(trained, capsys):
    assert main(["render", str(trained), "--picture=ods", "--width=8", "--frames=2"]) == 0
    assert decode_video(trained / "orbit_360_TB.mp4").shape == (2, 8, 8, 3)
    assert "wrote " in capsys.readouterr().out
    (trained / "orbit_360_TB.mp4").unlink()


def test_a_panorama_of_what_was_seen_from_one_side_is_said_to_be_empty(trained):
    values = flags.FlagValues()
    camera_paths.define_flags(values)
    values(["", "--path=cameras:0", "--picture=panorama"])
    run = load_run(trained)
    assert not any("one side" in note for note in camera_paths.chosen_path(run, values).notes)
    forward = override(run.config, {"scene.space": "forward"})
    found = camera_paths.chosen_path(dataclasses.replace(run, config=forward), values)
    assert any("from one side" in note for note in found.notes)


def test_a_field_of_view_is_that_of_a_lens_without_distortion(trained, tmp_path):
    flags = ["--path=cameras:0", "--fov=90", "--width=12", "--height=4"]
    assert main(render(trained, tmp_path / "f", *flags)) == 0
    settings = settings_of(tmp_path / "f")
    assert settings["lens"] == "pinhole"
    np.testing.assert_allclose(settings["cameras"]["focal"], [[6.0, 6.0]], rtol=1e-6)
    np.testing.assert_allclose(settings["cameras"]["centre"], [[6.0, 2.0]])


def test_another_shape_shows_more_and_nothing_less(trained):
    camera = load_run(trained).cameras()[0]
    wide = of_shape(camera, 40, 20)
    np.testing.assert_allclose(wide.focal, camera.focal * 20 / 16, rtol=1e-6)
    np.testing.assert_allclose(wide.centre, [20.0, 10.0])
    assert of_shape(camera, None, 8).size.tolist() == [8, 8]
    assert of_shape(camera, 8, None).size.tolist() == [8, 8]


def test_depth_is_said_in_the_unit_of_the_files(trained, tmp_path, capsys):
    flags = ["--path=cameras:0", "--width=8", "--depth=png"]
    assert main(render(trained, tmp_path / "f", *flags)) == 0
    assert "PNG of 16 bits in levels of 0.0001 (--depth_level)" in capsys.readouterr().out
    assert main(render(trained, tmp_path / "g", *flags, "--depth_level=0.01")) == 0
    fine, coarse = (
        np.asarray(Image.open(tmp_path / name / "depth" / "0000.png"), float) for name in "fg"
    )
    np.testing.assert_allclose(coarse * 0.01, fine * 0.0001, atol=0.0051)


def test_processes_share_the_frames(trained, tmp_path, capsys):
    flags = ["--frames=5", "--width=8"]
    assert main(render(trained, tmp_path / "one", *flags)) == 0
    assert main(render(trained, tmp_path / "two", *flags, "--processes=2")) == 0
    assert "two [########################] 5/5" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "two"))
    one, two = pictures_of(tmp_path / "one"), pictures_of(tmp_path / "two")
    assert np.abs(one - two).max() <= 1
    assert settings_of(tmp_path / "one") == settings_of(tmp_path / "two")


def test_a_process_that_fails_is_one_line(trained, tmp_path, capfd):
    out = tmp_path / "f"
    assert main(render(trained, out, "--frames=4", "--width=4")) == 0
    (out / "0002.png").unlink()
    (out / "0003.png").unlink()
    (out / ".partial.0003.png").symlink_to("/dev/full")
    capfd.readouterr()
    assert main(render(trained, out, "--frames=4", "--width=4", "--processes=2")) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"jaxnerf: {out}: the disk is full; make room")
    assert main(render(trained, out, "--frames=4", "--width=4", "--processes=2")) == 0
    assert len(pictures_of(out)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_path_that_was_stopped_goes_on_where_it_was(trained, tmp_path, end, capfd):
    out = tmp_path / "v.gif"
    command, folder = render(trained, out, "--frames=500"), tmp_path / "v.gif.frames"
    # A shell lets what it starts in the background ignore Ctrl-C, and so would this.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from jaxnerf.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    begun = subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.DEVNULL)
    for _ in range(5000):
        if (folder / "0003.png").exists() or begun.poll() is not None:
            break
        time.sleep(0.01)
    begun.send_signal(end)
    assert begun.wait() in (-end, 130)
    assert os.listdir(tmp_path) == ["v.gif.frames"]
    kept = {file.name: file.stat().st_mtime_ns for file in folder.glob("0*.png")}
    assert 4 <= len(kept) < 500
    capfd.readouterr()
    assert main([*command, "--width=5"]) == 1
    assert "cameras changed" in (said := capfd.readouterr().err) or "width was 16, now 5" in said
    # The video is made when all frames are there; until then they are looked at.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxnerf.cli.render.remove", lambda folder: None)
        assert main(command) == 0
    assert f"v.gif.frames: {len(kept)} of 500 frames are there already" in capfd.readouterr().out
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert len(list(folder.glob("0*.png"))) == 500
    assert main(render(trained, tmp_path / "again", "--frames=500")) == 0
    whole = pictures_of(tmp_path / "again")
    assert np.abs(pictures_of(folder) - whole).max() <= 1
    with Image.open(out) as image:
        assert image.n_frames > 50  # Pillow joins frames that are alike
    assert main(command) == 0
    assert sorted(os.listdir(tmp_path)) == ["again", "v.gif"]


IDENTITY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
RENDERS = {
    "no width": (["--width=0"], "--width=0"),
    "no height": (["--height=0"], "--height=0"),
    "too wide": (["--width=100000"], "16384"),
    "no process": (["--processes=0"], "--processes=0"),
    "no ray": (["--supersampling=0"], "--supersampling=0"),
    "a flat field of view": (["--fov=180"], "--fov: 180 is not from 0.1 to 170 degrees"),
    "a panorama with a field of view": (["--fov=90", "--picture=ods"], "--fov: has no effect"),
    "no direction": (["--up=0,0,0"], "--up: 0,0,0 is not a direction"),
    "half a direction": (["--up=0,1"], "--up: 0,1 is not a direction"),
    "a direction that is no number": (["--up=0,nan,1"], "--up: 0,nan,1 is not a direction"),
    "an up of the cameras' own poses": (["--path=cameras", "--up=0,0,1"], "--up: has no effect"),
    "one camera and a loop": (["--path=cameras:0", "--loop"], "--loop: cameras:0 has one pose"),
    "a GIF that is too fast": (["--out=x.gif", "--fps=60"], "at most 50 frames a second, not 60"),
    "an unknown picture": (["--picture=hologram"], "--picture"),
    "eyes in one place": (
        ["--picture=ods", "--eye_distance=0"],
        "--eye_distance: 0 is not above 0",
    ),
    "an eye for no reason": (["--eye_distance=1"], "--eye_distance: has no effect"),
    "a loop of an orbit": (["--loop"], "--loop: has no effect on orbit"),
    "a camera that is not there": (["--path=cameras:0,99"], "camera 99 is not one of 0 to 3"),
    "a name that is not there": (
        ["--path=cameras:r_77"],
        "no training photograph is called 'r_77'",
    ),
    "one camera and a flight": (["--path=cameras:0", "--frames=3"], "has one pose"),
    "no cameras and a flight": (["--path=cameras", "--frames=3"], "cameras:0,5,9"),
    "a video of 16 bits": (["--bits=16", "--out=x.mp4"], "--bits: not in a video"),
    "17 bits": (["--bits=17", "--out=x"], "--bits"),
    "a video of depth": (["--depth=exr", "--out=x.mp4"], "--depth: not in a video"),
    "another file of depth": (["--depth=jpg", "--out=x"], "--depth"),
    "a level of nothing": (["--depth_level=0.1", "--out=x"], "--depth_level"),
    "pictures with a speed": (["--fps=10", "--out=x"], "--fps: a folder of PNGs has no speed"),
    "no folder for the folder": (["--out=no/frames"], "no: no such folder"),
    "a WebP that is too wide": (
        ["--out=x.webp", "--width=9000", "--panels=rgb,depth"],
        "a WebP has at most 16,383 pixels along a side",
    ),
}


@pytest.mark.parametrize("case", RENDERS)
def test_a_wrong_way_to_render_is_refused(case, trained, refusal):  # noqa: F811
    arguments, named = RENDERS[case]
    assert named in refusal("render", str(trained), *arguments)


def test_an_up_along_which_all_cameras_look_is_refused(trained, refusal, tmp_path):  # noqa: F811
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    at_one_place = [TRAINING[0].tolist()] * 4
    edit_json(
        run / "scene.json",
        lambda scene: scene["splits"]["train"]["cameras"].update(camera_to_world=at_one_place),
    )
    up = ",".join(map(str, np.asarray(load_run(run).cameras().camera_to_world)[0, :, 2]))
    line = refusal("render", str(run), "--path=spiral", f"--up={up}")
    assert "--up: look_at: no direction is upright" in line


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("kind", ["transforms", "nerfstudio"])
def test_a_pose_that_is_no_number_is_refused(kind, number, trained, refusal, tmp_path):  # noqa: F811
    text = json.dumps(IDENTITY).replace("4]", f"{number}]")
    contents = f'{{"frames": [{{"transform_matrix": {text}}}]}}'
    if kind == "nerfstudio":
        flat = text.replace("[", "").replace("]", "")
        contents = (
            f'{{"camera_path": [{{"camera_to_world": [{flat}], "fov": 50}}], "render_width": 8, '
            '"render_height": 8}'
        )
    (tmp_path / "keys.json").write_text(contents)
    line = refusal("render", str(trained), "--path=keys.json")
    assert "keys.json" in line
    assert ("transform_matrix" if kind == "transforms" else "camera_to_world") in line


def test_a_folder_of_other_files_is_refused(trained, refusal, tmp_path):  # noqa: F811
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0000.png").write_text("mine")
    assert "mine: is there already" in refusal("render", str(trained), "--out=mine", "--overwrite")
    (tmp_path / "mine.gif").mkdir()
    assert "is a folder" in refusal("render", str(trained), "--out=mine.gif")


def test_a_package_that_is_missing_is_named(trained, refusal, monkeypatch):  # noqa: F811
    for module in ("depth", "video"):
        monkeypatch.setattr(f"jaxnerf.exports.{module}.find_spec", lambda name: None)
    assert "package imageio-ffmpeg" in refusal("render", str(trained), "--out=x.mp4")
    assert "package imageio-ffmpeg" in refusal("render", str(trained), "--out=x", "--bits=16")
    line = refusal("render", str(trained), "--out=x", "--depth=exr")
    assert "package OpenEXR: pip install 'jaxnerf[export]'" in line

"""experiments/peers: its layouts, time limits and figures, on stand-ins with the peers' command lines.

The stand-ins take the options that the peers' sources define and no others, train until they are
interrupted, and leave their files where the peers do. Their pictures are the photographs on white, off
by 10 levels everywhere: 20 log10(255 / 10) = 28.13 dB.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from capture_factory import write_nerfstudio
from scene_factory import write_scene

from jaxnerf.scenes import load_scene

SCRIPT = Path(__file__).parents[1] / "experiments/peers/peers.py"

COMMON = """#!{python}
import argparse, json, sys, time
from pathlib import Path

import numpy as np
from PIL import Image


def picture(source, target):
    rgba = np.asarray(Image.open(source).convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    white = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha))
    Image.fromarray(np.where(white < 128, white + 10, white - 10).astype(np.uint8)).save(target)


def pictures(data, folder, names="{{index:03d}}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(json.loads((data / "transforms_test.json").read_text())["frames"]):
        source = data / (frame["file_path"] + ".png")
        picture(source, folder / names.format(index=index, stem=source.stem))


def train(folder, name, every):
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(every, 10**9, every):
        time.sleep(0.05)
        (folder / name.format(step=step)).write_text("")


parser = argparse.ArgumentParser(allow_abbrev=False)
add = parser.add_argument
"""

NERF_PYTORCH = """
for name in ("dataset_type", "datadir", "basedir", "expname"):
    add("--" + name, required=True)
for name in ("testskip", "N_samples", "N_importance", "N_rand", "lrate_decay", "i_weights"):
    add("--" + name, type=int, required=True)
for name in ("no_batching", "use_viewdirs", "white_bkgd", "render_only", "render_test"):
    add("--" + name, action="store_true")
options = parser.parse_args()
assert (options.dataset_type, options.testskip, options.white_bkgd) == ("blender", 1, True)
run = Path(options.basedir) / options.expname
if not options.render_only:
    train(run, "{step:06d}.tar", options.i_weights)
last = sorted(run.glob("*.tar"))[-1].stem
pictures(Path(options.datadir), run / f"renderonly_test_{last}")
(run / f"renderonly_test_{last}/video.mp4").write_text("")
"""

DVGO = """
add("--config", required=True)
add("--i_weights", type=int, default=100000)
add("--ft_path", default="")
add("--render_only", action="store_true")
add("--render_test", action="store_true")
options = parser.parse_args()
config = {}
exec(Path(options.config).read_text(), config)
assert Path(config["_base_"]) == Path(__file__).parent / "configs/default.py"
assert (config["data"]["dataset_type"], config["data"]["white_bkgd"]) == ("blender", True)
run = Path(config["basedir"]) / config["expname"]
if not options.render_only:
    run.mkdir(parents=True)
    (run / "coarse_last.tar").write_text("")
    train(run, "fine_{step:06d}.tar", options.i_weights)
assert Path(options.ft_path).exists()
folder = run / f"render_test_{options.ft_path.split('/')[-1][:-4]}"
pictures(Path(config["data"]["datadir"]), folder)
(folder / "video.rgb.mp4").write_text("")
"""

OPENSPLAT = """
add("input")
add("-d", type=float)
add("--output", default="splat.ply")
for name in ("save-every", "num-iters", "num-downscales"):
    add("--" + name, type=int, default=-1)
for name in ("resume", "val-image", "val-render"):
    add("--" + name, default="")
add("--cpu", action="store_true")
add("--val", action="store_true")
options = parser.parse_args()
project = Path(options.input)
assert {path.suffix for path in (project / "sparse/0").iterdir()} == {".bin"}
if not options.resume:
    output = Path(options.output)
    train(output.parent, output.stem + "_{step}" + output.suffix, options.save_every)
assert Path(options.resume).exists() and options.val
folder = Path(options.val_render)
folder.mkdir(exist_ok=True)
picture(project / "images" / options.val_image, folder / f"{options.num_iters}.png")
"""

NS_TRAIN = """
add("method")
add("parser")
for name in ("machine.device-type", "vis", "data", "output-dir", "experiment-name", "timestamp",
             "mixed-precision"):
    add("--" + name, required=True)
for name in ("save", "eval-batch", "eval-image", "eval-all-images"):
    add("--steps-per-" + name, type=int, required=True)
options, model = parser.parse_known_args()
allowed = ("--pipeline.model.", "--pipeline.datamanager.train-num-rays-per-batch=")
assert all(each.startswith(allowed) for each in model), model
assert options.parser == "blender-data"
run = Path(options.output_dir) / options.experiment_name / options.method / options.timestamp
run.mkdir(parents=True)
(run / "config.yml").write_text(options.data)
train(run / "nerfstudio_models", "step-{step:09d}.ckpt", options.steps_per_save)
"""

NS_RENDER = """
add("what", choices=["dataset"])
for name in ("load-config", "output-path", "split", "image-format", "rendered-output-names"):
    add("--" + name, required=True)
options = parser.parse_args()
data = Path(Path(options.load_config).read_text())
output = "rgb_fine" if Path(options.load_config).parts[-3] == "vanilla-nerf" else "rgb"
assert options.rendered_output_names == output
folder = Path(options.output_path) / options.split / output
pictures(data, folder, "{stem}." + options.image_format)
"""


def write_tool(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(COMMON.format(python=sys.executable) + script)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def tools(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    write_tool(folder / "nerf_pytorch/run_nerf.py", NERF_PYTORCH)
    write_tool(folder / "dvgo/run.py", DVGO)
    write_tool(folder / "opensplat", OPENSPLAT)
    write_tool(folder / "bin/ns-train", NS_TRAIN)
    write_tool(folder / "bin/ns-render", NS_RENDER)
    return folder


def run(folder: Path, *arguments: str) -> dict:
    out = folder / "results.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"--out={out}", "--seconds=1", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.release
def test_each_peer_trains_for_the_time_and_is_measured_on_the_same_views(tools, tmp_path):
    scene = write_scene(tmp_path / "s", 24, 24, train=4, test=5)
    found = run(
        tmp_path, f"--data={scene}", "--views=3", f"--keep={tmp_path / 'kept'}",
        "--only=nerfacto,vanilla-nerf,nerf-pytorch,dvgo,opensplat", f"--nerfstudio={tools}/bin",
        f"--nerf_pytorch={tools}/nerf_pytorch", f"--dvgo={tools}/dvgo",
        f"--opensplat={tools}/opensplat",
    )  # fmt: skip
    assert list(found["peers"]) == ["nerfacto", "vanilla-nerf", "nerf-pytorch", "dvgo", "opensplat"]
    for name, row in found["peers"].items():
        assert "failed" not in row, (name, row)
        assert row["psnr"] == pytest.approx(20.0 * np.log10(255.0 / 10.0), abs=0.05), name
        assert row["train_seconds"] == 1.0
        assert row["protocol"]["images"] == 3
        assert row["protocol"]["background"] == "white"
        assert row["load_before"] >= 0.0
    # The layouts say the same as the scene.
    ours = load_scene(scene, images=("train", "test"))
    blender = load_scene(tmp_path / "kept/data/blender", images=("train", "test"))
    some = [0, 2, 4]
    for split, chosen in (("train", slice(None)), ("test", some)):
        theirs, own = blender.splits[split], ours.splits[split]
        np.testing.assert_array_equal(theirs.images, own.images[chosen])
        for name in ("camera_to_world", "focal", "centre"):
            expected = getattr(own.cameras, name)[chosen]
            np.testing.assert_allclose(getattr(theirs.cameras, name), expected, atol=1e-5)
    colmap = load_scene(tmp_path / "kept/data/test_001", images=())
    names = [name for split in colmap.splits.values() for name in split.names]
    assert sorted(names) == ["test_001.png", *(f"train_{index:03d}.png" for index in range(4))]
    known = {
        f"train_{i:03d}.png": pose
        for i, pose in enumerate(ours.splits["train"].cameras.camera_to_world)
    }
    known["test_001.png"] = ours.splits["test"].cameras.camera_to_world[2]
    for split in colmap.splits.values():
        poses = colmap.to_user.poses(split.cameras.camera_to_world)
        for name, pose in zip(split.names, poses, strict=True):
            np.testing.assert_allclose(pose, known[name], atol=1e-5)


@pytest.mark.release
def test_what_does_not_work_is_said_and_the_others_are_measured(tools, tmp_path):
    scene = write_scene(tmp_path / "s")
    write_tool(tmp_path / "broken/run_nerf.py", "sys.exit('no such device')\n")
    slow = NS_TRAIN.replace("train(", "time.sleep(99); train(")
    write_tool(tmp_path / "bin/ns-train", slow)
    found = run(
        tmp_path, f"--data={scene}", "--only=nerf-pytorch,dvgo,nerfacto,opensplat",
        f"--nerf_pytorch={tmp_path}/broken", f"--dvgo={tmp_path}/nowhere",
        f"--nerfstudio={tmp_path}/bin", f"--opensplat={tools}/opensplat",
    )["peers"]  # fmt: skip
    assert found["nerf-pytorch"]["failed"] == "training ended with status 1: no such device"
    assert found["dvgo"]["failed"] == f"{tmp_path}/nowhere/run.py is not there"
    assert found["nerfacto"]["failed"] == "no checkpoint within the time"
    assert found["opensplat"]["psnr"] > 28.0


def test_a_scene_that_peers_cannot_read_is_refused_in_a_line(tmp_path):
    folder = write_nerfstudio(tmp_path / "s")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"--data={folder}"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"peers: {folder}: peers read scenes that stand alone, of pinhole cameras that are alike\n"
    )

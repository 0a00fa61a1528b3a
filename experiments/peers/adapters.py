"""What each peer wants: data in its layout, command lines; and where its pictures of test views are."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a peer works.

    Attributes:
      tool: what the user named: a checkout, or the folder of its commands.
      python: the interpreter that runs checkouts.
      blender: the scene in NeRF's Blender layout.
      colmap: the photographs of training, on white, as a COLMAP project.
      colmap_of: the same for each test view, with its photograph.
      work: an empty folder.
      bounds: near and far.
      seconds: for training.
    """

    tool: Path
    python: str
    blender: Path
    colmap: Path
    colmap_of: Sequence[Path]
    work: Path
    bounds: tuple[float, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Peer:
    """How a peer is used.

    Attributes:
      about: what it is, in a line.
      executable: of a place, the file that must be there.
      train: the command that trains, until it is interrupted; or for so many seconds.
      render: after that, the commands that render all test views.
      pictures: and then their files, in the order of the test views.
      stops: whether it keeps to the seconds by itself, and is not interrupted.
    """

    about: str
    executable: Callable[[Place], Path]
    train: Callable[[Place], list[str]]
    render: Callable[[Place], list[list[str]]]
    pictures: Callable[[Place], list[Path]]
    stops: bool = False


def _numbered(files: Sequence[Path]) -> list[Path]:
    """Files by the last number in their names."""
    return sorted(files, key=lambda path: int(re.findall(r"\d+", path.stem)[-1]))


def _last(files: Sequence[Path], what: str) -> Path:
    """The file with the largest number.

    Raises:
      FileNotFoundError: there is none: the time was too short for one.
    """
    if not files:
        raise FileNotFoundError(f"no {what} within the time")
    return _numbered(files)[-1]


def _jaxnerf() -> Peer:
    def train(place: Place) -> list[str]:
        return [
            place.python, "-m", "jaxnerf", "train", f"--data={place.blender}",
            f"--out={place.work}/run", f"--max_seconds={place.seconds}", "--noevaluate",
        ]  # fmt: skip

    return Peer(
        "this library, with the settings that the seconds choose",
        executable=lambda place: place.blender,
        train=train,
        render=lambda place: [[place.python, "-m", "jaxnerf", "eval", f"{place.work}/run"]],
        pictures=lambda place: _numbered(list((place.work / "run/test_preds").glob("*.png"))),
        stops=True,
    )


def _nerfstudio(
    method: str, about: str, rays: int, output: str = "rgb", settings: Sequence[str] = ()
) -> Peer:
    """A method of nerfstudio, on the CPU and in plain PyTorch (nerfstudio 1.1).

    Args:
      method: its name.
      about: what it is.
      rays: of a batch; its own batches take many seconds each on a few cores.
      output: what it calls the colours of its pictures.
      settings: further ones.
    """

    def train(place: Place) -> list[str]:
        return [
            str(place.tool / "ns-train"), method, "--machine.device-type=cpu", "--vis=tensorboard",
            f"--data={place.blender}", f"--output-dir={place.work}", "--experiment-name=run",
            "--timestamp=now", "--steps-per-save=5", "--steps-per-eval-batch=0",
            "--steps-per-eval-image=0", "--steps-per-eval-all-images=0", "--mixed-precision=False",
            f"--pipeline.datamanager.train-num-rays-per-batch={rays}",
            *(setting.format(near=place.bounds[0], far=place.bounds[1]) for setting in settings),
            "blender-data",
        ]  # fmt: skip

    def render(place: Place) -> list[list[str]]:
        run = place.work / "run" / method / "now"
        _last(list((run / "nerfstudio_models").glob("step-*.ckpt")), "checkpoint")
        return [
            [
                str(place.tool / "ns-render"), "dataset", f"--load-config={run}/config.yml",
                f"--output-path={place.work}/pictures", "--split=test", "--image-format=png",
                f"--rendered-output-names={output}",
            ]
        ]  # fmt: skip

    def pictures(place: Place) -> list[Path]:
        return _numbered(list((place.work / "pictures/test" / output).rglob("*.png")))

    return Peer(about, lambda place: place.tool / "ns-train", train, render, pictures)


def _nerf_pytorch() -> Peer:
    """yenchenlin/nerf-pytorch: a checkout with run_nerf.py."""

    def command(place: Place, *more: str) -> list[str]:
        return [
            place.python, str(place.tool / "run_nerf.py"), "--dataset_type=blender",
            f"--datadir={place.blender}", f"--basedir={place.work}", "--expname=run", "--testskip=1",
            "--no_batching", "--use_viewdirs", "--white_bkgd", "--N_samples=64", "--N_importance=128",
            "--N_rand=1024", "--lrate_decay=500", "--i_weights=10", *more,
        ]  # fmt: skip

    def render(place: Place) -> list[list[str]]:
        _last(list((place.work / "run").glob("*.tar")), "checkpoint")
        return [command(place, "--render_only", "--render_test")]

    def pictures(place: Place) -> list[Path]:
        folders = list((place.work / "run").glob("renderonly_test_*"))
        return _numbered(list(_last(folders, "pictures").glob("*.png")))

    return Peer(
        "NeRF in PyTorch (yenchenlin/nerf-pytorch)",
        lambda place: place.tool / "run_nerf.py",
        command,
        render,
        pictures,
    )


_DVGO = """_base_ = {base!r}
expname = 'run'
basedir = {work!r}
data = dict(datadir={data!r}, dataset_type='blender', white_bkgd=True)
"""


def _dvgo() -> Peer:
    """sunset1995/DirectVoxGO: a checkout with run.py. Its first stage must end within the time."""

    def command(place: Place, *more: str) -> list[str]:
        config = place.work / "config.py"
        values = {"base": place.tool / "configs/default.py", "work": place.work}
        values |= {"data": place.blender}
        config.write_text(_DVGO.format(**{name: str(path) for name, path in values.items()}))
        return [place.python, str(place.tool / "run.py"), f"--config={config}", *more]

    def checkpoint(place: Place) -> Path:
        return _last(
            [file for file in (place.work / "run").glob("fine_*.tar") if file.stem[-1].isdigit()],
            "checkpoint of the fine stage",
        )

    return Peer(
        "direct voxel grids in PyTorch (sunset1995/DirectVoxGO)",
        lambda place: place.tool / "run.py",
        lambda place: command(place, "--i_weights=50"),
        lambda place: [
            command(place, "--render_only", "--render_test", f"--ft_path={checkpoint(place)}")
        ],
        lambda place: _numbered(
            [
                file
                for file in (place.work / "run" / f"render_test_{checkpoint(place).stem}").glob("*")
                if re.fullmatch(r"\d+\.png", file.name)
            ]
        ),
    )


def _opensplat() -> Peer:
    """pierotofy/OpenSplat: its executable.

    It renders one view that it leaves out of training, every tenth step: so each test view is rendered
    ten steps after the last that was saved, of ten further steps on the photographs of training.
    """

    def command(place: Place, project: Path, *more: str) -> list[str]:
        return [str(place.tool), str(project), "--cpu", "-d", "1", "--num-downscales=0", *more]

    def last(place: Place) -> tuple[Path, int]:
        file = _last(list(place.work.glob("splat_*.ply")), "saved splats")
        return file, int(file.stem.partition("_")[2])

    def render(place: Place) -> list[list[str]]:
        file, step = last(place)
        return [
            command(
                place, project, f"--resume={file}", f"--num-iters={step + 10}", "--val",
                f"--val-image={project.name}.png", f"--val-render={place.work}/{project.name}",
                f"--output={place.work}/{project.name}.ply",
            )
            for project in place.colmap_of
        ]  # fmt: skip

    def pictures(place: Place) -> list[Path]:
        return [
            _last(list((place.work / project.name).glob("*.png")), "picture")
            for project in place.colmap_of
        ]

    return Peer(
        "Gaussian splats in C++ (pierotofy/OpenSplat)",
        lambda place: place.tool,
        lambda place: command(
            place, place.colmap, f"--output={place.work}/splat.ply", "--save-every=20",
            "--num-iters=1000000",
        ),
        render,
        pictures,
    )  # fmt: skip


# As nerfstudio's documentation has it for synthetic scenes.
_SYNTHETIC = (
    "--pipeline.model.implementation=torch",
    "--pipeline.model.background-color=white",
    "--pipeline.model.disable-scene-contraction=True",
    "--pipeline.model.proposal-initial-sampler=uniform",
    "--pipeline.model.near-plane={near}",
    "--pipeline.model.far-plane={far}",
    "--pipeline.model.camera-optimizer.mode=off",
    "--pipeline.model.use-average-appearance-embedding=False",
    "--pipeline.model.distortion-loss-mult=0",
)

PEERS = {
    "jaxnerf": _jaxnerf(),
    "nerfacto": _nerfstudio(
        "nerfacto", "instant-ngp's hash grid in plain PyTorch (nerfstudio)", 512, "rgb", _SYNTHETIC
    ),
    "vanilla-nerf": _nerfstudio(
        "vanilla-nerf", "NeRF in plain PyTorch (nerfstudio)", 256, "rgb_fine"
    ),
    "nerf-pytorch": _nerf_pytorch(),
    "dvgo": _dvgo(),
    "opensplat": _opensplat(),
}

"""A run's folder: all that is needed to go on training, to measure, to render.

    config.json     the resolved configuration
    scene.json      cameras, near and far, and the way back to the frame of the user's files
    checkpoints/    the last two states of training (Orbax)
    metrics.jsonl   one line a report; events.* the same for TensorBoard
    results.json    what `jaxnerf eval` measured, with test_preds/ beside it

With it alone, on a machine that never saw the photographs, one can render any pose.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.cameras import Camera
from jaxnerf.config import Config, ConfigError, from_json, to_json
from jaxnerf.evaluation import write_json
from jaxnerf.rendering import Rendering, render_image
from jaxnerf.scenes import Scene, Similarity, Split
from jaxnerf.training import TrainState, create_state


class RunError(Exception):
    """A run's folder is missing, in the way, or wrong: one line that names it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained field and what is known of its scene.

    Attributes:
      folder: of the run.
      config: how it was trained.
      scene: without photographs.
      params: of each level's field.
      step: after how many steps of training.
    """

    folder: Path
    config: Config
    scene: Scene
    params: tuple[Any, ...]
    step: int

    def render(
        self,
        camera: Camera,
        *,
        background: tuple[float, float, float] | float | None = None,
        with_normals: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rendering:
        """The picture that a camera sees; poses, depths and normals in the frame of the user's files.

        Args:
          camera: a single one, for instance from `Camera.look_at`.
          background: behind the scene; by default the one that the run was trained on.
          with_normals: see `RenderSettings`.
          progress: see `render_image`.

        Returns:
          A `Rendering` of NumPy arrays [height, width, ...].
        """
        frame = self.scene.to_user
        pose = frame.inverse().poses(np.asarray(camera.camera_to_world)).astype(np.float32)
        rendering = render_image(
            self.config.fields(),
            self.params,
            dataclasses.replace(camera, camera_to_world=pose),
            dataclasses.replace(self.config.render, density_noise=0.0, with_normals=with_normals),
            near=self.scene.near,
            far=self.scene.far,
            background=self.background if background is None else background,
            chunk=self.config.evaluation.chunk,
            progress=progress,
        )
        scale, normals = np.float32(frame.scale), rendering.normals
        return dataclasses.replace(
            rendering,
            depth=rendering.depth * scale,
            depth_median=rendering.depth_median * scale,
            distance=rendering.distance * scale,
            normals=None if normals is None else (normals @ frame.rotation.T).astype(np.float32),
        )

    @property
    def background(self) -> float:
        """The grey on which test views are measured: black if trained on black, else white."""
        return 0.0 if self.config.training.background == "black" else 1.0

    def cameras(self, split: str = "train") -> Camera:
        """A split's cameras, in the frame of the user's files.

        Raises:
          RunError: the scene has no such split.
        """
        if split not in self.scene.splits:
            known = ", ".join(self.scene.splits)
            raise RunError(f"{self.folder}: the scene has no split {split!r}, only {known}")
        cameras = self.scene.splits[split].cameras
        poses = self.scene.to_user.poses(np.asarray(cameras.camera_to_world))
        return dataclasses.replace(cameras, camera_to_world=poses.astype(np.float32))


def load_run(folder: str | Path, step: int | None = None) -> Run:
    """Open a run to render from it.

    Args:
      folder: of the run.
      step: of the checkpoint; the last by default.

    Raises:
      RunError: the folder is not a run, has no checkpoint, or one of another configuration.
    """
    folder = Path(folder)
    config, scene = read_config(folder), read_scene(folder)
    state = Checkpoints(folder).restore(config, step)
    if state is None:
        raise RunError(f"{folder}: no checkpoint yet; train with --resume to make one")
    return Run(folder, config, scene, state.params, int(state.step))


def create_folder(folder: Path, config: Config, scene: Scene, *, overwrite: bool = False) -> None:
    """Begin a run: its folder, configuration and scene.

    Raises:
      RunError: something is there already (unless overwrite, and it is a run), or it cannot be written.
    """
    check_free(folder, overwrite=overwrite)
    with disk_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            for name in ("checkpoints", "test_preds"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for stale in ("metrics.jsonl", "results.json", "orbit.mp4"):
                (folder / stale).unlink(missing_ok=True)
            for events in folder.glob("events.*"):
                events.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "scene.json", _scene_to_json(scene))
        write_json(folder / "config.json", json.loads(to_json(config)))


def check_free(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that holds anything, but for a run that is to be overwritten.

    Raises:
      RunError: it may not be used.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder for a run")
    if not any(folder.iterdir()):
        return
    if not (folder / "config.json").exists():
        raise RunError(f"{folder}: holds other files; name an empty or new folder with --out")
    if not overwrite:
        raise RunError(
            f"{folder}: holds a run already; go on with --resume, start anew with --overwrite, "
            "or name another folder with --out"
        )


def read_config(folder: Path) -> Config:
    """A run's configuration.

    Raises:
      RunError: the folder is not a run's, or its configuration is broken.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not path.exists():
        raise RunError(f"{folder}: not a run folder (no config.json)")
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: {error}") from None


class Checkpoints:
    """The states of training in a run's folder, written by Orbax: whole or not at all.

    States are kept as a flat table of NumPy arrays by name, so that hosts need not agree on devices
    and a checkpoint of another configuration is recognised by its names and shapes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._manager: Any = None

    def save(self, state: TrainState) -> None:
        """Keep a state, and the one before it.

        Raises:
          RunError: it cannot be written; the checkpoints that were there stay.
        """
        import orbax.checkpoint as ocp

        table = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
        step = int(table["step"])
        with disk_errors(self.folder):
            manager = self._open()
            if step not in manager.all_steps():
                manager.save(step, args=ocp.args.StandardSave(table))

    def restore(self, config: Config, step: int | None = None) -> TrainState | None:
        """The last state, or that of a step; None if there is none.

        Raises:
          RunError: it cannot be read or does not fit the configuration.
        """
        import orbax.checkpoint as ocp

        where = self.folder / "checkpoints"
        if not where.is_dir():
            return None
        manager = self._open()
        step = manager.latest_step() if step is None else step
        if step is None:
            return None
        if step not in manager.all_steps():
            known = ", ".join(map(str, sorted(manager.all_steps())))
            raise RunError(f"{where}: no checkpoint of step {step}, only of {known}")
        expected = jax.eval_shape(lambda: create_state(config.fields(), config.training))
        names = _named_leaves(expected)
        try:
            metadata = {
                name: tuple(leaf.shape) for name, leaf in manager.item_metadata(step).items()
            }
        except Exception as error:  # whatever a damaged folder makes of Orbax
            raise RunError(f"{where}/{step}: damaged: {_first_line(error)}") from None
        for name, leaf in names:
            if metadata.get(name) != leaf.shape:
                raise RunError(
                    f"{where}/{step}: a checkpoint of another configuration: {name} should be "
                    f"{leaf.shape}, is {metadata.get(name, 'missing')}"
                )
        target = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in names}
        try:
            table = manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:
            raise RunError(f"{where}/{step}: damaged: {_first_line(error)}") from None
        leaves = [jnp.asarray(table[name]) for name, _ in names]
        return jax.tree.unflatten(jax.tree.structure(expected), leaves)

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            # Orbax tells of every file that it opens, and absl prints it.
            logging.getLogger("absl").setLevel(logging.ERROR)
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            where = (self.folder / "checkpoints").resolve()
            self._manager = ocp.CheckpointManager(
                where, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._manager


class MetricsLog:
    """metrics.jsonl and TensorBoard events of a run."""

    def __init__(self, folder: Path, resume_from: int = 0):
        """Open for appending; lines after the step that training resumes from are dropped."""
        from tensorboardX import SummaryWriter

        path = folder / "metrics.jsonl"
        with disk_errors(folder):
            kept = [row for row in read_metrics(folder) if row["step"] <= resume_from]
            path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
            self._events = SummaryWriter(str(folder), purge_step=resume_from or None)
        self._folder = folder

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a report."""
        with disk_errors(self._folder):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        with disk_errors(self._folder):
            self._file.close()
            self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; a last line cut off by a kill is left out."""
    path = folder / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a failure to write into a `RunError` of one line.

    Raises:
      RunError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or any(
            sign in str(error) for sign in ("No space left", "RESOURCE_EXHAUSTED")
        )
        if full:
            raise RunError(
                f"{folder}: the disk is full; make room and go on with --resume "
                "(the last whole checkpoint is kept)"
            ) from None
        if isinstance(error, OSError):
            raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from None
        raise


def _named_leaves(state: TrainState) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _scene_to_json(scene: Scene) -> dict[str, Any]:
    frame = scene.to_user
    return {
        "name": scene.name,
        "source": str(scene.source.resolve()),
        "format": scene.format,
        "near": scene.near,
        "far": scene.far,
        "to_user": {
            "scale": frame.scale,
            "rotation": frame.rotation.tolist(),
            "translation": frame.translation.tolist(),
        },
        "splits": {
            name: {
                "names": list(split.names),
                "lens": split.cameras.lens,
                "cameras": {
                    key: np.asarray(getattr(split.cameras, key)).tolist() for key in _CAMERA_KEYS
                },
            }
            for name, split in scene.splits.items()
        },
    }


_CAMERA_KEYS = ("camera_to_world", "focal", "centre", "distortion", "size")


def read_scene(folder: Path) -> Scene:
    """A run's scene, without photographs.

    Raises:
      RunError: the folder is not a run's, or what it says of the scene is broken.
    """
    path = folder / "scene.json"
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        frame = contents["to_user"]
        splits = {}
        for name, split in contents["splits"].items():
            arrays = {
                key: np.asarray(split["cameras"][key], np.int32 if key == "size" else np.float32)
                for key in _CAMERA_KEYS
            }
            splits[name] = Split(tuple(split["names"]), Camera(**arrays, lens=split["lens"]))
        return Scene(
            name=contents["name"],
            source=Path(contents["source"]),
            format=contents["format"],
            splits=splits,
            near=float(contents["near"]),
            far=float(contents["far"]),
            to_user=Similarity(
                float(frame["scale"]),
                np.asarray(frame["rotation"], np.float64).reshape(3, 3),
                np.asarray(frame["translation"], np.float64).reshape(3),
            ),
        )
    except FileNotFoundError:
        raise RunError(f"{folder}: not a run folder (no scene.json)") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: broken: {_first_line(error)}") from None

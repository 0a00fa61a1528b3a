"""A run's folder: all that is needed to go on training, to measure, to render.

    config.json     the resolved configuration
    scene.json      cameras, near and far, and the way back to the frame of the user's files
    checkpoints/    the last two states of training (Orbax)
    metrics.jsonl   one line a report; events.* the same for TensorBoard
    results.json    what `jaxnerf eval` measured, with test_preds/ beside it

With it alone, on a machine that never saw the photographs, one can render any pose.
"""

import asyncio
import contextlib
import dataclasses
import errno
import json
import logging
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.cameras import Camera, Lens
from jaxnerf.config import Config, ConfigError, from_json, to_json
from jaxnerf.evaluation import write_json, write_text
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
        try:
            write_json(folder / "scene.json", _scene_to_json(scene))
            save_config(folder, config)
        except OSError:
            # Half a run would be taken for a folder of other files.
            for name in ("scene.json", "config.json"):
                (folder / name).unlink(missing_ok=True)
            raise


def save_config(folder: Path, config: Config) -> None:
    """Write a run's configuration."""
    write_text(folder / "config.json", to_json(config) + "\n")


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
    except (ConfigError, UnicodeDecodeError, OSError) as error:
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
        with disk_errors(self.folder, _KEPT), _only_the_first_error():
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
        with disk_errors(self.folder):
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
            with _only_the_first_error():
                metadata = {
                    name: tuple(leaf.shape) for name, leaf in manager.item_metadata(step).items()
                }
        except Exception as error:  # whatever a damaged folder makes of Orbax
            raise RunError(self._damaged(step, error)) from None
        for name, leaf in names:
            if metadata.get(name) != leaf.shape:
                raise RunError(
                    f"{where}/{step}: a checkpoint of another configuration: {name} should be "
                    f"{leaf.shape}, is {metadata.get(name, 'missing')}"
                )
        for name in sorted(metadata.keys() - dict(names).keys()):
            raise RunError(
                f"{where}/{step}: a checkpoint of another configuration: {name} is not in this one"
            )
        target = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in names}
        try:
            with _only_the_first_error():
                table = manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:
            raise RunError(self._damaged(step, error)) from None
        leaves = [jnp.asarray(table[name]) for name, _ in names]
        return jax.tree.unflatten(jax.tree.structure(expected), leaves)

    def _damaged(self, step: int, error: Exception) -> str:
        before = [other for other in self._open().all_steps() if other < step]
        remedy = f"; remove it to go back to step {max(before)}" if before else ""
        return f"{self.folder}/checkpoints/{step}: damaged{remedy} ({_first_line(error)})"

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            # Orbax tells of every file that it opens, and of errors that it raises all the same.
            logging.getLogger("absl").setLevel(logging.CRITICAL)
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            where = (self.folder / "checkpoints").resolve()
            self._manager = ocp.CheckpointManager(
                where, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._manager


@contextlib.contextmanager
def _only_the_first_error() -> Iterator[None]:
    """Orbax raises its first error and closes its event loop; later ones would print tracebacks."""
    original = asyncio.new_event_loop

    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args, **kwargs):
            try:
                return super().call_soon_threadsafe(*args, **kwargs)
            except RuntimeError:
                if not self.is_closed():
                    raise

        def call_exception_handler(self, context):
            pass

    asyncio.new_event_loop = Loop
    try:
        yield
    finally:
        asyncio.new_event_loop = original


_SECONDS_BETWEEN_FLUSHES = 10.0


class MetricsLog:
    """metrics.jsonl and TensorBoard events of a run.

    The events go through tensorboardX's record writer alone: its SummaryWriter hands them to a
    thread, which dies of a full disk and leaves training waiting for it.
    """

    def __init__(self, folder: Path, resume_from: int = 0):
        """Open for appending; lines after the step that training resumes from are dropped."""
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        path = folder / "metrics.jsonl"
        events = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._folder, self._flushed_at = folder, time.monotonic()
        with disk_errors(folder, _KEPT):
            rows = [row for row in read_metrics(folder) if row["step"] <= resume_from]
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
            self._file = path.open("a", encoding="utf-8")
            self._events = RecordWriter(str(events))
            self._event: Any = event_pb2.Event  # type: ignore[attr-defined]
            self._add(file_version="brain.Event:2")
            if resume_from:  # TensorBoard then drops what another process wrote from here on
                self._add(step=resume_from + 1, session_log={"status": "START"})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a report."""
        from tensorboardX.summary import scalar

        with disk_errors(self._folder, _KEPT):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._add(step=step, summary=scalar(name, value))
            if time.monotonic() - self._flushed_at > _SECONDS_BETWEEN_FLUSHES:
                self._events.flush()
                self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write what is left."""
        with disk_errors(self._folder, _KEPT):
            try:
                self._file.close()
            finally:
                self._events.close()

    def _add(self, **content: Any) -> None:
        self._events.write(self._event(wall_time=time.time(), **content).SerializeToString())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line cut off by a kill is left out."""
    path = folder / "metrics.jsonl"
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


_KEPT = " and go on with --resume (the last whole checkpoint is kept)"


@contextlib.contextmanager
def disk_errors(folder: Path, remedy: str = "") -> Iterator[None]:
    """Turn a failure to write into a `RunError` of one line.

    Args:
      folder: or the file that is written.
      remedy: what to do when there is room again.

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
            raise RunError(f"{folder}: the disk is full; make room{remedy}") from None
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
                    key: np.asarray(getattr(split.cameras, key)).tolist() for key in _CAMERA_SHAPES
                },
            }
            for name, split in scene.splits.items()
        },
    }


_CAMERA_SHAPES = {
    "camera_to_world": (3, 4), "focal": (2,), "centre": (2,), "distortion": (6,), "size": (2,)
}  # fmt: skip


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
            if split["lens"] not in get_args(Lens):
                raise ValueError(f"lens {split['lens']!r}")
            names, cameras = tuple(map(str, split["names"])), split["cameras"]
            arrays: dict[str, Any] = {
                key: _numbers(cameras[key], (len(names), *shape), key).astype(
                    np.int32 if key == "size" else np.float32
                )
                for key, shape in _CAMERA_SHAPES.items()
            }
            splits[name] = Split(names, Camera(**arrays, lens=split["lens"]))
        return Scene(
            name=str(contents["name"]),
            source=Path(contents["source"]),
            format=str(contents["format"]),
            splits=splits,
            near=float(_numbers(contents["near"], (), "near")),
            far=float(_numbers(contents["far"], (), "far")),
            to_user=Similarity(
                float(_numbers(frame["scale"], (), "scale")),
                _numbers(frame["rotation"], (3, 3), "rotation"),
                _numbers(frame["translation"], (3,), "translation"),
            ),
        )
    except FileNotFoundError:
        raise RunError(f"{folder}: not a run folder (no scene.json)") from None
    except KeyError as error:
        raise RunError(f"{path}: broken: {error} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, OSError) as error:
        raise RunError(f"{path}: broken: {_first_line(error)}") from None


def _numbers(values: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not (np.abs(array) < 1e9).all():
        raise ValueError(f"{what} should be {shape} finite numbers")
    return array

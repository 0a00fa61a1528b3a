"""A run's folder: begun, kept from being overwritten, read again."""

import json
import shutil
from pathlib import Path

import numpy as np

from jaxnerf.config import Config, ConfigError, flatten, from_json, to_json
from jaxnerf.runs.files import RunError, disk_errors, write_json, write_text
from jaxnerf.runs.scene import scene_to_json
from jaxnerf.scenes import Scene, SceneError


def create_folder(folder: Path, config: Config, scene: Scene, *, overwrite: bool = False) -> None:
    """Begin a run: its folder, configuration and scene.

    Raises:
      RunError: something is there already (unless overwrite, and it is a run), or it cannot be written.
    """
    check_free(folder, overwrite=overwrite)
    with disk_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            for stale in (folder / "checkpoints", *folder.glob("*_preds")):
                shutil.rmtree(stale, ignore_errors=True)
            for pattern in ("metrics.jsonl", "results*.json", "orbit.mp4", "events.*"):
                for stale in folder.glob(pattern):
                    stale.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_json(folder / "scene.json", scene_to_json(scene))
            save_config(folder, config)
        except (OSError, RunError):
            # Half a run would be taken for a folder of other files.
            for name in ("scene.json", "config.json"):
                (folder / name).unlink(missing_ok=True)
            raise


def save_config(folder: Path, config: Config) -> None:
    """Write a run's configuration.

    Raises:
      RunError: the disk is full, or the folder cannot be written.
    """
    with disk_errors(folder):
        write_text(folder / "config.json", to_json(config) + "\n")


def refuse_changes(folder: Path, config: Config, said: str) -> None:
    """Refuse to resume a run with settings that would make it another run.

    Args:
      folder: of the run.
      config: to go on with.
      said: how the user asked for it, for the message.

    Raises:
      ConfigError: a setting differs, other than how long training goes on and what is measured.
      RunError: the folder is not a run's.
    """
    before = flatten(read_config(folder))
    free = {"training.steps", "training.max_seconds"}
    if config.method == "nerf":  # else rays share a room for samples, and each pass has its own
        free.add("training.rays_per_pass")
    for key, value in flatten(config).items():
        if value != before[key] and key not in free and not key.startswith("evaluation."):
            raise ConfigError(
                f"{folder}: was trained with {key}={before[key]}; {said} cannot change it to {value}"
            )


def check_same_scene(folder: Path, trained: Scene, scene: Scene) -> None:
    """Refuse photographs that are not those of a run.

    Args:
      folder: of the run.
      trained: the scene that the run's folder holds.
      scene: the one that was read now.

    Raises:
      SceneError: the training cameras stand elsewhere, or see through other lenses or pixels.
    """
    before, now = (each.splits["train"].cameras for each in (trained, scene))
    poses, found = (np.asarray(cameras.camera_to_world, np.float32) for cameras in (before, now))
    same = np.array_equal(poses, found) and before.lens == now.lens
    for name in ("focal", "centre", "distortion", "size"):
        same = same and np.allclose(getattr(before, name), getattr(now, name), rtol=1e-5, atol=1e-6)
    if not same:
        raise SceneError(f"{scene.source}: not the scene that {folder} was trained on")


def check_free(folder: Path, *, overwrite: bool = False, prefix: str = "") -> None:
    """Refuse a folder that holds anything, but for a run that is to be overwritten.

    Args:
      folder: to be used.
      overwrite: whether a run that is there may go.
      prefix: how names of arguments begin in the message: "--" of flags.

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
        raise RunError(f"{folder}: holds other files; name an empty or new folder")
    if not overwrite:
        raise RunError(
            f"{folder}: holds a run already; go on with {prefix}resume, start anew with "
            f"{prefix}overwrite, or name another folder with {prefix}out"
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
        text = path.read_text(encoding="utf-8")
        config = from_json(text)
        if "ball" not in json.loads(text).get("scene", {}) and config.scene.space != "bounded":
            # Densities there meant something else for each ray, so that its pictures would be wrong.
            raise ConfigError("of an older version, for a space without an end; train again")
        return config
    except (ConfigError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{path}: {error}") from None

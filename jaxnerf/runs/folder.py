"""A run's folder: creating it, protecting it from being overwritten, and reading it."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np

from jaxnerf.config import Config, ConfigError, flatten, from_json, override, to_json
from jaxnerf.runs.files import RunError, disk_errors, write_json, write_text
from jaxnerf.runs.scene import scene_to_json
from jaxnerf.scenes import Scene, SceneError


def create_folder(folder: Path, config: Config, scene: Scene, *, overwrite: bool = False) -> None:
    """Create a run's folder with its configuration and scene.

    Raises:
      RunError: the folder is not empty (unless it is a run and `overwrite` is set), or it cannot be
        written.
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
        except BaseException:
            # With one of the files only, the folder would be recognised neither as a run nor as free.
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


def update_folder(folder: Path, config: Config, trained: Scene, source: Path) -> None:
    """Write what a resumed run may change: its configuration, and where its photographs are now.

    Args:
      folder: folder of the run.
      config: the configuration that it goes on with.
      trained: the scene as the folder has it.
      source: the folder of the photographs.

    Raises:
      RunError: the disk is full, or the folder cannot be written.
    """
    save_config(folder, config)
    if source.resolve() != trained.source:
        with disk_errors(folder):
            moved = dataclasses.replace(trained, source=source)
            write_json(folder / "scene.json", scene_to_json(moved))


def refuse_changes(folder: Path, config: Config, said: str) -> None:
    """Check that a run can be resumed with a configuration.

    Args:
      folder: folder of the run.
      config: configuration for resuming.
      said: the user's option for resuming, for the message.

    Raises:
      ConfigError: a setting differs, other than the length of training and the evaluation.
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
    """Check that photographs are those of a run.

    Args:
      folder: folder of the run.
      trained: the scene in the run's folder.
      scene: the scene that was read now.

    Raises:
      SceneError: the training cameras have other poses, lenses or sizes.
    """
    before, now = (each.splits["train"].cameras for each in (trained, scene))
    poses, found = (np.asarray(cameras.camera_to_world, np.float32) for cameras in (before, now))
    same = np.array_equal(poses, found) and before.lens == now.lens
    for name in ("focal", "centre", "distortion", "size"):
        same = same and np.allclose(getattr(before, name), getattr(now, name), rtol=1e-5, atol=1e-6)
    if not same:
        raise SceneError(f"{scene.source}: not the scene that {folder} was trained on")


def check_free(folder: Path, *, overwrite: bool = False, prefix: str = "") -> None:
    """Check that a folder can be used for a new run: it is empty, or a run that is to be overwritten.

    Args:
      folder: the folder.
      overwrite: whether a run in it may be overwritten.
      prefix: prefix of the names of options in the message: "--" for flags.

    Raises:
      RunError: it cannot be used.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder for a run")
    if not any(folder.iterdir()):
        return
    if not all((folder / name).exists() for name in ("config.json", "scene.json")):
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
        config, sections = from_json(text), json.loads(text)
        named = sections.get("scene", {})
        # So that an older run goes on as it began.
        if "find_points" not in named:
            config = override(config, {"scene.find_points": False})
        if "transmittance_loss" not in sections.get("voxels", {}):
            config = override(config, {"voxels.transmittance_loss": 0.0})
        if "ball" not in named and config.scene.space != "bounded":
            # The unit of density in unbounded spaces was another one, so that images would be wrong.
            raise ConfigError("of an older version, for an unbounded space; train again")
        return config
    except (ConfigError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{path}: {error}") from None

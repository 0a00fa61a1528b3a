"""A run's copy of its scene, scene.json: all that rendering needs, without photographs."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np

from jaxnerf.cameras import Camera
from jaxnerf.cameras.lenses import Lens
from jaxnerf.runs.files import RunError, first_line
from jaxnerf.scenes import NdcFrame, Scene, Similarity, Split


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """The contents of scene.json."""
    frame = scene.to_user
    return {
        "name": scene.name,
        "source": str(scene.source.resolve()),
        "root": scene.root,
        "format": scene.format,
        "near": scene.near,
        "far": scene.far,
        "to_user": {
            "scale": frame.scale,
            "rotation": frame.rotation.tolist(),
            "translation": frame.translation.tolist(),
        },
        "unbounded": scene.unbounded,
        "ndc": None if scene.ndc is None else dataclasses.asdict(scene.ndc),
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
    "camera_to_world": (3, 4), "focal": (2,), "centre": (2,), "distortion": (None,), "size": (2,)
}  # fmt: skip
_FEWEST_COEFFICIENTS = 6  # readers pad distortion coefficients to at least this number


def read_scene(folder: Path) -> Scene:
    """A run's scene, without photographs.

    Raises:
      RunError: the folder is not a run's, or its scene.json is broken.
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
        if "train" not in splits:
            raise ValueError("splits has no train")
        return Scene(
            name=str(contents["name"]),
            source=Path(contents["source"]),
            format=str(contents["format"]),
            splits=splits,
            near=_depth(contents["near"], "near"),
            far=_depth(contents["far"], "far"),
            to_user=Similarity(
                float(_numbers(frame["scale"], (), "scale")),
                _numbers(frame["rotation"], (3, 3), "rotation"),
                _numbers(frame["translation"], (3,), "translation"),
            ),
            ndc=_ndc(contents.get("ndc")),
            unbounded=bool(contents.get("unbounded", False)),
            root=str(contents.get("root", "images" if contents["format"] == "colmap" else "")),
        )
    except FileNotFoundError:
        raise RunError(f"{folder}: not a run folder (no scene.json)") from None
    except KeyError as error:
        raise RunError(f"{path}: broken: {error} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, OSError) as error:
        raise RunError(f"{path}: broken: {first_line(error)}") from None


def _ndc(values: dict[str, Any] | None) -> NdcFrame | None:
    if values is None:
        return None
    focal, size = (_numbers(values[key], (2,), key) for key in ("focal", "size"))
    near = float(_numbers(values["near"], (), "near"))
    return NdcFrame((float(focal[0]), float(focal[1])), (int(size[0]), int(size[1])), near)


def _depth(value: Any, what: str) -> float:
    """A finite number of any size: who wants no far names a large one."""
    if not math.isfinite(value):
        raise ValueError(f"{what} should be a finite number")
    return float(value)


def _numbers(values: Any, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """Finite numbers of a given shape; None in the shape is any number of coefficients from 6 on."""
    array = np.asarray(values, np.float64)
    fits = array.ndim == len(shape) and all(
        side >= _FEWEST_COEFFICIENTS if wanted is None else side == wanted
        for side, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or not (np.abs(array) < 1e9).all():
        raise ValueError(f"{what} should be {shape} finite numbers")
    return array

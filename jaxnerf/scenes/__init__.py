"""Scenes: photographs with known cameras, whatever format they came in."""

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxnerf.cameras import Camera


class SceneError(Exception):
    """A scene's files are missing or wrong: one line that names the file and what is wrong in it."""


@dataclasses.dataclass(frozen=True)
class Similarity:
    """A rotation, a uniform scale and a shift: x -> scale * rotation @ x + translation.

    >>> double = Similarity(scale=2.0, translation=np.array([1.0, 0.0, 0.0]))
    >>> double.points(np.array([1.0, 1.0, 0.0])).tolist()
    [3.0, 2.0, 0.0]
    """

    scale: float = 1.0
    rotation: Float[np.ndarray, "3 3"] = dataclasses.field(default_factory=lambda: np.eye(3))
    translation: Float[np.ndarray, "3"] = dataclasses.field(default_factory=lambda: np.zeros(3))

    def points(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Where points go."""
        return self.scale * np.asarray(points) @ self.rotation.T + self.translation

    def poses(self, poses: Float[np.ndarray, "*batch 3 4"]) -> Float[np.ndarray, "*batch 3 4"]:
        """Where cameras go: positions as points, orientations turned but not scaled."""
        poses = np.asarray(poses)
        position = self.points(poses[..., 3])
        return np.concatenate([self.rotation @ poses[..., :3], position[..., None]], axis=-1)

    def inverse(self) -> "Similarity":
        """The similarity that undoes this one."""
        rotation = self.rotation.T
        return Similarity(1.0 / self.scale, rotation, -rotation @ self.translation / self.scale)


@dataclasses.dataclass(frozen=True)
class Split:
    """Some of a scene's photographs.

    Attributes:
      names: of each photograph, as its file was named.
      cameras: a batch of as many.
      images: 8-bit sRGB with straight alpha (255 where the file had none). None until read. Smaller
        photographs are padded with zeros at the right and the bottom; `cameras.size` has their sizes.
      masks: which pixels count. Others, which a mask of the scene ignores or which are padding, are
        never trained on or measured. None if all count.
    """

    names: tuple[str, ...]
    cameras: Camera
    images: UInt8[np.ndarray, "N height width 4"] | None = None
    masks: Bool[np.ndarray, "N height width"] | None = None

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Photographs and cameras in a frame that fields are comfortable in.

    Attributes:
      name: for people, and the name of its runs.
      source: the folder it was read from.
      format: which reader read it.
      splits: "train", "test" and, where the format has it, "val".
      near, far: the depths between which everything lies, in the scene's frame.
      to_user: from the scene's frame to that of the files.
      points: places on surfaces, in the scene's frame, where the files have them.
      notes: what a person should know of how the files were read, each part of a sentence.
    """

    name: str
    source: Path
    format: str
    splits: Mapping[str, Split]
    near: float
    far: float
    to_user: Similarity = dataclasses.field(default_factory=Similarity)
    points: Float[np.ndarray, "P 3"] | None = None
    notes: tuple[str, ...] = ()


def demo_path() -> Path:
    """The folder of the demo scene that comes with the package."""
    return Path(str(importlib.resources.files("jaxnerf.scenes"))) / "demo"


def load_scene(
    path: str | Path | None = None,
    *,
    downscale: int = 1,
    longest_side: int = 0,
    pixels: Literal["centre", "corner"] = "centre",
    images: Sequence[str] = ("train",),
    allow_outside_paths: bool = False,
) -> Scene:
    """Read a scene from a folder, recognising its format.

    Args:
      path: the folder; the bundled demo scene by default.
      downscale: shrink photographs by this whole factor (the mean of squares of pixels).
      longest_side: then shrink by the smallest whole factor that leaves no side with more pixels; 0
        for no limit.
      pixels: whether a pixel's ray passes through its centre or, as in the paper's released code,
        its upper left corner.
      images: the splits whose photographs are read; of the others only the cameras are.
      allow_outside_paths: whether files outside of the folder may be read, which the scene's files
        name by absolute paths, by .. or through links.

    Raises:
      SceneError: the folder or something in it is missing or wrong.
    """
    from jaxnerf.scenes import blender

    if downscale < 1:
        raise SceneError(f"downscale must be a whole number from 1 up, got {downscale}")
    folder = demo_path() if path is None else Path(path)
    try:
        folder.stat()
    except FileNotFoundError:
        raise SceneError(f"{folder}: no such folder") from None
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read: {error.strerror}") from None
    if not folder.is_dir():
        raise SceneError(f"{folder}: not a folder")
    if blender.recognises(folder):
        scene = blender.read(
            folder,
            downscale=downscale,
            longest_side=longest_side,
            images=images,
            allow_outside_paths=allow_outside_paths,
        )
        return scene if pixels == "centre" else _through_corners(scene)
    found = "transforms.json" if (folder / "transforms.json").exists() else None
    hint = f" ({found} is of a format that is not read yet)" if found else ""
    raise SceneError(
        f"{folder}: not a scene: no transforms_train.json as in NeRF's Blender format{hint}"
    )


def _through_corners(scene: Scene) -> Scene:
    splits = {
        name: dataclasses.replace(split, cameras=split.cameras.through_corners())
        for name, split in scene.splits.items()
    }
    return dataclasses.replace(scene, splits=splits)

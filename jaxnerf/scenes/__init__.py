"""Scenes: photographs with known cameras, whatever format they came in.

A folder may hold several formats, of which the richest is read, and the scene's notes say so. From what
says most to what says least:

  transforms_train.json  has splits of its own, and whoever wrote it meant these
  transforms.json        was made from a COLMAP model as a rule, and lenses, masks and splits chosen since
  cameras_sphere.npz     says where the object is, and has its masks beside it
  sparse/                has lenses and points; poses_bounds.npy was made from it
  poses_bounds.npy       has one focal length a photograph, and depths

With one exception: where all cameras look the same way, poses_bounds.npy goes before the COLMAP model,
because results on such captures are published in its frame, on its photographs and with its depths.
Lenses and points come from the model there too (`jaxnerf.scenes.llff`). A model that is incomplete, or
whose photographs are not there under their names, yields to poses_bounds.npy as well.
"""

import dataclasses
import functools
import importlib
import importlib.resources
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxnerf.cameras import Camera
from jaxnerf.errors import Error

# The modules that read scenes, in the order in which they are tried: the file that they look for, the
# name of the format, and what it has that others have not.
_READERS = {
    "blender": ("transforms_train.json", "NeRF's Blender format", "splits"),
    "nerfstudio": ("transforms.json", "nerfstudio", "chosen lenses, masks and splits"),
    "instant_ngp": ("transforms.json", "instant-ngp", "chosen lenses"),
    "dtu": ("cameras_sphere.npz", "DTU as NeuS has it", "masks and the object's place"),
    "colmap": ("sparse/", "COLMAP", "lenses and points"),
    "llff": ("poses_bounds.npy", "LLFF", "the frame of published results"),
}
# How many files are named in the message when none recognises a folder.
_NAMED = 5
# Pixels of less alpha are transparent; and where this share of them is, alpha is meant.
CLEAR, LEAST_CLEAR = 128, 0.01


class SceneError(Error):
    """A scene's files are missing or wrong: one line that names the file and what is wrong in it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How scenes are read; see `load_scene`."""

    downscale: int = 1
    longest_side: int = 0
    images: Sequence[str] = ("train",)
    allow_outside_paths: bool = False
    hold_out_sector: bool = False
    pixels: Literal["centre", "corner"] = "centre"


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

    def poses(self, poses: Float[np.ndarray, "*batch rows 4"]) -> Float[np.ndarray, "*batch 3 4"]:
        """Where cameras go: positions as points, orientations turned but not scaled.

        Args:
          poses: camera-to-world, of 3 rows, or of 4.
        """
        poses = np.asarray(poses)[..., :3, :4]
        position = self.points(poses[..., 3])
        return np.concatenate([self.rotation @ poses[..., :3], position[..., None]], axis=-1)

    def cameras(self, cameras: Camera) -> Camera:
        """One camera or several where they go, with poses in float64."""
        poses = self.poses(np.asarray(cameras.camera_to_world, np.float64))
        return dataclasses.replace(cameras, camera_to_world=poses)

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

    @functools.cached_property
    def has_alpha(self) -> bool:
        """Whether the photographs' alpha tells the scene from what is behind it."""
        assert self.images is not None
        transparent = self.images[:, ::4, ::4, 3] < CLEAR
        if self.masks is not None:
            transparent = transparent[self.masks[:, ::4, ::4]]
        return bool(transparent.size and np.mean(transparent) > LEAST_CLEAR)


@dataclasses.dataclass(frozen=True)
class NdcFrame:
    """What `jaxnerf.cameras.to_ndc` wants to know of a forward-facing scene, in the scene's frame.

    Attributes:
      focal: (f_x, f_y) in pixels, of a camera at the origin that looks along -z.
      size: the (width, height) of its picture in pixels.
      near: distance of the near plane from it; nothing lies nearer.
    """

    focal: tuple[float, float]
    size: tuple[int, int]
    near: float = 1.0


@dataclasses.dataclass(frozen=True)
class HeldOutPoints:
    """Points that training does not see, to measure depths by.

    Attributes:
      positions: in the scene's frame.
      tracks: of each split, pairs (camera, point) as `Scene.tracks` has them; None where it is not known
        which cameras see a point.
    """

    positions: Float[np.ndarray, "H 3"]
    tracks: Mapping[str, Int[np.ndarray, "T 2"]] | None = None


@dataclasses.dataclass(frozen=True)
class Scene:
    """Photographs and cameras in a frame that fields are comfortable in.

    Attributes:
      name: for people, and the name of its runs.
      source: the folder it was read from.
      format: which reader read it.
      splits: "train", "test" and, where the format has it, "val"; "sector" if it was asked for.
      near, far: the depths between which everything lies, in the scene's frame.
      to_user: from the scene's frame to that of the files.
      ndc: for scenes that all cameras look at from one side, to some distance or to infinity: the
        normalised device coordinates in which they are finite. None for others.
      unbounded: whether pictures show what is all around, without an end; far is then only a horizon.
      points: places on surfaces, in the scene's frame, where the files have them; but for those that are
        held out.
      tracks: pairs (camera of the training split, point), where it is known that the camera sees the
        point; None where the files have points and do not say.
      held_out: every 10th of the points, if there are enough of them.
      notes: what a person should know of how the files were read, each part of a sentence.
      options: how `load_scene` read it; None of a scene that comes from elsewhere.
    """

    name: str
    source: Path
    format: str
    splits: Mapping[str, Split]
    near: float
    far: float
    to_user: Similarity = dataclasses.field(default_factory=Similarity)
    ndc: NdcFrame | None = None
    unbounded: bool = False
    points: Float[np.ndarray, "P 3"] | None = None
    tracks: Int[np.ndarray, "T 2"] | None = None
    held_out: HeldOutPoints | None = None
    notes: tuple[str, ...] = ()
    options: Options | None = None

    @property
    def all_points(self) -> Float[np.ndarray, "P 3"]:
        """The points and those that are held out; none where the files have none."""
        parts = [self.points, self.held_out.positions if self.held_out else None]
        return np.concatenate([np.zeros((0, 3)), *(part for part in parts if part is not None)])


def describe(scene: Scene) -> str:
    """What was found in a scene's folder, in one line for people."""
    counts = ", ".join(f"{len(split)} {name}" for name, split in scene.splits.items())
    sizes = np.concatenate([np.asarray(split.cameras.size) for split in scene.splits.values()])
    pixels = sizes.astype(np.int64).prod(axis=-1)
    smallest, largest = (
        f"{width} x {height}" for width, height in sizes[[pixels.argmin(), pixels.argmax()]]
    )
    parts = [
        f"{scene.name}: {scene.format} scene, {counts} views of {smallest}"
        + (f" to {largest}" if largest != smallest else ""),
        f"{next(iter(scene.splits.values())).cameras.lens} lens",
        _describe_masks(scene),
        *_describe_alpha(scene),
        *(["forward-facing"] if scene.ndc else []),
        *(["unbounded"] if scene.unbounded else []),
        f"near {scene.near:g}, far {scene.far:g}",
        *scene.notes,
    ]
    return ", ".join(parts)


def _describe_masks(scene: Scene) -> str:
    counted, total = 0, 0
    for split in scene.splits.values():
        if split.masks is not None:
            counted += int(np.count_nonzero(split.masks))
            total += int(np.asarray(split.cameras.size, np.int64).prod(axis=-1).sum())
    return f"masks on {1.0 - counted / total:.1%} of the pixels" if counted < total else "no masks"


def _describe_alpha(scene: Scene) -> list[str]:
    """What alpha is taken for where formats do not say: in photographs of a capture."""
    if scene.format in ("blender", "dtu"):
        return []
    read = [split for split in scene.splits.values() if split.images is not None]
    clear = total = 0
    for split in read:
        assert split.images is not None
        counted = split.images[:, ::2, ::2, 3]
        inside = np.ones(counted.shape, bool) if split.masks is None else split.masks[:, ::2, ::2]
        clear += int(np.count_nonzero(inside & (counted < CLEAR)))
        total += int(np.count_nonzero(inside))
    if clear < LEAST_CLEAR * total or not total:
        return []
    return [
        f"alpha on {clear / total:.1%} of the pixels, taken for a transparent background"
        + (" (--scene.space=bounded if the object stands alone)" if scene.unbounded else "")
    ]


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
    hold_out_sector: bool = False,
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
      hold_out_sector: whether a tenth of the cameras, all from one side, is taken out of the other splits
        and becomes the split "sector"; see `jaxnerf.scenes.sector`.

    Raises:
      SceneError: the folder or something in it is missing or wrong.
    """
    if downscale < 1:
        raise SceneError(f"downscale must be a whole number from 1 up, got {downscale}")
    folder = demo_path() if path is None else Path(path)
    found = _entries(folder)
    name, notes = _chosen(folder, found, allow_outside_paths)
    options = Options(downscale, longest_side, images, allow_outside_paths, hold_out_sector, pixels)
    scene = importlib.import_module(f"jaxnerf.scenes.{name}").read(folder, options)
    scene = dataclasses.replace(scene, notes=scene.notes + notes, options=options)
    return scene if pixels == "centre" else _through_corners(scene)


def _chosen(folder: Path, found: str, allow_outside_paths: bool) -> tuple[str, tuple[str, ...]]:
    """The module that reads a folder, and a note on the other formats in it.

    Raises:
      SceneError: none recognises the folder; `found` says what is in it.
    """
    modules = {name: importlib.import_module(f"jaxnerf.scenes.{name}") for name in _READERS}
    there = [name for name, module in modules.items() if module.recognises(folder)]
    if not there:
        wanted = ", ".join(f"{file} ({format})" for file, format, _ in _READERS.values())
        raise SceneError(f"{folder}: not a scene: looked for {wanted}; found {found}")
    name, why = there[0], f"has {_READERS[there[0]][2]}"
    if name == "colmap" and "llff" in there:
        forward = modules["llff"].faces_forward(folder, allow_outside_paths)
        lacks = modules["colmap"].shortcoming(folder, allow_outside_paths, model_only=forward)
        if lacks or forward:
            name, why = "llff", lacks or f"has {_READERS['llff'][2]}"
    file = _READERS[name][0]
    others = [
        f"{_READERS[other][0]} ({_READERS[other][1]})"
        for other in there
        if other != name and _READERS[other][0] != file
    ]
    if not others:
        return name, ()
    reason = f"since it {why}" if why.startswith("has ") else f"since {why}"
    return name, (f"also holds {' and '.join(others)}: {file} is read, {reason}",)


def _entries(folder: Path) -> str:
    """The first things in a folder, for a message.

    Raises:
      SceneError: it is none, or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name + "/" * entry.is_dir(follow_symlinks=False)
                for entry in itertools.islice(entries, 1000)
            )
    except FileNotFoundError:
        raise SceneError(f"{folder}: no such folder") from None
    except NotADirectoryError:
        raise SceneError(f"{folder}: not a folder") from None
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read: {error.strerror}") from None
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "nothing"


def _through_corners(scene: Scene) -> Scene:
    splits = {
        name: dataclasses.replace(split, cameras=split.cameras.through_corners())
        for name, split in scene.splits.items()
    }
    return dataclasses.replace(scene, splits=splits)

"""Scenes: photographs with known cameras, read from any of several formats.

If a folder holds files of several formats, the format with the most information is read, and the scene's
notes name it. In the order of preference:

  transforms_train.json  has its own splits, as its author meant them
  transforms.json        is usually made from a COLMAP model, with lenses, masks and splits chosen later
  cameras_sphere.npz     has the position and size of the object, and masks of it
  sparse/                has lenses and points; poses_bounds.npy is made from it
  poses_bounds.npy       has one focal length for each photograph, and near and far depths

There is one exception: if all cameras look the same way, poses_bounds.npy is preferred to the COLMAP
model, because published results on such captures use its frame, its photographs and its depths. Lenses
and points are then still taken from the model (`jaxnerf.scenes.llff`). poses_bounds.npy is also
preferred if the model is incomplete, or if none of its photographs is there under its name.
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

# The modules that read scenes, in the order in which they are tried: the file by which each recognises a
# folder, the name of the format, and the information that only this format has.
_READERS = {
    "blender": ("transforms_train.json", "NeRF's Blender format", "splits"),
    "nerfstudio": ("transforms.json", "nerfstudio", "chosen lenses, masks and splits"),
    "instant_ngp": ("transforms.json", "instant-ngp", "chosen lenses"),
    "dtu": ("cameras_sphere.npz", "DTU as NeuS has it", "masks and the object's place"),
    "colmap": ("sparse/", "COLMAP", "lenses and points"),
    "llff": ("poses_bounds.npy", "LLFF", "the frame of published results"),
}
# Number of files that are named in the message when no reader recognises a folder.
_NAMED = 5
# Pixels with alpha below CLEAR are transparent. Photographs of which more than the fraction LEAST_CLEAR
# of the pixels is transparent have an alpha channel that separates the scene from its background.
CLEAR, LEAST_CLEAR = 128, 0.01


class SceneError(Error):
    """A scene's files are missing or wrong: a message of one line that names the file and the fault."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options with which a scene is read; see `load_scene`."""

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
        """Points after the transformation."""
        return self.scale * np.asarray(points) @ self.rotation.T + self.translation

    def poses(self, poses: Float[np.ndarray, "*batch rows 4"]) -> Float[np.ndarray, "*batch 3 4"]:
        """Poses after the transformation: positions as points, orientations rotated but not scaled.

        Args:
          poses: camera-to-world, with 3 or 4 rows.
        """
        poses = np.asarray(poses)[..., :3, :4]
        position = self.points(poses[..., 3])
        return np.concatenate([self.rotation @ poses[..., :3], position[..., None]], axis=-1)

    def cameras(self, cameras: Camera) -> Camera:
        """One camera or a batch of cameras after the transformation, with poses in float64."""
        poses = self.poses(np.asarray(cameras.camera_to_world, np.float64))
        return dataclasses.replace(cameras, camera_to_world=poses)

    def inverse(self) -> "Similarity":
        """The inverse similarity."""
        rotation = self.rotation.T
        return Similarity(1.0 / self.scale, rotation, -rotation @ self.translation / self.scale)


@dataclasses.dataclass(frozen=True)
class Split:
    """A subset of a scene's photographs.

    Attributes:
      names: the file name of each photograph.
      cameras: a batch with the camera of each photograph.
      images: 8-bit sRGB with straight alpha (255 if the file has no alpha). None if the photographs were
        not read. Smaller photographs are padded with zeros at the right and the bottom; `cameras.size`
        has their sizes.
      masks: which pixels are valid. Pixels that a mask of the scene ignores, and padding, are never used
        in training or measurements. None if all pixels are valid.
    """

    names: tuple[str, ...]
    cameras: Camera
    images: UInt8[np.ndarray, "N height width 4"] | None = None
    masks: Bool[np.ndarray, "N height width"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def has_alpha(self) -> bool:
        """Whether the photographs' alpha separates the scene from its background."""
        assert self.images is not None
        transparent = self.images[:, ::4, ::4, 3] < CLEAR
        if self.masks is not None:
            transparent = transparent[self.masks[:, ::4, ::4]]
        return bool(transparent.size and np.mean(transparent) > LEAST_CLEAR)


@dataclasses.dataclass(frozen=True)
class NdcFrame:
    """The parameters of `jaxnerf.cameras.to_ndc` for a forward-facing scene, in the scene's frame.

    Attributes:
      focal: (f_x, f_y) in pixels of a camera at the origin that looks along -z.
      size: the (width, height) of its image in pixels.
      near: distance of the near plane from the camera; the scene lies behind this plane.
    """

    focal: tuple[float, float]
    size: tuple[int, int]
    near: float = 1.0


@dataclasses.dataclass(frozen=True)
class HeldOutPoints:
    """Points that are kept out of training, to measure depths by.

    Attributes:
      positions: positions in the scene's frame.
      tracks: for each split, pairs (camera, point) as in `Scene.tracks`; None if it is not known which
        cameras see a point.
    """

    positions: Float[np.ndarray, "H 3"]
    tracks: Mapping[str, Int[np.ndarray, "T 2"]] | None = None


@dataclasses.dataclass(frozen=True)
class Scene:
    """Photographs and cameras in a frame that suits fields.

    Attributes:
      name: name for people, also used for the scene's runs.
      source: the folder that the scene was read from.
      format: name of the format.
      splits: "train", "test" and, if the format has it, "val"; "sector" with `hold_out_sector`.
      near, far: the depths between which the scene lies, in the scene's frame.
      to_user: similarity from the scene's frame to that of the files.
      ndc: for forward-facing scenes, the frame of the normalised device coordinates in which the scene is
        finite. None for other scenes.
      unbounded: whether photographs show the surroundings without a bound; far is then only a horizon.
      points: points on surfaces, in the scene's frame, without the points that are held out; None if the
        files have no points.
      points_found: whether the points were found in the photographs (`jaxnerf.scenes.plane_sweep`), and
        not read from files.
      tracks: pairs (camera of the training split, point) for which it is known that the camera sees the
        point; None if the files do not have this information.
      held_out: every 10th of the points, if there are at least 100.
      notes: remarks for the user on how the files were read, each part of a sentence.
      options: the options with which `load_scene` read the scene; None for scenes made otherwise.
      root: the folder, within `source`, to which the names of photographs are relative; "" for `source`.
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
    points_found: bool = False
    tracks: Int[np.ndarray, "T 2"] | None = None
    held_out: HeldOutPoints | None = None
    notes: tuple[str, ...] = ()
    options: Options | None = None
    root: str = ""

    @property
    def all_points(self) -> Float[np.ndarray, "P 3"]:
        """The points, and those that are held out; an empty array if the files have no points."""
        parts = [self.points, self.held_out.positions if self.held_out else None]
        return np.concatenate([np.zeros((0, 3)), *(part for part in parts if part is not None)])


def without_photographs(scene: Scene) -> Scene:
    """A scene without its photographs and their masks, which take most of its memory."""
    splits = {
        name: dataclasses.replace(split, images=None, masks=None)
        for name, split in scene.splits.items()
    }
    return dataclasses.replace(scene, splits=splits)


def describe(scene: Scene) -> str:
    """A scene's contents in one line for people."""
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
    """How alpha is interpreted in formats that do not define it: in photographs of a capture."""
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
    return [f"alpha on {clear / total:.1%} of the pixels, taken for a transparent background"]


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
      downscale: shrink photographs by this whole factor N, averaging blocks of N x N pixels.
      longest_side: then shrink them by the smallest whole factor after which no side has more pixels than
        this; 0 for no limit.
      pixels: whether a pixel's ray passes through its centre or, as in the paper's released code,
        its upper left corner.
      images: the splits whose photographs are read; of other splits only the cameras are read.
      allow_outside_paths: whether files outside of the folder may be read, if the scene's files name them
        by absolute paths, by .. or through links.
      hold_out_sector: whether a tenth of the cameras, all from one side, is removed from the other splits
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
    """The name of the module that reads a folder, and a note on the other formats in it.

    Raises:
      SceneError: no reader recognises the folder; `found` lists its contents for the message.
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
    """The names of the first entries of a folder, for a message.

    Raises:
      SceneError: it is not a folder, or cannot be read.
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

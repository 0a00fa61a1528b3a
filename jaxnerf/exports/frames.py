"""The frames of a camera path as numbered files. An interrupted rendering continues where it stopped.

A folder has 0000.png, 0001.png, ..., with depth also depth/0000.exr or depth/0000.png and so on, and
render.json with all settings that affect the frames. Files are written completely or not at all, so an
existing file of a frame is kept, whichever process wrote it.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from PIL import Image

from jaxnerf.cameras import Camera
from jaxnerf.evaluation import to_8bit
from jaxnerf.exports.depth import is_whole_exr, write_depth_exr, write_depth_png
from jaxnerf.exports.pictures import Look, Shown, look_through, panels_of, surface_depth
from jaxnerf.exports.scans import Scan
from jaxnerf.exports.spherical import mark_spherical
from jaxnerf.exports.video import open_video, write_png_16
from jaxnerf.runs.files import PARTIAL, RunError, replacing, write_json

SETTINGS = "render.json"
_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Frames:
    """The frames of a path, and their files.

    Attributes:
      folder: folder of the files.
      cameras: a camera for each frame.
      look: how the frames are rendered.
      bits: bits of a colour: 8 or 16.
      depth: format of the files of depth; "" for none.
      depth_level: depth of one level of a 16-bit PNG of depth, in the user's unit.
    """

    folder: Path
    cameras: Camera
    look: Look = Look()
    bits: Literal[8, 16] = 8
    depth: Literal["", "exr", "png"] = ""
    depth_level: float = 1e-3

    def __len__(self) -> int:
        return len(self.cameras)

    def files(self, index: int) -> tuple[Path, ...]:
        """The file of a frame's image, and that of its depth if there is one."""
        name = f"{index:0{max(_DIGITS, len(str(len(self) - 1)))}d}"
        picture = self.folder / f"{name}.png"
        return (
            (picture, self.folder / "depth" / f"{name}.{self.depth}") if self.depth else (picture,)
        )

    def missing(self) -> list[int]:
        """The frames whose files do not exist or are damaged."""
        return [index for index in range(len(self)) if not all(map(_is_whole, self.files(index)))]


def begin(frames: Frames, run: Shown, *, overwrite: bool = False) -> list[int]:
    """Create the folder of frames, or check the existing one.

    Args:
      frames: the frames of a path.
      run: the run or volume that they show.
      overwrite: whether frames with other settings are removed; otherwise they are an error.

    Returns:
      The frames that are to be rendered.

    Raises:
      RunError: the folder holds frames with other settings, or other files.
      OSError: the folder cannot be written.
    """
    path, settings = frames.folder / SETTINGS, settings_of(frames, run)
    if frames.folder.exists():
        before = _read(path)
        # A run that was killed as it began has left a part of its settings.
        others = (each for each in frames.folder.iterdir() if not each.name.startswith(PARTIAL))
        if before is None and any(others):
            raise RunError(f"{frames.folder}: is there already, and not a folder of frames")
        change = "" if before is None else _change(before, settings)
        if change and not overwrite:
            raise RunError(
                f"{frames.folder}: holds frames of other settings: {change}; name another --out, or say "
                "--overwrite to begin anew"
            )
        if change:
            remove(frames.folder)
    frames.files(0)[-1].parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, settings)
    return frames.missing()


def render_frames(
    frames: Frames, run: Shown, indices: Iterable[int], progress: Callable[[], None] | None = None
) -> None:
    """Render some frames of a path, each into its files.

    Args:
      frames: the frames of a path; `begin` has created their folder.
      run: the run or volume that they show.
      indices: indices of the frames.
      progress: called after each frame.

    Raises:
      OSError: a file cannot be written.
    """
    for index in indices:
        seen = look_through(run, frames.cameras[index], frames.look)
        picture, *depth = frames.files(index)
        # The image is written last: if it exists, all files of the frame exist.
        for file in depth:
            if frames.depth == "exr":
                write_depth_exr(file, surface_depth(seen))
            else:
                write_depth_png(file, surface_depth(seen), frames.depth_level)
        values = panels_of(seen, frames.look)
        if frames.bits == 16:
            write_png_16(picture, np.rint(np.clip(values, 0.0, 1.0) * 65535.0).astype(np.uint16))
        else:
            with replacing(picture) as partial:
                Image.fromarray(to_8bit(values)).save(partial, compress_level=1)
        if progress:
            progress()


def assemble(frames: Frames, out: Path, frames_per_second: float) -> None:
    """Make a video of frames that all exist.

    An mp4 for headsets is marked as such (`jaxnerf.exports.spherical`).

    Raises:
      ValueError, ImportError, OSError: see `open_video`.
    """
    with open_video(out, frames_per_second, finish=_mark_of(frames, out)) as write:
        for index in range(len(frames)):
            with Image.open(frames.files(index)[0]) as image:
                write(np.asarray(image))


def _mark_of(frames: Frames, out: Path) -> Callable[[Path], None] | None:
    """A function that marks an mp4 of one panel, for two eyes or a sphere, as one for headsets."""
    eyes, cameras = frames.look.eyes, frames.cameras
    is_sphere = cameras.lens == "equirectangular"
    if out.suffix != ".mp4" or len(frames.look.panels) > 1 or (eyes == "one" and not is_sphere):
        return None
    turn = float(cameras.size[0, 0] / cameras.focal[0, 0]) if is_sphere else None
    degrees = None if turn is None else min(math.degrees(turn), 360.0)
    return lambda path: mark_spherical(path, eyes, degrees)


def remove(folder: Path) -> None:
    """Remove a folder's frames and settings, and the folder if it holds nothing else."""
    for file in _files_in(folder):
        file.unlink(missing_ok=True)
    for part in (folder / "depth", folder):
        if part.is_dir() and not any(part.iterdir()):
            part.rmdir()


def settings_of(frames: Frames, run: Shown) -> dict[str, Any]:
    """All settings that affect the frames, as in render.json."""
    size = np.asarray(frames.cameras.size)[0]
    look = dataclasses.asdict(frames.look)
    cameras = {
        key: np.asarray(getattr(frames.cameras, key)).tolist()
        for key in ("camera_to_world", "focal", "centre", "distortion", "size")
    }
    of_scan = {}
    if isinstance(run, Scan):
        of_scan = {"volume": _digest(run.field), "compositing": run.compositing}
    known = {
        "run": run.folder.name,
        "step": run.step,
        "weights": _digest((run.params, run.occupancy)),
        **of_scan,
        "frames": len(frames),
        "width": int(size[0]),
        "height": int(size[1]),
        "bits": frames.bits,
        "depth": frames.depth,
        "depth_level": frames.depth_level if frames.depth == "png" else None,
        **look,
        "lens": frames.cameras.lens,
        "cameras": cameras,
    }
    return json.loads(json.dumps(known))  # tuples are lists in the file


def _change(before: dict[str, Any], now: dict[str, Any]) -> str:
    """A description of the first setting that differs; empty if none does."""
    for key, value in now.items():
        if before.get(key) != value:
            short = all(isinstance(x, int | float | str | None) for x in (value, before.get(key)))
            told = short and key != "weights"
            changed = f"{key} was {before.get(key) or 'none'}, now {value or 'none'}"
            return changed if told else f"{key} changed"
    return ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise RunError(f"{path}: broken JSON; remove the folder, or name another --out") from None
    return contents if isinstance(contents, dict) else {}


def _digest(tree: Any) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _is_whole(file: Path) -> bool:
    """Whether a file is complete and can be read."""
    if file.suffix == ".exr":
        return is_whole_exr(file)
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):  # Pillow raises any of these for a damaged PNG
        return False
    return True


def _files_in(folder: Path) -> Iterator[Path]:
    """The files in a folder that are frames, partial frames or their settings."""
    yield folder / SETTINGS
    for part in (folder, folder / "depth"):
        for file in part.glob("*"):
            if file.suffix in (".png", ".exr") and file.stem.removeprefix(PARTIAL).isdecimal():
                yield file

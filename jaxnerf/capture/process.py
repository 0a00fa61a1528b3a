"""A scene's folder from photographs or a video without poses.

    transforms.json   cameras, in the format of nerfstudio and instant-ngp
    images/           the photographs, upright, or the video's sharp frames
    sparse/0/         the same cameras and the points as COLMAP's binary model
    sparse_pc.ply     the points alone

Structure from motion determines no origin, no directions and no unit. All files are therefore in one
frame, that of `jaxnerf.scenes.frames.normalising`: the point that the cameras look at is the origin, +z
is upward, and the farthest camera has distance 1. There is no "applied_transform", since there is no
other frame.
"""

import contextlib
import dataclasses
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from jaxnerf.capture.frames import extract_sharp_frames
from jaxnerf.capture.structure_from_motion import Progress, Settings, import_pycolmap, reconstruct
from jaxnerf.runs.files import RunError, write_json
from jaxnerf.scenes import SceneError
from jaxnerf.scenes.frames import normalising
from jaxnerf.scenes.images import UPRIGHT, as_stored, image_size, read_image

if TYPE_CHECKING:
    import pycolmap

_SUFFIXES = (".png", ".jpg", ".jpeg")
# In the order of removal, which is the reverse of that of creation: transforms.json, by which readers
# recognise a scene, is created last.
_MADE = ("transforms.json", "sparse_pc.ply", "sparse", "images")
_PARTIAL = ".partial"
_LEAST = 3
# EXIF's tag, and what turns a photograph with each of its values upright.
# Tags that are true of the file that was read only.
_ORIENTATION, _SIDES = 0x0112, (0x0100, 0x0101)
# Formats that COLMAP reads as they are, and Pillow's modes of them.
_STORED, _MODES_OF_JPEG = ("PNG", "JPEG", "MPO"), ("RGB", "L")
_MODES_OF_PNG = ("RGB", "RGBA", "L", "LA", "P", "1", "I", "I;16")
# The side of instant-ngp's bounding box; 16 is the value that its own tools write.
_NGP_BOX = 16


@dataclasses.dataclass(frozen=True)
class Processed:
    """The result of processing.

    Attributes:
      registered, missing: names of the photographs whose cameras were found, and of the others.
      elsewhere: for each further model, which is not connected to the first one, the number of missing
        photographs in it.
      points: number of sparse points.
      error: mean reprojection error of the points, in pixels.
    """

    registered: tuple[str, ...]
    missing: tuple[str, ...]
    elsewhere: tuple[int, ...]
    points: int
    error: float

    @property
    def total(self) -> int:
        """Number of photographs."""
        return len(self.registered) + len(self.missing)


def process(
    source: str | Path,
    out: str | Path,
    settings: Settings = Settings(),
    *,
    frames: int = 100,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Processed:
    """Compute the cameras of photographs, and write a scene's folder; see the module.

    The folder's contents appear at the end, completely or not at all.

    Args:
      source: a folder of PNG or JPEG photographs (other files and subfolders are ignored), or a video.
      out: the folder to create.
      settings: settings of structure from motion.
      frames: number of frames that are taken from a video.
      overwrite: whether to replace a folder that was made by this function.
      progress: called with the stage, the amount done, and the total (0 if it is not known).

    Raises:
      SceneError: the source is missing or damaged, its cameras cannot be found, or pycolmap is missing.
      RunError: `out` is not empty.
      OSError: the folder cannot be written.
    """
    source, out = Path(source), Path(out)
    import_pycolmap()
    if not source.exists():
        raise SceneError(f"{source}: no such file or folder")
    _check_free(source, out, overwrite)
    is_video = not source.is_dir()
    files = [] if is_video else photographs_in(source)[0]
    with _made_whole(out) as folder:
        images = folder / "images"
        images.mkdir()
        if is_video:
            extract_sharp_frames(source, images, frames, progress)
        else:
            _copy(files, images, progress)
        sizes = {path.name: image_size(path) for path in images.iterdir()}
        if len(sizes) < _LEAST:
            raise SceneError(f"{source}: at least {_LEAST} frames are needed, got {len(sizes)}")
        work = folder / "work"
        work.mkdir()
        models = reconstruct(images, sizes, work, settings, ordered=is_video, progress=progress)
        shutil.rmtree(work)
        if not models or models[0].num_reg_images() < _LEAST:
            raise SceneError(
                f"{source}: no cameras were found for these {len(sizes)} photographs; they should be "
                "sharp, show each thing from three places or more, and be taken by a camera that "
                "moves and does not only turn"
            )
        return _write(folder, models, set(sizes))


def photographs_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The PNG and JPEG files of a folder, and its other files without hidden ones, sorted by name.

    Raises:
      SceneError: the folder cannot be read, or has too few photographs.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if path.is_file())
    except FileNotFoundError:
        raise SceneError(f"{folder}: no such folder") from None
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read: {error.strerror}") from None
    seen = [path for path in entries if not path.name.startswith(".")]
    found = [path for path in seen if path.suffix.lower() in _SUFFIXES]
    others = [path for path in seen if path.suffix.lower() not in _SUFFIXES]
    if len(found) < _LEAST:
        kinds = ", ".join(sorted({path.suffix for path in others} - {""}))
        raise SceneError(
            f"{folder}: at least {_LEAST} PNG or JPEG photographs are needed, got {len(found)}"
            + (f"; {kinds} files are not read" if kinds else "")
        )
    return found, others


def _check_free(source: Path, out: Path, overwrite: bool) -> None:
    if source.exists() and source.resolve().is_relative_to(out.resolve()):
        raise RunError(f"{out}: holds {source}; name another folder with --out")
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out}: is a file, not a folder")
    # File managers leave files in any folder that they show.
    there = {
        path
        for path in out.iterdir()
        if not path.name.startswith(".") and path.name not in ("Thumbs.db", "desktop.ini")
    }
    if there and {path.name for path in there if not path.is_symlink()} != set(_MADE):
        others = {path.name for path in there if path.is_symlink() or path.name not in _MADE}
        other = min(others or {path.name for path in there})
        raise RunError(
            f"{out}: holds other files ({other}); name an empty or new folder with --out"
        )
    if there and not overwrite:
        raise RunError(
            f"{out}: holds a scene already; replace it with --overwrite, or name another folder"
        )


@contextlib.contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """A folder within `out`, whose contents are moved into `out` if the block ends without an exception.

    It is not beside `out`, which may be a mount point or the working directory.
    """
    is_new, partial = not out.exists(), out / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for name in _MADE:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in reversed(_MADE):
            (partial / name).rename(out / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty after success
                out.rmdir()


def _copy(files: list[Path], folder: Path, progress: Progress) -> None:
    """Copy photographs, rotated upright by their EXIF data; raises an error if one is damaged.

    Files of another format than PNG or JPEG, whatever their suffix says, are converted to that of it.
    """
    # Lists of pairs have no spaces, and lines that begin with # are comments.
    names = ["_".join(file.name.split()) for file in files]
    names = [f"_{name[1:]}" if name.startswith("#") else name for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SceneError(f"{files[0].parent}: two photographs would be named {twice}")

    def copy(file: Path, name: str) -> None:
        read_image(file)
        with Image.open(file) as image:
            turn, exif = None, b""
            with contextlib.suppress(Exception):  # any exception, for damaged EXIF
                turn = UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
            if turn is None and image.format in _STORED:
                shutil.copyfile(file, folder / name)
                return
            upright = as_stored(image)
            upright = upright if turn is None else upright.transpose(turn)
            with contextlib.suppress(Exception):
                found = image.getexif()
                for tag in (_ORIENTATION, *_SIDES):
                    found.pop(tag, None)
                exif = found.tobytes()
            modes = _MODES_OF_PNG if name.lower().endswith(".png") else _MODES_OF_JPEG
            upright = upright if upright.mode in modes else upright.convert("RGB")
            upright.save(
                folder / name,
                quality=95,
                subsampling=0,
                exif=exif,
                icc_profile=image.info.get("icc_profile") if upright.mode == image.mode else None,
            )

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_image has a limit
        try:
            for done, _ in enumerate(pool.map(copy, files, names), 1):
                progress("photographs", done, len(files))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write(folder: Path, models: list["pycolmap.Reconstruction"], names: set[str]) -> Processed:
    """Write a scene's folder from the first model."""
    import pycolmap

    model = models[0]
    frame = normalising(np.stack([_pose(image) for image in _registered(model)]))
    model.transform(
        pycolmap.Sim3d(frame.scale, pycolmap.Rotation3d(frame.rotation), frame.translation)
    )
    (folder / "sparse/0").mkdir(parents=True)
    model.write(folder / "sparse/0")
    model.export_PLY(folder / "sparse_pc.ply")
    write_json(folder / "transforms.json", _transforms(model))
    registered = [{image.name for image in _registered(each)} for each in models]
    elsewhere = [len(other - registered[0]) for other in registered[1:]]
    return Processed(
        registered=tuple(sorted(registered[0])),
        missing=tuple(sorted(names - registered[0])),
        elsewhere=tuple(count for count in elsewhere if count),
        points=model.num_points3D(),
        error=model.compute_mean_reprojection_error(),
    )


def _transforms(model: "pycolmap.Reconstruction") -> dict[str, Any]:
    """The contents of transforms.json; the lens is at the top level if all photographs share a camera."""
    images = _registered(model)
    lenses = {key: _lens(camera) for key, camera in model.cameras.items()}
    shared = len({image.camera_id for image in images}) == 1
    fisheye = "k4" in lenses[images[0].camera_id]
    kind = {"camera_model": "OPENCV_FISHEYE" if fisheye else "OPENCV", "is_fisheye": fisheye}
    frames = [
        {
            "file_path": f"images/{image.name}",
            **({} if shared else lenses[image.camera_id]),
            "transform_matrix": [*_pose(image).tolist(), [0.0, 0.0, 0.0, 1.0]],
        }
        for image in images
    ]
    return {
        **kind,
        **(lenses[images[0].camera_id] if shared else {}),
        "aabb_scale": _NGP_BOX,
        "ply_file_path": "sparse_pc.ply",
        "frames": frames,
    }


def _lens(camera: "pycolmap.Camera") -> dict[str, float | int]:
    fisheye = "FISHEYE" in camera.model_name
    coefficients = camera.params[camera.extra_params_idxs()].tolist()
    named = dict.fromkeys(("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2"), 0.0)
    return {
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.focal_length_x,
        "fl_y": camera.focal_length_y,
        "cx": camera.principal_point_x,
        "cy": camera.principal_point_y,
        **named,
        **dict(zip(named, coefficients, strict=False)),
    }


def _registered(model: "pycolmap.Reconstruction") -> list["pycolmap.Image"]:
    return sorted((model.image(key) for key in model.reg_image_ids()), key=lambda image: image.name)


def _pose(image: "pycolmap.Image") -> np.ndarray:
    """Camera-to-world [3, 4] with OpenGL axes, from COLMAP's world-to-camera with OpenCV's."""
    matrix = image.cam_from_world().inverse().matrix()
    return matrix * np.array([1.0, -1.0, -1.0, 1.0])

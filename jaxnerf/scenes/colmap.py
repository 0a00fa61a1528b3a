"""Reader of COLMAP's projects: a sparse model in sparse/ and photographs in images/ or input/.

The scene's frame is computed from the cameras, see `jaxnerf.scenes.frames.normalising`.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from jaxnerf.scenes import Options, Scene, SceneError
from jaxnerf.scenes.colmap_cameras import intrinsics, pose_of
from jaxnerf.scenes.colmap_files import (
    ModelImage,
    SparseModel,
    model_files,
    read_model,
    registered,
)
from jaxnerf.scenes.depths import bounds_of_depths, depths_from, depths_in_view
from jaxnerf.scenes.frames import FAR, NEAR, normalising
from jaxnerf.scenes.held_out import with_points
from jaxnerf.scenes.images import find_picture
from jaxnerf.scenes.json_files import confined, is_file, name_of, path_in
from jaxnerf.scenes.picture_files import is_folder, list_pictures, mask_spellings, spellings
from jaxnerf.scenes.views import View, hold_out, leaks, splits_of

# Folders of photographs: COLMAP's name, those of the tools of 3D Gaussian splatting, and the scene's own.
_ROOTS = ("images", "input", "image", ".")
_MOST_MODELS = 1000
_NEEDED = {"cameras", "images"}
# A point is reliable if at least _LEAST_IMAGES images see it and its reprojection error is at most
# _MOST_ERROR times the median.
_LEAST_IMAGES, _MOST_ERROR = 3, 2.0
# near is computed from reliable points only if there are at least this many observations of them.
_ENOUGH = 100


@dataclasses.dataclass(frozen=True)
class _Project:
    """A folder, the model that was chosen in it, and whether files outside of it may be read."""

    folder: Path
    model_folder: Path
    model: SparseModel
    allow_outside_paths: bool

    def path(self, number: int, root: str, name: PurePosixPath) -> Path:
        """The path of a file that belongs to an image."""
        where = f"{model_files(self.model_folder)['images']}: image {number}"
        return path_in(
            self.folder, where, "NAME", str(root / name),
            allow_outside_paths=self.allow_outside_paths,
        )  # fmt: skip


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return bool(find_models(folder))


def read(folder: Path, options: Options = Options()) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Of the models in sparse/ and colmap/sparse/, the one with most photographs is read. Photographs are
    read from that of the folders images/, input/, image/ and the scene's own folder that has most of
    them, in the subfolders that the model names. A photograph's suffix may differ from that in the
    model, and a folder at the beginning of its name in the model may be missing. If there is a folder
    images_N with all photographs, N being `downscale`, these are read and not shrunk.

    The mask of a photograph NAME (with its suffix) is masks/NAME.png, whose black pixels are ignored; the
    suffix .jpg, NAME without its suffix, and NAME_mask are accepted too. Photographs without a file are
    left out. Every 8th photograph in the order of names, from the first on, is for testing.

    near and far are those of the points that cameras see, with a margin. near is computed from reliable
    points, since a point that was triangulated wrongly is often directly before a camera.
    """
    chosen, notes = choose_model(folder, options.allow_outside_paths)
    project = _Project(folder, chosen, read_model(chosen), options.allow_outside_paths)
    root, files = _photographs(project, options.downscale)
    notes += _describe_files(project, root, files)
    views = {number: _view(project, number, root, file) for number, file in files.items()}
    notes += _describe_masks(folder, list(views.values()))
    in_order = sorted(views.values(), key=lambda view: view.name)
    to_scene = normalising(np.stack([view.pose for view in in_order]))
    if root.startswith("images_"):
        options = dataclasses.replace(options, downscale=1)
    held_out = hold_out(in_order)
    notes += leaks(held_out)
    splits = splits_of(folder, held_out, to_scene, options)
    near, far = _depths(project.model, views, to_scene.scale)
    by_name = {view.name: number for number, view in views.items()}
    images = {
        name: [project.model.images[by_name[each]] for each in split.names]
        for name, split in splits.items()
    }
    scene = Scene(
        folder.resolve().name, folder, "colmap", splits, near, far, to_scene.inverse(),
        unbounded=True, notes=tuple(notes), root=_root_at_full_size(root),
    )  # fmt: skip
    points = to_scene.points(project.model.points.positions)
    return with_points(scene, points, _tracks(project.model, images))


def shortcoming(
    folder: Path, allow_outside_paths: bool = False, *, model_only: bool = False
) -> str | None:
    """Why a folder's model cannot be read as a scene, as a part of a sentence; None if it can.

    Args:
      folder, allow_outside_paths: see `jaxnerf.scenes.load_scene`.
      model_only: whether only the model's files are checked, and not whether its photographs exist.

    Raises:
      SceneError: the model leads out of the folder.
    """
    chosen, _ = choose_model(folder, allow_outside_paths)
    missing = sorted(_NEEDED - model_files(chosen).keys())
    where = "the model" if chosen == folder else str(chosen.relative_to(folder))
    if missing:
        return f"{where} is incomplete (no {' and '.join(f'{part}.bin' for part in missing)})"
    if model_only:
        return None
    try:
        _photographs(_Project(folder, chosen, read_model(chosen), allow_outside_paths), 1)
    except SceneError:
        return f"{where} is broken or none of its photographs is there under its name"
    return None


def _describe_files(project: _Project, root: str, files: Mapping[int, Path]) -> list[str]:
    """Notes on missing, renamed and skipped photographs, and on the folder that they are in."""
    notes, images = [], project.model.images
    if len(files) < len(images):
        absent = len(images) - len(files)
        notes.append(f"{absent} of {len(images)} photographs without a file are left out")
    renamed = sum(path.name != PurePosixPath(images[n].name).name for n, path in files.items())
    if renamed and not root.startswith("images_"):
        notes.append(f"{renamed} photographs have another suffix than the model says")
    if root not in ("images",) and not root.startswith("images_"):
        notes.append(f"photographs from {'beside the model' if root == '.' else root}")
    parents = {path.parent for path in files.values()}
    for parent in sorted(parents) if len(parents) <= _MOST_MODELS else ():
        notes += list_pictures(parent)[1]
    return notes


def _root_at_full_size(root: str) -> str:
    """The folder of the photographs that were not shrunk, as `Scene.root`.

    >>> [_root_at_full_size(root) for root in ("images_4", "input", ".")]
    ['images', 'input', '']
    """
    return "images" if root.startswith("images_") else root.removeprefix(".")


def _describe_masks(folder: Path, views: Sequence[View]) -> list[str]:
    masked = sum(view.picture.mask is not None for view in views)
    if not is_folder(folder / "masks") or masked == len(views):
        return []
    if not masked:
        return ["no photograph has its mask in masks, where NAME.jpg.png is looked for"]
    return [f"{len(views) - masked} of {len(views)} photographs have no mask in masks"]


def find_models(folder: Path) -> list[Path]:
    """The folders of a scene that hold a COLMAP model or parts of one."""
    found = []
    for parent in (folder / "sparse", folder / "colmap" / "sparse"):
        try:
            children = sorted(itertools.islice(parent.iterdir(), _MOST_MODELS))
        except OSError:
            continue
        children = [path for path in children if not path.name.startswith(".")]
        found += [path for path in (*children, parent) if _NEEDED & model_files(path).keys()]
    return found or ([folder] if model_files(folder).keys() >= _NEEDED else [])


def choose_model(folder: Path, allow_outside_paths: bool) -> tuple[Path, list[str]]:
    """The folder of the model with most photographs, and a note if there are other models.

    Raises:
      SceneError: a model leads out of the folder.
    """
    models = find_models(folder)
    for path in models:
        for file in model_files(path).values():
            confined(folder, file, str(file), allow_outside_paths)
    chosen = max(models, key=registered)
    if len(models) == 1:
        return chosen, []
    return chosen, [f"{chosen.relative_to(folder)} the largest of {len(models)} models"]


def _photographs(project: _Project, downscale: int) -> tuple[str, dict[int, Path]]:
    """The name of the folder from which photographs are read, and the file of each image's photograph."""
    folder, images = project.folder, project.model.images
    places = {root: _files(project, root) for root in _ROOTS if is_folder(folder / root)}
    best = max(places, key=lambda root: len(places[root]))
    full, root = places[best], f"images_{downscale}"
    masked = (folder / "masks").exists() and not (folder / f"masks_{downscale}").exists()
    if downscale > 1 and is_folder(folder / root) and not masked:
        smaller = _files(project, root)
        if smaller and smaller.keys() >= full.keys():
            return root, smaller
    if full:
        return best, full
    there = [str(n) for n in (2, 4, 8) if (folder / f"images_{n}").exists()]
    hint = f" (images_{there[0]} is there: downscale {there[0]} reads it)" if there else ""
    first = min((image.name for image in images.values()), default="")
    skipped = [note for each in places for note in list_pictures(folder / each)[1]]
    raise SceneError(
        f"{folder}: none of the {len(images)} photographs of the model in "
        f"{project.model_folder.relative_to(folder)} is in images, input or beside it; the first is "
        f"{first[:80]!r}{hint}" + "".join(f"; {note}" for note in skipped)
    )


def _files(project: _Project, root: str) -> dict[int, Path]:
    """The photographs of the model that exist in a folder, perhaps with another suffix."""
    found, images = {}, project.model.images
    exact = {PurePosixPath(image.name) for image in images.values()}
    for number, image in images.items():
        for name in _spelled(PurePosixPath(image.name), root):
            path = project.path(number, root, name)
            # A file with the exact name of another photograph of the model belongs to that one.
            is_free = name == PurePosixPath(image.name) or name not in exact
            if is_free and is_file(path) and not path.is_dir():
                found[number] = path
                break
    return found


def _spelled(name: PurePosixPath, root: str) -> Iterator[PurePosixPath]:
    """The possible names, within a folder, of a photograph of the model."""
    if not name.name:
        return
    yield from spellings(name)
    if len(name.parts) > 1 and name.parts[0] in _ROOTS and root != ".":
        yield from spellings(PurePosixPath(*name.parts[1:]))


def _mask_file(project: _Project, number: int, root: str) -> Path | None:
    """The mask of a photograph, or None."""
    masks = root.replace("images", "masks") if root.startswith("images_") else "masks"
    if not is_folder(project.folder / masks):
        return None
    for name in mask_spellings(PurePosixPath(project.model.images[number].name)):
        path = project.path(number, masks, name)
        if is_file(path):
            return path
    return None


def _view(project: _Project, number: int, root: str, file: Path) -> View:
    image = project.model.images[number]
    camera = project.model.cameras[image.camera]
    says = f"camera {image.camera} in {model_files(project.model_folder)['cameras'].name}"
    picture = find_picture(file, camera.size, says, _mask_file(project, number, root))
    lens, focal, centre, distortion = intrinsics(camera.model, camera.parameters)
    scale = np.array(picture.size) / camera.size
    # Shrunk copies may be of another type than the photographs, which keep the model's names.
    name = image.name if root.startswith("images_") else name_of(project.folder / root, file)
    return View(
        name, picture, pose_of(image.rotation, image.translation),
        tuple(focal * scale), tuple(centre * scale), tuple(distortion), lens,
    )  # fmt: skip


def _seen(model: SparseModel, images: Iterable[ModelImage]) -> list[np.ndarray]:
    """For each image, the rows of the model's points that it observes."""
    order = np.argsort(model.points.numbers)
    numbers = model.points.numbers[order]
    found = []
    for image in images:
        _, rows, _ = np.intersect1d(numbers, image.points, return_indices=True)
        found.append(order[rows])
    return found


def _tracks(
    model: SparseModel, images: Mapping[str, Sequence[ModelImage]]
) -> dict[str, np.ndarray] | None:
    """For each split, the observations of reliable points as pairs (camera in the split, point).

    Args:
      model: the model, with its points.
      images: the images of each split.

    Returns:
      The pairs; None if no image observes any point.
    """
    found = {}
    for name, members in images.items():
        seen = _seen(model, members)
        places = np.repeat(np.arange(len(members)), list(map(len, seen)))
        found[name] = np.stack([places, np.concatenate(seen)], axis=-1)
    seen = np.concatenate([pairs[:, 1] for pairs in found.values()])
    if not len(seen):
        return None
    good = _relied_on(model, seen)
    return {name: pairs[good[pairs[:, 1]]] for name, pairs in found.items()}


def _relied_on(model: SparseModel, seen: np.ndarray) -> np.ndarray:
    """Which points are reliable (see `_LEAST_IMAGES`).

    Args:
      model: the model.
      seen: the row of the point of each observation.
    """
    errors = model.points.errors
    often = np.bincount(seen, minlength=len(errors)) >= _LEAST_IMAGES
    # Programs that did not compute the error of a point write -1.
    known = np.isfinite(errors) & (errors >= 0.0)
    largest = _MOST_ERROR * np.median(errors[known]) if known.any() else 0.0
    return often & (~known | (errors <= largest))


def _depths(model: SparseModel, views: Mapping[int, View], scale: float) -> tuple[float, float]:
    """near and far from the points that each photograph observes, or else from the points in its view."""
    points, seen = model.points.positions, _seen(model, (model.images[n] for n in views))
    if not len(points):
        return NEAR, FAR
    if not any(map(len, seen)):
        depths = depths_in_view(points, list(views.values()))
        return _bounds(depths, scale) or (NEAR, FAR)
    each = zip(views.values(), seen, strict=True)
    depths = np.concatenate([depths_from(view, points[rows]) for view, rows in each])
    every = np.concatenate(seen)
    good = depths[_relied_on(model, every)[every]]
    bounds = _bounds(depths, scale) or (NEAR, FAR)
    near, _ = _bounds(good if len(good) >= _ENOUGH else depths, scale) or bounds
    return near, bounds[1]


def _bounds(depths: np.ndarray | None, scale: float) -> tuple[float, float] | None:
    return None if depths is None else bounds_of_depths(depths * scale)

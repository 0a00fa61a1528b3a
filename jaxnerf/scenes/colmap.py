"""Reader of COLMAP's projects: a sparse model in sparse/ and photographs in images/ or input/.

The scene's frame is found from the cameras, see `jaxnerf.scenes.frames.normalising`.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from jaxnerf.lenses import FLAT
from jaxnerf.scenes import Scene, SceneError
from jaxnerf.scenes.colmap_cameras import intrinsics, pose_of
from jaxnerf.scenes.colmap_files import (
    ModelImage,
    SparseModel,
    model_files,
    read_model,
    registered,
)
from jaxnerf.scenes.depths import bounds_of_depths
from jaxnerf.scenes.frames import FAR, NEAR, normalising
from jaxnerf.scenes.images import find_picture
from jaxnerf.scenes.json_files import confined, is_file, path_in
from jaxnerf.scenes.picture_files import is_folder, list_pictures, mask_spellings, spellings
from jaxnerf.scenes.views import View, hold_out, splits_of

# Where photographs are: COLMAP's own name, that of 3D Gaussian splatting's tools, and beside the model.
_ROOTS = ("images", "input", "image", ".")
_MOST_MODELS = 1000
_NEEDED = {"cameras", "images"}
# Where no image says what points it sees, these are enough; and cameras look about 45 degrees aside.
_ENOUGH_POINTS, _ASIDE = 10_000, 0.7
# A point is relied on that so many images see, and whose error is at most so many times the median.
_LEAST_IMAGES, _MOST_ERROR = 3, 2.0


@dataclasses.dataclass(frozen=True)
class _Project:
    """A folder, the model that was chosen in it, and what may be read."""

    folder: Path
    model_folder: Path
    model: SparseModel
    allow_outside_paths: bool

    def path(self, number: int, root: str, name: PurePosixPath) -> Path:
        """A file that belongs to an image."""
        where = f"{model_files(self.model_folder)['images']}: image {number}"
        return path_in(
            self.folder, where, "NAME", str(root / name),
            allow_outside_paths=self.allow_outside_paths,
        )  # fmt: skip


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return bool(find_models(folder))


def read(
    folder: Path,
    *,
    downscale: int = 1,
    longest_side: int = 0,
    images: Sequence[str] = ("train",),
    allow_outside_paths: bool = False,
) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    The model is the one with most photographs of those in sparse/ and colmap/sparse/. Photographs are
    in that of the folders images/, input/, image/ and the scene's own which has most of them, in
    subfolders where the model names those, perhaps with another suffix or without a folder that stands
    before their names in the model. Where there is a folder images_N with all of them, N being
    `downscale`, its are used as they are. A picture masks/NAME.png, NAME being the photograph's with its
    suffix, ignores where it is black; .jpg, NAME without its suffix, and NAME_mask are taken too.
    Photographs without a file are left out. In the order of their names every 8th from the first on is
    for testing. near and far are a little more than the depths of the points that cameras see.
    """
    chosen, notes = choose_model(folder, allow_outside_paths)
    project = _Project(folder, chosen, read_model(chosen), allow_outside_paths)
    root, files = _photographs(project, downscale)
    notes += _describe_files(project, root, files)
    views = {number: _view(project, number, root, file) for number, file in files.items()}
    notes += _describe_masks(folder, list(views.values()))
    in_order = sorted(views.values(), key=lambda view: view.name)
    to_scene = normalising(np.stack([view.pose for view in in_order]))
    splits = splits_of(
        folder, hold_out(in_order), to_scene,
        downscale=1 if root.startswith("images_") else downscale, longest_side=longest_side,
        images=images,
    )  # fmt: skip
    near, far = _depths(project.model, views, to_scene.scale)
    by_name = {view.name: number for number, view in views.items()}
    trained = [project.model.images[by_name[name]] for name in splits["train"].names]
    points = project.model.points.positions
    return Scene(
        folder.resolve().name, folder, "colmap", splits, near, far, to_scene.inverse(),
        unbounded=True, points=to_scene.points(points) if len(points) else None,
        tracks=_tracks(project.model, trained),
        notes=tuple(notes),
    )  # fmt: skip


def shortcoming(
    folder: Path, allow_outside_paths: bool = False, *, model_only: bool = False
) -> str | None:
    """Why a folder's model cannot be read as a scene, if it cannot: a part of a sentence.

    Args:
      folder, allow_outside_paths: see `jaxnerf.scenes.load_scene`.
      model_only: whether it is no matter where the photographs are.

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
    """What is to be said of where the photographs are."""
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


def _describe_masks(folder: Path, views: Sequence[View]) -> list[str]:
    masked = sum(view.picture.mask is not None for view in views)
    if not is_folder(folder / "masks") or masked == len(views):
        return []
    if not masked:
        return ["no photograph has its mask in masks, where NAME.jpg.png is looked for"]
    return [f"{len(views) - masked} of {len(views)} photographs have no mask in masks"]


def find_models(folder: Path) -> list[Path]:
    """The folders of a scene that hold a COLMAP model, or some of one."""
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
    """The folder of the model with most photographs, and a note on the others.

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
    """The name of the folder of the photographs to be read, and their files."""
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
    """The photographs that are in a folder, perhaps with another suffix."""
    found, images = {}, project.model.images
    exact = {PurePosixPath(image.name) for image in images.values()}
    for number, image in images.items():
        for name in _spelled(PurePosixPath(image.name), root):
            path = project.path(number, root, name)
            # What another photograph of the model is called is that one's file.
            if (name == PurePosixPath(image.name) or name not in exact) and _is_picture(path):
                found[number] = path
                break
    return found


def _spelled(name: PurePosixPath, root: str) -> Iterator[PurePosixPath]:
    """The names that a photograph of the model may have within a folder."""
    if not name.name:
        return
    yield from spellings(name)
    if len(name.parts) > 1 and name.parts[0] in _ROOTS and root != ".":
        yield from spellings(PurePosixPath(*name.parts[1:]))


def _is_picture(path: Path) -> bool:
    return is_file(path) and not path.is_dir()


def _mask_file(project: _Project, number: int, root: str) -> Path | None:
    """The mask of a photograph, if there is one."""
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
    return View(
        image.name, picture, pose_of(image.rotation, image.translation), tuple(focal * scale),
        tuple(centre * scale), tuple(distortion), lens,
    )  # fmt: skip


def _tracks(model: SparseModel, images: Sequence[ModelImage]) -> np.ndarray | None:
    """Pairs (place in the sequence, point) of sightings to rely on; None where no image has any.

    Of points that at least three images see, those whose reprojection error is usual.
    """
    order = np.argsort(model.points.numbers)
    numbers, errors = model.points.numbers[order], model.points.errors
    pairs = [np.zeros((0, 2), np.int64)]
    for place, image in enumerate(images):
        at = np.minimum(np.searchsorted(numbers, image.points), max(len(numbers) - 1, 0))
        known = order[at[numbers[at] == image.points]] if len(numbers) else np.zeros(0, np.int64)
        known = np.unique(known)
        pairs.append(np.stack([np.full(len(known), place), known], axis=-1))
    found = np.concatenate(pairs)
    if not len(found):
        return None
    often = np.bincount(found[:, 1], minlength=len(errors)) >= _LEAST_IMAGES
    good = often & (errors <= _MOST_ERROR * np.median(errors))
    return found[good[found[:, 1]]]


def _depths(model: SparseModel, views: Mapping[int, View], scale: float) -> tuple[float, float]:
    """How near and far cameras see points; for lenses that are not flat, distances."""
    order = np.argsort(model.points.numbers)
    numbers, positions = model.points.numbers[order], model.points.positions[order]
    tracked = any(np.isin(image.points, numbers).any() for image in model.images.values())
    found = [np.zeros(0)]
    for number, view in views.items():
        if tracked:
            points = model.images[number].points
            place = np.minimum(np.searchsorted(numbers, points), len(numbers) - 1)
            seen = positions[place[numbers[place] == points]]
        else:
            seen = positions[:: 1 + len(positions) // _ENOUGH_POINTS]
        offset = seen - view.pose[:, 3]
        depth, distance = -offset @ view.pose[:, 2], np.linalg.norm(offset, axis=-1)
        ahead = tracked | (depth > _ASIDE * distance)
        found.append((depth if view.lens in FLAT else distance)[ahead])
    bounds = bounds_of_depths(np.concatenate(found) * scale)
    return (NEAR, FAR) if bounds is None else bounds

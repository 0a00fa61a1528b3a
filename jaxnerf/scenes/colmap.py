"""Reader of COLMAP's projects: a sparse model in sparse/ and photographs in images/.

The scene's frame is found from the cameras, see `jaxnerf.scenes.frames.normalising`.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from jaxnerf.lenses import FLAT
from jaxnerf.scenes import Scene, SceneError
from jaxnerf.scenes.colmap_cameras import intrinsics, pose_of
from jaxnerf.scenes.colmap_files import (
    SparseModel,
    model_files,
    read_model,
    registered,
)
from jaxnerf.scenes.depths import bounds_of_depths
from jaxnerf.scenes.frames import FAR, NEAR, normalising
from jaxnerf.scenes.images import find_picture
from jaxnerf.scenes.json_files import confined, is_file, path_in
from jaxnerf.scenes.views import View, hold_out, splits_of

_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
_MOST_MODELS = 1000
_NEEDED = {"cameras", "images"}
# Where no image says what points it sees, these are enough; and cameras look about 45 degrees aside.
_ENOUGH_POINTS, _ASIDE = 10_000, 0.7


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
    return bool(_models(folder))


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
    in images/; where there is a folder images_N with all of them, N being `downscale`, its are used
    as they are. A picture masks/NAME.png, NAME being the photograph's with its suffix, ignores where
    it is black. Photographs without a file are left out. In the order of their names every 8th from
    the first on is for testing. near and far are a little more than the depths of the points that
    cameras see.
    """
    chosen, notes = _largest(folder, allow_outside_paths)
    project = _Project(folder, chosen, read_model(chosen), allow_outside_paths)
    root, files = _photographs(project, downscale)
    total = len(project.model.images)
    if len(files) < total:
        notes += [f"{total - len(files)} of {total} photographs without a file are left out"]
    views = {number: _view(project, number, root, file) for number, file in files.items()}
    if (folder / "masks").exists() and not any(view.picture.mask for view in views.values()):
        notes += ["no photograph has its mask in masks, where NAME.jpg.png is looked for"]
    in_order = sorted(views.values(), key=lambda view: view.name)
    to_scene = normalising(np.stack([view.pose for view in in_order]))
    splits = splits_of(
        folder, hold_out(in_order), to_scene,
        downscale=downscale if root == "images" else 1, longest_side=longest_side, images=images,
    )  # fmt: skip
    near, far = _depths(project.model, views, to_scene.scale)
    points = project.model.points.positions
    return Scene(
        folder.resolve().name, folder, "colmap", splits, near, far, to_scene.inverse(),
        unbounded=True, points=to_scene.points(points) if len(points) else None,
        notes=tuple(notes),
    )  # fmt: skip


def _models(folder: Path) -> list[Path]:
    """The folders with a model, or some of one."""
    found = []
    for parent in (folder / "sparse", folder / "colmap" / "sparse"):
        try:
            children = sorted(itertools.islice(parent.iterdir(), _MOST_MODELS))
        except OSError:
            continue
        found += [path for path in (*children, parent) if _NEEDED & model_files(path).keys()]
    return found or ([folder] if model_files(folder).keys() >= _NEEDED else [])


def _largest(folder: Path, allow_outside_paths: bool) -> tuple[Path, list[str]]:
    """The model with most photographs, and a note on the others."""
    models = _models(folder)
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
    full, root = _files(project, "images"), f"images_{downscale}"
    masked = (folder / "masks").exists() and not (folder / f"masks_{downscale}").exists()
    if downscale > 1 and (folder / root).exists() and not masked:
        # Tools that make such folders turn every kind of picture into one.
        smaller = _files(project, root, _SUFFIXES)
        if smaller and smaller.keys() >= full.keys():
            return root, smaller
    if full:
        return "images", full
    there = [str(n) for n in (2, 4, 8) if (folder / f"images_{n}").exists()]
    hint = f" (images_{there[0]} is there: downscale {there[0]} reads it)" if there else ""
    first = min((image.name for image in images.values()), default="")
    raise SceneError(
        f"{folder}: none of the {len(images)} photographs of the model in "
        f"{project.model_folder.relative_to(folder)} is in images; the first is {first[:80]!r}{hint}"
    )


def _files(project: _Project, root: str, suffixes: Sequence[str] = ()) -> dict[int, Path]:
    """The photographs that are in a folder, perhaps with another suffix."""
    found = {}
    for number, image in project.model.images.items():
        name = PurePosixPath(image.name)
        for each in (name, *(name.parent / (name.stem + suffix) for suffix in suffixes)):
            path = project.path(number, root, each)
            if is_file(path):
                found[number] = path
                break
    return found


def _view(project: _Project, number: int, root: str, file: Path) -> View:
    image = project.model.images[number]
    camera = project.model.cameras[image.camera]
    mask_name = PurePosixPath(f"{image.name}.png")
    mask = project.path(number, root.replace("images", "masks"), mask_name)
    says = f"camera {image.camera} in {model_files(project.model_folder)['cameras'].name}"
    picture = find_picture(file, camera.size, says, mask if is_file(mask) else None)
    lens, focal, centre, distortion = intrinsics(camera.model, camera.parameters)
    scale = np.array(picture.size) / camera.size
    return View(
        image.name, picture, pose_of(image.rotation, image.translation), tuple(focal * scale),
        tuple(centre * scale), tuple(distortion), lens,
    )  # fmt: skip


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

"""Reader of DTU's scans in the layout of IDR and NeuS, and of other captures in this layout.

cameras_sphere.npz (NeuS; Wang et al., 2021) or cameras.npz (IDR; Yariv et al., 2020) has two matrices for
the i-th photograph in the order of file names: world_mat_i projects the world to pixels, and scale_mat_i
maps the unit sphere to a sphere around the object. The scene's frame is that of the unit sphere; the
frame of the files is the world. A mask shows the object and becomes the photograph's alpha.

The code of both projects casts the ray of a pixel through its integer coordinates, as in OpenCV. Here
pixel centres are at half-integer coordinates, so half a pixel is added to the principal point.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxnerf.scenes import Options, Scene, SceneError, Similarity
from jaxnerf.scenes.frames import NEAR, is_rigid
from jaxnerf.scenes.images import find_picture, image_size
from jaxnerf.scenes.json_files import confined, is_file, name_of
from jaxnerf.scenes.numpy_files import NumpyZip
from jaxnerf.scenes.picture_files import choose_rows, list_pictures
from jaxnerf.scenes.views import View, hold_out, leaks, splits_of

_PHOTOGRAPHS, _MASKS = ("image", "images", "rgb"), ("mask", "masks")
_MOST = 1e12  # limit of the absolute value of a matrix's entries
# Largest skew, as the shift of a pixel at the edge of the image; `Camera` has no skew.
_MOST_SKEW = 0.5


def recognises(folder: Path) -> bool:
    """Whether a folder is in this format."""
    return is_file(folder / "cameras_sphere.npz") or (
        is_file(folder / "cameras.npz") and any(is_file(folder / name) for name in _PHOTOGRAPHS)
    )


def read(folder: Path, options: Options = Options()) -> Scene:
    """Read a scene; see `jaxnerf.scenes.load_scene`.

    Photographs are in image/, images/ or rgb/, masks in mask/ or masks/, in the same number and order.
    near and far are the depths between which the cameras see the unit sphere. Every 8th view, from the
    first on, is for testing.
    """
    sphere = folder / "cameras_sphere.npz"
    path = sphere if is_file(sphere) else folder / "cameras.npz"
    matrices = NumpyZip(confined(folder, path, str(path), options.allow_outside_paths))
    files, notes = _files(folder, _PHOTOGRAPHS, options.allow_outside_paths)
    if not files:
        raise SceneError(
            f"{folder}: no photographs in {', '.join(_PHOTOGRAPHS)}"
            + "".join(f"; {n}" for n in notes)
        )
    count = sum(name.startswith("world_mat_") and name[10:].isdecimal() for name in matrices.names)
    files, left_out = _rows(files, count, path)
    masks, more = _files(folder, _MASKS, options.allow_outside_paths)
    if masks and len(masks) != len(files):
        raise SceneError(f"{masks[0].parent}: {len(masks)} masks for {len(files)} photographs")
    notes += left_out + more
    to_user = _sphere(matrices, count)
    views = [
        _view(folder, matrices, index, file, masks[index] if masks else None)
        for index, file in enumerate(files)
    ]
    held_out = hold_out(views)
    splits = splits_of(folder, held_out, Similarity(), options)
    depths = [float(view.pose[:, 3] @ view.pose[:, 2]) for view in views]
    near = max(min(depths) - 1.0, NEAR)
    far = max(max(depths) + 1.0, 2.0 * near)
    notes += (*(() if masks else ("no masks of the object",)), *leaks(held_out))
    return Scene(
        folder.resolve().name, folder, "dtu", splits, near, far, to_user, notes=notes
    )  # fmt: skip


def _files(
    folder: Path, names: Sequence[str], allow_outside_paths: bool
) -> tuple[list[Path], tuple[str, ...]]:
    """The images in the first of several folders that exists, in order; and notes on other images."""
    for name in names:
        if not is_file(folder / name):
            continue
        confined(folder, folder / name, str(folder / name), allow_outside_paths)
        found, notes = list_pictures(folder / name)
        paths = [folder / name / each for each in found]
        return [confined(folder, path, str(path), allow_outside_paths) for path in paths], notes
    return [], ()


def _rows(files: Sequence[Path], count: int, path: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The photographs that have matrices, and a note on others."""
    parent = files[0].parent
    try:
        chosen, notes = choose_rows(parent, [file.name for file in files], count, path.name)
    except SceneError:
        raise SceneError(
            f"{path}: {count} matrices world_mat_0 and so on for {len(files)} photographs in "
            f"{parent.name}"
        ) from None
    return [parent / name for name in chosen], notes


def _sphere(matrices: NumpyZip, count: int) -> Similarity:
    """From the unit sphere to the world; the scale_mat of all photographs must be the same."""
    first = _matrix(matrices, "scale_mat_0")
    where = f"{matrices.path}: scale_mat_0"
    scale = np.cbrt(np.linalg.det(first[:3, :3]))
    if not scale > 1e-12 or not is_rigid(first[:3, :3] / scale):
        raise SceneError(f"{where}: not a similarity (a rotation, a scale and a position)")
    if not np.allclose(first[3], [0.0, 0.0, 0.0, 1.0], rtol=0.0, atol=1e-6):
        raise SceneError(f"{where}: its last row is not 0 0 0 1")
    for index in range(1, count):
        other = _matrix(matrices, f"scale_mat_{index}")
        if not np.allclose(other, first, rtol=1e-5, atol=1e-5 * scale):
            raise SceneError(f"{matrices.path}: scale_mat_{index} is not the same as scale_mat_0")
    return Similarity(float(scale), first[:3, :3] / scale, first[:3, 3])


def _matrix(matrices: NumpyZip, name: str) -> Float[np.ndarray, "4 4"]:
    matrix = matrices.read(name, (4, 4))
    if not (np.abs(matrix) < _MOST).all():
        raise SceneError(f"{matrices.path}: {name} has values that are not finite or far too large")
    return matrix


def _view(folder: Path, matrices: NumpyZip, index: int, file: Path, mask: Path | None) -> View:
    picture = find_picture(file)
    if mask is not None:
        size = image_size(mask)
        if size != picture.size:
            raise SceneError(
                f"{mask}: a mask of {size[0]} x {size[1]} pixels for a picture of "
                f"{picture.size[0]} x {picture.size[1]}"
            )
        picture = dataclasses.replace(picture, alpha=mask)
    name = f"world_mat_{index}"
    projection = _matrix(matrices, name) @ _matrix(matrices, f"scale_mat_{index}")
    try:
        inner, pose = decompose(projection[:3])
    except ValueError as error:
        raise SceneError(f"{matrices.path}: {name}: {error}") from None
    skew = abs(inner[0, 1]) / inner[1, 1] * max(picture.size)
    if skew > _MOST_SKEW:
        raise SceneError(
            f"{matrices.path}: {name}: a camera whose pixels are skewed, by {skew:.2g} in the picture"
        )
    return View(
        name_of(folder, file), picture, pose, (float(inner[0, 0]), float(inner[1, 1])),
        (float(inner[0, 2]) + 0.5, float(inner[1, 2]) + 0.5),
    )  # fmt: skip


def decompose(
    projection: Float[np.ndarray, "3 4"],
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 4"]]:
    """The calibration matrix and pose (with OpenGL axes) of a projection K [R | t], given up to scale.

    K is upper triangular with a positive diagonal, and its last entry is 1 (Hartley and Zisserman,
    "Multiple view geometry", 6.2.4).

    Raises:
      ValueError: the matrix is not the projection of a camera.
    """
    from scipy.linalg import rq

    square = projection[:, :3]
    sizes = np.linalg.svd(square, compute_uv=False)
    if not sizes[2] > 1e-9 * sizes[0]:
        raise ValueError("not the projection of a camera: its first three columns have no inverse")
    # det K and det R are positive, so the sign of the product is that of the unknown factor.
    projection = projection * np.sign(np.linalg.det(square))
    inner, rotation = rq(projection[:, :3])
    signs = np.sign(np.diag(inner))
    inner, rotation = inner * signs, rotation * signs[:, None]
    position = -np.linalg.solve(projection[:, :3], projection[:, 3])
    pose = np.concatenate([rotation.T * [1.0, -1.0, -1.0], position[:, None]], axis=1)
    return inner / inner[2, 2], pose

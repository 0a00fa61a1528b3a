"""The data of a page's scene: values as JSON, and arrays for the shader."""

import shlex
from typing import Any

import numpy as np

from jaxnerf.cameras import Camera
from jaxnerf.cameras.paths import focus_point, home_of, up_of
from jaxnerf.config.adaptation import bounds_of
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields.voxels import VoxelField, VoxelParams, has_detail
from jaxnerf.fields.warped import WarpedField
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run
from jaxnerf.sampling import OccupancySampler
from jaxnerf.viewer.packing import NOTHING, pack_cells, pack_detail, pack_table

# Number of weights, each of four values, in a row of their texture.
_WEIGHTS_A_ROW = 256


def contents_of(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The data of a page: the header for JSON, and arrays by name.

    Args:
      run: a run of the fast field.

    Raises:
      RunError: a page cannot hold the run's field.
    """
    field, space = _voxels_of(run)
    sampler = run.sampler
    assert isinstance(sampler, OccupancySampler)
    table = pack_table(np.asarray(field.bricks), np.asarray(run.params.table))
    cells, factor = pack_cells(np.asarray(sampler.occupancy.cells))
    occupancy = sampler.occupancy
    header = {
        "name": run.scene.name,
        "space": _described(space),
        "grid": {
            "size": cells.shape[0],
            "origin": _list(occupancy.origin),
            "cell": float(occupancy.cell) * factor,
            "step": float(occupancy.step) / sampler.samples_per_voxel,
        },
        "lattice": {
            "bricks": list(table.kept.shape),
            "origin": _list(field.origin),
            "spacing": float(field.spacing),
            "nothing": int(np.float16(NOTHING).view(np.uint16)),
        },
        "network": {
            "features": field.settings.features,
            "degree": field.settings.sh_degree,
            "width": _padded(field.settings.width),
            "shading": field.settings.shading,
        },
        "detail": {"finer": 0, "rows": 0},
        "background": list(run.background),
        "edgeSupersampling": run.config.evaluation.edge_supersampling,
        **_viewpoints(run),
    }
    arrays = {
        "kept": table.kept.astype(np.uint8),
        "codes": table.codes,
        "values": table.values.view(np.uint16),
        "cells": cells,
        "weights": _weights(field, run.params),
    }
    if has_detail(run.params):
        header["detail"] = {
            "finer": field.settings.detail_finer, "rows": len(run.params.detail)
        }  # fmt: skip
        codes, values = pack_detail(np.asarray(run.params.detail))
        arrays |= {"detail_codes": codes, "detail_values": values.view(np.uint16)}
    return header, arrays


def holds(run: Run) -> bool:
    """Whether a page can hold a run's field."""
    try:
        _voxels_of(run)
    except RunError:
        return False
    return True


def _voxels_of(run: Run) -> tuple[VoxelField, SphereContraction | NdcSpace | None]:
    """The fast field of a run, and the space of its lattice.

    Raises:
      RunError: the field is of another kind, or too large.
    """
    field, space = run.field, None
    if isinstance(field, WarpedField):
        field, space = field.field, field.space
    if not isinstance(field, VoxelField) or not isinstance(
        space, SphereContraction | NdcSpace | None
    ):
        folder = shlex.quote(str(run.folder))
        raise RunError(
            f"{run.folder}: a page holds the fast field (method voxels), and not {run.config.method}; "
            f"jaxnerf render {folder} makes a video of it, jaxnerf view {folder} shows it"
        )
    if int(np.max(field.bricks)) > 255**3:
        raise RunError(
            f"{run.folder}: {int(np.max(field.bricks)):,} bricks are too many for a page"
        )
    return field, space


def _described(space: SphereContraction | NdcSpace | None) -> dict[str, Any]:
    if isinstance(space, SphereContraction):
        return {
            "kind": "sphere", "centre": _list(space.centre), "radius": float(space.radius)
        }  # fmt: skip
    if isinstance(space, NdcSpace):
        scale = -2.0 * np.asarray(space.focal) / np.asarray(space.size)
        return {"kind": "ndc", "scale": _list(scale), "near": float(space.near)}
    return {"kind": "bounded"}


def _weights(field: VoxelField, params: VoxelParams) -> np.ndarray:
    """The network's weights in rows of four outputs: biases, then a row for each input, for each four.

    The field's `view_dependence` is multiplied into the weights of the encoded direction.
    """
    settings = field.settings
    width, parts = _padded(settings.width), []
    inputs = settings.features + (settings.sh_degree + 1) ** 2
    told = np.ones(inputs, np.float32)
    told[settings.features :] = float(field.view_dependence)
    sizes = [(inputs, width), (width, width), (width, 4)]
    for number, (layer, (rows, columns)) in enumerate(zip(params.network, sizes, strict=True)):
        kernel, bias = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
        if number == 0:
            kernel = kernel * told[:, None]
        whole = np.zeros((1 + rows, columns), np.float32)
        whole[0, : len(bias)] = bias
        whole[1 : 1 + kernel.shape[0], : kernel.shape[1]] = kernel
        parts.append(whole.reshape(1 + rows, columns // 4, 4).swapaxes(0, 1).reshape(-1, 4))
    flat = np.concatenate(parts)
    filled = np.zeros((_rows(len(flat)) * _WEIGHTS_A_ROW, 4), np.float32)
    filled[: len(flat)] = flat
    return filled.reshape(-1, _WEIGHTS_A_ROW, 4)


def _viewpoints(run: Run) -> dict[str, Any]:
    """Cameras and positions for navigation in the scene's frame, and the transformation to the user's."""
    scene, cameras = run.scene, run.adjusted(run.scene.splits["train"].cameras)
    poses = np.asarray(cameras.camera_to_world, np.float64)[:, :3]
    middle, forward = focus_point(poses), run.config.scene.space == "forward"
    known = np.linalg.norm(poses[:, :, 3] - middle, axis=-1)
    near, _ = bounds_of(run.config, scene)
    nearest = poses[:, 2, 3].min() if forward else known.min()
    home = home_of(poses)
    distance = float((home[:, 3] - middle) @ home[:, 2])
    if forward or not distance > 0.0:
        distance = 0.5 * (scene.near + min(scene.far, 10.0 * scene.near))
    frame = scene.to_user
    return {
        "near": near,
        "nearest": float(nearest),
        "middle": _list(middle),
        "toUser": {
            "scale": float(frame.scale),
            "rotation": np.asarray(frame.rotation, np.float64).tolist(),
            "translation": np.asarray(frame.translation, np.float64).tolist(),
        },
        "up": _list(up_of(poses)),
        "home": {"pose": _rounded(home), "distance": distance, **_angles(cameras[0])},
        "size": float(np.median(known)) if not forward else distance,
        "cameras": [
            {"name": name, "pose": _rounded(pose), **_angles(cameras[number])}
            for number, (name, pose) in enumerate(
                zip(scene.splits["train"].names, poses, strict=True)
            )
        ],
    }


def _angles(camera: Camera) -> dict[str, float]:
    """Half the image's width and height at depth 1, for a pinhole camera with these focal lengths."""
    across, down = 0.5 * np.asarray(camera.size) / np.asarray(camera.focal)
    return {"halfWidth": round(float(across), 6), "halfHeight": round(float(down), 6)}


def _padded(width: int) -> int:
    """A width rounded up to a multiple of four."""
    return -(-width // 4) * 4


def _rows(weights: int) -> int:
    return -(-weights // _WEIGHTS_A_ROW)


def _rounded(pose: np.ndarray) -> list[list[float]]:
    return np.round(pose, 7).tolist()


def _list(vector: Any) -> list[float]:
    return [float(x) for x in np.asarray(vector).reshape(-1)]

"""jaxnerf: radiance fields in pure JAX, as functions that compose."""

import warnings
from typing import TYPE_CHECKING, Any

from jaxnerf.cameras import Camera, Rays, cast_rays, project
from jaxnerf.config import Config, ConfigError
from jaxnerf.config.presets import preset
from jaxnerf.contraction import SphereContraction
from jaxnerf.errors import Error
from jaxnerf.fields import Field
from jaxnerf.fields.composed import ComposedField, PlacedField
from jaxnerf.fields.cropped import CroppedField, Region
from jaxnerf.fields.hash_grid import HashGridField
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.transfer import TransferFunction
from jaxnerf.fields.volume import VolumeField
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.geometry import Placement
from jaxnerf.kernels import compiler
from jaxnerf.rendering import (
    Box,
    Grid,
    Rendering,
    first_hit,
    grid_blocks,
    query,
    render_image,
    render_rays,
)
from jaxnerf.runs.composed import ComposedRun, Part, compose
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run, load_run
from jaxnerf.sampling import (
    ComposedSampler,
    Hierarchical,
    Occupancy,
    OccupancySampler,
    Sampler,
    Samples,
    Stratified,
)
from jaxnerf.scenes import Scene, SceneError, load_scene

if TYPE_CHECKING:
    from jaxnerf.methods.fit import fit
    from jaxnerf.training.loop import FitError

if _danger := compiler.protect():
    warnings.warn(_danger, RuntimeWarning, stacklevel=2)

__all__ = [
    "Box",
    "Camera",
    "ComposedField",
    "ComposedRun",
    "ComposedSampler",
    "Config",
    "ConfigError",
    "CroppedField",
    "Error",
    "Field",
    "FitError",
    "Grid",
    "HashGridField",
    "Hierarchical",
    "NerfField",
    "Occupancy",
    "OccupancySampler",
    "Part",
    "PlacedField",
    "Placement",
    "Rays",
    "Region",
    "Rendering",
    "Run",
    "RunError",
    "Sampler",
    "Samples",
    "Scene",
    "SceneError",
    "SphereContraction",
    "Stratified",
    "TransferFunction",
    "VolumeField",
    "VoxelField",
    "WarpedField",
    "cast_rays",
    "compose",
    "first_hit",
    "fit",
    "grid_blocks",
    "load_run",
    "load_scene",
    "preset",
    "project",
    "query",
    "render_image",
    "render_rays",
]


def __getattr__(name: str) -> Any:
    """Import the trainer when a name needs it: runs are opened, rendered and exported without it."""
    if name == "fit":
        from jaxnerf.methods.fit import fit

        return fit
    if name == "FitError":
        from jaxnerf.training.loop import FitError

        return FitError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

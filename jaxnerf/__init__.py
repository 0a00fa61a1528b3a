"""jaxnerf: radiance fields in pure JAX, as functions that compose."""

import warnings

from jaxnerf.cameras import Camera, Rays, cast_rays, project
from jaxnerf.config import Config
from jaxnerf.fields import Field
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.transfer import TransferFunction
from jaxnerf.fields.volume import VolumeField
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.kernels import compiler
from jaxnerf.methods.fit import fit
from jaxnerf.presets import preset
from jaxnerf.rendering import Rendering, render_image, render_rays
from jaxnerf.runs.run import Run, load_run
from jaxnerf.sampling import (
    Hierarchical,
    Occupancy,
    OccupancySampler,
    Sampler,
    Samples,
    Stratified,
)
from jaxnerf.scenes import Scene, load_scene

if _danger := compiler.protect():
    warnings.warn(_danger, RuntimeWarning, stacklevel=2)

__all__ = [
    "Camera",
    "Config",
    "Field",
    "Hierarchical",
    "NerfField",
    "Occupancy",
    "OccupancySampler",
    "Rays",
    "Rendering",
    "Run",
    "Sampler",
    "Samples",
    "Scene",
    "Stratified",
    "TransferFunction",
    "VolumeField",
    "VoxelField",
    "WarpedField",
    "cast_rays",
    "fit",
    "load_run",
    "load_scene",
    "preset",
    "project",
    "render_image",
    "render_rays",
]

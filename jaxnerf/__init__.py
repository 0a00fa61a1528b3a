"""jaxnerf: radiance fields in pure JAX, as functions that compose."""

import warnings

from jaxnerf import compiler
from jaxnerf.cameras import Camera, Rays, cast_rays, project
from jaxnerf.config import Config
from jaxnerf.fields import Field
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.marching import MarchSettings, march_rays
from jaxnerf.occupancy import Occupancy
from jaxnerf.pictures import march_image
from jaxnerf.presets import preset
from jaxnerf.rendering import Rendering, RenderSettings, render_image, render_rays
from jaxnerf.runs import Run, load_run
from jaxnerf.scenes import Scene, load_scene

if _danger := compiler.protect():
    warnings.warn(_danger, RuntimeWarning, stacklevel=2)

__all__ = [
    "Camera",
    "Config",
    "Field",
    "MarchSettings",
    "NerfField",
    "Occupancy",
    "Rays",
    "RenderSettings",
    "Rendering",
    "Run",
    "Scene",
    "VoxelField",
    "cast_rays",
    "load_run",
    "load_scene",
    "march_image",
    "march_rays",
    "preset",
    "project",
    "render_image",
    "render_rays",
]

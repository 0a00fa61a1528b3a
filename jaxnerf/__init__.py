"""jaxnerf: radiance fields in pure JAX, as functions that compose."""

# ruff: noqa: E402 - the compiler's flags must stand before anything of JAX runs.
from jaxnerf.compiler import prepare_compiler

prepare_compiler()

from jaxnerf.cameras import Camera, Rays, cast_rays, project
from jaxnerf.config import Config, preset
from jaxnerf.fields import Field
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.marching import MarchSettings, march_rays
from jaxnerf.occupancy import Occupancy
from jaxnerf.pictures import march_image
from jaxnerf.rendering import Rendering, RenderSettings, render_image, render_rays
from jaxnerf.runs import Run, load_run
from jaxnerf.scenes import Scene, load_scene

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

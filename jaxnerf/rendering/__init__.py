"""Rendering of rays (`render_rays`) and images (`render_image`), and evaluation of fields at points."""

from jaxnerf.rendering.boxes import Box, Grid
from jaxnerf.rendering.image import rays_that_fit, render_image, render_places
from jaxnerf.rendering.probing import (
    Block,
    GridBlocks,
    Hits,
    PointProperties,
    cells_that_hold,
    first_hit,
    grid_blocks,
    query,
)
from jaxnerf.rendering.rays import render_rays
from jaxnerf.rendering.result import Rendering

__all__ = [
    "Block",
    "Box",
    "Grid",
    "GridBlocks",
    "Hits",
    "PointProperties",
    "Rendering",
    "cells_that_hold",
    "first_hit",
    "grid_blocks",
    "query",
    "rays_that_fit",
    "render_image",
    "render_places",
    "render_rays",
]

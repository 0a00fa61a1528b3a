"""Rays in, pixels out; cameras in, pictures out."""

from jaxnerf.rendering.image import rays_that_fit, render_image, render_places
from jaxnerf.rendering.rays import Rendering, render_rays

__all__ = ["Rendering", "rays_that_fit", "render_image", "render_places", "render_rays"]

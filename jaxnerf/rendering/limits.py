"""Limits of an `OccupancySampler` that suit a picture, found from a few of its rays."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.compositing import TO_THE_END, Compositing
from jaxnerf.sampling import Occupancy, OccupancySampler
from jaxnerf.sampling.samplers import NO_LIMIT
from jaxnerf.sampling.traversal import march

# Rays that are looked at, spread evenly.
_RAYS = 1 << 11
# Means are told apart by half octaves, so that few programs serve all pictures of a field.
_PER_OCTAVE = 2


def fitted(
    sampler: OccupancySampler,
    camera: Camera,
    pixels: Float[np.ndarray, "N 2"],
    near: float,
    far: Float[np.ndarray, " N"],
    compositing: Compositing,
) -> OccupancySampler:
    """Replace limits of 0 of a sampler by limits that are enough for most rays of an image.

    Other limits are kept. They are estimated from some of the rays: the maximum of their numbers of
    samples, rounded up to a power of two, gives `samples`, and the mean, rounded to half an octave, gives
    `mean_samples`.

    Args:
      sampler: the sampler of the image's rays.
      camera: a single camera, or a batch of one per column.
      pixels: the pixels that can show something, at least one.
      near, far: the range of t of their rays.
      compositing: see `jaxnerf.render_rays`.
    """
    if sampler.samples and sampler.mean_samples:
        return sampler.limited()
    some = np.linspace(0, len(pixels) - 1, _RAYS).astype(int)
    limited = sampler.limited()
    depth = 0.0 if compositing in TO_THE_END else sampler.max_optical_depth
    settings = limited.samples, limited.max_steps, limited.samples_per_voxel, depth
    found = np.asarray(
        _counts(limited.occupancy, camera, pixels[some], np.float32(near), far[some], settings)
    )
    longest, mean = max(int(found.max()), 1), max(float(found.mean()), 1.0)
    samples = min(1 << math.ceil(math.log2(longest)), limited.samples)
    room = 2.0 ** (round(_PER_OCTAVE * math.log2(mean)) / _PER_OCTAVE)
    samples = sampler.samples or max(samples, 8)
    return dataclasses.replace(
        limited, samples=samples, mean_samples=sampler.mean_samples or min(room, float(samples))
    )


@functools.partial(jax.jit, static_argnames="settings")
def _counts(
    occupancy: Occupancy, camera: Camera, pixels: Any, near: Any, far: Any, settings: tuple
) -> Int[Array, " N"]:
    """How many samples rays take."""
    samples, max_steps, samples_per_voxel, max_optical_depth = settings
    rays = cast_rays(that_see(camera, pixels), pixels, near, jnp.maximum(far, near))
    return march(
        occupancy, rays, samples=samples, max_steps=max_steps or NO_LIMIT,
        samples_per_voxel=samples_per_voxel, max_optical_depth=max_optical_depth,
    ).count  # fmt: skip


def that_see(camera: Camera, pixels: Float[Array, "N 2"]) -> Camera:
    """The camera of a picture; the one of each pixel where every column has its own."""
    if camera.focal.ndim == 1:
        return camera
    column = jnp.clip(pixels[..., 0].astype(jnp.int32), 0, len(camera) - 1)
    return camera[column]

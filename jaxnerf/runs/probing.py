"""Evaluation of a run's field at points of the user's frame."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera, Rays, pixel_centres
from jaxnerf.fields import join_field, split_field
from jaxnerf.fields.voxels import VoxelField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.rendering import probing
from jaxnerf.rendering.boxes import Box, Grid, check_resolution
from jaxnerf.rendering.chunks import in_chunks, replicated, rows_for
from jaxnerf.rendering.image import rays_that_fit
from jaxnerf.rendering.probing import GridBlocks, Hits, PointProperties
from jaxnerf.runs.extent import scene_cells
from jaxnerf.runs.files import RunError
from jaxnerf.sampling.cells import Cells

# Cells along a side of the scene's cube, if the run has no occupancy grid.
_CELLS = 32


class Probe:
    """Evaluates a run's field at points, given as offsets from an origin in the user's frame and unit."""

    def __init__(self, run: Any, origin: Float[np.ndarray, "3"], length: float = 1.0):
        """Prepare the evaluation of the run's last level.

        Args:
          run: a `Run`.
          origin: origin of the offsets.
          length: length of the segment of which opacity is computed, in the user's unit.
        """
        to_scene = run.scene.to_user.inverse()
        self._matrix = to_scene.scale * to_scene.rotation
        self._shift = to_scene.points(np.asarray(origin, np.float64))
        self._turn, self._scale = to_scene.rotation, to_scene.scale
        field, params = run.field, run.params
        if isinstance(field, tuple):
            field, params = field[-1], params[-1]
        self._ask = probing.asked_in_chunks(field, params, run.occupancy, length * to_scene.scale)

    def properties(
        self,
        offsets: Float[np.ndarray, "N 3"],
        directions: Float[np.ndarray, "N 3"] | None = None,
        colours: bool = True,
    ) -> PointProperties:
        """Density, opacity and colour at points, seen along directions of the user's frame.

        See `query`.
        """
        turned = None
        if directions is not None:
            turned = (directions @ self._turn.T).astype(np.float32)
        found = self._ask(self._places(offsets), turned, colours)
        return dataclasses.replace(found, density=found.density * np.float32(self._scale))

    def density(self, offsets: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        """Density in 1/length of the user's unit."""
        return np.asarray(self.properties(offsets, colours=False).density)

    def colour(
        self, offsets: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> Float[np.ndarray, "N 3"]:
        """The colour at points, seen along unit directions of the user's frame."""
        return np.asarray(self.properties(offsets, directions).colour)

    def _places(self, offsets: np.ndarray) -> np.ndarray:
        return (offsets @ self._matrix.T + self._shift).astype(np.float32)


def finest_voxel(run: Any) -> float | None:
    """The side of a voxel in the user's unit, if the field has a lattice; else None. Detail is finer.

    With a contraction it is the side of a voxel in the uncontracted ball.
    """
    field, scale = run.field, run.scene.to_user.scale
    if isinstance(field, WarpedField):
        scale *= float(np.asarray(getattr(field.space, "radius", np.nan)))
        field = field.field
    if not isinstance(field, VoxelField) or not np.isfinite(scale):
        return None
    return float(np.asarray(field.spacing)) * scale


def query(run: Any, points: Any, directions: Any, length: float) -> PointProperties:
    """See `jaxnerf.Run.query`."""
    places = np.asarray(points, np.float64)
    if places.ndim < 1 or places.shape[-1] != 3:
        raise ValueError(f"query: points have the shape {places.shape}, whose last side is not 3")
    if directions is not None:
        directions = np.broadcast_to(np.asarray(directions, np.float64), places.shape)
        if not (np.linalg.norm(directions, axis=-1) > 0.0).all():
            raise ValueError("query: a direction has the length 0")
        directions = directions.reshape(-1, 3)
    probe = Probe(run, np.zeros(3), length)
    found = probe.properties(places.reshape(-1, 3), directions)
    return jax.tree.map(lambda x: x.reshape((*places.shape[:-1], *x.shape[1:])), found)


def grid(run: Any, resolution: int, box: Any, colours: bool) -> GridBlocks:
    """See `jaxnerf.Run.grid`."""
    check_resolution(resolution)
    voxels = Grid.of(bounding_box(run) if box is None else Box.named(box), resolution)
    probe, balls = Probe(run, np.zeros(3), voxels.voxel), None
    if run.occupancy is not None:
        middles, radii = Cells.of(run.occupancy).balls()
        balls = run.scene.to_user.points(middles), run.scene.to_user.scale * radii
    return GridBlocks(
        voxels, lambda points, wanted: probe.properties(points, None, wanted), balls, colours
    )


def bounding_box(run: Any, least_fraction: float = 0.01) -> Box:
    """See `jaxnerf.Run.bounding_box`."""
    field, params = run.field, run.params
    if isinstance(field, tuple):
        field, params = field[-1], params[-1]
    cells = scene_cells(run, _CELLS)
    if cells.mask.any():
        cells = probing.cells_that_hold(
            field, params, cells, occupancy=run.occupancy, least_fraction=least_fraction
        )
    if not cells.mask.any():
        raise RunError(f"{run.folder}: the scene holds nothing that has a box")
    corners = run.scene.to_user.points(cells.corners())
    return Box(corners.min(axis=0), corners.max(axis=0))


def first_hit(run: Any, seen_by: Camera | Rays, pixels: Any) -> Hits:
    """See `jaxnerf.Run.first_hit`."""
    to_user = run.scene.to_user
    if isinstance(seen_by, Camera):
        if pixels is None:
            pixels = pixel_centres(*map(int, seen_by.size))
        rays = run.rays(seen_by, jnp.asarray(pixels, jnp.float32))
    elif pixels is not None:
        raise ValueError("first_hit: pixels are those of a camera, and rays have none")
    else:
        back = to_user.inverse()
        turned = (np.asarray(x, np.float64) @ back.rotation.T
                  for x in (seen_by.directions, seen_by.view_directions))  # fmt: skip
        directions, views = turned
        rays = Rays(
            back.points(np.asarray(seen_by.origins)), back.scale * directions, views,
            seen_by.near, seen_by.far,
        )  # fmt: skip
    rays = jax.tree.map(lambda x: np.asarray(x, np.float32), rays)
    shape = rays.near.shape
    flat = [x.reshape(-1, *x.shape[len(shape) :]) for x in jax.tree.leaves(rays)]
    arrays, kind = split_field(run.field)
    constant = replicated((arrays, run.params, run.sampler))
    function = functools.partial(_hits, kind, *constant)
    # Fewer rays than for an image, since normals need the gradient of the density.
    most = max(rays_that_fit(run.sampler) * len(jax.local_devices()), 1 << 8)
    found = in_chunks(function, *flat, rows_at_once=rows_for(len(flat[0]), most))
    found = jax.tree.map(lambda x: x.reshape((*shape, *x.shape[1:])), found)
    hit = found.hit[..., None]
    points = to_user.points(np.where(hit, found.points, 0.0))
    return Hits(
        hit=found.hit,
        points=np.where(hit, points, np.nan),
        distance=to_user.scale * found.distance,
        normal=(found.normal @ to_user.rotation.T).astype(np.float32),
    )


@functools.partial(jax.jit, static_argnums=0)
def _hits(kind, arrays, params, sampler, *rays):
    return probing.first_hit(join_field(arrays, kind), params, Rays(*rays), sampler)

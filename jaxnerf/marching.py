"""Rendering by walking through occupied space only: `render_rays` for fields that have an occupancy.

The samples of many rays are packed into one row of a fixed length, so that the field is asked only
where something is and every shape is static. Rays that do not fit are not rendered, and say so.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxnerf import compositing
from jaxnerf.cameras import Camera, Rays, cast_rays, pixel_centres
from jaxnerf.fields import Field, Params
from jaxnerf.footprints import tiles_that_show
from jaxnerf.kernels.compositing import march_distortion, march_weights
from jaxnerf.occupancy import Occupancy, march, most_samples, pack, t_of_depth
from jaxnerf.rendering import Rendering
from jaxnerf.spaces import Ball, Frustum, pace

# Samples at a time on each device. More keep the caches from holding what one step leaves for the next.
_SAMPLES_AT_ONCE = 12 << 13
_TILE = 8  # pixels
_NO_LIMIT = 1 << 30
# Of the light, what an 8-bit picture can show.
_LEAST_LIGHT = 1 / 255
# Where in a pixel four rays go through: a square, turned so that no two share a row or a column.
_TURNED_SQUARE = np.array([[-1, -3], [3, -1], [1, 3], [-3, 1]], np.float32) / 8.0


@dataclasses.dataclass(frozen=True)
class MarchSettings:
    """How rays walk. Static under jit.

    By default no ray is cut short or left out, and memory is taken for as many samples as a ray can find
    in the grid (`jaxnerf.occupancy.most_samples`). Limits save memory and time; `Marched.complete` says
    which rays they leave incomplete.

    Attributes:
      samples: at most so many for each ray; 0 for as many as a ray can find.
      lookups: samples and jumps over empty space together, at most so many for each ray; 0 for no limit.
      budget: samples for all rays together, as a mean for each ray; 0 for `samples` of each.
      finer: samples in each of the occupancy's steps. Two show a trained field with less noise than
        the one that it was trained with: 0.3 to 0.6 dB more on lego.
      with_normals: whether to compute normals, which costs a backward pass through the density.
      shares, most_a_step: see `jaxnerf.occupancy.march`.
    """

    samples: int = 0
    lookups: int = 0
    budget: float = 0.0
    finer: int = 1
    with_normals: bool = False
    shares: tuple[int, ...] = (1, 4)
    most_a_step: float = 2.0

    def limits(self, occupancy: Occupancy) -> tuple[int, int, float]:
        """The samples and lookups of a ray, and the samples of a ray in the mean, in a grid."""
        samples = self.samples or most_samples(occupancy, self.finer)
        return samples, self.lookups or _NO_LIMIT, self.budget or float(samples)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Marched:
    """What walking rays saw. A pytree.

    Attributes:
      rendering: as from `jaxnerf.render_rays`; the background where nothing was hit.
      kept: whether the ray's samples fitted into the budget; what was not kept was not rendered.
      cut: whether the ray ran out of samples or lookups before it left the scene.
      ended: whether the ray was ended where next to no light was expected to be left.
      samples: how many the kept rays took.
      distortion: how far what the ray sees is spread out, as a share of its way through the cube; see
        `jaxnerf.kernels.compositing.march_distortion`.
      weights, positions: of the packed samples; positions are in the space of the occupancy's cube.
    """

    rendering: Rendering
    kept: Bool[Array, " R"]
    cut: Bool[Array, " R"]
    ended: Bool[Array, " R"]
    samples: Int[Array, ""]
    distortion: Float[Array, " R"]
    weights: Float[Array, " B"]
    positions: Float[Array, "B 3"]

    @property
    def dark(self) -> Bool[Array, " R"]:
        """Whether less light is left on the ray than a picture of 8 bits can show."""
        return 1.0 - self.rendering.opacity <= _LEAST_LIGHT

    @property
    def complete(self) -> Bool[Array, " R"]:
        """Whether the ray was rendered to its end, or ended where it was `dark`."""
        return self.kept & ~self.cut & (self.dark | ~self.ended)


def march_rays(
    field: Field,
    params: Params,
    occupancy: Occupancy,
    rays: Rays,
    settings: MarchSettings = MarchSettings(),
    key: PRNGKeyArray | None = None,
    background: Float[Array, "R 3"] | Float[Array, "3"] | float = 1.0,
    jitter: Float[Array, " R"] | None = None,
) -> Marched:
    """Render rays through occupied space. Pure; differentiable in the parameters.

    Args:
      field: with `shading` "ray" its features are added up along a ray and its colour asked for
        once; otherwise at each sample.
      params: of the field.
      occupancy: where something is; see `jaxnerf.occupancy`.
      rays: in one leading dimension.
      settings: static.
      key: to shift each ray's samples within their intervals; None puts them in the middle.
      background: as in `jaxnerf.render_rays`.
      jitter: where in their intervals each ray's samples lie, in [0, 1]; instead of a key.
    """
    count = rays.near.shape[0]
    samples, lookups, budget = settings.limits(occupancy)
    if jitter is None:
        jitter = jnp.full(count, 0.5) if key is None else jax.random.uniform(key, (count,))
    walk = march(
        occupancy, rays, jitter,
        samples=samples, lookups=lookups, finer=settings.finer,
        shares=settings.shares, most_a_step=settings.most_a_step,
    )  # fmt: skip
    packing = pack(walk.count, int(budget * count))
    ray, slot = packing.ray, jnp.clip(packing.slot, 0, samples - 1)
    t = walk.t[slot, ray]
    positions = packed_points(rays, ray, t)

    def ask(points):
        # What is not used asks at one place, whose values stay in the cache.
        places = jnp.where(
            packing.used[:, None], occupancy.place(points), occupancy.origin[None, :]
        )
        density, features = field.density(params, places)
        return density, (features, places)

    if settings.with_normals:
        density, pull_back, (features, positions) = jax.vjp(ask, positions, has_aux=True)
        (gradient,) = pull_back(jnp.ones_like(density))
    else:
        density, (features, positions) = ask(positions)
        gradient = None

    length = jnp.linalg.norm(rays.directions, axis=-1)
    step = _isotropic(occupancy, rays, ray, positions) / settings.finer
    optical = jnp.where(packing.used, density * step, 0.0)
    slots = jnp.arange(samples)[:, None]
    place = jnp.minimum(packing.first[None, :] + slots, optical.shape[0] - 1)
    taken = (slots < walk.count[None, :]) & packing.kept[None, :]
    thickness = jnp.where(taken, optical[place], 0.0)
    by_slot = march_weights(thickness)
    weights = jnp.where(packing.used, by_slot[slot, ray], 0.0)

    def add_up(values: Array) -> Array:
        zeros = jnp.zeros((count, *values.shape[1:]), values.dtype)
        scale = weights.reshape(-1, *(1,) * (values.ndim - 1))
        return zeros.at[ray].add(scale * values, indices_are_sorted=True)

    opacity = jnp.sum(by_slot, axis=0)
    if getattr(field, "shading", "sample") == "ray":
        mean = add_up(features) / jnp.maximum(opacity, 1e-3)[:, None]
        accumulated = opacity[:, None] * field.colour(params, mean, rays.view_directions)
    else:
        accumulated = add_up(field.colour(params, features, rays.view_directions[ray]))
    mean_t = jnp.sum(by_slot * walk.t, axis=0) / jnp.maximum(opacity, 1e-6)
    depth = jnp.where(opacity > 0.0, mean_t, rays.far)
    median = _median_t(occupancy, rays, walk, thickness, jitter, settings.finer)
    rendering = Rendering(
        colour=compositing.over(accumulated, opacity, background),
        opacity=opacity,
        depth=depth,
        depth_median=median,
        distance=depth * length,
        normals=None if gradient is None else compositing.unit(-add_up(compositing.unit(gradient))),
    )
    spread = march_distortion(by_slot, walk.depth, walk.share)
    return Marched(
        rendering, packing.kept, walk.cut, walk.ended, packing.samples, spread, weights, positions
    )


def _isotropic(occupancy: Occupancy, rays: Rays, ray: Array, places: Array) -> Array:
    """The length of the occupancy's step at packed samples, by which their density is multiplied.

    It is what makes a density mean the same whichever ray meets it: the length of the step in the world
    and, in the space of an occupancy, that times the space's own rate at the sample.
    """
    space = occupancy.space
    if isinstance(space, Ball):
        passing = pace(space, rays).passing
        return occupancy.step * space.length_of_step(passing[ray], places)
    if isinstance(space, Frustum):
        return occupancy.step * space.length_of_step(rays)[ray]
    return occupancy.step


def _median_t(occupancy, rays, walk, thickness, jitter, finer) -> Array:
    """Where optical depth reaches ln 2, as `jaxnerf.compositing.median_depth` has it; far where never."""
    half = jnp.log(2.0).astype(thickness.dtype)
    reached = jnp.cumsum(thickness, axis=0)
    slot, lane = jnp.argmax(reached >= half, axis=0), jnp.arange(thickness.shape[1])
    own = thickness[slot, lane]
    part = 1.0 - (reached[slot, lane] - half) / jnp.where(own > 0.0, own, 1.0)
    depth = walk.depth[slot, lane] + walk.share * (jnp.clip(part, 0.0, 1.0) - jitter)
    t = t_of_depth(occupancy, rays, jnp.clip(depth, 0.0, 1.0), finer)
    return jnp.where(reached[-1] >= half, t, rays.far)


def packed_points(rays: Rays, ray: Array, t: Array) -> Array:
    """The points of packed samples.

    As a loop over the axes because XLA:CPU would otherwise fuse these gathers into the field's, and
    do them again for every corner and feature: rendering took 2.6 times as long.
    """
    _, points = jax.lax.scan(
        lambda _, axis: (None, axis[0][ray] + t * axis[1][ray]),
        None,
        (rays.origins.T, rays.directions.T),
    )
    return points.T


def march_image(
    field: Field,
    params: Params,
    occupancy: Occupancy,
    camera: Camera,
    settings: MarchSettings = MarchSettings(samples=96, lookups=160, budget=12.0, finer=2),
    *,
    near: float = 0.0,
    far: float = np.inf,
    horizon: float = np.inf,
    background: tuple[float, float, float] | float = 1.0,
    with_normals: bool = False,
    smooth_edges: float = 0.0,
    chunk: int = 0,
    devices: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rendering:
    """Render all pixels of one camera through occupied space, on all local devices.

    Rays that do not fit into a chunk's budget come again in a later chunk, and rays that run out of
    samples or lookups once more with four times as many, as do rays that were ended though light was
    left that an 8-bit picture can show: none is left out or cut short.

    Args:
      field, params, occupancy: as for `march_rays`.
      camera: a single one, of any size.
      settings: for a first try.
      near, far: the range of t, beside the bounds of the occupancy.
      horizon: the depth where a ray that has no end meets nothing.
      background: one colour for the image.
      with_normals: see `MarchSettings`.
      smooth_edges: pixels whose colour differs by more than this from that of a pixel beside, above or
        below are seen by four rays instead of one, whose mean is their colour and opacity: 0.35 dB more
        on lego, in twice the time, with 0.1. Of depths and normals the middle ray's stay. 0 for none.
      chunk: rays at a time on each device; memory grows with it. 0 is what suits the device.
      devices: on which to render; all local ones by default.
      progress: called with (rays done, rays in all) after each chunk.

    Returns:
      A `Rendering` of NumPy arrays with leading shape (height, width).
    """
    samples, lookups, budget = settings.limits(occupancy)
    settings = dataclasses.replace(
        settings, samples=samples, lookups=lookups, budget=budget, with_normals=with_normals
    )
    width, height = (int(side) for side in np.asarray(camera.size))
    pixels = pixel_centres(width, height).reshape(-1, 2)
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], camera)
    (shown,) = tiles_that_show(occupancy, batch, (width, height), _TILE)
    shown = shown.repeat(_TILE, axis=0)[:height].repeat(_TILE, axis=1)[:, :width]
    devices = tuple(jax.local_devices() if devices is None else devices)
    mesh = Mesh(np.asarray(devices), ("rays",))
    constant = jax.device_put(
        (params, occupancy, camera, np.broadcast_to(np.asarray(background, np.float32), (3,))),
        NamedSharding(mesh, P()),
    )
    lengths = np.asarray(_lengths(camera, pixels))
    end = far if np.isfinite(far) else horizon
    whole = _nothing_seen(lengths, np.asarray(constant[3]), end, with_normals)
    visible = np.flatnonzero(shown)
    look = functools.partial(
        _march_places,
        field,
        constant,
        settings,
        mesh,
        np.array([near, far], np.float32),
        chunk,
        progress,
    )
    if len(visible):
        _put(whole, visible, look(pixels[visible], len(pixels)))
    if smooth_edges > 0.0:
        rough = _contrast(np.asarray(whole.colour).reshape(height, width, 3)) > smooth_edges
        rough = np.flatnonzero(rough & shown)
        places = (pixels[rough, None] + _TURNED_SQUARE).reshape(-1, 2)
        seen = look(places, len(pixels) + len(places))
        if seen is not None:
            for name in ("colour", "opacity"):
                some = np.asarray(getattr(seen, name))
                some = some.reshape(len(rough), len(_TURNED_SQUARE), *some.shape[1:])
                getattr(whole, name)[rough] = some.mean(axis=1)
    for values, where_nothing in (
        (whole.depth, end),
        (whole.depth_median, end),
        (whole.distance, end * lengths),
    ):
        np.copyto(values, where_nothing, where=~np.isfinite(values))
    return jax.tree.map(lambda leaf: leaf.reshape(height, width, *leaf.shape[1:]), whole)


def _march_places(
    field, constant, settings, mesh, bounds, chunk, progress, places, total
) -> Rendering | None:
    """What rays through places of a picture see, as NumPy arrays; None without places.

    Args:
      field, settings, chunk, progress: as for `march_image`; total is what progress is told of.
      constant: what `_compiled_chunk` wants before the places, on the devices of the mesh.
      bounds: near and far.
      places: (x, y) of each.
    """
    whole, waiting, cut = None, np.arange(len(places)), []
    finished = total - len(places)
    size = chunk or max(int(_SAMPLES_AT_ONCE / settings.budget), 64)
    while len(waiting):
        render, stride = _compiled_chunk(field, settings, mesh), size * mesh.size
        late, before = [], finished
        for begin in range(0, len(waiting), stride):
            part = waiting[begin : begin + stride]
            padded = np.pad(places[part], ((0, stride - len(part)), (0, 0)), mode="edge")
            seen, kept, short = jax.tree.map(
                lambda leaf, n=len(part): np.asarray(leaf)[:n],
                render(*constant, padded, *bounds),
            )
            if whole is None:
                whole = jax.tree.map(
                    lambda leaf: np.empty((len(places), *leaf.shape[1:]), leaf.dtype), seen
                )
            done = kept & ~short
            _put(whole, part[done], jax.tree.map(lambda leaf, of=done: leaf[of], seen))
            late.append(part[~kept])
            cut.append(part[kept & short])
            finished += int(done.sum())
            if progress:
                progress(finished, total)
        waiting = np.concatenate(late)
        stuck = finished == before and not any(map(len, cut))
        if not len(waiting):
            waiting, cut, size = np.concatenate(cut), [], max(size // 4, 64)
            settings = dataclasses.replace(
                settings,
                samples=4 * settings.samples,
                lookups=min(4 * settings.lookups, _NO_LIMIT),
                most_a_step=0.0,
            )
            stuck = True
        if stuck:
            settings = dataclasses.replace(settings, budget=4.0 * settings.budget)
    return whole


def _put(whole: Rendering, where: np.ndarray, some: Rendering | None) -> None:
    for all_places, part in zip(jax.tree.leaves(whole), jax.tree.leaves(some), strict=True):
        all_places[where] = part


def _contrast(colour: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    """By how much each pixel differs, in a channel, from the one beside, above or below it at most."""
    found = np.zeros(colour.shape[:2], colour.dtype)
    for axis in (0, 1):
        step = np.abs(np.diff(colour, axis=axis)).max(axis=-1)
        for ends in ((0, 1), (1, 0)):  # of two pixels that differ, either
            np.maximum(
                found, np.pad(step, [ends if axis == k else (0, 0) for k in (0, 1)]), out=found
            )
    return found


@jax.jit
def _lengths(camera: Camera, pixels: Array) -> Array:
    """Of the directions of rays."""
    return jnp.linalg.norm(cast_rays(camera, pixels).directions, axis=-1)


def _nothing_seen(
    lengths: np.ndarray, background: np.ndarray, far: float, with_normals: bool
) -> Rendering:
    """What rays see that meet nothing."""
    count = len(lengths)
    end = np.full(count, far, np.float32)
    arrays: dict[str, Any] = {
        "colour": np.tile(background, (count, 1)),
        "opacity": np.zeros(count, np.float32),
        "depth": end,
        "depth_median": end.copy(),
        "distance": end * lengths,
        "normals": np.zeros((count, 3), np.float32) if with_normals else None,
    }
    return Rendering(**arrays)


@functools.lru_cache(maxsize=16)
def _compiled_chunk(field: Field, settings: MarchSettings, mesh: Mesh):
    def chunk(params, occupancy, camera, background, pixels, near, far):
        rays = cast_rays(camera, pixels, near, far)
        seen = march_rays(field, params, occupancy, rays, settings, None, background)
        return seen.rendering, seen.kept, ~seen.complete

    sharded, same = P("rays"), P()
    mapped = jax.shard_map(
        chunk,
        mesh=mesh,
        in_specs=(same, same, same, same, sharded, same, same),
        out_specs=sharded,
        check_vma=False,
    )
    return jax.jit(mapped)

"""Pictures of a field that has an occupancy: `jaxnerf.render_image` by way of `jaxnerf.march_rays`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxnerf.cameras import Camera, cast_rays, pixel_centres
from jaxnerf.fields import Field, Params
from jaxnerf.footprints import tiles_that_show
from jaxnerf.marching import NO_LIMIT, MarchSettings, march_rays
from jaxnerf.occupancy import Occupancy
from jaxnerf.rendering import Rendering

# Samples at a time on each device. More keep the caches from holding what one step leaves for the next.
_SAMPLES_AT_ONCE = 12 << 13
_TILE = 8  # pixels
# Where in a pixel four rays go through: a square, turned so that no two share a row or a column.
_TURNED_SQUARE = np.array([[-1, -3], [3, -1], [1, 3], [-3, 1]], np.float32) / 8.0


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

    Raises:
      ValueError: the camera's picture has no pixels.
    """
    samples, lookups, budget = settings.limits(occupancy)
    settings = dataclasses.replace(
        settings, samples=samples, lookups=lookups, budget=budget, with_normals=with_normals
    )
    width, height = (int(side) for side in np.asarray(camera.size))
    if width < 1 or height < 1:
        raise ValueError(f"march_image: camera.size is {width} x {height}, which has no pixels")
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
    nothing = _nothing_seen(lengths, np.asarray(constant[3]), end, False)
    for name in ("depth", "depth_median", "distance"):
        values = np.asarray(getattr(whole, name))
        np.copyto(values, getattr(nothing, name), where=~np.isfinite(values))
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
                lookups=min(4 * settings.lookups, NO_LIMIT),
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

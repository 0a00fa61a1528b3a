"""Pictures: all pixels of a camera, by chunks of rays that one compiled program renders."""

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
from jaxnerf.compositing import Compositing
from jaxnerf.fields import Field, Params, join_field, split_field
from jaxnerf.rendering.chunks import off_powers_of_two
from jaxnerf.rendering.footprints import pixels_that_show
from jaxnerf.rendering.limits import fitted, that_see
from jaxnerf.rendering.normals import normals_of_depth, pixels_apart
from jaxnerf.rendering.rays import render_rays
from jaxnerf.rendering.result import Rendering
from jaxnerf.sampling import (
    ComposedSampler,
    Hierarchical,
    OccupancySampler,
    Sampler,
    Stratified,
)
from jaxnerf.sampling.composed import map_occupancy_samplers
from jaxnerf.sampling.pixels import values_at

# Packed samples of a chunk on each device: with more, intermediate arrays do not fit into the caches.
_SAMPLES_AT_ONCE = 12 << 13
# Samples per ray of a sampler of unknown type, by which the size of chunks is estimated.
_USUAL_SAMPLES = 128
# Evaluations of the field at once; see `rays_that_fit`. With the paper's network 2^18 should be
# some 5 GB in training, by its layers' sizes; not measured.
_EVALUATIONS_ON_CPU = 1 << 14
_EVALUATIONS_ON_ACCELERATOR = 1 << 18
# Rays of a chunk at least, with an occupancy: steps of the march and calls of kernels are paid once a
# chunk, and a volume of 512 cubed, with hundreds of samples a ray, is rendered in 5 to 14% less time
# than by chunks of its samples' number alone. A chunk has at most so many times `_SAMPLES_AT_ONCE`.
_FEWEST_MARCHED, _MOST_TIMES = 2_048, 4.0
# Rays of a chunk in any case: not many, since where fewer are left the rest is padding.
_FEWEST_RAYS = 64
_PIXELS_AT_ONCE = 1 << 14
# Where in a pixel four rays go through: a square, turned so that no two share a row or a column.
_TURNED_SQUARE = np.array([[-1, -3], [3, -1], [1, 3], [-3, 1]], np.float32) / 8.0


@dataclasses.dataclass(frozen=True)
class _Look:
    """The renderer of one image, and its settings."""

    # (sampler, pixels) -> rendering, and which rays fitted and are complete
    render: Callable[..., Any]
    sampler: Sampler
    chunk: int
    devices: int
    progress: Callable[[int, int], None] | None


def render_image(
    field: Field | Sequence[Field],
    params: Params,
    camera: Camera,
    sampler: Sampler = Hierarchical(),
    *,
    near: float = 0.0,
    far: Float[np.ndarray, "_H _W"] | float = np.inf,
    horizon: float = np.inf,
    background: Float[np.ndarray, "_H _W 3"] | tuple[float, float, float] | float = 1.0,
    extras: Callable[[Params, Any], Any] | None = None,
    normals: bool = False,
    compositing: Compositing = "volume",
    edge_supersampling: float = 0.0,
    chunk: int = 0,
    devices: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rendering:
    """Render all pixels of one camera, in chunks, on all local devices.

    All chunks have one size and the last is padded, so that one compiled program serves images of every
    size (for each kind of lens, field and sampler).

    With an `OccupancySampler` every ray is rendered completely. Tiles of pixels onto which no occupied
    cell projects get the background without being rendered. Rays whose samples overflow a chunk's packed
    buffer are rendered again in a later chunk, and incomplete rays with limits four times as large.
    Limits that are 0 are first estimated from the numbers of samples of some of the image's rays.

    Args:
      field, params, extras, normals, compositing: as for `render_rays`.
      camera: a single one, of any size; or a batch of as many as the picture has columns, each of which
        sees its own (`jaxnerf.cameras.stereo.omnidirectional_eye`).
      sampler: the sampler of the first pass; incomplete rays are rendered again with larger limits.
      near, far: the range of t; far may have a value per pixel. With the depth buffer of a rasterised
        image as far and the image itself as background, rasterised objects and the field occlude each
        other correctly.
      horizon: the depth reported for rays with an infinite far that meet nothing.
      background: one colour for the image, or one of each pixel.
      edge_supersampling: pixels whose colour differs by more than this from that of a pixel beside,
        above or below are seen by four rays instead of one, whose mean is their colour and opacity:
        0.35 dB more on lego, in twice the time, with 0.1. Depths, normals and extras stay those of the
        middle ray. 0 for none.
      chunk: rays at a time on each device; memory grows with it. 0 is what suits the device.
      devices: the devices on which to render; all local ones by default.
      progress: called with (rays done, rays in all) after each chunk.

    Returns:
      A `Rendering` of NumPy arrays with leading shape (height, width).

    Raises:
      ValueError: the camera's picture has no pixels, a batch does not have as many cameras as columns,
        or far or the background has another shape than the picture.
    """
    width, height = (int(side) for side in np.reshape(camera.size, (-1, 2))[0])
    if width < 1 or height < 1:
        raise ValueError(f"render_image: camera.size is {width} x {height}, which has no pixels")
    if np.ndim(camera.focal) == 2 and len(camera) != width:
        raise ValueError(f"render_image: {len(camera)} cameras for {width} columns")
    devices = tuple(jax.local_devices() if devices is None else devices)
    mesh = Mesh(np.asarray(devices), ("rays",))
    behind, ends = _of_pixels(background, far, width, height)
    static = extras, normals, compositing
    render = _renderer(field, params, camera, behind, (near, ends), static, mesh)
    pixels = pixel_centres(width, height).reshape(-1, 2)
    shown = pixels_that_show(field, sampler, camera, width, height)
    visible = np.flatnonzero(shown)
    if isinstance(sampler, OccupancySampler) and len(visible):
        far_of = np.broadcast_to(ends, shown.shape).reshape(-1)[visible]
        sampler = fitted(sampler, camera, pixels[visible], near, far_of, compositing)
    sampler = map_occupancy_samplers(OccupancySampler.limited, sampler)
    sampler = jax.device_put(sampler, NamedSharding(mesh, P()))
    look = _Look(render, sampler, chunk, mesh.size, progress)
    end = np.broadcast_to(np.where(np.isfinite(ends), ends, np.float32(horizon)), shown.shape)
    end = end.reshape(-1)
    origins, directions = _in_parts(_rays_of_part, camera, pixels)
    lengths = np.linalg.norm(directions, axis=-1)
    whole = _nothing_seen(lengths, np.broadcast_to(behind, (height, width, 3)), end, normals)
    if len(visible):
        seen = _look_at(look, pixels[visible], len(pixels))
        whole = seen if len(visible) == len(pixels) else _put(whole, visible, seen)
    elif extras is not None or isinstance(sampler, ComposedSampler):
        some = np.zeros((_FEWEST_RAYS * mesh.size, 2), np.float32)
        shapes, *_ = jax.eval_shape(render, sampler, some)
        none = jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), shapes)
        whole = _put(whole, visible, none)
    if edge_supersampling > 0.0:
        rough = _contrast(np.asarray(whole.colour).reshape(height, width, 3)) > edge_supersampling
        _supersample(look, whole, pixels, np.flatnonzero(rough & shown))
    missed = np.isinf(np.broadcast_to(ends, (height, width)).reshape(-1)) & (whole.opacity == 0.0)
    for name in ("depth", "depth_median", "distance"):
        values = np.asarray(getattr(whole, name))
        nothing = end * lengths if name == "distance" else end
        np.copyto(values, nothing, where=missed | ~np.isfinite(values))
    whole = jax.tree.map(lambda leaf: leaf.reshape(height, width, *leaf.shape[1:]), whole)
    if normals and compositing == "volume":
        depth, opacity = np.asarray(whole.depth_median), np.asarray(whole.opacity)
        begin, along = (x.reshape(height, width, 3) for x in (origins, directions))
        reach = pixels_apart(sampler, float(np.mean(camera.focal)), depth, opacity)
        found = normals_of_depth(depth, opacity, begin, along, np.asarray(whole.normals), reach)
        whole = dataclasses.replace(whole, normals=found)
    return whole


def render_places(
    field: Field | Sequence[Field],
    params: Params,
    camera: Camera,
    places: Float[np.ndarray, "R 2"],
    sampler: Sampler = Hierarchical(),
    *,
    near: float = 0.0,
    far: float = np.inf,
    compositing: Compositing = "volume",
    chunk: int = 0,
) -> Rendering:
    """Render some places of a camera's picture, one ray each, as `render_image` does its pixels.

    Args:
      places: coordinates (x, y), at least one; see `jaxnerf.cast_rays`.
      field, params, camera, sampler, near, far, compositing, chunk: as for `render_image`.

    Returns:
      A `Rendering` of NumPy arrays with leading shape (R,), on black; if far is infinite,
      depths of rays that meet nothing are not finite.
    """
    if not len(places):
        raise ValueError("render_places: no places")
    mesh, behind = Mesh(np.asarray(jax.local_devices()), ("rays",)), np.zeros((1, 1, 3), np.float32)
    static, ends = (None, False, compositing), np.full((1, 1), far, np.float32)
    render = _renderer(field, params, camera, behind, (near, ends), static, mesh)
    each = -(-len(places) // mesh.size)
    # Few rays want no whole chunk; powers of two, since each size is compiled.
    few = off_powers_of_two(1 << (each - 1).bit_length())
    chunk = min(chunk or rays_that_fit(sampler), few)
    sampler = map_occupancy_samplers(OccupancySampler.limited, sampler)
    return _look_at(_Look(render, sampler, chunk, mesh.size, None), places, len(places))


def _of_pixels(background: Any, far: Any, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The background [h, w, 3] and the far [h, w] of pixels; of all pixels at once [1, 1].

    Raises:
      ValueError: one of them has another shape than the picture, or the background is not finite.
    """
    behind, ends = np.asarray(background, np.float32), np.asarray(far, np.float32)
    for name, found, inner in (("background", behind, (3,)), ("far", ends, ())):
        alone = found.shape[-1:] in ((), (1,), inner) and found.ndim <= 1
        if not alone and found.shape != (height, width, *inner):
            raise ValueError(
                f"render_image: {name} has the shape {found.shape}, the picture {width} x {height}"
            )
    if np.isnan(behind).any():  # also of a background of None
        raise ValueError("render_image: the background is not finite")
    behind = behind if behind.ndim == 3 else np.broadcast_to(behind, (1, 1, 3))
    return behind, ends if ends.ndim == 2 else ends.reshape(1, 1)


def rays_that_fit(sampler: Sampler, evaluations_on_cpu: int = _EVALUATIONS_ON_CPU) -> int:
    """The number of rays in a chunk, so that the activations of a network's layers suit the device.

    On a CPU activations should stay in the cache from one matrix product to the next: training the
    paper's network in passes of 6,144 evaluations was 1.3 times as fast as in passes of 24,576, and
    rendering the network of the preset nerf_small 1.4 times as fast with 16,384 as with 65,536. On an
    accelerator chunks should be as large as memory allows.
    """
    if isinstance(sampler, ComposedSampler):
        # Where samples of parts are cut at one another's ends, all of them are in memory at once.
        fewest = min(rays_that_fit(part, evaluations_on_cpu) for part in sampler.samplers)
        return max(fewest // len(sampler.samplers), 1)
    if isinstance(sampler, OccupancySampler):
        rays = _SAMPLES_AT_ONCE / sampler.limited().mean_samples
        rays = max(int(max(rays, min(_FEWEST_MARCHED, _MOST_TIMES * rays))), _FEWEST_RAYS)
        return off_powers_of_two(rays)
    samples = _USUAL_SAMPLES
    if isinstance(sampler, Hierarchical | Stratified):
        samples = int(np.sum(sampler.samples))
    on_cpu = jax.default_backend() == "cpu"
    evaluations = evaluations_on_cpu if on_cpu else _EVALUATIONS_ON_ACCELERATOR
    return max(1, evaluations // samples)


def _renderer(field, params, camera, behind, bounds, static, mesh: Mesh) -> Callable[..., Any]:
    """A function of a sampler and pixels, with all else on the devices."""
    arrays, kind = split_field(field)
    compiled = _compiled_chunk(kind, *static, mesh)
    constant = arrays, params, camera, behind, (np.float32(bounds[0]), bounds[1])
    constant = jax.device_put(constant, NamedSharding(mesh, P()))
    return lambda sampler, pixels: compiled(sampler, pixels, *constant)


@functools.lru_cache(maxsize=16)
def _compiled_chunk(kind, extras, normals: bool, compositing: Compositing, mesh: Mesh):
    def chunk(sampler, pixels, arrays, params, camera, background, bounds):
        far = jnp.maximum(values_at(bounds[1], pixels), bounds[0])
        rays = cast_rays(that_see(camera, pixels), pixels, bounds[0], far)
        background = values_at(background, pixels)
        seen = render_rays(
            join_field(arrays, kind), params, rays, sampler, None, background, extras,
            normals=normals, compositing=compositing,
        )  # fmt: skip
        picture = dataclasses.replace(seen, samples=None, weights=None)
        return picture, seen.samples.fits, seen.is_complete

    sharded, same = P("rays"), P()
    mapped = jax.shard_map(
        chunk,
        mesh=mesh,
        in_specs=(same, sharded, same, same, same, same, same),
        out_specs=sharded,
        check_vma=False,
    )
    return jax.jit(mapped)


def _look_at(look: _Look, places: Float[np.ndarray, "R 2"], total: int) -> Rendering:
    """What rays through places of a picture see, as NumPy arrays.

    Args:
      look: how.
      places: (x, y) of each, at least one.
      total: what progress is told of; the places are the last of them.
    """
    whole, sampler, size = None, look.sampler, look.chunk or rays_that_fit(look.sampler)
    waiting, incomplete = np.arange(len(places)), []
    finished = total - len(places)
    while len(waiting):
        overflowed, stride = [], size * look.devices
        for begin in range(0, len(waiting), stride):
            part = waiting[begin : begin + stride]
            padded = np.pad(places[part], ((0, stride - len(part)), (0, 0)), mode="edge")
            seen, fits, complete = jax.tree.map(
                lambda leaf, n=len(part): np.asarray(leaf)[:n], look.render(sampler, padded)
            )
            if whole is None:
                whole = jax.tree.map(
                    lambda leaf: np.empty((len(places), *leaf.shape[1:]), leaf.dtype), seen
                )
            whole = _put(whole, part[complete], jax.tree.map(lambda x, of=complete: x[of], seen))
            overflowed.append(part[~fits])
            incomplete.append(part[fits & ~complete])
            finished += int(complete.sum())
            if look.progress:
                look.progress(finished, total)
        late = np.concatenate(overflowed)
        if 0 < len(late) < len(waiting):
            waiting = late
        elif len(late):  # each has more samples than the whole buffer
            sampler = _raised(OccupancySampler.with_larger_buffer, sampler)
        else:
            waiting, incomplete = np.concatenate(incomplete), []
            size = min(size, max(size // 4, _FEWEST_RAYS))
            if len(waiting):
                sampler = _raised(OccupancySampler.with_larger_limits, sampler)
                sampler = _raised(OccupancySampler.with_larger_buffer, sampler)
    assert whole is not None
    return whole


def _raised(change: Callable[[OccupancySampler], OccupancySampler], sampler: Sampler) -> Sampler:
    """A sampler with higher limits.

    Raises:
      ValueError: it has none, and its samples say that rays are incomplete nevertheless.
    """
    if isinstance(sampler, OccupancySampler | ComposedSampler):
        return map_occupancy_samplers(change, sampler)
    raise ValueError(
        f"render_image: samples of {type(sampler).__name__} say that rays are not complete, and there is "
        "no more to be had"
    )


def _supersample(look: _Look, whole: Rendering, pixels: np.ndarray, rough: np.ndarray) -> None:
    """Replace the colour and opacity of some pixels by the mean of four rays."""
    if not len(rough):
        return
    places = (pixels[rough, None] + _TURNED_SQUARE).reshape(-1, 2)
    seen = _look_at(look, places, len(pixels) + len(places))
    for name in ("colour", "opacity"):
        some = np.asarray(getattr(seen, name))
        some = some.reshape(len(rough), len(_TURNED_SQUARE), *some.shape[1:])
        getattr(whole, name)[rough] = some.mean(axis=1)


def _put(whole: Rendering, where: np.ndarray, some: Rendering) -> Rendering:
    """Write what some pixels show into the arrays of all of them; extras that those lack are zeros."""
    if whole.extras is None and some.extras is not None:
        count = len(whole.opacity)
        zeros = jax.tree.map(lambda x: np.zeros((count, *x.shape[1:]), x.dtype), some.extras)
        whole = dataclasses.replace(whole, extras=zeros)
    for all_places, part in zip(jax.tree.leaves(whole), jax.tree.leaves(some), strict=True):
        all_places[where] = part
    return whole


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


def _in_parts(function: Any, camera: Camera, pixels: np.ndarray) -> Any:
    """A function of a camera and pixels, of so many at a time, in one program for all sizes."""
    padded = np.pad(pixels, ((0, -len(pixels) % _PIXELS_AT_ONCE), (0, 0)), mode="edge")
    parts = np.split(padded, len(padded) // _PIXELS_AT_ONCE)
    found = [function(camera, part) for part in parts]
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(pixels)], *found)


@jax.jit
def _rays_of_part(camera: Camera, pixels: Array) -> tuple[Array, Array]:
    rays = cast_rays(that_see(camera, pixels), pixels)
    return rays.origins, rays.directions


def _nothing_seen(
    lengths: np.ndarray, background: np.ndarray, end: np.ndarray, with_normals: bool
) -> Rendering:
    """What rays see that meet nothing."""
    count = len(lengths)
    arrays: dict[str, Any] = {
        "colour": np.array(background).reshape(count, 3),
        "opacity": np.zeros(count, np.float32),
        "depth": end.copy(),
        "depth_median": end.copy(),
        "distance": end * lengths,
        "normals": np.zeros((count, 3), np.float32) if with_normals else None,
    }
    return Rendering(**arrays)

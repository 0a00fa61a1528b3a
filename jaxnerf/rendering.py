"""Rays in, pixels out: the functions that join sampling, fields and compositing."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PRNGKeyArray

from jaxnerf import compositing, sampling
from jaxnerf.cameras import Camera, Rays, cast_rays, pixel_centres
from jaxnerf.fields import Field, Params

# The paper's code gives the last sample an interval without end.
_ENDLESS = 1e10
# Evaluations of the field at once; see `rays_that_fit`. With the paper's network 2^18 should be
# some 5 GB in training, by its layers' sizes; not measured.
_EVALUATIONS_ON_CPU = 1 << 14
_EVALUATIONS_ON_ACCELERATOR = 1 << 18


@dataclasses.dataclass(frozen=True)
class RenderSettings:
    """How rays are sampled and composited. Static under jit.

    Attributes:
      samples: intervals for each level. The first level is stratified; each later one adds this many
        where the level before found weight, and looks again at the union (NeRF, section 5.2).
      spacing: of the first level, even in "depth" or in "disparity".
      sample_at: where in its interval a sample asks the field: in the "middle", or, as in the
        paper's code, at the "start", with a last interval without end.
      compositing: "volume" (NeRF, eq. 3), or "surface": the first opaque sample decides the pixel.
      density_noise: standard deviation of noise on the field's density before its activation, when a
        key is given.
      with_normals: whether to compute normals, which costs a backward pass through the density.
    """

    samples: tuple[int, ...] = (64, 128)
    spacing: sampling.Spacing = "depth"
    sample_at: Literal["middle", "start"] = "middle"
    compositing: Literal["volume", "surface"] = "volume"
    density_noise: float = 0.0
    with_normals: bool = False


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rendering:
    """What was seen along rays. A pytree of arrays with the rays' leading shape.

    Attributes:
      colour: RGB in [0, 1], over the background.
      opacity: the sum of the weights, in [0, 1].
      depth: the expected t at which light was stopped (for a pinhole camera the depth along its axis).
      depth_median: the t at which half of the light has been stopped.
      distance: the expected depth as a length in the world.
      normals: unit vectors in the world, or zero; None unless asked for.
    """

    colour: Float[Array, "*batch 3"]
    opacity: Float[Array, "*batch"]
    depth: Float[Array, "*batch"]
    depth_median: Float[Array, "*batch"]
    distance: Float[Array, "*batch"]
    normals: Float[Array, "*batch 3"] | None = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """One level of sampling along rays, as the renderer left it.

    Attributes:
      t: fenceposts.
      density: of each interval, in 1/length of the world's unit.
      weights: of each interval.
      colours: of each interval, in [0, 1].
      density_gradient: at each sample; None unless normals were asked for.
    """

    t: Float[Array, "*batch S+1"]
    density: Float[Array, "*batch S"]
    weights: Float[Array, "*batch S"]
    colours: Float[Array, "*batch S 3"]
    density_gradient: Float[Array, "*batch S 3"] | None = None


def render_rays(
    field: Field | Sequence[Field],
    params: Params,
    rays: Rays,
    settings: RenderSettings = RenderSettings(),
    key: PRNGKeyArray | None = None,
    background: Float[Array, "*batch 3"] | Float[Array, "3"] | float = 1.0,
) -> Rendering:
    """Render rays with a field. Pure: works under jit, vmap, grad, and for any leading shape.

    Args:
      field: one for all levels, or a tuple of one for each (the paper's coarse and fine networks).
      params: of the field; or, with a tuple of fields, a sequence of as many. (A tuple of one serves
        all levels.)
      rays: with near and far. Rays without an end (`cast_rays` by default) are sampled as
        `jaxnerf.sampling.without_end` says: right in the limit of many samples, but a far that fits the
        scene needs fewer.
      settings: see `RenderSettings`; static.
      key: for stratified sampling and density noise; None is deterministic and free of noise.
      background: behind the scene: a colour for each ray, one for all, or one grey (1.0 is white).

    Returns:
      What the last level saw.

    Example::

      rays = cast_rays(camera, pixels, near=2.0, far=6.0)
      colour = render_rays(field, params, rays).colour
    """
    level = sample_levels(field, params, rays, settings, key)[-1]
    return composite(level, rays, background)


def sample_levels(
    field: Field | Sequence[Field],
    params: Params,
    rays: Rays,
    settings: RenderSettings = RenderSettings(),
    key: PRNGKeyArray | None = None,
) -> list[Level]:
    """Sample rays level by level; the arguments are those of `render_rays`.

    Training needs all levels; each is rendered by `composite`.
    """
    count = len(settings.samples)
    if not count or min(settings.samples) < 2:
        raise ValueError(f"RenderSettings.samples: at least 2 a level, got {settings.samples}")
    fields = tuple(field) if isinstance(field, Sequence) else (field,)
    params = tuple(params) if isinstance(field, Sequence) else (params,)
    if len(fields) == len(params) == 1:
        fields, params = fields * count, params * count
    if not len(fields) == len(params) == count:
        raise ValueError(
            f"render_rays: {count} levels of samples, but {len(fields)} fields and "
            f"{len(params)} params"
        )
    keys = [None] * (2 * count) if key is None else list(jax.random.split(key, 2 * count))
    # Fenceposts bound intervals, one more than there are; samples at starts are fenceposts themselves.
    extra = 1 if settings.sample_at == "middle" else 0
    levels: list[Level] = []
    for index, samples in enumerate(settings.samples):
        if not levels:
            t = _first_fenceposts(rays, samples + extra, keys[0], settings.spacing)
        else:
            bins, weights = _bins_of(levels[-1], settings)
            drawn = sampling.hierarchical(bins, weights, samples, keys[2 * index])
            seen = levels[-1].t if settings.sample_at == "middle" else levels[-1].t[..., :-1]
            t = sampling.merge(jax.lax.stop_gradient(seen), drawn)
        if settings.sample_at == "start":
            t = jnp.concatenate([t, t[..., -1:] + _ENDLESS], axis=-1)
        levels.append(
            _evaluate(fields[index], params[index], rays, t, settings, keys[2 * index + 1])
        )
    return levels


def _first_fenceposts(
    rays: Rays, count: int, key: PRNGKeyArray | None, spacing: sampling.Spacing
) -> Array:
    """Those of the first level, all of them finite."""
    endless = jnp.isinf(rays.far)
    far = jnp.where(endless, rays.near + 1.0, rays.far)
    t = sampling.stratified(rays.near, far, count, key, spacing)
    return jnp.where(endless[..., None], sampling.without_end(rays.near, count, key), t)


def _bins_of(level: Level, settings: RenderSettings) -> tuple[Array, Array]:
    """The intervals in which the next level draws, and their weights."""
    if settings.sample_at == "middle":
        return level.t, level.weights
    # A sample at a start stands for what lies around it: from midpoint to midpoint.
    return sampling.midpoints(level.t[..., :-1]), level.weights[..., 1:-1]


def _evaluate(
    field: Field,
    params: Params,
    rays: Rays,
    t: Float[Array, "*batch B"],
    settings: RenderSettings,
    key: PRNGKeyArray | None,
) -> Level:
    """Ask the field along rays and weigh what it says."""
    at = sampling.midpoints(t) if settings.sample_at == "middle" else t[..., :-1]
    positions = rays.at(at)
    noise = {}
    if key is not None and settings.density_noise:
        normal = jax.random.normal(key, at.shape, at.dtype)
        noise = {"noise": settings.density_noise * normal}

    gradient = None
    if settings.with_normals:
        # Densities depend each on one position, so a vector of ones pulls back to every gradient.
        density, pull_back, features = jax.vjp(
            lambda x: field.density(params, x, **noise), positions, has_aux=True
        )
        (gradient,) = pull_back(jnp.ones_like(density))
    else:
        density, features = field.density(params, positions, **noise)

    length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
    weigh = {
        "volume": compositing.volume_weights,
        "surface": compositing.surface_weights,
    }[settings.compositing]
    weights = weigh(density * length, t)
    if getattr(field, "shading", "sample") == "ray":
        opacity = compositing.ray_opacity(weights)
        mean = compositing.accumulate(weights, features) / jnp.maximum(opacity, 1e-3)[..., None]
        colour = field.colour(params, mean, rays.view_directions)
        colours = jnp.broadcast_to(colour[..., None, :], positions.shape)
    else:
        directions = jnp.broadcast_to(rays.view_directions[..., None, :], positions.shape)
        colours = field.colour(params, features, directions)
    return Level(t, density, weights, colours, gradient)


def composite(
    level: Level,
    rays: Rays,
    background: Float[Array, "*batch 3"] | Float[Array, "3"] | float = 1.0,
) -> Rendering:
    """Add a level's samples up to pixels."""
    opacity = compositing.ray_opacity(level.weights)
    depth = compositing.expected_depth(level.weights, level.t)
    length = jnp.linalg.norm(rays.directions, axis=-1)
    accumulated = compositing.accumulate(level.weights, level.colours)
    gradient = level.density_gradient
    return Rendering(
        colour=compositing.over(accumulated, opacity, background),
        opacity=opacity,
        depth=depth,
        depth_median=compositing.median_depth(level.density * length[..., None], level.t),
        distance=depth * length,
        normals=None if gradient is None else compositing.normals(level.weights, gradient),
    )


def render_image(
    field: Field | Sequence[Field],
    params: Params,
    camera: Camera,
    settings: RenderSettings = RenderSettings(),
    *,
    near: float,
    far: float,
    background: tuple[float, float, float] | float = 1.0,
    chunk: int = 0,
    devices: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rendering:
    """Render all pixels of one camera, in chunks, on all local devices.

    The chunks are of one size and the last is padded, so that one compilation serves every image of
    every size (for each kind of lens, field and settings).

    Args:
      field, params, settings: as for `render_rays`.
      camera: a single one, of any size.
      near, far: the range of t.
      background: one colour for the image.
      chunk: rays at a time on each device; memory grows with it. 0 is what suits the device.
      devices: on which to render; all local ones by default.
      progress: called with (rays done, rays in all) after each chunk.

    Returns:
      A `Rendering` of NumPy arrays with leading shape (height, width).

    Raises:
      ValueError: the camera's picture has no pixels.
    """
    width, height = (int(side) for side in np.asarray(camera.size))
    if width < 1 or height < 1:
        raise ValueError(f"render_image: camera.size is {width} x {height}, which has no pixels")
    pixels = pixel_centres(width, height).reshape(-1, 2)
    devices = tuple(jax.local_devices() if devices is None else devices)
    stride = (chunk or rays_that_fit(settings, _EVALUATIONS_ON_CPU)) * len(devices)
    mesh = Mesh(np.asarray(devices), ("rays",))
    fields = tuple(field) if isinstance(field, Sequence) else field
    render = _compiled_chunk(fields, settings, mesh)
    replicated = NamedSharding(mesh, P())
    params, camera, colour = jax.device_put(
        (params, camera, np.broadcast_to(np.asarray(background, np.float32), (3,))), replicated
    )
    bounds = np.float32(near), np.float32(far)
    pieces = []
    for start in range(0, len(pixels), stride):
        piece = pixels[start : start + stride]
        padded = np.pad(piece, ((0, stride - len(piece)), (0, 0)), mode="edge")
        rendered = render(params, camera, padded, *bounds, colour)
        pieces.append(jax.tree.map(lambda leaf, n=len(piece): np.asarray(leaf)[:n], rendered))
        if progress:
            progress(min(start + stride, len(pixels)), len(pixels))
    return jax.tree.map(
        lambda *leaves: np.concatenate(leaves).reshape(height, width, *leaves[0].shape[1:]), *pieces
    )


def rays_that_fit(settings: RenderSettings, evaluations_on_cpu: int) -> int:
    """How many rays to take at once for a layer's values to suit the device.

    On a CPU they should stay in the cache from one matrix product to the next: training the paper's
    network in passes of 6,144 evaluations was 1.3 times as fast as of 24,576, and rendering with
    that of the preset nerf_small 1.4 times as fast with 16,384 as with 65,536. An accelerator wants
    as many as its memory holds.
    """
    on_cpu = jax.default_backend() == "cpu"
    evaluations = evaluations_on_cpu if on_cpu else _EVALUATIONS_ON_ACCELERATOR
    return max(1, evaluations // sum(settings.samples))


@functools.lru_cache(maxsize=16)
def _compiled_chunk(field, settings: RenderSettings, mesh: Mesh):
    def chunk(params, camera, pixels, near, far, background):
        rays = cast_rays(camera, pixels, near, far)
        return render_rays(field, params, rays, settings, None, background)

    sharded, same = P("rays"), P()
    mapped = jax.shard_map(
        chunk,
        mesh=mesh,
        in_specs=(same, same, sharded, same, same, same),
        out_specs=sharded,
        check_vma=False,
    )
    return jax.jit(mapped)

"""Rendering by walking through occupied space only: `render_rays` for fields that have an occupancy.

The samples of many rays are packed into one row of a fixed length, so that the field is asked only
where something is and every shape is static. Rays that do not fit are not rendered, and say so.
"""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxnerf import compositing
from jaxnerf.cameras import Rays
from jaxnerf.fields import Field, Params
from jaxnerf.kernels.compositing import march_distortion, march_weights
from jaxnerf.occupancy import Occupancy, march, most_samples, t_of_depth
from jaxnerf.packing import pack
from jaxnerf.rendering import Rendering
from jaxnerf.spaces import Ball, Frustum, pace

# Lookups of a ray.
NO_LIMIT = 1 << 30
# Of the light, what an 8-bit picture can show.
_LEAST_LIGHT = 1 / 255


@dataclasses.dataclass(frozen=True)
class MarchSettings:
    """How rays walk. Static under jit.

    By default no ray is cut short or left out, and memory is taken for as many samples as a ray can find
    in the grid (`jaxnerf.occupancy.most_samples`; in a grid that is being traced, whose steps are not
    shorter than its cells). Limits save memory and time; `Marched.complete` says
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
        return samples, self.lookups or NO_LIMIT, self.budget or float(samples)


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
    # Those of a loaded run are NumPy's, which nothing that is traced can index.
    params, occupancy, rays = jax.tree.map(jnp.asarray, (params, occupancy, rays))
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
    # As `march` does: where samples lie is not differentiated.
    space, (rays, places) = occupancy.space, jax.lax.stop_gradient((rays, places))
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

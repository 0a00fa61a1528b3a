"""Samples along rays: the intervals that a sampler makes, and the points at which a field is evaluated.

A sample stands for an interval of its ray, from `t0` to `t1` (in units of the ray's direction). The field
is evaluated at `t`, a point of the interval. Optical depth is density times `length`. The samples of one
ray are ordered front to back and do not overlap.

There are two layouts:

- Dense, of `Stratified` and `Hierarchical`: every ray has S samples. Arrays of samples are [*batch, S],
  and the field is evaluated at [*batch, S] points.
- Packed, of `OccupancySampler`: the number of samples differs between rays. Arrays of samples are [K, R],
  with K slots for each of R rays (the rays' leading shape flattened); the samples of a ray fill its first
  slots (`used`). The field is evaluated only at samples, in a buffer of N entries, ray after ray
  (`Packing`).

Arrays that belong to samples (weights) have the shape of `t` ("layout" in annotations), arrays that a
field returns (density, features) the leading shape of `positions` ("answers"), and arrays that belong to
rays that of the rays ("batch"). The functions of `jaxnerf.compositing` take either layout.
"""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnerf.cameras import Rays
from jaxnerf.kernels.points import points_along
from jaxnerf.sampling.packing import Packing

# Lengths of intervals are clipped to this: a density of 0 times an infinite length would be NaN.
LONGEST = 1e30
# Longer intervals count as unbounded: the paper's code gives the last interval a length of 1e10.
UNBOUNDED = 1e9


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples along rays; see the module's contract. A pytree.

    Attributes:
      t: distance at which the field is evaluated, between t0 and t1.
      t0, t1: the interval of each sample.
      length: the interval's length in the world's unit, by which density is multiplied. With even steps
        in contracted space it is the step divided by the contraction's rate at the sample.
      s0, s1: the interval in normalised ray distance, 0 at the start of the ray and 1 at its end
        (mip-NeRF 360, section 3). The distortion and proposal losses use it.
      complete: whether a ray has samples up to its end.
      truncated: whether a ray reached the limit of samples or steps before its end.
      early_stopped: whether a ray was ended because the occupancy expects no light to be left.
      packing: the layout of packed samples; None for dense samples.
      proposals: samples, densities and features of the levels of sampling before this one.
    """

    t: Float[Array, "*layout"]
    t0: Float[Array, "*layout"]
    t1: Float[Array, "*layout"]
    length: Float[Array, "*layout"]
    s0: Float[Array, "*layout"]
    s1: Float[Array, "*layout"]
    complete: Bool[Array, "*batch"]
    truncated: Bool[Array, "*batch"]
    early_stopped: Bool[Array, "*batch"]
    packing: Packing | None = None
    proposals: "tuple[Proposal, ...]" = ()

    @property
    def used(self) -> Bool[Array, "*layout"]:
        """Whether there is a sample at each place."""
        if self.packing is None:
            return jnp.ones(self.t.shape, bool)
        return jnp.arange(self.t.shape[0], dtype=jnp.int32)[:, None] < self.packing.count[None, :]

    @property
    def axis(self) -> int:
        """The axis of the layout along which the samples of one ray lie."""
        return -1 if self.packing is None else 0

    @property
    def fits(self) -> Bool[Array, "*batch"]:
        """Whether a ray's samples fit into the packed buffer; if not, it has none of them."""
        if self.packing is None:
            return jnp.ones(self.complete.shape, bool)
        return self.packing.fits.reshape(self.complete.shape)

    def positions(self, rays: Rays) -> Float[Array, "*answers 3"]:
        """The points of the world at which the field is evaluated; unused entries repeat the first point.

        Args:
          rays: that the samples were made for.
        """
        if self.packing is None:
            return rays.at(self.t)
        origins, directions = (x.reshape(-1, 3) for x in (rays.origins, rays.directions))
        t = self.packing.to_buffer(self.t)
        points = points_along(origins, directions, self.packing.ray, t)
        if not points.shape[0]:
            return points
        # Unused entries read the same point, so that its table rows stay in the cache.
        return jnp.where(self.packing.used[:, None], points, points[:1])

    def distances(self, rays: Rays) -> Float[Array, "*answers"]:
        """How far from its ray's origin (t = 0) each point lies at which the field is evaluated.

        Args:
          rays: that the samples were made for.
        """
        speed = jnp.linalg.norm(rays.directions, axis=-1)
        if self.packing is None:
            return self.t * speed[..., None]
        return self.packing.to_buffer(self.t) * speed.reshape(-1)[self.packing.ray]

    def view_directions(self, rays: Rays) -> Float[Array, "*answers 3"]:
        """The unit direction of the ray of each point at which the field is evaluated.

        Args:
          rays: that the samples were made for.
        """
        if self.packing is None:
            shape = (*self.t.shape, 3)
            return jnp.broadcast_to(rays.view_directions[..., None, :], shape)
        return rays.view_directions.reshape(-1, 3)[self.packing.ray]

    def end(self, rays: Rays) -> Float[Array, "*batch"]:
        """The t where each ray's sampling ends; before an interval without end, where that begins."""
        if self.packing is not None:
            return rays.far
        last0, last1 = self.t0[..., -1], self.t1[..., -1]
        return jnp.where(last1 - last0 > UNBOUNDED, last0, last1)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Proposal:
    """One level of hierarchical sampling before the last, such as NeRF's coarse samples. A pytree.

    Attributes:
      samples: the samples of the level.
      density, features: the values of the level's field at them.
    """

    samples: Samples
    density: Float[Array, "*answers"]
    features: Any


def dense_samples(
    rays: Rays,
    t: Float[Array, "*batch B"],
    s: Float[Array, "*batch B"] | None = None,
    *,
    at_start: bool = False,
) -> Samples:
    """Samples of all intervals between fenceposts.

    Args:
      rays: rays with the fenceposts' leading shape.
      t: fenceposts, ascending.
      s: the same in the sampler's coordinate; by default as far between the first and the last t.
      at_start: whether the field is evaluated where an interval begins, and not in its middle.
    """
    t0, t1 = t[..., :-1], t[..., 1:]
    if s is None:
        way = t[..., -1:] - t[..., :1]
        s = (t - t[..., :1]) / jnp.where(way > 0.0, way, 1.0)
    norm = jnp.linalg.norm(rays.directions, axis=-1)[..., None]
    return Samples(
        t=t0 if at_start else 0.5 * (t0 + t1),
        t0=t0,
        t1=t1,
        length=jnp.minimum(t1 - t0, LONGEST) * norm,
        s0=s[..., :-1],
        s1=s[..., 1:],
        complete=jnp.ones(t.shape[:-1], bool),
        truncated=jnp.zeros(t.shape[:-1], bool),
        early_stopped=jnp.zeros(t.shape[:-1], bool),
    )

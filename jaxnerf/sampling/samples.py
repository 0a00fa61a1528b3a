"""Where along which rays a field is evaluated: made by a sampler, understood by everything after it.

Names and contract. A sample owns an interval of its ray, from `t0` to `t1` (in units of the ray's
direction), and asks the field at `t` in it. Optical depth is density times `length`. Samples of one
ray come front to back and do not overlap.

There are two layouts of the same value. Dense: arrays of samples are [*batch, S], and every place is a
sample; a field is evaluated at [*batch, S] points. Packed: arrays of samples are [K, R], slots first, for
rays [*batch] counted as one dimension R; each ray has samples in its first slots (`used`), and a field
is evaluated in those alone, at the [N] places of one row, ray after ray (`Packing`). So what a field
answers has the shape of `positions`, what belongs to samples (weights) that of `t`, what belongs to
rays that of the rays. Functions of samples (`jaxnerf.compositing`) take either layout.
"""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnerf.cameras import Rays
from jaxnerf.kernels.points import points_along
from jaxnerf.sampling.packing import Packing

# What an interval without an end counts as: 0 times infinity would be no number.
LONGEST = 1e30
# An interval that is longer has no end: the paper's code gives the last one a length of 1e10.
ENDLESS = 1e9


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples along rays; see the module's contract. A pytree.

    Attributes:
      t: where the field is evaluated, between t0 and t1.
      t0, t1: the interval of each sample.
      length: of the interval in the world's unit, by which density is multiplied. Of samplers that
        place samples evenly in contracted space it is the step there, divided by the contraction's
        rate at the sample.
      s0, s1: the interval in the sampler's own coordinate, which is 0 where the ray begins and 1 where
        it ends (mip-NeRF 360, section 3), and in which losses compare intervals.
      complete: whether a ray got all the samples that it wanted.
      truncated: whether a ray ran out of samples or steps before its end.
      early_stopped: whether a ray ends where next to no light was expected to be left.
      packing: where a row holds the samples at which the field is evaluated; None of dense samples.
      proposals: what the levels before this one found, which placed these samples; see `Proposal`.
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
    def fits(self) -> Bool[Array, "*batch"]:
        """Whether all the samples that were found for a ray are here; else none of them is."""
        if self.packing is None:
            return jnp.ones(self.complete.shape, bool)
        return self.packing.fits.reshape(self.complete.shape)

    def positions(self, rays: Rays) -> Float[Array, "*answers 3"]:
        """The points of the world at which the field is evaluated; one and the same in unused places.

        Args:
          rays: that the samples were made for.
        """
        if self.packing is None:
            return rays.at(self.t)
        origins, directions = (x.reshape(-1, 3) for x in (rays.origins, rays.directions))
        t = self.packing.row(self.t)
        points = points_along(origins, directions, self.packing.ray, t)
        if not points.shape[0]:
            return points
        # What is not used asks at one place, whose values stay in the cache.
        return jnp.where(self.packing.used[:, None], points, points[:1])

    def distances(self, rays: Rays) -> Float[Array, "*answers"]:
        """How far from its ray's origin (t = 0) each point lies at which the field is evaluated.

        Args:
          rays: that the samples were made for.
        """
        speed = jnp.linalg.norm(rays.directions, axis=-1)
        if self.packing is None:
            return self.t * speed[..., None]
        return self.packing.row(self.t) * speed.reshape(-1)[self.packing.ray]

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
        return jnp.where(last1 - last0 > ENDLESS, last0, last1)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a level of sampling found, by which the next one placed its samples. A pytree.

    Attributes:
      samples: of the level.
      density, features: what its field answered there.
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
      rays: with the fenceposts' leading shape.
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

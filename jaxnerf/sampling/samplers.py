"""Samplers: (field, params, rays, key) -> `Samples`. Each is a pytree, its settings static."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, Protocol, no_type_check, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf import compositing
from jaxnerf.cameras import Rays
from jaxnerf.fields import Field, Params
from jaxnerf.sampling import intervals
from jaxnerf.sampling.occupancy import Occupancy
from jaxnerf.sampling.packing import pack
from jaxnerf.sampling.samples import Proposal, Samples, dense_samples
from jaxnerf.sampling.traversal import march, most_samples

# Length of the last interval in the paper's code, which counts as unbounded.
_LAST_LENGTH = 1e10
# `max_steps` of a march without a limit.
NO_LIMIT = 1 << 30


@runtime_checkable
class Sampler(Protocol):
    """Decides at which points of rays a field is evaluated."""

    def __call__(
        self,
        field: Field | Sequence[Field],
        params: Params,
        rays: Rays,
        key: intervals.Keys | None = None,
    ) -> Any:
        """The samples of rays: `Samples`; for a composed field `ComposedSamples`, with one per part.

        Args:
          field, params: as for `jaxnerf.render_rays`; `Stratified` and `OccupancySampler` ignore them.
          rays: rays of any leading shape.
          key: for random positions in the intervals, one key for all rays or one per ray; None is
            deterministic.
        """
        ...


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Stratified:
    """One sample from each of even intervals from near to far (NeRF, section 4). Dense.

    Rays with an infinite far are sampled evenly in disparity, as `intervals.unbounded` says: right in the
    limit of many samples, but a far that fits the scene needs fewer.

    Attributes:
      samples: number of samples of each ray, at least 2.
      spacing: intervals even in "depth" or in "disparity".
      sample_at: where in its interval a sample asks the field: in the "middle", or, as in the paper's
        code, at the "start", with an unbounded last interval.
    """

    samples: int = 64
    spacing: intervals.Spacing = "depth"
    sample_at: Literal["middle", "start"] = "middle"

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"Stratified.samples: at least 2, got {self.samples}")

    def __call__(self, field, params, rays: Rays, key: intervals.Keys | None = None) -> Samples:
        """See `Sampler`."""
        middle = self.sample_at == "middle"
        # Fenceposts bound intervals, one more than there are; samples at starts are fenceposts.
        count = self.samples + (1 if middle else 0)
        unbounded = jnp.isinf(rays.far)
        far = jnp.where(unbounded, rays.near + 1.0, rays.far)
        t = intervals.stratified(rays.near, far, count, key, self.spacing)
        t = jnp.where(unbounded[..., None], intervals.unbounded(rays.near, count, key), t)
        if middle and key is not None:
            # The intervals' ends are drawn but for the outer two: the whole ray is looked at.
            t = t.at[..., 0].set(rays.near)
            t = t.at[..., -1].set(jnp.where(unbounded, t[..., -1], rays.far))
        return _between(rays, t, self.spacing, self.sample_at)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Hierarchical:
    """Hierarchical sampling, coarse to fine (NeRF, section 5.2). Dense.

    The first level is `Stratified`. Each later level draws samples from the weights of the level before
    it, and evaluates its field at the union of those and all earlier samples. With a sequence of fields
    and params, one per level, each level has its own network (the paper's coarse and fine).

    Attributes:
      samples: the number of samples that each level adds, at least 2 each.
      spacing, sample_at: see `Stratified`.
    """

    samples: tuple[int, ...] = (64, 128)
    spacing: intervals.Spacing = "depth"
    sample_at: Literal["middle", "start"] = "middle"

    def __post_init__(self) -> None:
        if not self.samples or min(self.samples) < 2:
            raise ValueError(f"Hierarchical.samples: at least 2 a level, got {self.samples}")
        if self.sample_at == "start" and len(self.samples) > 1 and self.samples[0] < 3:
            raise ValueError(
                f"Hierarchical.samples: at least 3 first at starts, got {self.samples}"
            )

    def __call__(self, field, params, rays: Rays, key: intervals.Keys | None = None) -> Samples:
        """See `Sampler`; the levels before the last are the samples' `proposals`."""
        levels = len(self.samples)
        fields, params = levels_of(field, params, levels)
        keys = [None] * levels if key is None else split_keys(key, levels)
        samples = Stratified(self.samples[0], self.spacing, self.sample_at)(
            None, None, rays, keys[0]
        )
        proposals: list[Proposal] = []
        for level in range(1, levels):
            positions = samples.positions(rays)
            density, features = fields[level - 1].density(params[level - 1], positions)
            proposals.append(Proposal(samples, density, features))
            t = self._finer(
                samples, compositing.weights_of(samples, density), self.samples[level], keys[level]
            )
            samples = _between(rays, t, self.spacing, self.sample_at)
        return dataclasses.replace(samples, proposals=tuple(proposals))

    def _finer(self, samples: Samples, weights: Array, count: int, key: Any) -> Array:
        """Fenceposts of the next level (starts of intervals, where samples are at starts)."""
        fenceposts = jnp.concatenate([samples.t0, samples.t1[..., -1:]], axis=-1)
        if self.sample_at == "middle":
            drawn = intervals.hierarchical(fenceposts, weights, count, key)
            return intervals.merge(jax.lax.stop_gradient(fenceposts), drawn)
        # A sample at a start stands for what lies around it: from midpoint to midpoint.
        bins = intervals.midpoints(samples.t0)
        drawn = intervals.hierarchical(bins, weights[..., 1:-1], count, key)
        return intervals.merge(jax.lax.stop_gradient(samples.t0), drawn)


def split_keys(key: intervals.Keys, count: int) -> list[intervals.Keys]:
    """Keys for each level, from one or from one for each ray."""
    key = intervals.typed(key)
    split = functools.partial(jax.random.split, num=count)
    for _ in range(key.ndim):
        split = jax.vmap(split)
    keys = split(key)
    return [keys[..., level] for level in range(count)]


def levels_of(
    field: Field | Sequence[Field], params: Params, levels: int
) -> tuple[tuple[Field, ...], tuple[Params, ...]]:
    """A field and parameters for each level: one of each serves all.

    Raises:
      ValueError: there are several, but not one for each level.
    """
    fields = tuple(field) if isinstance(field, Sequence) else (field,)
    params = tuple(params) if isinstance(field, Sequence) else (params,)
    if len(fields) == len(params) == 1:
        fields, params = fields * levels, params * levels
    if not len(fields) == len(params) == levels:
        raise ValueError(
            f"render_rays: {levels} levels of samples, but {len(fields)} fields and "
            f"{len(params)} params"
        )
    return fields, params


def _between(rays: Rays, t: Array, spacing: intervals.Spacing, sample_at: str) -> Samples:
    """Samples of the intervals between fenceposts; if they are at starts, the last is unbounded."""
    s = intervals.normalised(rays.near, rays.far, t, spacing)
    if sample_at == "start":
        t = jnp.concatenate([t, t[..., -1:] + _LAST_LENGTH], axis=-1)
        s = jnp.concatenate([s, jnp.ones_like(s[..., -1:])], axis=-1)
    return dense_samples(rays, t, s, at_start=sample_at == "start")


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OccupancySampler:
    """Even steps along rays, with samples only in occupied cells (`traversal.march`). Packed.

    By default no ray is truncated or dropped, and memory is allocated for the most samples that a ray can
    take in the grid (`most_samples`; with a traced grid, provided that its step is not shorter than half
    its cell). Limits save memory and time; `Samples.complete` says which rays they leave incomplete.
    `jaxnerf.render_image` replaces limits that are 0 by estimates from a few of the image's rays.

    Attributes:
      occupancy: which cells are occupied. A leaf of the pytree, as jitter is; the other attributes are
        static.
      jitter: position of the samples in their intervals, in [0, 1], if no key is given: one number, or
        one per ray, flattened. None is the middle.
      samples: maximum number of samples per ray; 0 for the most that a ray can take.
      max_steps: maximum number of samples plus jumps over empty space per ray; 0 for no limit.
      mean_samples: length of the packed buffer, divided by the number of rays; 0 for `samples`. Rays
        whose samples overflow the buffer are dropped.
      samples_per_voxel: number of samples per step of the occupancy. Rendering with two a field that was
        trained with one is less noisy: 0.3 to 0.6 dB more on lego.
      compaction, max_optical_depth: see `march`.
    """

    occupancy: Occupancy
    jitter: Float[Array, " R"] | Float[Array, ""] | float | None = None
    samples: int = dataclasses.field(default=0, metadata={"static": True})
    max_steps: int = dataclasses.field(default=0, metadata={"static": True})
    mean_samples: float = dataclasses.field(default=0.0, metadata={"static": True})
    samples_per_voxel: int = dataclasses.field(default=1, metadata={"static": True})
    compaction: tuple[int, ...] = dataclasses.field(default=(1, 4), metadata={"static": True})
    max_optical_depth: float = dataclasses.field(default=2.0, metadata={"static": True})

    def __call__(self, field, params, rays: Rays, key: intervals.Keys | None = None) -> Samples:
        """See `Sampler`."""
        shape = rays.near.shape
        flat: Rays = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(shape) :]), rays)
        count, limited = flat.near.shape[0], self.limited()
        jitter = 0.5 if self.jitter is None else self.jitter
        if key is not None:
            key = intervals.typed(key)
            jitter = intervals.uniform(
                key.reshape(-1) if key.ndim else key, (count,), rays.near.dtype
            )
        marched = march(
            self.occupancy,
            flat,
            jitter,
            samples=limited.samples,
            max_steps=limited.max_steps,
            samples_per_voxel=self.samples_per_voxel,
            compaction=self.compaction,
            max_optical_depth=self.max_optical_depth,
        )
        packing = pack(marched.count, int(limited.mean_samples * count))
        complete = packing.fits & ~(marched.truncated | marched.early_stopped)
        return Samples(
            t=marched.t,
            t0=marched.t0,
            t1=marched.t1,
            length=marched.length,
            s0=marched.s0,
            s1=marched.s1,
            complete=complete.reshape(shape),
            packing=packing,
            truncated=marched.truncated.reshape(shape),
            early_stopped=marched.early_stopped.reshape(shape),
        )

    def limited(self) -> "OccupancySampler":
        """The sampler with its limits of 0 replaced by the numbers that they stand for."""
        samples = self.samples or most_samples(self.occupancy, self.samples_per_voxel)
        return dataclasses.replace(
            self,
            samples=samples,
            max_steps=self.max_steps or NO_LIMIT,
            mean_samples=self.mean_samples or float(samples),
        )

    def with_larger_buffer(self) -> "OccupancySampler":
        """The sampler with a packed buffer four times as long."""
        return dataclasses.replace(self, mean_samples=4.0 * self.mean_samples)

    def with_larger_limits(self) -> "OccupancySampler":
        """The sampler with four times the samples and steps per ray, and without early stopping."""
        return dataclasses.replace(
            self,
            samples=4 * self.samples,
            max_steps=min(4 * self.max_steps, NO_LIMIT),
            max_optical_depth=0.0,
        )

"""`KeepOccupancy`, the strategy that updates an occupancy grid while any field is trained.

After Mueller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding"
(SIGGRAPH 2022), appendix on ray marching: the grid stores a decaying maximum of the densities found in
each cell, and the field is evaluated at random points of cells at regular intervals.
"""

import dataclasses
import functools
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.errors import in_range, positive
from jaxnerf.fields import join_field, split_field
from jaxnerf.fields.warped import WarpedField
from jaxnerf.sampling import Occupancy, OccupancySampler
from jaxnerf.sampling.occupancy import encode
from jaxnerf.scenes import Split
from jaxnerf.scenes.silhouettes import possible_cells
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.state import TrainState
from jaxnerf.training.strategy import Unchanged

# Places at which the field is evaluated at once.
_PLACES_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class OccupancyConfig:
    """The occupancy grid of a field, and how rays are sampled by it.

    Attributes:
      cells: number of cells along each side of the grid.
      steps: number of sampling steps along a side of the grid.
      samples: maximum number of samples per ray.
      mean_samples: length of the packed sample buffer, divided by the number of rays. Rays that overflow
        it are dropped from the batch; early in training, when little space is known to be empty, these
        are many.
      refresh_every: number of steps between updates of the grid.
      warm_up: number of steps in which updates evaluate all cells. Later updates evaluate half as many,
        one half of them drawn from all cells and the other from occupied ones.
      decay: factor by which stored densities are multiplied at each update.
      empty_below: a cell counts as empty if the opacity of a step in it is less than this.
    """

    cells: int = 128
    steps: int = 512
    samples: int = 256
    mean_samples: float = 32.0
    refresh_every: int = 16
    warm_up: int = 256
    decay: float = 0.95
    empty_below: float = 0.01

    def __post_init__(self) -> None:
        positive(self, "steps", "samples", "mean_samples", "refresh_every", "empty_below")
        in_range(self, cells=(1, 1024), decay=(0.0, 1.0), empty_below=(0.0, 0.99))

    def sampler(self, occupancy: Occupancy) -> OccupancySampler:
        """How rays are sampled in training."""
        return OccupancySampler(
            occupancy,
            samples=self.samples,
            max_steps=2 * self.steps,
            mean_samples=self.mean_samples,
        )


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CellDepths:
    """The state of `KeepOccupancy`. A pytree.

    Attributes:
      depths: the decaying maximum of the optical depth of a step in each cell; negative in cells that are
        known to be empty, for instance outside of a silhouette.
    """

    depths: Float[Array | np.ndarray, "M M M"]


def full_occupancy(
    split: Split,
    config: OccupancyConfig,
    background: str,
    space: SphereContraction | NdcSpace | None = None,
) -> tuple[Occupancy, CellDepths]:
    """An occupancy of all cells in which something can be, and what is remembered at first.

    Those are all cells of a space, if one is given; else what silhouettes leave of a cube.

    Args:
      split: a split with photographs.
      config: settings of the occupancy.
      background: colour behind the scene; see `TrainingConfig`.
      space: the grid's space; None for the world.
    """
    if space is None:
        origin, side, mask = possible_cells(split, config.cells, background, 0.0)
    else:
        origin, side, mask = space.cells(config.cells)
    step = side / config.steps
    depths = np.where(mask, 2.0 * config.empty_below, -1.0).astype(np.float32)
    occupancy = Occupancy(
        _coded(jnp.asarray(depths), jnp.asarray(mask), config.steps / config.cells),
        jnp.asarray(origin, jnp.float32),
        jnp.float32(side / config.cells),
        jnp.float32(step),
        space,
    )
    return occupancy, CellDepths(jnp.asarray(depths))


class KeepOccupancy(Unchanged):
    """Brings an occupancy up to date between steps; see `jaxnerf.training.strategy.Strategy`."""

    def __init__(self, split: Split, occupancy: OccupancyConfig, config: TrainingConfig):
        """Prepare, for a split with photographs."""
        super().__init__(split, config)
        self._occupancy = occupancy

    def is_due(self, number: int, total: int) -> bool:
        """Every so many steps."""
        return number > 0 and number % self._occupancy.refresh_every == 0

    def change(self, state: TrainState, number: int, total: int) -> TrainState:
        """The state with an occupancy that is up to date."""
        config, key = self._occupancy, jax.random.key(self._config.seed)
        everywhere = number <= config.warm_up
        arrays, kind = split_field(state.field)
        sampler, remembered = state.sampler, state.strategy
        depths, cells = _refreshed(
            kind, config, everywhere, arrays, state.params, sampler.occupancy, remembered.depths,
            jax.random.fold_in(key, number),
        )  # fmt: skip
        occupancy = dataclasses.replace(sampler.occupancy, cells=np.asarray(cells))
        return dataclasses.replace(
            state,
            sampler=dataclasses.replace(sampler, occupancy=occupancy),
            strategy=CellDepths(np.asarray(depths)),
        )


@functools.partial(jax.jit, static_argnames=("kind", "config", "everywhere"))
def _refreshed(kind, config, everywhere, arrays, params, occupancy, depths, key):
    """The remembered depths after an update, and the occupancy's cells."""
    field, occupancy = join_field(arrays, kind), jax.tree.map(jnp.asarray, occupancy)
    size, depths = depths.shape[0], jnp.asarray(depths)
    chosen_key, place_key = jax.random.split(key)
    index = jnp.arange(size**3, dtype=jnp.int32)
    if not everywhere:
        index = _some_cells(chosen_key, depths, _threshold(depths, config))
    corner = jnp.stack(jnp.unravel_index(index, depths.shape), axis=-1)
    inside = jax.random.uniform(place_key, corner.shape, depths.dtype)
    places = (corner.astype(depths.dtype) + inside) * occupancy.cell + occupancy.origin[None, :]
    found = _densities(field, params, occupancy, places) * occupancy.step
    flat = depths.reshape(-1)
    possible = flat >= 0.0
    found = jnp.zeros_like(flat).at[index].max(found)
    flat = jnp.where(possible, jnp.maximum(config.decay * flat, found), flat)
    depths = flat.reshape(depths.shape)
    occupied = depths >= _threshold(depths, config)
    return depths, _coded(depths, occupied, config.steps / config.cells)


def _threshold(depths: Array, config: OccupancyConfig) -> Array:
    """The remembered optical depth from which on a cell counts as occupied.

    It is less than the mean of all cells, so that some cell always counts: at first no cell is dense, and
    every one must be able to become so. It is a little less than the mean, since of equal depths rounding
    may put the mean above all.
    """
    possible = depths >= 0.0
    number = jnp.maximum(jnp.sum(possible.astype(depths.dtype)), 1.0)
    mean = jnp.sum(jnp.where(possible, depths, 0.0)) / number
    return jnp.minimum(-jnp.log1p(-config.empty_below), (1.0 - 1e-3) * mean)


def _some_cells(key: Any, depths: Array, least: Array) -> Array:
    """The numbers of half as many cells as there are: half of those anywhere, half where one is dense."""
    count = depths.size // 4
    anywhere, among = jax.random.split(key)
    dense = jnp.cumsum((depths.reshape(-1) >= least).astype(jnp.int32))
    rank = jax.random.uniform(among, (count,)) * dense[-1].astype(jnp.float32)
    there = jnp.searchsorted(dense, rank.astype(jnp.int32) + 1)
    anywhere = jax.random.randint(anywhere, (count,), 0, depths.size, jnp.int32)
    return jnp.concatenate([anywhere, jnp.clip(there, 0, depths.size - 1).astype(jnp.int32)])


def _densities(field: Any, params: Any, occupancy: Occupancy, places: Array) -> Array:
    """Densities in the space of a grid, at places of it, so many at a time."""
    inner = field
    if occupancy.space is not None:
        assert isinstance(field, WarpedField)
        inner = field.field

    def some(part: Array) -> Array:
        return inner.density(params, part)[0]

    count = places.shape[0]
    if count <= _PLACES_AT_ONCE:
        return some(places)
    padded = jnp.pad(places, ((0, -count % _PLACES_AT_ONCE), (0, 0)), mode="edge")
    return jax.lax.map(some, padded.reshape(-1, _PLACES_AT_ONCE, 3)).reshape(-1)[:count]


def _coded(depths: Array, occupied: Array, steps_a_cell: float) -> Array:
    """The code of an occupancy's cells, by the optical depth of a step in each."""
    return encode(occupied, jnp.maximum(depths, 0.0) * steps_a_cell)

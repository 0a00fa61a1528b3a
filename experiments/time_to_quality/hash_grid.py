"""A multiresolution hash grid in the place of the fast field's voxels, to compare them.

    python experiments/time_to_quality/hash_grid.py --budget 60
    python experiments/time_to_quality/hash_grid.py --data nerf_synthetic/lego --budget 150

Müller et al., "Instant neural graphics primitives with a multiresolution hash encoding" (SIGGRAPH 2022):
levels of a grid whose corners are hashed into tables of features; a network makes a density of the
features at a point, and another a colour, at each sample. The rest is the fast field's, with settings
that suit this: the occupancy, from the silhouettes and brought up to date; the walk along rays; the loop
and its time budget. The figures join those of time_to_quality.py, in the same file.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from time_to_quality import HERE, keep_row, peak_gigabytes

from jaxnerf import evaluation
from jaxnerf.cli.common import prepare_cpu, seconds_since_process_start
from jaxnerf.encoding import spherical_harmonics
from jaxnerf.fitting import fit
from jaxnerf.growing import GrowingConfig
from jaxnerf.growth import create_growing_state
from jaxnerf.kernels.interpolation import trilinear_corners, weighted_rows
from jaxnerf.pictures import march_image
from jaxnerf.scenes import load_scene
from jaxnerf.stages import GrowingTrainer, local
from jaxnerf.training import TrainingConfig

_RAYS = 4096  # a step
# Of the paper's section 3; the first axis is not multiplied, for the sake of caches.
_PRIMES = (1, 2654435761, 805459861)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HashParams:
    """What is learned, and the cube that the grid is laid over."""

    table: Any
    network: Any
    origin: Any
    side: Any
    voxel: Any


@dataclasses.dataclass(frozen=True)
class HashGridField:
    """The field of the paper with 8 levels of 4 features, as its later releases have it.

    Implements `jaxnerf.growing.GrowingField`.

    Attributes:
      levels, features, rows_log2: of the table.
      coarsest, finest: cells along the cube of the first and the last level.
      width, geometry: units of hidden layers, and numbers handed from density to colour.
      initial_opacity: of a voxel, for the occupancy before training.
      density_rate, feature_rate: learning rates, of the networks and of the table.
    """

    levels: int = 8
    features: int = 4
    rows_log2: int = 17
    coarsest: int = 16
    finest: int = 512
    width: int = 64
    geometry: int = 16
    initial_opacity: float = 0.03
    density_rate: float = 5e-3
    feature_rate: float = 2e-2

    def init(self, key: jax.Array) -> HashParams:
        """Before training, over the unit cube."""
        return self.from_cells(key, np.ones((1, 1, 1), bool), np.zeros(3, np.float32), 1.0, 1.0)

    def from_cells(self, key, cells, origin, cell, voxel) -> HashParams:
        """Before training, over a cube of cells."""
        table_key, *keys = jax.random.split(key, 6)
        rows = self.levels << self.rows_log2
        table = jax.random.uniform(table_key, (rows, self.features), minval=-1e-4, maxval=1e-4)
        harmonics = 16
        sizes = [
            [self.levels * self.features, self.width, self.geometry],
            [self.geometry + harmonics, self.width, self.width, 3],
        ]
        normal = jax.nn.initializers.he_normal()
        network, unused = [], iter(keys)
        for layers in sizes:
            pairs = itertools.pairwise(layers)
            network.append([normal(next(unused), pair) for pair in pairs])
        return HashParams(
            table,
            network,
            jnp.asarray(origin, jnp.float32),
            jnp.float32(cells.shape[0] * cell),
            jnp.float32(voxel),
        )

    def density(self, params: HashParams, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The exponential of the network's first output; all of them for the colour."""
        shape = positions.shape[:-1]
        origin, side, voxel = jax.lax.stop_gradient((params.origin, params.side, params.voxel))
        unit = (positions.reshape(-1, 3) - origin[None, :]) / side
        growth = (self.finest / self.coarsest) ** (1.0 / (self.levels - 1))
        values = []
        for level in range(self.levels):
            cells = round(self.coarsest * growth**level)
            _, weights = trilinear_corners(unit * cells)
            rows = self._rows(unit * cells, cells, level)
            values.append(weighted_rows(params.table, rows, weights))
        hidden = jnp.concatenate(values, axis=-1)
        first, second = params.network[0]
        hidden = jax.nn.relu(hidden @ first) @ second
        # Around one, an optical depth of a hundredth a voxel.
        density = jnp.exp(jnp.clip(hidden[:, 0], -15.0, 15.0)) * 0.01 / voxel
        return density.reshape(shape), hidden.reshape(*shape, self.geometry)

    def colour(
        self, params: HashParams, features: jax.Array, view_directions: jax.Array
    ) -> jax.Array:
        """RGB of a point."""
        hidden = jnp.concatenate([features, spherical_harmonics(view_directions, 3)], axis=-1)
        *inner, last = params.network[1]
        for layer in inner:
            hidden = jax.nn.relu(hidden @ layer)
        return jax.nn.sigmoid(hidden @ last)

    def rates(self, params: HashParams) -> HashParams:
        """Learning rates of the leaves."""
        zero = np.float32(0.0)
        network = jax.tree.map(lambda _: np.float32(self.density_rate), params.network)
        return HashParams(np.float32(self.feature_rate), network, zero, zero, zero)

    def points(self, cells, voxels_a_cell: float) -> int:
        """The rows of its tables, whatever the voxels: `GrowingConfig.points` is not for this field."""
        return self.levels << self.rows_log2

    def refine(self, params: HashParams, cells, origin, cell, voxel) -> HashParams:
        """Nothing changes but what counts as small: the levels are all there from the beginning."""
        return dataclasses.replace(params, voxel=jnp.float32(voxel))

    def clear(self, params: HashParams, cells, origin, cell) -> HashParams:
        """Nothing: a row of the table belongs to many places."""
        return params

    def sink(self, params: HashParams, share: jax.Array) -> HashParams:
        """Nothing: no number of it is a density's alone."""
        return params

    def _rows(self, lattice: jax.Array, cells: int, level: int) -> jax.Array:
        """Rows of the eight corners [8, N]: counted where a level fits, hashed where it does not."""
        size = 1 << self.rows_log2
        lower = jnp.floor(lattice).astype(jnp.int32)

        def corner(_, digits):
            at = jnp.clip(lower + digits[None, :], 0, cells)
            if (cells + 1) ** 3 <= size:
                row = (at[:, 0] * (cells + 1) + at[:, 1]) * (cells + 1) + at[:, 2]
            else:
                mixed = jnp.zeros(at.shape[0], jnp.uint32)
                for axis, prime in enumerate(_PRIMES):
                    mixed ^= at[:, axis].astype(jnp.uint32) * jnp.uint32(prime)
                row = (mixed & jnp.uint32(size - 1)).astype(jnp.int32)
            return None, row + level * size

        digits = jnp.asarray(list(np.ndindex(2, 2, 2)), jnp.int32)
        return jax.lax.scan(corner, None, digits)[1]


def measure(data: str | None, seconds: float) -> dict:
    """Train within a budget that counts from the start of this process, and measure."""
    field = HashGridField()
    config = TrainingConfig(
        steps=1_000_000,
        rays_per_batch=_RAYS,
        max_seconds=seconds,
        adam_beta2=0.99,
        adam_epsilon=1e-12,
    )
    growing = GrowingConfig(
        resolutions=(256,), shares=(), cells=128, samples=80, lookups=120, budget=16.0
    )
    split = load_scene(data, images=("train",)).splits["train"]
    state = create_growing_state(field, split, growing, config)
    trainer = GrowingTrainer(split, field=field, growing=growing, config=config)
    first, rays, before = 0.0, 0, 0
    for report in fit(
        state,
        trainer,
        seconds_left=lambda: seconds - seconds_since_process_start(),
        plan=True,
    ):
        first = first or seconds_since_process_start()
        rays += (report.step - before) * int(report.metrics["rays"])
        before, last = report.step, report
    ended = seconds_since_process_start()
    peak, final = peak_gigabytes(), local(last.state)
    scene = load_scene(data, images=("test",))
    tested = scene.splits["test"]
    render = functools.partial(march_image, field, final.params[0], final.occupancy)
    with tempfile.TemporaryDirectory() as folder:
        results = evaluation.evaluate_split(
            lambda index: np.asarray(render(tested.cameras[index], far=scene.far).colour),
            tested,
            Path(folder),
        )
    return {
        "config": "hash_grid",
        "budget": seconds,
        "seconds": round(ended, 1),
        "first_step": round(first, 1),
        "steps": last.step,
        "rays": rays,
        "psnr": round(results["psnr"], 2),
        "ssim": round(results["ssim"], 4),
        "views": results["protocol"]["images"],
        "resolution": results["protocol"]["resolution"],
        "peak_gb": peak,
    }


def main() -> None:
    """Measure one budget, counted from the start of this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="folder of the scene; the demo scene by default")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds")
    parser.add_argument("--out", help="name of what is left; that of the scene by default")
    options = parser.parse_args()
    prepare_cpu(_RAYS)
    row = measure(options.data, options.budget)
    print(json.dumps(row), flush=True)
    keep_row(HERE, options.out or (Path(options.data).name if options.data else "demo"), row)


if __name__ == "__main__":
    main()

"""A loop of one's own: the fast field's voxels, by an optimizer of optax, on one device."""

import functools

import jax
import numpy as np
import optax

import jaxnerf
from jaxnerf.training import PhotometricLoss, begin, sample_batch, train_step

split = jaxnerf.load_scene(downscale=8).splits["train"]
cells, corner, side = np.ones((16, 16, 16), bool), np.full(3, -1.5, np.float32), 3.0
field = jaxnerf.VoxelField.on_lattice(cells, corner, cell=side / 16, spacing=side / 32)
occupancy = jaxnerf.Occupancy.of(cells, corner, cell=side / 16, step=side / 32)
sampler = jaxnerf.OccupancySampler(occupancy, samples=64)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-2, weight_decay=1e-4))

params = field.init(jax.random.key(0))
state = begin(field, params, sampler, optimizer, total_steps=60)
step = jax.jit(
    functools.partial(train_step, loss=PhotometricLoss(opacity=0.1), optimizer=optimizer)
)
losses = []
for number in range(60):
    batch = sample_batch(split, 512, seed=0, step=number)
    state, metrics = step(state, batch, jax.random.key(0), split.cameras)
    losses.append(float(metrics["loss"]))
print(losses[0], losses[-1])

"""A head for labels, rendered along the rays of the fast renderer."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnerf

cells, corner, side = np.ones((16, 16, 16), bool), np.full(3, -1.0, np.float32), 2.0
field = jaxnerf.VoxelField.on_lattice(cells, corner, cell=side / 16, spacing=side / 16)
sampler = jaxnerf.OccupancySampler(jaxnerf.Occupancy.of(cells, corner, side / 16, side / 32))
params, head = field.init(jax.random.key(0)), 0.1 * jnp.ones((3, 5))
camera = jaxnerf.Camera.look_at((0.0, -4.0, 1.0), width=16, height=16)
rays = jaxnerf.cast_rays(camera, jnp.full((4, 2), 8.0))


def labels(head):
    """Probabilities of five classes, along each ray."""
    seen = jaxnerf.render_rays(
        field, params, rays, sampler,
        extras=lambda params, features: {"labels": jax.nn.softmax(features @ head)},
    )  # fmt: skip
    return seen.extras["labels"]


gradient = jax.jit(jax.grad(lambda head: -jnp.log(labels(head)[:, 2] + 1e-6).mean()))(head)
print(labels(head).shape, float(jnp.abs(gradient).max()))

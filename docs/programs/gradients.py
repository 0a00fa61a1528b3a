"""An own field through the occupancy sampler: gradients to parameters and poses, over scenes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from own_field import Ball

import jaxnerf

cells, corner = np.ones((16, 16, 16), bool), np.full(3, -2.0, np.float32)
sampler = jaxnerf.OccupancySampler(
    jaxnerf.Occupancy.of(cells, corner, cell=0.25, step=0.1), samples=64
)
camera = jaxnerf.Camera.look_at((0.0, -4.0, 1.0), width=16, height=16)
pixels = jnp.asarray(np.random.default_rng(0).uniform(0, 16, (32, 2)), jnp.float32)


def brightness(params, pose):
    """Of what one scene shows to a camera."""
    posed = dataclasses.replace(camera, camera_to_world=pose)
    rays = jaxnerf.cast_rays(posed, pixels, near=2.0)
    return jaxnerf.render_rays(Ball(), params, rays, sampler).colour.mean()


scenes = jax.vmap(Ball().init)(jax.random.split(jax.random.key(0), 8))
poses = jnp.tile(jnp.asarray(camera.camera_to_world, jnp.float32), (8, 1, 1))
to_params, to_poses = jax.jit(jax.vmap(jax.grad(brightness, argnums=(0, 1))))(scenes, poses)
print(to_params["logits"].shape, to_poses.shape)

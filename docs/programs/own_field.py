"""A field of one's own: trained fast, interrupted, resumed, loaded as a run, rendered."""

import jax
import jax.numpy as jnp

import jaxnerf


class Ball:
    """A soft ball of one colour: init, density and colour are all that a field needs."""

    def init(self, key):
        return {"radius": jnp.array(1.0), "logits": 0.1 * jax.random.normal(key, (3,))}

    def density(self, params, positions):
        away = jnp.sqrt(jnp.sum(positions**2, axis=-1) + 1e-6)
        return 20.0 * jax.nn.sigmoid(8.0 * (params["radius"] - away)), positions

    def colour(self, params, features, view_directions):
        return jnp.broadcast_to(jax.nn.sigmoid(params["logits"]), features.shape)


scene = jaxnerf.load_scene(downscale=8)
small = {"training__rays_per_batch": 256, "occupancy__cells": 32, "occupancy__steps": 64}
given = {"steps": 40, "report_every": 20, **small}
jaxnerf.fit(Ball(), scene, "runs/ball", report=lambda progress: progress.step == 20, **given)
run = jaxnerf.fit(Ball(), scene, "runs/ball", resume=True, **given)
again = jaxnerf.load_run("runs/ball", field=Ball())
picture = again.render(again.cameras("test")[0])
print(again.step, again.params["radius"], picture.colour.shape)

"""A loss of one's own: a function of what was rendered and of what was photographed."""

import jax.numpy as jnp
from own_field import Ball, scene, small

import jaxnerf
from jaxnerf.training import mean_over_rays


def robust_loss(rendering, target):
    """The Charbonnier error of colours, and an entropy that pushes opacities to 0 or 1."""
    error = jnp.sqrt(jnp.sum((rendering.colour - target.colour) ** 2, axis=-1) + 1e-4)
    opacity = jnp.clip(rendering.opacity, 1e-4, 1.0 - 1e-4)
    entropy = -opacity * jnp.log(opacity) - (1.0 - opacity) * jnp.log(1.0 - opacity)
    colour, unsure = mean_over_rays(rendering, error), mean_over_rays(rendering, entropy)
    return colour + 0.01 * unsure, {"mse": colour**2, "entropy": unsure}


losses = []
run = jaxnerf.fit(
    Ball(), scene, steps=40, loss=robust_loss, report=lambda p: losses.append(p.metrics), **small
)
print(losses[0]["loss"], losses[-1]["loss"], losses[-1]["entropy"])

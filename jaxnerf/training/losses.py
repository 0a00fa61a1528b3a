"""Losses: functions of what was rendered and of what was photographed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnerf.compositing import deviation_of, distortion_of
from jaxnerf.rendering import Rendering
from jaxnerf.sampling import Samples
from jaxnerf.training.state import Target

# (rendering, target) -> a number, or a number and a dict of further numbers to report.
Loss = Callable[[Rendering, Target], Any]


@dataclasses.dataclass(frozen=True)
class PhotometricLoss:
    """The mean squared error of colours, plus optional regularisers.

    Attributes:
      proposals: weight of the squared error of each level of sampling before the last (NeRF, eq. 6).
      opacity: weight of the squared error of opacity, where photographs have alpha.
      transmittance: weight of the squared transmittance of whole rays, where photographs have no alpha;
        for scenes that fill their photographs.
      distortion: weight of the distortion loss (mip-NeRF 360, eq. 15); not for a composed field whose
        parts have samples of their own.
      depth: weight of the deviation of the ray's termination from known points
        (`jaxnerf.compositing.deviation_of`).
    """

    proposals: float = 0.0
    opacity: float = 0.0
    transmittance: float = 0.0
    distortion: float = 0.0
    depth: float = 0.0

    def __call__(
        self, rendering: Rendering, target: Target
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss, and "mse": the squared error of the last level's colours.

        Raises:
          ValueError: the distortion is asked of samples that parts of a composition have each of its own.
        """
        mse = mean_over_rays(rendering, squared_error(rendering, target))
        loss = mse
        if self.proposals:
            for level in rendering.proposals:
                loss = loss + self.proposals * mean_over_rays(level, squared_error(level, target))
        if self.opacity and target.alpha is not None:
            error = (rendering.opacity - target.alpha) ** 2
            loss = loss + self.opacity * mean_over_rays(rendering, error)
        if self.transmittance and target.alpha is None:
            left = (1.0 - rendering.opacity) ** 2
            loss = loss + self.transmittance * mean_over_rays(rendering, left)
        if self.distortion:
            spread = distortion_of(*_of_rays(rendering, "PhotometricLoss.distortion"))
            loss = loss + self.distortion * mean_over_rays(rendering, spread)
        if self.depth and target.depth is not None and target.certainty is not None:
            known = target.certainty > 0.0
            away = _deviation(rendering, jnp.where(known, target.depth, 1.0))
            loss = loss + self.depth * mean_over_rays(rendering, target.certainty * away)
        return loss, {"mse": mse}


def squared_error(rendering: Rendering, target: Target) -> Float[Array, "*batch"]:
    """The squared error of each ray's colour, averaged over the channels."""
    return jnp.mean((rendering.colour - target.colour) ** 2, axis=-1)


def mean_over_rays(rendering: Rendering, values: Float[Array, "*batch"]) -> Float[Array, ""]:
    """The mean over all rays but those that were dropped, or truncated with light left.

    A truncated ray was not rendered to its end, so its colour cannot be compared. A ray that was ended
    early counts even if its transmittance is high: the occupancy's densities are those that the field had
    when the occupancy was last updated.
    """
    samples = rendering.samples
    counts = samples.fits & (rendering.is_dark | ~samples.truncated)
    weight = counts.astype(values.dtype)
    return jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1.0)


def _deviation(rendering: Rendering, depth: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`deviation_of` the light of each ray; of a composition, of all that its parts stop."""
    samples, weights = rendering.samples, rendering.weights
    if not isinstance(weights, tuple):
        return deviation_of(samples, weights, depth)
    parts = (samples,) * len(weights) if isinstance(samples, Samples) else samples.parts
    found = [deviation_of(part, own, depth) for part, own in zip(parts, weights, strict=True)]
    return 1.0 - jnp.sum(1.0 - jnp.stack(found), axis=0)


def _of_rays(rendering: Rendering, asked: str) -> tuple[Samples, Array]:
    """The samples of whole rays and their weights; of a composition, where its parts share samples.

    Raises:
      ValueError: they do not; the message begins with what was asked for.
    """
    samples, weights = rendering.samples, rendering.weights
    if not isinstance(samples, Samples):
        raise ValueError(
            f"{asked}: parts of this composition have samples each of its own; ask it of one part, of "
            "samples.parts[i] and weights[i]"
        )
    if isinstance(weights, tuple):
        weights = jnp.sum(jnp.stack(weights), axis=0)
    return samples, weights


def proposal_error(rendering: Rendering) -> Float[Array, "*batch"]:
    """The proposal loss of each ray: weight that earlier levels do not bound (mip-NeRF 360, eq. 13).

    For each level before the last, the sum over the last level's intervals of
    max(0, w - bound)^2 / w, where the bound is the sum of the level's weights whose intervals overlap
    the interval. It trains the earlier levels only: the last level's weights have no gradient.

    Args:
      rendering: a rendering of dense samples with proposals (`jaxnerf.render_rays(..., proposals=True)`).

    Raises:
      ValueError: the samples are packed, there are no proposals, or parts of a composition have samples
        each of its own.
    """
    samples, weights = jax.lax.stop_gradient(_of_rays(rendering, "proposal_error"))
    if samples.packing is not None or not rendering.proposals:
        raise ValueError("proposal_error: needs dense samples with proposals of earlier levels")
    begin, end = samples.s0[..., :, None], samples.s1[..., :, None]
    total = jnp.zeros_like(rendering.opacity)
    for level in rendering.proposals:
        own = level.samples
        overlaps = (own.s1[..., None, :] > begin) & (own.s0[..., None, :] < end)
        bound = jnp.sum(jnp.where(overlaps, level.weights[..., None, :], 0.0), axis=-1)
        excess = jnp.maximum(weights - bound, 0.0)
        total = total + jnp.sum(excess**2 / (weights + 1e-7), axis=-1)
    return total

"""The fully connected layers of `jaxnerf.fields.nerf`, in Flax; imported when they are used."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxnerf.encoding import positional_encoding

_XAVIER = nn.initializers.xavier_uniform()


class NerfLayers(nn.Module):
    """The layers of a `NerfField`. `trunk` and `branch` are the two halves of the protocol."""

    settings: Any  # a NerfField

    def setup(self):
        s = self.settings
        self.layers = [self._dense(s.width) for _ in range(s.depth)]
        self.density_layer = self._dense(1)
        self.bottleneck = self._dense(s.width)
        self.view_layers = [self._dense(s.view_width) for _ in range(s.view_depth)]
        self.colour_layer = self._dense(3)

    def _dense(self, width: int) -> nn.Dense:
        return nn.Dense(width, kernel_init=_XAVIER, dtype=jnp.dtype(self.settings.dtype))

    def trunk(self, positions):
        encoded = positional_encoding(positions, self.settings.position_octaves)
        hidden = encoded
        for index, layer in enumerate(self.layers, start=1):
            hidden = nn.relu(layer(hidden))
            if index == self.settings.skip_after and index < len(self.layers):
                hidden = jnp.concatenate([encoded.astype(hidden.dtype), hidden], axis=-1)
        raw = self.density_layer(hidden)[..., 0].astype(positions.dtype)
        return raw, self.bottleneck(hidden)

    def branch(self, features, view_directions):
        encoded = positional_encoding(view_directions, self.settings.direction_octaves)
        hidden = jnp.concatenate([features, encoded.astype(features.dtype)], axis=-1)
        for layer in self.view_layers:
            hidden = nn.relu(layer(hidden))
        return self.colour_layer(hidden).astype(view_directions.dtype)

    def __call__(self, positions, view_directions):
        _, features = self.trunk(positions)
        return self.branch(features, view_directions)

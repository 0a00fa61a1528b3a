"""The multilayer perceptron of the paper (NeRF, figure 7), with every size a setting."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxnerf.encoding import positional_encoding
from jaxnerf.fields import Params

_XAVIER = nn.initializers.xavier_uniform()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NerfField:
    """The field of the paper. Implements `jaxnerf.fields.Field`; the settings are its identity.

    With the defaults it has 595,844 parameters, and the names, shapes and order of inputs are those
    of the released code: encoding x, sin, cos, sin, cos, ...; the skip concatenates (encoding,
    hidden), the view branch (bottleneck, direction).

    Attributes:
      depth: fully connected layers before density.
      width: units in each of them, and in the bottleneck after them.
      skip_after: after this many layers the encoded position is concatenated again; 0 for never.
      view_depth, view_width: layers and units of the branch that sees the direction.
      position_degree, direction_degree: octaves of the positional encodings.
      density_activation: "softplus" of (x - 1), whose gradient never dies; or the paper's "relu",
        which leaves about one run in ten empty for ever.
      colour_padding: colours range from -padding to 1 + padding, so that black and white are
        reached by a finite sigmoid; 0 in the paper.
      dtype: of the matrix products, "float32" or "bfloat16"; parameters and outputs are float32.
    """

    depth: int = 8
    width: int = 256
    skip_after: int = 5
    view_depth: int = 1
    view_width: int = 128
    position_degree: int = 10
    direction_degree: int = 4
    density_activation: Literal["softplus", "relu"] = "softplus"
    colour_padding: float = 0.001
    dtype: Literal["float32", "bfloat16"] = "float32"

    def init(self, key: PRNGKeyArray) -> Params:
        """Glorot-uniform kernels and zero biases, as in the released code."""
        return _NerfModule(self).init(key, jnp.zeros((1, 3)), jnp.zeros((1, 3)))["params"]

    def density(
        self,
        params: Params,
        positions: Float[Array, "*batch 3"],
        noise: Float[Array, "*batch"] | None = None,
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """Density, and the bottleneck's values as features; noise is added before the activation."""
        raw, features = self._apply(params, positions, method="trunk")
        if noise is not None:
            raw = raw + noise
        if self.density_activation == "relu":
            return jax.nn.relu(raw), features
        return jax.nn.softplus(raw - 1.0), features

    def colour(
        self,
        params: Params,
        features: Float[Array, "*batch F"],
        view_directions: Float[Array, "*batch 3"],
    ) -> Float[Array, "*batch 3"]:
        """RGB from the bottleneck's values and the direction."""
        raw = self._apply(params, features, view_directions, method="branch")
        padding = self.colour_padding
        return jax.nn.sigmoid(raw) * (1.0 + 2.0 * padding) - padding

    def _apply(self, params: Params, *inputs: Array, method: str) -> Any:
        return _NerfModule(self).apply({"params": params}, *inputs, method=method)


class _NerfModule(nn.Module):
    """The layers. `trunk` and `branch` are the two halves of the protocol."""

    settings: NerfField

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
        encoded = positional_encoding(positions, self.settings.position_degree)
        hidden = encoded
        for index, layer in enumerate(self.layers, start=1):
            hidden = nn.relu(layer(hidden))
            if index == self.settings.skip_after and index < len(self.layers):
                hidden = jnp.concatenate([encoded.astype(hidden.dtype), hidden], axis=-1)
        raw = self.density_layer(hidden)[..., 0].astype(jnp.float32)
        return raw, self.bottleneck(hidden)

    def branch(self, features, view_directions):
        encoded = positional_encoding(view_directions, self.settings.direction_degree)
        hidden = jnp.concatenate([features, encoded.astype(features.dtype)], axis=-1)
        for layer in self.view_layers:
            hidden = nn.relu(layer(hidden))
        return self.colour_layer(hidden).astype(jnp.float32)

    def __call__(self, positions, view_directions):
        _, features = self.trunk(positions)
        return self.branch(features, view_directions)

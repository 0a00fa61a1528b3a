"""The multilayer perceptron of the paper (NeRF, figure 7), with every size a setting."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxnerf.errors import positive
from jaxnerf.fields import Params


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
      position_octaves, direction_octaves: numbers of octaves in the positional encodings of positions and
        viewing directions.
      density_activation: "softplus" of (x - 1), whose gradient never dies; or the paper's "relu",
        which leaves about one run in ten empty for ever.
      colour_padding: colours range from -padding to 1 + padding, so that black and white are
        reached by a finite sigmoid; 0 in the paper.
      dtype: type of the matrix products, "float32", "bfloat16" or, with `jax_enable_x64`, "float64".
        Parameters of any precision are taken; outputs have that of the positions.
    """

    depth: int = 8
    width: int = 256
    skip_after: int = 5
    view_depth: int = 1
    view_width: int = 128
    position_octaves: int = 10
    direction_octaves: int = 4
    density_activation: Literal["softplus", "relu"] = "softplus"
    colour_padding: float = 0.001
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"

    def __post_init__(self) -> None:
        positive(self, "depth", "width", "view_width")

    def init(self, key: PRNGKeyArray) -> Params:
        """Glorot-uniform kernels and zero biases, as in the released code."""
        return self._layers.init(key, jnp.zeros((1, 3)), jnp.zeros((1, 3)))["params"]

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

    @property
    def _layers(self) -> Any:
        # Flax takes half a second, for which programs without this field need not wait.
        from jaxnerf.fields.nerf_layers import NerfLayers

        return NerfLayers(self)

    def _apply(self, params: Params, *inputs: Array, method: str) -> Any:
        return self._layers.apply({"params": params}, *inputs, method=method)

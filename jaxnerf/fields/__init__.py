"""What a scene is made of: density and colour as functions of place and direction."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray

Params = Any  # a pytree of arrays


@runtime_checkable
class Field(Protocol):
    """Two pure functions over a parameter pytree, and a third that makes the parameters.

    Any object with these methods can be given to `jaxnerf.render_rays`. It is a static argument of
    compiled functions: let it be hashable and equal to others that compute the same (a frozen
    dataclass is both), or everything is compiled again.

    The split lets a renderer ask for density everywhere and for colour only where it shows.
    `features` is whatever `density` leaves for `colour`: any width, also none. A field whose density
    takes a keyword `noise [...]` can be trained with `RenderSettings.density_noise`. A field with an
    attribute `shading = "ray"` has its features added up along a ray, and is asked for the colour of
    their mean, once a ray.
    """

    def init(self, key: PRNGKeyArray) -> Params:
        """Parameters to start training from."""
        ...

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """Density in 1/length of the positions' unit, not negative; and features for `colour`."""
        ...

    def colour(
        self,
        params: Params,
        features: Float[Array, "*batch F"],
        view_directions: Float[Array, "*batch 3"],
    ) -> Float[Array, "*batch 3"]:
        """RGB in [0, 1] (up to a padding), seen along unit directions that leave the camera."""
        ...

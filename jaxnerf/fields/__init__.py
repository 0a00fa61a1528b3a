"""What a scene is made of: density and colour as functions of place and direction."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Params = Any  # a pytree of arrays


@runtime_checkable
class Field(Protocol):
    """Two pure functions over a parameter pytree, and a third that makes the parameters.

    Any object with these methods can be given to `jaxnerf.render_rays`. Let it be hashable and equal to
    others that compute the same (a frozen dataclass is both), or everything is compiled again; or a
    pytree, whose leaves are arrays that do not learn (the index of a lattice, a contraction) and whose
    settings are static. Parameters hold what learns and nothing else.

    The split lets a sampler ask for density alone, and a renderer for colour where samples were placed.
    `features` is whatever `density` leaves for `colour`: any width, also none. A field whose density
    takes a keyword `noise [...]` can be trained with `nerf.density_noise`. A field with an
    attribute `shading = "ray"` has its features added up along a ray, and gives one colour
    a ray, that of their mean. A field with a method `extras(params, features)` says more of its samples
    (labels, uncertainty): a pytree of [*batch, ...], which is accumulated along rays as colours are.
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


def in_precision(params: Params, dtype: Any) -> Params:
    """Parameters in the precision in which a field computes: that of the positions given to it.

    So a field of ours takes parameters in float32, in bfloat16 (their gradients are then bfloat16, and
    every product and sum is of the positions' precision), and in float64 with `jax_enable_x64`.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), params)


def split_field(field: Any) -> tuple[tuple[Any, ...], Any]:
    """A field (or a sequence of fields) as its arrays, and the rest, which is hashable.

    For compiled functions: arrays are arguments that may change, the rest decides what is compiled.
    Fields that are not pytrees are all of them the rest.

    Raises:
      TypeError: the rest is not hashable.
    """
    leaves, structure = jax.tree.flatten(field)
    is_array = tuple(isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves)
    arrays = tuple(leaf for leaf, it_is in zip(leaves, is_array, strict=True) if it_is)
    others = tuple(leaf for leaf, it_is in zip(leaves, is_array, strict=True) if not it_is)
    rest = (structure, is_array, others)
    try:
        hash(rest)
    except TypeError:
        raise TypeError(
            f"{type(field).__name__}: cannot be hashed, by which compiled programs are found again; "
            "make it a frozen dataclass, or register it as a pytree"
        ) from None
    return arrays, rest


def join_field(arrays: tuple[Any, ...], rest: Any) -> Any:
    """The inverse of `split_field`."""
    structure, is_array, others = rest
    left, right = iter(arrays), iter(others)
    return jax.tree.unflatten(structure, [next(left if it_is else right) for it_is in is_array])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StaticField:
    """A field that is no pytree, as one without leaves.

    Attributes:
      field: hashable, and equal to others that compute the same.
    """

    field: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "field"), name)


def as_pytree(field: Any) -> Any:
    """A field, or a tuple of fields, whose leaves are arrays: what can be part of a state."""
    if isinstance(field, tuple):
        return tuple(as_pytree(each) for each in field)
    leaves = jax.tree.leaves(field)
    return StaticField(field) if len(leaves) == 1 and leaves[0] is field else field

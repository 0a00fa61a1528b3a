"""Radiance fields: density and colour as functions of position and direction."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Params = Any  # a pytree of arrays


@runtime_checkable
class Field(Protocol):
    """A radiance field: `density` and `colour`, pure functions of parameters, and `init` for these.

    Any object with these methods can be given to `jaxnerf.render_rays`. It should be either hashable and
    equal to other objects that compute the same (as a frozen dataclass is), since otherwise functions are
    compiled again for each object; or a pytree whose leaves are arrays that are not learned (the index of
    a lattice, a contraction) and whose settings are static. `params` holds what is learned, nothing else.

    With two functions a sampler can evaluate density alone, and colour is evaluated only at the samples.
    `features` is what `density` passes on to `colour`: an array of any width, also 0.

    Optional members:

    - a keyword argument `noise [...]` of `density`, for training with `nerf.density_noise`;
    - an attribute `shading = "ray"`: features instead of colours are accumulated along each ray, and
      `colour` is evaluated once per ray, at their mean (deferred shading);
    - a method `extras(params, features)` that returns further values of the samples (labels,
      uncertainty): a pytree of [*batch, ...], accumulated along rays as colours are.
    """

    def init(self, key: PRNGKeyArray) -> Params:
        """Parameters to start training from."""
        ...

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """Density in 1/length of the positions' unit, at least 0; and features for `colour`."""
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
    """Convert parameters to the dtype in which a field computes, which is that of its positions.

    So the package's fields accept parameters in float32, in bfloat16 (whose gradients are then bfloat16,
    while all products and sums have the precision of the positions) and, with `jax_enable_x64`, float64.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), params)


def dense(layer: Any, inputs: Float[Array, "*batch M"]) -> Float[Array, "*batch N"]:
    """A linear layer of a network, of a dict with its kernel [M, N] and bias [N]."""
    outputs = inputs @ layer["kernel"]
    return outputs + layer["bias"].reshape((1,) * (outputs.ndim - 1) + (-1,))


def split_field(field: Any) -> tuple[tuple[Any, ...], Any]:
    """Split a field (or a sequence of fields) into its arrays and the hashable rest.

    For compiled functions: the arrays are traced arguments, and the rest is a static argument. A field
    that is not a pytree is all rest.

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

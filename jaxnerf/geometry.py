"""Rotations, and similarities that can be differentiated: where in a world something is placed."""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Below this squared angle the coefficients of Rodrigues' formula are evaluated by their series.
_SMALL = 1e-6
# Tolerance for R^T R - I of the rotation in a similarity's matrix.
_NEARLY = 1e-3


def rotations(turns: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Rotation matrices of rotation vectors, axis times angle (Rodrigues); differentiable at 0 too.

    >>> print(rotations(jnp.array([0.0, 0.0, jnp.pi / 2])).round(3) + 0.0)
    [[ 0. -1.  0.]
     [ 1.  0.  0.]
     [ 0.  0.  1.]]
    """
    square = jnp.sum(turns * turns, axis=-1)
    small = square < _SMALL
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    sine = jnp.where(small, 1.0 - square / 6.0, jnp.sin(angle) / angle)
    half = jnp.sin(0.5 * angle) / angle
    versine = jnp.where(small, 0.5 - square / 24.0, 2.0 * half * half)
    x, y, z = jnp.moveaxis(turns, -1, 0)
    zero = jnp.zeros_like(x)
    across = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1)
    across = across.reshape(*turns.shape, 3)
    # K^2 = w w^T - |w|^2 I.
    squared = turns[..., :, None] * turns[..., None, :]
    identity = jnp.broadcast_to(jnp.eye(3, dtype=turns.dtype), across.shape)
    squared = squared - square[..., None, None] * identity
    return identity + sine[..., None, None] * across + versine[..., None, None] * squared


def linear(
    matrix: Float[Array, "3 3"], vectors: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """A matrix times vectors, in full precision on every device."""
    rows = jnp.broadcast_to(matrix.astype(vectors.dtype), (*vectors.shape, 3))
    # A sum of products, and not a matmul, which an accelerator would round to bfloat16.
    return jnp.sum(vectors[..., None, :] * rows, axis=-1)


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Placement:
    """A similarity x -> scale * rotation @ x + translation, from a part's frame to the world's. A pytree.

    All its numbers are leaves: a program that was compiled for one placement serves all others, and
    `jax.grad` goes to them. To stay a rotation while it is optimised, let a placement be
    `moved` by six or seven free numbers.

    Attributes:
      rotation: orthonormal, of determinant 1.
      scale: more than 0; lengths of the world for one of the part.
      translation: position of the part's origin.
    """

    rotation: Float[Array, "3 3"]
    scale: Float[Array, ""]
    translation: Float[Array, "3"]

    @classmethod
    def of(cls, given: Any = None) -> "Placement":
        """A placement from what users have at hand, checked; in float32.

        Args:
          given: None for where it is; a matrix of 4 x 4 or 3 x 4; or anything with scale, rotation and
            translation (`jaxnerf.scenes.Similarity`, a placement).

        Raises:
          ValueError: it is no similarity; the message says why.
        """
        rotation, scale, translation = parts_of(given)
        return cls(
            jnp.asarray(rotation, jnp.float32),
            jnp.asarray(scale, jnp.float32),
            jnp.asarray(translation, jnp.float32),
        )

    def points(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Where points of the part lie in the world."""
        scale, shift = (x.astype(points.dtype) for x in (self.scale, self.translation))
        return scale * linear(self.rotation, points) + jnp.broadcast_to(shift, points.shape)

    def undo(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """The inverse of `points`."""
        scale, shift = (x.astype(points.dtype) for x in (self.scale, self.translation))
        return linear(self.rotation.T, points - jnp.broadcast_to(shift, points.shape)) / scale

    def undo_turn(self, directions: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Directions of the world as the part has them, of the same length."""
        return linear(self.rotation.T, directions)

    def moved(
        self,
        turn: Float[Array, "3"] | None = None,
        shift: Float[Array, "3"] | None = None,
        growth: Float[Array, ""] | float = 0.0,
        about: Float[Array, "3"] | None = None,
    ) -> "Placement":
        """The placement after a motion; differentiable where the motion is 0 too.

        Args:
          turn: rotation in the world: an axis times an angle in radians.
          shift: translation in the world's unit.
          growth: the logarithm of a scale.
          about: the point of the part whose place is moved by the shift alone; its origin by default.
        """
        rotation, scale = self.rotation, self.scale * jnp.exp(growth)
        translation = self.translation
        if turn is not None:
            rotation = linear(rotations(turn).astype(rotation.dtype), rotation.T).T
        if about is not None:
            before = self.scale * linear(self.rotation, about)
            translation = translation + before - scale * linear(rotation, about)
        if shift is not None:
            translation = translation + shift
        return Placement(rotation, scale, translation)


def parts_of(given: Any) -> tuple[np.ndarray, float, np.ndarray]:
    """The rotation, scale and translation, in float64, of what `Placement.of` takes.

    Raises:
      ValueError: it is no similarity.
    """
    if given is None:
        return np.eye(3), 1.0, np.zeros(3)
    if all(hasattr(given, name) for name in ("rotation", "scale", "translation")):
        scale = float(given.scale)
        if not scale > 0.0:
            raise ValueError(f"placement: its scale is {scale:g}, and must be more than 0")
        given = np.concatenate(
            [
                scale * np.asarray(given.rotation, np.float64),
                np.reshape(np.asarray(given.translation, np.float64), (3, 1)),
            ],
            axis=1,
        )
    matrix = np.asarray(given, np.float64)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"placement: a matrix of 4 x 4 or 3 x 4, not of shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("placement: the matrix has a number that is not finite")
    if matrix.shape == (4, 4) and not np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0]):
        raise ValueError(f"placement: the matrix's last row is {matrix[3]}, not 0 0 0 1")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    scale = float(np.cbrt(lengths.prod()))
    if not lengths.min() > 1e-12 * max(lengths.max(), 1e-300):
        raise ValueError("placement: the matrix is singular: it scales an axis by 0")
    rotation = matrix[:3, :3] / scale
    determinant = np.linalg.det(rotation)
    if abs(determinant) < _NEARLY:
        raise ValueError("placement: the matrix is singular: its axes lie in a plane")
    if determinant < 0.0:
        raise ValueError("placement: the matrix mirrors, which a similarity of scenes does not")
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > _NEARLY:
        raise ValueError(
            "placement: the matrix is no similarity: its axes are not of one length and at right angles"
        )
    left, _, right = np.linalg.svd(rotation)
    return left @ right, scale, matrix[:3, 3]


def matrix_of(given: Any) -> Float[np.ndarray, "4 4"]:
    """What `Placement.of` takes, as a matrix of 4 x 4 in float64.

    Raises:
      ValueError: it is no similarity.
    """
    rotation, scale, translation = parts_of(given)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * rotation, translation
    return matrix

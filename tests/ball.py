"""Photographs of a ball whose place and colours are known, for tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf import Camera
from jaxnerf.cameras import look_at_pose
from jaxnerf.sampling.occupancy import occupied
from jaxnerf.scenes import Split

SIDE, FOCAL, RADIUS = 64, 80.0, 0.5
CENTRE = np.array([0.1, -0.1, 0.05])
HORIZON = 12.0

_AXIS = (np.arange(SIDE) + 0.5 - SIDE / 2) / FOCAL
# Of a pinhole's pixels, in the camera's frame.
RAYS = np.stack(np.broadcast_arrays(_AXIS[None, :], -_AXIS[:, None], -1.0), axis=-1)


def photographs(
    count: int = 12,
    alpha: bool = True,
    behind: int = 255,
    one_side: bool = False,
    rays: np.ndarray = RAYS,
) -> Split:
    """A ball, each point of which has the colour of its place; drawn by the quadratic formula.

    Without alpha, all that is not the ball has one shade of grey. Cameras are all around, or on one side.
    """
    # Evenly over the sphere.
    z = 1.0 - (2.0 * np.arange(count) + 1.0) / count
    angle = 2.4 * np.arange(count)
    if one_side:
        z, angle = 0.4 * z, 0.5 * np.sin(angle)
    across = np.sqrt(1.0 - z * z)
    eyes = 3.0 * np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=-1)
    poses = np.stack([look_at_pose(eye, (0.0, 0.0, 0.0)) for eye in eyes])
    images = np.full((count, SIDE, SIDE, 4), 0 if alpha else behind, np.uint8)
    images[..., 3] = 0 if alpha else 255
    for index, pose in enumerate(poses.astype(np.float64)):
        along = rays @ pose[:, :3].T
        offset = pose[:, 3] - CENTRE
        a, b = (along**2).sum(axis=-1), along @ offset
        inside = b * b - a * (offset @ offset - RADIUS**2)
        hit = inside > 0.0
        t = (-b - np.sqrt(np.where(hit, inside, 0.0))) / a
        normal = (offset + t[..., None] * along) / RADIUS
        colour = np.clip(127.5 * (1.0 + normal), 0, 255)
        images[index][hit] = np.concatenate(
            [colour[hit], np.full((hit.sum(), 1), 255.0)], axis=-1
        ).astype(np.uint8)
    return Split(tuple(map(str, range(count))), Camera.pinhole(poses, FOCAL, SIDE, SIDE), images)


def with_surroundings(split: Split, rays: np.ndarray = RAYS) -> Split:
    """The ball in the middle of a hollow sphere, both painted with stripes, and no alpha."""
    assert split.images is not None
    images = split.images.copy()
    for index, pose in enumerate(np.asarray(split.cameras.camera_to_world, np.float64)):
        along = rays @ pose[:, :3].T
        along /= np.linalg.norm(along, axis=-1, keepdims=True)
        eye = pose[:, 3]
        b = along @ eye
        t = -b + np.sqrt(b * b - eye @ eye + HORIZON**2)
        place = (eye + t[..., None] * along) / HORIZON
        painted = np.clip(127.5 + 110.0 * np.sin(30.0 * place), 0, 255)
        behind = images[index][..., 3] == 0
        images[index][..., :3][behind] = painted[behind].astype(np.uint8)
        # The ball's colours are its normals.
        normal = images[index][..., :3][~behind] / 127.5 - 1.0
        images[index][..., :3][~behind] = np.uint8(127.5 + 110.0 * np.sin(7.0 * normal))
    images[..., 3] = 255
    return dataclasses.replace(split, images=images)


def cell_centres(occupancy) -> tuple[np.ndarray, np.ndarray]:
    """Of all cells [M, M, M, 3]; and which are occupied."""
    full = np.asarray(occupied(occupancy))
    index = np.argwhere(np.ones_like(full)).reshape(*full.shape, 3)
    return np.asarray(occupancy.origin) + (index + 0.5) * float(occupancy.cell), full


class Sphere:
    """A soft sphere with a place, a size and one colour. No pytree, no dataclass."""

    def init(self, key):
        return {"centre": jnp.zeros(3), "radius": jnp.array(0.5), "logits": jnp.zeros(3)}

    def density(self, params, positions):
        centre = jnp.broadcast_to(params["centre"], positions.shape)
        away = jnp.sqrt(jnp.sum((positions - centre) ** 2, axis=-1) + 1e-6)
        return 30.0 * jax.nn.sigmoid(12.0 * (params["radius"] - away)), positions

    def colour(self, params, features, view_directions):
        return jnp.broadcast_to(jax.nn.sigmoid(params["logits"]), features.shape)

"""Fields that are formulas, and what rays through them see in closed form."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from jaxnerf import (
    Camera,
    ComposedField,
    OccupancySampler,
    PlacedField,
    Placement,
    Rays,
    cast_rays,
    evaluation,
    render_rays,
)
from jaxnerf.cameras import pixel_centres
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Similarity


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Ball:
    """A ball of one density and one colour around the origin."""

    density_inside: float = 3.0
    rgb: tuple[float, float, float] = (0.9, 0.2, 0.1)
    radius: float = 1.0

    def init(self, key):
        return ()

    def density(self, params, positions):
        inside = jnp.sum(positions * positions, axis=-1) <= self.radius**2
        return jnp.where(inside, self.density_inside, 0.0).astype(positions.dtype), positions[
            ..., :0
        ]

    def colour(self, params, features, view_directions):
        rgb = jnp.asarray(self.rgb, view_directions.dtype)
        return jnp.broadcast_to(rgb, view_directions.shape)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Blob:
    """A smooth density around the origin, and a colour of the place and the direction."""

    strength: float = 4.0
    once_a_ray: bool = False

    @property
    def shading(self):
        return "ray" if self.once_a_ray else "sample"

    def init(self, key):
        return jnp.float32(self.strength)

    def density(self, params, positions):
        square = jnp.sum(positions * positions, axis=-1)
        features = jnp.concatenate([positions, jnp.sin(3.0 * positions)], axis=-1)
        return params * jnp.exp(-2.0 * square), features

    def colour(self, params, features, view_directions):
        logits = features[..., :3] + 0.5 * features[..., 3:] ** 2 + view_directions
        return jax.nn.sigmoid(logits)


def grid_around(side: float, step: float, cells: int = 32) -> OccupancySampler:
    """A sampler of all of a cube around the origin, which ends no ray."""
    corner = np.full(3, -0.5 * side)
    full = Occupancy.of(np.ones((cells,) * 3, bool), corner, side / cells, step)
    # With limits that numbers tell, which a traced grid does not.
    return OccupancySampler(full).limited()


def ball_spans(rays: Rays, centre, radius: float) -> np.ndarray:
    """From where to where each ray [R] is in a ball, [R, 2] in t; both far away where it is not."""
    origins, along = (np.asarray(x, np.float64) for x in (rays.origins, rays.directions))
    offset = origins - np.asarray(centre)
    a, b = (along**2).sum(-1), (along * offset).sum(-1)
    inside = b * b - a * ((offset**2).sum(-1) - radius**2)
    root = np.sqrt(np.maximum(inside, 0.0))
    spans = np.stack([-b - root, -b + root], axis=-1) / a[:, None]
    return np.where((inside > 0.0)[:, None], np.maximum(spans, 0.0), 1e9)


def exact(rays: Rays, spans, densities, colours, behind=0.0):
    """The colour and opacity of rays [R] through media of one density each, by their spans [P, R, 2]."""
    speed = np.linalg.norm(np.asarray(rays.directions, np.float64), axis=-1)
    colour, opacity = np.zeros((len(speed), 3)), np.zeros(len(speed))
    for ray in range(len(speed)):
        light, ends = 1.0, np.unique([span[ray] for span in spans])
        for begin, end in itertools.pairwise(ends):
            middle = 0.5 * (begin + end)
            here = [
                density * (span[ray, 0] < middle < span[ray, 1])
                for span, density in zip(spans, densities, strict=True)
            ]
            if total := sum(here):
                stopped = light * -np.expm1(-total * (end - begin) * speed[ray])
                mean = sum(s * np.asarray(c) for s, c in zip(here, colours, strict=True)) / total
                colour[ray] += stopped * mean
                light -= stopped
        opacity[ray] = 1.0 - light
    return colour + (1.0 - opacity)[:, None] * behind, opacity


def brightness_of_moves(densities, sampler, compositing="volume"):
    """What two blobs of these densities send along a few rays, in one number, as a function in float64 of
    the seven by which the second one's placement is moved."""
    rays = jax.tree.map(lambda x: jnp.asarray(x[150:250:25], jnp.float64), RAYS)
    base = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), Placement.of(TURNED))
    shades = jnp.asarray([0.7, -0.4, 0.2])

    @jax.jit
    def brightness(moves):
        placement = base.moved(moves[:3], moves[3:6], moves[6], jnp.array([0.1, 0.2, -0.3]))
        field = ComposedField((Blob(), PlacedField(Blob(), placement)))
        params = tuple(map(jnp.float64, densities))
        seen = render_rays(field, params, rays, sampler, background=0.3, compositing=compositing)
        return jnp.sum(seen.colour * shades[None]) + 0.1 * jnp.sum(seen.depth)

    return brightness


render = jax.jit(render_rays, static_argnames=("normals", "background"))


def psnr(picture, truth) -> float:
    return evaluation.psnr(*(np.asarray(x, np.float32) for x in (picture, truth)))


CAMERA = Camera.look_at((0.5, -4.0, 1.0), width=20, height=20, field_of_view=45.0)
PIXELS = jnp.asarray(pixel_centres(20, 20).reshape(-1, 2))
RAYS = cast_rays(CAMERA, PIXELS, 0.5, 8.0)
TURNED = Similarity(
    0.7, Rotation.from_rotvec([0.4, -1.0, 0.3]).as_matrix(), np.array([0.5, 0.4, 0.1])
)
# Two balls that overlap: one where it is, the other larger and moved.
RED, BLUE = Ball(), Ball(2.0, (0.1, 0.3, 0.8))
BALLS = ComposedField.of([(RED, None), (BLUE, TURNED)])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Fog:
    """The same density everywhere."""

    def init(self, key):
        return jnp.float32(0.02)

    def density(self, params, positions):
        return jnp.broadcast_to(params, positions.shape[:-1]), positions

    def colour(self, params, features, view_directions):
        return jnp.full_like(features, 0.5)

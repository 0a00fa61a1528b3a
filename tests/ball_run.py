"""A run of a field that is a formula: a ball, in a user's frame that is turned, scaled and shifted."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ball import CENTRE, RADIUS, SIDE, photographs
from scipy.spatial.transform import Rotation

from jaxnerf.config import Config, override
from jaxnerf.runs.run import Run
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Scene, Similarity

# The density inside, and how fast it falls across the surface, in 1/unit of the scene: half of the light
# of a ray to the middle is stopped 0.001 below the radius.
INSIDE, SHARPNESS = 350.0, 500.0
STEP = 0.004  # of samples, within which a depth is not known better
FRAME = Similarity(
    3.7, Rotation.from_rotvec([0.5, -1.1, 0.8]).as_matrix(), np.array([10.0, -20.0, 5.0])
)
# By how much a colour changes with the x of the direction in which it is seen.
SHEEN = 0.1


@dataclasses.dataclass(frozen=True)
class Ball:
    """Each point of its surface has the colour of its normal, and a sheen."""

    empty: bool = False

    def init(self, key):
        return {}

    def density(self, params, positions):
        offset = positions - jnp.broadcast_to(jnp.asarray(CENTRE, jnp.float32), positions.shape)
        away = jnp.sqrt(jnp.sum(offset**2, axis=-1) + 1e-9)
        strength = 0.0 if self.empty else INSIDE
        return strength * jax.nn.sigmoid(SHARPNESS * (RADIUS - away)), offset / away[..., None]

    def colour(self, params, features, view_directions):
        return 0.5 + 0.35 * features + SHEEN * view_directions[..., :1]


def density_of(points: np.ndarray) -> np.ndarray:
    """The ball's density in 1/unit of the user, at points of the user's frame."""
    away = np.linalg.norm(FRAME.inverse().points(points) - CENTRE, axis=-1)
    return INSIDE / (1.0 + np.exp(-SHARPNESS * (RADIUS - away))) / FRAME.scale


def ball_run(
    frame: Similarity = FRAME, count: int = 16, pixels: int = SIDE, empty: bool = False
) -> Run:
    """The run, with so many cameras all around, whose pictures have so many pixels along a side."""
    cells, side = 32, 1.4
    middles = (np.indices((cells,) * 3).transpose(1, 2, 3, 0) + 0.5) * (side / cells) - 0.7
    away = np.linalg.norm(middles, axis=-1)
    occupancy = Occupancy.of(away < RADIUS + 0.08, CENTRE - 0.7, side / cells, STEP)
    config = override(
        Config(), {"method": "own", "scene.space": "bounded", "training.background": "white"}
    )
    split = photographs(count)
    cameras = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *(split.cameras[i].resized(pixels, pixels) for i in range(count)),
    )
    split = dataclasses.replace(split, cameras=cameras, images=None)
    scene = Scene("ball", Path("ball"), "test", {"train": split}, 1.0, 5.0, to_user=frame)
    return Run(Path("ball"), config, scene, Ball(empty), {}, 1, occupancy)


def centre(frame: Similarity = FRAME) -> np.ndarray:
    """The ball's middle in the user's frame."""
    return frame.points(CENTRE)

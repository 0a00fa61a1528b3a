"""The settings of training that all methods share."""

import dataclasses

from jaxnerf.errors import positive
from jaxnerf.scenes.backgrounds import Background


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a field is trained, whatever it is.

    Attributes:
      steps: number of training steps; with a time budget the maximum.
      max_seconds: time budget in seconds, from the start of the process; 0 for none. The number of steps
        that fit is estimated early in training and corrected in each stage; the learning-rate
        schedules end at that step.
      rays_per_batch: rays in each step, over all devices.
      rays_per_pass: the most rays that one device renders in one forward and backward pass; the gradients
        of the passes are averaged. Memory grows with it. The result does not depend on it, except that
        with packed samples each pass has a sample buffer of its own (`mean_samples`), so that other rays
        may overflow. 0 renders all rays at once, or for the paper's network as many as suit the device.
      background: what lies behind the scene, and what photographs with alpha are blended on: "white",
        "black", a colour in sRGB like "#8090a0", or "random", a new colour for each ray, which keeps a
        field from painting empty space; "auto", the one that suits the scene. In a bounded scene that is
        the plain colour along the photographs' borders, white if there is none or they have alpha. In
        other scenes it is white for the paper's network; for the fast field it is the mean colour of
        photographs without alpha, which remains where no photograph looks; else it is random.
      seed: seed of all random numbers.
    """

    steps: int = 1_000_000
    max_seconds: float = 0.0
    rays_per_batch: int = 4096
    rays_per_pass: int = 0
    background: Background = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "steps", "rays_per_batch")

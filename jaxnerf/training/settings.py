"""The settings of training that all methods share."""

import dataclasses
import math

from jaxnerf.checks import in_range, positive
from jaxnerf.scenes.backgrounds import Background


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a field is trained, whatever it is.

    Attributes:
      steps: how many; with a time budget the number that fits, at most this.
      max_seconds: time budget, from the start of the process; 0 for none. The number of steps is
        fixed early on to what fits, and mended in the last stage; the learning rate decays over those.
      rays_per_batch: in each step, over all devices.
      rays_per_pass: of those, at most so many on one device in one forward and backward pass; the
        passes' gradients are averaged. Memory grows with it; the result does not depend on it, but for
        which rays overflow the room for samples, where rays share one (`mean_samples`), since each pass
        has a room of its own. 0 is all at once, and for the paper's network what suits the device.
      background: what lies behind the scene, and what photographs with alpha are blended on: "white",
        "black", a colour in sRGB like "#8090a0", or "random", a new colour for each ray, which keeps a
        field from painting empty space; "auto", what suits the scene: where photographs have no alpha,
        the plain colour along their borders.
      gradient_reach: the distance from the camera up to which a field learns less the nearer it is, at
        first; it falls to 0 in the first half of the steps. In radii of the ball that keeps its shape, or
        in distances of the near plane, or, in a bounded scene, in median distances of the cameras from
        what they look at. Of scenes without an end, where fog can hang before the cameras. 0 is none.
      seed: of everything random.
    """

    steps: int = 1_000_000
    max_seconds: float = 0.0
    rays_per_batch: int = 4096
    rays_per_pass: int = 0
    background: Background = "auto"
    gradient_reach: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "steps", "rays_per_batch")
        in_range(self, gradient_reach=(0.0, math.inf))

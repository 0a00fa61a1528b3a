"""The settings of training: what all methods share, and how the paper's network is sampled."""

import dataclasses
from typing import Literal

from jaxnerf.compositing import Compositing
from jaxnerf.sampling import Hierarchical
from jaxnerf.sampling.intervals import Spacing
from jaxnerf.scenes.backgrounds import Background


@dataclasses.dataclass(frozen=True)
class RenderSettings:
    """How the paper's network is sampled and composited. Static under jit.

    Attributes:
      samples, spacing, sample_at: see `jaxnerf.sampling.Hierarchical`.
      compositing: see `jaxnerf.render_rays`.
      density_noise: in training, the standard deviation of noise on the field's density before its
        activation.
    """

    samples: tuple[int, ...] = (64, 128)
    spacing: Spacing = "depth"
    sample_at: Literal["middle", "start"] = "middle"
    compositing: Compositing = "volume"
    density_noise: float = 0.0

    def sampler(self) -> Hierarchical:
        """What places the samples."""
        return Hierarchical(self.samples, self.spacing, self.sample_at)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a field is trained.

    Attributes:
      steps: how many; with a time budget the number that fits, at most this.
      max_seconds: time budget, from the start of the process; 0 for none. The number of steps is
        fixed early on to what fits, and mended in the last stage; the learning rate decays over those.
      rays_per_batch: in each step, over all devices.
      rays_per_pass: of those, at most so many on one device in one forward and backward pass; the
        passes' gradients are averaged. Memory grows with it, the result does not depend on it. 0
        is all at once.
      one_image_per_batch: draw each batch from one photograph, as in the paper, or from all.
      background: what lies behind the scene, and what photographs with alpha are blended on: "white",
        "black", a colour in sRGB like "#8090a0", or "random", a new colour for each ray, which keeps a
        field from painting empty space; "auto", what suits the scene: where photographs have no alpha,
        the plain colour along their borders.
      learning_rate, final_learning_rate: of Adam; decays log-linearly from one to the other.
      delay_steps, delay_factor: the rate starts at this factor of itself and reaches its full value
        after so many steps (at most a tenth of the run).
      adam_beta1, adam_beta2, adam_epsilon: of Adam.
      coarse_loss: weight of the loss of every level but the last.
      seed: of everything random.
    """

    steps: int = 1_000_000
    max_seconds: float = 0.0
    rays_per_batch: int = 4096
    rays_per_pass: int = 0
    one_image_per_batch: bool = False
    background: Background = "auto"
    learning_rate: float = 5e-4
    final_learning_rate: float = 5e-6
    delay_steps: int = 2500
    delay_factor: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-7
    coarse_loss: float = 1.0
    seed: int = 0

"""The settings of each method: one section of the configuration for each.

Besides its settings, a section says how images are rendered with the method:

- `sampler`: the sampler of an image's rays. With an occupancy it follows every ray to its end, or until
  no light is expected to be left; `first=True` gives the sampler of the first rendering pass, with limits
  on the number of samples that are enough for most rays.
- `compositing`: the compositing mode.
- `has_far`: whether rays end at the scene's far.
- `unbounded_settings`: values of other settings that the method needs in unbounded and forward-facing
  scenes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxnerf.compositing import Compositing
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields import Field
from jaxnerf.fields.hash_grid import HashGridField
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.fields.warped import WarpedField
from jaxnerf.sampling import Hierarchical, Occupancy, OccupancySampler, Sampler
from jaxnerf.sampling.intervals import Spacing
from jaxnerf.training.calibration import CalibrationConfig
from jaxnerf.training.coarse_to_fine import CoarseToFineConfig
from jaxnerf.training.keep_occupancy import OccupancyConfig
from jaxnerf.training.optimizers import (
    FieldOptimizerConfig,
    NetworkOptimizerConfig,
    VoxelOptimizerConfig,
)

# The stage that is appended in unbounded scenes if the last of the others has _LONG_ENOUGH voxels along a
# side: its resolution, the fraction of the steps at which it begins, vertices, `voxels_for_steps`.
_LONG_ENOUGH, _FINEST, _FINEST_FROM, _VERTICES, _VOXELS_FOR_STEPS = 256, 400, 0.5, 5_000_000, 28.0
# And the rows of the detail that begins with it.
_LOG2_DETAIL = 20


@dataclasses.dataclass(frozen=True)
class VoxelsConfig:
    """The fast field: sparse voxels, refined from coarse to fine where space is found to be occupied.

    Attributes:
      field: number of features and size of the network.
      stages: when the lattice is refined, and how rays are sampled in each stage.
      optimizer: Adam's settings.
      calibration: whether colour corrections and camera poses are learned too.
      opacity_loss: weight of the squared error of opacity, where photographs have alpha.
      distortion_loss: weight of the distortion loss of mip-NeRF 360, in unbounded and forward-facing
        scenes. It prevents floaters close to the cameras.
      transmittance_loss: weight of the squared transmittance of whole rays, in unbounded and
        forward-facing scenes whose photographs have no alpha: something is seen in each pixel. With a
        larger weight fog fills the sky of outdoor scenes; with 0, walls remain slightly transparent.
      depth_loss: initial weight of the depth loss on rays to points of structure from motion
        (`jaxnerf.compositing.deviation_of`); it falls to 0 in the first half of the steps. 0 disables it.
    """

    field: VoxelSettings = VoxelSettings()
    stages: CoarseToFineConfig = CoarseToFineConfig()
    optimizer: VoxelOptimizerConfig = VoxelOptimizerConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    opacity_loss: float = 0.1
    distortion_loss: float = 0.01
    transmittance_loss: float = 0.003
    depth_loss: float = 0.2

    compositing: ClassVar[Compositing] = "volume"
    has_far: ClassVar[bool] = False

    @property
    def unbounded_settings(self) -> dict[str, Any]:
        """Settings for unbounded and forward-facing scenes; see the module.

        Early in training, density close to the cameras explains photographs without a plain background as
        well as surfaces do, so the density learning rate is lower. Rays take about ten times as many
        samples as in bounded scenes, so there is one sample per voxel. Density decay is off: it would
        remove surfaces that few rays sample.

        An unbounded scene has many times the surface of a single object, so at the resolutions of bounded
        scenes its voxels are wider than the photographs' pixels. If the schedule is long enough, a stage
        is appended. It begins in the middle of the steps, when the density close to the cameras is gone,
        and its number of vertices bounds the memory. The field's detail begins with it, which is finer
        still. A configuration that already has such a stage keeps it.
        """
        changes: dict[str, Any] = {
            "voxels.field.features": 3,
            "voxels.field.width": 32,
            "voxels.field.sh_degree": 2,
            "voxels.optimizer.density_rate": 0.3,
            "voxels.optimizer.feature_rate": 0.3,
            "voxels.optimizer.density_decay": 0.0,
            "voxels.optimizer.smoothing": 0.9,
            "voxels.optimizer.beta1": 0.9,
            "voxels.stages.samples_per_voxel": 1,
            "voxels.stages.most_cells": 256,
            "evaluation.edge_supersampling": 0.0,
        }
        finest = self.stages.resolutions[-1]
        if finest < _LONG_ENOUGH:
            changes["voxels.stages.target_vertices"] = 0
        elif finest < _FINEST:
            changes |= {
                "voxels.stages.resolutions": (*self.stages.resolutions, _FINEST),
                "voxels.stages.fractions": (*self.stages.fractions, _FINEST_FROM),
                "voxels.stages.target_vertices": _VERTICES,
                "voxels.stages.voxels_for_steps": _VOXELS_FOR_STEPS,
                "voxels.field.log2_detail": _LOG2_DETAIL,
            }
        return changes

    def sampler(self, occupancy: Occupancy | None, *, first: bool = False) -> Sampler:
        """See the module."""
        assert occupancy is not None
        limited = self.stages.sampler_for_pictures(occupancy)
        without = OccupancySampler(occupancy, samples_per_voxel=limited.samples_per_voxel)
        return limited if first else without


@dataclasses.dataclass(frozen=True)
class NerfConfig:
    """The paper's network.

    Attributes:
      field: sizes of the network.
      separate_levels: whether each level of samples has its own network (the paper's coarse and fine), or
        one network serves all.
      samples: number of samples per ray that each level adds, at least 2 each.
      spacing: whether the intervals of the first level are even in "depth" or in "disparity".
      sample_at: whether a sample is in the "middle" of its interval, or at its "start" as in the paper's
        code.
      compositing: the compositing mode; see `jaxnerf.render_rays`.
      density_noise: standard deviation of the noise that is added to the density before its activation,
        in training.
      one_image_per_batch: whether each batch is drawn from one photograph, as in the paper, or from all.
      coarse_loss: weight of the loss of each level but the last.
      optimizer: Adam's settings.
    """

    field: NerfField = NerfField()
    separate_levels: bool = True
    samples: tuple[int, ...] = (64, 128)
    spacing: Spacing = "depth"
    sample_at: Literal["middle", "start"] = "middle"
    compositing: Compositing = "volume"
    density_noise: float = 0.0
    one_image_per_batch: bool = False
    coarse_loss: float = 1.0
    optimizer: NetworkOptimizerConfig = NetworkOptimizerConfig()

    has_far: ClassVar[bool] = True
    unbounded_settings: ClassVar[Mapping[str, Any]] = {"nerf.spacing": "disparity"}

    def __post_init__(self) -> None:
        try:
            self.sampler()
        except ValueError as error:
            raise ValueError(str(error).removeprefix("Hierarchical.")) from None

    def fields(self) -> tuple[Field, ...]:
        """The networks: one for each level, or a single one."""
        return (self.field,) * (len(self.samples) if self.separate_levels else 1)

    def placed_fields(self, space: SphereContraction | NdcSpace | None) -> tuple[Any, ...]:
        """The networks as fields of the world, with the density noise of training."""
        placed = (WarpedField(field, space) if space else field for field in self.fields())
        noise = self.density_noise
        return tuple(NoisyField(field, None, noise) if noise else field for field in placed)

    def sampler(self, occupancy: Occupancy | None = None, *, first: bool = False) -> Hierarchical:
        """The sampler of all rays, in training too; the arguments have no effect."""
        return Hierarchical(self.samples, self.spacing, self.sample_at)


class _Occupied:
    """Shared by the methods whose rays skip empty space by an occupancy grid."""

    compositing: ClassVar[Compositing] = "volume"
    has_far: ClassVar[bool] = False
    unbounded_settings: ClassVar[Mapping[str, Any]] = {"training.background": "random"}

    occupancy: OccupancyConfig

    def sampler(self, occupancy: Occupancy | None, *, first: bool = False) -> Sampler:
        """See the module; the first pass has the limits of training."""
        assert occupancy is not None
        return self.occupancy.sampler(occupancy) if first else OccupancySampler(occupancy)


@dataclasses.dataclass(frozen=True)
class HashGridConfig(_Occupied):
    """The hash grid.

    Attributes:
      field: sizes of the grid and its networks.
      occupancy: the occupancy grid by which rays skip empty space.
      optimizer: Adam's settings.
      opacity_loss: weight of the squared error of opacity, where photographs have alpha.
      distortion_loss: weight of the distortion loss of mip-NeRF 360, in unbounded and forward-facing
        scenes.
    """

    field: HashGridField = HashGridField()
    occupancy: OccupancyConfig = OccupancyConfig()
    optimizer: FieldOptimizerConfig = FieldOptimizerConfig()
    opacity_loss: float = 0.1
    distortion_loss: float = 0.01


@dataclasses.dataclass(frozen=True)
class OwnConfig(_Occupied):
    """A field that is given to `jaxnerf.fit`.

    Attributes:
      occupancy: the occupancy grid by which rays skip empty space.
    """

    occupancy: OccupancyConfig = OccupancyConfig()


Section = VoxelsConfig | NerfConfig | HashGridConfig | OwnConfig

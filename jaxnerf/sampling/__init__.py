"""Where along rays a field is asked: samples, and the samplers that place them."""

from jaxnerf.sampling.occupancy import Occupancy
from jaxnerf.sampling.samplers import Hierarchical, OccupancySampler, Sampler, Stratified
from jaxnerf.sampling.samples import Proposal, Samples, dense_samples

__all__ = [
    "Hierarchical",
    "Occupancy",
    "OccupancySampler",
    "Proposal",
    "Sampler",
    "Samples",
    "Stratified",
    "dense_samples",
]

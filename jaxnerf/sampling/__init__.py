"""Where along rays a field is evaluated: samples, and the samplers that place them."""

from jaxnerf.sampling.composed import ComposedSampler, ComposedSamples, ProposedBy
from jaxnerf.sampling.occupancy import Occupancy
from jaxnerf.sampling.samplers import Hierarchical, OccupancySampler, Sampler, Stratified
from jaxnerf.sampling.samples import Proposal, Samples, dense_samples

__all__ = [
    "ComposedSampler",
    "ComposedSamples",
    "Hierarchical",
    "Occupancy",
    "OccupancySampler",
    "Proposal",
    "ProposedBy",
    "Sampler",
    "Samples",
    "Stratified",
    "dense_samples",
]

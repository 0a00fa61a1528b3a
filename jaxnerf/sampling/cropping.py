"""The occupancy of a field of which a part was cut away."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxnerf.fields.cropped import CroppedField, Region
from jaxnerf.sampling.cells import Cells
from jaxnerf.sampling.occupancy import OCCUPIED, OCTAVES, SMALLEST, Occupancy, encode


def cropped_occupancy(occupancy: Occupancy, field: CroppedField) -> Occupancy:
    """The occupancy without what a field does not keep; for that field and those placed from it.

    Cells of which any part may be kept stay occupied. What is expected in those that are cut through is
    not known, so that no ray is ended by them. On the host.

    Args:
      occupancy: the occupancy of the whole field, in the frame of `field.regions`.
      field: says what is kept.
    """
    code, cells = np.asarray(occupancy.cells), Cells.of(occupancy)
    kept, whole = _kept(field, cells)
    x, y, z = np.nonzero(cells.mask)
    expected = np.exp2((code[x, y, z].astype(np.float32) - OCCUPIED) / OCTAVES + SMALLEST)
    full, density = np.zeros(code.shape, bool), np.zeros(code.shape, np.float32)
    full[x, y, z], density[x, y, z] = kept, np.where(whole, expected, 0.0)
    return dataclasses.replace(occupancy, cells=encode(jnp.asarray(full), jnp.asarray(density)))


def _kept(field: CroppedField, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the cells of which a part may be kept, and of those that are kept as a whole."""
    middles, reach = cells.balls()
    touching, inside = np.zeros(len(reach), bool), np.zeros(len(reach), bool)
    for region in field.regions:
        low, high = _distances(region, middles, reach)
        touching |= low <= 1.0
        inside |= high <= 1.0
    return (touching, inside) if field.keep == "inside" else (~inside, ~touching)


def _distances(
    region: Region, middles: Float[np.ndarray, "N 3"], reach: Float[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray]:
    """How far out balls are in the unit shape, where they are nearest to its middle and farthest."""
    to_unit = np.asarray(region.to_unit, np.float64)
    local = middles @ to_unit[:, :3].T + to_unit[:, 3]
    if region.shape == "box":
        away = reach[:, None] * np.linalg.norm(to_unit[:, :3], axis=1)
        return (np.abs(local) - away).max(axis=-1), (np.abs(local) + away).max(axis=-1)
    away = reach * np.linalg.norm(to_unit[:, :3], ord=2)
    norm = np.linalg.norm(local, axis=-1)
    return norm - away, norm + away

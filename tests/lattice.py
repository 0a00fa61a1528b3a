"""The lattice of sparse voxels as a whole, which the library looks at in parts."""

import numpy as np

from jaxnerf.fields.bricks import ROWS, parts_of_lattice


def lattice_vertices(bricks) -> np.ndarray:
    """The lattice coordinates [V, 3] of every row of the table; those of the first 64 mean nothing."""
    nothing = np.zeros((ROWS, 3), np.float32)
    return np.concatenate(
        [nothing, *(vertices for _, vertices in parts_of_lattice(np.asarray(bricks)))]
    )

"""A scan that nobody was needed for: nested shells, a tree that branches, and noise."""

import numpy as np

# Of ellipsoids around the middle, in a cube from -1 to 1: radii, and what is added inside.
SHELLS = (
    ((0.86, 0.74, 0.92), 0.25),  # skin and what is under it
    ((0.76, 0.64, 0.82), 0.30),  # bone
    ((0.70, 0.58, 0.76), -0.30),  # and its inside
    ((0.24, 0.12, 0.30), -0.15),  # a hollow
)
# Filled with what X-rays do not pass, as for an angiogram.
VESSEL = 0.95


def branches(seed: int = 0, levels: int = 6) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """The tree: (from, to, radius) of each branch, from the trunk to the twigs."""
    rng = np.random.default_rng(seed)
    found, tips = [], [(np.array([0.0, 0.0, -0.7]), np.array([0.0, 0.0, 1.0]), 0.4, 0.06)]
    for _ in range(levels):
        following = []
        for begin, along, length, radius in tips:
            end = begin + along * length
            found.append((begin, end, radius))
            across = np.cross(along, rng.normal(size=3))
            across /= np.linalg.norm(across)
            for side in (-1.0, 1.0):
                turned = along + side * rng.uniform(0.5, 0.9) * across
                turned /= np.linalg.norm(turned)
                following.append((end, turned, length * rng.uniform(0.66, 0.82), 0.68 * radius))
        tips = following
    return found


def made(shape: tuple[int, int, int], noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """The scan [X, Y, Z], in [0, 1]; the cube from -1 to 1 fills the array whatever its sides are."""
    values = np.zeros(shape, np.float32)
    axes = [(2.0 * np.arange(side, dtype=np.float32) + 1.0) / side - 1.0 for side in shape]
    for (rx, ry, rz), added in SHELLS:
        plane = (axes[0][:, None] / rx) ** 2 + (axes[1][None, :] / ry) ** 2
        # Fades over a voxel, as a scanner's sensor has it.
        width = 2.0 / min(shape) / min(rx, ry, rz)
        for k, z in enumerate(axes[2]):
            away = np.sqrt(plane + (z / rz) ** 2)
            values[:, :, k] += added * np.clip((1.0 - away) / width + 0.5, 0.0, 1.0)
    for begin, end, radius in branches(seed):
        _draw(values, axes, begin, end, max(radius, 0.8 / min(shape)))
    rng = np.random.default_rng(seed)
    for k in range(shape[2]):  # a plane after the other, so that nothing large is made
        values[:, :, k] += noise * rng.standard_normal(shape[:2], np.float32)
    return np.clip(values, 0.0, 1.0, out=values)


def _draw(
    values: np.ndarray, axes: list, begin: np.ndarray, end: np.ndarray, radius: float
) -> None:
    """Draw a branch with round ends into the array."""
    reach = radius + 2.0 / min(values.shape)
    box = []
    for axis, low, high in zip(axes, np.minimum(begin, end), np.maximum(begin, end), strict=True):
        box.append(slice(*np.searchsorted(axis, [low - reach, high + reach])))
    points = np.stack(
        np.meshgrid(*(axis[part] for axis, part in zip(axes, box, strict=True)), indexing="ij"), -1
    )
    along = end - begin
    share = np.clip((points - begin) @ along / (along @ along), 0.0, 1.0)
    away = np.linalg.norm(points - begin - share[..., None] * along, axis=-1)
    inside = np.clip((radius - away) * 0.5 * min(values.shape) + 0.5, 0.0, 1.0)
    part = values[tuple(box)]
    part += inside * (VESSEL - part)

"""Random coefficients of lenses, directions and places."""

import numpy as np

from jaxnerf.cameras.lenses import COEFFICIENTS

# With these the polynomial lenses are one-to-one to radius 1, or 1 radian; the others everywhere.
LIMITS = {
    "k1": 0.15,
    "k2": 0.05,
    "k3": 0.01,
    "k4": 0.01,
    "k5": 0.003,
    "k6": 0.001,
    "p1": 0.01,
    "p2": 0.01,
    "q1": 0.05,
    "q2": 0.02,
    "q3": 0.01,
    "s1": 0.01,
    "s2": 0.005,
    "s3": 0.01,
    "s4": 0.005,
    "k": 0.2,
}
RANGES = {"omega": (0.1, 1.5), "alpha": (0.1, 0.9), "beta": (0.5, 2.0)} | {
    name: (-limit, limit) for name, limit in LIMITS.items()
}


def coefficients_of(rng, lens, batch=()):
    ranges = [RANGES[name] for name in COEFFICIENTS[lens]]
    return np.stack([np.zeros(batch)] + [rng.uniform(*r, batch) for r in ranges], -1)[..., 1:]


def ahead(rng, count, angle):
    """Unit directions within an angle from the axis, with z forward."""
    turn, tilt = rng.uniform(0, 2 * np.pi, count), angle * np.sqrt(rng.uniform(0, 1, count))
    return np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)], -1)


def disk(rng, count, radius):
    angle, r = rng.uniform(0, 2 * np.pi, count), radius * np.sqrt(rng.uniform(0, 1, count))
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=-1)

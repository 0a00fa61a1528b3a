"""Presets: configurations with names; and the one that suits a time budget, which lies between them."""

import dataclasses
import math

from jaxnerf.config import Config, ConfigError, EvaluationConfig, SceneConfig, nearest
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.training.growing import POINTS_OF_A_SCENE, GrowingConfig
from jaxnerf.training.settings import RenderSettings, TrainingConfig


def _fast(
    seconds: float,
    resolutions: tuple[int, ...],
    shares: tuple[float, ...],
    voxels: VoxelSettings = VoxelSettings(),
    finer: int = 2,
    unseen_below: float = 0.01,
    points: int = 0,
) -> Config:
    return Config(
        method="voxels",
        voxels=voxels,
        growing=GrowingConfig(
            resolutions=resolutions,
            shares=shares,
            finer=finer,
            unseen_below=unseen_below,
            points=points,
        ),
        training=TrainingConfig(
            steps=1_000_000,
            max_seconds=seconds,
            rays_per_batch=8192,
            adam_beta1=0.0,
            adam_beta2=0.99,
            adam_epsilon=1e-12,
        ),
        evaluation=EvaluationConfig(orbit_frames=60),
    )


_PAPER = Config(
    scene=SceneConfig(pixels="corner"),
    field=NerfField(density_activation="relu", colour_padding=0.0),
    render=RenderSettings(samples=(64, 128), sample_at="start"),
    training=TrainingConfig(
        steps=500_000,
        rays_per_batch=1024,
        one_image_per_batch=True,
        learning_rate=5e-4,
        final_learning_rate=5e-5,
        delay_steps=0,
    ),
)

_LARGE = VoxelSettings(features=7, width=64, sh_degree=4)

PRESETS: dict[str, tuple[str, Config]] = {
    "minute": (
        "the fast field, in a minute (default)",
        # To look for hidden cells takes some 50 steps' time, and drops a tenth of the rows.
        _fast(60.0, (64, 128, 200), (0.12, 0.3), finer=1, unseen_below=0.0),
    ),
    "five_minutes": (
        "the fast field, finer, in five minutes",
        _fast(300.0, (64, 128, 256), (0.1, 0.3), _LARGE, points=2_000_000),
    ),
    "half_hour": (
        "the fast field, with more steps, in half an hour",
        _fast(1800.0, (64, 128, 200, 256), (0.05, 0.15, 0.4), _LARGE, points=2_000_000),
    ),
    "nerf_small": (
        "the paper's method, small: narrow network, pictures of 256 pixels, two minutes",
        Config(
            scene=SceneConfig(longest_side=256),
            field=NerfField(depth=4, width=64, skip_after=0, view_width=32, position_degree=8),
            separate_levels=False,
            render=RenderSettings(samples=(32, 32)),
            training=TrainingConfig(
                steps=200_000,
                max_seconds=140.0,
                rays_per_batch=256,
                learning_rate=4e-3,
                final_learning_rate=2e-4,
                delay_steps=100,
            ),
            evaluation=EvaluationConfig(every=4, orbit_frames=48, orbit_size=160),
        ),
    ),
    "hash_grid": (
        "a multiresolution hash grid with an occupancy, for accelerators, in five minutes",
        Config(
            method="hash_grid",
            training=TrainingConfig(steps=30_000, max_seconds=300.0, rays_per_batch=8192),
            evaluation=EvaluationConfig(orbit_frames=60),
        ),
    ),
    "nerf": ("the paper's network with what later work found better: hours on a GPU", Config()),
    "paper": ("the original's arithmetic to the letter, and its schedule", _PAPER),
}
DEFAULT_PRESET = "minute"

# Up to the first of these many seconds the field of `minute` is better than that of `five_minutes`, from
# the second on it is not. With steps that take the same time (1,500 and 560; 2,600 and 950) lego at
# 400 x 400 has 31.37 and 29.33 dB after some 60 s, 31.88 and 30.82 after 90, the demo 32.30 and 31.52,
# 32.43 and 32.68. In 150 s `five_minutes` has 31.76 dB on lego at 800 x 800.
_COARSE, _FINE = 90.0, 150.0
# Of the steps: a stage of fewer is not worth the time that growth and compilation take.
_SHORTEST_STAGE = 0.05


def preset(name: str) -> Config:
    """The preset of a name.

    Raises:
      ConfigError: there is none; the message names the nearest.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name][1]


def for_seconds(seconds: float) -> Config:
    """The fast field's configuration for a time budget.

    It is `minute` up to 90 seconds, `five_minutes` from 150 to 300 and `half_hour` from 1800 on, but
    for the budget itself. Between these it goes from one to the other in the logarithm of the seconds:
    no number of the field or its lattice falls.

    Args:
      seconds: from the start of the process, more than 0.

    >>> for_seconds(300.0) == preset("five_minutes")
    True
    >>> for_seconds(120.0).voxels.features
    5
    """
    coarse, fine, long = map(preset, ("minute", "five_minutes", "half_hour"))
    if seconds <= _COARSE:
        chosen = coarse
    elif seconds < _FINE:
        chosen = _between(coarse, fine, _share(seconds, _COARSE, _FINE))
    elif seconds < long.training.max_seconds:
        start, end = fine.training.max_seconds, long.training.max_seconds
        chosen = _longer(fine, long, _share(max(seconds, start), start, end))
    else:
        chosen = long
    budget = dataclasses.replace(chosen.training, max_seconds=float(seconds))
    return dataclasses.replace(chosen, training=budget)


def describe_seconds(seconds: float) -> str:
    """That a budget chose a configuration, and which presets it lies between."""
    names = ("minute", "five_minutes", "half_hour")
    budgets = [preset(name).training.max_seconds for name in names]
    below = [name for name, budget in zip(names, budgets, strict=True) if budget <= seconds]
    above = [name for name, budget in zip(names, budgets, strict=True) if budget >= seconds]
    if not below or not above or below[-1] == above[0]:
        where = f"those of {above[0] if above else below[-1]}"
    else:
        where = f"between {below[-1]} and {above[0]}"
    return f"settings for {seconds:g} s: {where}"


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _between(coarse: Config, fine: Config, share: float) -> Config:
    """A field between two of as many stages, whose lattice has a number of points in the fine one."""

    def mean(one: float | int, other: float | int) -> float:
        return one + (other - one) * share

    def product(one: float | int, other: float | int) -> int:
        return round(one * (other / one) ** share)

    a, b = coarse.voxels, fine.voxels
    voxels = dataclasses.replace(
        coarse.voxels,
        features=round(mean(a.features, b.features)),
        width=8 * round(mean(a.width, b.width) / 8),
        sh_degree=round(mean(a.sh_degree, b.sh_degree)),
    )
    one, other = coarse.growing, fine.growing
    stages = zip(one.resolutions, other.resolutions, strict=True)
    shares = zip(one.shares, other.shares, strict=True)
    few = POINTS_OF_A_SCENE * one.resolutions[-1] ** 2
    growing = dataclasses.replace(
        one,
        resolutions=tuple(product(*pair) for pair in stages),
        shares=tuple(round(mean(*pair), 4) for pair in shares),
        points=product(few, other.points),
        finer=round(mean(one.finer, other.finer)),
        # To look for hidden cells takes the same time whatever the weight, and they are worth it where
        # there are many.
        unseen_below=other.unseen_below if share >= 0.5 else one.unseen_below,
    )
    return dataclasses.replace(coarse, voxels=voxels, growing=growing)


def _longer(fine: Config, long: Config, share: float) -> Config:
    """As `fine`, in which a stage of `long` before the last takes more and more of the steps."""
    (first, last), (*others, end) = fine.growing.shares, long.growing.shares
    shares = [one + (other - one) * share for one, other in zip((first, last), others, strict=True)]
    inserted = last + (end - last) * share
    if inserted - shares[-1] < _SHORTEST_STAGE:
        return fine
    growing = dataclasses.replace(
        long.growing, shares=tuple(round(each, 4) for each in (*shares, inserted))
    )
    return dataclasses.replace(long, growing=growing)

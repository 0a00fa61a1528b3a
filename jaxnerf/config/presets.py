"""Presets: named configurations; and the configuration for a time budget, interpolated between them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxnerf.config import Config, ConfigError, EvaluationConfig, SceneConfig, nearest, override
from jaxnerf.config.sections import NerfConfig, VoxelsConfig
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.training.coarse_to_fine.settings import VERTICES_OF_A_SCENE, CoarseToFineConfig
from jaxnerf.training.optimizers import NetworkOptimizerConfig
from jaxnerf.training.settings import TrainingConfig


def _fast(
    seconds: float,
    resolutions: tuple[int, ...],
    fractions: tuple[float, ...],
    field: VoxelSettings = VoxelSettings(),
    samples_per_voxel: int = 2,
    unseen_below: float = 0.01,
    target_vertices: int = 0,
) -> Config:
    stages = CoarseToFineConfig(
        resolutions=resolutions,
        fractions=fractions,
        samples_per_voxel=samples_per_voxel,
        unseen_below=unseen_below,
        target_vertices=target_vertices,
    )
    return Config(
        method="voxels",
        voxels=VoxelsConfig(field=field, stages=stages),
        training=TrainingConfig(max_seconds=seconds, rays_per_batch=8192),
        evaluation=EvaluationConfig(orbit_frames=60),
    )


# The paper's network is not supersampled at edges.
_PLAIN = EvaluationConfig(edge_supersampling=0.0)
_PAPER = Config(
    scene=SceneConfig(pixels="corner"),
    nerf=NerfConfig(
        field=NerfField(density_activation="relu", colour_padding=0.0),
        sample_at="start",
        one_image_per_batch=True,
        optimizer=NetworkOptimizerConfig(final_learning_rate=5e-5, delay_steps=0),
    ),
    training=TrainingConfig(steps=500_000, rays_per_batch=1024),
    evaluation=_PLAIN,
)

_LARGE = VoxelSettings(features=7, width=64, sh_degree=4)

PRESETS: dict[str, tuple[str, Config]] = {
    "minute": (
        "the fast field, in a minute (default)",
        # Finding hidden cells would take the time of 50 steps, and remove a tenth of the rows.
        _fast(60.0, (64, 128, 200), (0.12, 0.3), samples_per_voxel=1, unseen_below=0.0),
    ),
    "five_minutes": (
        "the fast field, finer, in five minutes",
        _fast(300.0, (64, 128, 256), (0.1, 0.3), _LARGE, target_vertices=2_000_000),
    ),
    "half_hour": (
        "the fast field, with more steps, in half an hour",
        _fast(1800.0, (64, 128, 200, 256), (0.05, 0.15, 0.4), _LARGE, target_vertices=2_000_000),
    ),
    "nerf_small": (
        "the paper's method, small: narrow network, pictures of 256 pixels, two minutes",
        Config(
            scene=SceneConfig(longest_side=256),
            nerf=NerfConfig(
                field=NerfField(depth=4, width=64, skip_after=0, view_width=32, position_octaves=8),
                separate_levels=False,
                samples=(32, 32),
                optimizer=NetworkOptimizerConfig(4e-3, 2e-4, delay_steps=100),
            ),
            training=TrainingConfig(steps=200_000, max_seconds=140.0, rays_per_batch=256),
            evaluation=dataclasses.replace(_PLAIN, every=4, orbit_frames=48, orbit_size=160),
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
    "nerf": (
        "the paper's network with what later work found better: hours on a GPU",
        Config(evaluation=_PLAIN),
    ),
    "paper": ("the original's arithmetic to the letter, and its schedule", _PAPER),
}
DEFAULT_PRESET = "minute"

# Up to the first of these many seconds the field of `minute` is better than that of `five_minutes`, from
# the second on it is not. With steps that take the same time (1,500 and 560; 2,600 and 950) lego at
# 400 x 400 has 31.37 and 29.33 dB after some 60 s, 31.88 and 30.82 after 90, the demo 32.30 and 31.52,
# 32.43 and 32.68. In 150 s `five_minutes` has 31.76 dB on lego at 800 x 800.
_COARSE, _FINE = 90.0, 150.0
# Least length of a stage, as a fraction of the steps: a shorter one is not worth the time that its
# lattice and compilation take.
_SHORTEST_STAGE = 0.05


def preset(name: str) -> Config:
    """The preset with a name.

    Raises:
      ConfigError: there is none; the message contains the nearest name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name][1]


def for_seconds(seconds: float) -> Config:
    """The fast field's configuration for a time budget.

    It is `minute` up to 90 seconds, `five_minutes` from 150 to 300 and `half_hour` from 1800 on, except
    for the budget itself. Between these, settings are interpolated in the logarithm of the seconds; those
    of the field and its lattice do not decrease with the seconds.

    Args:
      seconds: time budget from the start of the process, more than 0.

    >>> for_seconds(300.0) == preset("five_minutes")
    True
    >>> for_seconds(120.0).voxels.field.features
    5
    """
    coarse, fine, long = map(preset, ("minute", "five_minutes", "half_hour"))
    if seconds <= _COARSE:
        chosen = coarse
    elif seconds < _FINE:
        chosen = _between(coarse, fine, _fraction(seconds, _COARSE, _FINE))
    elif seconds < long.training.max_seconds:
        start, end = fine.training.max_seconds, long.training.max_seconds
        chosen = _longer(fine, long, _fraction(max(seconds, start), start, end))
    else:
        chosen = long
    budget = dataclasses.replace(chosen.training, max_seconds=float(seconds))
    return dataclasses.replace(chosen, training=budget)


def describe_seconds(seconds: float) -> str:
    """A message that a budget chose the configuration, with the presets between which it lies."""
    names = ("minute", "five_minutes", "half_hour")
    budgets = [preset(name).training.max_seconds for name in names]
    below = [name for name, budget in zip(names, budgets, strict=True) if budget <= seconds]
    above = [name for name, budget in zip(names, budgets, strict=True) if budget >= seconds]
    if not below or not above or below[-1] == above[0]:
        where = f"those of {above[0] if above else below[-1]}"
    else:
        where = f"between {below[-1]} and {above[0]}"
    return f"settings for {seconds:g} s: {where}"


def with_settings(base: Config, given: Mapping[str, Any]) -> Config:
    """A configuration with changed settings, all of which have an effect.

    Args:
      base: a preset's configuration, or one like it.
      given: settings by dotted key, as for `jaxnerf.config.override`.

    Raises:
      ConfigError: a key is unknown or has no effect with the method, a value is not of its key's type, or
        the method is not that of the base.
    """
    config = override(base, given)
    if config.method == "own" != base.method:
        raise ConfigError("method: own is that of jaxnerf.fit, which is given the field")
    if config.method != base.method:
        fitting = ", ".join(
            name for name, (_, each) in PRESETS.items() if each.method == config.method
        )
        raise ConfigError(
            f"method: rates and more of this configuration are for method={base.method}; "
            f"begin with another preset (--config): {fitting}"
        )
    for key in given:
        if not config.has_effect(key):
            raise ConfigError(f"{key}: has no effect with method={config.method}")
    return config


def _fraction(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _between(coarse: Config, fine: Config, fraction: float) -> Config:
    """A configuration between two with equally many stages; only the fine one limits vertices."""

    def mean(one: float | int, other: float | int) -> float:
        return one + (other - one) * fraction

    def product(one: float | int, other: float | int) -> int:
        return round(one * (other / one) ** fraction)

    a, b = coarse.voxels.field, fine.voxels.field
    field = dataclasses.replace(
        a,
        features=round(mean(a.features, b.features)),
        width=8 * round(mean(a.width, b.width) / 8),
        sh_degree=round(mean(a.sh_degree, b.sh_degree)),
    )
    one, other = coarse.voxels.stages, fine.voxels.stages
    pairs = zip(one.fractions, other.fractions, strict=True)
    few = VERTICES_OF_A_SCENE * one.resolutions[-1] ** 2
    stages = dataclasses.replace(
        one,
        resolutions=tuple(map(product, one.resolutions, other.resolutions)),
        fractions=tuple(round(mean(*pair), 4) for pair in pairs),
        target_vertices=product(few, other.target_vertices),
        samples_per_voxel=round(mean(one.samples_per_voxel, other.samples_per_voxel)),
        # Finding hidden cells takes the same time for every threshold, and is worth it if there are many.
        unseen_below=other.unseen_below if fraction >= 0.5 else one.unseen_below,
    )
    return _with_voxels(coarse, field=field, stages=stages)


def _longer(fine: Config, long: Config, fraction: float) -> Config:
    """A configuration as `fine`, but with one more stage of `long` before the last, which grows with the
    fraction.
    """
    (first, last), (*others, end) = fine.voxels.stages.fractions, long.voxels.stages.fractions
    begins = [
        one + (other - one) * fraction for one, other in zip((first, last), others, strict=True)
    ]
    inserted = last + (end - last) * fraction
    if inserted - begins[-1] < _SHORTEST_STAGE:
        return fine
    fractions = tuple(round(each, 4) for each in (*begins, inserted))
    return _with_voxels(long, stages=dataclasses.replace(long.voxels.stages, fractions=fractions))


def _with_voxels(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, voxels=dataclasses.replace(config.voxels, **changes))

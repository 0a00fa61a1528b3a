"""What earlier versions wrote, by today's names: configurations, and the arrays of checkpoints."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_VOXELS = ("features", "width", "sh_degree", "initial_opacity", "shading")
_STAGES = {name: name for name in ("resolutions", "voxels_for_steps", "points", "cells", "samples")}
_STAGES |= {name: name for name in ("refresh_every", "empty_below", "unseen_below")}
_STAGES |= {
    "shares": "fractions",
    "lookups": "max_steps",
    "budget": "mean_samples",
    "finer": "samples_per_voxel",
}
_CALIBRATION = ("affine_colour", "refine_poses", "colour_rate", "pose_rate")
_SCHEDULE = ("learning_rate", "final_learning_rate", "delay_steps", "delay_factor")

# Sections that are gone.
_SECTIONS = ("growing", "field", "render", "occupancy")
# Up to the version in which each method got a section of its own; None is of no effect any more.
_RENAMED: dict[str, str | None] = {
    "separate_levels": "nerf.separate_levels",
    "voxels.direction_degree": "voxels.field.sh_degree",
    "growing.sinking": "voxels.optimizer.density_decay",
    "growing.final_rate": "voxels.optimizer.final_fraction",
    "growing.opacity_loss": "voxels.opacity_loss",
    "growing.distortion_loss": "voxels.distortion_loss",
    "training.one_image_per_batch": "nerf.one_image_per_batch",
    "training.coarse_loss": "nerf.coarse_loss",
    "evaluation.smooth_edges": "evaluation.edge_supersampling",
    "render.with_normals": None,
    **{f"voxels.{name}": f"voxels.field.{name}" for name in _VOXELS},
    **{
        f"voxels.{name}_rate": f"voxels.optimizer.{name}_rate"
        for name in ("density", "feature", "network")
    },
    **{f"growing.{old}": f"voxels.stages.{new}" for old, new in _STAGES.items()},
    **{f"growing.{name}": f"voxels.calibration.{name}" for name in _CALIBRATION},
    **{f"training.{name}": f"nerf.optimizer.{name}" for name in _SCHEDULE},
}
# Renamed since then, or of no effect any more.
_RENAMED_SINCE: dict[str, str | None] = {
    "training.gradient_reach": None,
    "voxels.stages.points": "voxels.stages.target_vertices",
    "nerf.field.position_degree": "nerf.field.position_octaves",
    "nerf.field.direction_degree": "nerf.field.direction_octaves",
}


def settings_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration by today's keys; keys that no version had stay as they are.

    Args:
      values: by the dotted keys of whichever version, all of one. What an earlier version left out has
        today's default.
    """
    if any(key in _RENAMED or key.partition(".")[0] in _SECTIONS for key in values):
        values = _in_sections(values)
    named = {_RENAMED_SINCE.get(key, key): value for key, value in values.items()}
    return {key: value for key, value in named.items() if key}


def _in_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a version without sections of methods, as the first with sections had them."""
    method = values.get("method", "nerf")
    named = {_key_in_sections(key, method): value for key, value in values.items()}
    found = {key: value for key, value in named.items() if key}
    if method == "nerf":  # which did not listen to it
        found["evaluation.edge_supersampling"] = 0.0
    found["voxels.depth_loss"] = 0.0  # so that an old run goes on as it began
    return found


def key_today(key: str, method: str = "nerf") -> str | None:
    """Today's name of a key of an earlier version's configuration; None if it has no effect any more.

    >>> key_today("growing.shares"), key_today("field.width")
    ('voxels.stages.fractions', 'nerf.field.width')
    """
    found = _key_in_sections(key, method)
    return None if found is None else _RENAMED_SINCE.get(found, found)


def _key_in_sections(key: str, method: str) -> str | None:
    section, _, name = key.partition(".")
    if key in _RENAMED:
        return _RENAMED[key]
    if section == "field":
        return f"nerf.field.{name}"
    if section == "render":
        return f"nerf.{name}"
    if section == "hash_grid" and not name.startswith(("field.", "occupancy.", "optimizer.")):
        return f"hash_grid.field.{name}"
    if section == "occupancy":
        return f"{method}.occupancy.{name}" if method in ("hash_grid", "own") else None
    if key.startswith("training.adam_"):
        owner = "voxels" if method == "voxels" else "nerf"
        return f"{owner}.optimizer.{name.removeprefix('adam_')}"
    return key


def names_as_stored(stored: Collection[str], expected: Sequence[str]) -> dict[str, str]:
    """The names of a checkpoint's arrays today, with those that they are stored under.

    In version 0.1.0 the parameters of the fast field held its lattice too, and the optimizer moments of
    it, which are left out.
    """
    if "params.0.bricks" in stored:
        found = {name: _OLD_NAME.sub(_old_name, name) for name in expected}
    elif "optimizer.mu.0.layers_0.kernel" in stored:
        found = {name: name.replace("optimizer.0.", "optimizer.") for name in expected}
    else:
        return {name: name for name in stored}
    return {name: old for name, old in found.items() if old in stored}


_OLD_NAME = re.compile(
    r"^(field\.field\.|field\.space\.|field\.|params\.|sampler\.occupancy\.|strategy\."
    r"|calibration\.|optimizer\.0\.)(.*)$"
)


def _old_name(name: re.Match[str]) -> str:
    group, rest = name.groups()
    lattice = {"spacing": "voxel", "view_dependence": "directional"}
    before = {
        "field.space.": "occupancy.space.",
        "sampler.occupancy.": "occupancy.",
        "strategy.": "",
        "calibration.": "adjustments.",
        "optimizer.0.": "optimizer.",
    }
    return before.get(group, "params.0.") + lattice.get(rest, rest)

"""Messages of `jaxnerf train`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnerf.cli import common
from jaxnerf.config import Config
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.scenes import Scene, describe
from jaxnerf.scenes.silhouettes import PlainBackground, plain_background
from jaxnerf.training.loop import Progress

# The number of training's last reports whose median PSNR is compared with that of the test views; and
# the difference in dB above which a message is printed. After 1,200 steps the difference was 1 dB on
# fern, 4 on fox and garden and 6 on beer_can; with bad test views (statuette, beer_can with billboards)
# 13 to 21.
_REPORTS, _USUAL_GAP = 9, 8.0


def describe_run(scene: Scene, config: Config, state: Any) -> str:
    """A description of the scene, the parameters and the devices, before the first step."""
    devices = jax.devices()
    rays = getattr(state.strategy, "rays", config.training.rays_per_batch)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return (
        f"{describe(scene)}\n"
        f"{behind(scene, config)}"
        f"{where_nothing_is_seen(scene, config)}"
        f"{held_by_points(scene, config)}"
        f"{own_colours(config)}"
        f"{region(scene, getattr(state.sampler, 'occupancy', None))}"
        f"{parameters:,} parameters; {int(rays)} rays a step on "
        f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
    )


def behind(scene: Scene, config: Config) -> str:
    """Lines about the background along the borders of photographs, or nothing where that is clear."""
    split, space = scene.splits["train"], config.scene.space
    if space == "forward":
        return ""
    plain = None if split.has_alpha else plain_background(split)
    if space == "unbounded":
        shown = (
            "transparent" if split.has_alpha else plain and plain.is_even and f"plain {plain.name}"
        )
        return (
            f"the borders of the photographs are {shown}: --scene.space=bounded is for an object that "
            "stands alone before it\n"
            if shown
            else ""
        )
    chosen = (
        "bounded, as for an object that stands alone (--scene.space=unbounded for its surroundings too)\n"
        if scene.unbounded
        else ""
    )
    return chosen + ("" if split.has_alpha else _plain(plain, config.training.background))


def _plain(plain: PlainBackground | None, background: str) -> str:
    """A line about the background that was found, and the one that a configuration names."""
    if plain is None:
        return (
            "no plain background along the borders of the photographs: the scene is looked for in all of "
            "its cube (--training.background names a colour)\n"
        )
    if plain.is_called(background):
        noisy = f", within {plain.tolerance} levels of 255" if plain.tolerance > 1 else ""
        return f"plain background: {plain.name}, from the borders of the photographs{noisy}\n"
    return (
        f"training.background is {background}, but the borders of the photographs are plain "
        f"{plain.name}: --training.background={plain.name} is probably meant\n"
    )


def where_nothing_is_seen(scene: Scene, config: Config) -> str:
    """A line about the colour of what no photograph shows, in scenes that fill their photographs."""
    background = config.training.background
    fills = config.scene.space != "bounded" and not scene.splits["train"].has_alpha
    if config.method != "voxels" or not fills or background == "random":
        return ""
    return f"{background} where no photograph looks (--training.background)\n"


def held_by_points(scene: Scene, config: Config) -> str:
    """A line about the points that are known, and their depth loss, or nothing."""
    if scene.points is None:
        return ""
    known = f"{len(scene.points):,} points of the scene's files"
    if scene.points_found:
        known = f"{len(scene.points):,} points found in the photographs (--scene.find_points)"
    if config.method != "voxels" or not config.voxels.depth_loss:
        return f"{known}\n" if scene.points_found else ""
    return f"{known} hold depths in the first half of training (--voxels.depth_loss=0 leaves them out)\n"


def own_colours(config: Config) -> str:
    """A line if a correction of colour is learned for each photograph; else nothing."""
    if config.method != "voxels" or not config.voxels.calibration.affine_colour:
        return ""
    return (
        "a correction of colours is learned for each photograph, as for light and exposures that differ "
        "(voxels.calibration.affine_colour)\n"
    )


def region(scene, occupancy: Any) -> str:
    """The region of the field, in the user's frame and unit."""
    if occupancy is None:
        return ""
    if isinstance(occupancy.space, NdcSpace):
        return "in normalised device coordinates; "
    ball, side = occupancy.space, float(occupancy.cell) * occupancy.cells.shape[0]
    if isinstance(ball, SphereContraction):
        what, length, centre = "contracted beyond {} from ({}); ", float(ball.radius), ball.centre
    else:
        what, length, centre = "in a cube of {} around ({}); ", side, occupancy.origin + 0.5 * side
    length *= scene.to_user.scale
    (place,) = scene.to_user.points(np.asarray(centre)[None])
    place = np.where(np.abs(place) < 1e-3 * length, 0.0, place)
    return what.format(f"{length:.3g}", ", ".join(f"{x:.3g}" for x in place))


def status(progress: Progress, quality: float, config: Config, seconds_left: float) -> str:
    """The progress of training, in one line."""
    rays = progress.metrics.get("rays", config.training.rays_per_batch)
    rays_left = (progress.total_steps - progress.step) * rays
    seconds = min(rays_left / max(progress.rays_per_second, 1e-9), seconds_left)
    return (
        f"step {progress.step}/{progress.total_steps}  loss {progress.metrics['loss']:.5f}  "
        f"psnr {quality:.2f}  {progress.rays_per_second:,.0f} rays/s  "
        f"{common.duration(seconds)} left"
    )


def how_fine(config: Config, total: int) -> str:
    """A message if a run of so many steps has fewer voxels or vertices than its configuration names."""
    if config.method != "voxels":
        return ""
    stages = config.voxels.stages
    last = len(stages.resolutions) - 1
    vertices = stages.vertices_of(last, total)
    if 0 < vertices < stages.target_vertices:
        return (
            f"about {vertices:,} lattice vertices in the end, not {stages.target_vertices:,}, which "
            f"{total} steps do not fill (--voxels.stages.voxels_for_steps=0 to have them nevertheless)"
        )
    voxels, named = stages.voxels(last, total), stages.resolutions[-1]
    if vertices or voxels == named:
        return ""
    return (
        f"{voxels} voxels along a side in the end, not {named}, which {total} steps do not fill "
        "(--voxels.stages.resolutions or --voxels.stages.voxels_for_steps=0 to have them nevertheless)"
    )


def disagreement(test: float, rows: Sequence[Mapping[str, Any]]) -> str:
    """A message if the PSNR of test views is far below that of training; else nothing.

    Args:
      test: PSNR of the test views.
      rows: rows of metrics.jsonl.
    """
    last = [row["psnr"] for row in rows[-_REPORTS:] if "psnr" in row]
    training = float(np.median(last)) if last else test
    if not training - test > _USUAL_GAP:
        return ""
    return (
        f"test views come out at {test:.1f} dB, what was trained on at {training:.1f}: the pictures were "
        "learned, and not the scene.\nLook at poses and splits (jaxnerf check), at near and far, at "
        "whether test views see what no training view does, and at --scene.space"
    )

"""Adapts a configuration to a scene: the field's space, near and far, and settings that depend on it."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnerf.cameras import Camera, cast_rays
from jaxnerf.cameras.stances import Capture, focus_point
from jaxnerf.config import Config, ConfigError, override
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.scenes import Scene, Split, load_scene
from jaxnerf.scenes.backgrounds import mean_colour_of
from jaxnerf.scenes.brightness import brightness_of
from jaxnerf.scenes.frames import NEAR
from jaxnerf.scenes.in_view import cameras_that_see
from jaxnerf.scenes.plane_sweep import with_found_points
from jaxnerf.scenes.silhouettes import background_of, scene_cube, stands_alone
from jaxnerf.training.sharding import broadcast_from_process_0, number_of_process_0

# far of the paper's network in unbounded and forward-facing scenes, in radii of the contraction or
# distances of the near plane.
_HORIZON = 1000.0
# The largest `NdcSpace.reach`.
_MOST_REACH = 2.0
# `ball_of`: the largest ball, in distances of the cameras; the percentage of the points seen by cameras
# that a smaller ball contains; and the number of cameras for which points are counted.
_LARGEST_BALL, _WITHIN, _ASKED = 3.0, 75.0, 24
# Cameras whose distances are less than this fraction of the largest coordinate are at one position.
_SAME_PLACE = 1e-6
# Settings of the section "scene" that decide how files are read.
READING = ("downscale", "longest_side", "pixels", "hold_out_sector")
COLOURS = "voxels.calibration.affine_colour"
_STAGES = frozenset({"voxels.stages.resolutions", "voxels.stages.fractions"})


def adapt_to_scene(config: Config, scene: Scene, chosen: Collection[str] = ()) -> Config:
    """Replace "auto" settings by those of a scene; if it is unbounded, add the `unbounded_settings` too.

    Args:
      config: a preset, perhaps with settings changed by the user.
      scene: the scene to train on. Without photographs, a background of "auto" is kept.
      chosen: keys of settings that the user chose, which are not changed. If they include resolutions,
        settings that would change these (`voxels_for_steps`, `target_vertices`) are set to 0 unless
        chosen too.

    Raises:
      ConfigError: the scene cannot be trained on in the chosen space.
    """
    space, is_new = config.scene.space, config.scene.space == "auto"
    if space == "auto":
        space = _space_that_suits(scene)
    if space == "forward" and scene.ndc is None:
        raise ConfigError("scene.space: the cameras do not all look the same way; not forward")
    check_apart(scene)
    if space == "bounded":
        check_in_view(scene)
    changes: dict[str, Any] = {"scene.space": space}
    if space == "unbounded" and not config.scene.ball:
        changes["scene.ball"] = ball_of(scene)
    split = scene.splits["train"]
    if config.training.background == "auto" and split.images is not None:
        chosen = set(chosen) - {"training.background"}
        changes["training.background"] = _background_of(config.method, space, split)
    # A configuration that names its space is that of a run, unless the user names it now.
    needed: dict[str, Any] = {}
    if space != "bounded" and (is_new or "scene.space" in chosen):
        needed |= config.section.unbounded_settings
    if config.method == "voxels" and (is_new or "scene.space" in chosen):
        known = brightness_of(scene)
        # Hosts' floats can differ in a last bit, and all hosts must train the same.
        if number_of_process_0(float(known is not None and known.is_uneven)):
            needed[COLOURS] = True
    if not _STAGES.isdisjoint(chosen):
        # There is a fraction for each resolution but the first, so that a user who names some of the
        # stages' settings keeps the others. The detail suits the stages that would have been chosen.
        unneeded = {*_STAGES, "voxels.field.log2_detail"}
        needed = {key: value for key, value in needed.items() if key not in unneeded}
    if "voxels.stages.resolutions" in chosen:
        needed |= {"voxels.stages.voxels_for_steps": 0.0, "voxels.stages.target_vertices": 0}
    changes |= {key: value for key, value in needed.items() if key not in chosen}
    return override(config, changes)


def _background_of(method: str, space: str, split: Split) -> str:
    """The background of a scene whose configuration leaves it to the scene.

    An unbounded scene fills its photographs, so nothing is seen of a background but where density is
    missing: early in training, and for ever where no photograph looks. The fast field has the mean colour
    of the photographs there. Against white or random colours it would gain most by density everywhere,
    close to the cameras too, which stays as fog (experiments/captures).
    """
    if space == "bounded":
        return background_of(split)
    if method == "nerf":
        return "white"
    return mean_colour_of(split) if method == "voxels" and not split.has_alpha else "random"


def _space_that_suits(scene: Scene) -> str:
    """The space of a scene: that of its reader, but of an object that stands alone "bounded"."""
    if scene.ndc:
        return "forward"
    if not scene.unbounded:
        return "bounded"
    is_alone = scene.splits["train"].images is not None and stands_alone(scene)
    return "bounded" if number_of_process_0(float(is_alone)) else "unbounded"


def load_for(
    config: Config,
    folder: Path | str | None,
    images: Sequence[str],
    allow_outside_paths: bool = False,
) -> Scene:
    """The scene in a folder, as a configuration wants it read.

    Args:
      config: says the size of photographs, where rays pass through pixels, and near and far.
      folder, images, allow_outside_paths: as for `jaxnerf.load_scene`.

    Raises:
      SceneError: something in the folder is missing or wrong.
      ConfigError: near and far of the configuration and of the scene do not fit together.
    """
    how = {name: getattr(config.scene, name) for name in READING}
    scene = load_scene(folder, images=images, allow_outside_paths=allow_outside_paths, **how)
    return with_bounds(config, scene)


def find_points_for(config: Config, scene: Scene) -> Scene:
    """A scene with points of surfaces found in its photographs, where a configuration wants them.

    The scene's near is computed from them unless files or the configuration name it. In bounded scenes
    silhouettes say where surfaces are, so none are looked for, nor where the method has no use for them.

    Args:
      config: adapted to the scene or not.
      scene: the scene, with photographs.
    """
    space = config.scene.space
    if scene.points is not None or not config.scene.find_points:
        return scene
    if space == "auto":
        space = _space_that_suits(scene)
    # A near is known in forward-facing scenes, and only the fast field has a use for depths.
    if space == "bounded" or (space == "forward" and config.method != "voxels"):
        return scene
    found = with_found_points(scene)
    # Hosts' floats can differ in a last bit, and all hosts must train the same.
    empty = np.zeros((0, 3)), np.zeros((0, 2), np.int64)
    points, tracks = (found.points, found.tracks) if found.points_found else empty
    points, tracks, near = broadcast_from_process_0((points, tracks, np.float64(found.near)))
    if not len(points):
        return scene
    near = scene.near if config.scene.near else float(near)
    return dataclasses.replace(scene, points=points, points_found=True, tracks=tracks, near=near)


def as_read(config: Config, scene: Scene) -> Config:
    """A configuration that says how a scene was read, where that is known."""
    if scene.options is None:
        return config
    return override(config, {f"scene.{name}": getattr(scene.options, name) for name in READING})


def with_bounds(config: Config, scene: Scene) -> Scene:
    """A scene with the near and far that a configuration names, where it names them.

    Raises:
      ConfigError: near is not less than far.
    """
    unit, named = scene.to_user.scale, config.scene
    near, far = named.near / unit or scene.near, named.far / unit or scene.far
    if near >= far:
        raise ConfigError(f"scene.near: {near * unit:g} is not less than far, {far * unit:g}")
    return dataclasses.replace(scene, near=near, far=far)


def space_of(config: Config, scene: Scene) -> SphereContraction | NdcSpace | None:
    """The space that an adapted configuration names, around a scene's cameras."""
    if config.scene.space == "forward":
        assert scene.ndc is not None
        ndc = (scene.ndc.focal, scene.ndc.size, scene.ndc.near, 1.0)
        space = NdcSpace(*(jnp.asarray(x, jnp.float32) for x in ndc))
        reach = _reach(space, scene.splits["train"].cameras)
        return dataclasses.replace(space, reach=jnp.float32(reach))
    if config.scene.space == "unbounded":
        poses = np.asarray(scene.splits["train"].cameras.camera_to_world)
        centre = focus_point(poses)
        radius = (config.scene.ball or ball_of(scene)) * _camera_distance(poses, centre)
        return SphereContraction(jnp.asarray(centre, jnp.float32), jnp.float32(radius))
    return None


def ball_of(scene: Scene) -> float:
    """The radius of the uncontracted ball that suits a scene, in the unit of `scene.ball`.

    At a distance d from the centre of a ball of radius R, outside of it, cells of contracted space are
    elongated by 2 d / R in the radial direction. Cameras spread over a distance B see them from
    directions that differ by B / d, so that the content of a cell is smeared over 2 B / R cells in their
    images, at any distance. With a larger ball the background is sharper, and cells inside the ball are
    larger.

    The ball is chosen to contain three quarters of the scene's points, counted as often as cameras see
    them. Its radius is between one and three times the cameras' distance. If no points are known, it is
    the largest for cameras that look outwards, which see nothing inside of the smallest ball, and the
    smallest for others. Of cameras that look outwards it is the largest too if points were found in
    their photographs, where what is far away does not move enough to be found.

    Args:
      scene: a scene with the cameras to train on.
    """
    cameras = scene.splits["train"].cameras
    poses = np.asarray(cameras.camera_to_world)
    points = np.zeros((0, 3)) if scene.points is None else scene.points
    if not len(points) or scene.points_found:
        outward = Capture.of(poses).orbit in ("outward", "fan")
        if outward or not len(points):
            return _LARGEST_BALL if outward else 1.0
    centre = focus_point(poses)
    away = np.linalg.norm(points - centre, axis=-1)
    few = np.unique(np.linspace(0, len(poses) - 1, _ASKED).round().astype(int))
    shown = np.concatenate([away[_ahead(cameras[which], points)] for which in few])
    held = np.percentile(shown, _WITHIN) if len(shown) else 0.0
    return float(np.clip(held / _camera_distance(poses, centre), 1.0, _LARGEST_BALL))


def _ahead(camera: Camera, points: Float[np.ndarray, "P 3"]) -> Bool[np.ndarray, " P"]:
    """Which points lie in the cone around a camera's axis that just fits into its picture."""
    pose = np.asarray(camera.camera_to_world)
    offsets, back = points - pose[:, 3], pose[:, 2]
    depth = -(offsets @ back)
    across = np.linalg.norm(offsets + depth[:, None] * back, axis=-1)
    return across < 0.5 * np.min(np.asarray(camera.size) / np.asarray(camera.focal)) * depth


def _camera_distance(poses: np.ndarray, centre: np.ndarray) -> float:
    """The median distance of cameras from what they look at; more than 0."""
    return max(float(np.median(np.linalg.norm(poses[:, :, 3] - centre, axis=-1))), 1e-6)


def bounds_of(config: Config, scene: Scene) -> tuple[float, float]:
    """The near and far of rays, from a scene's cameras, by an adapted configuration.

    near: in unbounded scenes the scene's near, since density closer to a camera could reproduce its
    photograph alone; in forward-facing scenes the near plane. In bounded scenes it is 0 for methods
    without a far, whose rays are bounded by the occupied cells, unless the user sets it.

    far: infinite for methods without a far. For the paper's network it is the scene's far, and in
    unbounded and forward-facing scenes a distance beyond which nothing is resolved. Of an object that
    stands alone, whose capture names only a horizon, near and far are those of its cube.
    """
    space, near = space_of(config, scene), scene.near
    if space is not None and not config.scene.near:
        if isinstance(space, NdcSpace):
            near = min(near, float(space.near))
        elif not scene.unbounded and scene.ndc is None:
            # Of a scene that was read as one that stands alone, near says nothing of what is around it.
            near = min(near, NEAR * float(space.radius) / (config.scene.ball or ball_of(scene)))
    if not config.section.has_far:
        return near if space is not None or config.scene.near else 0.0, math.inf
    if space is None:
        if not scene.unbounded:
            return near, scene.far
        first, last = _around_cube(scene)
        far = scene.far if config.scene.far else min(scene.far, last)
        return near if config.scene.near else first, far
    unit = space.radius if isinstance(space, SphereContraction) else space.near
    return near, max(scene.far, _HORIZON * float(unit))


def _around_cube(scene: Scene) -> tuple[float, float]:
    """The depths between which all cameras have the cube of a bounded scene."""
    split = scene.splits["train"]
    corner, side = scene_cube(split)
    positions = np.asarray(split.cameras.camera_to_world, np.float64)[:, :, 3]
    away = np.linalg.norm(positions - (corner + 0.5 * side), axis=-1)
    half = 0.5 * math.sqrt(3.0) * side
    return max(scene.near, float(away.min()) - half), float(away.max()) + half


def _reach(frustum: NdcSpace, cameras: Camera) -> float:
    """How far to the sides of a frustum's cube the corners of pictures look."""
    width, height = (np.asarray(cameras.size)[:, axis].astype(np.float32) for axis in (0, 1))
    farthest = 1.0
    for right in (0.0, 1.0):
        for down in (0.0, 1.0):
            pixels = np.stack([right * width, down * height], axis=-1)
            farthest = max(farthest, float(_farthest_aside(frustum, cameras, pixels)))
    return min(farthest, _MOST_REACH)


# Compiled as a whole, since each operation by itself takes as long.
@jax.jit
def _farthest_aside(
    frustum: NdcSpace, cameras: Camera, pixels: Float[Array | np.ndarray, "N 2"]
) -> Float[Array, ""]:
    rays = frustum.rays(cast_rays(cameras, pixels))
    ends = jnp.stack([rays.origins, rays.origins + rays.directions])
    return jnp.max(jnp.abs(ends[..., :2]))


def check_apart(scene: Scene) -> None:
    """Refuse to train on photographs from a single place, which say nothing of depth.

    Args:
      scene: a scene with the cameras to train on.

    Raises:
      ConfigError: there is one photograph only, or all cameras stand where the first does.
    """
    positions = np.asarray(scene.splits["train"].cameras.camera_to_world)[:, :, 3]
    if np.ptp(positions, axis=0).max() > _SAME_PLACE * max(np.abs(positions).max(), 1.0):
        return
    taken = "one photograph" if len(positions) == 1 else f"{len(positions)} photographs"
    raise ConfigError(
        f"scene: {taken} to train on, from one place: nothing says how far anything is; photographs "
        "from two places at least are needed"
    )


def check_in_view(scene: Scene) -> None:
    """Refuse to train a bounded scene whose box most cameras do not have before them.

    Args:
      scene: a scene with the cameras to train on.

    Raises:
      ConfigError: fewer than half see the box between near and far.
    """
    split = scene.splits["train"]
    corner, side = scene_cube(split)
    seen = cameras_that_see(split.cameras, corner, side, scene.near, scene.far)
    if np.mean(seen) >= 0.5:
        return
    (centre,), scale = scene.to_user.points(corner[None] + 0.5 * side), scene.to_user.scale
    place = ", ".join(
        f"{x:.3g}" for x in np.where(np.abs(centre) < 1e-3 * side * scale, 0.0, centre)
    )
    raise ConfigError(
        f"scene.space: bounded, but only {np.sum(seen)} of {len(seen)} cameras have the cube of "
        f"{side * scale:.3g} around ({place}), where their axes meet, in view between near "
        f"{scene.near * scale:.3g} and far {scene.far * scale:.3g}: mend near and far, or try "
        "--scene.space=unbounded"
    )

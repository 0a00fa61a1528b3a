"""Runs composed in the user's frames: two balls whose places are known, seen by one camera."""

import dataclasses

import numpy as np
import pytest
from ball import CENTRE, RADIUS, photographs
from ball_run import FRAME, ball_run, centre
from composition_factory import ball_spans
from scipy.spatial.transform import Rotation

from jaxnerf import Camera, Part, Region, Run, cast_rays, compose, preset
from jaxnerf.cameras import pixel_centres
from jaxnerf.config import override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.methods import first_state
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import run_of
from jaxnerf.scenes import Similarity

OTHER_FRAME = Similarity(0.4, np.eye(3), np.array([1.0, 2.0, 3.0]))


def one_ray_a_pixel(run: Run) -> Run:
    config = override(run.config, {"evaluation.edge_supersampling": 0.0})
    return dataclasses.replace(run, config=config)


HERE = one_ray_a_pixel(ball_run(count=6))
OTHER = one_ray_a_pixel(ball_run(OTHER_FRAME, count=6))
RADIUS_HERE = RADIUS * FRAME.scale
# The other ball, as large as the first, one and a half radii to its side.
SIDEWAYS = np.array([1.5, 0.3, 0.0]) * RADIUS_HERE
SCALE = FRAME.scale / OTHER_FRAME.scale
TURN = Rotation.from_rotvec([0.3, 0.2, -0.9]).as_matrix()
PLACE = Similarity(SCALE, TURN, centre() + SIDEWAYS - SCALE * TURN @ OTHER_FRAME.points(CENTRE))
CAMERA = Camera.look_at(
    tuple(centre() + np.array([0.5, -3.0, 1.0]) * FRAME.scale),
    tuple(centre() + 0.5 * SIDEWAYS),
    width=40,
    height=32,
    field_of_view=35.0,
)


def entries(places) -> np.ndarray:
    """The depth at which each pixel's ray enters each ball [P, H * W]; 1e9 where it does not."""
    rays = cast_rays(CAMERA, pixel_centres(40, 32).reshape(-1, 2))
    return np.stack([ball_spans(rays, place, RADIUS_HERE)[:, 0] for place in places])


def test_two_runs_occlude_each_other_as_their_balls_do_in_the_users_frame():
    scene = compose([HERE, (OTHER, PLACE)])
    seen = scene.render(CAMERA, background=0.0, normals=True)
    depth = entries([centre(), centre() + SIDEWAYS])
    nearest, which = depth.min(axis=0), depth.argmin(axis=0)
    hit = nearest < 1e8
    assert 0.1 < hit.mean() < 0.9
    assert 0.2 < which[hit].mean() < 0.8
    parts = np.asarray(seen.extras["parts"]).reshape(-1, 2)
    shown = np.where(hit, which, -1)
    found = np.where(parts.max(axis=-1) > 0.5, parts.argmax(axis=-1), -1)
    assert (found == shown).mean() > 0.96  # but for silhouettes
    inner = (found == shown) & hit
    error = np.abs(np.asarray(seen.depth_median).reshape(-1) - nearest)[inner]
    assert np.quantile(error, 0.9) < 0.02 * RADIUS_HERE
    # Each shows what its run shows alone.
    alone = HERE.render(CAMERA, background=0.0)
    first = (parts[:, 0] > 0.99).reshape(32, 40)
    np.testing.assert_allclose(
        np.asarray(seen.colour)[first], np.asarray(alone.colour)[first], atol=0.02
    )
    unplaced = PLACE.inverse().poses(np.asarray(CAMERA.camera_to_world))
    alone = OTHER.render(dataclasses.replace(CAMERA, camera_to_world=unplaced), background=0.0)
    second = (parts[:, 1] > 0.99).reshape(32, 40)
    assert second.sum() > 50
    np.testing.assert_allclose(
        np.asarray(seen.colour)[second], np.asarray(alone.colour)[second], atol=0.02
    )


@pytest.mark.slow
def test_the_order_of_runs_and_a_later_placement_do_not_change_the_picture():
    one = compose([HERE, (OTHER, PLACE)]).render(CAMERA)
    other = compose([(OTHER, PLACE), HERE]).render(CAMERA)
    # Positions are rounded in another frame, and edges of cells lie between other pixels.
    assert np.quantile(np.abs(one.colour - other.colour), 0.98) < 0.02
    np.testing.assert_allclose(
        np.median(one.depth[one.opacity > 0.9]),
        np.median(other.depth[other.opacity > 0.9]),
        rtol=1e-3,
    )
    moved = compose([HERE, (OTHER, None)]).placed(1, PLACE).render(CAMERA)
    np.testing.assert_allclose(moved.colour, one.colour, atol=1e-5)


def test_a_crop_in_the_users_frame_leaves_that_part():
    reach = 2.0 * RADIUS_HERE
    upper = Region.box(centre() - [reach, reach, 0.0], centre() + reach)
    half = Part(HERE, crop=(upper,))
    seen = compose([half]).render(CAMERA, background=0.0)
    rays = cast_rays(CAMERA, pixel_centres(40, 32).reshape(-1, 2))
    spans = ball_spans(rays, centre(), RADIUS_HERE)
    t = np.linspace(0.0, 1.0, 2000)[:, None]
    points = np.asarray(rays.origins)[None] + (spans[:, 0] + t * (spans[:, 1] - spans[:, 0]))[
        ..., None
    ] * np.asarray(rays.directions)
    kept = (points[..., 2] > centre()[2]).any(axis=0) & (spans[:, 0] < 1e8)
    found = np.asarray(seen.opacity).reshape(-1) > 0.5
    assert (found == kept).mean() > 0.96
    assert found.mean() > 0.05


def test_what_was_rasterised_stands_in_a_run_by_its_depth():
    place = centre() + SIDEWAYS
    depth = entries([centre(), place])
    buffer = np.where(depth[1] < 1e8, depth[1], np.inf).reshape(32, 40)
    picture = np.where(np.isfinite(buffer)[..., None], [0.0, 1.0, 0.0], 1.0)
    seen = HERE.render(CAMERA, background=picture, far=buffer)
    behind = ((depth[1] < 1e8) & (depth[0] > depth[1])).reshape(32, 40)
    front = (depth[0] < depth[1] - 0.05 * RADIUS_HERE).reshape(32, 40)
    green = np.abs(np.asarray(seen.colour) - [0.0, 1.0, 0.0]).max(axis=-1) < 0.02
    assert behind.sum() > 50
    assert green[behind].mean() > 0.97
    assert green[front].mean() < 0.03
    again = compose([HERE]).render(CAMERA, background=picture, far=buffer)
    np.testing.assert_allclose(again.colour, seen.colour, atol=2e-3)


def test_runs_that_cannot_be_composed_are_refused_in_one_line():
    unbounded = override(HERE.config, {"scene.space": "unbounded"})
    room = dataclasses.replace(HERE, config=unbounded)
    with pytest.raises(RunError, match="no parts"):
        compose([])
    hard = override(preset("nerf"), {"nerf.compositing": "surface"})
    with pytest.raises(RunError, match=r"as 'volume' and .* as 'surface'") as found:
        compose([HERE, dataclasses.replace(HERE, config=hard)])
    assert "\n" not in str(found.value)
    with pytest.raises(RunError, match="are both unbounded"):
        compose([room, (room, PLACE)])
    with pytest.raises(ValueError, match="scale is 0"):
        compose([HERE, (OTHER, Similarity(0.0))])
    with pytest.raises(ValueError, match="singular"):
        compose([(HERE, np.zeros((4, 4)) + np.diag([0.0, 0.0, 0.0, 1.0]))])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nerf", "minute", "hash_grid"])
def test_runs_of_every_method_compose(method):
    """An untrained field that fogs its cube, before and behind the ball."""
    small = {"nerf": {"nerf.field.depth": 2, "nerf.field.width": 16, "nerf.field.skip_after": 0,
                      "nerf.samples": (16, 16)},
             "minute": {"voxels.stages.resolutions": (16, 32), "voxels.stages.fractions": (0.5,),
                        "voxels.stages.cells": 16},
             "hash_grid": {"hash_grid.occupancy.cells": 16, "hash_grid.occupancy.steps": 32}}  # fmt: skip
    split = photographs(6)
    scene = dataclasses.replace(OTHER.scene, splits={"train": split}, near=1.0, far=5.0)
    config = override(preset(method), {**small[method], "scene.space": "bounded"})
    config = adapt_to_scene(config, scene)
    fog = run_of(OTHER.folder, config, scene, first_state(config, scene))
    scene_of_both = compose([HERE, Part(fog, PLACE)])
    seen = scene_of_both.render(CAMERA.resized(12, 10), background=0.0)
    parts = np.asarray(seen.extras["parts"])
    np.testing.assert_allclose(parts.sum(axis=-1), seen.opacity, atol=0.02)
    assert parts[..., 0].max() > 0.5
    assert parts[..., 1].max() > 0.01

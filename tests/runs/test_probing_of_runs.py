"""A run asked at points of the user's frame: a ball whose place is known, in a frame that is turned."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ball import CENTRE, FOCAL, RADIUS, SIDE, photographs
from ball_run import FRAME, INSIDE, SHEEN, STEP, ball_run, centre, density_of

from jaxnerf import Rays, Run, preset
from jaxnerf.cameras import cast_rays, look_at_pose, pixel_centres
from jaxnerf.config import override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.methods import first_state
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import run_of
from jaxnerf.sampling.occupancy import encode
from jaxnerf.scenes import NdcFrame, Similarity

RUN = ball_run(count=6)


def test_a_query_is_in_the_users_frame_and_unit():
    random = np.random.default_rng(0)
    points = centre() + random.normal(size=(3, 50, 3)) * 1.5
    directions = random.normal(size=points.shape)
    found = RUN.query(points, directions, length=0.2)
    expected = density_of(points)
    assert expected.max() > 0.9 * INSIDE / FRAME.scale
    np.testing.assert_allclose(found.density, expected, rtol=5e-3, atol=1e-2)
    np.testing.assert_allclose(found.opacity, 1 - np.exp(-0.2 * expected), atol=5e-3)
    outward = FRAME.inverse().points(points) - CENTRE
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    along = directions / np.linalg.norm(directions, axis=-1, keepdims=True) @ FRAME.rotation
    colour = 0.5 + 0.35 * outward + SHEEN * along[..., :1]
    np.testing.assert_allclose(found.colour, colour, atol=1e-3)
    # Without a direction sheens from both sides cancel.
    np.testing.assert_allclose(RUN.query(points).colour, 0.5 + 0.35 * outward, atol=1e-3)
    assert RUN.query(points[0, 0]).density.shape == ()
    with pytest.raises(ValueError, match="points have the shape"):
        RUN.query(points[..., :2])
    with pytest.raises(ValueError, match="length 0"):
        RUN.query(points, np.zeros(3))


def test_coordinates_of_a_survey_are_subtracted_in_double_precision():
    far = Similarity(FRAME.scale, FRAME.rotation, np.array([4.2e6, -1.1e6, 350.0]))
    shift = far.translation - FRAME.translation
    points = centre() + np.random.default_rng(1).normal(size=(60, 3))
    found = ball_run(far, count=6).query(points + shift).density
    np.testing.assert_allclose(found, RUN.query(points).density, rtol=1e-3, atol=1e-2)


def assert_on_the_ball(found, hit):
    assert (np.asarray(found.hit) == hit).mean() > 0.97  # but for rims
    sure = hit & found.hit
    outward = np.asarray(found.points)[sure] - centre()
    distance = np.linalg.norm(outward, axis=-1, keepdims=True)
    np.testing.assert_allclose(distance, RADIUS * FRAME.scale, atol=2 * STEP * FRAME.scale)
    cosine = (np.asarray(found.normal)[sure] * outward / distance).sum(axis=-1)
    assert np.median(cosine) > 0.999
    assert (cosine > 0.9).all()


def test_first_hits_of_a_camera_and_of_rays_lie_on_the_ball():
    eye = centre() + 3.0 * FRAME.scale * FRAME.rotation @ np.array([0.6, 0.64, 0.48])
    camera = RUN.cameras()[0].resized(24, 24)
    camera = dataclasses.replace(camera, camera_to_world=look_at_pose(eye, centre()))
    found = RUN.first_hit(camera)
    assert found.points.shape == (24, 24, 3)
    rays = cast_rays(camera, pixel_centres(24, 24))
    origins, along = (np.asarray(x, np.float64) for x in (rays.origins, rays.directions))
    speed = np.linalg.norm(along, axis=-1)
    offset = origins - centre()
    square = (offset**2).sum(-1) - ((offset * along).sum(-1) / speed) ** 2
    hit = square < (RADIUS * FRAME.scale) ** 2
    assert_on_the_ball(found, hit)
    away = np.linalg.norm(np.asarray(found.points) - eye, axis=-1)
    np.testing.assert_allclose(np.asarray(found.distance)[hit], away[hit], rtol=1e-3)
    some = RUN.first_hit(camera, np.array([[12.0, 12.0], [0.5, 0.5]]))
    assert some.hit.tolist() == [True, False]
    again = RUN.first_hit(
        Rays(rays.origins, 2.5 * rays.directions, rays.view_directions, rays.near, rays.far)
    )
    assert_on_the_ball(again, hit)
    np.testing.assert_allclose(
        np.asarray(again.distance)[hit], np.asarray(found.distance)[hit], rtol=1e-3
    )
    with pytest.raises(ValueError, match="rays have none"):
        RUN.first_hit(rays, np.zeros((1, 2)))


def test_the_bounding_box_is_that_of_the_ball_whatever_floats_apart():
    side = 1.4 / 32
    turned = np.abs(FRAME.rotation).sum(axis=1) * FRAME.scale
    box = RUN.bounding_box()
    # Cells of the scene's frame, whose corners reach out in the user's.
    tolerance = 2.0 * side * turned.max() + 0.3 * RADIUS * FRAME.scale
    np.testing.assert_allclose(box.low, centre() - RADIUS * FRAME.scale, atol=tolerance)
    np.testing.assert_allclose(box.high, centre() + RADIUS * FRAME.scale, atol=tolerance)
    assert (box.low < centre() - 0.99 * RADIUS * FRAME.scale).all()
    # Stray cells count for nothing, though something is said to be there.
    occupancy = RUN.occupancy
    assert occupancy is not None
    cells = np.asarray(occupancy.cells) >= 128
    cells[0, 0, 0] = cells[31, 30, 29] = True
    strayed = dataclasses.replace(occupancy, cells=encode(cells, 0.0))
    again = dataclasses.replace(RUN, occupancy=strayed).bounding_box()
    np.testing.assert_allclose(again.low, box.low)
    np.testing.assert_allclose(again.high, box.high)
    with pytest.raises(RunError, match="holds nothing"):
        ball_run(count=6, empty=True).bounding_box()


def test_a_grid_is_of_the_box_and_says_the_density_in_blocks():
    blocks = RUN.grid(40)
    density = np.zeros(blocks.shape, np.float32)
    blocks.write(density=density)
    box = RUN.bounding_box()
    index = np.indices(blocks.shape).transpose(1, 2, 3, 0)
    points = index @ blocks.grid.affine[:3, :3].T + blocks.grid.affine[:3, 3]
    np.testing.assert_allclose(blocks.grid.origin, box.low)
    np.testing.assert_allclose(density, density_of(points), rtol=1e-2, atol=2e-2)
    named = RUN.grid(10, (box.low, centre()))
    np.testing.assert_allclose(named.grid.voxel, (centre() - box.low).max() / 10)
    with pytest.raises(ValueError, match="is not x0,y0,z0"):
        RUN.grid(10, (centre(), box.low))
    with pytest.raises(ValueError, match="resolution"):
        RUN.grid(1, (box.low, centre()))


METHODS = {
    "nerf, bounded": ("nerf", "bounded", {"nerf.field.depth": 2, "nerf.field.width": 16,
                                          "nerf.field.skip_after": 0, "nerf.samples": (8, 8)}),
    "voxels, bounded": ("minute", "bounded", {"voxels.stages.resolutions": (16, 32),
                                              "voxels.stages.fractions": (0.5,),
                                              "voxels.stages.cells": 16}),
    "voxels, unbounded": ("minute", "unbounded", {"voxels.stages.resolutions": (16, 32),
                                                  "voxels.stages.fractions": (0.5,),
                                                  "voxels.stages.cells": 16}),
    "voxels, forward": ("minute", "forward", {"voxels.stages.resolutions": (16, 32),
                                              "voxels.stages.fractions": (0.5,),
                                              "voxels.stages.cells": 16}),
    "hash grid": ("hash_grid", "bounded", {"hash_grid.occupancy.cells": 16,
                                           "hash_grid.occupancy.steps": 32}),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_asked(name):
    """Of an untrained field, what the field itself says at the same points."""
    base, space, changes = METHODS[name]
    config = override(preset(base), changes)
    split, ndc, middle = photographs(6), None, np.zeros(3)
    if space == "forward":
        poses = np.tile(np.eye(3, 4, dtype=np.float32), (6, 1, 1))
        poses[:, 0, 3] = np.linspace(-0.2, 0.2, 6)
        cameras = dataclasses.replace(split.cameras, camera_to_world=poses)
        split = dataclasses.replace(split, cameras=cameras)
        ndc, middle = NdcFrame((FOCAL, FOCAL), (SIDE, SIDE), 0.5), np.array([0.0, 0.0, -2.0])
    scene = dataclasses.replace(RUN.scene, splits={"train": split}, near=1.0, far=5.0, ndc=ndc)
    config = adapt_to_scene(override(config, {"scene.space": space}), scene)
    state = jax.tree.map(np.asarray, first_state(config, scene))
    run: Run = run_of(Path("probed"), config, scene, state)
    points = scene.to_user.points(middle + np.random.default_rng(2).uniform(-0.4, 0.4, (7, 3)))
    found = run.query(points)
    places = scene.to_user.inverse().points(points).astype(np.float32)
    field, params = run.field, run.params
    if isinstance(field, tuple):
        field, params = field[-1], params[-1]
    expected, _ = field.density(jax.tree.map(jnp.asarray, params), jnp.asarray(places))
    where = np.asarray(found.density) > 0.0
    assert where.any()
    np.testing.assert_allclose(
        np.asarray(found.density)[where] * scene.to_user.scale,
        np.asarray(expected)[where],
        rtol=2e-3,
    )
    assert found.colour.shape == (7, 3)
    camera = run.cameras()[0].resized(8, 8)
    assert run.first_hit(camera).points.shape == (8, 8, 3)
    box = run.bounding_box()
    assert (box.size > 0.0).all()

"""Pictures from where no photograph was taken: nearer, farther, and of what lies beyond far."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import Camera, Config, Run, Scene, VoxelField, WarpedField, render_rays
from jaxnerf.config import override
from jaxnerf.config.sections import VoxelsConfig
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.sampling.occupancy import Occupancy, encode
from jaxnerf.scenes import NdcFrame, Similarity, Split

VOXELS = VoxelSettings(width=8)
RADIUS, DISTANCE = 1.0, 4.0
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
# The user's unit is a half of the scene's, his frame is turned and shifted.
TO_USER = Similarity(2.0, TURN, np.array([10.0, -3.0, 1.0]))


def camera_at(eye, target=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0), side: int = 33) -> Camera:
    """In the scene's frame."""
    return Camera.look_at(eye, target, width=side, height=side, up=up)


def scene_of(**what) -> Scene:
    eyes = [DISTANCE * np.array([np.cos(a), np.sin(a), 0.2]) for a in np.arange(8) * np.pi / 4]
    cameras = jax.tree.map(lambda *x: np.stack(x), *(camera_at(eye) for eye in eyes))
    split = Split(tuple(f"{i}.png" for i in range(8)), cameras)
    return Scene("s", Path("s"), "test", {"train": split}, 2.0, 6.0, to_user=TO_USER, **what)


def solid(mask: np.ndarray, origin: float, side: float, space=None) -> dict:
    """A field that is opaque in the cells of a mask and empty elsewhere, as a Run has it."""
    size = len(mask)
    cell = side / size
    corner = np.full(3, origin, np.float32)
    field = VoxelField.on_lattice(mask, corner, cell, cell, VOXELS, view_dependence=0.0)
    params = field.init(jax.random.key(0))
    table = np.array(params.table)
    table[64:, 0] = 6.0
    params = dataclasses.replace(params, table=jnp.asarray(table))
    cells = encode(jnp.asarray(mask), jnp.float32(6.0))
    occupancy = Occupancy(cells, jnp.asarray(corner), jnp.float32(cell), jnp.float32(cell), space)
    if space is not None:
        field = WarpedField(field, space)
    return {"field": field, "params": params, "occupancy": occupancy, "step": 1}


def middles(size: int, origin: float, side: float) -> np.ndarray:
    axis = origin + (np.arange(size) + 0.5) * side / size
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


@pytest.fixture(scope="module")
def ball() -> Run:
    mask = np.linalg.norm(middles(24, -1.5, 3.0), axis=-1) < RADIUS
    known = solid(mask, -1.5, 3.0)
    config = override(
        Config(method="voxels", voxels=VoxelsConfig(VOXELS)), {"scene.space": "bounded"}
    )
    return Run(Path("r"), config, scene_of(), **known)


def in_user_frame(camera: Camera) -> Camera:
    poses = TO_USER.poses(np.asarray(camera.camera_to_world, np.float64))
    return dataclasses.replace(camera, camera_to_world=poses)


@pytest.mark.parametrize("times", [0.45, 1.0, 1.5, 2.0, 5.0])
def test_the_fast_field_is_seen_from_nearer_and_farther_than_the_photographs(ball, times):
    eye = DISTANCE * times * np.array([0.6, 0.8, 0.0])
    seen = ball.render(in_user_frame(camera_at(eye)))
    assert seen.opacity[16, 16] > 0.999
    # To a cell, in the user's unit.
    expected = (DISTANCE * times - RADIUS) * TO_USER.scale
    assert abs(seen.depth_median[16, 16] - expected) < 0.3 * TO_USER.scale
    nothing = seen.opacity[0, 0] == 0.0
    if times >= 1.0:
        assert nothing
        np.testing.assert_allclose(seen.depth[0, 0], 6.0 * TO_USER.scale, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class SoftBall:
    """As the paper's field may have learned it; and what it never saw, behind far, is solid."""

    def init(self, key):
        return None

    def density(self, params, positions):
        r = jnp.linalg.norm(positions, axis=-1)
        inside = jax.nn.sigmoid((RADIUS - r) * 30.0) * 20.0
        return jnp.where(r > 2.5, 50.0, inside), positions

    def colour(self, params, features, view_directions):
        return jnp.full(features.shape, 0.25)


@pytest.mark.parametrize("times", [0.6, 1.0, 1.5, 2.0])
def test_so_is_the_paper_s_network_and_nothing_that_it_never_learned(times):
    config = override(Config(method="nerf"), {"scene.space": "bounded", "nerf.samples": (96, 96)})
    run = Run(Path("r"), config, scene_of(), (SoftBall(),), (None,), 1)
    eye = DISTANCE * times * np.array([0.6, 0.8, 0.0])
    seen = run.render(in_user_frame(camera_at(eye)))
    assert seen.opacity[16, 16] > 0.99
    expected = (DISTANCE * times - RADIUS) * TO_USER.scale
    assert abs(seen.depth_median[16, 16] - expected) < 0.3 * TO_USER.scale
    np.testing.assert_allclose(seen.colour[16, 16], 0.25, atol=0.01)


def test_a_sky_beyond_far_is_seen():
    """Only a shell beyond some 10 radii holds something; far, from points perhaps, is 6."""
    space = SphereContraction(jnp.zeros(3), jnp.float32(1.0))
    mask = np.linalg.norm(middles(64, -2.0, 4.0), axis=-1) > 2.0 - 1.0 / 10.0
    known = solid(mask, -2.0, 4.0, space)
    config = override(
        Config(method="voxels", voxels=VoxelsConfig(VOXELS)), {"scene.space": "unbounded"}
    )
    run = Run(Path("r"), config, scene_of(unbounded=True), **known)
    seen = run.render(in_user_frame(camera_at((0.0, -4.0, 0.3))))
    assert (seen.opacity > 0.7).all()
    assert (seen.depth_median > 8.0 * TO_USER.scale).all()


def test_a_far_plane_is_seen_in_front_of_cameras_that_look_the_same_way():
    frame = NdcFrame((40.0, 40.0), (33, 33), 1.0)
    space = NdcSpace(*(jnp.asarray(x, jnp.float32) for x in (frame.focal, frame.size, 1.0, 1.0)))
    mask = np.zeros((32,) * 3, bool)
    mask[:, :, -1] = True  # the last cell: beyond 16 near planes
    known = solid(mask, -1.0, 2.0, space)
    config = override(
        Config(method="voxels", voxels=VoxelsConfig(VOXELS)), {"scene.space": "forward"}
    )
    run = Run(Path("r"), config, scene_of(ndc=frame), **known)
    for z in (0.0, -2.0, -5.0):  # also beyond the near plane
        camera = camera_at((0.0, 0.0, z), (0.0, 0.0, -9.0), (0.0, 1.0, 0.0))
        seen = run.render(in_user_frame(camera))
        assert seen.opacity[16, 16] > 0.99
        assert (seen.depth >= 0.0).all()
        assert seen.depth_median[16, 16] > (16.0 + z) * TO_USER.scale


@pytest.mark.parametrize("distance", [4.0, 2.5, 1.6])
def test_a_camera_that_moves_nearer_does_not_see_through_what_it_comes_to(distance):
    """Training's cameras stand at 4, and their rays begin at 2."""
    space = SphereContraction(jnp.zeros(3), jnp.float32(4.0))
    mask = np.linalg.norm(middles(64, -2.0, 4.0), axis=-1) < 1.5 / 4.0
    known = solid(mask, -2.0, 4.0, space)
    config = override(
        Config(method="voxels", voxels=VoxelsConfig(VOXELS)), {"scene.space": "unbounded"}
    )
    run = Run(Path("r"), config, scene_of(unbounded=True), **known)
    seen = run.render(in_user_frame(camera_at((0.0, -distance, 0.0))))
    assert abs(seen.depth_median[16, 16] - (distance - 1.5) * TO_USER.scale) < 0.6


@pytest.mark.parametrize("forward", [0.0, 1.5])
def test_nor_does_one_in_front_of_a_forward_facing_scene(forward):
    frame = NdcFrame((40.0, 40.0), (33, 33), 1.0)
    space = NdcSpace(*(jnp.asarray(x, jnp.float32) for x in (frame.focal, frame.size, 1.0, 1.0)))
    mask = np.zeros((32,) * 3, bool)
    mask[:, :, 16] = True  # in the cube from 0 on: at depth 2
    known = solid(mask, -1.0, 2.0, space)
    config = override(
        Config(method="voxels", voxels=VoxelsConfig(VOXELS)), {"scene.space": "forward"}
    )
    scene = dataclasses.replace(scene_of(ndc=frame), near=1.2)
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (8, 1, 1))
    split = scene.splits["train"]
    cameras = dataclasses.replace(split.cameras, camera_to_world=poses)
    scene = dataclasses.replace(
        scene, splits={"train": dataclasses.replace(split, cameras=cameras)}
    )
    run = Run(Path("r"), config, scene, **known)
    camera = camera_at((0.0, 0.0, -forward), (0.0, 0.0, -9.0), (0.0, 1.0, 0.0))
    seen = run.render(in_user_frame(camera))
    assert seen.opacity[16, 16] > 0.9
    assert abs(seen.depth_median[16, 16] - (2.0 - forward) * TO_USER.scale) < 0.4


def test_a_run_hands_out_what_the_renderers_take_in_one_frame(ball):
    camera = in_user_frame(camera_at((0.0, -4.0, 1.0)))
    x, y = np.meshgrid(np.arange(33) + 0.5, np.arange(33) + 0.5)
    pixels = jnp.asarray(np.stack([x, y], -1).reshape(-1, 2), jnp.float32)
    rays = ball.rays(camera, pixels)
    seen = jax.jit(render_rays)(ball.field, ball.params, rays, ball.sampler)
    picture = ball.render(camera)
    smooth = ball.config.evaluation.edge_supersampling
    assert smooth > 0.0  # so pixels at edges differ
    apart = np.abs(np.asarray(seen.opacity).reshape(33, 33) - picture.opacity)
    assert np.median(apart) < 1e-3
    assert apart.mean() < 0.05
    depth = np.asarray(seen.depth_median).reshape(33, 33) * TO_USER.scale
    assert abs(depth[16, 16] - picture.depth_median[16, 16]) < 0.3

    values = {"scene.space": "bounded", "nerf.samples": (16, 16)}
    values |= {"evaluation.edge_supersampling": 0.0}
    config = override(Config(method="nerf"), values)
    run = Run(Path("r"), config, scene_of(), (SoftBall(),), (None,), 1)
    render = jax.jit(render_rays, static_argnums=0)
    plain = render(run.field, run.params, run.rays(camera, pixels), run.sampler)
    whole = run.render(camera).colour
    np.testing.assert_allclose(np.asarray(plain.colour).reshape(33, 33, 3), whole, atol=1e-5)
    smooth = override(config, {"evaluation.edge_supersampling": 0.02})
    apart = np.abs(dataclasses.replace(run, config=smooth).render(camera).colour - whole).max(-1)
    assert 0.0 < np.mean(apart > 1e-4) < 0.5  # at the ball's edge

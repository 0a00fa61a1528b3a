"""Scenes made of scenes: one march through several fields, against closed forms and slow loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from composition_factory import (
    BALLS,
    BLUE,
    CAMERA,
    PIXELS,
    RAYS,
    RED,
    TURNED,
    Ball,
    Blob,
    Fog,
    ball_spans,
    brightness_of_moves,
    exact,
    grid_around,
    psnr,
    render,
)  # fmt: skip
from scipy.spatial.transform import Rotation

from jaxnerf import (
    Camera,
    ComposedField,
    ComposedSampler,
    Hierarchical,
    PlacedField,
    Placement,
    Stratified,
    WarpedField,
    cast_rays,
    render_image,
    render_rays,
)
from jaxnerf.cameras import pixel_centres
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.sampling import Occupancy, OccupancySampler, Samples
from jaxnerf.sampling.fragments import fragments_of
from jaxnerf.sampling.occupancy import encode
from jaxnerf.sampling.packing import pack
from jaxnerf.scenes import Similarity

TRUTH = exact(
    RAYS,
    np.stack([ball_spans(RAYS, (0, 0, 0), 1.0), ball_spans(RAYS, (0.5, 0.4, 0.1), 0.7)]),
    (3.0, 2.0 / 0.7),
    (RED.rgb, BLUE.rgb),
    behind=1.0,
)
SAMPLERS = {
    "shared": Stratified(3000),
    "own": ComposedSampler((Stratified(2000), Stratified(3001))),
    "packed": ComposedSampler((grid_around(2.2, 0.003), grid_around(2.4, 0.005))),
    "both": ComposedSampler((Stratified(2500), grid_around(2.4, 0.004))),
    "a grid for both": grid_around(3.6, 0.004),
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_two_balls_that_overlap_look_as_their_closed_form(kind):
    seen = render(BALLS, ((), ()), RAYS, SAMPLERS[kind])
    assert psnr(seen.colour, TRUTH[0]) > 50.0
    assert psnr(seen.opacity, TRUTH[1]) > 50.0
    np.testing.assert_allclose(seen.extras["parts"].sum(axis=-1), seen.opacity, atol=1e-5)
    assert np.asarray(seen.is_complete).all()


def test_opaque_balls_hide_each_other_as_the_nearest_hit_says():
    solid = [dataclasses.replace(ball, density_inside=400.0) for ball in (RED, BLUE)]
    field = ComposedField.of([(solid[0], None), (solid[1], TURNED)])
    seen = render(field, ((), ()), RAYS, SAMPLERS["packed"])
    first = [ball_spans(RAYS, (0, 0, 0), 1.0), ball_spans(RAYS, (0.5, 0.4, 0.1), 0.7)]
    entry = np.stack([spans[:, 0] for spans in first])
    hit = entry.min(axis=0) < 1e8
    colours = np.array([RED.rgb, BLUE.rgb])[entry.argmin(axis=0)]
    # Where the two surfaces are within a step, and at rims thinner than one, both may show.
    thick = np.stack([s[:, 1] - s[:, 0] for s in first])[entry.argmin(axis=0), np.arange(len(hit))]
    sure = ~hit | ((np.abs(entry[0] - entry[1]) > 0.02) & (thick > 0.05))
    assert sure.mean() > 0.95
    expected = np.where(hit[:, None], colours, 1.0)
    np.testing.assert_allclose(np.asarray(seen.colour)[sure], expected[sure], atol=5e-3)
    near = hit & sure
    np.testing.assert_allclose(np.asarray(seen.depth)[near], entry.min(axis=0)[near], atol=0.02)
    np.testing.assert_allclose(
        np.asarray(seen.depth_median)[near], entry.min(axis=0)[near], atol=0.01
    )


def test_rays_without_end_that_miss_a_part_have_the_depth_of_the_other():
    field = ComposedField.of([(RED, None), (BLUE, TURNED)])
    endless = dataclasses.replace(RAYS, far=jnp.full_like(RAYS.far, jnp.inf))

    def depth(params, rays):
        seen = render(field, params, rays, SAMPLERS["packed"])
        return jnp.where(seen.opacity > 0.1, seen.depth, 0.0)

    expected = depth(((), ()), RAYS)
    np.testing.assert_allclose(depth(((), ()), endless), expected, rtol=1e-4)
    assert 0.1 < np.mean(np.asarray(expected) > 0.0) < 0.9


def test_a_picture_that_shows_nothing_says_so_for_each_part():
    field = ComposedField.of([(RED, None), (BLUE, TURNED)])
    away = Camera.look_at((0.0, -4.0, 0.5), (0.0, -9.0, 0.5), width=4, height=3)
    seen = render_image(field, ((), ()), away, SAMPLERS["packed"])
    np.testing.assert_array_equal(seen.extras["parts"], np.zeros((3, 4, 2)))
    np.testing.assert_array_equal(seen.opacity, np.zeros((3, 4)))


@pytest.mark.parametrize("own", [False, True])
def test_an_interval_without_end_stops_no_more_light_than_there_is(own):
    # The last sample's interval is 1e10 long, and what is in it more than all before together.
    plain = Stratified(32, sample_at="start")
    sampler = ComposedSampler((plain, plain)) if own else plain
    field = ComposedField.of([(Fog(), None), (Fog(), None)])
    seen = render(field, (jnp.float32(0.02),) * 2, RAYS, sampler)
    np.testing.assert_allclose(seen.opacity, 1.0, atol=1e-5)
    np.testing.assert_allclose(seen.extras["parts"], 0.5, atol=1e-5)
    alone = render_rays(Fog(), jnp.float32(0.04), RAYS, plain)
    np.testing.assert_allclose(seen.depth_median, alone.depth_median, rtol=1e-4)


@pytest.mark.parametrize("kind", ["shared", "own", "packed"])
def test_half_of_a_field_twice_is_the_field(kind):
    blob = Blob(6.0)
    samplers = {
        "shared": (Stratified(64), Stratified(64)),
        "own": (ComposedSampler((Stratified(64),) * 2), Stratified(64)),
        "packed": (ComposedSampler((grid_around(3.0, 0.05),) * 2), grid_around(3.0, 0.05)),
    }
    twice, once = samplers[kind]
    field = ComposedField((blob, blob))
    half = jnp.float32(3.0)
    found = render(field, (half, half), RAYS, twice, normals=True)
    whole = render(blob, jnp.float32(6.0), RAYS, once, normals=True)
    for name in ("colour", "opacity", "depth", "depth_median", "normals"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(whole, name), rtol=3e-5, atol=3e-5, err_msg=name
        )


def test_the_order_of_parts_does_not_matter():
    parts = [(Blob(3.0), None), (Blob(5.0), TURNED), (BLUE, np.diag([0.5, 0.5, 0.5, 1.0]))]
    params = [jnp.float32(3.0), jnp.float32(5.0), ()]
    samplers = [grid_around(3.0, 0.05), Stratified(50), grid_around(2.2, 0.04)]
    seen = [
        render(
            ComposedField.of([parts[i] for i in order]),
            tuple(params[i] for i in order),
            RAYS,
            ComposedSampler(tuple(samplers[i] for i in order)),
        )
        for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0))
    ]
    for other in seen[1:]:
        np.testing.assert_allclose(other.colour, seen[0].colour, atol=2e-5)
        np.testing.assert_allclose(other.depth, seen[0].depth, atol=2e-4)


def test_a_field_that_is_asked_once_a_ray_is_told_its_own_features():
    """A cloud before another: what the nearer leaves of the light falls on the farther, each alone."""
    near, far = Blob(3.0, once_a_ray=True), Blob(5.0, once_a_ray=False)
    shift = np.array([0.0, 6.0, -1.0])
    field = ComposedField.of([(near, None), (far, Similarity(translation=shift))])
    params = jnp.float32(3.0), jnp.float32(5.0)
    rays = dataclasses.replace(RAYS, far=jnp.full_like(RAYS.far, 14.0))
    # Tails of one within the other are no more than exp(-18).
    sampler = ComposedSampler((grid_around(6.0, 0.02), grid_around(6.0, 0.03)))
    seen = render(field, params, rays, sampler, background=0.0)
    first = render(near, params[0], rays, sampler.samplers[0], background=0.0)
    moved = dataclasses.replace(rays, origins=rays.origins - jnp.asarray(shift, jnp.float32)[None])
    second = render(far, params[1], moved, sampler.samplers[1], background=0.0)
    left = 1.0 - first.opacity
    assert float(second.opacity.max()) > 0.5
    np.testing.assert_allclose(seen.colour, first.colour + left[:, None] * second.colour, atol=1e-5)
    np.testing.assert_allclose(seen.extras["parts"][:, 1], left * second.opacity, atol=1e-5)


def test_a_placed_field_is_what_a_camera_sees_that_is_placed_the_other_way():
    placement = Placement.of(TURNED)
    seen = render(PlacedField(Blob(), placement), jnp.float32(4.0), RAYS, Stratified(128))
    inverse = TURNED.inverse()
    pose = inverse.poses(np.asarray(CAMERA.camera_to_world))
    own = cast_rays(dataclasses.replace(CAMERA, camera_to_world=pose), PIXELS, 0.5 / 0.7, 8.0 / 0.7)
    expected = render(Blob(), jnp.float32(4.0), own, Stratified(128))
    np.testing.assert_allclose(seen.colour, expected.colour, atol=1e-5)
    np.testing.assert_allclose(seen.depth, expected.depth * 0.7, rtol=1e-4)


def test_a_placement_moves_about_a_point_of_the_part():
    base, point = Placement.of(TURNED), jnp.array([0.3, -0.2, 0.5])
    shift = jnp.array([0.1, 0.2, 0.3])
    moved = base.moved(jnp.array([0.2, 0.9, -0.4]), shift, 0.25, point)
    np.testing.assert_allclose(moved.points(point), base.points(point) + shift, atol=1e-6)
    turn = Rotation.from_rotvec([0.2, 0.9, -0.4]).as_matrix()
    np.testing.assert_allclose(moved.rotation, turn @ TURNED.rotation, atol=1e-6)
    np.testing.assert_allclose(moved.scale, 0.7 * np.exp(0.25), rtol=1e-6)
    np.testing.assert_allclose(moved.undo(moved.points(point)), point, atol=1e-6)
    np.testing.assert_allclose(base.points(point), TURNED.points(np.asarray(point)), atol=1e-6)


BALL_SPACE = SphereContraction(jnp.array([0.2, -0.1, 0.3]), jnp.float32(0.8))
FRUSTUM = NdcSpace(
    jnp.array([60.0, 60.0]), jnp.array([64.0, 48.0]), jnp.float32(1.0), jnp.float32(2.0)
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Clouds:
    """Smooth densities in all of a space, and colours of the place and the direction."""

    def init(self, key):
        return jnp.float32(0.4)

    def density(self, params, positions):
        waves = jnp.sum(jnp.cos(3.0 * positions + 0.5), axis=-1)
        return params * jnp.exp(waves - 1.0), 0.5 + 0.2 * jnp.sin(2.0 * positions)

    def colour(self, params, features, view_directions):
        return jnp.clip(features + 0.1 * view_directions, 0.0, 1.0)


@pytest.mark.parametrize("name", ["ball", "frustum"])
def test_an_object_in_a_scene_without_an_end_is_the_same_dense_and_packed(name):
    space = {"ball": BALL_SPACE, "frustum": FRUSTUM}[name]
    cells = np.ones((32,) * 3, bool)
    at = (0.3, 0.4, 0.2)
    camera = Camera.look_at((1.1, -1.3, 0.7), at, width=12, height=12, field_of_view=80.0)
    if name == "frustum":  # nothing lies before the near plane, z = -1 in the cube
        cells &= np.abs((np.arange(32) + 0.5) / 8.0 - 2.0) < 1.0
        at = (0.3, 0.1, -3.0)
        camera = Camera.look_at(
            (0.3, -0.2, 0.4), (0.1, 0.1, -6.0), width=12, height=12, up=(0.0, 1.0, 0.0)
        )
    grid = Occupancy(
        encode(jnp.asarray(cells), jnp.full(cells.shape, 1e-6)),
        jnp.full(3, -2.0), jnp.float32(0.125), jnp.float32(0.01), space,
    )  # fmt: skip
    scene = WarpedField(Clouds(), space)
    placed = Similarity(0.5, TURNED.rotation, np.array(at))
    field = ComposedField((scene, *ComposedField.of([(Blob(9.0), placed)]).fields))
    params = jnp.float32(0.4), jnp.float32(9.0)
    sampler = ComposedSampler((OccupancySampler(grid), grid_around(5.0, 0.01)))
    how = {"near": 0.05, "background": 0.0}
    seen = render_image(field, params, camera, sampler, chunk=36, **how)
    dense = Stratified(4096, spacing="disparity")
    truth = render_image(field, params, camera, dense, far=1e4, chunk=36, **how)
    assert psnr(seen.colour, truth.colour) > 50.0
    assert psnr(seen.opacity, truth.opacity) > 50.0
    assert seen.extras["parts"][..., 1].max() > 0.3


def test_fragments_are_what_a_slow_loop_integrates():
    """Of three parts with gaps, without a length, and with slots that are not used."""
    random, slots, count = np.random.default_rng(0), 7, 5
    parts, depths = [], []
    for number in range(3):
        ends = np.sort(random.uniform(0.0, 10.0, (2 * slots, count)), axis=0)
        t0, t1 = ends[0::2], ends[1::2]
        t1[2], t0[3] = t0[2], t0[2]  # without a length, and the next begins there
        used = random.integers(3, slots + 1, count)
        used[0] = slots if number else 0
        zeros = np.zeros(t0.shape)
        samples = Samples(
            *(jnp.asarray(x, jnp.float32) for x in (t0, t0, t1, t1 - t0, zeros, zeros)),
            *(jnp.zeros(count, bool),) * 3,
            packing=pack(jnp.asarray(used, jnp.int32), 3 * slots * count),
        )
        parts.append(samples)
        depths.append(
            np.where(np.arange(slots)[:, None] < used, random.exponential(0.5, t0.shape), 0)
        )
    fragments = fragments_of(tuple(parts))
    cut = fragments.depths(tuple(jnp.asarray(x, jnp.float32) for x in depths))
    for part in range(3):  # nothing is lost, and nothing counted twice
        back = fragments.to_slots(part, cut[part], slots)
        np.testing.assert_allclose(back, depths[part], atol=1e-5)
    for ray in range(count):
        for t in random.uniform(0.0, 10.0, 20):
            for part in range(3):
                done = np.clip(
                    (t - np.asarray(parts[part].t0)[:, ray])
                    / np.maximum(np.asarray(parts[part].t1 - parts[part].t0)[:, ray], 1e-6),
                    0.0,
                    1.0,
                )
                expected = (done * depths[part][:, ray]).sum()
                f0, f1 = (np.asarray(x)[:, ray] for x in (fragments.t0, fragments.t1))
                part_of = np.clip((t - f0) / np.maximum(f1 - f0, 1e-6), 0.0, 1.0)
                found = (part_of * np.asarray(cut[part])[:, ray]).sum()
                np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("kind", ["shared", "own", "packed", "a grid for both"])
def test_derivatives_of_a_placement_are_those_of_finite_differences(kind, float64):
    samplers = {
        "shared": Stratified(200),
        "own": ComposedSampler((Stratified(150), Stratified(220))),
        "packed": ComposedSampler((grid_around(6.0, 0.03), grid_around(7.0, 0.02))),
        "a grid for both": grid_around(7.0, 0.04),
    }
    sampler = jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, samplers[kind]
    )
    brightness = brightness_of_moves((4.0, 7.0), sampler)
    found = jax.jit(jax.grad(brightness))(jnp.zeros(7))
    step = 1e-5 if kind != "packed" else 2e-3
    differences = [
        (brightness(step * unit) - brightness(-step * unit)) / (2.0 * step) for unit in jnp.eye(7)
    ]
    # The nodes of a part's own packed samples move with it, and are not differentiated.
    tolerance = 1e-6 if kind != "packed" else 2e-2
    scale = float(np.abs(differences).max())
    assert scale > 0.1
    np.testing.assert_allclose(found, differences, atol=tolerance * scale)
    if kind in ("shared", "packed"):
        return
    slope, towards = jax.grad(brightness), jnp.asarray([0.3, -0.5, 0.2, 0.4, 0.1, -0.6, 0.7])
    bent = jax.jit(jax.grad(lambda x: jnp.vdot(slope(x), towards)))(jnp.zeros(7))
    ends = [jax.jit(slope)(way * 1e-5 * towards) for way in (1.0, -1.0)]
    curved = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(bent, curved, atol=1e-5 * float(np.abs(curved).max()))


def test_nothing_is_compiled_again_where_a_placement_changes(monkeypatch):
    calls = []

    @jax.tree_util.register_static
    @dataclasses.dataclass(frozen=True)
    class Counting(Ball):
        def density(self, params, positions):
            calls.append(1)
            return super().density(params, positions)

    sampler = ComposedSampler((grid_around(2.2, 0.1), grid_around(2.2, 0.1)))

    def picture(x, camera):
        at = Similarity(0.5 + 0.1 * x, TURNED.rotation, np.array([x, 0.2, 0.1]))
        field = ComposedField.of([(Counting(), None), (Ball(2.0), at)])
        return render_image(field, ((), ()), camera, sampler, near=0.1)

    first = picture(0.3, CAMERA)
    traced = len(calls)
    assert traced > 0
    other = picture(-0.4, Camera.look_at((1.0, -5.0, 2.0), width=28, height=16))
    assert len(calls) == traced
    assert other.colour.shape == (16, 28, 3)
    assert np.abs(picture(0.9, CAMERA).colour - first.colour).max() > 0.1
    assert len(calls) == traced


@pytest.mark.slow
def test_pictures_of_compositions_leave_out_what_cannot_be_seen_and_nothing_else():
    samplers = (grid_around(2.2, 0.05), grid_around(2.2, 0.05))
    small = Similarity(0.3, TURNED.rotation, np.array([1.6, 0.4, 0.1]))
    field = ComposedField.of([(RED, None), (BLUE, small)])
    camera = CAMERA.resized(48, 48)
    seen = render_image(field, ((), ()), camera, ComposedSampler(samplers))
    rays = cast_rays(camera, jnp.asarray(pixel_centres(48, 48)))
    expected = render(field, ((), ()), rays, ComposedSampler(samplers))
    np.testing.assert_allclose(seen.colour, expected.colour, atol=1e-5)
    # Limits that are too small for many rays are lifted.
    few = tuple(dataclasses.replace(s, samples=8, max_steps=8, mean_samples=2.0) for s in samplers)
    again = render_image(field, ((), ()), camera, ComposedSampler(few))
    np.testing.assert_allclose(again.colour, expected.colour, atol=1e-5)


def test_a_hierarchical_sampler_proposes_for_a_composition():
    seen = render(BALLS, ((), ()), RAYS, Hierarchical((128, 512)))
    assert psnr(seen.colour, TRUTH[0]) > 40.0

"""Volumes of scanners: against SciPy, closed forms, finite differences, and the other sampler."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.ndimage import map_coordinates

from jaxnerf import (
    Camera,
    Field,
    Occupancy,
    OccupancySampler,
    Rays,
    Stratified,
    TransferFunction,
    VolumeField,
    cast_rays,
    render_image,
    render_rays,
)
from jaxnerf.cameras import pixel_centres
from jaxnerf.fields.volume import VolumeParams
from jaxnerf.sampling.occupancy import occupied

# Anisotropic, turned, sheared, and moved.
OBLIQUE = np.array(
    [[0.9, 0.2, 0.0, -3.0], [-0.3, 0.5, 0.1, 2.0], [0.0, 0.1, 2.0, 0.5], [0.0, 0.0, 0.0, 1.0]]
)
TABLE: Any = TransferFunction.of(
    [-1.0, 0.2, 0.5, 2.0], [0.0, 0.0, 3.0, 1.0], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.2, 0.4, 1]]
)


def noise(shape=(5, 6, 4), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape)


def along_x(rays: int = 1, near: float = 0.0, far: float = 12.0) -> Rays:
    origins = jnp.tile(jnp.array([[-3.0, 1.3, 1.1]]), (rays, 1))
    directions = jnp.tile(jnp.array([[1.0, 0.0, 0.0]]), (rays, 1))
    ends = jnp.full(rays, near), jnp.full(rays, far)
    return Rays(origins, directions, directions, *ends)


# Compiled, since what is not takes many small compilations.
rendered = jax.jit(render_rays, static_argnames=("background", "compositing"))


def world(lattice: np.ndarray, matrix: np.ndarray = OBLIQUE) -> np.ndarray:
    return lattice @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize("kind", ["float64", "float32", "uint8", "int16", "bfloat16"])
@pytest.mark.parametrize("interpolation", ["trilinear", "nearest"])
def test_values_between_voxels_are_those_of_scipy(float64, kind, interpolation):
    values = np.asarray(100.0 * noise()).astype(jnp.dtype(kind))
    field, params = VolumeField.from_array(values, to_world=OBLIQUE, interpolation=interpolation)
    assert isinstance(field, Field)
    kept: Any = field.values if field.values is not None else params.values
    assert kept.dtype == jnp.dtype(kind)
    assert np.shares_memory(kept, values)
    places = np.random.default_rng(1).uniform(-0.5, np.array(values.shape) - 0.5, (400, 3))
    density, features = field.density(params, jnp.asarray(world(places)))
    order = 1 if interpolation == "trilinear" else 0
    # SciPy's "nearest" goes on with the last voxel, as we do to the array's faces.
    right = map_coordinates(values.astype(np.float64), places.T, order=order, mode="nearest")
    np.testing.assert_allclose(density, right, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(features[:, 0], density)


def test_outside_of_the_array_is_nothing():
    field, params = VolumeField.from_array(1.0 + noise(), to_world=OBLIQUE)
    sides = np.array(field.shape)
    places = np.random.default_rng(2).uniform(-3.0, sides + 2.0, (2000, 3))
    inside: Any = ((places >= -0.5) & (places <= sides - 0.5)).all(axis=1)
    near_a_face: Any = (np.minimum(abs(places + 0.5), abs(places - sides + 0.5)) < 1e-4).any(axis=1)
    density, _ = field.density(params, jnp.asarray(world(places), jnp.float32))
    found = np.asarray(density)[~near_a_face] > 0.0
    np.testing.assert_array_equal(found, inside[~near_a_face])


def test_the_transfer_function_is_linear_between_its_rows(float64):
    values = np.linspace(-2.0, 3.0, 301)
    density, colour = TABLE(jnp.asarray(values))
    knots, densities, colours = TABLE.values, TABLE.density, TABLE.colour
    np.testing.assert_allclose(density, np.interp(values, knots, densities), atol=1e-7)
    for channel in range(3):
        right = np.interp(values, knots, colours[:, channel])
        np.testing.assert_allclose(colour[:, channel], right, atol=1e-7)


def test_bounds_of_a_transfer_function_hold_and_are_reached():
    low, high = np.sort(np.random.default_rng(3).uniform(-2.0, 3.0, (2, 500)), axis=0)
    steps = np.linspace(0.0, 1.0, 400)[:, None]
    densities = np.interp(low + steps * (high - low), TABLE.values, TABLE.density)
    np.testing.assert_allclose(TABLE.greatest(low, high), densities.max(axis=0), atol=0.05)
    np.testing.assert_allclose(TABLE.least(low, high), densities.min(axis=0), atol=0.05)
    assert (TABLE.greatest(low, high) >= densities.max(axis=0) - 1e-12).all()
    assert (TABLE.least(low, high) <= densities.min(axis=0) + 1e-12).all()


def test_a_constant_box_and_a_ramp_absorb_as_their_integrals_say(float64):
    box, params = VolumeField.from_array(np.full((4, 3, 3), 0.3))
    seen = rendered(box, params, _float64(along_x()), Stratified(1200), background=1.0)
    # Four voxels of length 1, and white: light on white is white.
    np.testing.assert_allclose(seen.opacity, 1.0 - np.exp(-1.2), atol=1e-10)
    np.testing.assert_allclose(seen.colour, 1.0)
    ramp, params = VolumeField.from_array(np.arange(5.0)[:, None, None] * np.ones((1, 3, 3)) / 4)
    seen = rendered(
        ramp,
        params,
        _float64(along_x()),
        Stratified(1200),
        background=0.0,
        compositing="attenuation",
    )
    # From 0 to 1 over four units, and half a voxel of 1 at the end: the integral is 2.5.
    np.testing.assert_allclose(seen.opacity, 1.0 - np.exp(-2.5), rtol=1e-6)


def test_a_ball_absorbs_as_its_chords_say():
    side, radius = 64, 24.0
    axis = np.arange(side) - (side - 1) / 2
    away = np.sqrt((np.stack(np.meshgrid(axis, axis, axis)) ** 2).sum(axis=0))
    # A ball of a density of 0.04, with a ramp of a voxel for its surface, in voxels of a half.
    matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    matrix[:3, 3] = -0.25 * (side - 1)
    values = np.clip(radius - away + 0.5, 0.0, 1.0) * 0.04
    field, params = VolumeField.from_array(values.astype(np.float32), to_world=matrix)
    camera = Camera.look_at((0.0, -60.0, 0.0), width=21, height=21)
    sampler = OccupancySampler(field.occupancy(params))
    seen = render_image(field, params, camera, sampler, background=1.0, compositing="attenuation")
    rays = cast_rays(camera, pixel_centres(21, 21).reshape(-1, 2))
    origin, along = np.asarray(rays.origins), np.asarray(rays.view_directions)
    nearest = origin - (origin * along).sum(axis=1, keepdims=True) * along
    chord = 2.0 * np.sqrt(np.maximum(144.0 - (nearest**2).sum(axis=1), 0.0))
    right = np.exp(-0.04 * chord).reshape(21, 21)
    clear = abs(chord.reshape(21, 21)) > 6.0
    assert clear.sum() > 20
    np.testing.assert_allclose(seen.colour[..., 0][clear], right[clear], rtol=0.01)
    missed = ((nearest**2).sum(axis=1) > 12.6**2).reshape(21, 21)
    assert (seen.colour[missed] == 1.0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "compositing"),
    [
        *(("dense", "volume"), ("packed", "volume"), ("dense", "maximum"), ("packed", "maximum")),
        *(("packed", "mean"), ("packed", "attenuation")),
    ],
)
def test_derivatives_to_values_table_and_matrix_are_those_of_finite_differences(
    float64, name, compositing
):
    values = noise((4, 4, 3))
    field, params = VolumeField.from_array(values, transfer=_float64(TABLE), to_world=OBLIQUE)
    rays = _float64(
        dataclasses.replace(
            along_x(2),
            origins=jnp.array([[-3.0, 2.6, 1.4], [-3.0, 2.2, 2.9]]),
            far=jnp.full(2, 9.0),
        )
    )
    target = jnp.asarray([[0.3, 0.1, 0.6], [0.2, 0.7, 0.4]], jnp.float64)
    occupancy = field.occupancy(params, step=0.6)
    # The places of samples stay where they are, as of a volume that moves by less than a cell.
    packed = OccupancySampler(
        Occupancy(occupancy.cells, *_float64((occupancy.origin, occupancy.cell, occupancy.step)))
    ).limited()
    sampler = {"dense": Stratified(16), "packed": packed}[name]

    def loss(params, matrix):
        here = dataclasses.replace(field, to_world=matrix)
        seen = render_rays(here, params, rays, sampler, compositing=compositing)
        return jnp.sum((seen.colour - target) ** 2)

    params = jax.tree.map(jnp.asarray, params)
    assert float(loss(params, jnp.asarray(OBLIQUE))) > 0.1
    check_grads(
        jax.jit(loss), (params, jnp.asarray(OBLIQUE)), order=2, modes=["rev"], eps=1e-7, rtol=1e-4
    )


def test_integers_have_no_part_in_the_parameters_and_the_table_learns():
    values = np.asarray(255.0 * noise(), np.uint8)
    table = TransferFunction.window(20.0, 230.0, 2.0)
    field, params = VolumeField.from_array(values, transfer=table)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))

    def loss(params):
        return jnp.sum(rendered(field, params, along_x(), Stratified(16)).colour)

    slopes = jax.jit(jax.grad(loss))(params)
    assert slopes.values is None
    assert np.abs(np.asarray(slopes.transfer.density)).max() > 0.0
    assert jax.tree.structure(field.init(jax.random.key(0))) == jax.tree.structure(params)


def test_colours_of_voxels_of_either_kind():
    colours = np.random.default_rng(4).integers(0, 256, (5, 6, 4, 3), np.uint8)
    values = noise().astype(np.float32)
    as_bytes = VolumeField.from_array(values, colours)
    as_floats = VolumeField.from_array(values, colours / np.float32(255.0))
    assert as_bytes[1].colours is None
    assert as_floats[1].colours is not None
    one, other = (
        rendered(*each, along_x(), Stratified(64)).colour for each in (as_bytes, as_floats)
    )
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.ptp(np.asarray(one)) > 0.01
    begun: Any = as_floats[0].init(jax.random.key(0)).colours
    assert begun.shape == colours.shape


@pytest.mark.parametrize("compositing", ["volume", "surface", "maximum", "mean", "attenuation"])
def test_dense_and_packed_samples_show_the_same(compositing):
    side = 40
    axis = np.linspace(-1.0, 1.0, side)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    ball = np.clip(1.4 - 2.0 * np.sqrt(x * x + y * y + z * z), 0.0, 1.0)
    wave = ball * (0.7 + 0.3 * np.sin(3.0 * x) * np.cos(2.0 * y))
    values = np.asarray(np.rint(255.0 * wave), np.uint8)
    matrix = np.array(OBLIQUE) * 0.05
    matrix[3, 3] = 1.0
    matrix[:3, 3] = -world(
        np.full(3, (side - 1) / 2),
        np.block([[matrix[:3, :3], np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]),
    )
    table = TransferFunction.of([0, 40, 255], [0, 0, 4], [[0, 0, 0], [0.9, 0.2, 0.1], [1, 1, 0.8]])
    if compositing == "surface":
        table = dataclasses.replace(table, density=1e4 * table.density)
    field, params = VolumeField.from_array(values, transfer=table, to_world=matrix)
    camera = Camera.look_at((3.0, -7.0, 2.0), width=24, height=20)
    occupancy = field.occupancy(params, step=0.01)
    assert 0.01 < np.mean(occupied(occupancy)) < 0.6
    how = {"near": 3.0, "far": 12.0, "background": 1.0, "compositing": compositing}
    packed = render_image(field, params, camera, OccupancySampler(occupancy), **how)
    dense = render_image(field, params, camera, Stratified(900), **how)
    assert dense.opacity.max() > 0.5
    # Where a solid begins its pixels are one sample's, which lie elsewhere.
    mean = np.median if compositing == "surface" else np.mean
    error = mean((packed.colour - dense.colour) ** 2)
    assert -10.0 * np.log10(max(error, 1e-12)) > 50.0


def test_no_place_with_density_is_in_an_empty_cell():
    values = np.where(noise((23, 17, 9), 5) > 0.998, 1.0, -0.5)
    field, params = VolumeField.from_array(values, transfer=TABLE, to_world=OBLIQUE)
    occupancy = field.occupancy(params, cells=19)
    places = np.random.default_rng(6).uniform(-0.5, np.array(values.shape) - 0.5, (20_000, 3))
    positions = world(places)
    density = np.asarray(field.density(params, jnp.asarray(positions, jnp.float32))[0])
    index = (positions - np.asarray(occupancy.origin)) / float(occupancy.cell)
    assert index.min() >= 0.0
    assert index.max() <= 19.0
    cells = np.asarray(occupied(occupancy))[tuple(index.astype(int).T)]
    assert (density[~cells] == 0.0).all()
    assert (~cells).mean() > 0.05
    assert (density > 0).any()


def test_a_cell_counts_on_no_more_density_than_all_of_it_has():
    field, params = VolumeField.from_array(noise((20, 20, 20), 7).astype(np.float32))
    occupancy = field.occupancy(params, cells=5)
    code = np.asarray(occupancy.cells).astype(float)
    counted = 2.0 ** ((code - 128.0) / 8.0 - 10.0) / float(occupancy.cell)
    places = np.random.default_rng(8).uniform(1.0, 18.0, (5000, 3))
    density, _ = field.density(params, jnp.asarray(places, jnp.float32))
    index = ((places - np.asarray(occupancy.origin)) / float(occupancy.cell)).astype(int)
    assert (counted[tuple(index.T)] <= np.asarray(density) + 1e-6).all()


def test_an_occupancy_needs_numbers():
    field, params = VolumeField.from_array(noise())
    with pytest.raises(TypeError, match="do not trace"):
        jax.jit(lambda p: field.occupancy(p).cells)(params)
    with pytest.raises(ValueError, match="occupancy: threshold -1"):
        field.occupancy(params, threshold=-1.0)


def test_several_volumes_at_once():
    arrays = np.stack([noise(seed=seed) for seed in range(3)]).astype(np.float32)
    field, _ = VolumeField.from_array(arrays[0])

    def opacity(values):
        return rendered(field, VolumeParams(values), along_x(), Stratified(32)).opacity

    together = jax.jit(jax.vmap(opacity))(jnp.asarray(arrays))
    np.testing.assert_allclose(together, [opacity(each) for each in arrays], rtol=1e-5)


FLAT = np.array(OBLIQUE)
FLAT[:, 2] = FLAT[:, 1]
BAD = {
    "density: must have 3 dimensions, got (4, 5)": {"density": np.ones((4, 5))},
    "density: must have 3 dimensions, got (0, 4, 5)": {"density": np.ones((0, 4, 5))},
    "density: has a number that is not finite": {"density": np.full((2, 2, 2), np.nan)},
    "density: must be of real numbers, got complex128": {"density": np.ones((2, 2, 2), complex)},
    "density: 1024 x 1024 x 2048 of float32 would need 8.6 GB": {
        "density": np.broadcast_to(np.float32(0.0), (1024, 1024, 2048))
    },
    "to_world: the matrix is singular": {"to_world": FLAT},
    "to_world: must be 4 x 4, got (3, 4)": {"to_world": np.eye(4)[:3]},
    "to_world: the last row must be 0, 0, 0, 1": {"to_world": np.eye(4) + np.eye(4)[::-1] * 0.1},
    "colour: must be (2, 2, 2, 3)": {"colour": np.ones((2, 2, 2))},
    "colour: must be from 0 to 1": {"colour": np.full((2, 2, 2, 3), 1.5)},
    "colour: integers must be unsigned, got int16": {"colour": np.ones((2, 2, 2, 3), np.int16)},
    "colour: integers must be unsigned, got bool": {"colour": np.ones((2, 2, 2, 3), bool)},
    "colour: the transfer function has colours too": {
        "colour": np.ones((2, 2, 2, 3)), "transfer": TABLE
    },
    "transfer: values must ascend, but 1 follows 2": {
        "transfer": TransferFunction(np.array([0, 2, 1]), np.ones(3))
    },
    "interpolation: 'trilinear' or 'nearest', not 'cubic'": {"interpolation": "cubic"},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_volume_is_refused_in_one_line(message):
    with pytest.raises(ValueError) as caught:
        VolumeField.from_array(**({"density": np.ones((2, 2, 2))} | BAD[message]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_enough(kind, number):
    values = np.ones((5, 6, 7), jnp.dtype(kind))
    values[2, 3, 4] = number
    for given in (values, jnp.asarray(values)):
        with pytest.raises(ValueError, match=r"^density: has a number that is not finite$"):
            VolumeField.from_array(given)


def test_an_array_of_jax_is_refused_for_its_size_too():
    large = jax.ShapeDtypeStruct((1024, 1024, 2048), jnp.float32)
    with pytest.raises(ValueError, match=r"^density: 1024 x 1024 x 2048 .* would need 8.6 GB"):
        jax.eval_shape(lambda values: VolumeField.from_array(values)[1], large)


@pytest.mark.parametrize(
    ("message", "table"),
    [
        ("values must be 2 or more", ([1.0], [1.0])),
        ("density must be (2,) for 2 values", ([0.0, 1.0], [1.0])),
        ("colour must be (2, 3) for 2 values", ([0.0, 1.0], [1.0, 1.0], np.ones((2, 4)))),
        ("values must ascend, but 1 follows 1", ([1.0, 1.0], [1.0, 1.0])),
        ("density has a number that is not finite", ([0.0, 1.0], [1.0, np.inf])),
        ("density must not be negative", ([0.0, 1.0], [-1.0, 1.0])),
        ("colour must be from 0 to 1", ([0.0, 1.0], [1.0, 1.0], [0.0, 2.0])),
    ],
)
def test_what_is_no_transfer_function_is_refused(message, table):
    with pytest.raises(ValueError) as caught:
        TransferFunction.of(*table)
    assert str(caught.value).startswith(f"transfer: {message}")


def test_whole_numbers_that_do_not_fit_are_refused_and_others_are_kept():
    field, _ = VolumeField.from_array(np.full((2, 2, 2), 7, np.int64))
    assert field.values.dtype == np.int32
    with pytest.raises(ValueError, match="int64 has numbers that int32 does not hold"):
        VolumeField.from_array(np.full((2, 2, 2), 1 << 40))
    field, _ = VolumeField.from_array(np.ones((2, 2, 2), bool))
    assert field.values.dtype == np.uint8
    field, _ = VolumeField.from_array(np.full((2, 2, 2), 258, ">i2"))
    assert field.values.dtype == np.int16
    assert field.values.max() == 258


def _float64(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)

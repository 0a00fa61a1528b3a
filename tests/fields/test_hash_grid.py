"""The hash grid: against a slow loop over the paper's equations, and finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxnerf import Field
from jaxnerf.fields.hash_grid import HashGridField, corner_rows, level_rows, resolutions

# The first two levels are stored densely, (4 + 1)^3 and (6 + 1)^3 of 512 rows; the others hashed.
SMALL = HashGridField(
    levels=4, features=2, log2_rows=9, coarsest=4, finest=16, width=8, geometry=3, sh_degree=1
)
CELLS = (4, 6, 10, 16)  # 4 * 4^(l/3) = 4, 6.35, 10.08, 16


def random_params(field: HashGridField, seed: int = 0):
    """Features as large as training makes them, and biases, so that every part matters."""
    random = np.random.default_rng(seed)
    params = jax.tree.map(np.array, field.init(jax.random.key(seed)))
    params["table"] = random.normal(size=params["table"].shape).astype(np.float32)
    for layer in params["density"] + params["colour"]:
        layer["bias"] = 0.1 * random.normal(size=layer["bias"].shape).astype(np.float32)
    return params


def slow_density(params, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`SMALL`, a position, a level, a corner at a time, in float64 and Python's integers."""
    densities, features = [], []
    for position in np.asarray(positions, np.float64):
        encoded, start = [], 0
        for cells in CELLS:
            place = (position + 2.0) / 4.0 * cells
            lower = np.minimum(np.floor(place), cells - 1).astype(int)
            total = np.zeros(2)
            for digits in np.ndindex(2, 2, 2):
                x, y, z = (int(i) for i in lower + digits)
                if (cells + 1) ** 3 <= 512:
                    row = x * (cells + 1) ** 2 + y * (cells + 1) + z
                else:
                    row = (x ^ (y * 2654435761) ^ (z * 805459861)) % 2**32 % 512
                weight = np.prod(np.where(digits, place - lower, 1.0 - (place - lower)))
                total += weight * params["table"][start + row].astype(np.float64)
            encoded.extend(total)
            start += min((cells + 1) ** 3, 512)
        first, last = params["density"]
        hidden = np.maximum(np.array(encoded) @ first["kernel"] + first["bias"], 0.0)
        features.append(hidden @ last["kernel"] + last["bias"])
        densities.append(np.exp(features[-1][0]))
    return np.array(densities), np.array(features)


def slow_colour(params, features: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The real spherical harmonics up to degree 1, by their closed form, and three layers."""
    x, y, z = np.asarray(directions, np.float64).T
    constant, linear = 0.5 / np.sqrt(np.pi), np.sqrt(0.75 / np.pi)
    harmonics = [np.full_like(x, constant), linear * y, linear * z, linear * x]
    hidden = np.concatenate([features, np.stack(harmonics, axis=-1)], axis=-1)
    *inner, last = params["colour"]
    for layer in inner:
        hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"], 0.0)
    return 1.0 / (1.0 + np.exp(-(hidden @ last["kernel"] + last["bias"])))


def widened(params):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)


def moved(inputs, along, size: float):
    return jax.tree.map(lambda leaf, step: leaf + size * step, inputs, along)


def test_density_and_features_are_those_of_the_equations():
    params = random_params(SMALL)
    positions = np.random.default_rng(1).uniform(-2.0, 2.0, (50, 3))
    faces = np.array(list(itertools.product([-2.0, 0.3, 2.0], repeat=3)))
    positions = np.concatenate([positions, faces]).astype(np.float32)
    assert isinstance(SMALL, Field)
    density, features = jax.jit(SMALL.density)(params, jnp.asarray(positions))
    expected = slow_density(params, positions)
    np.testing.assert_allclose(density, expected[0], rtol=2e-4)
    np.testing.assert_allclose(features, expected[1], atol=1e-4)


def test_colour_is_that_of_the_network():
    params, random = random_params(SMALL), np.random.default_rng(4)
    features = random.normal(size=(30, 4)).astype(np.float32)
    directions = random.normal(size=(30, 3)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    colour = SMALL.colour(params, jnp.asarray(features), jnp.asarray(directions))
    np.testing.assert_allclose(colour, slow_colour(params, features, directions), atol=1e-5)


def test_resolutions_grow_geometrically_and_end_at_the_finest():
    assert resolutions(SMALL) == CELLS
    for coarsest, finest, levels in itertools.product(
        (1, 2, 16), (16, 512, 2048, 3000), range(2, 20)
    ):
        field = HashGridField(levels=levels, coarsest=coarsest, finest=finest, log2_rows=4)
        cells = resolutions(field)
        assert (cells[0], cells[-1], len(cells)) == (coarsest, finest, levels)
        for level, each in enumerate(cells):
            # Equation 2, floor(coarsest * growth^level), by whole numbers.
            power = coarsest ** (levels - 1 - level) * finest**level
            assert each ** (levels - 1) <= power < (each + 1) ** (levels - 1)


@pytest.mark.parametrize("log2_rows", [9, 12])
def test_number_of_parameters(log2_rows):
    field = HashGridField(
        levels=4, log2_rows=log2_rows, coarsest=4, finest=16, width=8, geometry=3, sh_degree=1
    )
    table = 2 * {9: 125 + 343 + 512 + 512, 12: 125 + 343 + 1331 + 4096}[log2_rows]
    density = (8 * 8 + 8) + (8 * 4 + 4)
    colour = (8 * 8 + 8) + (8 * 8 + 8) + (8 * 3 + 3)
    params = field.init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == table + density + colour
    assert 0.9e-4 < float(jnp.abs(params["table"]).max()) <= 1e-4


def test_gradients_are_those_of_finite_differences(float64):
    params = widened(random_params(SMALL))
    random = np.random.default_rng(2)
    positions = jnp.asarray(random.uniform(-1.9, 1.9, (20, 3)))
    directions = positions / jnp.linalg.norm(positions, axis=-1, keepdims=True)

    def total(params, positions):
        density, features = SMALL.density(params, positions)
        return jnp.sum(density) + jnp.sum(SMALL.colour(params, features, directions) ** 2)

    def squared_slope(params, positions):
        return jnp.sum(jax.grad(total, argnums=1)(params, positions) ** 2)

    inputs = (params, positions)
    random_inputs = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), inputs)
    nothing = jax.tree.map(jnp.zeros_like, inputs)
    along_table, along_network = (
        ({**nothing[0], **{k: random_inputs[0][k] for k in keys}}, nothing[1])
        for keys in (("table",), ("density", "colour"))
    )
    for function in (total, squared_slope):  # the second is differentiated twice in reverse
        value = jax.jit(function)
        gradients = jax.jit(jax.grad(function, argnums=(0, 1)))(*inputs)
        for along in (along_table, along_network, (nothing[0], random_inputs[1])):
            ahead, behind = (value(*moved(inputs, along, h)) for h in (1e-6, -1e-6))
            slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradients, along)))
            assert abs(slope) > 1e-2
            np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-5)


def test_a_gradient_stays_finite_where_the_density_is_huge():
    params = random_params(SMALL)
    params["density"][1]["bias"][0] = 60.0
    at = jnp.array([0.1, 0.2, 0.3])
    gradient = jax.grad(lambda p: SMALL.density(p, at)[0])(params)["density"][1]["bias"][0]
    np.testing.assert_allclose(gradient, np.exp(15.0), rtol=1e-5)
    assert float(SMALL.density(params, at)[0]) > 1e20


def test_outside_of_the_cube_is_empty():
    params = random_params(SMALL)
    positions = np.array([[2.001, 0.0, 0.0], [0.0, -2.001, 1.0], [9.0, 9.0, 1e30]], np.float32)
    np.testing.assert_array_equal(SMALL.density(params, jnp.asarray(positions))[0], np.zeros(3))
    assert float(SMALL.density(params, jnp.full(3, 2.0))[0]) > 0.0
    assert np.isnan(SMALL.density(params, jnp.full(3, jnp.nan))[0])


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 1, 3)])
def test_any_leading_shape(shape):
    params = random_params(SMALL)
    positions = np.random.default_rng(3).uniform(-1.0, 1.0, (*shape, 3)).astype(np.float32)
    density, features = SMALL.density(params, jnp.asarray(positions))
    colour = SMALL.colour(params, features, jnp.asarray(positions))
    assert (density.shape, features.shape, colour.shape) == (shape, (*shape, 4), (*shape, 3))
    flat = slow_density(params, positions.reshape(-1, 3))[0]
    np.testing.assert_allclose(np.asarray(density).reshape(-1), flat, rtol=2e-4)
    if len(shape) == 2:
        mapped = jax.vmap(lambda x: SMALL.density(params, x)[0])(jnp.asarray(positions))
        np.testing.assert_allclose(mapped, density, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=3, max_size=3), st.integers(0, 2))
@example([1.0, 1.0, 1.0], 0)
@example([1.0, 1.0, 1.0], 1)
@example([1.0, 1.0, 1.0], 2)
def test_rows_of_every_corner_lie_in_their_level(place, which):
    field = (SMALL, HashGridField(), HashGridField(levels=3, log2_rows=0, coarsest=1))[which]
    ends = np.cumsum(level_rows(field))
    rows = np.asarray(corner_rows(field, jnp.asarray([place], jnp.float32)))[:, :, 0]
    assert (rows >= ends - level_rows(field)).all()
    assert (rows < ends).all()


def test_a_ball_of_density_is_learned():
    field = HashGridField(levels=6, log2_rows=12, coarsest=4, finest=64, width=16, side=2.0)

    def ball(x):  # 5 within a radius of 0.6, and falling to nearly 0 over a tenth
        return 5.0 * jax.nn.sigmoid((0.6 - jnp.linalg.norm(x, axis=-1)) / 0.03)

    def error(params, x):
        return jnp.mean((field.density(params, x)[0] - ball(x)) ** 2)

    optimizer = optax.adam(1e-2, b2=0.99, eps=1e-15)

    def step(carry, key):
        params, state = carry
        x = jax.random.uniform(key, (1024, 3), minval=-1.0, maxval=1.0)
        gradient = jax.grad(error)(params, x)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = field.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 200)
    (learned, _), _ = jax.jit(lambda *c: jax.lax.scan(step, c, keys))(
        params, optimizer.init(params)
    )
    unseen = jax.random.uniform(jax.random.key(2), (4096, 3), minval=-1.0, maxval=1.0)
    # A constant has a root mean square error of 1.5.
    assert float(jnp.sqrt(jnp.mean((ball(unseen) - jnp.mean(ball(unseen))) ** 2))) > 1.3
    assert float(jnp.sqrt(error(learned, unseen))) < 0.1


@pytest.mark.parametrize(
    "wrong",
    [{"levels": 0}, {"finest": 8}, {"levels": 1}, {"side": 0.0}, {"log2_rows": 31}],
)
def test_sizes_of_no_lattice_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^({'|'.join(wrong)}|levels): "):
        HashGridField(**wrong)

"""Gathers, scatters and marching weights against slow loops and finite differences, in both forms.

On a CPU the Pallas kernels are interpreted; for GPU and TPU they are lowered here and not run.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxnerf.compositing import volume_weights
from jaxnerf.kernels import choose, march_weights, trilinear_corners, weighted_rows

several = settings(
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("form", ["xla", "pallas"])
_march = jax.jit(march_weights, static_argnames="implementation")
_rows = jax.jit(weighted_rows, static_argnames="implementation")
_corners = jax.jit(trilinear_corners)


def _lookup(seed, count=37, height=11, features=3, corners=8):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(height, features)),
        rng.integers(0, height, (corners, count)).astype(np.int32),
        rng.normal(size=(corners, count)),
        rng.normal(size=(count, features)),
    )


def _rows_loop(table, rows, weights):
    out = np.zeros((rows.shape[1], table.shape[1]))
    for c, n in np.ndindex(rows.shape):
        out[n] += weights[c, n] * table[rows[c, n]]
    return out


def _gradients_loop(table, rows, weights, gradient):
    of_table, of_weights = np.zeros_like(table), np.zeros_like(weights)
    for c, n in np.ndindex(rows.shape):
        of_table[rows[c, n]] += weights[c, n] * gradient[n]
        of_weights[c, n] = sum(g * x for g, x in zip(gradient[n], table[rows[c, n]], strict=True))
    return of_table, of_weights


@functools.partial(jax.jit, static_argnames="form")
def _row_gradients(table, rows, weights, gradient, form):
    def pulled(table, weights):
        return jnp.vdot(weighted_rows(table, rows, weights, implementation=form), gradient)

    return jax.grad(pulled, argnums=(0, 1))(table, weights)


@both
@pytest.mark.parametrize(
    ("count", "features", "corners"), [(1, 1, 1), (37, 3, 8), (128, 4, 8), (300, 2, 4)]
)
def test_weighted_rows_and_gradients_match_a_slow_loop(float64, form, count, features, corners):
    table, rows, weights, gradient = _lookup(count, count, 11, features, corners)
    found = _rows(*map(jnp.asarray, (table, rows, weights)), implementation=form)
    np.testing.assert_allclose(found, _rows_loop(table, rows, weights), rtol=0, atol=1e-12)
    slopes = _row_gradients(*map(jnp.asarray, (table, rows, weights, gradient)), form)
    for slope, expected in zip(
        slopes, _gradients_loop(table, rows, weights, gradient), strict=True
    ):
        np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-12)


@both
@several
@given(seed=seeds, height=st.sampled_from([1, 2, 5]))
def test_rows_that_are_met_many_times_lose_nothing(form, seed, height):
    table, rows, weights, gradient = _lookup(seed, count=150, height=height)
    single = [jnp.asarray(x, jnp.float32) for x in (table, weights, gradient)]
    slopes = _row_gradients(single[0], jnp.asarray(rows), *single[1:], form)
    expected = _gradients_loop(table, rows, weights, gradient)
    np.testing.assert_allclose(slopes[0], expected[0], atol=2e-4)
    np.testing.assert_allclose(slopes[1], expected[1], atol=1e-5)


@both
@several
@given(seed=seeds)
def test_the_order_of_positions_and_of_corners_does_not_matter(float64, form, seed):
    table, rows, weights, _ = _lookup(seed)
    rng = np.random.default_rng(seed)
    order, corner_order = rng.permutation(37), rng.permutation(8)
    whole = _rows(*map(jnp.asarray, (table, rows, weights)), implementation=form)
    shuffled = [jnp.asarray(x[corner_order][:, order]) for x in (rows, weights)]
    found = _rows(jnp.asarray(table), *shuffled, implementation=form)
    np.testing.assert_allclose(found, whole[order], rtol=0, atol=1e-13)


def _compiled(differentiated):
    table, rows, weights, gradient = map(jnp.asarray, _lookup(0))
    table, weights, gradient = (x.astype(jnp.float32) for x in (table, weights, gradient))

    def pulled(table, weights):
        return jnp.vdot(weighted_rows(table, rows, weights), gradient)

    if differentiated == "table":

        def slope(table, weights):
            return jax.grad(lambda x: pulled(x, jax.lax.stop_gradient(weights)))(table)

    else:
        slope = jax.grad(pulled, argnums=1 if differentiated == "weights" else (0, 1))
    return jax.jit(slope).lower(table, weights).compile().as_text()


def test_what_no_gradient_is_asked_of_is_neither_gathered_nor_scattered():
    # XLA also names fusions after these, hence the operations' own syntax. As the suite compiles, a
    # scatter becomes a loop.
    names = {"gather": (" gather(",), "scatter": (" scatter(", " while(")}
    for differentiated, present in {
        "both": {"gather", "scatter"},
        "table": {"scatter"},
        "weights": {"gather"},
    }.items():
        text = _compiled(differentiated)
        found = {name for name, forms in names.items() if any(form in text for form in forms)}
        assert found == present


def _lattice_loop(table, size, positions):
    """Trilinear interpolation as a product of three linear ones, point by point."""
    out = np.zeros((len(positions), table.shape[1]))
    for n, position in enumerate(positions):
        lower = [math.floor(x) for x in position]
        for digits in itertools.product((0, 1), repeat=3):
            share, row = 1.0, 0
            for x, low, digit in zip(position, lower, digits, strict=True):
                share *= x - low if digit else 1.0 - (x - low)
                row = row * size + low + digit
            out[n] += share * table[row]
    return out


def _interpolate(table, positions, size, form):
    corners, weights = trilinear_corners(positions)
    rows = (corners[..., 0] * size + corners[..., 1]) * size + corners[..., 2]
    return weighted_rows(table, rows, weights, implementation=form)


def _lattice(seed, size=4, features=2, count=9):
    """A table, positions that keep clear of cell faces, and an output's gradient."""
    rng = np.random.default_rng(seed)
    positions = rng.integers(0, size - 1, (count, 3)) + rng.uniform(0.1, 0.9, (count, 3))
    return rng.normal(size=(size**3, features)), positions, rng.normal(size=(count, features))


@several
@given(seed=seeds)
def test_trilinear_weights_sum_to_one_and_have_the_position_as_their_mean(float64, seed):
    positions = np.random.default_rng(seed).uniform(-5.0, 5.0, (20, 3))
    corners, weights = map(np.asarray, _corners(jnp.asarray(positions)))
    assert (weights >= 0.0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=0, atol=1e-15)
    mean = (weights[..., None] * corners).sum(axis=0)
    np.testing.assert_allclose(mean, positions, rtol=0, atol=1e-14)
    single = _corners(jnp.asarray(positions, jnp.float32))[1]
    np.testing.assert_allclose(single.sum(axis=0), 1.0, rtol=0, atol=3e-7)


def test_interpolation_is_exact_at_lattice_vertices():
    positions = jnp.array([[0.0, 0.0, 0.0], [3.0, 1.0, 2.0], [-2.0, 7.0, 100.0]])
    corners, weights = trilinear_corners(positions)
    np.testing.assert_array_equal(corners[0], positions)
    np.testing.assert_array_equal(weights, np.eye(8)[:, [0, 0, 0]])
    offsets = list(itertools.product((0, 1), repeat=3))
    for n in range(3):
        np.testing.assert_array_equal(corners[:, n] - corners[:1, n], offsets)


@both
def test_interpolation_and_its_gradients_match_finite_differences_of_a_loop(float64, form):
    table, positions, gradient = _lattice(1)
    found = _interpolate(jnp.asarray(table), jnp.asarray(positions), 4, form)
    np.testing.assert_allclose(found, _lattice_loop(table, 4, positions), rtol=0, atol=1e-13)
    slopes = jax.jit(
        jax.grad(lambda x: jnp.vdot(_interpolate(jnp.asarray(table), x, 4, form), gradient))
    )(jnp.asarray(positions))
    for n, axis in np.ndindex(positions.shape):
        step = np.zeros_like(positions)
        step[n, axis] = 1e-5
        ends = [_lattice_loop(table, 4, positions + s * step) for s in (1, -1)]
        expected = np.vdot(ends[0] - ends[1], gradient) / 2e-5
        np.testing.assert_allclose(slopes[n, axis], expected, rtol=0, atol=1e-9)


@both
def test_a_loss_of_normals_has_a_gradient_to_the_table(float64, form):
    table, positions, gradient = map(jnp.asarray, _lattice(2, size=3, features=1, count=5))

    def normals(table, positions):
        return jax.grad(lambda x: jnp.vdot(_interpolate(table, x, 3, form), gradient))(positions)

    def normals_loop(table):
        columns = []
        for axis in range(3):
            step = 1e-4 * np.eye(3)[axis]
            ends = [_lattice_loop(table, 3, np.asarray(positions) + s * step) for s in (1, -1)]
            columns.append(((ends[0] - ends[1]) * np.asarray(gradient)).sum(axis=1) / 2e-4)
        return np.stack(columns, axis=1)

    # Trilinear means linear along each axis: these finite differences are exact but for rounding.
    np.testing.assert_allclose(
        normals(table, positions), normals_loop(np.asarray(table)), rtol=0, atol=1e-10
    )
    loss = jax.jit(jax.grad(lambda table: jnp.sum(normals(table, positions) ** 2)))
    slope = np.asarray(loss(table))
    for row in range(len(table)):
        step = np.zeros(table.shape)
        step[row] = 1e-3
        ends = [np.sum(normals_loop(np.asarray(table) + s * step) ** 2) for s in (1, -1)]
        np.testing.assert_allclose(slope[row, 0], (ends[0] - ends[1]) / 2e-3, rtol=0, atol=1e-6)


@both
def test_second_derivatives_of_weighted_rows_match_finite_differences(float64, form):
    table, rows, weights, _ = map(jnp.asarray, _lookup(3, count=4, height=5, corners=3))

    def curved(table, weights):
        return jnp.sum(jnp.tanh(_rows(table, rows, weights, implementation=form)))

    check_grads(curved, (table, weights), order=2, modes=["rev"], atol=1e-7, rtol=1e-6, eps=1e-5)


def _march_loop(depth):
    """Eq. 3 of NeRF, term by term."""
    weights = np.zeros_like(depth)
    for k, r in np.ndindex(depth.shape):
        reaching = math.exp(-sum(depth[j, r] for j in range(k)))
        weights[k, r] = reaching * -math.expm1(-depth[k, r])
    return weights


def _slope_loop(depth, gradient):
    slope, weights = np.zeros_like(depth), _march_loop(depth)
    for k, r in np.ndindex(depth.shape):
        after = math.exp(-sum(depth[j, r] for j in range(k + 1)))
        behind = sum(weights[j, r] * gradient[j, r] for j in range(k + 1, len(depth)))
        slope[k, r] = after * gradient[k, r] - behind
    return slope


def _depths(seed, samples=9, rays=7):
    rng = np.random.default_rng(seed)
    depth = rng.exponential(0.5, (samples, rays)) * (rng.uniform(size=(samples, rays)) > 0.3)
    return depth, rng.normal(size=(samples, rays))


@functools.partial(jax.jit, static_argnames="form")
def _march_slope(depth, gradient, form):
    return jax.grad(lambda x: jnp.vdot(march_weights(x, implementation=form), gradient))(depth)


@functools.partial(jax.jit, static_argnames="form")
def _march_curvature(depth, gradient, form):
    return jax.grad(lambda x: jnp.sum(_march_slope(x, gradient, form) ** 2))(depth)


@both
@pytest.mark.parametrize(("samples", "rays"), [(1, 1), (9, 7), (5, 128), (3, 200)])
def test_march_weights_and_gradients_match_a_slow_loop(float64, form, samples, rays):
    depth, gradient = _depths(samples, samples, rays)
    found = _march(jnp.asarray(depth), implementation=form)
    np.testing.assert_allclose(found, _march_loop(depth), rtol=0, atol=1e-15)
    slope = _march_slope(jnp.asarray(depth), jnp.asarray(gradient), form)
    np.testing.assert_allclose(slope, _slope_loop(depth, gradient), rtol=0, atol=1e-14)
    depth, gradient = (jnp.asarray(x, jnp.float32) for x in (depth, gradient))
    np.testing.assert_allclose(
        _march(depth, implementation=form), _march_loop(np.asarray(depth)), atol=2e-7
    )
    np.testing.assert_allclose(
        _march_slope(depth, gradient, form),
        _slope_loop(np.asarray(depth, np.float64), np.asarray(gradient)),
        atol=2e-6,
    )


@both
def test_march_weights_match_finite_differences_to_the_second_order(float64, form):
    depth = jnp.asarray(_depths(4, 5, 3)[0]) + 0.05
    march = functools.partial(_march, implementation=form)
    check_grads(march, (depth,), order=2, modes=["rev"], atol=1e-7, rtol=1e-6, eps=1e-5)
    squared = jax.jit(lambda x: jnp.sum(march(x) ** 2))
    check_grads(squared, (depth,), order=2, modes=["rev"], atol=1e-7, rtol=1e-6, eps=1e-5)


_edge_depth = st.sampled_from([0.0, 1e-20, 1e-6, 0.7, 40.0, 1e10, 3e38, math.inf])


@both
@several
@given(depth=st.lists(_edge_depth, min_size=6, max_size=6))
def test_no_depth_makes_a_weight_negative_a_sum_more_than_1_or_a_slope_undefined(form, depth):
    column = jnp.asarray(depth, jnp.float32)[:, None]
    weights = np.asarray(_march(column, implementation=form), np.float64)
    assert (weights >= 0.0).all()
    assert weights.sum() <= 1.0 + 1e-7
    assert (weights[np.asarray(column) == 0.0] == 0.0).all()
    np.testing.assert_allclose(weights, _march_loop(np.asarray(column, np.float64)), atol=1e-7)
    probe = jnp.arange(1.0, 7.0)[:, None]
    slope = _march_slope(column, probe, form)
    expected = _slope_loop(np.asarray(column, np.float64), np.asarray(probe))
    np.testing.assert_allclose(slope, expected, atol=2e-6)
    assert np.isfinite(_march_curvature(column, probe, form)).all()


@several
@given(seed=seeds)
def test_the_order_of_samples_decides_who_gets_the_light_but_not_how_much(float64, seed):
    depth, _ = _depths(seed)
    rng = np.random.default_rng(seed)
    weights = np.asarray(_march(jnp.asarray(depth)))
    expected = 1.0 - np.exp(-depth.sum(axis=0))
    for order in (np.arange(9), rng.permutation(9)):
        found = _march(jnp.asarray(depth[order])).sum(axis=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    rays = rng.permutation(7)
    np.testing.assert_array_equal(_march(jnp.asarray(depth[:, rays])), weights[:, rays])
    by_ray = volume_weights(jnp.asarray(depth.T), jnp.tile(jnp.arange(10.0), (7, 1)))
    np.testing.assert_allclose(by_ray.T, weights, rtol=0, atol=1e-14)


@both
def test_kernels_map_over_scenes(form):
    depth = jnp.asarray([_depths(s)[0] for s in range(2)], jnp.float32)
    march = functools.partial(march_weights, implementation=form)
    expected = jnp.stack([march(x) for x in depth])
    np.testing.assert_allclose(jax.jit(jax.vmap(march))(depth), expected, atol=1e-7)
    table, rows, weights, _ = map(jnp.asarray, _lookup(5, count=6))
    tables = jnp.stack([table, 2.0 * table]).astype(jnp.float32)
    weights = weights.astype(jnp.float32)
    mapped = jax.vmap(lambda t: weighted_rows(t, rows, weights, implementation=form))(tables)
    np.testing.assert_allclose(mapped[1], 2.0 * mapped[0], rtol=1e-6)


_TRITON = "__gpu$xla.gpu.triton"


def _lowered(function, arguments, platform):
    # Triton's bytecode promises no compatibility, which matters to an export that is kept.
    allowed = [jax.export.DisabledSafetyCheck.custom_call(_TRITON)]
    export = jax.export.export(jax.jit(function), platforms=[platform], disabled_checks=allowed)
    return export(*arguments).mlir_module()


def test_pallas_lowers_for_gpu_and_where_it_can_for_tpu():
    depth = jnp.ones((5, 200))
    table, weights = jnp.ones((11, 3)), jnp.ones((8, 200))
    rows = jnp.zeros((8, 200), jnp.int32)
    march = functools.partial(march_weights, implementation="pallas")

    def interpolate(table, weights):
        return weighted_rows(table, rows, weights, implementation="pallas")

    def slope(function, arguments):
        squared = jax.grad(lambda *x: jnp.sum(function(*x) ** 2), argnums=range(len(arguments)))
        return squared, arguments

    for platform, call in {"cuda": f"@{_TRITON}", "tpu": "@tpu_custom_call"}.items():
        assert _lowered(march, (depth,), platform).count(call) == 1
        assert _lowered(*slope(march, (depth,)), platform).count(call) == 2
    assert _lowered(interpolate, (table, weights), "cuda").count(f"@{_TRITON}") == 1
    backward = _lowered(*slope(interpolate, (table, weights)), "cuda")
    assert backward.count(f"@{_TRITON}") == 3
    assert backward.count("atomic_rmw") == 1
    for function, arguments in (
        (interpolate, (table, weights)),
        slope(interpolate, (table, weights)),
    ):
        on_tpu = _lowered(function, arguments, "tpu")
        assert "stablehlo.gather" in on_tpu
        assert "custom_call" not in on_tpu


def test_the_choice_of_implementation():
    for operation in ("march_weights", "weighted_rows"):
        assert {choose(operation, p) for p in (None, "cpu", "gpu", "tpu")} == {"xla"}
    with pytest.raises(ValueError, match="no operation 'sort'"):
        choose("sort")
    with pytest.raises(ValueError, match="march_weights: implementation must be"):
        march_weights(jnp.ones((2, 2)), implementation="triton")

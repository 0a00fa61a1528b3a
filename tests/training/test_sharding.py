"""What devices divide among themselves is what each would have done alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf.training import sharding as shares
from jaxnerf.training.sharding import AXIS, replicate

ROWS = 2048


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def tree() -> dict:
    """Arrays that are divided, one of them long, and three that are not: short, uneven, a scalar."""
    return {
        "table": numbers(ROWS, 3),
        "long": numbers(3 << 14, 2),
        "kernel": numbers(64, 64),
        "uneven": numbers(ROWS + 1, 2),
        "step": np.int32(7),
    }


@pytest.mark.parametrize(
    ("shape", "devices", "share"),
    [
        ((4096, 8), 2, (2048, 8)),
        ((4096, 8), 8, (512, 8)),
        ((4096, 8), 1, (4096, 8)),
        ((4096,), 4, (1024,)),
        ((4096, 8), 3, (4096, 8)),
        ((512, 8), 2, (512, 8)),
        ((), 2, ()),
    ],
)
def test_long_even_arrays_are_divided(shape, devices, share):
    assert shares.part_shape(shape, devices) == share


def mapped(function, *trees):
    return jax.pmap(function, axis_name=AXIS)(*trees)


def test_own_shares_gathered_are_the_whole():
    placed = jax.tree.map(lambda x: np.stack([x, x]), tree())
    own = mapped(shares.own, placed)
    assert own["table"].shape == (2, ROWS // 2, 3)
    np.testing.assert_array_equal(own["table"][1], tree()["table"][ROWS // 2 :])
    np.testing.assert_array_equal(own["kernel"][1], tree()["kernel"])
    back = mapped(shares.gathered, own, placed)
    jax.tree.map(np.testing.assert_array_equal, back, placed)


def test_each_device_has_its_share_of_the_sum_and_all_the_norm_of_the_whole():
    del (one := tree())["step"]
    two = jax.tree.map(lambda x: x[::-1] * 0.5, one)
    placed = jax.tree.map(lambda *x: np.stack(x), one, two)
    expected = jax.tree.map(lambda *x: sum(x), one, two)

    def summed(given):
        parts = shares.summed(given)
        return parts, shares.norm(parts, given)

    parts, norm = mapped(summed, placed)
    np.testing.assert_allclose(np.concatenate(parts["table"]), expected["table"], rtol=1e-6)
    for name in ("kernel", "uneven"):
        for each in parts[name]:
            np.testing.assert_allclose(each, expected[name], rtol=1e-6)
    squares = [np.sum(np.square(x, dtype=np.float64)) for x in expected.values()]
    np.testing.assert_allclose(norm, np.sqrt(np.sum(squares)), rtol=1e-5)


def test_the_norm_is_of_all_entries_of_short_and_long_arrays():
    random = np.random.default_rng(3)
    shapes = [(), (3,), (1 << 14,), (40_000,), (2, 1 << 14)]
    tree = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    for given in (tree, tree[:2], tree[3:]):
        norm = jax.jit(lambda parts: shares.norm(parts, parts, None))(given)
        squares = [np.sum(np.square(x, dtype=np.float64)) for x in given]
        np.testing.assert_allclose(norm, np.sqrt(np.sum(squares)), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_what_was_divided_is_whole_again_and_stays_so(devices):
    laid_out = shares.divided(tree(), jax.devices()[:devices])
    assert laid_out["table"].shape == (devices, ROWS // devices, 3)
    assert laid_out["uneven"].shape == (devices, ROWS + 1, 2)
    once = shares.whole(laid_out, tree())
    jax.tree.map(np.testing.assert_array_equal, once, tree())
    assert [x.dtype for x in jax.tree.leaves(once)] == [x.dtype for x in jax.tree.leaves(tree())]
    jax.tree.map(np.testing.assert_array_equal, shares.whole(once, tree()), tree())


def doubled_three_times() -> tuple:
    """The state after three mapped steps, which double what each device has of a tree."""
    traced = []

    def step(state, batch, key, cameras):
        traced.append(0)
        common, mine = state
        doubled = jax.tree.map(lambda x: 2 * x, mine)
        return (common + 1, doubled), jnp.float32(0.0), jnp.zeros(1)

    taken = shares.parallel(step, axes=(None, 0), gradients=lambda _: np.zeros(1, np.float32))
    state = replicate(np.int32(0)), shares.divided(tree())
    batch, cameras = np.zeros((jax.local_device_count(), 1)), replicate(np.float32(0.0))
    for _ in range(3):
        state, _ = taken(state, batch, jax.random.key(0), cameras)
    assert len(traced) == 1
    return state


def test_a_mapped_step_takes_and_returns_what_each_device_has():
    common, mine = doubled_three_times()
    assert int(common) == 3
    expected = jax.tree.map(lambda x: 8 * x, tree())
    jax.tree.map(np.testing.assert_array_equal, shares.whole(mine, tree()), expected)

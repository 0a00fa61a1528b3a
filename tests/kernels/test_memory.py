"""Where the results of a step are written, and what is returned when a function ends."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf.kernels import memory


def halved(state, batch):
    """A step down the slope of the mean square of (state - batch)."""
    gradients = {"of": 2.0 * (state - batch) / batch.size}
    return state - 0.5 * gradients["of"], {"loss": jnp.mean((state - batch) ** 2)}, gradients


def test_a_step_writes_its_gradients_where_it_is_told_to_and_is_the_same():
    batch = jnp.linspace(-1.0, 2.0, 5000)
    expected = jax.jit(halved)(jnp.ones(5000), batch)
    step = jax.jit(memory.into_memory(halved), donate_argnums=(0, 2))
    given = {"of": jnp.full(5000, jnp.nan)}
    place = given["of"].unsafe_buffer_pointer()
    found = step(jnp.ones(5000), batch, given)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert given["of"].is_deleted()
    assert found[2]["of"].unsafe_buffer_pointer() == place


def test_what_is_computed_once_is_the_same_and_has_its_slope():
    x = jnp.linspace(0.0, 1.0, 7)
    repeated = jnp.array([0, 3, 3, 6, 3])

    def of(x):
        return jnp.sum(memory.computed_once(jnp.exp(x))[repeated])

    counts = np.bincount(repeated, minlength=7)
    value, slope = jax.jit(jax.value_and_grad(of))(x)
    np.testing.assert_allclose(value, counts @ np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(slope, counts * np.exp(x), rtol=1e-6)


def test_memory_is_returned_after_a_function_and_not_before(monkeypatch):
    happened = []
    library = SimpleNamespace(malloc_trim=lambda kept: happened.append(f"returned but {kept}"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)

    @memory.returning_freed()
    def part(number: int, *, times: int = 2) -> int:
        """A part of some work."""
        happened.append("done")
        return number * times

    assert part(3, times=4) == 12
    assert part(3) == 6
    assert happened == ["done", "returned but 0"] * 2
    assert part.__doc__ == "A part of some work."
    array = jnp.ones(3)
    memory.delete({"of": array, "other": np.ones(3)})
    assert array.is_deleted()
    assert len(happened) == 5

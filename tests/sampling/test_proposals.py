"""The loss that teaches earlier levels of sampling, against the double loop of its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import Camera, Hierarchical, NerfField, Stratified, cast_rays, render_rays
from jaxnerf.training.losses import proposal_error

FIELDS = (NerfField(depth=2, width=16, skip_after=0, view_width=8, position_octaves=3),) * 2
PARAMS = tuple(field.init(jax.random.key(seed)) for seed, field in enumerate(FIELDS))
CAMERA = Camera.look_at((0.0, -4.0, 1.0), width=8, height=8)
RAYS = cast_rays(CAMERA, jnp.array([[[4.0, 4.0], [2.0, 3.0], [7.0, 1.0]]]), 2.0, 6.0)


@jax.jit
def rendered(params, key=None):
    return render_rays(FIELDS, params, RAYS, Hierarchical((12, 12)), key, proposals=True)


@pytest.mark.parametrize("key", [None, jax.random.key(4)])
def test_the_error_is_that_of_a_double_loop(key):
    # Denser than the coarse network says, so that its bound is passed.
    final = jax.tree.map(lambda x: x, PARAMS[1])
    final["density_layer"]["bias"] = final["density_layer"]["bias"] + 6.0
    seen = rendered((PARAMS[0], final), key)
    (level,) = seen.proposals
    found = proposal_error(seen)
    assert found.shape == (1, 3)
    for ray in range(3):
        samples, own, total = seen.samples, level.samples, 0.0
        for i, weight in enumerate(np.asarray(seen.weights[0, ray], np.float64)):
            bound = sum(
                float(level.weights[0, ray, j])
                for j in range(own.s0.shape[-1])
                if own.s1[0, ray, j] > samples.s0[0, ray, i]
                and own.s0[0, ray, j] < samples.s1[0, ray, i]
            )
            total += max(weight - bound, 0.0) ** 2 / (weight + 1e-7)
        assert total > 1e-3
        assert float(found[0, ray]) == pytest.approx(total, rel=1e-4)


def test_it_teaches_the_earlier_level_alone_and_nothing_where_levels_agree():
    slope = jax.jit(jax.grad(lambda params: proposal_error(rendered(params)).sum()))(PARAMS)
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(slope[1]))
    agree = rendered((PARAMS[0], PARAMS[0]))
    np.testing.assert_allclose(proposal_error(agree), 0.0, atol=2e-3)


def test_it_wants_proposals():
    alone = jax.jit(render_rays, static_argnums=(0, 3))(FIELDS[0], PARAMS[0], RAYS, Stratified(4))
    with pytest.raises(ValueError, match="needs dense samples with proposals"):
        proposal_error(alone)

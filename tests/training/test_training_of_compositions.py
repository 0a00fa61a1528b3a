"""Losses that look at samples, and a step of training, where what is trained has parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from composition_factory import RAYS, TURNED, Blob, grid_around

from jaxnerf import (
    Camera,
    ComposedField,
    ComposedSampler,
    Hierarchical,
    PlacedField,
    Placement,
    Stratified,
    render_rays,
)
from jaxnerf.cameras import look_at_pose
from jaxnerf.scenes import Split
from jaxnerf.training import PhotometricLoss, begin, train_step
from jaxnerf.training.batches import sample_batch
from jaxnerf.training.losses import proposal_error
from jaxnerf.training.state import Target

TWICE = ComposedField((Blob(), Blob()))
HALF = (jnp.float32(3.0),) * 2
DEPTH = jnp.full(RAYS.near.shape, 3.7)
TARGET = Target(
    colour=jnp.full((len(DEPTH), 3), 0.4),
    alpha=jnp.full(len(DEPTH), 0.5),
    background=jnp.ones((len(DEPTH), 3)),
    camera=jnp.zeros(len(DEPTH), jnp.int32),
    depth=DEPTH,
    certainty=jnp.ones(len(DEPTH)),
)
SAMPLERS = {
    "shared": (Stratified(64), Stratified(64)),
    "own": (ComposedSampler((Stratified(64),) * 2), Stratified(64)),
    "packed": (ComposedSampler((grid_around(3.0, 0.05),) * 2), grid_around(3.0, 0.05)),
}


def losses(field, params, sampler, loss) -> np.ndarray:
    """The loss of a rendering, and its gradient to all parts' strengths together."""

    def of(scale):
        scaled = jax.tree.map(lambda x: scale * x, params)
        return loss(render_rays(field, scaled, RAYS, sampler, proposals=True), TARGET)[0]

    return np.stack(jax.jit(jax.value_and_grad(of))(jnp.float32(1.0)))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_losses_of_half_of_a_field_twice_are_those_of_the_field(kind):
    twice, once = SAMPLERS[kind]
    weighted = PhotometricLoss(opacity=0.3, depth=0.7, distortion=0.2 * (kind == "shared"))
    found = losses(TWICE, HALF, twice, weighted)
    whole = losses(Blob(), jnp.float32(6.0), once, weighted)
    np.testing.assert_allclose(found, whole, rtol=2e-4, atol=1e-5)
    without = losses(TWICE, HALF, twice, dataclasses.replace(weighted, depth=0.0))
    assert np.abs(found - without).min() > 1e-3


def test_the_loss_of_transmittance_is_its_mean_square_where_photographs_have_no_alpha():
    sampler, _ = SAMPLERS["shared"]
    seen = render_rays(TWICE, HALF, RAYS, sampler)
    opaque = dataclasses.replace(TARGET, alpha=None)
    weighted = PhotometricLoss(transmittance=0.5)
    added = weighted(seen, opaque)[0] - PhotometricLoss()(seen, opaque)[0]
    left = 1.0 - np.asarray(seen.opacity, np.float64)
    assert left.max() > 0.1
    np.testing.assert_allclose(added, 0.5 * np.mean(left**2), rtol=1e-5)
    np.testing.assert_array_equal(weighted(seen, TARGET)[0], PhotometricLoss()(seen, TARGET)[0])


def test_proposals_of_a_composition_are_those_of_the_field():
    sampler, thin = Hierarchical((16, 24)), jnp.float32(0.3)  # a level that allows too little

    def error(field, params):
        fields, all_params = (Blob(), field), (thin, params)
        return proposal_error(render_rays(fields, all_params, RAYS, sampler, proposals=True))

    found, whole = jax.jit(error)(TWICE, HALF), jax.jit(error)(Blob(), jnp.float32(6.0))
    assert float(whole.max()) > 0.05
    np.testing.assert_allclose(found, whole, rtol=2e-3, atol=1e-5)


def test_what_parts_with_samples_of_their_own_cannot_say_is_refused_in_one_line():
    seen = render_rays(TWICE, HALF, RAYS, SAMPLERS["own"][0])
    for ask in (
        lambda: PhotometricLoss(distortion=0.1)(seen, TARGET),
        lambda: proposal_error(seen),
    ):
        with pytest.raises(
            ValueError, match="samples each of its own; ask it of one part"
        ) as found:
            ask()
        assert "\n" not in str(found.value)


def test_a_composition_is_trained_as_any_field():
    poses = np.stack([look_at_pose((4.0, view - 1.0, 1.0), (0, 0, 0)) for view in range(3)])
    images = np.random.default_rng(0).integers(256, size=(3, 8, 8, 4), dtype=np.uint8)
    split = Split(tuple("abc"), Camera.pinhole(poses, 10.0, 8, 8), images)
    field = ComposedField((Blob(), PlacedField(Blob(), Placement.of(TURNED))))
    sampler = ComposedSampler((Stratified(24), grid_around(3.0, 0.1)))
    optimizer = optax.sgd(0.5)
    state = begin(field, field.init(jax.random.key(0)), sampler, optimizer, 8)

    def step(state, batch, cameras):
        return train_step(
            state, batch, jax.random.key(0), cameras, loss=PhotometricLoss(depth=0.1),
            optimizer=optimizer, near=2.0, far=6.0,
        )  # fmt: skip

    batch = sample_batch(split, 32, 0, 0, transparent=True)
    compiled, told = jax.jit(step), []
    with jax.numpy_dtype_promotion("standard"):  # of optax
        for _ in range(8):
            state, metrics = compiled(state, batch, split.cameras)
            told.append({name: float(value) for name, value in metrics.items()})
    assert told[-1]["loss"] < told[0]["loss"]
    assert told[0]["samples"] > 24.0  # of both parts
    assert all(
        abs(float(a) - float(b)) > 1e-3
        for a, b in zip(state.params, field.init(jax.random.key(0)), strict=True)
    )

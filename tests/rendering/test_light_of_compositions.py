"""Compositions seen in every way of compositing: closed forms, one field cut in two, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from composition_factory import (
    BALLS,
    BLUE,
    RAYS,
    RED,
    TURNED,
    Ball,
    Blob,
    ball_spans,
    brightness_of_moves,
    grid_around,
    psnr,
)

from jaxnerf import (
    ComposedField,
    ComposedSampler,
    Occupancy,
    OccupancySampler,
    Stratified,
    render_rays,
)
from jaxnerf.compositing import TO_THE_END

WAYS = ("volume", "surface", *TO_THE_END)
SAMPLERS = {
    "shared": Stratified(1500),
    "own": ComposedSampler((Stratified(600), Stratified(801))),
    "packed": ComposedSampler((grid_around(2.2, 0.008), grid_around(2.4, 0.01))),
    "both": ComposedSampler((Stratified(700), grid_around(2.4, 0.01))),
}
DENSITIES = np.array([3.0, 2.0 / 0.7])
COLOURS = np.array([RED.rgb, BLUE.rgb])
BEHIND = (0.2, 0.5, 0.9)
SPEED = np.linalg.norm(np.asarray(RAYS.directions, np.float64), axis=-1)


def overlap(spans) -> np.ndarray:
    """From where to where each ray is in both balls [R, 2]; ends before it begins where it never is."""
    return np.stack([spans[..., 0].max(axis=0), spans[..., 1].min(axis=0)], axis=-1)


SPANS = np.stack([ball_spans(RAYS, (0, 0, 0), 1.0), ball_spans(RAYS, (0.5, 0.4, 0.1), 0.7)])
LENGTHS = (SPANS[..., 1] - SPANS[..., 0]) * SPEED
BOTH = overlap(SPANS)


def see(field, params, sampler, how, **more):
    """By render_rays; the sampler is no argument, for its limits must be known."""
    behind = jnp.asarray(BEHIND, jnp.float32)

    def seen(field, params, rays):
        return render_rays(field, params, rays, sampler, None, behind, compositing=how, **more)

    return jax.jit(seen)(field, params, RAYS)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_mean_of_two_balls_is_mixed_by_how_much_of_each_a_ray_meets(kind):
    seen = see(BALLS, ((), ()), SAMPLERS[kind], "mean")
    depths = DENSITIES[:, None] * LENGTHS
    total = depths.sum(axis=0)
    opacity, safe = -np.expm1(-total), np.where(total > 0.0, total, 1.0)
    colour = (depths / safe).T @ COLOURS * opacity[:, None] + (1.0 - opacity)[:, None] * BEHIND
    assert psnr(seen.colour, colour) > 42.0
    assert psnr(seen.opacity, opacity) > 42.0
    parts = np.asarray(seen.extras["parts"])
    assert psnr(parts, (opacity * depths / safe).T) > 42.0
    middles = SPANS.mean(axis=-1)
    thick = total > 0.3
    depth = (depths * middles).sum(axis=0) / safe
    np.testing.assert_allclose(np.asarray(seen.depth)[thick], depth[thick], atol=0.02)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_an_x_ray_of_two_balls_is_dimmed_by_both(kind):
    seen = see(BALLS, ((), ()), SAMPLERS[kind], "attenuation")
    through = np.exp(-(DENSITIES[:, None] * LENGTHS).sum(axis=0))
    assert psnr(seen.colour, through[:, None] * BEHIND) > 42.0
    assert psnr(seen.opacity, 1.0 - through) > 42.0


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_densest_place_of_two_balls_is_where_they_overlap(kind):
    seen = see(BALLS, ((), ()), SAMPLERS[kind], "maximum")
    hits = LENGTHS > 0.0
    in_both = BOTH[:, 1] > BOTH[:, 0]
    shares = np.where(
        in_both[:, None], DENSITIES / DENSITIES.sum(), [1.0, 0.0] * hits[0][:, None]
    )  # the red ball is the denser
    shares = np.where((hits[1] & ~hits[0])[:, None], [0.0, 1.0], shares)
    # Rays that graze a ball or the overlap may pass between two samples.
    grazes = ((LENGTHS > 0.0) & (LENGTHS < 0.05)).any(axis=0)
    sure = ~grazes & ~(in_both & (BOTH[:, 1] - BOTH[:, 0] < 0.05))
    assert sure.mean() > 0.9
    assert (in_both & sure).sum() > 10
    np.testing.assert_allclose(
        np.asarray(seen.extras["parts"])[sure], shares[sure], rtol=1e-5, atol=1e-6
    )
    colour = shares @ COLOURS + (1.0 - shares.sum(axis=-1))[:, None] * BEHIND
    np.testing.assert_allclose(np.asarray(seen.colour)[sure], colour[sure], atol=1e-5)
    begin = np.where(in_both, BOTH[:, 0], np.where(hits[0], SPANS[0, :, 0], SPANS[1, :, 0]))
    there = sure & hits.any(axis=0)
    for depth in (seen.depth, seen.depth_median):
        np.testing.assert_allclose(np.asarray(depth)[there], begin[there], atol=0.02)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_of_two_surfaces_the_nearer_decides(kind):
    solid = [dataclasses.replace(ball, density_inside=2000.0) for ball in (RED, BLUE)]
    field = ComposedField.of([(solid[0], None), (solid[1], TURNED)])
    seen = see(field, ((), ()), SAMPLERS[kind], "surface")
    entry = SPANS[..., 0]
    hit = entry.min(axis=0) < 1e8
    thick = LENGTHS[entry.argmin(axis=0), np.arange(len(hit))]
    sure = ~hit | ((np.abs(entry[0] - entry[1]) > 0.03) & (thick > 0.05))
    assert sure.mean() > 0.95
    colour = np.where(hit[:, None], COLOURS[entry.argmin(axis=0)], BEHIND)
    np.testing.assert_allclose(np.asarray(seen.colour)[sure], colour[sure], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(seen.opacity)[sure], hit[sure])
    near = hit & sure
    np.testing.assert_allclose(np.asarray(seen.depth)[near], entry.min(axis=0)[near], atol=0.02)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", ["shared", "own", "packed"])
def test_half_of_a_field_twice_is_the_field_in_every_way(kind, how):
    """A surface too: samples that are opaque only together are so."""
    blob, half = Blob(40.0), jnp.float32(20.0)
    twice, once = {
        "shared": (Stratified(64), Stratified(64)),
        "own": (ComposedSampler((Stratified(64),) * 2), Stratified(64)),
        "packed": (ComposedSampler((grid_around(3.0, 0.05),) * 2), grid_around(3.0, 0.05)),
    }[kind]
    found = see(ComposedField((blob, blob)), (half, half), twice, how, normals=True)
    whole = see(blob, jnp.float32(40.0), once, how, normals=True)
    assert float((whole.opacity > 0.5).mean()) > 0.1
    for name in ("colour", "opacity", "depth", "depth_median", "normals"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(whole, name), rtol=1e-4, atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize("how", WAYS)
def test_nothing_in_any_part_shows_the_background(how):
    nothing = Ball(0.0)
    field = ComposedField.of([(nothing, None), (nothing, TURNED)])
    for kind in ("shared", "own"):
        sampler = {"shared": Stratified(20), "own": ComposedSampler((Stratified(20),) * 2)}[kind]
        seen = see(field, ((), ()), sampler, how)
        np.testing.assert_allclose(seen.colour, np.tile(BEHIND, (len(SPEED), 1)), rtol=1e-6)
        np.testing.assert_array_equal(seen.opacity, 0.0)
        np.testing.assert_allclose(seen.depth_median, 8.0)
        np.testing.assert_allclose(seen.depth, 8.0)


@pytest.mark.parametrize("how", TO_THE_END)
def test_no_ray_of_a_part_ends_early_where_all_of_it_counts(how):
    cells, density = np.ones((16,) * 3, bool), np.full((16,) * 3, 500.0)
    full = Occupancy.with_density(cells, density, np.full(3, -1.2), 2.4 / 16, 0.02)
    sampler = ComposedSampler((OccupancySampler(full).limited(),) * 2)
    seen = see(BALLS, ((), ()), sampler, how)
    assert np.asarray(seen.is_complete).all()
    assert not np.asarray(seen.samples.early_stopped).any()
    assert np.asarray(see(BALLS, ((), ()), sampler, "volume").samples.early_stopped).any()


@pytest.mark.parametrize("how", ["mean", "attenuation"])
def test_the_gradient_of_a_placement_is_that_of_finite_differences(how, float64):
    sampler = ComposedSampler((Stratified(150), Stratified(220)))
    brightness = brightness_of_moves((1.0, 2.0), sampler, how)
    found = jax.jit(jax.grad(brightness))(jnp.zeros(7))
    differences = [
        (brightness(1e-5 * unit) - brightness(-1e-5 * unit)) / 2e-5 for unit in jnp.eye(7)
    ]
    scale = float(np.abs(differences).max())
    assert scale > 0.01
    np.testing.assert_allclose(found, differences, atol=1e-6 * scale)

"""Limits of samplers that are found from a picture's rays."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from composition_factory import Fog

from jaxnerf import Camera, Occupancy, OccupancySampler, VolumeField, render_image
from jaxnerf.cameras import pixel_centres
from jaxnerf.rendering import image, render_places
from jaxnerf.rendering.image import rays_that_fit
from jaxnerf.rendering.limits import fitted

# So far away that rays go straight along y through a cube of 16 cells of 4 steps.
FAR = Camera.look_at((0.0, -300.0, 0.0), width=24, height=24, field_of_view=0.2)
PIXELS = pixel_centres(24, 24).reshape(-1, 2)
UNBOUNDED = np.full(len(PIXELS), np.inf, np.float32)


def filled(cells: np.ndarray) -> Occupancy:
    return Occupancy.of(cells, np.full(3, -1.0), 2.0 / 16, 2.0 / 64)


def test_the_longest_ray_decides_the_slots_and_the_mean_the_room():
    cells = np.ones((16, 16, 16), bool)
    found = fitted(OccupancySampler(filled(cells)), FAR, PIXELS, 0.0, UNBOUNDED, "volume")
    # 64 samples, or 65 of a ray whose first lies a rounding before the cube.
    assert found.samples in (64, 128)
    assert found.mean_samples == 64.0
    cells[:, 2:] = False  # two of the sixteen cells along the rays
    found = fitted(OccupancySampler(filled(cells)), FAR, PIXELS, 0.0, UNBOUNDED, "volume")
    assert found.samples in (8, 16)
    assert found.mean_samples == pytest.approx(8.0)


@pytest.mark.parametrize("mean", [12.0, 24.0, 48.0, 96.0])
def test_chunks_of_a_large_power_of_two_rays_are_avoided(mean):
    """In them rows of slots would share the places of a cache."""
    rays = rays_that_fit(OccupancySampler(filled(np.ones((16, 16, 16), bool)), mean_samples=mean))
    assert rays >= 1024
    assert rays & (rays - 1)


def test_limits_that_are_given_stay():
    occupancy = filled(np.ones((16, 16, 16), bool))
    for given in ({"samples": 9}, {"mean_samples": 3.5}, {"samples": 9, "mean_samples": 2.5}):
        sampler = OccupancySampler(occupancy, **given)
        found = fitted(sampler, FAR, PIXELS, 0.0, UNBOUNDED, "volume")
        assert {name: getattr(found, name) for name in given} == given
        assert found.samples > 0 < found.mean_samples


def test_rays_that_end_early_have_room_for_less_unless_all_of_them_counts():
    cells = np.ones((16, 16, 16), bool)
    opaque = Occupancy.with_density(
        cells, np.full(cells.shape, 1e4), np.full(3, -1.0), 2.0 / 16, 2.0 / 64
    )
    sampler = OccupancySampler(opaque)
    ended = fitted(sampler, FAR, PIXELS, 0.0, UNBOUNDED, "volume")
    assert ended.mean_samples == pytest.approx(4.0)  # a sample dims by exp(-2), the end is exp(-7)
    whole = fitted(sampler, FAR, PIXELS, 0.0, UNBOUNDED, "mean")
    assert whole.mean_samples == 64.0


@pytest.mark.parametrize("compositing", ["volume", "attenuation"])
def test_a_picture_is_the_same_whatever_limits_were_found(compositing):
    axis = np.linspace(-1.0, 1.0, 24)
    distance = np.sqrt(sum(np.meshgrid(axis**2, axis**2, axis**2)))
    values = np.clip(0.9 - distance, 0.0, 1.0).astype(np.float32)
    field, params = VolumeField.from_array(values)
    camera = Camera.look_at((40.0, -30.0, 20.0), (11.5, 11.5, 11.5), width=40, height=30)
    sampler = OccupancySampler(field.occupancy(params, cells=12))
    plenty = dataclasses.replace(sampler, samples=128, mean_samples=128.0)
    found, right = (
        render_image(field, params, camera, each, background=0.2, compositing=compositing)
        for each in (sampler, plenty)
    )
    assert np.ptp(right.opacity) > 0.3
    for name in ("colour", "opacity", "depth_median"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(right, name), rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_a_ray_longer_than_the_buffer_ends_beside_one_that_was_stopped_too_early(monkeypatch):
    """One is rendered again with a larger buffer, and the other then with larger limits."""
    cells, believed = np.ones((16, 16, 16), bool), np.zeros((16, 16, 16), np.float32)
    believed[:8] = 1e4  # rays through it are ended after 4 of 64 samples, with most light left
    occupancy = Occupancy.with_density(cells, believed, np.full(3, -1.0), 2.0 / 16, 2.0 / 64)
    sampler = OccupancySampler(occupancy, samples=96, max_steps=160, mean_samples=24.0)
    renders, renderer = [], image._renderer

    def counted(*of):
        render = renderer(*of)

        def once(*which):
            renders.append(which)
            assert len(renders) < 20, "rays are rendered again and again"
            return render(*which)

        return once

    monkeypatch.setattr(image, "_renderer", counted)
    places = np.array([[6.5, 12.5], [18.5, 12.5]], np.float32)
    seen = render_places(Fog(), jnp.float32(0.02), FAR, places, sampler)
    np.testing.assert_allclose(seen.opacity, -np.expm1(-0.02 * 2.0), rtol=1e-3)

"""Pixels: every one of a grid, frequencies of random ones, patches as loops, and maps as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxnerf import Camera, cast_rays
from jaxnerf.cameras import pixel_centres
from jaxnerf.sampling import pixels

KEY = jax.random.key(3)
MANY = 60_000


def counts(drawn, shape: tuple[int, ...], *leading) -> np.ndarray:
    """How often each pixel was drawn; every coordinate is a centre within the picture."""
    x, y = np.asarray(drawn, np.float64).T
    assert (x % 1.0 == 0.5).all()
    assert (y % 1.0 == 0.5).all()
    found = np.zeros(shape, int)
    np.add.at(found, (*leading, y.astype(int), x.astype(int)), 1)
    return found


def test_a_grid_of_single_pixels_is_all_centres_and_a_coarse_one_those_of_a_smaller_camera():
    np.testing.assert_array_equal(pixels.grid(7, 5), pixel_centres(7, 5))
    camera = Camera.look_at((1.0, -3.0, 2.0), width=12, height=9)
    coarse = cast_rays(camera, pixels.grid(12, 9, stride=3)).directions
    small = cast_rays(camera.resized(4, 3), pixel_centres(4, 3)).directions
    np.testing.assert_allclose(coarse, small, atol=1e-6)
    assert pixels.grid(7, 5, stride=2).shape == (2, 3, 2)
    with pytest.raises(ValueError, match="no square of 6 pixels in 7 x 5"):
        pixels.grid(7, 5, stride=6)


def test_random_pixels_are_drawn_evenly():
    found = counts(jax.jit(lambda key: pixels.uniform(key, MANY, (7, 5)))(KEY), (5, 7))
    assert chisquare(found.reshape(-1)).pvalue > 1e-3


def test_random_places_are_anywhere_in_the_picture_and_nowhere_else():
    drawn = np.asarray(pixels.uniform(KEY, MANY, (7, 5), centres=False))
    assert (drawn >= 0.0).all()
    assert (drawn < [7.0, 5.0]).all()
    cells = np.histogram2d(*drawn.T, bins=(21, 15), range=((0, 7), (0, 5)))[0]
    assert chisquare(cells.reshape(-1)).pvalue > 1e-3


def test_pictures_of_several_sizes_share_a_program():
    traced = []

    @jax.jit
    def draw(key, size):
        traced.append(1)
        return pixels.uniform(key, 1000, size)

    for width, height in ((7, 5), (300, 2)):
        x, y = np.asarray(draw(KEY, jnp.array([width, height]))).T
        assert x.max() == width - 0.5
        assert y.max() == height - 0.5
    assert len(traced) == 1


def test_every_pixel_of_all_cameras_is_as_likely():
    sizes = jnp.array([[3, 2], [8, 5], [1, 1]])
    camera, drawn = pixels.uniform_of_cameras(KEY, MANY, sizes)
    found = counts(drawn, (3, 5, 8), np.asarray(camera))
    inside = np.zeros((3, 5, 8), bool)
    for each, (width, height) in zip(inside, np.asarray(sizes), strict=True):
        each[:height, :width] = True
    assert (found[~inside] == 0).all()
    assert chisquare(found[inside]).pvalue > 1e-3


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_patches_are_those_of_a_loop_over_all_places(side, stride):
    width, height = 7, 6
    drawn = np.asarray(pixels.patches(KEY, 20_000, (width, height), side, stride))
    reach = (side - 1) * stride
    places = {}
    for top in range(height - reach):
        for left in range(width - reach):
            patch = [
                [(left + stride * i + 0.5, top + stride * j + 0.5) for i in range(side)]
                for j in range(side)
            ]
            places[np.asarray(patch, np.float32).tobytes()] = 0
    for patch in drawn:
        places[patch.tobytes()] += 1
    assert len(places) == (width - reach) * (height - reach)
    assert chisquare(list(places.values())).pvalue > 1e-3


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (4, 3), (0, 1), (2, 0)])
def test_patches_that_do_not_fit_are_refused(side, stride):
    with pytest.raises(ValueError, match=r"^patches: "):
        pixels.patches(KEY, 2, (9, 7), side, stride)


def test_shares_of_u_go_to_weights_exactly():
    random = np.random.default_rng(0)
    for _ in range(5):
        weights = random.integers(0, 6, 37) * (random.random(37) < 0.6)
        u = (np.arange(weights.sum() * 8) + 0.5) / (weights.sum() * 8)
        index = pixels.inverse_cdf(jnp.asarray(weights, jnp.float32), jnp.asarray(u, jnp.float32))
        np.testing.assert_array_equal(np.bincount(index, minlength=37), 8 * weights)


def test_rounding_draws_nothing_without_weight():
    """Sums in float32, which XLA adds up in parallel, need not rise where the weights say so."""
    random = np.random.default_rng(1)
    for scale in (1.0, 1e3, 1e30):
        weights = np.float32(scale) * random.random(5000, np.float32) ** 8
        weights[random.random(5000) < 0.5] = 0.0
        sums = np.asarray(jnp.cumsum(weights))
        u = jnp.asarray(np.clip(sums / sums[-1], 0.0, 1.0))
        index = np.asarray(pixels.inverse_cdf(jnp.asarray(weights), u))
        assert (weights[index] > 0.0).all()


@pytest.mark.parametrize("each", [False, True])
def test_no_u_draws_what_has_no_weight(each):
    weights = jnp.array([0.0, 0.1, 0.0, 0.7, 1e-7, 0.0])
    ends = jnp.array([0.0, 1e-38, 0.125, 0.5, 1.0 - 2**-24, 1.0])
    index = pixels.inverse_cdf(jnp.tile(weights, (6, 1)) if each else weights, ends)
    assert (np.asarray(weights)[np.asarray(index)] > 0.0).all()
    assert int(index[0]) == 1
    assert int(index[-1]) in (3, 4)


def test_pixels_are_drawn_as_often_as_a_map_says():
    random = np.random.default_rng(1)
    weights = random.random((3, 6, 9)) ** 4 * (random.random((3, 6, 9)) < 0.7)
    weights[1, 2] = 0.0
    share = weights / weights.sum()
    given = jnp.asarray(weights, jnp.float32)
    camera, drawn = jax.jit(lambda key: pixels.weighted_of_cameras(key, MANY, given))(KEY)
    found = counts(drawn, weights.shape, np.asarray(camera))
    assert (found[weights == 0.0] == 0).all()
    often = share > 5.0 / MANY
    rest = MANY - found[often].sum(), MANY * (1.0 - share[often].sum())
    expected = np.append(MANY * share[often], max(rest[1], 1e-9))
    assert chisquare(np.append(found[often], rest[0]), expected, sum_check=False).pvalue > 1e-3


def test_a_loss_divided_by_probabilities_has_the_even_mean():
    random = np.random.default_rng(2)
    errors = jnp.asarray(random.random((6, 9)) + 0.1, jnp.float32)
    values = jnp.asarray(random.normal(size=(6, 9)), jnp.float32)
    drawn = pixels.weighted(KEY, MANY, errors)
    share = pixels.values_at(errors, drawn) / errors.sum()
    mean = jnp.mean(pixels.values_at(values, drawn) / (errors.size * share))
    assert float(mean) == pytest.approx(float(values.mean()), abs=0.03)


def test_masks_are_maps_and_the_last_of_many_pixels_are_not_lost():
    mask = np.zeros((4, 6), bool)
    mask[3, 1] = mask[0, 5] = True
    found = counts(pixels.weighted(KEY, 1000, jnp.asarray(mask)), mask.shape)
    assert (found[~mask] == 0).all()
    assert (found[mask] > 400).all()
    # In one sum over all pixels in float32 the last million would hardly add anything.
    weights = np.full((5, 1024, 1024), 1.0, np.float32)
    weights[0] *= 1e2
    camera, _ = pixels.weighted_of_cameras(KEY, 20_000, jnp.asarray(weights))
    share = np.mean(np.asarray(camera) == 4)
    assert share == pytest.approx(1.0 / 104.0, abs=3e-3)


def test_values_are_those_of_the_pixel_in_which_a_place_lies():
    picture = np.random.default_rng(3).random((5, 7, 3)).astype(np.float32)
    places = pixels.uniform(KEY, 50, (7, 5), centres=False)
    expected = [picture[int(y), int(x)] for x, y in np.asarray(places)]
    np.testing.assert_array_equal(pixels.values_at(jnp.asarray(picture), places), expected)
    outside = pixels.values_at(jnp.asarray(picture), jnp.array([[-1.0, 9.0]]))
    np.testing.assert_array_equal(outside, picture[4:, 0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_maps_in_half_precision_are_drawn_from_in_all_places(dtype):
    even = jnp.ones((1, 512, 512), dtype)
    drawn = np.asarray(pixels.weighted(KEY, 4000, even[0]))
    least, most = drawn.min(axis=0), drawn.max(axis=0)
    assert (least < 8.0).all()
    assert (most > 504.0).all()

"""The paper's network: its size, its arithmetic, and the protocol of fields."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import Camera, Field, preset, render_image
from jaxnerf.cameras import look_at_pose
from jaxnerf.fields.nerf import NerfField
from jaxnerf.fields.noisy import NoisyField


def test_the_paper_has_595844_parameters_in_each_of_two_networks():
    config = preset("paper")
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(field.init, jax.random.key(0))))
        for field in config.nerf.fields()
    ]
    assert sizes == [595_844, 595_844]


def test_nine_layers_of_256_and_a_skip():
    shapes = jax.tree.map(
        lambda leaf: leaf.shape, jax.eval_shape(NerfField().init, jax.random.key(0))
    )
    hidden = [name for name, layer in shapes.items() if layer["kernel"][1] == 256]
    assert len(hidden) == 9
    assert shapes["layers_5"]["kernel"] == (256 + 63, 256)
    assert shapes["view_layers_0"]["kernel"] == (256 + 27, 128)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_any_leading_shape_and_the_protocol(batch):
    field = NerfField(depth=2, width=8, skip_after=1, view_width=4)
    assert isinstance(field, Field)
    params = field.init(jax.random.key(0))
    positions = jax.random.normal(jax.random.key(1), (*batch, 3))
    density, features = jax.jit(field.density)(params, positions)
    colour = jax.jit(field.colour)(params, features, positions)
    assert density.shape == batch
    assert features.shape == (*batch, 8)
    assert colour.shape == (*batch, 3)
    assert (density >= 0.0).all()
    first = field.density(params, positions.reshape(-1, 3)[0])[0]
    np.testing.assert_allclose(density.reshape(-1)[0], first, rtol=1e-5)


def test_density_does_not_depend_on_direction_and_colour_does():
    field = NerfField(depth=2, width=8, view_width=4)
    params = field.init(jax.random.key(0))
    _, features = field.density(params, jnp.ones(3))
    one = field.colour(params, features, jnp.array([1.0, 0.0, 0.0]))
    other = field.colour(params, features, jnp.array([0.0, 1.0, 0.0]))
    assert jnp.abs(one - other).max() > 1e-4


def test_padding_lets_colours_reach_black_and_white():
    field = NerfField(depth=1, width=4, view_width=4, colour_padding=0.001)
    params = jax.tree.map(jnp.zeros_like, field.init(jax.random.key(0)))
    params["colour_layer"]["bias"] = jnp.array([-50.0, 0.0, 50.0])
    colour = field.colour(params, jnp.zeros(4), jnp.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(colour, [-0.001, 0.5, 1.001], atol=1e-6)


def test_bfloat16_products_stay_near_float32():
    field = NerfField(depth=3, width=64, view_width=32)
    params = field.init(jax.random.key(0))
    positions = jax.random.uniform(jax.random.key(1), (256, 3))
    exact = field.density(params, positions)[0]
    rounded = dataclasses.replace(field, dtype="bfloat16").density(params, positions)[0]
    assert rounded.dtype == jnp.float32
    assert 0.0 < jnp.abs(rounded - exact).max() < 0.05


# The released code, in plain NumPy and float64, one ray at a time.


def _released_encoding(x, octaves):
    parts = [x]
    for octave in range(octaves):
        parts += [np.sin(2.0**octave * x), np.cos(2.0**octave * x)]
    return np.concatenate(parts)


def _released_network(params, point, direction):
    def dense(name, x):
        return x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(
            params[name]["bias"], np.float64
        )

    encoded = _released_encoding(point, 10)
    hidden = encoded
    for layer in range(8):
        hidden = np.maximum(dense(f"layers_{layer}", hidden), 0.0)
        if layer == 4:
            hidden = np.concatenate([encoded, hidden])
    sigma = dense("density_layer", hidden)[0]
    hidden = np.concatenate([dense("bottleneck", hidden), _released_encoding(direction, 4)])
    hidden = np.maximum(dense("view_layers_0", hidden), 0.0)
    return 1.0 / (1.0 + np.exp(-dense("colour_layer", hidden))), sigma


def _released_render(params, origin, direction, distances):
    view = direction / np.linalg.norm(direction)
    lengths = np.append(np.diff(distances), 1e10) * np.linalg.norm(direction)
    transmittance, pixel, weights = 1.0, np.zeros(3), []
    for distance, length in zip(distances, lengths, strict=True):
        colour, sigma = _released_network(params, origin + distance * direction, view)
        alpha = 1.0 - np.exp(-max(sigma, 0.0) * length)
        weights.append(alpha * transmittance)
        pixel += weights[-1] * colour
        transmittance *= 1.0 - alpha + 1e-10
    return pixel + (1.0 - sum(weights)), np.array(weights)


def _released_fine_distances(distances, weights, count):
    bins = 0.5 * (distances[1:] + distances[:-1])
    padded = weights[1:-1] + 1e-5
    cdf = np.concatenate([[0.0], np.cumsum(padded / padded.sum())])
    drawn = []
    for u in np.linspace(0.0, 1.0, count):
        index = np.searchsorted(cdf, u, side="right")
        below, above = max(0, index - 1), min(len(cdf) - 1, index)
        rise = cdf[above] - cdf[below]
        fraction = (u - cdf[below]) / (rise if rise >= 1e-5 else 1.0)
        drawn.append(bins[below] + fraction * (bins[above] - bins[below]))
    return np.sort(np.concatenate([distances, drawn]))


def test_the_paper_preset_renders_the_picture_of_the_released_code():
    config = preset("paper")
    assert config.scene.pixels == "corner"
    fields = config.nerf.fields()
    params = [field.init(jax.random.key(3 + level)) for level, field in enumerate(fields)]
    for network in params:  # enough density for structure, as training would leave
        network["density_layer"]["kernel"] *= 40.0
    width, height, focal = 5, 4, 6.0
    pose = look_at_pose((3.0, 2.0, 1.5), (0.0, 0.0, 0.0))
    camera = Camera.pinhole(pose, focal, width, height)

    expected = np.zeros((height, width, 3))
    for j in range(height):
        for i in range(width):
            local = np.array([(i - width * 0.5) / focal, -(j - height * 0.5) / focal, -1.0])
            direction = pose[:, :3].astype(np.float64) @ local
            origin = pose[:, 3].astype(np.float64)
            distances = np.linspace(2.0, 6.0, 64)
            _, weights = _released_render(params[0], origin, direction, distances)
            fine = _released_fine_distances(distances, weights, 128)
            expected[j, i], _ = _released_render(params[1], origin, direction, fine)

    rendered = render_image(
        fields,
        params,
        camera.through_corners(),
        config.nerf.sampler(),
        near=2.0,
        far=6.0,
        chunk=16,
    )
    assert expected.std() > 0.02
    np.testing.assert_allclose(rendered.colour, expected, atol=2e-4)


def test_noise_on_densities_comes_before_their_activation_and_is_that_of_the_key():
    field = NerfField(depth=1, width=8, view_width=4)
    params = field.init(jax.random.key(0))
    positions = jax.random.normal(jax.random.key(2), (4000, 3))
    noisy = NoisyField(field, jax.random.key(1), 0.5)
    density, features = noisy.density(params, positions)
    np.testing.assert_array_equal(noisy.density(params, positions)[0], density)
    quiet, same = field.density(params, positions)
    np.testing.assert_array_equal(features, same)
    # The inverse of softplus(x - 1) on both sides.
    raw = [np.log(np.expm1(np.asarray(x, np.float64))) for x in (density, quiet)]
    noise = raw[0] - raw[1]
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    other = dataclasses.replace(noisy, key=jax.random.key(3)).density(params, positions)[0]
    assert not np.allclose(other, density)

"""Whether photographs show the same points as bright."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxnerf.cameras import Camera, look_at_pose
from jaxnerf.config import override
from jaxnerf.presets import preset
from jaxnerf.scenes import Scene, Split
from jaxnerf.scenes.brightness import (
    brightness_of,
    relative_brightness,
    uneven_brightness,
)
from jaxnerf.spaces import adapt_to_scene

CAMERAS, POINTS = 12, 400


def sightings(seen_by: int, seed: int = 0):
    """Of points of any brightness, each seen by some cameras that follow one another; and the factors."""
    random = np.random.default_rng(seed)
    first = random.integers(0, CAMERAS - seen_by + 1, POINTS)
    camera = (first[:, None] + np.arange(seen_by)).ravel()
    point = np.repeat(np.arange(POINTS), seen_by)
    factors = np.exp(random.uniform(-0.4, 0.4, CAMERAS))
    value = np.repeat(random.uniform(30.0, 200.0, POINTS), seen_by) * factors[camera]
    return camera, point, value, factors / np.exp(np.log(factors).mean())


def test_factors_are_found_exactly_along_a_chain_of_pairs():
    camera, point, value, factors = sightings(seen_by=2)
    np.testing.assert_allclose(
        relative_brightness(camera, point, value, CAMERAS), factors, rtol=1e-4
    )


def test_neither_noise_nor_wrong_tracks_move_them():
    camera, point, value, factors = sightings(seen_by=4)
    random = np.random.default_rng(1)
    value = value * np.exp(random.normal(0.0, 0.02, len(value)))
    value[random.random(len(value)) < 0.1] *= 2.0
    found = relative_brightness(camera, point, value, CAMERAS)
    np.testing.assert_allclose(found, factors, rtol=0.02)


def test_a_photograph_of_few_points_is_not_judged_and_moves_nothing():
    camera, point, value, _ = sightings(seen_by=4)
    whole = relative_brightness(camera, point, value, CAMERAS)
    more = np.arange(19)
    found = relative_brightness(
        np.append(camera, np.full(19, CAMERAS)),
        np.append(point, more),
        np.append(value, np.full(19, 100.0)),
        CAMERAS + 1,
    )
    np.testing.assert_allclose(found[:-1], whole, rtol=0.02)
    assert np.isnan(found[-1])


def test_without_sightings_nothing_is_said():
    none = np.zeros(0, int)
    assert np.isnan(relative_brightness(none, none, np.zeros(0), 3)).all()


def a_scene(levels: list[int]) -> Scene:
    """Grey photographs of points that all of them see."""
    angles = np.linspace(0.0, 1.0, len(levels))
    poses = [look_at_pose((4.0 * np.cos(a), 4.0 * np.sin(a), 1.0), (0, 0, 0)) for a in angles]
    images = np.full((len(levels), 48, 64, 4), 255, np.uint8)
    images[..., :3] = np.array(levels)[:, None, None, None]
    cameras = Camera.pinhole(np.stack(poses), 60.0, 64, 48)
    split = Split(tuple(map(str, levels)), cameras, images)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 3))
    tracks = np.stack(np.meshgrid(np.arange(len(levels)), np.arange(40)), axis=-1).reshape(-1, 2)
    return Scene(
        "grey", Path("grey"), "test", {"train": split}, 1.0, 6.0, points=points, tracks=tracks
    )


def test_grey_photographs_have_the_factors_of_their_levels():
    found = brightness_of(a_scene([80, 120, 180]))
    assert found is not None
    np.testing.assert_allclose(found, np.array([80, 120, 180]) / 120.0, rtol=1e-5)


def test_clipped_photographs_are_left_out():
    found = brightness_of(a_scene([100, 255, 100]))
    assert found is not None
    np.testing.assert_allclose(found[[0, 2]], 1.0, rtol=1e-6)
    assert np.isnan(found[1])


def test_without_tracks_the_points_that_nothing_stands_before_do():
    scene = dataclasses.replace(a_scene([80, 120, 180]), tracks=None)
    found = brightness_of(scene)
    assert found is not None
    np.testing.assert_allclose(found, np.array([80, 120, 180]) / 120.0, rtol=1e-5)


def test_without_points_it_is_not_known():
    scene = dataclasses.replace(a_scene([100, 200]), points=None, tracks=None)
    assert brightness_of(scene) is None
    assert uneven_brightness(scene) is None


@pytest.mark.parametrize(("levels", "differ"), [([95, 100, 105], False), ([80, 100, 120], True)])
def test_photographs_that_differ_are_named_and_get_colours_of_their_own(levels, differ):
    scene = a_scene(levels)
    found = uneven_brightness(scene)
    assert (found is not None) == differ
    if found is not None:
        assert (found.darkest, found.brightest) == ("80", "120")
        assert found.factor == pytest.approx(1.5)
    config = preset("minute")
    key = "voxels.calibration.affine_colour"
    adapted = adapt_to_scene(config, scene)
    assert adapted.voxels.calibration.affine_colour is differ
    # Neither against what is asked for, nor in a run that was begun without.
    assert not adapt_to_scene(config, scene, [key]).voxels.calibration.affine_colour
    begun = override(adapted, {key: False})
    assert not adapt_to_scene(begun, scene).voxels.calibration.affine_colour

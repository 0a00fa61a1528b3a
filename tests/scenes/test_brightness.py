"""Whether photographs show the same points as bright."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxnerf.cameras import Camera, look_at_pose
from jaxnerf.config import ConfigError, override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import preset
from jaxnerf.methods.fit import fit
from jaxnerf.scenes import Scene, Split
from jaxnerf.scenes.brightness import brightness_of, log_ratios

CAMERAS, POINTS = 12, 600
COLOURS = "voxels.calibration.affine_colour"


def sightings(seen_by: int, cameras: int = CAMERAS, seed: int = 0):
    """Of points of any brightness, each seen by some cameras that follow one another."""
    random = np.random.default_rng(seed)
    first = random.integers(0, cameras - seen_by + 1, POINTS)
    camera = (first[:, None] + np.arange(seen_by)).ravel()
    point = np.repeat(np.arange(POINTS), seen_by)
    return camera, point, np.repeat(random.uniform(3.0, 5.0, POINTS), seen_by)


def test_ratios_are_those_of_the_photographs_for_pairs_that_share_points():
    camera, point, value = sightings(seen_by=4)
    random = np.random.default_rng(1)
    own = random.uniform(-0.4, 0.4, CAMERAS)
    shuffled = random.permutation(len(camera))
    pairs, ratios = log_ratios(camera[shuffled], point[shuffled], (value + own[camera])[shuffled])
    # Every camera with the next three.
    assert {tuple(pair) for pair in pairs.tolist()} == {
        (i, j) for i in range(CAMERAS) for j in range(i + 1, min(i + 4, CAMERAS))
    }
    np.testing.assert_allclose(ratios, own[pairs[:, 1]] - own[pairs[:, 0]], atol=1e-12)


def test_neither_noise_nor_wrong_tracks_move_them():
    camera, point, value = sightings(seen_by=4)
    random = np.random.default_rng(1)
    own = random.uniform(-0.4, 0.4, CAMERAS)
    value = value + own[camera] + random.normal(0.0, 0.02, len(value))
    value[random.random(len(value)) < 0.1] += 0.7
    pairs, ratios = log_ratios(camera, point, value)
    np.testing.assert_allclose(ratios, own[pairs[:, 1]] - own[pairs[:, 0]], atol=0.03)


def test_the_median_of_a_pair_is_numpys_and_few_shared_points_say_nothing():
    random = np.random.default_rng(0)
    for count in (19, 20, 21):
        change = random.normal(size=count)
        camera = np.repeat([0, 1], count)
        point = np.tile(np.arange(count), 2)
        pairs, ratios = log_ratios(camera, point, np.concatenate([np.zeros(count), change]))
        assert len(pairs) == (count >= 20)
        if count >= 20:
            assert ratios[0] == pytest.approx(np.median(change))


def test_dark_corners_do_not_add_up_along_a_way_forward():
    """Each point moves from the middle to a corner, a fifth darker, while ten photographs show it."""
    camera, point, value = sightings(seen_by=10, cameras=60)
    along = np.tile(np.linspace(0.0, 1.0, 10), POINTS)
    value = value + np.log(1.0 - 0.2 * along**2)
    _, ratios = log_ratios(camera, point, value)
    assert np.sqrt(0.5 * np.mean(ratios**2)) < 0.1


def test_without_sightings_there_are_no_pairs():
    none = np.zeros(0, int)
    pairs, ratios = log_ratios(none, none, np.zeros(0))
    assert (pairs.shape, ratios.shape) == ((0, 2), (0,))


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


def test_grey_photographs_differ_by_their_levels():
    found = brightness_of(a_scene([80, 120, 180]))
    assert found is not None
    assert (found.darkest, found.brightest) == ("80", "180")
    assert found.factor == pytest.approx(180 / 80)
    ratios = np.log([120 / 80, 180 / 120, 180 / 80])
    assert found.spread == pytest.approx(np.sqrt(0.5 * np.mean(ratios**2)))


def test_clipped_transparent_and_masked_pixels_are_left_out():
    assert brightness_of(a_scene([100, 255])) is None
    scene = a_scene([100, 200])
    split = scene.splits["train"]
    clear = split.images.copy()
    clear[1, ..., 3] = 0
    masks = np.ones((2, 48, 64), bool)
    masks[1] = False
    for changed in ({"images": clear}, {"masks": masks}):
        splits = {"train": dataclasses.replace(split, **changed)}
        assert brightness_of(dataclasses.replace(scene, splits=splits)) is None


def test_rooms_that_share_no_points_are_not_compared():
    scene = a_scene([60, 60, 60, 180, 180, 180])
    tracks = scene.tracks[(scene.tracks[:, 0] < 3) == (scene.tracks[:, 1] < 20)]
    found = brightness_of(dataclasses.replace(scene, tracks=tracks))
    assert found is not None
    assert found.spread == 0.0


def test_without_tracks_the_points_that_nothing_stands_before_are_compared():
    found = brightness_of(dataclasses.replace(a_scene([80, 120, 180]), tracks=None))
    assert found is not None
    assert found.factor == pytest.approx(180 / 80)


def test_without_points_it_is_not_known():
    assert brightness_of(dataclasses.replace(a_scene([100, 200]), points=None, tracks=None)) is None


@pytest.mark.parametrize(("levels", "differ"), [([95, 100, 105], False), ([80, 100, 120], True)])
def test_photographs_that_differ_get_corrections_of_colour(levels, differ):
    scene, config = a_scene(levels), preset("minute")
    adapted = adapt_to_scene(config, scene)
    assert adapted.voxels.calibration.affine_colour is differ
    # Neither against what is asked for, nor in a run that was begun without.
    assert not adapt_to_scene(config, scene, [COLOURS]).voxels.calibration.affine_colour
    begun = override(adapted, {COLOURS: False})
    assert not adapt_to_scene(begun, scene).voxels.calibration.affine_colour
    # A space that the user names changes nothing.
    named = override(config, {"scene.space": "bounded"})
    found = adapt_to_scene(named, scene, ["scene.space"])
    assert found.voxels.calibration.affine_colour is differ


@pytest.mark.slow
@pytest.mark.parametrize("named", [{}, {"scene__space": "bounded"}])
def test_a_run_with_corrections_is_resumed_by_the_call_that_began_it(named, tmp_path):
    def trained(steps: int, resume: bool):
        return fit(
            "minute", a_scene([80, 100, 120]), tmp_path / "run", steps=steps, resume=resume,
            training__rays_per_batch=64, voxels__stages__resolutions=(8, 12),
            voxels__stages__fractions=(0.5,), **named,
        )  # fmt: skip

    assert trained(2, resume=False).calibration is not None
    run = trained(4, resume=True)
    assert run.step == 4
    assert run.config.voxels.calibration.affine_colour


@pytest.mark.slow
def test_corrections_are_not_begun_or_dropped_in_the_middle_of_a_run(tmp_path):
    small = {
        "training.rays_per_batch": 64,
        "voxels.stages.resolutions": (8, 12),
        "voxels.stages.fractions": (0.5,),
    }
    config = override(preset("minute"), small)
    for levels, wanted in (([100, 101, 102], True), ([80, 100, 120], False)):
        out = tmp_path / str(wanted)
        fit(config, a_scene(levels), out, steps=2)
        with pytest.raises(ConfigError, match="affine_colour"):
            fit(
                config, a_scene(levels), out, steps=4, resume=True,
                voxels__calibration__affine_colour=wanted,
            )  # fmt: skip
        if wanted:  # by a configuration as by name
            asked = override(config, {COLOURS: True})
            with pytest.raises(ConfigError, match="affine_colour"):
                fit(asked, a_scene(levels), out, steps=4, resume=True)

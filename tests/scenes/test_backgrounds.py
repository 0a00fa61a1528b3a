"""The plain background that the borders of photographs show: found, used, said, kept."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from ball import photographs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scene_factory import (
    TINY,
    command_environment,  # noqa: F401
    edit_json,
    write_scene,
)

from jaxnerf import Camera
from jaxnerf.cameras import look_at_pose
from jaxnerf.cli import main
from jaxnerf.config import ConfigError, override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import preset
from jaxnerf.runs.folder import read_config
from jaxnerf.runs.run import load_run
from jaxnerf.scenes import Scene, Split, load_scene
from jaxnerf.scenes.backgrounds import levels_of, mean_colour_of
from jaxnerf.scenes.silhouettes import (
    TILE,
    background_of,
    plain_background,
    silhouettes,
)

SIDE, COUNT = 96, 10
# From the middle of a picture, in half its side.
ACROSS = (np.arange(SIDE) + 0.5) / (SIDE / 2) - 1.0
AWAY = np.hypot(ACROSS[:, None], ACROSS[None, :])
DISC = 0.5
COLOURS = [(255, 255, 255), (0, 0, 0), (128, 128, 128), (20, 160, 70)]
SHADES = np.array([230, 40, 60])


def discs(
    colour,
    noise: float = 0.0,
    vignette: float = 0.0,
    quality: int | None = None,
    count: int = COUNT,
) -> Split:
    """A red disc in the middle of photographs without alpha.

    Args:
      colour: of the background, 8-bit; or one for each photograph.
      noise: its standard deviation in levels.
      vignette: share of the light that is missing in the corners.
      quality: of a JPEG in which they were kept; None for none.
    """
    random = np.random.default_rng(0)
    colours = np.broadcast_to(np.asarray(colour), (count, 3))
    images = np.full((count, SIDE, SIDE, 4), 255, np.uint8)
    for image, behind in zip(images, colours, strict=True):
        light = 1.0 - vignette * AWAY[..., None] ** 2 / 2.0
        seen = np.where((AWAY < DISC)[..., None], SHADES, behind) * light
        seen = np.rint(seen + random.normal(0.0, noise or 1e-9, seen.shape))
        seen = np.clip(seen, 0, 255).astype(np.uint8)
        if quality is not None:
            file = io.BytesIO()
            Image.fromarray(seen).save(file, "JPEG", quality=quality)
            seen = np.asarray(Image.open(file))
        image[..., :3] = seen
    angles = 2.0 * np.pi * np.arange(count) / count
    eyes = np.stack([4.0 * np.cos(angles), 4.0 * np.sin(angles), np.ones(count)], axis=-1)
    poses = np.stack([look_at_pose(eye, (0.0, 0.0, 0.0)) for eye in eyes])
    return Split(tuple(map(str, range(count))), Camera.pinhole(poses, 100.0, SIDE, SIDE), images)


def by_tiles(values: np.ndarray) -> np.ndarray:
    """Pixels [SIDE, SIDE] as [tiles, tiles, TILE * TILE]."""
    tiles = SIDE // TILE
    return values.reshape(tiles, TILE, tiles, TILE).swapaxes(1, 2).reshape(tiles, tiles, -1)


SHOWN = (by_tiles(AWAY) < DISC).any(axis=-1)
# What JPEG smears at an edge reaches as far as its squares of 16 pixels do.
FAR_OUTSIDE = by_tiles(AWAY).min(axis=-1) > DISC + 16 * np.sqrt(2.0) / (SIDE / 2)


@pytest.mark.parametrize("colour", COLOURS)
def test_an_even_background_is_found_and_told_from_the_scene_to_the_tile(colour):
    split = discs(colour)
    plain = plain_background(split)
    assert (plain.levels, plain.tolerance) == (colour, 1)
    shown, witnesses = silhouettes(split, background_of(split))
    np.testing.assert_array_equal(shown, np.broadcast_to(SHOWN, shown.shape))
    assert witnesses == 2


@pytest.mark.parametrize("colour", [*COLOURS, (250, 250, 250)])
@pytest.mark.parametrize(
    ("noise", "vignette"), [(0.0, 0.0), (2.0, 0.0), (2.0, 0.05), (5.0, 0.0), (2.0, 0.1)]
)
def test_in_jpegs_with_noise_and_a_vignette_it_is_found_as_closely_as_they_allow(
    colour, noise, vignette
):
    split = discs(colour, noise, vignette, quality=85)
    plain = plain_background(split)
    # Along the borders the vignette takes from half of its share to all of it.
    low, high = (np.array(colour) * (1.0 - vignette * share) for share in (1.0, 0.5))
    assert (plain.levels >= low - noise - 2.0).all()
    assert (plain.levels <= high + noise + 2.0).all()
    shown, _ = silhouettes(split, background_of(split))
    assert shown[:, SHOWN].all()
    assert shown[:, FAR_OUTSIDE].mean() < 0.15


def test_a_soft_shadow_is_none_of_it():
    split = discs((128, 128, 128))
    split.images[:, -16:, :48, :3] = 118
    plain = plain_background(split)
    assert (plain.levels, plain.tolerance) == ((128, 128, 128), 1)
    shown, _ = silhouettes(split, "#808080")
    shadow = np.zeros_like(SHOWN)
    shadow[-2:, :6] = True
    np.testing.assert_array_equal(shown, np.broadcast_to(SHOWN | shadow, shown.shape))


def test_the_scene_may_fill_a_fifth_of_the_photographs():
    split = discs((128, 128, 128))
    split.images[:2, ..., :3] = SHADES
    assert background_of(split) == "#808080"
    split.images[:3, ..., :3] = SHADES
    assert plain_background(split) is None


@pytest.mark.parametrize(
    "split",
    [
        discs([(255, 255, 255)] * 6 + [(0, 0, 0)] * 4),
        discs([(255, 255, 255)] * 7 + [(128, 128, 128)] * 3),
        discs((128, 128, 128), noise=40.0),
        discs(np.random.default_rng(1).integers(0, 256, (COUNT, 3))),
    ],
    ids=["black in four of ten", "grey in three of ten", "coarse noise", "each another"],
)
def test_what_is_not_one_colour_in_all_photographs_is_none(split):
    assert plain_background(split) is None
    assert background_of(split) == "white"


def test_a_wall_along_one_side_is_none():
    split = discs((90, 90, 90))
    split.images[:, :, :, :3] = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3))
    split.images[:, :, :24, :3] = 90
    assert plain_background(split) is None


def test_pixels_that_do_not_count_are_not_looked_at():
    split = discs((30, 60, 200))
    split.images[:, : SIDE // 2] = 7
    masks = np.ones((COUNT, SIDE, SIDE), bool)
    masks[:, : SIDE // 2] = False
    masked = dataclasses.replace(split, masks=masks)
    assert plain_background(masked).levels == (30, 60, 200)
    nothing = dataclasses.replace(split, masks=np.zeros_like(masks))
    assert plain_background(nothing) is None


@pytest.fixture(scope="module")
def demo() -> Scene:
    return load_scene()


@pytest.mark.parametrize(("grey", "name"), [(0, "black"), (128, "#808080"), (255, "white")])
def test_the_demo_scene_without_alpha_has_the_silhouettes_that_it_has_with_alpha(demo, grey, name):
    with_alpha = demo.splits["train"]
    alpha = with_alpha.images[..., 3:] / np.float32(255.0)
    opaque = np.rint(with_alpha.images[..., :3] * alpha + grey * (1.0 - alpha)).astype(np.uint8)
    solid = np.full_like(with_alpha.images[..., 3:], 255)
    split = dataclasses.replace(with_alpha, images=np.concatenate([opaque, solid], axis=-1))
    assert background_of(split) == name
    shown, _ = silhouettes(split, name)
    expected, _ = silhouettes(with_alpha, "white")
    assert (shown & ~expected).sum() == 0
    assert (expected & ~shown).sum() < 0.005 * expected.sum()


def suited_background(
    split: Split, background: str = "auto", chosen=(), start: str = "minute", **scene
) -> str:
    start = override(preset(start), {"training.background": background})
    scene = Scene("discs", Path("discs"), "blender", {"train": split}, 2.0, 6.0, **scene)
    return adapt_to_scene(start, scene, chosen).training.background


def test_what_suits_a_scene_lies_behind_it_unless_the_user_says_otherwise(demo):
    key = "training.background"
    green = discs((20, 160, 70))
    assert suited_background(green) == "#14a046"
    assert suited_background(green, "auto", [key]) == "#14a046"
    for said in ("white", "black", "random", "#102030"):
        assert suited_background(green, said, [key]) == said
    # Photographs with alpha are blended on white, whatever colour their empty pixels have.
    assert suited_background(demo.splits["train"]) == "white"
    assert suited_background(photographs(2)) == "white"
    # The same disc in all of them may be the circle of a lens. Of a scene that fills its photographs
    # nothing is plain: their mean colour.
    mean = green.images[..., :3].reshape(-1, 3).astype(float).mean(axis=0)
    named = "#{:02x}{:02x}{:02x}".format(*(int(level) for level in mean.round()))
    assert suited_background(green, unbounded=True) == named
    assert suited_background(green, "auto", [key], unbounded=True) == named
    known = override(preset("minute"), {"scene.space": "unbounded"})
    scene = Scene("ball", Path("ball"), "blender", {"train": photographs(2)}, 2.0, 6.0)
    assert adapt_to_scene(known, scene).training.background == "random"  # since it has alpha
    known = override(preset("hash_grid"), {"scene.space": "unbounded"})
    assert adapt_to_scene(known, scene).training.background == "random"
    for method in ("nerf", "hash_grid"):
        name = {"nerf": "white", "hash_grid": "random"}[method]
        assert suited_background(green, start=method, unbounded=True) == name
    assert suited_background(green, "black", [key], unbounded=True) == "black"
    # A run's scene has no photographs.
    blind = dataclasses.replace(green, images=None)
    assert suited_background(blind, "#14a046") == "#14a046"


@settings(max_examples=4)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_mean_colour_is_that_of_the_valid_pixels_of_all_photographs(seed, masked):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (3, 12, 16, 4)).astype(np.uint8)
    images[..., 3] = 255
    split = dataclasses.replace(discs((20, 160, 70), count=3), images=images)
    split.images[1, :, 10:] = 0  # a narrower photograph
    masks = random.random(split.images.shape[:3]) < 0.5 if masked else None
    whole = np.ones(split.images.shape[:3], bool) if masks is None else masks
    sums, count = np.zeros(3), 0
    for image, valid in zip(split.images, whole, strict=True):
        for row, here in zip(image, valid, strict=True):
            for pixel, counts in zip(row, here, strict=True):
                if counts and pixel[3]:
                    sums, count = sums + pixel[:3], count + 1
    expected = "#{:02x}{:02x}{:02x}".format(*(int(level) for level in np.rint(sums / count)))
    assert mean_colour_of(dataclasses.replace(split, masks=masks)) == expected


def test_a_mean_colour_of_large_photographs_is_that_of_some_pixels_and_of_none_white():
    split = discs((20, 160, 70), count=2)
    large = np.repeat(np.repeat(split.images, 8, axis=1), 8, axis=2)
    mean, found = (
        levels_of(mean_colour_of(dataclasses.replace(split, images=images)))
        for images in (split.images, large)
    )
    np.testing.assert_allclose(found, mean, atol=4)
    strip = np.repeat(split.images[:, 40:50], 80, axis=2)
    name = mean_colour_of(dataclasses.replace(split, images=strip))
    expected = strip[..., :3].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(levels_of(name), expected, atol=4)
    nothing = np.zeros(split.images.shape[:3], bool)
    assert mean_colour_of(dataclasses.replace(split, masks=nothing)) == "white"


def train(folder, run, *flags) -> None:
    assert main(["train", f"--data={folder}", f"--out={run}", *TINY, *flags]) == 0


@pytest.mark.slow
def test_a_run_says_keeps_and_is_measured_on_the_colour_that_was_found(tmp_path, capsys):
    folder, run = write_scene(tmp_path / "balls", 48, 48), tmp_path / "run"
    for file in folder.glob("*/*.png"):
        grey = Image.new("RGBA", (48, 48), (128, 128, 128, 255))
        grey.alpha_composite(Image.open(file))
        grey.convert("RGB").save(file)
    short = ("--max_steps=2", "--evaluation.orbit_frames=0")
    train(folder, run, *short)
    assert "plain background: #808080, from the borders" in capsys.readouterr().out
    assert json.loads((run / "config.json").read_text())["training"]["background"] == "#808080"
    assert json.loads((run / "results.json").read_text())["protocol"]["background"] == "#808080"
    trained = load_run(run)
    seen = trained.render(trained.cameras("test")[0])
    on_grey = trained.render(trained.cameras("test")[0], background=128.0 / 255.0)
    np.testing.assert_allclose(seen.colour, on_grey.colour, atol=1e-6)
    # What a preset leaves open is as it was when the run goes on.
    train(folder, run, "--resume", "--max_steps=3", "--evaluation.orbit_frames=0")
    assert read_config(run).training.background == "#808080"

    capsys.readouterr()
    train(folder, tmp_path / "white", *short, "--noevaluate", "--training.background=white")
    said = capsys.readouterr().out
    assert "training.background is white" in said
    assert "--training.background=#808080" in said
    assert read_config(tmp_path / "white").training.background == "white"

    edit_json(run / "config.json", lambda c: c["training"].update(background="white"))
    assert load_run(run).background == (1.0, 1.0, 1.0)


def test_what_is_not_plain_and_what_has_alpha_is_told_from_it(tmp_path, capsys):
    short = ("--max_steps=1", "--noevaluate")
    folder = write_scene(tmp_path / "balls", 48, 48)
    train(folder, tmp_path / "alpha", *short)
    assert "background" not in capsys.readouterr().out
    random = np.random.default_rng(0)
    for file in folder.glob("train/*.png"):
        Image.fromarray(random.integers(0, 256, (48, 48, 3), np.uint8)).save(file)
    # Which would else be taken for a capture, without an end.
    train(folder, tmp_path / "noise", *short, "--scene.space=bounded")
    assert "no plain background along the borders" in capsys.readouterr().out
    assert read_config(tmp_path / "noise").training.background == "white"


def test_a_colour_that_is_none_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"'0\.5,0\.5,0\.5' is not one of auto, white") as caught:
        override(preset("minute"), {"training.background": "0.5,0.5,0.5"})
    assert "\n" not in str(caught.value)

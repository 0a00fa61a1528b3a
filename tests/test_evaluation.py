"""Measures of pictures against closed forms and scikit-image, and what results.json says."""

import errno
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scene_factory import write_scene
from skimage.metrics import structural_similarity

from jaxnerf import evaluation
from jaxnerf.evaluation import blend, evaluate_split, psnr, ssim, to_8bit
from jaxnerf.runs.files import write_json
from jaxnerf.scenes import load_scene


@settings(derandomize=True, deadline=None)
@given(st.floats(1e-6, 1.0))
def test_psnr_of_an_even_difference_is_20_log10_of_it(difference):
    truth = np.zeros((3, 5, 3))
    assert psnr(truth + difference, truth) == pytest.approx(-20.0 * math.log10(difference))


def test_psnr_is_of_the_mean_square_and_infinite_for_equals():
    picture, truth = np.random.default_rng(0).random((2, 4, 6, 3)).astype(np.float32)
    total = 0.0
    for p, t in zip(picture.ravel(), truth.ravel(), strict=True):
        total += (float(p) - float(t)) ** 2
    assert psnr(picture, truth) == pytest.approx(10.0 * math.log10(72.0 / total), abs=1e-9)
    assert psnr(picture, picture) == math.inf


def reference_ssim(picture, truth):
    _, every_pixel = structural_similarity(
        picture.astype(np.float64),
        truth.astype(np.float64),
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return every_pixel[5:-5, 5:-5].mean()


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("shape", [(11, 11), (16, 23), (40, 31)])
def test_ssim_is_that_of_scikit_image_where_the_window_fits(shape, noise):
    random = np.random.default_rng(1)
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = 0.5 + 0.4 * np.sin(np.stack([0.3 * x, 0.2 * y, 0.1 * x * y], axis=-1))
    picture = np.clip(truth + noise * random.normal(size=truth.shape), 0.0, 1.0)
    picture, truth = picture.astype(np.float32), truth.astype(np.float32)
    assert ssim(picture, truth) == pytest.approx(reference_ssim(picture, truth), abs=2e-5)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="11"):
        ssim(np.zeros((10, 30, 3), np.float32), np.zeros((10, 30, 3), np.float32))


@pytest.mark.parametrize("background", [0.0, 0.25, 1.0, (0.1, 0.5, 0.9)])
def test_blending_weighs_the_colour_with_alpha_and_the_background_with_the_rest(background):
    levels = np.array([0, 1, 128, 254, 255], np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels, levels), axis=-1)
    blended = blend(image, background)
    assert blended.dtype == np.float32
    for pixel, found in zip(image.reshape(-1, 4)[::7], blended.reshape(-1, 3)[::7], strict=True):
        alpha = int(pixel[3]) / 255
        behind = np.broadcast_to(background, 3)
        expected = pixel[:3] / 255 * alpha + behind * (1.0 - alpha)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_8_bit_rounding_is_to_the_nearest_level_and_clips():
    levels = np.arange(256, dtype=np.float64)
    for shift in (-0.49, 0.0, 0.49):
        np.testing.assert_array_equal(to_8bit((levels + shift) / 255.0), levels.astype(np.uint8))
    np.testing.assert_array_equal(
        to_8bit(np.array([-3.0, -0.001, 1.001, np.inf])), [0, 0, 255, 255]
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = write_scene(tmp_path_factory.mktemp("evaluation") / "balls", 14, 12)
    return load_scene(folder, images=("train",)).splits["train"]


def guesses(count: int) -> np.ndarray:
    return np.random.default_rng(2).uniform(-0.1, 1.1, (count, 12, 14, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("background", "every"), [(1.0, 1), (0.0, 1), (1.0, 3), ((0.2, 0.4, 0.6), 3), (0.25, 3)]
)
def test_results_are_those_of_the_pictures_and_say_how_they_were_measured(
    photographs, tmp_path, background, every
):
    pictures, seen = guesses(4), []
    # Of an earlier state, in which more views were measured; and somebody's own.
    (tmp_path / "preds").mkdir()
    for name in ("001.png", "002.png", "003.png", "mine.png"):
        (tmp_path / "preds" / name).write_bytes(b"old")
    results = evaluate_split(
        pictures.__getitem__,
        photographs,
        tmp_path / "preds",
        name="val",
        background=background,
        every=every,
        lpips=lambda picture, truth: float(np.abs(picture - truth).mean()),
        progress=lambda done, total, row: seen.append((done, total, row["image"])),
    )
    assert results["protocol"]["lpips"] == "by a function of the caller's"
    chosen = list(range(0, 4, every))
    assert [row["file"] for row in results["images"]] == [f"preds/{i:03d}.png" for i in chosen]
    there = [f"{i:03d}.png" for i in chosen]
    assert sorted(os.listdir(tmp_path / "preds")) == [*there, "mine.png"]
    assert seen == [(n + 1, len(chosen), f"train/r_{i}.png") for n, i in enumerate(chosen)]
    for row, index in zip(results["images"], chosen, strict=True):
        rgba = photographs.images[index] / 255.0
        truth = rgba[..., :3] * rgba[..., 3:] + np.asarray(background) * (1.0 - rgba[..., 3:])
        clipped = np.clip(pictures[index].astype(np.float64), 0.0, 1.0)
        saved = np.asarray(Image.open(tmp_path / row["file"]))
        assert row["image"] == f"train/r_{index}.png"
        np.testing.assert_array_equal(saved, np.round(clipped * 255.0))
        for name, picture in (("psnr", clipped), ("psnr_8bit", saved / 255.0)):
            expected = -10.0 * math.log10(np.mean((picture - truth) ** 2))
            assert row[name] == pytest.approx(expected, abs=1e-5)
        assert row["ssim"] == pytest.approx(reference_ssim(clipped, truth), abs=2e-5)
        assert row["lpips"] == pytest.approx(np.abs(clipped - truth).mean(), rel=1e-5)
    for name in ("psnr", "psnr_8bit", "ssim", "lpips"):
        assert results[name] == pytest.approx(np.mean([row[name] for row in results["images"]]))
    protocol = results["protocol"]
    assert protocol["split"] == "val"
    assert protocol["resolution"] == [14, 12]
    names = {1.0: "white", 0.0: "black", (0.2, 0.4, 0.6): "#336699", 0.25: 0.25}
    assert protocol["background"] == names[background]
    assert (protocol["images"], protocol["of"], protocol["every"]) == (len(chosen), 4, every)
    assert protocol["ssim"]["size"] == 11
    assert results["render_seconds_per_image"] >= 0.0
    json.dumps(results, allow_nan=False)


def test_pictures_smaller_than_the_window_of_ssim_are_measured_without_it(tmp_path):
    split = load_scene(write_scene(tmp_path / "scene", 16, 10, train=1)).splits["train"]
    picture = np.full((10, 16, 3), 0.5, np.float32)
    results = evaluate_split(lambda _: picture, split, tmp_path / "preds")
    assert "ssim" not in results
    assert "ssim" not in results["images"][0]
    assert "lpips" not in results
    assert "not measured" in results["protocol"]["ssim"]
    assert "not measured" in results["protocol"]["lpips"]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": [1.5, None]})
    assert json.loads(path.read_text()) == {"a": [1.5, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [1.5, None]}
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_leaves_the_json_that_was_there(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    (tmp_path / ".partial.results.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        write_json(path, {"a": 2})
    assert caught.value.errno == errno.ENOSPC
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    ("seconds", "measured"),
    [(1000.0, [0, 1, 2, 3, 4, 5]), (30.0, [0, 2, 4]), (20.0, [0, 3]), (0.0, [0])],
)
def test_as_many_views_are_measured_as_fit_into_the_time(tmp_path, monkeypatch, seconds, measured):
    """Of six views that take 10 s each, but the first picture 35 s, for compilation."""
    folder = write_scene(tmp_path / "scene", test=6)
    split = load_scene(folder, images=("test",)).splits["test"]
    now, rendered = [0.0], []

    def render(index):
        now[0] += 10.0 if rendered else 35.0
        rendered.append(index)
        return np.zeros((16, 16, 3), np.float32)

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: now[0])
    results = evaluate_split(render, split, tmp_path / "out", every=0, seconds=seconds)
    is_slow = 2.0 * seconds < 35.0  # then the first is not measured again
    assert rendered == [0, *measured][is_slow:]
    assert [row["image"] for row in results["images"]] == [split.names[i] for i in measured]
    protocol = results["protocol"]
    assert (protocol["images"], protocol["of"]) == (len(measured), 6)
    assert ("chosen" in protocol) == (len(measured) < 6)
    assert results["render_seconds_per_image"] == (35.0 if is_slow else 10.0)
    assert sorted(os.listdir(tmp_path / "out")) == [f"{index:03d}.png" for index in measured]

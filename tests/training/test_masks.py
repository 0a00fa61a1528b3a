"""Pixels that do not count are never trained on, never measured, and never say that a place is empty."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from ball import CENTRE, RADIUS, SIDE, photographs
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from training_factory import first_state_of_voxels, trainer_of_voxels

from jaxnerf import Camera
from jaxnerf.cameras import look_at_pose
from jaxnerf.evaluation import evaluate_split, ssim
from jaxnerf.scenes import Split
from jaxnerf.scenes.silhouettes import TILE, possible_cells, silhouettes, tiles_of
from jaxnerf.training.batches import sample_batch, usable_tiles
from jaxnerf.training.coarse_to_fine.settings import CoarseToFineConfig
from jaxnerf.training.loop import train
from jaxnerf.training.settings import TrainingConfig

CONFIG = TrainingConfig(rays_per_batch=4096, seed=3)


def noise_split(masks: np.ndarray) -> Split:
    count, height, width = masks.shape
    random = np.random.default_rng(0)
    poses = np.stack([look_at_pose((4.0, view - 1.0, 1.0), (0, 0, 0)) for view in range(count)])
    images = random.integers(256, size=(*masks.shape, 4), dtype=np.uint8)
    names = tuple(map(str, range(count)))
    return Split(names, Camera.pinhole(poses, 30.0, width, height), images, masks)


def random_masks(seed: int, count=3, height=20, width=27) -> np.ndarray:
    """Of boxes, and single pixels."""
    random = np.random.default_rng(seed)
    masks = random.random((count, height, width)) > 0.03
    for mask in masks:
        y, x = random.integers(height), random.integers(width)
        mask[y : y + 9, x : x + 12] = False
    return masks


@pytest.mark.parametrize("one_image", [False, True])
def test_batches_are_drawn_evenly_from_the_pixels_that_count(one_image):
    masks = random_masks(1, height=8, width=9)
    masks[1] = False
    masks[1, 3, 4:6] = True
    split = noise_split(masks)
    size, seed = CONFIG.rays_per_batch, CONFIG.seed
    drawn = np.zeros(masks.shape)
    for step in range(60):
        batch = sample_batch(split, size, seed, step, one_image=one_image)
        x, y = (batch.middle - 0.5).astype(int).T
        np.testing.assert_array_equal(batch.pixels[:, 0], split.images[batch.camera, y, x])
        assert len(set(batch.camera)) == (1 if one_image else 3)
        np.add.at(drawn, (batch.camera, y, x), 1)
    assert not drawn[~masks].any()
    for each in range(3) if one_image else [slice(None)]:
        times = drawn[each][masks[each]]
        # Five standard deviations of a Poisson variable.
        assert np.abs(times - times.mean()).max() < 5.0 * math.sqrt(times.mean())


@pytest.mark.parametrize("block", [1, 2, 4])
def test_batches_of_a_mask_that_ignores_nothing_are_those_of_no_mask(block):
    masked = noise_split(np.ones((3, 20, 27), bool))
    plain = dataclasses.replace(masked, masks=None)
    tiles = np.argwhere(tiles_of(np.ones((3, 20, 27), bool))).astype(np.int32)
    for one, other in [
        (sample_batch(masked, 64, 1, 2), sample_batch(plain, 64, 1, 2)),
        (sample_batch(masked, 500, 1, 2, tiles=tiles, block=block),
         sample_batch(plain, 500, 1, 2, tiles=tiles, block=block)),
    ]:  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert usable_tiles(plain, tiles, block) == (tiles, block)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_all_pixels_of_blocks_count_and_all_such_blocks_are_drawn(block):
    masks = random_masks(2)
    split = noise_split(masks)
    tiles = np.argwhere(tiles_of(masks)).astype(np.int32)
    usable, same = usable_tiles(split, tiles, block)
    assert same == block
    drawn = np.zeros(masks.shape, int)
    for step in range(20):
        batch = sample_batch(split, 1000, 5, step, tiles=usable, block=block)
        corner = (batch.middle - 0.5 * block).astype(int)
        for camera, (x, y), pixels in zip(batch.camera, corner, batch.pixels, strict=True):
            square = (camera, slice(y, y + block), slice(x, x + block))
            assert masks[square].all()
            np.testing.assert_array_equal(pixels, split.images[square].reshape(-1, 4))
            drawn[square] += 1
    for camera, row, column in np.ndindex(3, 20 // block, 27 // block):
        square = (camera, slice(row * block, (row + 1) * block))
        square += (slice(column * block, (column + 1) * block),)
        assert drawn[square].all() == masks[square].all()


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]), st.floats(0.0, 1.0))
def test_usable_tiles_hold_a_block_that_counts_or_blocks_become_smaller(seed, block, density):
    random = np.random.default_rng(seed)
    masks = random.random((2, 13, 18)) < density
    masks[0, random.integers(13), random.integers(18)] = True
    tiles = np.argwhere(tiles_of(masks)).astype(np.int32)
    usable, size = usable_tiles(noise_split(masks), tiles, block)
    assert len(usable)
    expected = {}
    for each in (1, 2, 4):
        expected[each] = {
            (camera, y // TILE, x // TILE)
            for camera in range(2)
            for y in range(0, 13 - each + 1, each)
            for x in range(0, 18 - each + 1, each)
            if masks[camera, y : y + each, x : x + each].all()
        }
    assert size == max(each for each in (1, 2, 4) if each <= block and expected[each])
    assert set(map(tuple, usable.tolist())) == expected[size]


def test_alpha_is_looked_at_only_where_pixels_count():
    """Padding is transparent black, and no silhouette."""
    split = photographs(alpha=False)
    masks = np.ones(split.images.shape[:3], bool)
    masks[:, :, 40:] = False
    split.images[:, :, 40:] = 0
    assert split.has_alpha
    assert not dataclasses.replace(split, masks=masks).has_alpha
    assert dataclasses.replace(photographs(), masks=masks).has_alpha
    assert not dataclasses.replace(split, masks=masks & False).has_alpha


def cut_out(split: Split, how: str) -> Split:
    """The ball is missing in half of the pictures, where it is masked or cropped away."""
    masks = np.ones(split.images.shape[:3], bool)
    sizes = np.array(split.cameras.size)
    cut = slice(None, None, 2)
    if how == "masked":
        masks[cut, 8:56, 8:56] = False
    else:
        masks[cut, 20:] = False
        sizes[cut, 1] = 20
    split.images[~masks] = 0 if how == "padded" else 255
    cameras = dataclasses.replace(split.cameras, size=sizes)
    return Split(split.names, cameras, split.images, masks)


@pytest.mark.parametrize("how", ["masked", "padded"])
@pytest.mark.parametrize("alpha", [True, False])
def test_what_is_masked_or_beyond_a_picture_may_hold_something(how, alpha):
    split = cut_out(photographs(24, alpha=alpha), how)
    if alpha:
        split.images[~split.masks] = 0
    shown, _ = silhouettes(split, "white")
    pixels = ~split.masks | (split.images[..., 3] > 0 if alpha else (split.images < 254).any(-1))
    np.testing.assert_array_equal(shown, tiles_of(pixels))
    origin, side, cells = possible_cells(split, 32, "white")
    middles = origin + (np.argwhere(np.ones_like(cells)) + 0.5) * side / 32
    inside = np.linalg.norm(middles - CENTRE, axis=-1) < RADIUS
    assert cells.reshape(-1)[inside].all()
    assert cells.mean() < 0.9


def test_margins_are_those_of_each_picture():
    """A small picture on white among padding is known to be on white."""
    split = photographs(alpha=False)
    masks = np.zeros(split.images.shape[:3], bool)
    masks[:, :56, :48] = True
    split.images[~masks] = 0
    sizes = np.broadcast_to(np.array([48, 56], np.int32), (12, 2))
    cameras = dataclasses.replace(split.cameras, size=sizes)
    shown, witnesses = silhouettes(Split(split.names, cameras, split.images, masks), "white")
    assert not shown[:, :7, :6].all()
    assert witnesses == 2


@pytest.mark.slow
def test_masked_pixels_do_not_change_what_is_learned():
    """Whatever they hold, training ends with the same parameters."""
    growing = CoarseToFineConfig(resolutions=(8, 16), fractions=(0.5,), cells=8, refresh_every=4)
    config = TrainingConfig(steps=12, rays_per_batch=64, seed=5)
    ends = []
    for filling in (0, 90, 255):
        split = photographs(alpha=False)
        masks = np.ones(split.images.shape[:3], bool)
        masks[:, 20:40, 20:33] = False
        masks[:5, :, 50:] = False
        split.images[~masks] = filling
        split = dataclasses.replace(split, masks=masks)
        trainer = trainer_of_voxels(split, growing, config)
        state = first_state_of_voxels(split, growing, config)
        for progress in train(state, trainer):
            state = progress.state
        ends.append(jax.tree.map(np.asarray, state.params))
    for other in ends[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, ends[0])


def test_a_mask_that_leaves_only_single_pixels_is_trained_on():
    growing = CoarseToFineConfig(resolutions=(8,), fractions=(), cells=8)
    config = TrainingConfig(steps=3, rays_per_batch=64, seed=5)
    masks = np.zeros((12, SIDE, SIDE), bool)
    masks[:, ::5, ::7] = True
    split = dataclasses.replace(photographs(), masks=masks)
    trainer = trainer_of_voxels(split, growing, config)
    state = first_state_of_voxels(split, growing, config)
    losses = [progress.metrics["loss"] for progress in train(state, trainer)]
    assert np.isfinite(losses).all()


def measured(tmp_path, with_masks=True):
    """Results of random pictures of photographs of two sizes, one with a mask."""
    masks = np.zeros((2, 24, 30), bool)
    masks[0] = True
    masks[0, 4:12, 7:20] = not with_masks
    masks[1, :20, :14] = True
    split = noise_split(masks)
    sizes = np.array([[30, 24], [14, 20]], np.int32)
    split = dataclasses.replace(split, cameras=dataclasses.replace(split.cameras, size=sizes))
    random = np.random.default_rng(4)
    pictures = [random.random((height, width, 3)).astype(np.float32) for width, height in sizes]
    alike = []

    def lpips(picture, truth):
        alike.append((picture, truth))
        return float(np.abs(picture - truth).mean())

    results = evaluate_split(pictures.__getitem__, split, tmp_path / "preds", lpips=lpips)
    return split, pictures, results, alike


def test_metrics_are_of_the_pixels_that_count(tmp_path):
    split, pictures, results, alike = measured(tmp_path)
    for index, (row, picture) in enumerate(zip(results["images"], pictures, strict=True)):
        height, width = picture.shape[:2]
        counted = split.masks[index, :height, :width]
        rgba = split.images[index, :height, :width] / 255.0
        truth = rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]
        total, number = 0.0, 0
        for y, x in np.argwhere(counted):
            total += float(np.sum((picture[y, x] - truth[y, x]) ** 2))
            number += 3
        assert row["psnr"] == pytest.approx(10.0 * math.log10(number / total), abs=1e-4)
        mended = np.where(counted[..., None], picture, truth)
        _, every = structural_similarity(
            mended, truth, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        middle = (slice(5, -5), slice(5, -5))
        expected = every[middle][counted[middle]].mean()
        assert row["ssim"] == pytest.approx(expected, abs=2e-5)
        np.testing.assert_allclose(alike[index][0], mended, atol=1e-6)
        np.testing.assert_allclose(alike[index][1], truth, atol=1e-6)
    assert results["images"][0]["counted"] == pytest.approx(1.0 - 8 * 13 / (24 * 30))
    assert "counted" not in results["images"][1]
    protocol = results["protocol"]
    assert protocol["resolution"] == [30, 24]
    assert protocol["resolutions"] == [[14, 20], [30, 24]]
    assert "replaced" in protocol["masks"]


def test_padding_alone_is_no_mask_in_the_protocol(tmp_path):
    _, _, results, _ = measured(tmp_path, with_masks=False)
    assert results["protocol"]["masks"] == "none"
    assert not any("counted" in row for row in results["images"])


def test_ssim_refuses_masks_without_a_pixel_that_has_a_window():
    picture = np.zeros((12, 12, 3), np.float32)
    counted = np.zeros((12, 12), bool)
    counted[:5] = True
    with pytest.raises(ValueError, match="no pixel that counts"):
        ssim(picture, picture, counted)


def test_alpha_says_nothing_of_photographs_without_and_squares_that_do_not_exist_are_refused():
    split = noise_split(np.ones((3, 20, 27), bool))
    opaque = split.images.copy()
    opaque[..., 3] = 255
    assert not sample_batch(dataclasses.replace(split, images=opaque), 8, 1, 2).transparent
    clear = split.images.copy()
    clear[..., 3] = 0
    assert sample_batch(dataclasses.replace(split, images=clear), 8, 1, 2).transparent
    masks = np.zeros((3, 20, 27), bool)
    masks[:, ::2] = True
    with pytest.raises(ValueError, match="no square of 2 x 2 pixels that count was found"):
        sample_batch(noise_split(masks), 4, 1, 2, block=2)


def test_squares_that_do_not_divide_tiles_are_refused():
    split = noise_split(np.ones((3, 8, 9), bool))
    with pytest.raises(ValueError, match="squares of 3 pixels do not divide tiles of 8"):
        sample_batch(split, 4, 0, 0, tiles=np.zeros((1, 3), np.int32), block=3)


@pytest.mark.parametrize("one_image", [False, True])
def test_masks_that_ignore_everything_are_refused(one_image):
    split = noise_split(np.zeros((3, 8, 9), bool))
    with pytest.raises(ValueError, match="no square of 1 x 1 pixels that count"):
        sample_batch(split, 4, 0, 0, one_image=one_image)

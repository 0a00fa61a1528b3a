"""Photographs of different sizes, masks of both polarities, orientation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.images import (
    Picture,
    find_picture,
    image_size,
    read_image,
    read_mask,
    read_pictures,
    shrink,
    shrink_mask,
)
from jaxnerf.scenes.picture_files import by_number


def noise(path, width, height, seed=0) -> np.ndarray:
    """Write an RGB picture; returns it as RGBA."""
    rgb = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(path)
    return np.concatenate([rgb, np.full((height, width, 1), 255, np.uint8)], axis=-1)


def test_pictures_of_different_sizes_are_padded_and_the_padding_does_not_count(tmp_path):
    sizes = [(9, 6), (5, 8), (9, 8)]
    wanted = [noise(tmp_path / f"{i}.png", *size, i) for i, size in enumerate(sizes)]
    pictures = [find_picture(tmp_path / f"{i}.png") for i in range(3)]
    assert [picture.size for picture in pictures] == sizes
    for factor in (1, 2):
        images, masks = read_pictures(pictures, factor)
        assert images.shape == (3, 8 // factor, 9 // factor, 4)
        for image, mask, rgba, (width, height) in zip(images, masks, wanted, sizes, strict=True):
            width, height = width // factor, height // factor
            np.testing.assert_array_equal(image[:height, :width], shrink(rgba, factor))
            counted = np.zeros(mask.shape, bool)
            counted[:height, :width] = True
            np.testing.assert_array_equal(mask, counted)
            assert not image[~counted].any()


def test_pictures_of_one_size_without_masks_have_none(tmp_path):
    wanted = [noise(tmp_path / f"{i}.png", 7, 5, i) for i in range(3)]
    images, masks = read_pictures([find_picture(tmp_path / f"{i}.png") for i in range(3)])
    np.testing.assert_array_equal(images, wanted)
    assert masks is None


def test_sizes_that_are_the_same_when_shrunk_need_no_padding(tmp_path):
    for index, size in enumerate([(8, 6), (9, 7)]):
        noise(tmp_path / f"{index}.png", *size)
    images, masks = read_pictures([find_picture(tmp_path / f"{i}.png") for i in range(2)], 2)
    assert images.shape == (2, 3, 4, 4)
    assert masks is None


MASK = np.array([[0, 0, 1, 255], [0, 3, 0, 255]], np.uint16)


def mask_files() -> dict[str, Image.Image]:
    """A mask in many kinds of image."""
    grey = MASK.astype(np.uint8)
    blue = np.stack([0 * grey, 0 * grey, grey], axis=-1)
    palette = Image.fromarray((grey > 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 1, 0])
    return {
        "grey": Image.fromarray(grey),
        "colour": Image.fromarray(blue),
        "16 bits": Image.fromarray(MASK),
        "1 bit": Image.fromarray((grey > 0).astype(np.uint8) * 255).convert("1"),
        "palette": palette,
        "alpha is no matter": Image.fromarray(np.stack([grey, 200 - grey // 2], axis=-1), "LA"),
    }


@pytest.mark.parametrize("kind", mask_files())
@pytest.mark.filterwarnings("ignore:.*mode.*parameter:DeprecationWarning")
def test_masks_of_both_polarities(kind, tmp_path):
    mask_files()[kind].save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MASK > 0)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", "bright"), MASK == 0)


@pytest.mark.parametrize("grey", [0, 255])
def test_a_mask_of_one_brightness_is_its_alpha_only_where_that_varies(grey, tmp_path):
    values, alpha = np.full_like(MASK, grey, np.uint8), MASK.astype(np.uint8)
    for channel, wanted in ((alpha, MASK > 0), (np.full_like(alpha, 255), values > 0)):
        Image.fromarray(np.stack([values, channel], axis=-1), "LA").save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), wanted)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", "bright"), ~wanted)


def test_masks_are_read_with_their_pictures_and_full_ones_change_nothing(tmp_path):
    noise(tmp_path / "a.png", 4, 2)
    noise(tmp_path / "b.png", 4, 2)
    mask_files()["grey"].save(tmp_path / "mask.png")
    Image.fromarray(np.full((2, 4), 9, np.uint8)).save(tmp_path / "full.png")
    for mask, ignored, counted in [
        ("mask.png", "black", MASK > 0),
        ("mask.png", "bright", MASK == 0),
        ("full.png", "black", None),
    ]:
        pictures = [
            find_picture(tmp_path / "a.png", mask=tmp_path / mask, ignored=ignored),
            find_picture(tmp_path / "b.png"),
        ]
        _, masks = read_pictures(pictures)
        if counted is None:
            assert masks is None
        else:
            np.testing.assert_array_equal(masks, [counted, np.ones((2, 4), bool)])


def test_masks_that_leave_nothing_or_have_another_size_are_refused(tmp_path):
    noise(tmp_path / "a.png", 4, 2)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.zeros((2, 4), np.uint8)).save(mask)
    with pytest.raises(SceneError, match=r"mask.png: leaves next to nothing"):
        read_pictures([find_picture(tmp_path / "a.png", mask=mask)])
    Image.fromarray(np.ones((4, 2), np.uint8)).save(mask)
    with pytest.raises(SceneError, match=r"mask.png: a mask of 2 x 4 pixels .* 4 x 2"):
        find_picture(tmp_path / "a.png", mask=mask)
    with pytest.raises(SceneError, match=r"gone.png: no such image"):
        find_picture(tmp_path / "a.png", mask=tmp_path / "gone.png")


@settings(derandomize=True, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 4))
def test_a_square_of_pixels_counts_if_all_of_it_does(mask, factor):
    small = shrink_mask(mask, factor)
    assert small.shape == (mask.shape[0] // factor, mask.shape[1] // factor)
    for row, column in np.ndindex(small.shape):
        square = [
            mask[y, x]
            for y in range(row * factor, (row + 1) * factor)
            for x in range(column * factor, (column + 1) * factor)
        ]
        assert small[row, column] == all(square)


# What EXIF says to do with the stored rows to have the picture upright.
UPRIGHT = {
    1: lambda image: image,
    3: lambda image: image[::-1, ::-1],
    6: lambda image: np.rot90(image, -1),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pixels_are_as_stored_unless_the_cameras_are_of_the_turned_picture(
    orientation, suffix, tmp_path
):
    path = tmp_path / f"photo.{suffix}"
    rgb = np.random.default_rng(1).integers(256, size=(4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(path, exif=exif)
    turns = orientation in (6, 8)
    for claimed in (None, (6, 4), (3, 2)):
        picture = find_picture(path, claimed, "cameras.json")
        assert picture == Picture(path, (6, 4))
        np.testing.assert_array_equal(read_pictures([picture])[0][0, ..., :3], rgb)
    if not turns:
        with pytest.raises(SceneError, match=r"6 x 4 pixels, but cameras.json says 4 x 6"):
            find_picture(path, (4, 6), "cameras.json")
        return
    picture = find_picture(path, (4, 6), "cameras.json")
    assert picture == Picture(path, (4, 6), turned=True)
    turned = read_pictures([picture])[0][0, ..., :3]
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](rgb))
    np.testing.assert_array_equal(read_image(path)[..., :3], rgb)


@pytest.mark.parametrize(
    ("claimed", "fits"),
    [((600, 400), True), ((150, 100), True), ((151, 101), True), ((99, 67), True)]
    + [((400, 600), False), ((600, 401), True), ((600, 410), False), ((0, 0), False)]
    + [((1e9, 1.0), False), ((0.5, 1 / 3), False)],
)
def test_a_picture_may_be_another_size_of_the_shape_that_is_claimed(claimed, fits, tmp_path):
    noise(tmp_path / "a.png", 300, 200)
    if fits:
        assert find_picture(tmp_path / "a.png", claimed, "x").size == (300, 200)
    else:
        with pytest.raises(SceneError, match=r"a.png: 300 x 200 pixels, but x says"):
            find_picture(tmp_path / "a.png", claimed, "x")


def test_a_file_too_small_for_its_pixels_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("L", (16, 16)).save(path)
    contents = path.read_bytes()
    frame = contents.index(b"\xff\xc0") + 5
    path.write_bytes(contents[:frame] + b"\x2e\xe0\x2e\xe0" + contents[frame + 4 :])
    with pytest.raises(SceneError, match=r"a.jpg: 12000 x 12000 pixels are too many"):
        image_size(path)


def test_blank_pictures_of_few_bytes_are_none_of_those(tmp_path):
    for name in ("blank.png", "blank.jpg"):
        Image.new("1" if name.endswith("png") else "L", (4000, 3000)).save(
            tmp_path / name, optimize=True
        )
        assert read_image(tmp_path / name).shape == (3000, 4000, 4)


def test_more_pictures_than_memory_are_refused(tmp_path, monkeypatch):
    noise(tmp_path / "a.png", 30, 20)
    noise(tmp_path / "b.png", 20, 30)
    pictures = [find_picture(tmp_path / name) for name in ("a.png", "b.png")]
    pages = {"SC_PHYS_PAGES": 2, "SC_PAGE_SIZE": 2 * 4 * 30 * 30 - 1}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    with pytest.raises(SceneError, match=r"2 pictures of up to 30 x 30 .* larger downscale"):
        read_pictures(pictures)
    pages["SC_PAGE_SIZE"] += 1
    assert read_pictures(pictures)[0].shape == (2, 30, 30, 4)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pictures_that_are_cut_off_are_found_from_their_ends(kind, tmp_path):
    path = tmp_path / f"photograph.{kind}"
    noise(path, 50, 40)
    whole = path.read_bytes()
    for follows in (b"", bytes(10), bytes(1 << 13)):
        path.write_bytes(whole + follows)
        assert image_size(path) == (50, 40)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SceneError, match=rf"photograph.{kind}: cannot be read as an image"):
        image_size(path)


def test_a_mask_of_one_colour_is_in_its_alpha(tmp_path):
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[:2, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    expected = np.repeat([[False], [False], [True], [True]], 6, axis=1)
    np.testing.assert_array_equal(read_mask(tmp_path / "alpha.png"), expected)
    pixels[:, :3, :3] = 0  # now its colours say which pixels count
    Image.fromarray(pixels).save(tmp_path / "colours.png")
    expected = np.repeat([[False] * 3 + [True] * 3], 4, axis=0)
    np.testing.assert_array_equal(read_mask(tmp_path / "colours.png"), expected)


def test_numbers_in_names_are_those_that_can_be_counted():
    names = ["a10.jpg", "a9.jpg", "a1²2.jpg", "a٣.jpg"]
    assert sorted(names, key=by_number) == ["a1²2.jpg", "a٣.jpg", "a9.jpg", "a10.jpg"]

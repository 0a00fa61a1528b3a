"""Videos: what comes out of them again, and nothing when something goes wrong."""

import errno
import os

import numpy as np
import pytest
from PIL import Image
from scene_factory import decode_video

from jaxnerf.exports.video import SUFFIXES, colour_depth, colour_normals, open_video


def frames_of(width: int, height: int, count: int) -> list[np.ndarray]:
    """Smooth pictures that slowly change."""
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([255 * x / width, 255 * y / height, np.full(x.shape, 40 + 30 * t)], -1).astype(
            np.uint8
        )
        for t in range(count)
    ]


@pytest.mark.parametrize("size", [(32, 25), (33, 24), (2, 2), (1, 1)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_come_out_as_they_went_in(tmp_path, suffix, size):
    frames = frames_of(*size, 5)
    path = tmp_path / f"a%d:b c{suffix}"
    with open_video(path, 10.0) as write:
        for frame in frames:
            write(frame)
    assert os.listdir(tmp_path) == [path.name]
    decoded = decode_video(path)
    width, height = size
    if suffix == ".mp4":
        width, height = width + width % 2, height + height % 2
    assert decoded.shape == (5, height, width, 3)
    difference = np.abs(decoded[:, : size[1], : size[0]] - np.array(frames, float))
    if min(size) > 2:  # smaller ones have no room for halved chroma
        assert difference.mean() < 8.0
        assert np.median(difference) < 5.0


def test_an_odd_edge_is_repeated(tmp_path):
    with open_video(tmp_path / "odd.mp4") as write:
        write(np.full((5, 7, 3), 200, np.uint8))
    assert np.abs(decode_video(tmp_path / "odd.mp4")[0] - 200.0).max() < 5


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_frames_are_shown_at_the_rate_asked_for(tmp_path, suffix):
    with open_video(tmp_path / f"v{suffix}", 20.0) as write:
        for frame in frames_of(8, 8, 3):
            write(frame)
    with Image.open(tmp_path / f"v{suffix}") as image:
        image.seek(1)
        image.load()
        assert image.info["duration"] == 50
        assert image.info["loop"] == 0


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_rate_that_the_clock_does_not_divide_is_right_in_the_mean(tmp_path, suffix):
    with open_video(tmp_path / f"v{suffix}", 30.0) as write:
        for frame in np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8):
            write(frame)
    durations = []
    with Image.open(tmp_path / f"v{suffix}") as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
    assert len(durations) == 30
    assert sum(durations) == 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("before", [0, 3])
def test_an_exception_leaves_the_file_that_was_there_and_no_other(tmp_path, suffix, before):
    path = tmp_path / f"v{suffix}"
    path.write_text("earlier")
    with pytest.raises(ZeroDivisionError), open_video(path) as write:  # noqa: PT012
        for frame in frames_of(16, 16, before):
            write(frame)
        raise ZeroDivisionError
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["v.avi", "v", "v.MP4.txt", ".mp4"])
def test_an_unknown_suffix_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.mp4, \.gif, \.webp"), open_video(tmp_path / name):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_video_without_frames_is_refused(tmp_path, suffix):
    with pytest.raises(ValueError, match="without frames"), open_video(tmp_path / f"v{suffix}"):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [1, 40])  # few enough to fail only when the file is closed
def test_a_full_disk_is_an_os_error_and_leaves_the_file_that_was_there(
    tmp_path, suffix, count, capfd
):
    path = tmp_path / f"v{suffix}"
    path.write_text("earlier")
    (tmp_path / f".partial.v{suffix}").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught, open_video(path) as write:  # noqa: PT012
        for frame in frames_of(64, 64, count):
            write(frame)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == [path.name]
    assert capfd.readouterr() == ("", "")


def test_depth_is_pale_near_and_dark_far_and_black_where_nothing_is():
    depth = np.array([[2.0, 6.0, 1.0, 9.0, 2.0]], np.float32)
    opacity = np.array([[1.0, 1.0, 1.0, 1.0, 0.0]], np.float32)
    colours = np.rint(255 * colour_depth(depth, opacity, 2.0, 6.0))
    pale, dark = [252, 253, 191], [0, 0, 4]
    np.testing.assert_array_equal(colours[0], [pale, dark, pale, dark, [0, 0, 0]])
    ramp = np.linspace(2.0, 6.0, 50, dtype=np.float32)[None]
    lightness = colour_depth(ramp, np.ones_like(ramp), 2.0, 6.0) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness[0]) < 0.0).all()


def test_normals_are_colours_about_grey():
    normals = np.array([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]], np.float32)
    opacity = np.array([[1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(
        colour_normals(normals, opacity), [[[1.0, 0.5, 0.0], [0.5, 0.5, 0.5]]]
    )

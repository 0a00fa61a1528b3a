"""Videos for headsets: another program reads what they are, and their pictures are as before."""

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from scene_factory import decode_video

from jaxnerf.exports.spherical import mark_spherical
from jaxnerf.exports.video import open_video


def told(path: Path) -> str:
    """What ffmpeg says of a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True).stderr


def write(path: Path, finish=None) -> None:
    with open_video(path, finish=finish) as add:
        for shade in (10, 100, 200):
            add(np.full((32, 64, 3), shade, np.uint8))


@pytest.mark.parametrize(
    ("packing", "degrees", "said"),
    [
        ("one", 360.0, ["Stereo 3D: 2D", "Spherical Mapping: equirectangular"]),
        (
            "omnidirectional",
            360.0,
            ["Stereo 3D: top and bottom", "Spherical Mapping: equirectangular"],
        ),
        (
            "side_by_side",
            180.0,
            ["Stereo 3D: side by side", "Spherical Mapping: tiled equirectangular"],
        ),
        ("side_by_side", None, ["Stereo 3D: side by side"]),
    ],
)
def test_ffmpeg_reads_what_the_pictures_are(tmp_path, packing, degrees, said):
    plain, marked = tmp_path / "plain.mp4", tmp_path / "marked.mp4"
    write(plain)
    write(marked, lambda path: mark_spherical(path, packing, degrees))
    text = told(marked)
    for line in said:
        assert line in text, text
    assert ("Spherical" in text) == (degrees is not None)
    assert "side data" not in told(plain).lower()
    np.testing.assert_array_equal(decode_video(marked), decode_video(plain))
    if degrees == 180.0:
        # Left, top, right, bottom: the whole sphere would have 32 pixels more at either side.
        (bounds,) = re.findall(r"tiled equirectangular \[(.*?)\]", text)
        np.testing.assert_allclose([int(x) for x in bounds.split(",")], [32, 0, 32, 0], atol=1)


@pytest.mark.parametrize("contents", [b"", b"no video", bytes(64), b"\0\0\0\x10free" + bytes(8)])
def test_what_is_no_such_file_is_refused_and_stays(tmp_path, contents):
    path = tmp_path / "x.mp4"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="mark_spherical"):
        mark_spherical(path, "one", 360.0)
    assert path.read_bytes() == contents

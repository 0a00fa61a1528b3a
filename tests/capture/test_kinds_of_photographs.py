"""What `process` makes of photographs: their order, and files of other formats than their names say."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxnerf.capture import process as processing
from jaxnerf.capture import structure_from_motion
from jaxnerf.capture.structure_from_motion import Settings, reconstruct


def test_photographs_are_in_the_order_of_their_numbers(tmp_path):
    """Sequential matching of 1.png to 40.png, whose names sort otherwise."""
    random, sizes = np.random.default_rng(0), {f"{n}.png": (48, 32) for n in range(1, 41)}
    for folder in ("images", "work"):
        (tmp_path / folder).mkdir()
    for name in sizes:
        pixels = random.integers(0, 255, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 32)).save(tmp_path / "images" / name)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure_from_motion, "_match", lambda names, pairs, *_: asked.extend(names))
        settings = Settings(matching="sequential")
        reconstruct(tmp_path / "images", sizes, tmp_path / "work", settings)
    assert asked == [f"{n}.png" for n in range(1, 41)]


ODD = {
    "webp named jpg": ("JPG", "WEBP", "RGBA", {}),
    "tiff named png": ("png", "TIFF", "CMYK", {}),
    "turned, of odd EXIF": ("jpg", "JPEG", "RGB", {0x0112: 6, 0x0128: "two"}),
    "turned PNG named jpg": ("jpg", "PNG", "RGBA", {0x0112: 6}),
}


@pytest.mark.parametrize("case", ODD)
def test_photographs_of_another_format_than_their_suffix_are_converted(case, tmp_path):
    suffix, kind, mode, tags = ODD[case]
    picture = Image.fromarray(np.full((20, 30, 3), (200, 90, 30), np.uint8)).convert(mode)
    exif = Image.Exif()
    if tags.get(0x0128):
        exif[0x0112], exif[0x0128] = 6, 2
        text = exif.tobytes().replace(b"\x01\x28\x00\x03", b"\x01\x28\x00\x02")
        text = text.replace(b"\x28\x01\x03\x00", b"\x28\x01\x02\x00")
    else:
        for tag, value in tags.items():
            exif[tag] = value
        text = exif.tobytes()
    picture.save(tmp_path / f"#a.{suffix}", kind, exif=text)
    (tmp_path / "out").mkdir()
    processing._copy([tmp_path / f"#a.{suffix}"], tmp_path / "out", lambda *_: None)
    with Image.open(tmp_path / f"out/_a.{suffix}") as image:
        assert image.format == ("PNG" if suffix == "png" else "JPEG")
        assert image.size == ((20, 30) if tags else (30, 20))
        found = np.asarray(image.convert("RGB"), float).mean(axis=(0, 1))
    np.testing.assert_allclose(found, [200, 90, 30], atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_tiffs_become_upright(orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    (tmp_path / "out").mkdir()
    processing._copy([tmp_path / "a.tif"], tmp_path / "out", lambda *_: None)
    with Image.open(tmp_path / "a.png") as image, Image.open(tmp_path / "out/a.tif") as copy:
        assert copy.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(copy, ImageOps.exif_transpose(image))

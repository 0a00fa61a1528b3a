"""Metadata by which players recognise an mp4 for headsets: the boxes of Google's Spherical Video V2.

An mp4 is a tree of boxes: a size of 4 bytes, a name of 4, and contents (ISO/IEC 14496-12). The boxes st3d
(how the images of two eyes are packed) and sv3d (which part of the sphere is shown) are part of the
description of the video's samples (github.com/google/spatial-media, docs/spherical-video-v2-rfc.md).
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

Packing = Literal["one", "omnidirectional", "side_by_side"]

_PACKINGS = {
    "one": 0,
    "omnidirectional": 1,
    "side_by_side": 2,
}  # mono, top and bottom, left and right
_WAY = (b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")
# Offset of the inner boxes in a box's contents.
_FIRST = {b"stsd": 8}
_TURN = 1 << 32  # the value of a bound that is a whole turn


def mark_spherical(path: Path, packing: Packing, degrees: float | None) -> None:
    """Add the metadata of its images to an mp4 of H.264, in place.

    Args:
      path: a file whose last box is moov, as ffmpeg writes it.
      packing: "one" image, or two: "omnidirectional", the left eye's above, or "side_by_side".
      degrees: range of longitude of an equirectangular image; None for an ordinary image.

    Raises:
      ValueError: the file is not such an mp4.
      OSError: the file cannot be written.
    """
    boxes = _box(b"st3d", bytes(4) + bytes([_PACKINGS[packing]]))
    if degrees is not None:
        aside = min(round(_TURN * 0.5 * (1.0 - degrees / 360.0)), _TURN - 1)
        equi = _box(b"equi", bytes(4) + struct.pack(">4I", 0, 0, aside, aside))
        source = _box(b"svhd", bytes(4) + b"jaxnerf\0")
        boxes += _box(b"sv3d", source + _box(b"proj", _box(b"prhd", bytes(4 + 12)) + equi))
    with path.open("r+b") as file:
        start = _last_box(file)
        file.seek(start)
        moov = _grown(file.read(), _WAY, boxes)
        file.seek(start)
        file.write(moov)


def _last_box(file: BinaryIO) -> int:
    """Offset of the last box of a file."""
    end, start, at = file.seek(0, 2), 0, 0
    while at < end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        if size < 8:
            break
        start, at = at, at + size
    if at != end:
        raise ValueError("mark_spherical: not an mp4")
    return start


def _grown(box: bytes, way: Sequence[bytes], more: bytes) -> bytes:
    """A box with bytes appended to the inner box at a path of names."""
    kind, body = box[4:8], box[8:]
    if not way:
        return _box(kind, body + more)
    at = _FIRST.get(kind, 0)
    while at + 8 <= len(body):
        size = max(int.from_bytes(body[at : at + 4], "big"), 8)
        if body[at + 4 : at + 8] == way[0]:
            inner = _grown(body[at : at + size], way[1:], more)
            return _box(kind, body[:at] + inner + body[at + size :])
        at += size
    raise ValueError(f"mark_spherical: no box {way[0].decode()} in {kind.decode(errors='replace')}")


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body

"""Extraction of sharp frames from a video."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxnerf.scenes import SceneError

# Sharpness is computed from grey images that fit into a square of this side; finer blur does not matter.
_COMPARED_AT = 960
# More pixels than any camera's image has.
_MAX_PIXELS = 200_000_000


def extract_sharp_frames(
    video: Path,
    folder: Path,
    count: int,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[str]:
    """Write the sharpest frame of each of `count` even parts of a video as a JPEG.

    The video is decoded twice by ffmpeg, which rotates frames upright if the file has the phone's
    orientation. If the video has fewer frames, all of them are written.

    Args:
      video: any file with a video stream that ffmpeg reads.
      folder: folder for the frames, frame_000012.jpg and so on, numbered from 0 in the video.
      count: number of frames.
      progress: called with the stage, the amount done, and the total (0 if it is not known).

    Returns:
      The names of the frames, in order.

    Raises:
      SceneError: the file is missing, or cannot be decoded as a video.
      OSError: a frame cannot be written.
    """
    if video.exists() and not video.is_file():
        raise SceneError(f"{video}: not a file")
    if not video.exists():
        raise SceneError(f"{video}: no such file")
    fitted = (
        f"scale=w=min({_COMPARED_AT}\\,iw):h=min({_COMPARED_AT}\\,ih)"
        ":force_original_aspect_ratio=decrease"
    )
    scores = []
    for frame in _decode(video, fitted, "pgm"):
        scores.append(sharpness(frame))
        progress("video", len(scores), 0)
    chosen = sharpest_of_parts(scores, count)
    wanted = "+".join(f"eq(n\\,{index})" for index in chosen)
    names = []
    for frame in _decode(video, f"select={wanted}", "ppm"):
        names.append(f"frame_{chosen[len(names)]:06d}.jpg")
        Image.fromarray(frame).save(folder / names[-1], quality=95, subsampling=0)
        progress("frames", len(names), len(chosen))
    return names


def sharpness(grey: UInt8[np.ndarray, "h w"]) -> float:
    """The variance of an image's Laplacian; of images of one view, sharper ones have a larger one."""
    if min(grey.shape) < 3:
        return 0.0
    centre = grey.astype(np.int16)
    around = centre[:-2, 1:-1] + centre[2:, 1:-1] + centre[1:-1, :-2] + centre[1:-1, 2:]
    return float(np.var(4 * centre[1:-1, 1:-1] - around, dtype=np.float32))


def sharpest_of_parts(scores: Sequence[float], count: int) -> list[int]:
    """The index of the largest score in each of `count` even parts of the scores.

    >>> sharpest_of_parts([1.0, 5.0, 2.0, 3.0, 4.0, 0.0], 3)
    [1, 3, 4]
    """
    parts = np.array_split(np.arange(len(scores)), min(count, len(scores)))
    return [int(part[np.argmax(np.asarray(scores)[part])]) for part in parts]


def _decode(video: Path, pictures: str, codec: str) -> Iterator[np.ndarray]:
    """The frames of a video after an ffmpeg filter, upright: [h, w] for pgm, [h, w, 3] for ppm.

    `imageio_ffmpeg.read_frames` is not used: it drops ffmpeg's exit status, which is needed to detect
    broken files, and reads the size of all frames from the log. Here each frame has its own size.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        raise SceneError(f"{video}: to read videos, install imageio-ffmpeg") from None

    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin"),
        # A playlist must not lead ffmpeg to the network.
        *("-protocol_whitelist", "file", "-i", f"file:{video}", "-map", "0:v:0"),
        *("-vf", pictures, "-fps_mode", "passthrough"),
        *("-f", "image2pipe", "-pix_fmt", "gray" if codec == "pgm" else "rgb24", "-c:v", codec),
        "-",
    ]
    with tempfile.TemporaryFile() as complaints:
        decoder = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        )
        decoded = 0
        try:
            while (frame := _read_netpbm(video, decoder.stdout)) is not None:
                decoded += 1
                yield frame
            if decoder.wait() or not decoded:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").split("\n")
                reason = next((line for line in reversed(said) if line.strip()), "no frames")
                raise SceneError(f"{video}: cannot be read as a video: {reason.strip()[-200:]}")
        finally:
            decoder.kill()
            decoder.communicate()


def _read_netpbm(video: Path, stream) -> np.ndarray | None:
    """The next image of a stream of binary PGM or PPM; None at its end."""
    kind = stream.readline()
    if not kind:
        return None
    try:
        width, height = map(int, stream.readline().split())
        if kind not in (b"P5\n", b"P6\n") or stream.readline() != b"255\n":
            raise ValueError
    except ValueError:
        raise SceneError(f"{video}: cannot be read as a video: broken frames") from None
    if width * height > _MAX_PIXELS:
        raise SceneError(f"{video}: frames of {width} x {height} pixels are too many")
    shape = (height, width) if kind == b"P5\n" else (height, width, 3)
    pixels = stream.read(int(np.prod(shape)))
    if len(pixels) < np.prod(shape):
        return None
    return np.frombuffer(pixels, np.uint8).reshape(shape)

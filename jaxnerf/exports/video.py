"""Videos as mp4, gif or webp, images of 16 bits, and colours for depth and normals."""

import errno
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from jaxnerf.runs.files import replacing

# From far to near: black, violet, red, orange, pale yellow, in even steps of lightness.
_DEPTH_COLOURS = np.array(
    [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], np.float32
)

SUFFIXES = (".mp4", ".gif", ".webp")


def missing_encoder(path: Path) -> str:
    """The package that `open_video` lacks for a file of this name; empty if there is none."""
    return missing_ffmpeg() if path.suffix == ".mp4" else ""


def missing_ffmpeg() -> str:
    """The package that is missing for mp4 and PNGs of 16 bits; empty if there is none."""
    return "" if find_spec("imageio_ffmpeg") else "imageio-ffmpeg"


class FrameSink(Protocol):
    """A function that takes the frames of a video in order."""

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> None: ...


@contextmanager
def open_video(
    path: Path,
    frames_per_second: float = 30.0,
    *,
    finish: Callable[[Path], None] | None = None,
) -> Iterator[FrameSink]:
    """Write a video frame by frame; the file's suffix gives its format.

    The complete file appears when the block ends without an exception, and otherwise no file. mp4 is
    H.264 with 4:2:0 chroma, which every player supports; an odd last row or column of pixels is repeated.

    Args:
      path: the file.
      frames_per_second: frame rate.
      finish: called with a temporary file that holds all frames, before it gets its name
        (`jaxnerf.exports.spherical.mark_spherical`).

    Raises:
      ValueError: the suffix is not .mp4, .gif or .webp, or there was no frame.
      OSError: the file cannot be written, for instance because the disk is full.
      ImportError: see `missing_encoder`.

    Example::

      with open_video(Path("orbit.mp4")) as write:
          for picture in pictures:
              write(picture)
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a video's name must end in one of {', '.join(SUFFIXES)}")
    writer = _mp4 if path.suffix == ".mp4" else _animated_image
    with replacing(path) as partial:
        with writer(partial, frames_per_second) as write:
            yield write
        if finish:
            finish(partial)


def write_png_16(path: Path, picture: UInt16[np.ndarray, "height width 3"]) -> None:
    """Write an image as a PNG of 16 bits per channel. The file is complete or not there.

    Raises:
      OSError: the file cannot be written.
      ImportError: see `missing_ffmpeg`.
    """
    import imageio_ffmpeg

    height, width = picture.shape[:2]
    taken = f"-f rawvideo -pix_fmt rgb48le -s {width}x{height} -i -"
    made = "-frames:v 1 -pix_fmt rgb48be -c:v png -f image2pipe -"
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *taken.split(), *made.split()],
        input=np.ascontiguousarray(picture, "<u2").tobytes(),
        capture_output=True,
        start_new_session=True,
    )
    if done.returncode:
        raise OSError(errno.EIO, f"ffmpeg failed: {done.stderr.decode(errors='replace')[-200:]}")
    with replacing(path) as partial:
        partial.write_bytes(done.stdout)


@contextmanager
def _mp4(path: Path, frames_per_second: float) -> Iterator[FrameSink]:
    encoder: Any = None
    with tempfile.TemporaryFile() as complaints:

        def write(frame: np.ndarray) -> None:
            nonlocal encoder
            even = np.pad(
                frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge"
            )
            if encoder is None:
                encoder = _ffmpeg(path, even.shape[1], even.shape[0], frames_per_second, complaints)
            encoder.stdin.write(np.ascontiguousarray(even).data)

        try:
            yield write
            if encoder is None:
                raise ValueError(f"{path}: a video without frames")
            encoder.stdin.close()
            if encoder.wait():
                raise BrokenPipeError
        except BrokenPipeError:
            complaints.seek(0)
            text = complaints.read().decode(errors="replace").strip()
            number = errno.ENOSPC if "No space left" in text else errno.EIO
            raise OSError(number, f"ffmpeg failed: {text[-200:]}") from None
        finally:
            if encoder is not None:
                encoder.kill()
                encoder.wait()
                with suppress(OSError):
                    encoder.stdin.close()


def _ffmpeg(path: Path, width: int, height: int, frames_per_second: float, complaints):
    """The encoder process, which reads frames from its standard input.

    `imageio_ffmpeg.write_frames` is not used: it drops ffmpeg's exit status and its messages, which are
    needed to detect a full disk.
    """
    import imageio_ffmpeg

    taken = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {frames_per_second} -i -"
    made = "-c:v libx264 -pix_fmt yuv420p -crf 10"
    return subprocess.Popen(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *taken.split(), *made.split()]
        + [f"file:{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=complaints,
        start_new_session=True,  # an interrupt from the terminal goes to this process alone
    )


@contextmanager
def _animated_image(path: Path, frames_per_second: float) -> Iterator[FrameSink]:
    frames: list[Image.Image] = []
    yield lambda frame: frames.append(Image.fromarray(frame))
    if not frames:
        raise ValueError(f"{path}: a video without frames")
    # Each frame ends at a whole unit of the format's clock, so that roundings do not add up.
    unit = 10.0 if path.suffix == ".gif" else 1.0
    ends = np.round(np.arange(1, len(frames) + 1) * (1000.0 / frames_per_second / unit)) * unit
    duration = np.diff(ends, prepend=0.0).astype(int).tolist()
    options: dict[str, Any] = {"quality": 80, "method": 6} if path.suffix == ".webp" else {}
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=duration, loop=0, **options
    )


def colour_depth(
    depth: Float[np.ndarray, "h w"], opacity: Float[np.ndarray, "h w"], near: float, far: float
) -> Float[np.ndarray, "h w 3"]:
    """Depth as colour: light where near, dark where far, black where the opacity is 0."""
    closeness = np.clip((far - depth) / (far - near), 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(_DEPTH_COLOURS))
    colours = [np.interp(closeness, stops, channel) for channel in _DEPTH_COLOURS.T / 255.0]
    return np.stack(colours, axis=-1) * opacity[..., None]


def colour_normals(
    normals: Float[np.ndarray, "h w 3"], opacity: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Unit normals as colour, (n + 1) / 2; grey where the opacity is 0."""
    return 0.5 + 0.5 * normals * opacity[..., None]

"""A tiny scene in NeRF's Blender format, painted without any code of jaxnerf; a video decoder."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence

ANGLE = 0.8  # horizontal field of view, radians
RADIUS = 0.4
# One ball on each positive axis: red on x, green on y, blue on z.
CENTRES = 0.8 * np.eye(3)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])

# Small enough that every program compiles in about a second.
TINY = (
    "--config=nerf_small",
    "--nerf.field.depth=2",
    "--nerf.field.width=8",
    "--nerf.field.view_width=4",
    "--nerf.field.position_octaves=2",
    "--nerf.field.direction_octaves=1",
    "--nerf.separate_levels=false",
    "--nerf.samples=4,4",
    "--training.rays_per_batch=16",
    "--training.rays_per_pass=0",
    "--scene.downscale=1",
    "--evaluation.chunk=128",
    "--evaluation.orbit_frames=3",
    "--evaluation.orbit_size=0",
    "--evaluation.every=1",
)


def camera_axes(eye: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and forward of a camera that looks at the origin, with +z upward in its picture."""
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return right, np.cross(right, forward), forward


def eyes(count: int, turn: float = 0.0) -> np.ndarray:
    """Positions around the z axis, at different heights, 4 from the origin."""
    azimuth = 0.4 + turn + 2.0 * math.pi * np.arange(count) / count
    height = np.radians(20.0 + 30.0 * np.arange(count) / count)
    return 4.0 * np.stack(
        [np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)], -1
    )


def paint(eye: np.ndarray, width: int, height: int) -> np.ndarray:
    """RGBA of the three balls, pixel by pixel: the nearest that the pixel's ray meets."""
    right, up, forward = camera_axes(eye)
    focal = 0.5 * width / math.tan(0.5 * ANGLE)
    picture = np.zeros((height, width, 4), np.uint8)
    for row in range(height):
        for column in range(width):
            across, down = column + 0.5 - 0.5 * width, row + 0.5 - 0.5 * height
            ray = forward + (across * right - down * up) / focal
            ray /= np.linalg.norm(ray)
            nearest = math.inf
            for centre, colour in zip(CENTRES, COLOURS, strict=True):
                along = ray @ (centre - eye)
                miss = np.linalg.norm(eye + along * ray - centre)
                if miss < RADIUS and along < nearest:
                    nearest = along
                    picture[row, column] = [*colour, 255]
    return picture


def matrix(eye: np.ndarray) -> list[list[float]]:
    """The pose as the format has it: columns right, up, backward, position."""
    right, up, forward = camera_axes(eye)
    pose = np.eye(4)
    pose[:3] = np.stack([right, up, -forward, eye], axis=-1)
    return pose.tolist()


def write_scene(
    folder: Path, width: int = 16, height: int = 16, train: int = 4, test: int = 2
) -> Path:
    """Write so many training and test views, and 2 validation views; returns the folder."""
    for turn, (split, count) in enumerate({"train": train, "val": 2, "test": test}.items()):
        (folder / split).mkdir(parents=True)
        frames = []
        for index, eye in enumerate(eyes(count, 0.3 * turn)):
            Image.fromarray(paint(eye, width, height)).save(folder / split / f"r_{index}.png")
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": matrix(eye)})
        contents = {"camera_angle_x": ANGLE, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(contents))
    return folder


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


def decode_video(path: Path) -> np.ndarray:
    """All frames of a video [frames, height, width, 3], by a decoder other than its writer."""
    if path.suffix == ".mp4":
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}"]
        raw = ["-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-"]
        stream = subprocess.run([*command, *raw], capture_output=True, check=True).stdout
        frames = []
        while stream:
            width, height = map(int, stream[:40].split()[1:3])
            header = len(b"P6\n%d %d\n255\n" % (width, height))
            size = 3 * width * height
            frames.append(np.frombuffer(stream, np.uint8, size, header).reshape(height, width, 3))
            stream = stream[header + size :]
        return np.stack(frames)
    with Image.open(path) as image:
        return np.stack([frame.convert("RGB") for frame in ImageSequence.Iterator(image)])


@pytest.fixture(autouse=True, scope="module")
def command_environment(tmp_path_factory):
    """Let the command neither choose devices of its own nor touch the user's cache."""
    before = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))
        # The command would have glibc keep all that the suite ever used.
        patch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
    jax.config.update("jax_compilation_cache_dir", before)

"""Image metrics (PSNR, SSIM, LPIPS, depth errors), and the protocol of their measurement."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from jaxnerf.runs.files import own_version
from jaxnerf.scenes import Split
from jaxnerf.scenes.backgrounds import describe_colour
from jaxnerf.scenes.sightings import Sightings

_SSIM = {"window": "Gaussian", "size": 11, "sigma": 1.5, "k1": 0.01, "k2": 0.03, "borders": "valid"}
_MASKED = (
    "psnr over the pixels that count ('counted' is their fraction), ssim the mean of its map over them; "
    "for ssim and lpips the rendering's other pixels are replaced by the photograph's"
)

_CORRECTED = (
    "psnr of each picture after the affine map of its colours that is nearest to the photograph by least "
    "squares, clipped to [0, 1]; no other figure is of pictures so corrected"
)

# The first view is measured twice unless it takes more than this multiple of the time for all views,
# compilation included.
_MOST_OF_ONE = 2.0
# Depths are compared only where the opacity is larger than this.
_OPAQUE = 0.5
_DEPTHS = {
    "points": "every 10th of the scene's reconstruction, kept out of training, where photographs of the "
    "split show them (by the reconstruction's tracks; without any, where no other point is before them)",
    "error": "|depth / known depth - 1| of the ray through the point's place in the picture, where "
    "opacity is more than 0.5 ('opaque' is the fraction of the sightings)",
    "mean": "the mean depth of the light that a ray stops",
    "half": "the depth where half of the light is stopped",
    "surface": "the depth of the first sample whose opacity is at least 0.5",
}


def psnr(picture: Float[np.ndarray, "*shape"], truth: Float[np.ndarray, "*shape"]) -> float:
    """Peak signal-to-noise ratio in dB, of values in [0, 1]: -10 log10 of the mean squared error.

    Infinite for equal images.

    >>> round(psnr(np.full((2, 2, 3), 0.6), np.full((2, 2, 3), 0.5)), 6)
    20.0
    """
    difference = np.asarray(picture, np.float64) - np.asarray(truth, np.float64)
    return psnr_of_error(float(np.mean(difference**2)))


def psnr_of_error(mean_squared_error: float) -> float:
    """PSNR in dB from a mean squared error of values in [0, 1]."""
    return float("inf") if mean_squared_error == 0.0 else -10.0 * math.log10(mean_squared_error)


def corrected(
    picture: Float[np.ndarray, "P 3"], truth: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, "P 3"]:
    """An image's colours after the affine map that is closest to the truth by least squares, clipped."""
    known = np.concatenate([picture, np.ones((len(picture), 1))], axis=-1).astype(np.float64)
    affine = np.linalg.lstsq(known, truth.astype(np.float64), rcond=None)[0]
    return np.clip(known @ affine, 0.0, 1.0)


def ssim(
    picture: Float[np.ndarray, "h w 3"],
    truth: Float[np.ndarray, "h w 3"],
    counted: Bool[np.ndarray, "h w"] | None = None,
) -> float:
    """Structural similarity (Wang et al., 2004), of values in [0, 1]; mean over pixels and channels.

    Gaussian window of 11 x 11 pixels with sigma 1.5, k1 0.01, k2 0.03, at pixels around which the window
    is inside the image.

    Args:
      picture, truth: the images to compare.
      counted: the pixels over which the mean is taken; all by default.

    Raises:
      ValueError: an image is smaller than the window, or there is no window around a valid pixel.
      ImportError: dm-pix, which computes it, is not installed.
    """
    import dm_pix

    if min(picture.shape[:2]) < _SSIM["size"]:
        raise ValueError(f"ssim: {picture.shape[1]} x {picture.shape[0]} pixels are fewer than 11")
    middles = None if counted is None else _with_window(counted)
    if middles is not None and not middles.any():
        raise ValueError("ssim: no pixel that counts has a whole window")
    # dm_pix needs JAX's standard promotions, whatever the caller has set.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        value = dm_pix.ssim(
            jnp.asarray(picture, jnp.float32),
            jnp.asarray(truth, jnp.float32),
            max_val=1.0,
            filter_size=_SSIM["size"],
            filter_sigma=_SSIM["sigma"],
            k1=_SSIM["k1"],
            k2=_SSIM["k2"],
            return_map=middles is not None,
        )
    return float(value) if middles is None else float(np.asarray(value)[middles].mean())


def _with_window(pixels: np.ndarray) -> np.ndarray:
    """The part of an image's pixels around which SSIM's window is inside the image."""
    border = _SSIM["size"] // 2
    return pixels[border : pixels.shape[0] - border, border : pixels.shape[1] - border]


def lpips_metric(network: str = "vgg") -> Callable[[np.ndarray, np.ndarray], float] | None:
    """Learned perceptual similarity (Zhang et al., 2018), or None without the extra `lpips`.

    Args:
      network: "vgg" or "alex"; the values of the two are not comparable.

    Returns:
      A function of two images [h, w, 3] with values in [0, 1]; smaller values are more similar. The
      package downloads the network's weights when it is first used.
    """
    try:
        import lpips
        import torch
    except ImportError:
        return None
    measure = lpips.LPIPS(net=network, verbose=False)

    def tensor(picture):
        scaled = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] * 2.0 - 1.0
        return torch.from_numpy(np.ascontiguousarray(scaled))

    def compare(picture: np.ndarray, truth: np.ndarray) -> float:
        with torch.no_grad():
            return float(measure(tensor(picture), tensor(truth)))

    compare.network = network  # pyright: ignore[reportFunctionMemberAccess]
    return compare


def blend(
    image: UInt8[np.ndarray, "*shape 4"], background: tuple[float, float, float] | float
) -> Float[np.ndarray, "*shape 3"]:
    """A photograph with straight alpha on a background, a colour or a grey; all in [0, 1]."""
    rgba = image.astype(np.float32) / np.float32(255.0)
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + np.asarray(background, np.float32) * (np.float32(1.0) - alpha)


def to_8bit(picture: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Values in [0, 1] as the nearest of 256 levels; other values are clipped."""
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)


def evaluate_split(
    render: Callable[[int], Float[np.ndarray, "h w 3"]],
    split: Split,
    out: Path,
    *,
    name: str = "test",
    background: tuple[float, float, float] | float = 1.0,
    every: int = 1,
    seconds: float = float("inf"),
    colour_corrected: bool = False,
    lpips: Callable[[np.ndarray, np.ndarray], float] | None = None,
    progress: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Render a split's cameras, save the images, and measure them against the photographs.

    Args:
      render: returns the image of camera i, values in [0, 1].
      split: the split with photographs.
      out: folder for the images, 000.png and so on, numbered as in the split; it is created.
      name: name of the split.
      background: colour or grey on which the photographs are blended.
      every: only cameras 0, every, 2 every, ... are measured. 0 is the smallest stride whose cameras fit
        into the seconds, by the time of camera 0 when it is measured a second time, without compilation;
        or camera 0 alone, if the first measurement took more than twice the seconds.
      seconds: time for all images; used with every=0 only.
      colour_corrected: whether to measure each image also after `corrected`.
      lpips: a metric from `lpips_metric`.
      progress: called with (images done, images in all, the last image's row).

    Returns:
      The contents of results.json: means over images of "psnr" (of unrounded values), "psnr_8bit" (of
      the saved images), "ssim" (unless its window is larger than the images, or dm-pix is not installed),
      "lpips" and "psnr_colour_corrected" (if they are measured); "images" with a row for each image (with
      "counted", the fraction of valid pixels, if not all are), "protocol", and "render_seconds_per_image"
      (the median, which is not affected by compilation).
    """
    out.mkdir(parents=True, exist_ok=True)
    fits, views = every == 0, range(0, len(split), max(every, 1))
    without_ssim = _why_without_ssim(split, views)
    measured = functools.partial(
        _measured_view,
        render,
        split,
        out,
        background=background,
        with_ssim=not without_ssim,
        colour_corrected=colour_corrected,
        lpips=lpips,
    )
    begun = time.perf_counter()
    done = {0: measured(0)}
    if fits and len(split) > 2:
        each = time.perf_counter() - begun
        if each <= _MOST_OF_ONE * seconds:  # else a second time would take as long once more
            begun = time.perf_counter()
            done[0] = measured(0)
            each = time.perf_counter() - begun
        views = views[:: stride_that_fits(len(split), each, seconds)]
    for stale in out.glob("*.png"):
        # Pictures of an earlier state, in which other views were measured.
        if stale.stem.isdecimal() and int(stale.stem) not in views:
            stale.unlink()
    rows, spent = [], []
    for index in views:
        row, rendering = done[index] if index in done else measured(index)
        rows.append(row)
        spent.append(rendering)
        if progress:
            progress(len(rows), len(views), row)
    means = {
        metric: float(np.mean([row[metric] for row in rows]))
        for metric in ("psnr", "psnr_8bit", "psnr_colour_corrected", "ssim", "lpips")
        if metric in rows[0]
    }
    protocol = _protocol(name, split, views, rows, background, without_ssim, lpips)
    if fits and views.step > 1:
        protocol["chosen"] = "evenly spread, as many as fit into the time that training took"
    if colour_corrected:
        protocol["psnr_colour_corrected"] = _CORRECTED
    return {
        **means,
        "render_seconds_per_image": float(np.median(spent)),
        "protocol": protocol,
        "images": rows,
    }


def _protocol(
    name: str,
    split: Split,
    views: range,
    rows: Sequence[Mapping[str, Any]],
    background: tuple[float, float, float] | float,
    without_ssim: str,
    lpips: Callable[[np.ndarray, np.ndarray], float] | None,
) -> dict[str, Any]:
    """The conditions of a measurement, which define its metrics."""
    sizes = _sizes(split, views)
    protocol = {
        "split": name,
        "images": len(rows),
        "of": len(split),
        "every": views.step,
        "resolution": sizes[-1],
        "background": describe_colour(background),
        "alpha": "straight, blended in sRGB",
        "values": "sRGB in [0, 1]; psnr, ssim and lpips of unrounded pictures, psnr_8bit of saved ones",
        "masks": _MASKED if any("counted" in row for row in rows) else "none",
        "mean": "arithmetic mean over images",
        "ssim": f"not measured: {without_ssim}" if without_ssim else _SSIM,
        "lpips": getattr(lpips, "network", "by a function of the caller's")
        if lpips
        else "not measured: the extra 'lpips' is not installed",
        "jaxnerf": own_version(),
    }
    if len(sizes) > 1:
        protocol["resolutions"] = sizes
    return protocol


def _measured_view(
    render: Callable[[int], Float[np.ndarray, "h w 3"]],
    split: Split,
    out: Path,
    index: int,
    *,
    background: tuple[float, float, float] | float,
    with_ssim: bool,
    colour_corrected: bool,
    lpips: Callable[[np.ndarray, np.ndarray], float] | None,
) -> tuple[dict[str, Any], float]:
    """Render a view, save the image, and measure it: the image's row, and the seconds of rendering."""
    assert split.images is not None
    begun = time.perf_counter()
    picture = np.clip(render(index), 0.0, 1.0)
    spent = time.perf_counter() - begun
    counted = _counted(split, index)
    height, width = counted.shape
    truth = blend(split.images[index, :height, :width], background)
    rounded = to_8bit(picture)
    file = out / f"{index:03d}.png"
    Image.fromarray(rounded).save(file)
    row = {
        "image": split.names[index],
        "file": f"{out.name}/{file.name}",
        "psnr": psnr(picture[counted], truth[counted]),
        "psnr_8bit": psnr(rounded[counted] / np.float32(255.0), truth[counted]),
    }
    if colour_corrected:
        fitted = corrected(picture[counted], truth[counted])
        row["psnr_colour_corrected"] = psnr(fitted, truth[counted])
    if not counted.all():
        row["counted"] = float(counted.mean())
        picture = np.where(counted[..., None], picture, truth)
    if with_ssim:
        row["ssim"] = ssim(picture, truth, None if counted.all() else counted)
    if lpips is not None:
        row["lpips"] = lpips(picture, truth)
    return row, spent


def depth_errors(
    render: Callable[[int, Float[np.ndarray, "M 2"]], Mapping[str, tuple[np.ndarray, np.ndarray]]],
    seen: Sightings,
) -> dict[str, Any]:
    """The errors of rendered depths at known points.

    Args:
      render: function of a camera's index and positions (x, y) in its image; returns for each kind of
        depth the depths there, in units of the rays' directions, and opacities.
      seen: observations of the points, with their depths; at least one.

    Returns:
      The contents of results.json: for each kind of depth "median" and "within_5_percent", the median of
      |depth / known - 1| and the fraction in which it is at most 0.05, both where opacity is more than
      0.5; "opaque", the fraction of observations where it is; and "protocol". "median" is infinite if
      opacity is nowhere more than 0.5.
    """
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for camera in np.unique(seen.camera):
        own = seen[seen.camera == camera]
        for name, (depth, opacity) in render(int(camera), own.pixel).items():
            parts.setdefault(name, []).append((depth / own.depth, opacity))
    found: dict[str, Any] = {}
    for name, each in parts.items():
        ratio, opacity = (np.concatenate(values) for values in zip(*each, strict=True))
        opaque = opacity > _OPAQUE
        error = np.abs(ratio[opaque].astype(np.float64) - 1.0)
        found[name] = {
            "median": float(np.median(error)) if len(error) else math.inf,
            "within_5_percent": float(np.mean(error <= 0.05)) if len(error) else 0.0,
            "opaque": float(np.mean(opaque)),
        }
    return found | {"protocol": {"sightings": len(seen), **_DEPTHS}}


def _why_without_ssim(split: Split, chosen: Sequence[int]) -> str:
    if not find_spec("dm_pix"):
        return "the package dm-pix is not installed"
    if not all(_with_window(_counted(split, index)).any() for index in chosen):
        return "the pictures are smaller than its window"
    return ""


def stride_that_fits(views: int, each: float, seconds: float) -> int:
    """The smallest stride n for which views 0, n, 2 n, ... fit into a time, or view 0 alone.

    Args:
      views: number of views.
      each: seconds that a view takes.
      seconds: seconds for all views.

    >>> stride_that_fits(200, 1.5, 60.0), stride_that_fits(40, 0.5, 60.0), stride_that_fits(40, 9.0, 0.0)
    (5, 1, 40)
    """
    if views * each <= seconds:
        return 1
    return math.ceil(views / max(int(seconds / each), 1))


def _counted(split: Split, index: int) -> np.ndarray:
    """The mask of a photograph's valid pixels, without its padding."""
    width, height = np.asarray(split.cameras.size)[index]
    if split.masks is None:
        return np.ones((height, width), bool)
    return split.masks[index, :height, :width]


def _sizes(split: Split, chosen: Sequence[int]) -> list[list[int]]:
    """The distinct [width, height] of some photographs; the largest is the last."""
    sizes = {tuple(map(int, np.asarray(split.cameras.size)[index])) for index in chosen}
    return [list(size) for size in sorted(sizes, key=lambda size: (size[0] * size[1], size))]

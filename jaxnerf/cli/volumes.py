"""The parts of `jaxnerf render` for a scanner's volume instead of a run."""

import math
from pathlib import Path
from typing import Any, get_args

from absl import flags

from jaxnerf.compositing import Compositing
from jaxnerf.exports.scans import OPACITY, Scan, open_scan
from jaxnerf.scenes.volume_files import is_volume

_OWN = ("compositing", "window", "opacity")
# Flags that have an effect on runs only.
_OF_RUNS = ("picture", "eye_distance", "level", "processes")


def names_volume(path: str) -> bool:
    """Whether a path is that of a volume; otherwise it is that of a run, which is a folder."""
    return Path(path).is_file() or (is_volume(path) and not Path(path).is_dir())


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of the display of volumes."""
    flags.DEFINE_enum(
        "compositing",
        None,
        get_args(Compositing),
        "the compositing mode of a VOLUME: volume, emission and absorption (the default); surface, the "
        "first sample that is half opaque; maximum, the densest sample; mean, the mean along the ray; "
        "attenuation, an X-ray",
        flag_values=values,
    )
    flags.DEFINE_list(
        "window",
        None,
        "LOW,HIGH: the values of a VOLUME between which density rises from 0, and colour from dark to "
        "bright; by default from percentiles of the values, and printed",
        flag_values=values,
    )
    flags.DEFINE_float(
        "opacity",
        None,
        "opacity of a hundredth of the longest side of a VOLUME where values are at the window's end; by "
        "default 0.6, and 0.03 with mean and attenuation",
        flag_values=values,
    )


def check(path: str, values: Any) -> None:
    """Check that all given flags have an effect on the volume or run.

    Raises:
      flags.Error: a flag has no effect, or a value is wrong; in one line.
    """
    if not names_volume(path):
        for name in _OWN:
            if values[name].present:
                raise flags.Error(f"--{name}: has an effect on a volume only, and {path} is none")
        return
    for name in _OF_RUNS:
        if values[name].present:
            raise flags.Error(f"--{name}: has no effect on a volume")
    kind = values.path.partition(":")[0]
    if kind in ("ellipse", "spiral", "cameras"):
        raise flags.Error(f"--path: a volume has no cameras for {kind}; orbit, or a FILE of poses")
    how = values.compositing or "volume"
    if values.opacity is not None:
        if how not in OPACITY:
            raise flags.Error(f"--opacity: has no effect with --compositing {how}")
        if not 0.0 < values.opacity < 1.0:
            raise flags.Error(f"--opacity: {values.opacity:g} is not between 0 and 1")
    _window(values)


def opened(path: str, values: Any) -> tuple[Scan, tuple[str, ...]] | None:
    """The volume at a path, and messages about it; None if the path is not that of a volume.

    Raises:
      SceneError: see `open_scan`.
    """
    if not names_volume(path):
        return None
    values.up = values.up or ["0", "0", "1"]
    return open_scan(Path(path), values.compositing or "volume", _window(values), values.opacity)


def _window(values: Any) -> tuple[float, float] | None:
    if values.window is None:
        return None
    try:
        low, high = (float(part) for part in values.window)
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise flags.Error(f"--window: {','.join(values.window)} is not LOW,HIGH, as 100,900 is")
    return low, high

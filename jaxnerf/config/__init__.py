"""A run's configuration: typed, with presets, and strict about what it does not know.

`sections` has the settings of each method, `presets` the named configurations and those of time budgets,
`adaptation` the settings that depend on a scene, and `earlier_versions` the keys of earlier versions.
"""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from jaxnerf.config.earlier_versions import settings_today
from jaxnerf.config.sections import HashGridConfig, NerfConfig, OwnConfig, Section, VoxelsConfig
from jaxnerf.errors import Error, in_range, positive
from jaxnerf.scenes.backgrounds import Background, read_background
from jaxnerf.training.settings import TrainingConfig


class ConfigError(Error, ValueError):
    """A configuration's key or value is wrong: one line that names it."""


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """How the photographs are read.

    Attributes:
      downscale: shrink them by this whole factor.
      longest_side: then by the smallest whole factor that leaves no side with more pixels; 0 for no
        limit.
      space: the space that the field represents: "bounded", a box around what the cameras look at;
        "unbounded", all of space, contracted outside of a ball (mip-NeRF 360); "forward", the view
        frustum of forward-facing cameras in normalised device coordinates; "auto", chosen by the scene.
      ball: radius of the ball outside of which unbounded space is contracted, in median distances of the
        cameras from the point that they look at; 0 chooses it (`jaxnerf.config.adaptation.ball_of`).
      near, far: the depths between which the scene lies, in the unit of its files; 0 for what the reader
        finds. Rays begin at near. The rays of the paper's network end at far; those of the other methods
        do not, and far is only the depth that images show where a ray meets nothing.
      find_points: whether points of surfaces are found in the photographs of an unbounded or
        forward-facing scene whose files have none (`jaxnerf.scenes.plane_sweep`).
      pixels: whether a pixel's ray passes through its "centre", or its upper left "corner" as in the
        paper's code (which costs half a dB).
      hold_out_sector: whether a tenth of the cameras, all from one side, is kept out of training and
        measured as the split "sector". Test views between training views are easier than that.
    """

    downscale: int = 1
    longest_side: int = 0
    space: Literal["auto", "bounded", "unbounded", "forward"] = "auto"
    ball: float = 0.0
    near: float = 0.0
    far: float = 0.0
    find_points: bool = True
    pixels: Literal["centre", "corner"] = "centre"
    hold_out_sector: bool = False

    def __post_init__(self) -> None:
        positive(self, "downscale")
        in_range(self, ball=(0.0, math.inf))


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured and shown when training ends.

    Attributes:
      every: measure the test views 0, every, 2 every, ...; 0 for as many, evenly spread, as fit into the
        time that training took.
      orbit_frames: number of frames of the orbit video; 0 for no video.
      orbit_size: width of the video in pixels; 0 is that of the photographs.
      chunk: rays rendered at a time on each device; memory grows with it. 0 is what suits the device.
      edge_supersampling: how much a pixel must differ from a neighbour to be seen by four rays; see
        `jaxnerf.render_image`. 0 leaves one ray a pixel.
    """

    every: int = 0
    orbit_frames: int = 120
    orbit_size: int = 0
    chunk: int = 0
    edge_supersampling: float = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes; begin with `jaxnerf.preset(name)`.

    The defaults are the paper's, which take days on a CPU. Each method has a section of its own and
    ignores those of the others.

    Attributes:
      method: "voxels", the fast field; "nerf", the paper's network; "hash_grid"; or "own", a field that
        is given to `jaxnerf.fit`.
      scene: settings of reading photographs.
      voxels: the fast field.
      nerf: the paper's network.
      hash_grid: the hash grid.
      own: a field of one's own.
      training: settings that all methods share.
      evaluation: settings of what is measured and shown at the end.
    """

    method: Literal["voxels", "nerf", "hash_grid", "own"] = "nerf"
    scene: SceneConfig = SceneConfig()
    voxels: VoxelsConfig = VoxelsConfig()
    nerf: NerfConfig = NerfConfig()
    hash_grid: HashGridConfig = HashGridConfig()
    own: OwnConfig = OwnConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def section(self) -> Section:
        """The settings of the method."""
        return getattr(self, self.method)

    def has_effect(self, key: str) -> bool:
        """Whether a key decides anything with this method."""
        section = key.partition(".")[0]
        return section == self.method or section not in _METHODS


_METHODS = get_args(typing.get_type_hints(Config)["method"])

_LARGEST = 2**31 - 1  # whole numbers end up as int32 on the device


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as {"training.steps": 1000, ...}."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A configuration with some values replaced.

    Args:
      config: the configuration.
      values: by dotted key; strings are parsed as the command line gives them ("64,128" is a tuple).

    Raises:
      ConfigError: a key is unknown (the message names the nearest), or a value is not of its type.

    >>> override(Config(), {"training.steps": "1000"}).training.steps
    1000
    """
    known = flatten(config)
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}{nearest(key, known)}")
    return _replace(config, values, "")


def to_json(config: Config) -> str:
    """A configuration as JSON text, every key written out."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """Read what `to_json` wrote, of this version or an earlier one; keys left out keep their defaults.

    Raises:
      ConfigError: it is not JSON, a key is unknown, or a value is not of its type.
    """
    return override(Config(), named_settings(text))


def named_settings(text: str) -> dict[str, Any]:
    """The values that a configuration's JSON text names, as they stand there, by today's dotted keys.

    Raises:
      ConfigError: it is not JSON, or not made of objects.
    """
    try:
        nested = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"broken JSON: {error}") from None
    flat: dict[str, Any] = {}

    def walk(value, prefix):
        if not isinstance(value, dict):
            raise ConfigError(f"{prefix.rstrip('.') or 'the configuration'} must be an object")
        for key, inner in value.items():
            if isinstance(inner, dict):
                walk(inner, f"{prefix}{key}.")
            else:
                flat[prefix + key] = inner

    walk(nested, "")
    return settings_today(flat)


def _replace(config: Any, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(type(config), include_extras=True)
    changes = {}
    for field in dataclasses.fields(config):
        key, current = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(current):
            changes[field.name] = _replace(current, values, key + ".")
        elif key in values:
            changes[field.name] = _parse(key, values[key], hints[field.name])
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:  # a value's own class refuses it, and says so by the value's name
        raise ConfigError(f"{prefix}{error}") from None


def _parse(key: str, value: Any, kind: Any) -> Any:
    """Check a value against its type; read it from text if it is text."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind == Background:
        try:
            return read_background(value)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(str, arguments))
            raise ConfigError(f"{key}: {value!r} is not one of {choices}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not parts:
            raise ConfigError(f"{key}: {value!r} is not a list like 64,128")
        return tuple(_parse(key, part, arguments[0]) for part in parts)
    if kind is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if isinstance(value, str):
            value = words.get(value.lower())
        if not isinstance(value, bool):
            raise ConfigError(f"{key}: must be true or false")
        return value
    try:
        if isinstance(value, bool) or (kind is int and float(value) != int(float(value))):
            raise ValueError
        number = int(value) if kind is int else float(value)
    except (TypeError, ValueError, OverflowError):
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{key}: {value!r} is not {what}") from None
    if not math.isfinite(number) or number < 0:
        raise ConfigError(f"{key}: {value!r} must be finite and not negative")
    if kind is int and number > _LARGEST:
        raise ConfigError(f"{key}: {value!r} is more than {_LARGEST}")
    return number


def nearest(key: str, known: Any) -> str:
    """The end of a message on an unknown key: the known one that is most like it, if one is."""
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.4)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def describe(kind: Any) -> str:
    """A type as the help shows it."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "N,N,..."
    names = {int: "N", float: "X", bool: "true|false", Background: get_args(Background)[1]}
    return names.get(kind, str(kind))

"""Shared by the verbs of the command: flags, errors, devices, and progress on the terminal."""

import contextlib
import dataclasses
import inspect
import math
import os
import re
import shutil
import sys
import textwrap
import time
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from jaxnerf.config import Config, ConfigError, describe, flatten, named_settings, override
from jaxnerf.config.earlier_versions import key_today
from jaxnerf.config.presets import DEFAULT_PRESET, PRESETS, preset, with_settings
from jaxnerf.errors import Error
from jaxnerf.kernels.memory import keep_freed


@dataclasses.dataclass
class Status:
    """The exit status of a verb."""

    code: int = 0


def fail(message: str) -> int:
    """Print an error in one line; returns the exit status 1."""
    print(f"jaxnerf: {' '.join(str(message).split())}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def report_errors() -> Iterator[Status]:
    """Print errors that a user can correct in one line, with exit status 1."""
    status = Status()
    try:
        yield status
    except (Error, flags.Error) as error:
        status.code = fail(str(error))
    except KeyboardInterrupt:
        status.code = 130
    except BrokenPipeError:
        status.code = 1
    except OSError as error:
        status.code = fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def parse(
    values: flags.FlagValues, arguments: Sequence[str], text: str, positional: Sequence[str] = ()
) -> list[str]:
    """Parse a verb's arguments into its flags; for --help, print the help and exit.

    Args:
      values: the verb's flags.
      arguments: arguments of the command line, without the verb.
      text: the beginning of the help.
      positional: names of the arguments that are not flags.

    Returns:
      The positional arguments.

    Raises:
      flags.Error: a flag is unknown (the message names the nearest), or the number of arguments is wrong.
    """
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        print(text.strip() + "\n\n" + _flags_help(values))
        raise SystemExit(0)
    try:
        rest = values(["jaxnerf", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise flags.Error(_unknown(error, values)) from None
    except flags.IllegalFlagValueError as error:
        name, non_boolean, _ = str(error).removeprefix("flag --").partition("=")
        if non_boolean and "Non-boolean" in str(error):
            raise flags.Error(f"--{name}: must be true or false") from None
        raise
    if len(rest) != len(positional):
        wanted = " ".join(positional) or "no arguments but flags"
        given = f", got {' '.join(rest)!r}" if rest else ""
        raise flags.Error(f"expected {wanted}{given}; see --help")
    for name in values:
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise flags.Error(f"--{name}: {value} is not a finite number")
    return rest


def _unknown(error: flags.UnrecognizedFlagError, values: flags.FlagValues) -> str:
    """The message for an unknown flag: its present name if it was renamed, or the nearest known flag."""
    for method in ("voxels", "hash_grid", "nerf"):
        now = key_today(error.flagname, method)
        if now and now != error.flagname and now in values:
            return f"unknown flag {error.flagname!r}: it is --{now} now"
    return str(error).replace("Unknown command line flag", "unknown flag")


def define_config_flags(values: flags.FlagValues) -> None:
    """Define a flag for each key of the configuration, named with dots: --training.steps=1000."""
    help_by_key = _config_help(Config, "")
    for key, value in flatten(Config()).items():
        define = flags.DEFINE_bool if isinstance(value, bool) else flags.DEFINE_string
        define(key, None, help_by_key[key], flag_values=values)


def configuration(values: flags.FlagValues, base: Config | None = None) -> Config:
    """The configuration of a preset or a JSON file, with the values of flags over it.

    Raises:
      ConfigError: the preset is unknown, or a value is not of its key's type.
    """
    name, named = str(values["config"].value), _settings_of_file(values)
    if base is None and named is not None:
        try:
            base = override(Config(), named)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    base = base or preset(name)
    given = {key: values[key].value for key in flatten(Config()) if values[key].present}
    config = with_settings(base, given)
    if config.method == "own":
        raise ConfigError("method: own is that of jaxnerf.fit, which is given the field")
    return config


def define_scene_flags(values: flags.FlagValues) -> None:
    """Define the flags of all verbs that read scenes."""
    flags.DEFINE_bool(
        "allow_outside_paths",
        False,
        "read files outside of the scene's folder too, if its own files name them by absolute paths, "
        "by .. or through links",
        flag_values=values,
    )


def chosen(values: flags.FlagValues) -> list[str]:
    """The keys of the configuration that are set by flags, or by the file given as --config.

    Raises:
      ConfigError: the file cannot be read.
    """
    named = _settings_of_file(values) or {}
    return [key for key in flatten(Config()) if values[key].present or key in named]


def _settings_of_file(values: flags.FlagValues) -> dict[str, Any] | None:
    """The settings in a file given as --config, by key; None for a preset."""
    name = str(values["config"].value)
    if name in PRESETS or Path(name).suffix != ".json":
        return None
    try:
        return named_settings(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {error}") from None


def prepare_cpu(rays: int | None = None, *, keep_memory: bool = True) -> None:
    """On a CPU, use one JAX device for each core, and keep freed memory; call it before using JAX.

    The user's own settings (XLA_FLAGS, JAX_NUM_CPU_DEVICES, MALLOC_*) take precedence.

    Args:
      rays: number of rays of a batch; the number of devices is then the largest that divides it evenly.
      keep_memory: whether freed memory is kept. That makes steps faster, but increases the peak if there
        are arrays of many sizes.
    """
    if keep_memory:
        keep_freed()
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    while rays and rays % cores:
        cores -= 1
    with contextlib.suppress(RuntimeError):  # JAX has been used already
        jax.config.update("jax_num_cpu_devices", cores)


def use_compilation_cache() -> None:
    """Cache compiled programs on disk, unless the user has set JAX_COMPILATION_CACHE_DIR."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with contextlib.suppress(OSError):
        (home / "jaxnerf").mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxnerf"))
        # A run compiles dozens of small programs too, which together take seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def seconds_since_process_start() -> float:
    """Seconds since this process started, including imports."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            after_name = file.read().rpartition(")")[2].split()
        started = float(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return time.perf_counter() - _IMPORTED


_IMPORTED = time.perf_counter()
_SECONDS_BETWEEN_LINES = 10.0  # if the output is not a terminal


class LiveLine:
    """A line that is rewritten in place on a terminal; otherwise lines are printed at intervals."""

    def __init__(self) -> None:
        self._terminal, self._last = sys.stdout.isatty(), -float("inf")

    def show(self, text: str, *, last: bool = False) -> None:
        """Show the line's new text; the last text is kept on a terminal."""
        now = time.monotonic()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="\n" if last else "", flush=True)
        elif last or now - self._last >= _SECONDS_BETWEEN_LINES:
            print(text, flush=True)
            self._last = now


def bar(done: int, total: int) -> str:
    """A progress bar.

    >>> bar(3, 4)
    '[##################      ] 3/4'
    """
    return f"[{'#' * (24 * done // total):24}] {done}/{total}"


def duration(seconds: float) -> str:
    """Seconds as text: 12 s, 3 min 20 s, 2 h 05 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _config_help(config: type, prefix: str) -> dict[str, str]:
    """The help of every key, from the Attributes in the dataclasses' docstrings."""
    hints = typing.get_type_hints(config, include_extras=True)
    section = (inspect.getdoc(config) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^  (\w[\w, ]*): (.*(?:\n {3,}.*)*)", section, re.MULTILINE)
    about = {
        name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")
    }
    found = {}
    for field in dataclasses.fields(config):
        kind, key = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind):
            found |= _config_help(typing.cast(type, kind), key + ".")
        else:
            found[key] = f"{describe(kind)}; {about[field.name]}"
    return found


def _flags_help(values: flags.FlagValues) -> str:
    lines = ["Flags (bool flags take a no: --noNAME):"]
    keys = flatten(Config())
    has_config = next(iter(keys)) in values
    for name in values:
        if has_config and name in keys:
            continue
        flag = values[name]
        shown = ",".join(flag.value) if isinstance(flag.value, list) else flag.value
        default = "" if shown in (None, False, "") else f" (default {shown})"
        lines += _entry(f"--{'[no]' if flag.boolean else ''}{name}", f"{flag.help}{default}")
    if has_config:
        lines += ["", "Presets for --config:"]
        for name, (about, _) in PRESETS.items():
            lines += _entry(name, about)
        lines += ["", f"Values of a preset, each with that of {DEFAULT_PRESET}:"]
        base = flatten(preset(DEFAULT_PRESET))
        for key in keys:
            shown = base[key]
            shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
            kind, _, about = values[key].help.partition("; ")
            lines += _entry(f"--{key}={kind}", f"[{shown}] {about}")
    return "\n".join(lines)


def _entry(name: str, text: str) -> list[str]:
    body = textwrap.wrap(text, 72)
    return [f"  {name}", *(f"      {line}" for line in body)]

"""Right arithmetic from the compiler: a fusion of XLA's CPU backend that is switched off.

From jaxlib 0.10.2 on, XLA's CPU backend hands some reductions to a library of fused kernels (YNNPACK).
In 0.10.2 the result is wrong, silently: a row of `vmap(lambda r: jnp.sum((M @ r) ** 2))` over
[32769, 3] is off by more than 1 (jax issue 39103), and other shapes crash (39257, 40412, the former in
0.11.0 too). Python 3.11 gets nothing newer than 0.10.2, and which later versions are right is found out
one report at a time, so no version is excluded: the fusion is switched off wherever the installed jaxlib
knows how. The price is in experiments/step_cost/README.md.

XLA reads XLA_FLAGS once, when the first backend is made, and ends the process over a flag that it does
not know.
"""

import importlib.util
import mmap
import os
import sys
import warnings
from collections.abc import MutableMapping
from pathlib import Path

FLAG = "xla_cpu_experimental_ynn_fusion_type"
_LIBRARIES = ("libjax_common.so", "libjax_common.dylib", "jax_common.dll", "xla_extension.so")


class CompilerWarning(UserWarning):
    """The compiler may compute wrong numbers, or the user has chosen that it may."""


def prepare_compiler(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch the fusion off for this process and those that it starts.

    A value that the user gave the flag stays. Where it is too late, since a backend of JAX is running,
    or where the user's value leaves the fusion on, a `CompilerWarning` says in one line what to do.

    Args:
      environment: in which XLA looks for its flags.
    """
    given = environment.get("XLA_FLAGS", "")
    if f"--{FLAG}" in given:
        if off_by(given):
            return
        warnings.warn(
            f"jaxnerf: XLA_FLAGS leaves --{FLAG} on, with which some sums are wrong on CPUs "
            "(jax issue 39103)",
            CompilerWarning,
            stacklevel=3,
        )
    elif is_known():
        if _backend_is_running():
            warnings.warn(
                "jaxnerf: imported after JAX began to compute, so some sums may be wrong on CPUs (jax "
                f"issue 39103): import jaxnerf first, or set XLA_FLAGS=--{FLAG}= before Python begins",
                CompilerWarning,
                stacklevel=3,
            )
        else:
            environment["XLA_FLAGS"] = f"{given} --{FLAG}=".strip()


def off_by(flags: str) -> bool:
    """Whether the last of XLA's flags with this name switches the fusion off.

    >>> off_by(f"--{FLAG}=reduce --{FLAG}="), off_by(f"--{FLAG}=-reduce")
    (True, False)
    """
    values = [flag.partition("=") for flag in flags.split() if flag.startswith(f"--{FLAG}")]
    return bool(values) and values[-1][1:] == ("=", "")


def is_known(folder: Path | None = None) -> bool:
    """Whether jaxlib's library knows the flag: it then holds its name (jaxlib 0.10.0 to 0.12.0 do).

    Args:
      folder: of jaxlib; that of the installed one by default.
    """
    if folder is None:
        found = importlib.util.find_spec("jaxlib")
        folder = Path(found.origin).parent if found and found.origin else Path()
    for name in _LIBRARIES:
        try:
            with (
                (folder / name).open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents,
            ):
                if contents.find(FLAG.encode()) >= 0:
                    return True
        except (OSError, ValueError):  # not there, or empty
            continue
    return False


def _backend_is_running() -> bool:
    """Whether JAX has a backend, for all that its internals tell."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(getattr(bridge, "backends_are_initialized", lambda: False)())

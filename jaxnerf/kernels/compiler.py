"""The switch that keeps XLA's CPU compiler from computing sums wrongly; nothing of JAX is imported here.

From jaxlib 0.10.2 on, XLA hands some products and reductions on CPUs to YNNPACK, which computes some of
them wrongly and says nothing (jax issue 39103; of its cousins, 39257 and 40412, the process dies). The
flag FUSION with an empty value switches that off. Of `vmap(lambda r: sum((M @ r) ** 2))` over [32769, 3],
under jit, the last row is, relative to its value (2 cores, x86-64, float32, Python 3.11):

    jaxlib     as it is    with the flag
    0.10.0     6e-8        6e-8
    0.10.1     6e-8        6e-8
    0.10.2     8e-3        6e-8

Versions are not excluded instead: 0.10.2 is the newest that Python 3.11 can have, the fault was shipped
again in 0.11.0, and steps cost as much with the flag, as far as a busy machine tells, but for those of
`nerf_small`, which take a sixth more of the processors (experiments/step_cost/README.md).

XLA aborts the process on a flag that it does not know. The wheels of jaxlib 0.10.0, 0.10.1, 0.10.2,
0.11.0, 0.11.1, 0.11.2 and 0.12.0, of the CUDA plugins 0.10.2 (CUDA 12) and 0.11.2 (CUDA 13), and of
libtpu 0.0.52 all hold its name, between two zero bytes as strings of C are. So it is looked for in each
installed library that reads XLA_FLAGS, 13 ms where it is found and 0.7 s where not, and is set only if
all have it. XLA reads the variable when the first backend starts, so it is too late after that. The
variable is part of the key of JAX's compilation cache: no program compiled without the flag is used.
"""

import contextlib
import mmap
import os
import re
import sys
from collections.abc import Iterable, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

FUSION = "xla_cpu_experimental_ynn_fusion_type"
_FIRST_WRONG = (0, 10, 2)
# Relative to the folders of these packages, the libraries that read XLA_FLAGS.
_LIBRARIES = {
    "jaxlib": ("libjax_common.*", "jax_common.dll"),
    "jax_plugins": ("*/xla_*_plugin.so",),
    "libtpu": ("libtpu.so",),
}


def protect(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Have JAX's CPU backend compute right, if it has not been started yet.

    Appends to XLA_FLAGS, where the installed jaxlib needs the flag and knows it. A value that the user
    gave FUSION stays.

    Args:
      environment: read and changed.

    Returns:
      One line to tell the user, where sums may be wrong nevertheless; else None.
    """
    try:
        jaxlib = version("jaxlib")
    except PackageNotFoundError:
        return None
    given = flags_of(environment.get("XLA_FLAGS", ""))
    value = value_in(given)
    if not is_affected(jaxlib) or value in ("", "invalid"):
        return None
    wrong = f"jaxlib {jaxlib} computes some sums on CPUs wrongly"
    if value is not None:
        return (
            f"{wrong}, which --{FUSION}={value} in XLA_FLAGS does not rule out; "
            "take it out of XLA_FLAGS, or leave its value empty"
        )
    remedy = f"import jaxnerf before JAX is used, or set XLA_FLAGS=--{FUSION}="
    if _started():
        late = f"{wrong}, and JAX was used before jaxnerf was imported: {remedy}"
        return late if _on_cpu() else None
    if not all_know(FUSION, installed_libraries()):
        return f"{wrong}, and jaxnerf found no flag that it knows against that"
    environment["XLA_FLAGS"] = f"{given} --{FUSION}=".strip()
    return None


def is_affected(jaxlib: str) -> bool:
    """Whether a version of jaxlib hands sums to the library that computes some wrongly.

    >>> [is_affected(each) for each in ("0.10.1", "0.10.2", "0.12.0.dev20260901")]
    [False, True, True]
    """
    return tuple(map(int, re.findall(r"\d+", jaxlib)[:3])) >= _FIRST_WRONG


def flags_of(variable: str) -> str:
    """The flags that XLA takes from XLA_FLAGS: its text, or that of the file that it names.

    XLA reads a file where the text does not begin with a dash; of one that cannot be read, nothing.
    """
    if not variable.strip() or variable.lstrip().startswith("-"):
        return variable.strip()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return " ".join(Path(variable).read_text(encoding="utf-8").split())
    return ""


def value_in(flags: str) -> str | None:
    """The value of FUSION among flags, of which XLA takes the last, without quotes; None without it.

    >>> value_in("--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type=-reduce")
    '-reduce'
    """
    found = re.findall(rf"(?:^|\s)['\"]?--?{FUSION}(?:=(\S*))?(?=\s|$)", flags)
    return found[-1].strip("'\"") if found else None


def installed_libraries() -> list[Path]:
    """The shared libraries of the installed packages that read XLA_FLAGS."""
    found = []
    for package, patterns in _LIBRARIES.items():
        spec = find_spec(package)
        folders = (spec.submodule_search_locations if spec else None) or ()
        found += [
            path
            for folder in folders
            for pattern in patterns
            for path in sorted(Path(folder).glob(pattern))
        ]
    return found


def all_know(flag: str, libraries: Iterable[Path]) -> bool:
    """Whether each library, and there is one at least, holds a flag's name as a string of C."""
    text, known = b"\0" + flag.encode() + b"\0", False
    for path in libraries:
        try:
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents,
            ):
                known = contents.find(text) >= 0
        except (OSError, ValueError):
            known = False
        if not known:
            return False
    return known


def _started() -> bool:
    """Whether a backend of JAX runs."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    asked = getattr(bridge, "backends_are_initialized", None)
    return bool(asked and asked())


def _on_cpu() -> bool:
    """Whether the backend that runs computes on the CPU."""
    return sys.modules["jax"].default_backend() == "cpu"

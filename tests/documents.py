"""What documents show, run as a user would run it."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxnerf.cli import main

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(document: Path, language: str) -> list[str]:
    """The code of a document in a language.

    Each block is preceded by as many empty lines as lines stand before it, so that a traceback names the
    document's own.
    """
    text = document.read_text(encoding="utf-8")
    return [
        "\n" * (text.count("\n", 0, block.start()) + 1) + block[2]
        for block in _BLOCK.finditer(text)
        if block[1] == language
    ]


def commands(document: Path) -> list[list[str]]:
    """The arguments of each call of `jaxnerf` in a document's blocks of sh."""
    lines = "\n".join(blocks(document, "sh")).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("jaxnerf ")]


@contextlib.contextmanager
def as_users_have_it() -> Iterator[None]:
    """JAX as it comes, and not as strict as in tests."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def run_python(document: Path, namespace: dict[str, Any]) -> None:
    """Run a document's Python, block after block, in one namespace."""
    with as_users_have_it():
        for block in blocks(document, "python"):
            exec(compile(block, str(document), "exec"), namespace)


def train_demo(folder: Path) -> None:
    """Leave a short training of the demo scene in runs/demo of a folder, where documents look for it."""
    arguments = ["--max_steps=4", "--noevaluate", "--voxels.stages.resolutions=16,32",
                 "--voxels.stages.fractions=0.5", "--voxels.stages.cells=16"]  # fmt: skip
    assert main(["train", f"--out={folder}/runs/demo", *arguments]) == 0

"""What the README shows runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxnerf.cli import main

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a short training of the demo scene has left runs/demo."""
    folder = tmp_path_factory.mktemp("readme")
    arguments = ["--max_steps=4", "--noevaluate", "--voxels.stages.resolutions=16,32",
                 "--voxels.stages.fractions=0.5", "--voxels.stages.cells=16"]  # fmt: skip
    assert main(["train", f"--out={folder}/runs/demo", *arguments]) == 0
    return folder


def test_every_block_of_python_runs_in_a_program_of_its_own(folder):
    assert len(BLOCKS) >= 3
    # A process for all of them, each in a namespace of its own, since to begin one takes seconds.
    program = "import sys\n" + "\n".join(f"exec({block!r}, {{}})" for block in BLOCKS)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "view.png").exists()
    assert done.stdout.rstrip().endswith("True")

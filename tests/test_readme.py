"""What the README shows runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import blocks

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_every_block_of_python_runs_in_a_program_of_its_own(demo):
    shown = blocks(README, "python")
    assert len(shown) >= 3
    # A process for all of them, each in a namespace of its own, since to begin one takes seconds.
    program = "import sys\n" + "\n".join(f"exec({block!r}, {{}})" for block in shown)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=demo, capture_output=True, text=True, timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (demo / "view.png").exists()
    assert done.stdout.rstrip().endswith("True")

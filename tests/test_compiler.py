"""The compiler's arithmetic, in fresh processes: XLA reads its flags once."""

import os
import subprocess
import sys

import pytest

from jaxnerf.compiler import FLAG, CompilerWarning, is_known, prepare_compiler

REPRODUCER = """
import numpy as np, jax.numpy as jnp
M = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
x = np.stack([np.arange(32769), np.zeros(32769), np.zeros(32769)], 1).astype(np.float32)
found = np.asarray(jax.jit(jax.vmap(lambda r: jnp.sum((M @ r) ** 2)))(x))
truth = ((x.astype(np.float64) @ M.T.astype(np.float64)) ** 2).sum(-1)
print("worst", np.max(np.abs(found - truth) / np.maximum(truth, 1.0)))
"""
FIRST = "import jaxnerf, jax\n" + REPRODUCER
AFTER_IMPORT = "import jax, jaxnerf\n" + REPRODUCER
TOO_LATE = "import jax; jax.devices()\nimport jaxnerf\n"


def run(program: str, **environment: str) -> tuple[str, str]:
    clean = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
        env={**clean, "JAX_PLATFORMS": "cpu", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


@pytest.mark.parametrize("program", [FIRST, AFTER_IMPORT])
def test_the_reduction_that_is_known_to_be_wrong_is_right(program):
    out, err = run(program)
    assert float(out.split()[-1]) < 1e-5
    assert "CompilerWarning" not in err


def test_flags_of_the_user_stay_beside_it_and_his_own_value_stands():
    out, _ = run("import os, jaxnerf; print(os.environ['XLA_FLAGS'])",
                 XLA_FLAGS="--xla_force_host_platform_device_count=3")  # fmt: skip
    assert out.split() == ["--xla_force_host_platform_device_count=3", f"--{FLAG}="]
    if is_known():
        mine = f"--{FLAG}=-reduce"
        program = "import os, jaxnerf, jax; jax.devices(); print(os.environ['XLA_FLAGS'])"
        out, err = run(program, XLA_FLAGS=mine)
        assert out.strip() == mine
        (line,) = [line for line in err.splitlines() if "CompilerWarning" in line]
        assert f"--{FLAG}" in line


def test_a_program_that_imports_too_late_is_told_what_to_do():
    _, err = run(TOO_LATE)
    (line,) = [line for line in err.splitlines() if "CompilerWarning" in line]
    assert f"XLA_FLAGS=--{FLAG}=" in line


def test_a_jaxlib_that_does_not_know_the_flag_is_not_given_it(tmp_path, monkeypatch):
    (tmp_path / "libjax_common.so").write_bytes(b"\x7fELF" + bytes(4096))
    assert not is_known(tmp_path)
    assert not is_known(tmp_path / "nothing")
    (tmp_path / "xla_extension.so").write_bytes(bytes(100) + FLAG.encode() + bytes(100))
    assert is_known(tmp_path)
    environment: dict[str, str] = {}
    monkeypatch.setattr("jaxnerf.compiler.is_known", lambda: False)
    prepare_compiler(environment)
    assert environment == {}


def test_in_this_process_it_is_off(recwarn):
    prepare_compiler()
    assert not [w for w in recwarn if issubclass(w.category, CompilerWarning)]

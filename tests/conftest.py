"""Every test runs with strict types and shapes, and on two devices."""

import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Many tests compile the same small programs; a cache that dies with the session shares them.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers get their parent's
    _CACHE = tempfile.TemporaryDirectory(prefix="jaxnerf-test-cache-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    # Also for the programs that tests start, of which many do the same.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# Four fifths of the suite's time is XLA's compiler, which with these takes an eighth as long for a
# renderer and half as long for a sum. What it makes is slower, which small tests do not notice.
QUICK = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "true",
    "xla_cpu_use_fusion_emitters": "false",
}


@pytest.hookimpl(trylast=True)  # jaxtyping's hook for imports comes before
def pytest_configure():
    """Set how XLA compiles, before a test uses it, also for the processes that tests start.

    With what `jaxnerf.kernels.compiler` sets, whatever a test imports first; and quickly, unless
    XLA_FLAGS is there already: `XLA_FLAGS= pytest` tests the programs that users have.
    """
    given = "XLA_FLAGS" in os.environ  # so it is in workers
    import jaxnerf  # noqa: F401
    from jaxnerf.kernels.compiler import all_know, installed_libraries

    if not given:
        libraries = installed_libraries()
        known = [f"--{flag}={QUICK[flag]}" for flag in QUICK if all_know(flag, libraries)]
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known]).strip()


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go():
    """Compiled programs of a module, which would fill gigabytes and make loading others ever slower."""
    yield
    jax.clear_caches()


@pytest.fixture
def float64():
    """Double precision, for comparisons with closed forms and finite differences."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scenes, which is not part of the project."""
    folder = os.environ.get("JAXNERF_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("JAXNERF_DATA does not name a folder of real scenes")
    return Path(folder)


@pytest.fixture(scope="session")
def trained_demo(tmp_path_factory) -> Path:
    """A folder with runs/demo, as documents have it: a training of the demo scene, a very short one."""
    from documents import train_demo  # after jaxtyping's hook

    folder = tmp_path_factory.mktemp("demo")
    train_demo(folder)
    return folder


@pytest.fixture
def demo(trained_demo, tmp_path) -> Path:
    """A folder of the test's own, with a copy of that runs/demo."""
    shutil.copytree(trained_demo, tmp_path, dirs_exist_ok=True)
    return tmp_path

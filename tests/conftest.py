"""Every test runs with strict types and shapes, and on two devices."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


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

"""Four fake CPU devices, and every annotated shape and type of the package checked at run time."""

import atexit
import os
import shutil
import signal
import tempfile

# Optimisation is most of a compilation and changes no result beyond rounding. Tests run tiny programs once.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("halp_jax", "beartype.beartype")

# Tests build the same step again and again: each worker compiles it once. The folder is of this process
# alone, for jax writes its entries in place, where another process could read half of one.
_COMPILED = tempfile.mkdtemp(prefix="halp_jax_compiled_")
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# A shell starts what it puts into the background deaf to Ctrl-C; tests that send it are not.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Reference vectors of the authors' code: golden("encoder") is a dict of arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """A worker would end with gigabytes of programs; what a later file needs again is on disk."""
    yield
    jax.clear_caches()

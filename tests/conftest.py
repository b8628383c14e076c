"""Every test runs with the project's XLA settings and with JAX's strict checks on."""

import os
import re
from pathlib import Path

import jax
import pytest

from ssoup_jax import devices

# Programs that tests start keep what they compile, but not among the user's.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "xdg")

devices.configure()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def compiled(caplog):
    """Returns a function that lists the programs that any thread compiled since its last call, by name."""

    def names() -> list[str]:
        found = re.findall(r"Compiling jit\((.+?)\) with", caplog.text)
        caplog.clear()
        return found

    # Not `jax.log_compiles`, which other threads do not see.
    jax.config.update("jax_log_compiles", True)
    jax.jit(lambda x: x + 1)(jax.device_put(1.0))
    assert names() == ["<lambda>"], "the log shows compilations"
    yield names
    jax.config.update("jax_log_compiles", False)

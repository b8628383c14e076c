"""Every test runs with the project's XLA settings and with JAX's strict checks on."""

import importlib
import linecache
import os
import re
import sys
import textwrap
from pathlib import Path

import jax
import pytest

from ssoup_jax import devices, own
from ssoup_jax.training import optimizer

# What tests compile is kept for the next ones, for the programs that they start and for the next time; not among the
# user's.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "xdg")

devices.configure()
devices.keep_compiled_programs()
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


@pytest.fixture
def usual_promotion():
    """Lets dtypes be mixed as users have it."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Returns a function that writes a module of somebody's own, where Python finds it, in the place of one before."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    written = []

    def forget() -> None:
        for name in written:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.clearcache()
        own.load.cache_clear()
        optimizer.named.cache_clear()

    def write(text: str, name: str = "mine") -> str:
        written.append(name)
        forget()
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    yield write
    forget()

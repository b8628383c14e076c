"""What JAX is set to before it starts, whatever the environment says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import json, sys
from ssoup_jax import devices
lines = devices.configure()
devices.keep_compiled_programs()
import jax
draw = jax.random.normal(jax.random.key(3), (2,)).tolist()
print(json.dumps([lines, jax.config.jax_compilation_cache_dir, draw]))
"""


def started(**environment):
    """Configures JAX in a process of its own; returns its lines, its cache and two random numbers."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def usual():
    return started(XDG_CACHE_HOME="/somewhere")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_ENABLE_X64", "1"),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
        ("JAX_THREEFRY_PARTITIONABLE", "0"),
    ],
)
def test_the_environment_changes_no_number_and_that_is_said(usual, name, value):
    lines, _, draw = started(**{name: value})
    assert draw == usual[2]
    assert usual[0] == []
    (line,) = lines
    assert line.startswith(f"{name}=")
    assert "not followed" in line


def test_programs_are_kept_in_the_users_own_cache(usual):
    assert usual[1].startswith("/somewhere/ssoup_jax/compiled/")
    home = started(XDG_CACHE_HOME="", HOME="/home/somebody")[1]
    assert home.startswith("/home/somebody/.cache/ssoup_jax/compiled/")
    relative = started(XDG_CACHE_HOME="not/absolute", HOME="/home/somebody")[1]
    assert relative == home


def test_a_cache_of_the_environment_wins():
    assert started(JAX_COMPILATION_CACHE_DIR="/mine", XDG_CACHE_HOME="/somewhere")[1] == "/mine"

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
devices.start()
lines += devices.keep_compiled_programs()
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


def refused(**environment):
    """Starts an experiment whose data are not there, for an environment that is to be refused before."""
    return subprocess.run(
        [sys.executable, "launch.py", "--config", "configs/digits_sms.py", "--config.dataset=npz:nowhere"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))} | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def usual(home):
    return started(XDG_CACHE_HOME=str(home))


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_DEBUG_NANS", "1"),
        ("JAX_DEBUG_INFS", "1"),
        ("JAX_TRANSFER_GUARD", "disallow"),
        ("JAX_COMPILATION_CACHE_CHECK_CONTENTS", "1"),
        ("JAX_NO_EXECUTION", "1"),
        ("JAX_NO_TRACING", "1"),
    ],
)
def test_a_check_that_would_end_a_healthy_run_is_off_and_that_is_said(name, value):
    (line,), _, _ = started(**{name: value})
    assert line.startswith(f"{name}=")
    assert "not followed, since" in line


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_ENABLE_X64": "perhaps"},
        {"JAX_DEFAULT_PRNG_IMPL": "dice"},
        {"JAX_NUM_CPU_DEVICES": "many"},
        {"XLA_FLAGS": "--xla_no_such_flag=1"},
        {"XLA_FLAGS": "--xla_cpu_enable_fast_math=perhaps"},
        {"XLA_FLAGS": "no/such/file"},
        {"JAX_PLATFORMS": "gpu"},
        {"JAX_PLATFORMS": "tpu"},
        {"JAX_PLATFORMS": "cuda"},
        {"JAX_PLATFORMS": "abacus"},
        {"JAX_PLATFORM_NAME": "gpu"},
        {"JAX_DEFAULT_DEVICE": "gpu"},
    ],
    ids=lambda environment: "=".join(*environment.items()),
)
def test_what_cannot_be_followed_is_one_line_that_names_it(environment):
    """On a machine that has none of these devices, as those that run the tests usually are."""
    ((name, value),) = environment.items()
    done = refused(**environment)
    if done.returncode == 0 and value in ("gpu", "tpu", "cuda"):
        pytest.skip(f"there is a {value}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert name.lower() in done.stderr.lower()
    assert value in done.stderr


def test_a_file_of_flags_for_xla_is_left_alone(tmp_path):
    (tmp_path / "flags").write_text("--xla_cpu_enable_fast_math=false\n")
    lines, _, _ = started(XLA_FLAGS=str(tmp_path / "flags"))
    assert lines == []


def test_flags_of_the_users_own_are_joined():
    assert started(XLA_FLAGS="--xla_cpu_enable_fast_math=false")[0] == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (line,), cache, draw = started(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "compiled programs are not kept" in line
    assert str(tmp_path / "file") in line
    assert cache is None
    assert draw


def test_programs_are_kept_in_the_users_own_cache(usual, home):
    assert usual[1].startswith(f"{home}/ssoup_jax/compiled/")
    own = started(XDG_CACHE_HOME="", HOME=str(home))[1]
    assert own.startswith(f"{home}/.cache/ssoup_jax/compiled/")
    relative = started(XDG_CACHE_HOME="not/absolute", HOME=str(home))[1]
    assert relative == own


def test_a_cache_of_the_environment_wins(home):
    own = str(home / "mine")
    assert started(JAX_COMPILATION_CACHE_DIR=own, XDG_CACHE_HOME=str(home))[1] == own

"""Where an artifact came from: when, where, with what. None of it decides what is in it, and all is under one key."""

import functools
import os
import platform
import socket
import subprocess
import sys
from collections import Counter
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.stack import names
from ssoup_jax.version import VERSION

KEY = "provenance"
"""What a record calls it."""

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
"""The packages whose versions are recorded, besides our own and Python's."""

_GIT_SECONDS = 10.0


def now() -> str:
    """Returns the local time as ISO text, with its distance from UTC."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def describe(started: str, execution: str | None) -> dict[str, Any]:
    """Describes what ends now.

    Args:
        started: when the stage began, as `now` spells it; in an earlier process, if it was cut off.
        execution: full name of the executor that its stack ran under; None: nothing was computed.

    Returns:
        Ready for JSON, see `docs/records.md`.
    """
    mesh = None if execution is None else names.parse(execution).mesh
    return {
        **_of_process(),
        "execution": execution,
        "mesh": None if mesh is None else list(mesh),
        "started": started,
        "ended": now(),
    }


@functools.cache
def _of_process() -> dict[str, Any]:
    """What stays the same while a process lives."""
    return {
        "versions": {"ssoup_jax": VERSION, "python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "devices": dict(Counter(device.device_kind for device in jax.devices())),
        "processes": jax.process_count(),
        "git": git(Path(__file__)),
        "command": list(sys.argv),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # vendored, or renamed by a distribution
            continue
    return found


def git(file: Path) -> dict[str, Any] | None:
    """Returns which commit a source file is of.

    Args:
        file: ours; one that lies in a repository without belonging to it, as an installed one may, is of no commit.

    Returns:
        `commit`, and `dirty`: whether any file of that repository was changed since. None: no repository, or no git.
    """
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        commit = _git(file.parent, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(file.parent, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # A hook, or whoever else starts this with a repository in the environment, means another one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "--no-optional-locks", "-C", str(folder), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=_GIT_SECONDS,
        env=environment,
    ).stdout

"""What one machine has written and another does not see yet: network file systems show files up to a minute late."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from ssoup_jax.errors import RunError
from ssoup_jax.storage import manifest

PATIENCE = 90.0
"""Seconds; an NFS client keeps what it knows of a folder for 60 unless told otherwise."""

_POLL_SECONDS = 0.2


def wait_for(folder: Path, patience: float = PATIENCE, sleep: Callable[[float], None] = time.sleep) -> None:
    """Waits until a folder that was finished elsewhere is here with all that its manifest lists.

    Args:
        folder: one that another process has found whole.
        patience: seconds after which it will not come any more.
        sleep: waits for some seconds.

    Raises:
        RunError: it did not come.
    """
    waited = 0.0
    while (problem := _missing(folder)) is not None:
        if waited >= patience:
            raise RunError(
                f"{folder}: process 0 has it, and after {patience:.0f} s it is still not here as it is there "
                f"({problem}); the workdir must be one folder that all processes share"
            )
        sleep(_POLL_SECONDS)
        waited += _POLL_SECONDS


def _missing(folder: Path) -> str | None:
    """Says what of a folder is not here yet; None: nothing."""
    try:
        for name, (size, _) in manifest.read(folder).items():
            if os.stat(folder / name).st_size != size:
                return f"{name!a} is not as large"
    except manifest.Damaged as error:
        return error.problem
    except OSError as error:
        return f"{os.path.basename(error.filename)!a}: {error.strerror}"
    return None

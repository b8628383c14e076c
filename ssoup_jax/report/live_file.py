"""A small file that says what a run is at, for whoever watches from another terminal."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from ssoup_jax.storage.json_files import to_json

SECONDS = 2.0
"""Least time between two writes."""


class LiveFile:
    """Writes a file every so often while a stage trains, and removes it in the end; a context manager.

    Nothing depends on it: where it cannot be written there is none.

    Args:
        path: the file; None: there is none.
        clock: returns the time in seconds.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock = path, clock
        self._next = 0.0

    def write(self, content: Callable[[], Mapping[str, Any]]) -> None:
        """Writes what a function returns, with the time, unless the last write was just now."""
        if self._path is None or self._clock() < self._next:
            return
        self._next = self._clock() + SECONDS
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            text = json.dumps(to_json({**content(), "updated": now}), allow_nan=False)
            # Whole or not at all for a reader, but training does not wait for the disk.
            beside = self._path.with_name(f".{self._path.name}.tmp")
            beside.write_text(text)
            beside.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

"""Records as JSON: a log of lines that grows, and whole files that are there or not."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import jax
import numpy as np

from ssoup_jax.storage import atomic


def to_json(obj: object) -> object:
    """Turns nested records into what strict JSON can hold.

    Args:
        obj: mappings, lists and tuples of numbers, texts, paths, None, and NumPy or JAX scalars and
            arrays of any real dtype.

    Returns:
        Dicts with text keys, lists, texts, bools, ints, finite floats and None; a number that is not
        finite becomes None.

    Raises:
        TypeError: for anything else, so that no record is written with a hole in it.
    """
    match obj:
        # NumPy first: its float64 is a float and its text a str.
        case np.generic() | np.ndarray() | jax.Array():
            return to_json(_plain(obj))
        case None | bool() | str():
            return obj
        case int():
            return obj
        case float():
            return float(obj) if math.isfinite(obj) else None
        case Mapping():
            return {str(key): to_json(value) for key, value in obj.items()}
        case list() | tuple():
            return [to_json(value) for value in obj]
        case os.PathLike():
            return os.fspath(obj)
    raise TypeError(f"cannot write {type(obj).__name__} as JSON")


def _plain(array: np.generic | np.ndarray | jax.Array) -> object:
    # device_get, because implicit transfers are an error under a transfer guard.
    array = np.asarray(jax.device_get(array))
    if jax.dtypes.issubdtype(array.dtype, np.floating):
        # float64 holds every value of the narrow floats and is the widest that `tolist` makes plain.
        return array.astype(np.float64).tolist()
    if array.dtype.kind in "bU" or jax.dtypes.issubdtype(array.dtype, np.integer):
        return array.tolist()
    raise TypeError(f"cannot write an array of {array.dtype} as JSON")


class JsonLines:
    """Appends records to a file, one JSON object a line; a context manager that closes the file.

    Args:
        path: the file; it is made, with its folders, where it is not there.
    """

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A process that was killed in the middle of a line must not spoil the first line of the next.
        torn = _ends_inside_a_line(path)
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def write(self, record: Mapping) -> None:
        """Appends one record and flushes it, so that a killed run loses nothing it has reported.

        Args:
            record: a mapping of what `to_json` takes.

        Raises:
            TypeError: for a value that JSON cannot hold; nothing is written then.
        """
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; records written later raise ValueError."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_lines(path: str | os.PathLike, records: Iterable[Mapping]) -> None:
    """Writes all that `JsonLines` would, so that a reader finds the old content or the whole new one.

    Args:
        path: the file; its folder exists.
        records: see `JsonLines.write`.
    """
    with atomic.replacing(Path(path)) as beside:
        beside.write_text("".join(map(_line, records)), encoding="utf-8")


def _line(record: Mapping) -> str:
    return json.dumps(to_json(record), allow_nan=False) + "\n"


def _ends_inside_a_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def write_json(path: str | os.PathLike, obj: object) -> None:
    """Writes one JSON file so that a reader finds the old content or the whole new one, never a part.

    Args:
        path: the file; its folder exists.
        obj: what `to_json` takes.

    Raises:
        TypeError: for a value that JSON cannot hold; the old file stays.
    """
    text = json.dumps(to_json(obj), indent=2, allow_nan=False) + "\n"
    with atomic.replacing(Path(path)) as beside:
        beside.write_text(text, encoding="utf-8")

"""Arrays kept on disk, so that what takes long to make is made once.

A file is one line with the version of this format and a CRC-32, one line of JSON, and the bytes of the arrays one after
the other. The CRC covers all that follows it, and nothing is made of a file before it was checked.
"""

import contextlib
import json
import math
import uuid
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

_MAX_HEADER = 65536


def through(path: Path, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Reads arrays from a file, or makes them and leaves the file for the next time.

    Where the file cannot be written nothing is left: data sets may lie on disks that are shared or full.

    Args:
        path: the file.
        key: what the arrays were made from; a file with another key is out of date and replaced, as is a damaged one.
        make: returns the arrays by name, of types without pointers.

    Returns:
        What `make` returned, now or earlier.
    """
    found = _load(path, key)
    if found is None:
        found = {name: np.asarray(array, order="C") for name, array in make().items()}
        _save(path, key, found)
    return found


def _load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    try:
        with path.open("rb") as file:
            first = file.readline(64)
            rest = np.fromfile(file, np.uint8)
    except OSError:
        return None
    if first != _first_line([rest.data]):
        return None
    header, _, _ = rest[:_MAX_HEADER].tobytes().partition(b"\n")
    described = json.loads(header)
    if described["key"] != key:
        return None
    arrays, start = {}, len(header) + 1
    for name, dtype, shape in described["arrays"]:
        stop = start + np.dtype(dtype).itemsize * math.prod(shape)
        arrays[name] = rest[start:stop].view(dtype).reshape(shape)
        start = stop
    return arrays


def _save(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    described = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    header = json.dumps({"key": key, "arrays": described}).encode()
    # Padded so that the arrays begin where every type may: they are views of what is read.
    header += b" " * (-(len(header) + 1) % 64) + b"\n"
    if len(header) > _MAX_HEADER:
        raise ValueError(f"header of {len(header)} bytes; allowed: {_MAX_HEADER}")
    parts = [header, *(array.data for array in arrays.values())]
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.unfinished")
    with contextlib.suppress(OSError):
        try:
            with unfinished.open("xb") as file:
                file.writelines([_first_line(parts), *parts])
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _first_line(parts: Iterable[bytes | memoryview]) -> bytes:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"ssoup_jax arrays 1 %08x\n" % crc

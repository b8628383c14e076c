"""IDX files: the four of MNIST and of its relatives, plain or compressed."""

import gzip
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ssoup_jax.data import arrays
from ssoup_jax.data.dataset import Contents
from ssoup_jax.errors import SettingsError

# As published, or with the name of a relative before it and a dot for the hyphen, as some unpack it.
_NAME = re.compile(r"(?:.*[-_.])?(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(?:\.gz)?", re.IGNORECASE)
_NEEDED = {
    (part, what): f"{file}-{what}-idx{rank}-ubyte"
    for part, file in (("train", "train"), ("test", "t10k"))
    for what, rank in (("images", 3), ("labels", 1))
}
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read(folder: Path, layout: str | None = None, n_classes: int | None = None) -> Contents:
    """Reads and checks the training and test images and their labels.

    Args:
        folder: holds the four files, each plain or compressed. Images and labels are as `arrays.contents` says.
        layout: one of `arrays.LAYOUTS`; None: NHWC.
        n_classes: how many classes there are; None: the largest label + 1.

    Returns:
        The contents.

    Raises:
        SettingsError: a file is missing, damaged or of another kind, or they do not fit together.
    """
    try:
        files = _files(folder)
        named = {key: arrays.Named(path.name, _array(path)) for key, path in files.items()}
        parts = (arrays.Part(named[part, "images"], named[part, "labels"]) for part in ("train", "test"))
        return arrays.contents(*parts, layout, n_classes)
    except SettingsError as error:
        raise SettingsError(f"dataset: idx:{folder}: {error}") from error.__cause__
    except OSError as error:
        raise SettingsError(f"dataset: idx:{folder}: cannot be read ({error.strerror or error})") from error


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """Finds each file; where it is there plain and compressed the plain one is taken."""
    found: dict[tuple[str, str], list[str]] = {key: [] for key in _NEEDED}
    for name in sorted(os.listdir(folder)):
        if match := _NAME.fullmatch(name):
            part, what = (text.lower() for text in match.groups())
            found["train" if part == "train" else "test", what].append(name)
    files = {}
    for key, names in found.items():
        if not names:
            raise SettingsError(f"{_NEEDED[key]} is missing; needed, plain or .gz: {', '.join(_NEEDED.values())}")
        if len({re.sub(r"\.gz$", "", name, flags=re.IGNORECASE) for name in names}) > 1:
            raise SettingsError(f"found {', '.join(names)}; allowed: one data set to a folder")
        files[key] = folder / names[0]
    return files


def _array(path: Path) -> np.ndarray:
    """Reads an array: two zeros, its type, its rank, its sizes, and its values, all numbers big-endian."""
    try:
        with path.open("rb") as plain:
            compressed = plain.read(2) == _GZIP
            plain.seek(0)
            with gzip.open(plain) if compressed else plain as file:
                return _values(path, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SettingsError(f"{path.name} is damaged: {error}; replace it") from error


def _values(path: Path, file: BinaryIO) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES:
        raise SettingsError(f"{path.name} is no IDX file: it begins with {head.hex(' ') or 'nothing'}, not 00 00 08")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise SettingsError(f"{path.name} breaks off in its head of {head[3]} sizes; replace it")
    shape, dtype = struct.unpack(f">{head[3]}I", sizes), np.dtype(_DTYPES[head[2]])
    n_bytes = math.prod(shape) * dtype.itemsize
    # Read in parts, because a damaged head may promise more than there is memory.
    data = bytearray()
    while len(data) <= n_bytes and (more := file.read(min(2**24, n_bytes + 1 - len(data)))):
        data += more
    if len(data) != n_bytes:
        found = f"{len(data)}" if len(data) < n_bytes else "more"
        raise SettingsError(
            f"{path.name} has {found} bytes of values; its head says {n_bytes}, for {shape}; replace it"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)

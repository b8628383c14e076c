"""Whether two artifacts of one name are the same: array by array and record by record, but for how they came about."""

import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssoup_jax import trees
from ssoup_jax.errors import RunError, one_line
from ssoup_jax.storage import arrays, manifest
from ssoup_jax.storage.layout import METRICS, RECORD, STATE


class Compared(NamedTuple):
    """What comparing two artifacts has shown.

    Attributes:
        difference: the first one, in words; None: they are the same.
        apart: names of entries of their records that differ and need not be the same, in alphabetical order.
    """

    difference: str | None
    apart: tuple[str, ...] = ()


def compare(found: Path, wanted: Path, may_differ: Set[str], on_bytes=lambda count: None) -> Compared:
    """Compares two finished artifacts, each with its manifest and then with one another.

    Args:
        found: the folder of one.
        wanted: that of the other.
        may_differ: entries of records, at any depth, that tell how an artifact came about and not what it is.
        on_bytes: told how many bytes were compared with manifests, file by file.

    Returns:
        The first difference, and what was passed over.

    Raises:
        Damaged: one of them is not whole.
        RunError: one cannot be read.
    """
    for folder in (found, wanted):
        manifest.check(folder, on_bytes)
    own, other = manifest.read(found), manifest.read(wanted)
    if own == other:
        return Compared(None)
    unlike = {name for name in own.keys() | other.keys() if own.get(name) != other.get(name)}
    # Orbax stores equal arrays as unequal files.
    if any(name.startswith(f"{STATE}/") for name in unlike) and (text := _of_arrays(found, wanted)):
        return Compared(text)
    apart: set[str] = set()
    for name in sorted(name for name in unlike if not name.startswith(f"{STATE}/")):
        if name not in own or name not in other:
            return Compared(f"only one of them has {name}")
        if name not in (RECORD, METRICS):
            return Compared(f"{name} has other content")
        for path, a, b in json_differences(_json(found / name), _json(wanted / name)):
            if passed_over := may_differ.intersection(path):
                apart |= passed_over
            else:
                return Compared(f"{name}: {'/'.join(path) or 'it'} is {_short(a)}, where {_short(b)} is wanted")
    return Compared(None, tuple(sorted(apart)))


def json_differences(found: Any, wanted: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yields where two JSON values differ: the path to the place, and what each has there; None stands for nothing."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        pairs = [(key, found.get(key), wanted.get(key)) for key in dict.fromkeys([*wanted, *found])]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(found, wanted, strict=True))]
    else:
        if found != wanted or isinstance(found, bool) != isinstance(wanted, bool):
            yield path, found, wanted
        return
    for key, a, b in pairs:
        yield from json_differences(a, b, (*path, key))


def _of_arrays(found: Path, wanted: Path) -> str | None:
    """Says in which array two states differ first, bit for bit; None: in none."""
    try:
        own, other = (arrays.read(folder / STATE) for folder in (found, wanted))
    except (ValueError, KeyError, OSError) as error:
        return f"{STATE} cannot be compared ({one_line(error)})"
    if difference := trees.first_difference(own, other):
        return f"{STATE}: {difference}"
    theirs = trees.named_leaves(other)
    for name, leaf in trees.named_leaves(own).items():
        a, b = np.asarray(leaf), np.asarray(theirs[name])
        if a.tobytes() != b.tobytes():
            return f"{STATE}: {name} has other values, {_how_far(a, b)}"
    return None


def _how_far(a: np.ndarray, b: np.ndarray) -> str:
    bits = np.frombuffer(a.tobytes(), np.uint8) != np.frombuffer(b.tobytes(), np.uint8)
    count = int(bits.reshape(a.size, -1).any(1).sum())
    text = f"{count} of {a.size}"
    if a.dtype == bool:
        return text
    with np.errstate(invalid="ignore"):
        return f"{text}, the largest by {np.abs(a.astype(np.float64) - b.astype(np.float64)).max():.2g}"


def _json(path: Path) -> Any:
    """Reads a record, or a log of them, line by line."""
    try:
        text = path.read_text()
        return [json.loads(line) for line in text.splitlines()] if path.name == METRICS else json.loads(text)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({one_line(error)})") from None


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."

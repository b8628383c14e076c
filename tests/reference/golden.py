"""Reads the reference's numbers; the conventions are those of `data/README.md`.

`SSOUP_REFERENCE_DIR` points every comparison at another folder of the same format. A file that the project's own
folder lacks is a failure; a file that the given folder lacks is skipped by name.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

OWN_DIR = Path(__file__).parent / "data"
DIR = Path(os.environ.get("SSOUP_REFERENCE_DIR", OWN_DIR))


def path(name: str) -> Path:
    """Returns the path of a golden file; fails or, in a folder the user gave, skips with its name."""
    found = DIR / name
    if not found.is_file():
        if DIR == OWN_DIR:
            raise FileNotFoundError(f"the project's own golden file {found} is missing")
        pytest.skip(f"SSOUP_REFERENCE_DIR={DIR} lacks {name}", allow_module_level=True)
    return found


@functools.cache
def load_json(name: str) -> dict:
    """Loads `<name>.json`."""
    return json.loads(path(f"{name}.json").read_text())


@functools.cache
def load_npz(name: str) -> dict[str, np.ndarray]:
    """Loads every array of `<name>.npz`."""
    with np.load(path(f"{name}.npz"), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def rule(seed: int, k: int, shape: tuple[int, ...]) -> np.ndarray:
    """The normal rule: float32 numbers from NumPy's frozen generator."""
    return np.random.RandomState(seed + k).standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)


def uniform_rule(seed: int, k: int, shape: tuple[int, ...]) -> np.ndarray:
    """The uniform rule: float32 numbers in [0, 1)."""
    return np.random.RandomState(seed + k).random_sample(int(np.prod(shape))).astype(np.float32).reshape(shape)


def rule_filled_entry(name: str, shape: tuple[int, ...], k: int, seed: int, gain: float) -> np.ndarray:
    """One entry of a rule-filled model; `k` counts all entries of the state dict, counters included."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    z = rule(seed, k, shape)
    if name.endswith("running_mean"):
        return np.float32(0.1) * z
    if name.endswith("running_var"):
        return np.float32(1) + np.float32(0.25) * np.abs(z)
    if len(shape) >= 2:
        return np.float32(gain / np.sqrt(np.prod(shape[1:]))) * z
    if name.endswith("weight"):
        return np.float32(1) + np.float32(0.1) * z
    return np.float32(0.1) * z


def split_flat(flat: np.ndarray, index: list) -> dict[str, np.ndarray]:
    """Cuts a flat vector into named arrays; `index` is a list of (name, shape)."""
    sizes = [int(np.prod(shape)) for _, shape in index]
    pieces = np.split(flat, np.cumsum(sizes)[:-1])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(index, pieces, strict=True)}


def unpack_mask(packed: np.ndarray, prunable: list) -> dict[str, np.ndarray]:
    """Unpacks a stored mask into named boolean arrays, True where the weight is kept."""
    total = sum(int(np.prod(shape)) for _, shape in prunable)
    return split_flat(np.unpackbits(packed)[:total].astype(bool), prunable)

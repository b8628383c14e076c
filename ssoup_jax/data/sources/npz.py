"""A user's own arrays from an `.npz` file."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from ssoup_jax.data import arrays, checks
from ssoup_jax.data.dataset import Contents
from ssoup_jax.errors import SettingsError, one_line

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read(path: Path, layout: str | None = None, n_classes: int | None = None) -> Contents:
    """Reads and checks `x_train`, `y_train`, `x_test` and `y_test`; further arrays are named and ignored.

    Args:
        path: the file. Images and labels are as `arrays.contents` says.
        layout: one of `arrays.LAYOUTS`; None: NHWC.
        n_classes: how many classes there are; None: the largest label + 1.

    Returns:
        The contents.

    Raises:
        SettingsError: the file or an array in it is not as above.
    """
    found, others = _arrays(path)
    named = {name: arrays.Named(name, array) for name, array in found.items()}
    parts = (arrays.Part(named[f"x_{part}"], named[f"y_{part}"]) for part in ("train", "test"))
    try:
        contents = arrays.contents(*parts, layout, n_classes)
    except SettingsError as error:
        raise _error(path, str(error)) from None
    if others:
        instead = "; a tenth of x_train validates" if any("val" in name.lower() for name in others) else ""
        ignored = f"{one_line(path.name)}: not used: {one_line(checks.some(others))}{instead}"
        contents = dataclasses.replace(contents, notes=(*contents.notes, ignored))
    return contents


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the four arrays by name, and what else the file holds."""
    try:
        there = path.is_file()
    except OSError as error:
        raise _error(path, f"cannot be read ({one_line(error)})") from error
    if not there:
        raise _error(path, "no such file")
    if not zipfile.is_zipfile(path):
        raise _error(path, "not an npz file; write it with numpy.savez")
    found = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in ARRAYS:
                if name not in file.files:
                    has = one_line(", ".join(file.files)) or "nothing"
                    raise _error(path, f"array {name} is missing; found: {has}; needed: {', '.join(ARRAYS)}")
                found[name] = _plain(path, name, file)
            others = [name for name in file.files if name not in ARRAYS]
    except (OSError, zipfile.BadZipFile) as error:
        raise _error(path, f"cannot be read ({one_line(error)})") from error
    return found, others


def _plain(path: Path, name: str, file: np.lib.npyio.NpzFile) -> np.ndarray:
    try:
        array = file[name]
    except Exception as error:  # what NumPy and zlib raise for objects and damaged bytes has no common class
        raise _error(path, f"array {name} cannot be read; only plain arrays are ({one_line(error)})") from error
    if not isinstance(array, np.ndarray):
        raise _error(path, f"{name} is not an array; write it with numpy.savez")
    return array


def _error(path: Path, what: str) -> SettingsError:
    return SettingsError(f"dataset: npz:{path}: {what}")

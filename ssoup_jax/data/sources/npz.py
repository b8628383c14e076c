"""A user's own arrays from an `.npz` file."""

import dataclasses
import zipfile
from collections.abc import Mapping
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
    found = _arrays(path)
    try:
        return contents(found, path.name, layout, n_classes)
    except SettingsError as error:
        raise _error(path, str(error)) from None


def contents(
    found: Mapping[str, np.ndarray | None], where: str, layout: str | None = None, n_classes: int | None = None
) -> Contents:
    """Makes contents of arrays by name.

    Args:
        found: has those of `ARRAYS`; further ones, which may be None, are named and ignored.
        where: where they come from, for the note that says so.
        layout: see `read`.
        n_classes: see `read`.

    Raises:
        SettingsError: an array is missing, or not as `arrays.contents` wants it.
    """
    for name in ARRAYS:
        if name not in found:
            has = one_line(", ".join(map(str, found))) or "nothing"
            raise SettingsError(f"array {name} is missing; found: {has}; needed: {', '.join(ARRAYS)}")
    named = {name: arrays.Named(name, found[name]) for name in ARRAYS}
    parts = (arrays.Part(named[f"x_{part}"], named[f"y_{part}"]) for part in ("train", "test"))
    made = arrays.contents(*parts, layout, n_classes)
    others = [str(name) for name in found if name not in ARRAYS]
    if not others:
        return made
    instead = "; a tenth of x_train validates" if any("val" in name.lower() for name in others) else ""
    ignored = f"{one_line(where)}: not used: {one_line(checks.some(others))}{instead}"
    return dataclasses.replace(made, notes=(*made.notes, ignored))


def _arrays(path: Path) -> dict[str, np.ndarray | None]:
    """Returns the four arrays by name, as far as they are there, and None for what else the file holds."""
    try:
        there = path.is_file()
    except OSError as error:
        raise _error(path, f"cannot be read ({one_line(error)})") from error
    if not there:
        raise _error(path, "no such file")
    if not zipfile.is_zipfile(path):
        raise _error(path, "not an npz file; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: _plain(path, name, file) if name in ARRAYS else None for name in file.files}
    except (OSError, zipfile.BadZipFile) as error:
        raise _error(path, f"cannot be read ({one_line(error)})") from error


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

"""Data of one's own from a function."""

from collections.abc import Mapping

import numpy as np

from ssoup_jax import own
from ssoup_jax.data.dataset import Contents
from ssoup_jax.data.sources import npz
from ssoup_jax.errors import SettingsError


def check(name: str) -> None:
    """Checks that there is a function of that name, and that it needs no arguments but those that there are.

    Raises:
        SettingsError: see `own.load` and `own.arguments`.
    """
    _arguments(name, None)


def read(name: str, data_dir: str | None = None, layout: str | None = None, n_classes: int | None = None) -> Contents:
    """Calls a function that returns arrays, which are then read as those of an `.npz` file are.

    Args:
        name: names the function; it takes nothing, or `data_dir`.
        data_dir: the setting.
        layout: see `npz.read`.
        n_classes: see `npz.read`.

    Returns:
        The contents.

    Raises:
        SettingsError: it raises an error, or does not return `x_train`, `y_train`, `x_test` and `y_test`.
    """
    found = own.call("dataset", name, own.load("dataset", name), **_arguments(name, data_dir))
    if not isinstance(found, Mapping):
        raise _error(name, f"returns a {type(found).__name__}; allowed: a dict of arrays, {', '.join(npz.ARRAYS)}")
    try:
        arrays = {key: _array(key, value) if key in npz.ARRAYS else None for key, value in found.items()}
        return npz.contents(arrays, name, layout, n_classes)
    except SettingsError as error:
        raise _error(name, str(error)) from None


def _arguments(name: str, data_dir: str | None) -> dict[str, str | None]:
    return own.arguments("dataset", name, own.load("dataset", name), {"data_dir": data_dir})


def _array(key: str, value: object) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # lists of unequal lengths
        raise SettingsError(f"{key} is a {type(value).__name__} that makes no array") from None


def _error(name: str, what: str) -> SettingsError:
    return SettingsError(f"dataset: {name}: {what}")

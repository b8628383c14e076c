"""A user's own arrays from an `.npz` file."""

import textwrap
import zipfile
from pathlib import Path

import numpy as np

from ssoup_jax.data.dataset import Split
from ssoup_jax.errors import SettingsError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 100_000
"""A larger label is taken for an identifier rather than a class."""


def read(path: Path) -> tuple[int, Split, Split]:
    """Reads and checks `x_train`, `y_train`, `x_test` and `y_test`; further arrays are ignored.

    Args:
        path: the file. Images are uint8 `[N, H, W, C]` or `[N, H, W]`, labels integers `[N]` from 0.

    Returns:
        The number of classes (largest label + 1), the training images and the test images.

    Raises:
        SettingsError: the file or an array in it is not as above.
    """
    found = _arrays(path)
    training, test = (
        Split(_images(path, f"x_{part}", found), _labels(path, f"y_{part}", found)) for part in ("train", "test")
    )
    for part, split in (("train", training), ("test", test)):
        if len(split.images) != len(split.labels):
            raise _error(
                path, f"x_{part} has {len(split.images)} images, y_{part} {len(split.labels)} labels; they must agree"
            )
    if training.images.shape[1:] != test.images.shape[1:]:
        shapes = f"x_train has images of shape {training.images.shape[1:]}, x_test {test.images.shape[1:]}"
        raise _error(path, f"{shapes}; they must agree")
    n_classes = 1 + max(int(training.labels.max()), int(test.labels.max()))
    return n_classes, training, test


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        there = path.is_file()
    except OSError as error:
        raise _error(path, f"cannot be read ({_line(error)})") from error
    if not there:
        raise _error(path, "no such file")
    if not zipfile.is_zipfile(path):
        raise _error(path, "not an npz file; write it with numpy.savez")
    found = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in ARRAYS:
                if name not in file.files:
                    has = _line(", ".join(file.files)) or "nothing"
                    raise _error(path, f"array {name} is missing; found: {has}; needed: {', '.join(ARRAYS)}")
                found[name] = _plain(path, name, file)
    except (OSError, zipfile.BadZipFile) as error:
        raise _error(path, f"cannot be read ({_line(error)})") from error
    return found


def _plain(path: Path, name: str, file: np.lib.npyio.NpzFile) -> np.ndarray:
    try:
        array = file[name]
    except Exception as error:  # what NumPy and zlib raise for objects and damaged bytes has no common class
        raise _error(path, f"array {name} cannot be read; only plain arrays are ({_line(error)})") from error
    if not isinstance(array, np.ndarray):
        raise _error(path, f"{name} is not an array; write it with numpy.savez")
    return array


def _images(path: Path, name: str, found: dict[str, np.ndarray]) -> np.ndarray:
    array = found[name]
    if array.dtype != np.uint8:
        raise _error(path, f"{name} has dtype {array.dtype}; allowed: uint8")
    if array.ndim not in (3, 4):
        raise _error(path, f"{name} has shape {array.shape}; allowed: (N, H, W, C) or (N, H, W)")
    if not array.size:
        raise _error(path, f"{name} has shape {array.shape}; at least one pixel is needed")
    return array[..., None] if array.ndim == 3 else array


def _labels(path: Path, name: str, found: dict[str, np.ndarray]) -> np.ndarray:
    array = found[name]
    if array.dtype.kind not in "iu":
        raise _error(path, f"{name} has dtype {array.dtype}; allowed: integers")
    if array.ndim != 1:
        raise _error(path, f"{name} has shape {array.shape}; allowed: (N,)")
    if not array.size:
        raise _error(path, f"{name} has shape {array.shape}; at least one label is needed")
    for label in (int(array.min()), int(array.max())):
        if not 0 <= label < MAX_CLASSES:
            raise _error(path, f"{name} has label {label}; allowed: 0 to {MAX_CLASSES - 1}")
    return array.astype(np.int32)


def _line(what: Exception | str) -> str:
    """Makes one short line of what an error says or a file has for names."""
    line = textwrap.shorten(str(what), 400, placeholder=" ...") or (
        "" if isinstance(what, str) else type(what).__name__
    )
    return line if line.isprintable() else ascii(line)


def _error(path: Path, what: str) -> SettingsError:
    return SettingsError(f"dataset: npz:{path}: {what}")

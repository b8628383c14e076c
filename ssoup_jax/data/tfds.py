"""Image data sets of TensorFlow Datasets, read into memory without TensorFlow."""

import contextlib
import difflib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssoup_jax.data import prepare
from ssoup_jax.data.dataset import Split
from ssoup_jax.errors import SettingsError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

# Records are read and decoded this many at a time: one by one takes more than twice as long.
BLOCK = 1000
_NAME = re.compile(r"\w+([:/][\w.+-]+)?", re.ASCII)


def parse(reference: str) -> str:
    """Normalises what follows `tfds:` in the name of a data set.

    Args:
        reference: `NAME`, `NAME:CONFIG` or `NAME/CONFIG`.

    Returns:
        `NAME` or `NAME/CONFIG`.

    Raises:
        SettingsError: it is none of these.
    """
    if not _NAME.fullmatch(reference):
        raise SettingsError(f"dataset: found 'tfds:{reference}'; allowed: tfds:NAME or tfds:NAME:CONFIG")
    return reference.replace(":", "/")


def read(reference: str, data_dir: str | None) -> tuple[int, Split, Split]:
    """Reads a data set, preparing it first where that is still to be done.

    Args:
        reference: as for `parse`.
        data_dir: where TFDS keeps its data sets; None: TFDS's own default.

    Returns:
        The number of classes, the images of its split `train`, and those of `test` or else `validation`.

    Raises:
        SettingsError: it is unknown, cannot be prepared, or is not a classification of images of one size.
    """
    name = parse(reference)
    with _blame(f"dataset: tfds:{name}"):
        builder = _builder(name, data_dir)
        image, label, n_classes = _features(builder)
        if not builder.is_prepared():
            prepare.prepare(builder)
        train, test = (_read_split(builder, split, image, label) for split in _split_names(builder))
    return n_classes, train, test


@contextlib.contextmanager
def _blame(what: str) -> Iterator[None]:
    """Puts whatever the libraries raise into one line that begins with `what`; they have no common class of errors."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{what}: {error}") from error.__cause__
    except Exception as error:
        reason = textwrap.shorten(str(error), 400, placeholder=" ...")
        raise SettingsError(f"{what}: {type(error).__name__}: {reason}") from error


def _builder(name: str, data_dir: str | None) -> "DatasetBuilder":
    import tensorflow_datasets as tfds  # seconds to import, for these data sets only

    try:
        return tfds.builder(name, data_dir=None if data_dir is None else str(Path(data_dir).expanduser()))
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name.split("/")[0], tfds.list_builders(with_community_datasets=False))
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise SettingsError(f"TFDS knows no such data set{hint}") from error


def _features(builder: "DatasetBuilder") -> tuple[str, str, int]:
    """Returns the names of the image and the label in a record, and the number of classes."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys or ()
    kinds = [type(features[key]) for key in keys if isinstance(key, str)]
    if kinds != [tfds.features.Image, tfds.features.ClassLabel]:
        raise SettingsError("not a data set of images with one class label each")
    image, label = keys
    if features[image].np_dtype != np.uint8:
        raise SettingsError(f"images have dtype {np.dtype(features[image].np_dtype)}; allowed: uint8")
    return image, label, features[label].num_classes


def _split_names(builder: "DatasetBuilder") -> tuple[str, str]:
    has = list(builder.info.splits)
    test = next((split for split in ("test", "validation") if split in has), None)
    if "train" not in has or test is None:
        raise SettingsError(f"found splits {', '.join(has)}; needed: train, and test or validation")
    return "train", test


def _source(builder: "DatasetBuilder", split: str) -> Any:
    try:
        return builder.as_data_source(split)
    except NotImplementedError as error:
        has = builder.info.file_format.value
        hint = "allowed: array_record; remove it or set data_dir to another folder to have it prepared as that"
        raise SettingsError(f"{builder.data_path} was prepared as {has}; {hint}") from error


def _read_split(builder: "DatasetBuilder", split: str, image: str, label: str) -> Split:
    source = _source(builder, split)
    n = len(source)
    images, labels = np.empty((0, 0, 0, 0), np.uint8), np.empty(n, np.int32)
    for start in range(0, n, BLOCK):
        with _blame(f"{builder.data_path} is damaged; remove it to have it prepared again"):
            records = source.__getitems__(list(range(start, min(start + BLOCK, n))))
        if start == 0:
            images = np.empty((n, *records[0][image].shape), np.uint8)
        for position, record in enumerate(records, start):
            if record[image].shape != images.shape[1:]:
                shapes = f"{images.shape[1:]} and {record[image].shape}"
                raise SettingsError(f"images of split {split} have different shapes, such as {shapes}; allowed: one")
            images[position], labels[position] = record[image], record[label]
    return Split(images, labels)

"""Image data sets of TensorFlow Datasets, read without TensorFlow."""

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ssoup_jax.data.dataset import Contents, Encoded, Split
from ssoup_jax.data.sources import cache, prepare, tfds_door
from ssoup_jax.data.sources.tfds_records import Records, blame, in_order, source_of
from ssoup_jax.errors import SettingsError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

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


def read(
    reference: str,
    data_dir: str | None,
    *,
    download: bool = True,
    verify: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Contents:
    """Reads a data set, preparing it first where that is still to be done.

    Images of one size are read into memory, and a decoded copy of them is left beside the data set for the next time.
    Images that have no one size stay encoded, and only a copy of their labels is left.

    Args:
        reference: as for `parse`.
        data_dir: where TFDS keeps its data sets; None: TFDS's own default.
        download: whether archives that are not on disk may be fetched.
        verify: whether archives must be those that were published.
        on_line: told what takes long; None: nobody is.

    Returns:
        The contents: its split `train`, and `test` or, where that is missing or has no labels, `validation`.

    Raises:
        SettingsError: it is unknown, cannot be prepared, or is not a classification of images.
    """
    line = _lines(reference, on_line)
    with _opened(reference, data_dir, download, verify, line) as (builder, features):
        names = _test_splits(builder)
        if "train" not in builder.info.splits or not names:
            has = ", ".join(builder.info.splits)
            raise SettingsError(f"found splits {has}; needed: train, and test or validation")
        training = _read_split(builder, "train", features, line)
        used, test = _read_test_split(builder, names, features, line)
        notes, marks = _unverified(builder)
        if used == "test" and "validation" in names:
            notes.append("the split validation is not used: a tenth of train validates")
        return Contents(
            features.n_classes,
            training,
            test,
            classes=tuple(builder.info.features[features.label].names),
            notes=tuple(notes),
            marks=tuple(marks),
        )


def read_test(reference: str, data_dir: str | None, download: bool = True) -> tuple[int, Split]:
    """Reads the test images of a data set, which need not have any others; as `read` in all else.

    Args:
        reference: as for `parse`.
        data_dir: where TFDS keeps its data sets; None: TFDS's own default.
        download: whether archives that are not on disk may be fetched.

    Returns:
        The number of classes, and the images of its split `test` or `validation`.

    Raises:
        SettingsError: it is unknown, cannot be prepared, or is not a classification of images.
    """
    line = _lines(reference, None)
    with _opened(reference, data_dir, download, True, line) as (builder, features):
        names = _test_splits(builder)
        if not names:
            raise SettingsError(f"found splits {', '.join(builder.info.splits)}; needed: test or validation")
        return features.n_classes, _read_test_split(builder, names, features, line)[1]


class _Features(NamedTuple):
    """Names of the image and the label in a record, number of classes, and whether all images have one size."""

    image: str
    label: str
    n_classes: int
    one_size: bool


@contextlib.contextmanager
def _opened(
    reference: str, data_dir: str | None, download: bool, verify: bool, line: Callable[[str], None]
) -> Iterator[tuple["DatasetBuilder", _Features]]:
    """Opens a prepared data set; errors within begin with its name."""
    name = parse(reference)
    with tfds_door.hushed(), blame(f"dataset: tfds:{name}"):
        builder = _builder(name, data_dir)
        features = _features(builder)
        if not builder.is_prepared():
            prepare.prepare(builder, download, verify, line)
            builder = _builder(name, data_dir)
        notes, _ = _unverified(builder)
        if notes and verify:
            raise SettingsError(f"{notes[0]}; --config.data.verify=False takes it, or remove it")
        yield builder, features


def _lines(reference: str, on_line: Callable[[str], None] | None) -> Callable[[str], None]:
    name = parse(reference)
    return lambda text: on_line(f"tfds:{name}: {text}") if on_line else None


def _unverified(builder: "DatasetBuilder") -> tuple[list[str], list[str]]:
    """Returns a note and a mark if a data set was made of other archives than those that were published."""
    path = Path(builder.data_path) / prepare.UNVERIFIED
    if not path.exists():
        return [], []
    text = path.read_text()
    return [f"{builder.data_path} was prepared from archives that are not the published ones"], [f"unverified {text}"]


def _builder(name: str, data_dir: str | None) -> "DatasetBuilder":
    import tensorflow_datasets as tfds  # seconds to import, for these data sets only

    try:
        return tfds.builder(name, data_dir=None if data_dir is None else os.path.expanduser(data_dir))
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name.split("/")[0], tfds.list_builders(with_community_datasets=False))
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise SettingsError(f"TFDS knows no such data set{hint}") from error


def _features(builder: "DatasetBuilder") -> _Features:
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys or ()
    kinds = [type(features[key]) for key in keys if isinstance(key, str)]
    if kinds != [tfds.features.Image, tfds.features.ClassLabel]:
        raise SettingsError("not a data set of images with one class label each")
    image, label = keys
    if features[image].np_dtype != np.uint8:
        raise SettingsError(f"images have dtype {np.dtype(features[image].np_dtype)}; allowed: uint8")
    return _Features(image, label, features[label].num_classes, None not in features[image].shape)


def _test_splits(builder: "DatasetBuilder") -> list[str]:
    return [split for split in ("test", "validation") if split in builder.info.splits]


def _read_test_split(
    builder: "DatasetBuilder", names: list[str], features: _Features, line: Callable[[str], None]
) -> tuple[str, Split]:
    """Returns the split that serves for the test, and its name."""
    *others, last = names
    for name in others:
        split = _read_split(builder, name, features, line)
        # Where test labels are kept secret, as ImageNet's are, TFDS writes -1.
        if split.labels.max() >= 0:
            return name, split
    return last, _read_split(builder, last, features, line)


def _read_split(builder: "DatasetBuilder", split: str, features: _Features, line: Callable[[str], None]) -> Split:
    with blame(f"{builder.data_path} is damaged; remove it to have it prepared again"):
        identity = _identity(builder, split)
        stamp = _stamp(builder, split)
    make = _arrays if features.one_size else _labels

    def read_all() -> dict[str, np.ndarray]:
        line(f"reading the {builder.info.splits[split].num_examples} records of split {split}; the next start need not")
        return make(builder, split, features)

    arrays = cache.through(
        Path(builder.data_path) / f"ssoup_jax-{split}.arrays",
        hashlib.sha256(f"{make.__name__} {features} {identity} {stamp}".encode()).hexdigest(),
        read_all,
    )
    if features.one_size:
        return Split(arrays["images"], arrays["labels"])
    records = Records(str(builder.data_path), split, features.image, hashlib.sha256(identity.encode()).hexdigest())
    return Split(Encoded(records, np.arange(len(arrays["labels"]))), arrays["labels"])


def _identity(builder: "DatasetBuilder", split: str) -> str:
    """Describes a split by what is the same wherever it lies."""
    info = builder.info
    sizes = [os.path.getsize(path) for path in info.splits[split].filepaths]
    return f"{info.full_name} {split} {info.splits[split].num_examples} {sizes}"


def _stamp(builder: "DatasetBuilder", split: str) -> str:
    """Describes the files that a split is read from, so that any change to them shows."""
    paths = builder.info.splits[split].filepaths
    described = [(Path(builder.data_path) / name).read_bytes() for name in ("dataset_info.json", "features.json")]
    return f"{described} {[(path.name, os.stat(path).st_mtime_ns) for path in paths]}"


def _arrays(builder: "DatasetBuilder", split: str, features: _Features) -> dict[str, np.ndarray]:
    """Reads and decodes a split."""
    source = source_of(builder, split)
    n = len(source)
    images, labels = np.empty((0, 0, 0, 0), np.uint8), np.empty(n, np.int32)
    for position, record in enumerate(in_order(source, builder, split)):
        image = record[features.image]
        if position == 0:
            images = np.empty((n, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            shapes = f"{images.shape[1:]} and {image.shape}"
            raise SettingsError(f"images of split {split} have different shapes, such as {shapes}; allowed: one")
        images[position], labels[position] = image, record[features.label]
    return {"images": images, "labels": labels}


def _labels(builder: "DatasetBuilder", split: str, features: _Features) -> dict[str, np.ndarray]:
    """Reads a split's labels, for which all of its records are read but no image is decoded."""
    source = source_of(builder, split, features.image)
    labels = (record[features.label] for record in in_order(source, builder, split))
    return {"labels": np.fromiter(labels, np.int32, len(source))}

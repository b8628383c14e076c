"""What a data set is: images and labels on the host, in splits that never change."""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np

from ssoup_jax.data import checks
from ssoup_jax.data.augment import Transform
from ssoup_jax.data.pictures import Rules
from ssoup_jax.data.splits import TRAIN_SHARE, permutation
from ssoup_jax.data.views import View
from ssoup_jax.errors import SettingsError


class Files(Protocol):
    """Compressed images of any size, read one at a time; picklable."""

    fingerprint: str
    """Hash of what can be known of all images without decoding them, such as their names and sizes."""

    rules: Rules
    """How they are decoded."""

    def read(self, index: int) -> bytes:
        """Returns an image as it is stored, in any format that Pillow reads."""

    def describe(self, index: int) -> str:
        """Says where the image lies, for errors."""


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Images too many or too large to be held in memory.

    Attributes:
        files: what they are read from.
        indices: which of the files, in order, int64 `[N]`.
    """

    files: Files
    indices: np.ndarray

    def __getitem__(self, index: np.ndarray | slice) -> "Encoded":
        return Encoded(self.files, self.indices[index])

    def __len__(self) -> int:
        return len(self.indices)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 `[N, H, W, C]`, or encoded ones.
        labels: int32 `[N]`.
    """

    images: np.ndarray | Encoded
    labels: np.ndarray

    def __getitem__(self, index: np.ndarray | slice) -> "Split":
        return Split(self.images[index], self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """What a source holds, before anything is split off.

    Attributes:
        n_classes: labels are in 0 .. n_classes - 1.
        training: all training images.
        test: the test images.
        val: validation images of their own; None: a part of the training images validates.
        classes: the classes' names in the order of their labels; None: they have none.
        notes: what is worth a warning, one line each.
        marks: what tells these data from others that would be read alike, for the fingerprint.
        is_counted: whether `n_classes` was given, so that classes without images are no surprise.
    """

    n_classes: int
    training: Split
    test: Split
    val: Split | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    is_counted: bool = False

    def with_classes(self, n_classes: int | None) -> "Contents":
        """Returns the contents with that many classes; None: as they are.

        Raises:
            SettingsError: there are more.
        """
        if n_classes is None:
            return self
        if n_classes < self.n_classes:
            raise SettingsError(f"data.n_classes: found {n_classes}; the data have {self.n_classes}")
        more = range(self.n_classes, n_classes)
        return dataclasses.replace(
            self,
            n_classes=n_classes,
            classes=None if self.classes is None else (*self.classes, *map(str, more)),
            # Networks with other outputs are other networks, though the data are the same.
            marks=(*self.marks, *([f"n_classes={n_classes}"] if more else [])),
            is_counted=True,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: what it is called in reports.
        n_classes: labels are in 0 .. n_classes - 1.
        train: what is trained on.
        val: what greedy soups are judged on; disjoint from `train`.
        test: what results are reported on.
        transform: what happens to the images on the device.
        view: how encoded images are cropped and scaled to one size; None: they are arrays of one size already.
        fingerprint: hash of every array, see `fingerprint`.
        split: whose tenth of the training images validates: 'own' or one of `splits.SPLITS`; None: the source has
            validation images of its own.
        classes: the classes' names in the order of their labels; None: they have none.
        notes: what may not be meant, one line each.
    """

    name: str
    n_classes: int
    train: Split
    val: Split
    test: Split
    transform: Transform
    view: View | None
    fingerprint: str
    split: str | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels, as the network sees them."""
        return self.train.images.shape[1:] if self.view is None else (self.view.size, self.view.size, 3)

    @property
    def nbytes(self) -> int | None:
        """Bytes of all images; None for encoded ones."""
        if self.view is not None:
            return None
        return sum(split.images.nbytes for split in (self.train, self.val, self.test))

    def describe(self) -> str:
        """Returns one line: the images' shape and range, how many there are, and how they fall into classes."""
        shape = " x ".join(map(str, self.image_shape))
        if self.view is None:
            seen = f"images of {shape}, values {self.train.images.min()} to {self.train.images.max()}"
        else:
            seen = f"pictures seen as {shape}"
        counts = np.bincount(self.train.labels, minlength=self.n_classes)
        fewest, most = int(counts.argmin()), int(counts.argmax())
        each = f"{counts[fewest]} ({self._class(fewest)}) to {counts[most]} ({self._class(most)}) training images"
        if counts[fewest] == counts[most]:
            each = f"{counts[most]} training images each"
        return (
            f"{self.name}: {seen}; {len(self.train)} training, {len(self.val)} validation and {len(self.test)} test "
            f"images; {self.n_classes} classes of {each}"
        )

    def _class(self, label: int) -> str:
        return repr(self.classes[label]) if self.classes else f"label {label}"


def assemble(
    name: str,
    contents: Contents,
    *,
    transform: Transform,
    split_seed: int,
    split: str | None = None,
    n_train: int | None = None,
    view: View | None = None,
) -> Dataset:
    """Checks a data set, takes the validation images out of the training images and makes the fingerprint.

    Args:
        name: the data set, for reports and errors.
        contents: its images.
        transform: what happens to the images on the device.
        split_seed: decides which tenth of the training images validates, and their order.
        split: how it does, one of `splits.SPLITS`; None: our own way.
        n_train: how many training images are used, the first in their order; None: all that do not validate.
        view: how encoded images are cropped and scaled.

    Returns:
        The data set.

    Raises:
        SettingsError: too few images or classes, labels that are not classes, images that cannot mean anything, or a
            way to split where there is nothing to split.
    """
    n_classes, training, test = contents.n_classes, contents.training, contents.test
    if n_classes < 2:
        raise SettingsError(f"dataset: {name}: found {n_classes} class; at least 2 are needed")
    given = {"training": training, "validation": contents.val, "test": test}
    for which, images in given.items():
        if images is not None:
            _check(name, which, images, n_classes, least=2 if which == "training" else 1)
    if split is not None and contents.val is not None:
        raise SettingsError(f"data.split: found {split!r}; {name} has validation images of its own, and needs no split")
    order = permutation(len(training), split_seed, split)
    n_kept = int(TRAIN_SHARE * len(training)) if contents.val is None else len(training)
    val = training[order[n_kept:]] if contents.val is None else contents.val
    if n_train is not None and n_train > n_kept:
        raise SettingsError(f"data.n_train: found {n_train}; {name} has {n_kept} training images")
    splits = {"train": training[order[:n_kept][:n_train]], "val": val, "test": test}
    try:
        found = checks.notes(**splits, n_classes=n_classes, classes=contents.classes, is_counted=contents.is_counted)
    except SettingsError as error:
        raise SettingsError(f"dataset: {name}: {error}") from None
    parts = [part for part in (transform, view) if part not in (Transform(), None)]
    return Dataset(
        name,
        n_classes,
        **splits,
        transform=transform,
        view=view,
        fingerprint=fingerprint(splits, *parts, *contents.marks),
        split=(split or "own") if contents.val is None else None,
        classes=contents.classes,
        notes=(*contents.notes, *found),
    )


def _check(name: str, which: str, split: Split, n_classes: int, least: int) -> None:
    shape = getattr(split.images, "shape", (len(split),))
    if len(split) < least or 0 in shape:
        raise SettingsError(f"dataset: {name}: found {which} images of shape {shape}; at least {least} are needed")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= n_classes:
        worst = low if low < 0 else high
        raise SettingsError(f"dataset: {name}: found {which} label {worst}; allowed: 0 to {n_classes - 1}")


def fingerprint(splits: dict[str, Split], *parts: Transform | View | str) -> str:
    """Hashes names, shapes, dtypes and bytes of all arrays; of encoded images what their files say of them.

    Args:
        splits: the splits by name.
        *parts: what is done to the images before the network sees them, and what else tells the data apart.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, split in splits.items():
        arrays = {"images": split.images, "labels": split.labels}
        if isinstance(split.images, Encoded):
            digest.update(f"{name}.images {split.images.files.fingerprint}\n".encode())
            arrays["images"] = split.images.indices
        for field, array in arrays.items():
            digest.update(f"{name}.{field} {array.shape} {array.dtype.str}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    for part in parts:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()

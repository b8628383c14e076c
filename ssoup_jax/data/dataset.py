"""What a data set is: images and labels on the host, in splits that never change."""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np

from ssoup_jax.data.augment import Transform
from ssoup_jax.data.views import View
from ssoup_jax.errors import SettingsError

TRAIN_SHARE = 0.9


class Files(Protocol):
    """Compressed images of any size, read one at a time; picklable."""

    fingerprint: str
    """Hash of what can be known of all images without reading them, such as their names and sizes."""

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
    """

    name: str
    n_classes: int
    train: Split
    val: Split
    test: Split
    transform: Transform
    view: View | None
    fingerprint: str

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


def permutation(n: int, seed: int) -> np.ndarray:
    """Returns the fixed order that decides who is in which split, int64 `[n]`.

    NumPy freezes the stream of this generator for good; that of `default_rng` may change with a release, and stored
    results would no longer be found.
    """
    return np.random.RandomState(seed).permutation(n)


def assemble(
    name: str,
    n_classes: int,
    training: Split,
    test: Split,
    *,
    transform: Transform,
    split_seed: int,
    view: View | None = None,
) -> Dataset:
    """Checks a data set, takes the validation images out of the training images and makes the fingerprint.

    Args:
        name: the data set, for reports and errors.
        n_classes: number of classes.
        training: all training images.
        test: the test images.
        transform: what happens to the images on the device.
        split_seed: decides which tenth of the training images validates.
        view: how encoded images are cropped and scaled.

    Returns:
        The data set.

    Raises:
        SettingsError: too few images or classes, or labels that are not classes.
    """
    if n_classes < 2:
        raise SettingsError(f"dataset: {name}: found {n_classes} class; at least 2 are needed")
    for found, split, least in ((training, "training", 2), (test, "test", 1)):
        shape = getattr(found.images, "shape", (len(found),))
        if len(found) < least or 0 in shape:
            raise SettingsError(f"dataset: {name}: found {split} images of shape {shape}; at least {least} are needed")
        low, high = int(found.labels.min()), int(found.labels.max())
        if low < 0 or high >= n_classes:
            worst = low if low < 0 else high
            raise SettingsError(f"dataset: {name}: found {split} label {worst}; allowed: 0 to {n_classes - 1}")
    order = permutation(len(training), split_seed)
    n_train = int(TRAIN_SHARE * len(training))
    splits = {"train": training[order[:n_train]], "val": training[order[n_train:]], "test": test}
    digest = fingerprint(splits, *(part for part in (transform, view) if part not in (Transform(), None)))
    return Dataset(name, n_classes, **splits, transform=transform, view=view, fingerprint=digest)


def fingerprint(splits: dict[str, Split], *seen_as: Transform | View) -> str:
    """Hashes names, shapes, dtypes and bytes of all arrays; of encoded images what is known without reading them.

    Args:
        splits: the splits by name.
        *seen_as: what is done to the images before the network sees them.

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
    for part in seen_as:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()

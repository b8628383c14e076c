"""What a data set is: images and labels on the host, in splits that never change."""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np

from ssoup_jax.data.augment import Transform
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
        ood: corrupted test images, if there are any.
        transform: what happens to the images on the device.
        fingerprint: hash of every array, see `fingerprint`.
    """

    name: str
    n_classes: int
    train: Split
    val: Split
    test: Split
    ood: Split | None
    transform: Transform
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.train.images.shape[1:]


def permutation(n: int, seed: int) -> np.ndarray:
    """Returns the fixed order that decides who is in which split, int64 `[n]`.

    NumPy freezes the stream of this generator for good; that of `default_rng` may change with a release, and stored
    results would no longer be found.
    """
    return np.random.RandomState(seed).permutation(n)


def assemble(
    name: str, n_classes: int, training: Split, test: Split, *, transform: Transform, split_seed: int
) -> Dataset:
    """Checks a data set, takes the validation images out of the training images and makes the fingerprint.

    Args:
        name: the data set, for reports and errors.
        n_classes: number of classes.
        training: all training images.
        test: the test images.
        transform: what happens to the images on the device.
        split_seed: decides which tenth of the training images validates.

    Returns:
        The data set.

    Raises:
        SettingsError: too few images or classes, or labels that are not classes.
    """
    if n_classes < 2:
        raise SettingsError(f"dataset: {name}: found {n_classes} class; at least 2 are needed")
    for found, split, least in ((training, "training", 2), (test, "test", 1)):
        if len(found) < least or not found.images.size:
            shape = found.images.shape
            raise SettingsError(f"dataset: {name}: found {split} images of shape {shape}; at least {least} are needed")
        low, high = int(found.labels.min()), int(found.labels.max())
        if low < 0 or high >= n_classes:
            worst = low if low < 0 else high
            raise SettingsError(f"dataset: {name}: found {split} label {worst}; allowed: 0 to {n_classes - 1}")
    order = permutation(len(training), split_seed)
    n_train = int(TRAIN_SHARE * len(training))
    splits = {"train": training[order[:n_train]], "val": training[order[n_train:]], "test": test, "ood": None}
    return Dataset(name, n_classes, **splits, transform=transform, fingerprint=fingerprint(splits))


def fingerprint(splits: dict[str, Split | None]) -> str:
    """Hashes names, shapes, dtypes and bytes of all arrays; absent splits do not count.

    Args:
        splits: the splits by name.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, split in splits.items():
        if split is not None:
            for field, array in (("images", split.images), ("labels", split.labels)):
                digest.update(f"{name}.{field} {array.shape} {array.dtype.str}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

"""The order in which a data set was published, which torchvision keeps and TFDS shuffles when it prepares it."""

import hashlib

import numpy as np

from ssoup_jax.errors import SettingsError

NUMBERED = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn_cropped")
"""Data sets whose examples TFDS knows by their number, so that its order can be undone."""


def check(name: str) -> None:
    """Raises a SettingsError if the order of what TFDS calls by that name cannot be known."""
    if name not in NUMBERED:
        raise SettingsError(
            f"data.split: found 'reference', which counts images in the order in which they were published; TFDS "
            f"shuffles, which can be undone for {', '.join(NUMBERED)}, but not for {name}; folder:, npz:, idx: keep it"
        )


def order(n: int) -> np.ndarray:
    """Returns where in TFDS's records the training images lie, in the order in which they were published.

    TFDS sorts its records by the MD5 of the split's name and the example's key.

    Args:
        n: how many training images there are, of a data set that passes `check`.

    Returns:
        int64 `[n]`.
    """
    hashed = [hashlib.md5(f"train{number}".encode(), usedforsecurity=False).digest() for number in range(n)]
    return np.argsort(sorted(range(n), key=hashed.__getitem__))

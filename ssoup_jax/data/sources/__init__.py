"""Where data sets come from: `load(name)` gives every one of them the same shape."""

import importlib.util
from pathlib import Path

import numpy as np

from ssoup_jax.data.augment import ENCODED_TRANSFORM, TRANSFORMS, Transform
from ssoup_jax.data.dataset import Dataset, Encoded, Split, assemble, permutation
from ssoup_jax.data.sources import folder, npz, tfds
from ssoup_jax.data.views import View
from ssoup_jax.errors import SettingsError, unknown

__all__ = ["ALIASES", "SOURCES", "Dataset", "Split", "check_name", "load"]

ALIASES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped", "imagenet2012")
"""Data sets of TFDS that go by their bare name."""

SOURCES = ("digits", *ALIASES, "npz:PATH", "folder:PATH", "tfds:NAME", "tfds:NAME:CONFIG")
"""How a data set may be named."""


def check_name(name: str) -> None:
    """Checks that `name` is of a form in `SOURCES`, without looking for the data.

    Args:
        name: the setting.

    Raises:
        SettingsError: it is not.
    """
    kind, _, rest = _full(name).partition(":")
    if kind == "tfds":
        tfds.parse(rest)
    elif kind in ("npz", "folder"):
        if not rest:
            raise SettingsError(f"dataset: found {name!r}; allowed: {kind}:PATH, with the path of its data")
    elif name != "digits":
        raise unknown("dataset", name, SOURCES)


def load(
    name: str, *, data_dir: str | None = None, split_seed: int = 42, download: bool = True, image_size: int = 224
) -> Dataset:
    """Loads a data set, into host memory if its images have one size; the same name always gives the same splits.

    Args:
        name: one of `SOURCES`.
        data_dir: where TFDS keeps its data sets; None: TFDS's own default.
        split_seed: decides the splits that the source itself does not.
        download: whether what is not on disk may be fetched.
        image_size: pixels to a side that images of different sizes are cropped to.

    Returns:
        The data set. Where the source has no validation images, a tenth of its training images are.

    Raises:
        SettingsError: no such source, or its data are missing or cannot be used.
    """
    check_name(name)
    kind, _, rest = _full(name).partition(":")
    if kind == "digits":
        n_classes, training, test = _digits(split_seed)
    elif kind == "npz":
        n_classes, training, test = npz.read(Path(rest).expanduser())
    elif kind == "folder":
        n_classes, training, test = folder.read(Path(rest).expanduser())
    else:
        n_classes, training, test = tfds.read(rest, data_dir, download)
        name = tfds.parse(rest)
    view, transform = None, TRANSFORMS.get(name, Transform())
    if isinstance(training.images, Encoded):
        # Crops of 224 pixels are taken from images of 256, and others in proportion.
        view, transform = View(image_size, round(image_size * 256 / 224)), ENCODED_TRANSFORM
    return assemble(name, n_classes, training, test, transform=transform, split_seed=split_seed, view=view)


def _full(name: str) -> str:
    return f"tfds:{name}" if name in ALIASES else name


def _digits(split_seed: int) -> tuple[int, Split, Split]:
    """The 1797 digits of 8 x 8 pixels that scikit-learn ships; a fifth of them, rounded up, are the test images."""
    package = importlib.util.find_spec("sklearn")
    file = Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz") if package else None
    if file is None or not file.is_file():
        raise SettingsError("dataset: 'digits' comes with scikit-learn, which is not installed or does not hold it")
    # Read without importing scikit-learn, which would be a fifth of a run's start.
    values = np.loadtxt(file, np.uint8, delimiter=",")
    pixels, labels = values[:, :-1].reshape(-1, 8, 8, 1), values[:, -1].astype(np.int32)
    # Pixels are whole numbers from 0 to 16; halves go up.
    images = np.floor(pixels * (255 / 16) + 0.5).astype(np.uint8)
    everything = Split(images, labels)
    order = permutation(len(everything), split_seed)
    n_test = -(-len(order) // 5)
    return int(labels.max()) + 1, everything[order[n_test:]], everything[order[:n_test]]

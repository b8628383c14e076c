"""Where data sets come from: `load(name)` gives every one of them the same shape."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssoup_jax.data.augment import ENCODED_TRANSFORM, TRANSFORMS, Transform, changed
from ssoup_jax.data.dataset import Contents, Dataset, Encoded, Split, assemble
from ssoup_jax.data.shrink import shrink
from ssoup_jax.data.sources import folder, functions, idx, names, npz, published, tfds
from ssoup_jax.data.sources.names import ALIASES, SOURCES
from ssoup_jax.data.splits import permutation
from ssoup_jax.data.views import View
from ssoup_jax.errors import SettingsError
from ssoup_jax.pod import ALONE, Pod

__all__ = ["ALIASES", "SOURCES", "Dataset", "Options", "Split", "check_name", "load"]

check_name = names.check


@dataclasses.dataclass(frozen=True)
class Options:
    """How a data set is read; `configs/base.py` says what each of these settings means.

    Attributes:
        download: whether what is not on disk may be fetched.
        verify: whether an archive must have the published checksum.
        image_size: pixels to a side that images of different sizes are cropped to.
        skip_undecodable: whether an image that cannot be decoded is no reason to stop.
        follow_links: whether links in folders of images are followed.
        layout: one of `arrays.LAYOUTS`; None: NHWC, unless the arrays look otherwise.
        n_classes: how many classes there are; None: as many as the data say.
        split: how validation images are taken out of the training images, one of `splits.SPLITS`; None: our own way.
        n_train: how many training images are used, the first in their fixed order; None: all.
        shrink: how many times smaller each side of the images gets; None: as they are.
        pad: as in `Transform`, as are the following; None: by the data set's name.
        flip: likewise.
        rotate_degrees: likewise.
        mean: likewise.
        std: likewise.
    """

    download: bool = True
    verify: bool = True
    image_size: int = 224
    skip_undecodable: bool = False
    follow_links: bool = False
    layout: str | None = None
    n_classes: int | None = None
    split: str | None = None
    n_train: int | None = None
    shrink: int | None = None
    pad: int | None = None
    flip: bool | None = None
    rotate_degrees: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def load(
    name: str,
    options: Options | None = None,
    *,
    data_dir: str | None = None,
    split_seed: int = 42,
    on_line: Callable[[str], None] | None = None,
    pod: Pod = ALONE,
) -> Dataset:
    """Loads a data set, into host memory if its images have one size; the same name always gives the same splits.

    Args:
        name: one of `SOURCES`.
        options: how it is read; None: the defaults.
        data_dir: where TFDS keeps its data sets; None: TFDS's own default.
        split_seed: decides the splits that the source itself does not.
        on_line: told what takes long, a line at a time; None: nobody is.
        pod: the processes that all load it; what is left on the disk for the next time is process 0's to write.

    Returns:
        The data set. Where the source has no validation images, a tenth of its training images are.

    Raises:
        SettingsError: no such source, or its data are missing or cannot be used.
    """
    options = options or Options()
    kind, rest = names.parse(name)
    if options.layout == "NCHW" and kind not in ("npz", "idx", "own"):
        raise SettingsError(
            f"data.layout: found 'NCHW'; images of {name} are NHWC, only those of npz:, idx: and one's own may not be"
        )
    if kind == "digits":
        contents = _digits(split_seed)
    elif kind == "npz":
        contents = npz.read(Path(rest), options.layout, options.n_classes)
    elif kind == "idx":
        contents = idx.read(Path(rest), options.layout, options.n_classes)
    elif kind == "own":
        contents = functions.read(rest, data_dir, options.layout, options.n_classes)
    elif kind == "folder":
        contents = folder.look(folder.read(Path(rest), options.follow_links), options.skip_undecodable)
    else:
        as_published = options.split == "reference"
        if as_published:
            published.check(rest)
        contents = pod.in_turn(
            lambda: tfds.read(rest, data_dir, download=options.download, verify=options.verify, on_line=on_line)
        )
        if as_published:
            training = contents.training[published.order(len(contents.training))]
            contents = dataclasses.replace(contents, training=training)
        name = rest
    contents = shrink(contents, options.shrink)
    view, transform = None, TRANSFORMS.get(name, Transform())
    if isinstance(contents.training.images, Encoded):
        # Crops of 224 pixels are taken from images of 256, and others in proportion.
        view, transform = View(options.image_size, round(options.image_size * 256 / 224)), ENCODED_TRANSFORM
    shape = contents.training.images.shape[1:] if view is None else (view.size, view.size, 3)
    wanted = {field: getattr(options, field) for field in vars(transform)}
    transform = changed(transform, shape, **wanted)
    contents = contents.with_classes(options.n_classes)
    how = {"split_seed": split_seed, "split": options.split, "n_train": options.n_train}
    return assemble(name, contents, transform=transform, view=view, **how)


def _digits(split_seed: int) -> Contents:
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
    return Contents(10, everything[order[n_test:]], everything[order[:n_test]], classes=tuple("0123456789"))

"""Which corrupted test images to evaluate on, and where the published ones are: CIFAR-10-C and CIFAR-100-C."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssoup_jax.data import corruptions
from ssoup_jax.data.corruptions import SEVERITIES
from ssoup_jax.data.dataset import Split
from ssoup_jax.data.sources import tfds
from ssoup_jax.errors import SettingsError, unknown

PUBLISHED = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
"""The published corruptions, named as their files are: noise, blur, weather, digital, and four extra ones."""

FORMS = (
    *("default", "all", "all:SEVERITY", "NAME:SEVERITY"),
    *("computed:all", "computed:all:SEVERITY", "computed:NAME:SEVERITY"),
)
"""What an entry may look like."""

_ENTRY = re.compile(r"(computed:)?(\w+?)(?:[:_](-?\d+))?", re.ASCII)
_IN_TFDS = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
_GREY = ("digits", "mnist", "fashion_mnist")


class _Source(NamedTuple):
    """Where a data set's corrupted test images are published; in TFDS if that has them."""

    folder: str
    url: str
    n_classes: int
    in_tfds: str | None


_SOURCES = {
    "cifar10": _Source("CIFAR-10-C", "https://zenodo.org/records/2535967", 10, "cifar10_corrupted"),
    "cifar100": _Source("CIFAR-100-C", "https://zenodo.org/records/3555552", 100, None),
}


@dataclass(frozen=True)
class Corruption:
    """A corruption at one severity.

    Attributes:
        name: one of `PUBLISHED`, or of `corruptions.names()` if computed.
        severity: 1 to 5.
        computed: whether it is computed from the test images, rather than read as it was published.
    """

    name: str
    severity: int
    computed: bool

    def __str__(self) -> str:
        return f"{'computed:' if self.computed else ''}{self.name}:{self.severity}"


def parse(
    entries: str | Sequence[str] | None, dataset_name: str, channels: int | None = None
) -> tuple[Corruption, ...]:
    """Reads the setting `ood`.

    Args:
        entries: of the forms in `FORMS`, in one string with commas or in several; `NAME_SEVERITY` is read as well.
            `default` is what the reference does: gaussian_noise:3 where it is published. `all` is everything that is
            published or, where nothing is, everything that can be computed. None: nothing.
        dataset_name: the setting `dataset`.
        channels: of its images; None: as far as the name tells.

    Returns:
        The corruptions in the order of the entries, each once.

    Raises:
        SettingsError: an entry of another form, or what it names is not to be had for this data set.
    """
    if entries is None:
        return ()
    if channels is None:
        channels = 1 if _bare(dataset_name) in _GREY else 3
    entries = entries.split(",") if isinstance(entries, str) else entries
    return tuple(dict.fromkeys(found for entry in entries for found in _expand(entry, dataset_name, channels)))


def _expand(entry: str, dataset_name: str, channels: int) -> list[Corruption]:
    entry = entry.strip() if isinstance(entry, str) else entry
    is_published = _bare(dataset_name) in _SOURCES
    if entry == "default":
        return [Corruption("gaussian_noise", 3, False)] if is_published else []
    match = _ENTRY.fullmatch(entry) if isinstance(entry, str) else None
    if match is None:
        raise SettingsError(f"ood: found {entry!r}; allowed: {', '.join(FORMS)}")
    prefix, name, severity = match.groups()
    computed = bool(prefix) or (name == "all" and not is_published)
    available = corruptions.names(channels) if computed else PUBLISHED
    if not computed and not is_published:
        allowed = f"computed:NAME:SEVERITY with NAME one of {', '.join(corruptions.names(channels))}"
        raise SettingsError(f"ood: found {entry!r}, but nothing is published for {dataset_name}; allowed: {allowed}")
    if name != "all" and name not in available:
        raise unknown(f"ood: {'computed' if computed else 'published'}", name, ("all", *available))
    if severity is None and name != "all":
        raise SettingsError(f"ood: found {entry!r} without a severity; allowed: {entry}:1 to {entry}:5")
    if severity is not None and severity not in map(str, SEVERITIES):
        raise SettingsError(f"ood: found severity {severity} in {entry!r}; allowed: 1 to 5")
    return [
        Corruption(one, level, computed)
        for one in (available if name == "all" else (name,))
        for level in (SEVERITIES if severity is None else (int(severity),))
    ]


def load_published(dataset: str, corruption: Corruption, data_dir: str | None, download: bool = True) -> Split:
    """Reads test images as they were published corrupted: from their .npy files, or else by TFDS if that has them.

    Args:
        dataset: the setting `dataset`, naming CIFAR-10 or CIFAR-100.
        corruption: a published one.
        data_dir: where the folder `CIFAR-10-C` or `CIFAR-100-C` is, and where TFDS keeps its data sets; None: TFDS's
            own default.
        download: whether what is not on disk may be fetched.

    Returns:
        The images.

    Raises:
        SettingsError: they are not to be had, or not what they should be.
    """
    source = _SOURCES.get(_bare(dataset))
    if source is None or corruption.computed:
        raise SettingsError(f"ood: no published images of {dataset} for {corruption}")
    folder = _data_dir(data_dir) / source.folder
    file = folder / f"{corruption.name}.npy"
    if os.path.exists(file):
        return _read(file, folder / "labels.npy", corruption.severity, source.n_classes)
    reason = ""
    if source.in_tfds is not None:
        config = f"{_IN_TFDS.get(corruption.name, corruption.name)}_{corruption.severity}"
        try:
            n_classes, split = tfds.read_test(f"{source.in_tfds}/{config}", data_dir, download)
        except SettingsError as error:
            reason = f", nor could TFDS be used ({error})"
        else:
            return _checked(split, n_classes, f"tfds:{source.in_tfds}/{config}")
    computable = corruption.name in corruptions.names()
    instead = f"computed:{corruption}" if computable else "computed:NAME:SEVERITY"
    raise SettingsError(
        f"ood: {corruption} of {dataset}: {file} is not there{reason}; put the .npy files of {source.url} into "
        f"{folder}, or set ood to entries such as {instead}, or to None"
    )


def _read(images_file: Path, labels_file: Path, severity: int, n_classes: int) -> Split:
    """Reads the part of one severity: the files hold all five, one after the other, and are large."""
    images, labels = _opened(images_file), _opened(labels_file)
    if images.ndim != 4 or images.shape[1:] != (32, 32, 3) or images.dtype != np.uint8 or len(images) % 5:
        found = f"{images.dtype} {list(images.shape)}"
        raise SettingsError(f"ood: {images_file}: found {found}; allowed: uint8 [5 N, 32, 32, 3], a part per severity")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} {list(labels.shape)}"
        raise SettingsError(f"ood: {labels_file}: found {found}; allowed: integers [{len(images)}], one per image")
    n = len(images) // 5
    part = slice((severity - 1) * n, severity * n)
    return _checked(Split(np.array(images[part]), np.array(labels[part])), n_classes, str(images_file))


def _opened(file: Path) -> np.ndarray:
    """Maps a file into memory; unlike `np.load`, this never takes a pickle for an array."""
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError as error:
        raise SettingsError(f"ood: {file} is not there") from error
    except Exception as error:  # of many types for a damaged header
        raise SettingsError(f"ood: {file} is no complete .npy file of numbers ({type(error).__name__})") from error


def _checked(split: Split, n_classes: int, where: str) -> Split:
    """Returns the images with labels of the usual type, if there are any and all labels are classes."""
    if not len(split) or len(split.images) != len(split):
        raise SettingsError(f"ood: {where}: found {len(split.images)} images and {len(split)} labels")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= n_classes:
        worst = low if low < 0 else high
        raise SettingsError(f"ood: {where}: found label {worst}; allowed: 0 to {n_classes - 1}")
    return Split(split.images, split.labels.astype(np.int32))


def _bare(dataset_name: str) -> str:
    """Returns the name of a data set that may have been given as `tfds:NAME`."""
    return dataset_name.removeprefix("tfds:")


def _data_dir(data_dir: str | None) -> Path:
    if data_dir is None:
        from tensorflow_datasets.core.constants import DATA_DIR  # seconds to import

        return Path(os.path.expanduser(DATA_DIR))
    return Path(os.path.expanduser(data_dir))

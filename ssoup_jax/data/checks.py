"""What the splits of a data set say about each other: what cannot be meant is an error, what may not be a note."""

from typing import TYPE_CHECKING

import numpy as np

from ssoup_jax.errors import SettingsError

if TYPE_CHECKING:
    from ssoup_jax.data.dataset import Split

DUPLICATES_UP_TO = 2**30
"""Images of more bytes than this are not searched for test images among the training images."""

_DARK = 64  # below this the brightest value of all images hints at another scale than 0 to 255
_SHOWN = 5


def notes(
    train: "Split",
    val: "Split",
    test: "Split",
    n_classes: int,
    classes: tuple[str, ...] | None = None,
    is_counted: bool = False,
) -> tuple[str, ...]:
    """Looks at the splits beside one another.

    Args:
        train: what is trained on.
        val: the validation images.
        test: the test images.
        n_classes: labels are in 0 .. n_classes - 1.
        classes: the classes' names; None: they have none.
        is_counted: whether `n_classes` was given, so that classes without images are no surprise.

    Returns:
        What may not be meant, one line each, with the figures.

    Raises:
        SettingsError: the images are all of one value, or of two scales.
    """
    found = _of_labels({"training": train, "validation": val, "test": test}, n_classes, classes, is_counted)
    if isinstance(train.images, np.ndarray) and isinstance(test.images, np.ndarray):
        found += _of_ranges(train, test) + _of_blanks({"training": train, "test": test})
        if sum(split.images.nbytes for split in (train, val, test)) <= DUPLICATES_UP_TO:
            found += _of_duplicates([train, val], test)
    return tuple(found)


def share(part: int, whole: int) -> str:
    """Writes how many of how many, with the percentage."""
    return f"{part} of {whole} ({100 * part / whole:.3g} %)"


def some(names: list[str]) -> str:
    """Lists the first few of many names."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _of_labels(
    splits: dict[str, "Split"], n_classes: int, classes: tuple[str, ...] | None, is_counted: bool
) -> list[str]:
    counts = {name: np.bincount(split.labels, minlength=n_classes) for name, split in splits.items()}

    def listed(labels: np.ndarray) -> str:
        return some([f"{label} ({classes[label]!r})" if classes else str(label) for label in labels.tolist()])

    found = []
    absent = np.flatnonzero(sum(counts.values()) == 0)
    if is_counted:
        pass
    elif absent.tolist() == [0]:
        found.append(
            f"labels start at 1, and the network has an output for a class 0 without images: the labels minus 1 would "
            f"be 0 to {n_classes - 2}"
        )
    elif absent.size:
        found.append(f"{len(absent)} of {n_classes} classes have no image at all: {listed(absent)}")
    for name in ("validation", "test"):
        unseen = np.flatnonzero((counts["training"] == 0) & (counts[name] > 0))
        if unseen.size:
            images = share(int(counts[name][unseen].sum()), int(counts[name].sum()))
            found.append(f"{images} {name} images are of classes without a training image: {listed(unseen)}")
    untested = np.flatnonzero((counts["training"] > 0) & (counts["test"] == 0))
    if untested.size:
        trained = int((counts["training"] > 0).sum())
        found.append(f"{len(untested)} of {trained} trained classes have no test image: {listed(untested)}")
    return found


def _of_ranges(train: "Split", test: "Split") -> list[str]:
    ranges = {
        name: (int(split.images.min()), int(split.images.max()))
        for name, split in (("training", train), ("test", test))
    }
    for (name, (low, high)), split in zip(ranges.items(), (train, test), strict=True):
        if low == high and split.images.size > 1 and len(split) > 1:
            raise SettingsError(
                f"every value of all {len(split)} {name} images is {low}; nothing can be learnt from that"
            )
    described = " and ".join(f"{name} images {low} to {high}" for name, (low, high) in ranges.items())
    dimmer, brighter = sorted(high for _, high in ranges.values())
    if dimmer <= 1 and brighter >= 16:
        raise SettingsError(f"{described} are on different scales; bring both to 0 to 255")
    if brighter >= 4 * max(dimmer, 1):
        return [f"{described}: they seem to be on different scales"]
    if brighter < _DARK:
        return [f"{described}: images are nearly black unless another scale than 0 to 255 was meant"]
    return []


def _of_blanks(splits: dict[str, "Split"]) -> list[str]:
    found = []
    for name, split in splits.items():
        pixels = split.images.reshape(len(split), -1)
        blank = np.flatnonzero(pixels.min(axis=1) == pixels.max(axis=1)) if pixels.shape[1] > 1 else np.empty(0)
        if blank.size:
            found.append(f"{share(len(blank), len(split))} {name} images are of one value each")
    return found


def _of_duplicates(training: list["Split"], test: "Split") -> list[str]:
    # Equal bytes are told from others by Python's own hash, of 64 bits.
    known = {
        hash(image.tobytes()): int(label)
        for split in training
        for image, label in zip(split.images, split.labels, strict=True)
    }
    labels = [
        (known.get(hash(image.tobytes())), int(label)) for image, label in zip(test.images, test.labels, strict=True)
    ]
    return told_twice([pair for pair in labels if pair[0] is not None], len(test))


def told_twice(pairs: list[tuple[int, int]], n_test: int) -> list[str]:
    """Says how many test images are training images, too.

    Args:
        pairs: the label in training and that in the test, of each such image.
        n_test: how many test images there are.

    Returns:
        One note, or none where there is no such image.
    """
    if not pairs:
        return []
    other = sum(first != second for first, second in pairs)
    suffix = f", {other} of them with another label" if other else ""
    return [f"{share(len(pairs), n_test)} test images are among the training and validation images as well{suffix}"]

"""Folders of images: `PATH/train/CLASS/*.jpg` and `PATH/test/CLASS/*.jpg`, or `val`; TinyImageNet's layout too."""

import contextlib
import dataclasses
import hashlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssoup_jax.data import checks, pictures
from ssoup_jax.data.dataset import Contents, Encoded, Split
from ssoup_jax.data.pictures import FOLDERS, Rules
from ssoup_jax.data.sources.listing import File, Listing, error_at, shown
from ssoup_jax.errors import SettingsError

VAL_FOLDERS = ("val", "valid", "validation")
"""Where the validation images may be; the first of these that has labels is taken."""

TEST_FOLDERS = ("test", *VAL_FOLDERS)
"""Where the test images may be; likewise. What is taken for these does not validate."""

ANNOTATIONS = "val_annotations.txt"
CLASSES = "wnids.txt"

HASHED_UP_TO = 2**28
"""Folders of more bytes than this are told apart by names, sizes and times of change, others by contents."""

LOOKED_AT = 64
"""How many pictures of the training images, and of the others, are opened before anything is trained."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The image files of a split; meets `dataset.Files`.

    Attributes:
        root: the folder of the data set.
        paths: all paths below the root, one after the other.
        ends: where each of them ends in `paths`, int64 `[N]`.
        fingerprint: hash of all paths and sizes, and of contents or times of change.
        rules: how they are decoded.
    """

    root: str
    paths: bytes
    ends: np.ndarray
    fingerprint: str
    rules: Rules = FOLDERS

    def read(self, index: int) -> bytes:
        """Returns an image as it is stored.

        Raises:
            OSError: it is no longer there, or cannot be read.
        """
        with open(self._path(index), "rb") as file:
            return file.read()

    def describe(self, index: int) -> str:
        """Returns the image's path."""
        return shown(self._path(index))

    def _path(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.path.join(self.root, os.fsdecode(self.paths[start : self.ends[index]]))


def read(path: Path, follow_links: bool = False) -> Contents:
    """Lists a folder of images; of a small one all are read for the fingerprint, but none is decoded.

    A class is a folder in `train`; its images may lie in folders of their own. TinyImageNet's validation images lie in
    one folder, and a file says the class of each.

    Args:
        path: the folder that holds `train` and one of `TEST_FOLDERS`. Where the test images are not in one of
            `VAL_FOLDERS`, what is there validates.
        follow_links: whether links to anything on the same file system are followed, not only to files in the folder.

    Returns:
        The contents: classes are numbered in the order of their names; images are those of each class after the other,
        by name within.

    Raises:
        SettingsError: a folder is missing or empty, labels disagree, or a link leads out of the folder.
    """
    path = Path(path)
    try:
        root = Path(os.path.realpath(path, strict=True))
        listing = Listing(root, follow_links)
        by_class = _by_class(listing, "train")
        if not by_class:
            raise error_at(root / "train", "no folder of images, one for each class, is in it")
        numbers = {name: number for number, name in enumerate(by_class)}
        found = {"train": _images(listing, "train", by_class, numbers), **_held_out(listing, numbers)}
        size = sum(file.size for images in found.values() for of_class in images for file in of_class)
        splits, digests = {}, {}
        for name, images in found.items():
            splits[name], digests[name] = _split(root, images, by_contents=size <= HASHED_UP_TO)
    except OSError as error:
        raise error_at(Path(error.filename or path), f"cannot be read ({error.strerror}){_instead(path)}") from error
    train, *others = splits.values()
    notes = _notes(listing, list(splits), size) + _duplicates(splits, digests)
    return Contents(
        len(numbers), train, others[-1], others[0] if others[1:] else None, classes=tuple(numbers), notes=tuple(notes)
    )


def look(contents: Contents, skip_undecodable: bool) -> Contents:
    """Opens some of the pictures, and decides how all are decoded.

    Args:
        contents: as listed.
        skip_undecodable: whether one that cannot be decoded is worth a note in place of an error.

    Returns:
        The contents with the rules.

    Raises:
        SettingsError: a picture cannot be decoded.
    """
    splits = {name: getattr(contents, name) for name in ("training", "val", "test")}
    splits = {name: split for name, split in splits.items() if split is not None}
    root = splits["training"].images.files.root
    try:
        rules, notes = pictures.look(_some(splits.values()), skip_undecodable)
    except SettingsError as error:
        raise SettingsError(f"dataset: folder:{error}") from error.__cause__
    except OSError as error:
        raise error_at(Path(error.filename or root), f"cannot be read ({error.strerror})") from error
    if rules == FOLDERS:
        return dataclasses.replace(contents, notes=(*contents.notes, *notes))
    for name, split in splits.items():
        files = dataclasses.replace(split.images.files, rules=rules)
        splits[name] = Split(Encoded(files, split.images.indices), split.labels)
    notes, marks = (*contents.notes, *notes), (*contents.marks, str(rules))
    return dataclasses.replace(contents, **splits, notes=notes, marks=marks)


def _some(splits: Iterator[Split]) -> Iterator[tuple[str, bytes]]:
    """Yields some pictures of each split, spread evenly over the classes."""
    for split in splits:
        for index in np.unique(np.linspace(0, len(split) - 1, LOOKED_AT).astype(int)):
            files, which = split.images.files, int(split.images.indices[index])
            yield files.describe(which), files.read(which)


def _by_class(listing: Listing, folder: str) -> dict[str, list[str]]:
    """Returns the folders of each class: one name may be spelt with composed characters and with others."""
    found: dict[str, list[str]] = {}
    for name in listing.folders(folder):
        found.setdefault(_composed(name), []).append(name)
    return dict(sorted(found.items()))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _images(listing: Listing, folder: str, by_class: dict[str, list[str]], numbers: dict[str, int]) -> list[list[File]]:
    """Returns the images of each class."""
    images: list[list[File]] = [[] for _ in numbers]
    for name, folders in by_class.items():
        if name not in numbers:
            raise error_at(listing.root / folder / folders[0], "there is no such class in train")
        images[numbers[name]] = sorted(file for one in folders for file in listing.images(f"{folder}/{one}"))
    return images


def _held_out(listing: Listing, numbers: dict[str, int]) -> dict[str, list[list[File]]]:
    """Returns the validation images, if there are any besides the test images, and the test images, of each class."""
    there = [folder for folder in TEST_FOLDERS if (listing.root / folder).is_dir()]
    if not there:
        allowed = ", ".join(TEST_FOLDERS)
        raise error_at(listing.root, f"no folder of test images is in it; allowed: {allowed}{_instead(listing.root)}")
    found: dict[str, list[list[File]]] = {}
    for folder in there:
        if folder in VAL_FOLDERS and any(name in VAL_FOLDERS for name in found):
            break
        if (images := _labelled(listing, folder, numbers)) is not None:
            found[folder] = images
    if not found:
        raise error_at(listing.root / there[0], "none of the classes of train has a folder in it")
    return dict(reversed(found.items()))


def _labelled(listing: Listing, folder: str, numbers: dict[str, int]) -> list[list[File]] | None:
    """Returns the images of each class, or None where they have no labels, as those in TinyImageNet's folder `test`."""
    if (annotations := listing.text(f"{folder}/{ANNOTATIONS}")) is not None:
        return _annotated(listing, folder, annotations, numbers)
    by_class = _by_class(listing, folder)
    return _images(listing, folder, by_class, numbers) if numbers.keys() & by_class else None


def _annotated(listing: Listing, folder: str, annotations: str, numbers: dict[str, int]) -> list[list[File]]:
    """Returns the test images of each class, which lines of image, tab, class, tab and a box say."""
    for name in (listing.text(CLASSES) or "").split():
        if _composed(name) not in numbers:
            raise error_at(listing.root / CLASSES, f"there is no class {name!r} in train")
    by_name = {_composed(os.fsdecode(os.path.basename(file.path))): file for file in listing.images(f"{folder}/images")}
    images: list[list[File]] = [[] for _ in numbers]
    path = listing.root / folder / ANNOTATIONS
    for number, line in enumerate(annotations.splitlines(), 1):
        if not line.strip():
            continue
        name, label = (*line.split("\t"), "")[:2]
        label = _composed(label.strip())
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise error_at(path, f"line {number}: found image {name!r}; allowed: the name of a file in images")
        if label not in numbers:
            raise error_at(path, f"line {number}: there is no class {label!r} in train")
        file = by_name.pop(_composed(name), None)
        if file is None:
            raise error_at(path, f"line {number}: image {name!r} is not in images, or has a line already")
        images[numbers[label]].append(file)
    if by_name:
        raise error_at(path, f"no line says the class of image {min(by_name)!r}")
    return [sorted(files) for files in images]


def _split(root: Path, images: list[list[File]], by_contents: bool) -> tuple[Split, list[bytes]]:
    """Makes a split of each class's images; returns the hash of each image's contents, too, if it was made."""
    files = [file for of_class in images for file in of_class]
    digest, digests = hashlib.sha256(), []
    for path, size, changed in files:
        digest.update(b"%d %d %s\n" % (len(path), size, path))
        if by_contents:
            with open(os.path.join(root, os.fsdecode(path)), "rb") as file:
                digests.append(hashlib.sha256(file.read()).digest())
            digest.update(digests[-1])
        else:
            digest.update(b"%d\n" % changed)
    ends = np.cumsum([len(file.path) for file in files], dtype=np.int64)
    encoded = Images(str(root), b"".join(file.path for file in files), ends, digest.hexdigest())
    labels = np.repeat(np.arange(len(images), dtype=np.int32), [len(of_class) for of_class in images])
    return Split(Encoded(encoded, np.arange(len(files))), labels), digests


def _notes(listing: Listing, used: list[str], size: int) -> list[str]:
    notes = []
    if listing.left_out:
        endings = ", ".join(f"{count} {ending}" for ending, count in listing.left_out.most_common(5))
        n = listing.left_out.total()
        notes.append(
            f"{n} files are no pictures, or in no class, and left out: {endings}; such as {shown(listing.example)}"
        )
    if used[-1] in VAL_FOLDERS:
        notes.append(f"{used[-1]} is taken for the test images: a tenth of train validates")
    others = sorted(set(_folders(listing.root)) - set(used))
    if others:
        notes.append(f"not used: {', '.join(map(shown, others[:5]))}")
    if size > HASHED_UP_TO:
        notes.append(
            f"{size / 1e9:.1f} GB of pictures are told from others by their names, sizes and times of change, which a "
            f"copy should keep (cp -p, rsync -a)"
        )
    return notes


def _duplicates(splits: dict[str, Split], digests: dict[str, list[bytes]]) -> list[str]:
    *training, test = splits
    known = {
        digest: int(label)
        for name in training
        for digest, label in zip(digests[name], splits[name].labels, strict=False)
    }
    pairs = zip(digests[test], splits[test].labels.tolist(), strict=False)
    return checks.told_twice([(known[digest], label) for digest, label in pairs if digest in known], len(splits[test]))


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _instead(path: Path) -> str:
    """Says which folders are there."""
    found = []
    with contextlib.suppress(OSError):
        found = _folders(path)
    return f"; found: {', '.join(map(shown, found[:5]))}" if found else ""

"""Folders of images: `PATH/train/CLASS/*.jpg` and `PATH/test/CLASS/*.jpg`, or `val`; TinyImageNet's layout too."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssoup_jax.data.dataset import Encoded, Split
from ssoup_jax.errors import SettingsError

SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Files with other endings, in small or capital letters, are ignored, and so is what begins with a dot."""

TEST_FOLDERS = ("test", "val", "validation")
"""Where the test images may be; the first of these that has labels is taken."""

ANNOTATIONS = "val_annotations.txt"
CLASSES = "wnids.txt"

# A file's path below the root and its bytes. A million paths fit in memory better as bytes, joined, than as strings.
_File = tuple[bytes, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The image files of a split; meets `dataset.Files`.

    Attributes:
        root: the folder of the data set.
        paths: all paths below the root, one after the other.
        ends: where each of them ends in `paths`, int64 `[N]`.
        fingerprint: hash of all paths and sizes.
    """

    root: str
    paths: bytes
    ends: np.ndarray
    fingerprint: str

    def read(self, index: int) -> bytes:
        """Returns an image as it is stored.

        Raises:
            OSError: it is no longer there, or cannot be read.
        """
        with open(self._path(index), "rb") as file:
            return file.read()

    def describe(self, index: int) -> str:
        """Returns the image's path."""
        return _shown(self._path(index))

    def _path(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.path.join(self.root, os.fsdecode(self.paths[start : self.ends[index]]))


def read(path: Path) -> tuple[int, Split, Split]:
    """Lists a folder of images; none is opened.

    A class is a folder in `train`; its images may lie in folders of their own. TinyImageNet's validation images lie in
    one folder, and a file says the class of each.

    Args:
        path: the folder that holds `train` and one of `TEST_FOLDERS`.

    Returns:
        The number of classes, numbered in the order of their names; the training images, and the test images, each
        class after the other and by name within.

    Raises:
        SettingsError: a folder is missing or empty, labels disagree, or a link leads out of the folder.
    """
    path = Path(path)
    try:
        root = Path(os.path.realpath(path, strict=True))
        listing = _Listing(root)
        classes = listing.folders("train")
        if not classes:
            raise _error(root / "train", "no folder of images, one for each class, is in it")
        numbers = {name: number for number, name in enumerate(classes)}
        train = _split(root, [listing.images(f"train/{name}") for name in classes])
        test = _split(root, _test_images(listing, numbers))
    except OSError as error:
        raise _error(Path(error.filename or path), f"cannot be read ({error.strerror})") from error
    return len(classes), train, test


class _Listing:
    """What is in the folders below a root; nothing outside it is ever looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self, folder: str) -> list[os.DirEntry]:
        """Returns what is in a folder, without what is hidden."""
        self._check_links(self.root / folder)
        with os.scandir(self.root / folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders in a folder, sorted."""
        return sorted(entry.name for entry in self.entries(folder) if self._is_folder(entry))

    def images(self, folder: str) -> list[_File]:
        """Returns the images in a folder and in those below it, by path; there is at least one."""
        found = sorted(self._below(folder))
        if not found:
            raise _error(self.root / folder, f"no image is in it; looked for {', '.join(sorted(SUFFIXES))}")
        return found

    def text(self, file: str) -> str | None:
        """Returns what is in a text file, or None where there is none."""
        path = self.root / file
        self._check_links(path)
        return path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else None

    def _below(self, folder: str) -> Iterator[_File]:
        for entry in self.entries(folder):
            if self._is_folder(entry):
                yield from self._below(f"{folder}/{entry.name}")
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
                size = entry.stat().st_size
                if not size:
                    raise _error(Path(entry.path), "the file is empty")
                yield os.fsencode(f"{folder}/{entry.name}"), size

    def _is_folder(self, entry: os.DirEntry) -> bool:
        if entry.is_symlink():
            self._check_links(Path(entry.path))
        return entry.is_dir()

    def _check_links(self, path: Path) -> None:
        """Lets links to files within the root pass. One to a folder could lead in circles."""
        real = Path(os.path.realpath(path))
        if real == path:
            return
        if not real.is_relative_to(self.root):
            raise _error(path, f"a link leads out of {_shown(self.root)}; put there what it leads to")
        if real.is_dir():
            raise _error(path, "a link leads to a folder; put the folder itself there")
        if not real.exists():
            raise _error(path, "a link leads to nothing")


def _test_images(listing: _Listing, numbers: dict[str, int]) -> list[list[_File]]:
    """Returns the test images of each class."""
    there = [folder for folder in TEST_FOLDERS if (listing.root / folder).is_dir()]
    if not there:
        raise _error(listing.root, f"no folder of test images is in it; allowed: {', '.join(TEST_FOLDERS)}")
    for folder in there:
        found = listing.folders(folder)
        if (annotations := listing.text(f"{folder}/{ANNOTATIONS}")) is not None:
            return _annotated(listing, folder, annotations, numbers)
        # TinyImageNet has a folder `test` whose images have no labels.
        if numbers.keys() & found:
            break
    else:
        raise _error(listing.root / there[0], "none of the classes of train has a folder in it")
    for name in found:
        if name not in numbers:
            raise _error(listing.root / folder / name, "there is no such class in train")
    images: list[list[_File]] = [[] for _ in numbers]
    for name in found:
        images[numbers[name]] = listing.images(f"{folder}/{name}")
    return images


def _annotated(listing: _Listing, folder: str, annotations: str, numbers: dict[str, int]) -> list[list[_File]]:
    """Returns the test images of each class, which lines of image, tab, class, tab and a box say."""
    for name in (listing.text(CLASSES) or "").split():
        if name not in numbers:
            raise _error(listing.root / CLASSES, f"there is no class {name!r} in train")
    by_name = {os.path.basename(file[0]): file for file in listing.images(f"{folder}/images")}
    images: list[list[_File]] = [[] for _ in numbers]
    path = listing.root / folder / ANNOTATIONS
    for number, line in enumerate(annotations.splitlines(), 1):
        name, label = (*line.split("\t"), "")[:2]
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise _error(path, f"line {number}: found image {name!r}; allowed: the name of a file in images")
        if label not in numbers:
            raise _error(path, f"line {number}: there is no class {label!r} in train")
        file = by_name.pop(os.fsencode(name), None)
        if file is None:
            raise _error(path, f"line {number}: image {name!r} is not in images, or has a line already")
        images[numbers[label]].append(file)
    if by_name:
        raise _error(path, f"no line says the class of image {os.fsdecode(min(by_name))!r}")
    return [sorted(files) for files in images]


def _split(root: Path, images: list[list[_File]]) -> Split:
    """Makes a split of each class's images."""
    files = [file for of_class in images for file in of_class]
    digest = hashlib.sha256()
    for path, size in files:
        digest.update(b"%d %d %s\n" % (len(path), size, path))
    ends = np.cumsum([len(path) for path, _ in files], dtype=np.int64)
    encoded = Images(str(root), b"".join(path for path, _ in files), ends, digest.hexdigest())
    labels = np.repeat(np.arange(len(images), dtype=np.int32), [len(of_class) for of_class in images])
    return Split(Encoded(encoded, np.arange(len(files))), labels)


def _shown(path: Path | str) -> str:
    """Keeps a name with odd characters, such as a line feed, from breaking a line of text."""
    return str(path) if str(path).isprintable() else repr(str(path))


def _error(path: Path, what: str) -> SettingsError:
    return SettingsError(f"dataset: folder:{_shown(path)}: {what}")

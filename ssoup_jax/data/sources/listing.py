"""What is in a user's folder: pictures, and what is left out, without ever leaving the folder unasked."""

import codecs
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ssoup_jax.data import pictures
from ssoup_jax.errors import SettingsError


class File(NamedTuple):
    """A picture: its path below the root, its bytes, and when it was changed.

    A million paths fit in memory better as bytes than as strings.
    """

    path: bytes
    size: int
    changed: int


class Listing:
    """What is in the folders below a root; nothing outside it is ever looked at.

    Attributes:
        root: the folder.
        left_out: the files that are no pictures, counted by the ending of their names.
        example: one of them.
    """

    def __init__(self, root: Path, follow_links: bool = False) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        self.example = ""
        self._follow_links = follow_links
        self._device = root.stat().st_dev

    def entries(self, folder: str) -> list[os.DirEntry]:
        """Returns what is in a folder, without what is hidden."""
        self._check_links(self.root / folder)
        with os.scandir(self.root / folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders in a folder, sorted; files beside them are left out."""
        names = []
        for entry in self.entries(folder):
            if self._is_folder(entry):
                names.append(entry.name)
            else:
                self.leave_out(f"{folder}/{entry.name}")
        return sorted(names)

    def images(self, folder: str) -> list[File]:
        """Returns the pictures in a folder and in those below it, by path; there is at least one."""
        found = sorted(self._below(folder, (os.path.realpath((self.root / folder).parent),)))
        if not found:
            raise error_at(self.root / folder, f"no image is in it; {self.left_out_here(folder)}")
        return found

    def text(self, file: str) -> str | None:
        """Returns what is in a text file, with or without a byte order mark, or None where there is none."""
        path = self.root / file
        for place in (path.parent, path):
            self._check_links(place)
        if not path.is_file():
            return None
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig", "replace" if wide else "surrogateescape")

    def leave_out(self, path: str) -> None:
        """Counts a file that is no picture."""
        self.left_out[os.path.splitext(path)[1].lower() or "no ending"] += 1
        self.example = self.example or path

    def left_out_here(self, folder: str) -> str:
        """Says what a folder has in place of pictures."""
        found = sorted(entry.name for entry in self.entries(folder))
        return (
            f"found {', '.join(map(shown, found[:3]))}{', ...' if len(found) > 3 else ''}" if found else "it is empty"
        )

    def _below(self, folder: str, above: tuple[str, ...]) -> Iterator[File]:
        real = os.path.realpath(self.root / folder)
        if real in above:
            raise error_at(self.root / folder, "a link leads back to a folder that it is in")
        for entry in self.entries(folder):
            path = f"{folder}/{entry.name}"
            if self._is_folder(entry):
                yield from self._below(path, (*above, real))
            elif entry.is_file():
                yield from self._picture(path, entry)

    def _picture(self, path: str, entry: os.DirEntry) -> Iterator[File]:
        stat = entry.stat()
        if os.path.splitext(entry.name)[1].lower() not in pictures.SUFFIXES and not pictures.is_picture(entry.path):
            # TinyImageNet has a text file beside the images of each class.
            if not entry.name.endswith("_boxes.txt"):
                self.leave_out(path)
            return
        if not stat.st_size:
            raise error_at(Path(entry.path), "the file is empty")
        yield File(os.fsencode(path), stat.st_size, stat.st_mtime_ns)

    def _is_folder(self, entry: os.DirEntry) -> bool:
        if entry.is_symlink():
            self._check_links(Path(entry.path))
        return entry.is_dir()

    def _check_links(self, path: Path) -> None:
        """Lets links to files within the root pass, and those that were asked for."""
        real = Path(os.path.realpath(path))
        if real == path:
            return
        if self._follow_links:
            if not real.exists():
                raise error_at(path, "a link leads to nothing")
            if real.stat().st_dev != self._device:
                raise error_at(path, f"a link leads to another file system than that of {shown(self.root)}")
            return
        ways = "--config.data.follow_links=True follows it"
        if not real.is_relative_to(self.root):
            raise error_at(path, f"a link leads out of {shown(self.root)}; {ways}, or put there what it leads to")
        if real.is_dir():
            raise error_at(path, f"a link leads to a folder; {ways}, or put the folder itself there")
        if not real.exists():
            raise error_at(path, "a link leads to nothing")


def shown(path: Path | str) -> str:
    """Keeps a name with odd characters, such as a line feed, from breaking a line of text."""
    return str(path) if str(path).isprintable() else repr(str(path))


def error_at(path: Path | str, what: str) -> SettingsError:
    """Builds the error for a path."""
    return SettingsError(f"dataset: folder:{shown(path)}: {what}")

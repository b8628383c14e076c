"""What a finished folder consists of: every file's size and SHA-256, so that damage is seen before use.

A manifest guards against accidents, not against forgers: whoever can write the files can write a manifest for them.
Reading one is safe whoever wrote it: its names are compared with what is there, never opened, and links are not
followed.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from ssoup_jax.errors import RunError
from ssoup_jax.storage import atomic
from ssoup_jax.version import VERSION

NAME = "manifest.json"

# Raised when the manifest lists other things. `format`, `ssoup_jax`, `sha256` and the spelling stay as they are in
# every format, so that an older version can tell a newer manifest from a damaged one.
FORMAT = 1

_ASIDE = "damaged"
_LARGEST_JSON = 64 * 2**20
# The disk's own words for "these bytes are gone"; anything else may pass, and is no reason to set a folder aside.
_LOST = {errno.EIO, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.EUCLEAN, errno.EBADMSG}


class Damaged(RunError):
    """A stored folder that is not what was stored.

    Attributes:
        folder: the folder.
        problem: which of its files, and what is wrong with it.
    """

    def __init__(self, folder: Path, problem: str):
        super().__init__(f"{folder}: damaged: {problem}")
        self.folder = folder
        self.problem = problem


def write(folder: Path, described: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
    """Lists every file of a folder in its `manifest.json`, the last file to appear; everything is on the disk then.

    Args:
        folder: a folder that nobody writes to any more; links and other special files in it are refused.
        described: what `describe` returned of files in it, by name, where they were written; they are not read here,
            where they may not be seen yet.

    Raises:
        RunError: it holds something that is not a file.
        OSError: the disk fails.
    """
    (folder / NAME).unlink(missing_ok=True)
    files = dict(described) | {name: describe(path) for name, path in _files(folder) if name not in described}
    # The name appears only when every byte it vouches for is on the disk.
    for parent, _, _ in os.walk(folder):
        sync(Path(parent))
    with atomic.replacing(folder / NAME) as beside:
        beside.write_text(_spell({"format": FORMAT, "ssoup_jax": VERSION, "files": files}), encoding="ascii")
    sync(folder)


def describe(path: Path) -> dict[str, Any]:
    """Brings a file to the disk and returns its size and SHA-256, as a manifest has them."""
    with _open(path) as file:
        os.fsync(file.fileno())
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": _sha256(file)}


def check(folder: Path, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Compares a folder with its manifest, byte for byte.

    Args:
        folder: a finished folder.
        on_bytes: told how many bytes of a file have been compared, file by file.

    Raises:
        Damaged: a file is missing, too many, of another size or of other content, or the manifest is not whole.
        RunError: the manifest is of a newer form, or the folder cannot be read for now.
    """
    listed = read(folder)
    with _reading(folder, "files"):
        found = dict(_files(folder))
    for name in sorted(listed.keys() - found.keys()):
        raise Damaged(folder, f"{name!a} is missing")
    for name in sorted(found.keys() - listed.keys() - {NAME}):
        raise Damaged(folder, f"{name!a} is not listed in {NAME}")
    for name, (size, digest) in listed.items():
        with _reading(folder, name), _open(found[name]) as file:
            actual = os.fstat(file.fileno()).st_size
            if actual != size:
                raise Damaged(folder, f"{name!a} has {actual} bytes, not {size}")
            if _sha256(file) != digest:
                raise Damaged(folder, f"{name!a} has other content than was stored (SHA-256)")
        on_bytes(size)


def read(folder: Path) -> dict[str, tuple[int, str]]:
    """Returns size and SHA-256 of every file that a folder's manifest lists.

    Raises:
        Damaged: the manifest is not whole.
        RunError: it is of a newer form, or cannot be read for now.
    """
    text = _text(folder / NAME)
    content = _parse(folder / NAME, text)
    content.pop("sha256", None)
    with contextlib.suppress(RecursionError):
        # One allowed form: whatever is changed in the file, be it a space, is seen.
        if text == _spell(content):
            return _listed(folder, content)
    raise Damaged(folder, f"{NAME} is not as it was written")


def present(folder: Path) -> bool:
    """Tells whether a folder has a manifest, without looking at what it says."""
    return (folder / NAME).is_file()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file that anybody may have written.

    Args:
        path: a plain file; links are not followed.

    Returns:
        The object; the types of its entries are the caller's to check.

    Raises:
        Damaged: there is no such file, or it is no JSON object.
        RunError: it cannot be read for now.
    """
    return _parse(path, _text(path))


def set_aside(folder: Path, label: str) -> Path:
    """Renames a damaged folder to the first free `damaged-<label>-<n>` beside it, for people to look at.

    Raises:
        RunError: it cannot be renamed.
    """
    for n in itertools.count(1):
        aside = folder.with_name(f"{_ASIDE}-{label}-{n}")
        if os.path.lexists(aside):
            continue
        try:
            folder.rename(aside)
            sync(folder.parent)
            return aside
        except OSError as error:
            # Another process may have taken the name between the look and the leap.
            if not os.path.lexists(aside):
                raise RunError(f"{folder}: damaged, and cannot be set aside: {error.strerror}") from None


def is_aside(folder: Path) -> bool:
    """Tells whether a folder bears a name that `set_aside` gives."""
    return folder.name.startswith(f"{_ASIDE}-")


def sync(folder: Path) -> None:
    """Brings a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _spell(content: dict[str, Any]) -> str:
    """Spells a manifest in its one allowed form, with the digest of its own content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"sha256": digest}, indent=1, sort_keys=True) + "\n"


def _listed(folder: Path, content: dict[str, Any]) -> dict[str, tuple[int, str]]:
    if content.get("format") != FORMAT:
        raise RunError(
            f"{folder}: {NAME} has format {content.get('format')!a}, written by ssoup_jax "
            f"{content.get('ssoup_jax')!a}; this is ssoup_jax {VERSION}, which reads format {FORMAT}"
        )
    files = content.get("files")
    if not isinstance(files, dict):
        raise Damaged(folder, f"{NAME} lists no files")
    return {_checked_name(folder, name): _checked_entry(folder, name, entry) for name, entry in files.items()}


def _checked_name(folder: Path, name: str) -> str:
    parts = name.split("/")
    if name == NAME or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise Damaged(folder, f"{NAME} lists {name!a}, which is no name of a file in it")
    return name


def _checked_entry(folder: Path, name: str, entry: Any) -> tuple[int, str]:
    match entry:
        # bool is an int to Python.
        case {"bytes": int(size), "sha256": str(digest)} if len(entry) == 2 and size is not True and size is not False:
            return size, digest
    raise Damaged(folder, f"{NAME} describes {name!a} in no known form")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields every file of a folder with its relative name, the manifest included."""
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in sorted(folders + files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            relative = path.relative_to(folder).as_posix()
            if stat.S_ISREG(mode):
                yield relative, path
            elif not stat.S_ISDIR(mode):
                kind = "a link" if stat.S_ISLNK(mode) else "not a plain file"
                raise Damaged(folder, f"{relative!a} is {kind}")


def _raise(error: OSError) -> None:
    raise error


def _open(path: Path) -> IO[bytes]:
    # Neither a link nor a pipe that was put in the place of a file may lead or hold us elsewhere.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENXIO, "not a plain file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path) -> str:
    with _reading(path.parent, path.name), _open(path) as file:
        raw = file.read(_LARGEST_JSON + 1)
    if len(raw) > _LARGEST_JSON:
        raise Damaged(path.parent, f"{path.name} is larger than {_LARGEST_JSON >> 20} MiB")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Damaged(path.parent, f"{path.name} is not text") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise Damaged(path.parent, f"{path.name} is not JSON") from None
    if not isinstance(content, dict):
        raise Damaged(path.parent, f"{path.name} holds no JSON object")
    return content


@contextlib.contextmanager
def _reading(folder: Path, name: str) -> Iterator[None]:
    """Tells a file that is lost from one that cannot be read for now."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            older = " (stored before there were manifests, or not to the end)" if name == NAME else ""
            raise Damaged(folder, f"{name!a} is missing{older}") from None
        if error.errno in _LOST:
            raise Damaged(folder, f"{name!a} cannot be read ({error.strerror})") from None
        raise RunError(f"{folder}: {name!a} cannot be read: {error.strerror}") from None
